//! From the blocks of four rows in the file's layout to codes and factors.

mod codebooks;
mod k;
mod plain;

use crate::format::blocks;
pub(crate) use crate::format::canonical::Scales;
use crate::format::canonical::{Block32, Canonical};
use crate::neon::{self, F32, I8, I32};

/// 32 weights of each of four rows.
pub(crate) struct Group {
    /// The codes of each row, in order.
    pub(crate) codes: [[I8; 2]; 4],
    pub(crate) factors: Factors,
}

/// What the sums of four rows are multiplied with; lane `r` belongs to row `r`.
#[derive(Copy, Clone)]
pub(crate) struct Factors {
    /// The float scale.
    pub(crate) d: F32,
    /// The minimum, for formats that have one; for split formats, which have none, the float scale of the
    /// last 16 codes.
    pub(crate) second: F32,
    /// The integer scales, as many as [`Unpack::SCALES`] says.
    pub(crate) scale: [I32; 2],
    /// The integer scales of the minimum, for formats that have those.
    pub(crate) min_scale: [I32; 2],
}

impl Factors {
    pub(crate) fn zero() -> Factors {
        Factors {
            d: neon::floats(0.0),
            second: neon::floats(0.0),
            scale: [neon::words(0); 2],
            min_scale: [neon::words(0); 2],
        }
    }
}

/// A block that can be unpacked four rows at a time.
pub(crate) trait Unpack: Canonical {
    /// Which scales are set.
    const SCALES: Scales;
    /// Whether the sums of the first and the last 16 codes are needed apart.
    const HALVES: bool = Self::SPLIT || matches!(Self::SCALES, Scales::Per16);
    /// What the groups of the blocks share.
    type Head;
    /// Computes it.
    fn head(rows: [&Self; 4]) -> Self::Head;
    /// Weights `32g..32g + 32` of each row.
    fn unpack(rows: [&Self; 4], head: &Self::Head, g: usize) -> Group;
}

/// Block structs that are unpacked as the reference does it, row by row.
macro_rules! as_reference {
    ($($block:ident $scales:ident,)+) => {
        $(impl Unpack for blocks::$block {
            const SCALES: Scales = Scales::$scales;
            type Head = ();
            #[inline(always)]
            fn head(_: [&Self; 4]) {}
            #[inline(always)]
            fn unpack(rows: [&Self; 4], (): &(), g: usize) -> Group {
                reference_group(rows, g)
            }
        })+
    };
}

as_reference! {
    TQ1_0 None,
    Q2_0 None,
}

fn reference_group<B: Canonical>(rows: [&B; 4], g: usize) -> Group {
    let rows: [Block32; 4] = four!(|R| rows[R].group(g));
    let codes = four!(|R| {
        let (parts, _) = rows[R].codes.as_chunks();
        [neon::load_signed(&parts[0]), neon::load_signed(&parts[1])]
    });
    let second = four!(|R| if B::SPLIT { rows[R].d_high } else { rows[R].min });
    let scale = |half: usize| lanes(four!(|R| rows[R].scale[half]));
    let min_scale = |half: usize| lanes(four!(|R| rows[R].min_scale[half]));
    let factors = Factors {
        d: neon::load(&four!(|R| rows[R].d)),
        second: neon::load(&second),
        scale: [scale(0), scale(1)],
        min_scale: [min_scale(0), min_scale(1)],
    };
    Group { codes, factors }
}

/// A number of each row.
#[inline(always)]
fn lanes<T: Copy + Into<i32>>(rows: [T; 4]) -> I32 {
    neon::load_words(&four!(|R| rows[R].into()))
}

/// A half-precision number of each row.
#[inline(always)]
fn halves(rows: [[u8; 2]; 4]) -> F32 {
    neon::halves(&rows)
}
