//! From 8 rows of blocks in the file's layout to [`Block16`].

use super::tile::Block16;
use crate::format::canonical::Canonical;

/// `[f(0), f(1), ... f(7)]`, written out: closures given to `array::from_fn` or `map` are not reliably
/// inlined where target features are involved, and then every vector goes through memory.
macro_rules! eight {
    (|$i:ident| $value:expr) => {
        eight!(@ $i, $value, 0 1 2 3 4 5 6 7)
    };
    (@ $i:ident, $value:expr, $($n:literal)+) => {
        [$({
            const $i: usize = $n;
            $value
        }),+]
    };
}
pub(super) use eight;

/// Implements [`Unpack`] for a block struct: its name, class, scales, offset, and how.
macro_rules! unpack {
    ($block:ident $class:ident $scales:ident $offset:tt
     |$rows:ident, $side:ident, $out:ident| $body:block) => {
        impl Unpack for blocks::$block {
            const CLASS: Class = Class::$class;
            const SCALES: Scales = Scales::$scales;
            const OFFSET: i16 = $offset;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn unpack($rows: [&Self; 8], $side: usize, $out: &mut [Block16]) $body
        }
    };
}

mod codebooks;
mod k;
mod lanes;
mod plain;
mod tables;
mod ternary;

pub(super) use tables::FP4_RAISED;

/// What the codes in a [`Block16`] are, and so how many products fit into 16 bits.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(crate) enum Class {
    /// 0..16.
    Four,
    /// 0..32.
    Five,
    /// 0..64.
    Six,
    /// 0..128.
    Seven,
    /// -128..128.
    Signed,
}

/// Which integer scales a format has.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(crate) enum Scales {
    /// None.
    None,
    /// One for 32 codes.
    Per32,
    /// One for 16 codes.
    Per16,
}

/// A block that can be unpacked 8 rows at a time.
pub(crate) trait Unpack: Canonical {
    /// What the codes are.
    const CLASS: Class;
    /// Which scales are set.
    const SCALES: Scales;
    /// What the codes in the tile are larger by than the canonical ones; 0 for signed codes. Codes that are made larger
    /// until none has a sign are multiplied faster, if they stay below 128.
    const OFFSET: i16;
    /// Unpacks the block that each of 8 rows has at the same place into [`Canonical::GROUPS`] blocks of
    /// the tile, on one of its two sides.
    ///
    /// # Safety
    /// The CPU has AVX2, FMA and F16C.
    unsafe fn unpack(rows: [&Self; 8], side: usize, out: &mut [Block16]);
}
