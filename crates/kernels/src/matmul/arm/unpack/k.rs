//! The "K" formats: super-blocks of 256 with integer scales.

use super::plain::less;
use super::{Factors, Group, Scales, Unpack, halves, lanes};
use crate::format::blocks::{self, six_bit_pairs, six_bit_scales};
use crate::neon::{self, F32, I8, U8};

/// Of `Q4K` and `Q5K`.
pub(crate) struct SixBitPairs {
    /// By group.
    d: [F32; 8],
    min: [F32; 8],
}

/// The minimum of a group is `-(dmin * min)`, whose bits are those of `-dmin * min`.
#[inline(always)]
fn six_bit_head(d: [[u8; 2]; 4], dmin: [[u8; 2]; 4], packed: [&[u8; 12]; 4]) -> SixBitPairs {
    let pairs = four!(|R| six_bit_pairs(packed[R]));
    let (d, dmin) = (halves(d), neon::negate(halves(dmin)));
    let times = |number: F32, scales: [u8; 4]| neon::mul(number, neon::to_floats(lanes(scales)));
    SixBitPairs {
        d: eight!(|G| times(d, four!(|R| pairs[R].0[G]))),
        min: eight!(|G| times(dmin, four!(|R| pairs[R].1[G]))),
    }
}

impl SixBitPairs {
    #[inline(always)]
    fn group(&self, codes: [[I8; 2]; 4], g: usize) -> Group {
        let factors = Factors { d: self.d[g], second: self.min[g], ..Factors::zero() };
        Group { codes, factors }
    }
}

/// Two vectors of 32 bytes.
#[inline(always)]
pub(super) fn load(bytes: &[u8], at: usize) -> [U8; 2] {
    let (parts, _) = bytes[at..at + 32].as_chunks();
    [neon::load_bytes(&parts[0]), neon::load_bytes(&parts[1])]
}

/// Bits `shift` and up of each byte, as many as `mask` has.
#[inline(always)]
pub(super) fn field(bytes: [U8; 2], shift: usize, mask: u8) -> [U8; 2] {
    let (right, mask) = (-(shift as i8), neon::bytes(mask));
    [neon::and(neon::shift(bytes[0], right), mask), neon::and(neon::shift(bytes[1], right), mask)]
}

/// `low`, with `value` added where bit `g` of the other is set.
#[inline(always)]
fn with_bit(low: [U8; 2], high: &[u8; 32], g: usize, value: u8) -> [U8; 2] {
    let high = load(high, 0);
    let (bit, value) = (neon::bytes(1 << g), neon::bytes(value));
    [
        neon::or(low[0], neon::and(neon::test(high[0], bit), value)),
        neon::or(low[1], neon::and(neon::test(high[1], bit), value)),
    ]
}

/// Implements [`Unpack`] for a block with [`SixBitPairs`]: the codes of group `g` of a row.
macro_rules! six_bit_pairs {
    ($block:ident |$row:ident, $g:ident| $codes:expr) => {
        impl Unpack for blocks::$block {
            const SCALES: Scales = Scales::None;
            type Head = SixBitPairs;

            #[inline(always)]
            fn head(rows: [&Self; 4]) -> SixBitPairs {
                let scales = four!(|R| &rows[R].scales);
                six_bit_head(four!(|R| rows[R].d), four!(|R| rows[R].dmin), scales)
            }

            #[inline(always)]
            fn unpack(rows: [&Self; 4], head: &SixBitPairs, $g: usize) -> Group {
                let codes = four!(|R| {
                    let $row = rows[R];
                    less(0, $codes)
                });
                head.group(codes, $g)
            }
        }
    };
}

six_bit_pairs! { Q4K |row, g| field(load(&row.qs, g / 2 * 32), g % 2 * 4, 15) }
six_bit_pairs! { Q5K |row, g| {
    let low = field(load(&row.qs, g / 2 * 32), g % 2 * 4, 15);
    with_bit(low, &row.qh, g, 16)
} }

impl Unpack for blocks::Q6K {
    const SCALES: Scales = Scales::Per16;
    type Head = F32;

    #[inline(always)]
    fn head(rows: [&Self; 4]) -> F32 {
        halves(four!(|R| rows[R].d))
    }

    #[inline(always)]
    fn unpack(rows: [&Self; 4], d: &F32, g: usize) -> Group {
        let (half, part) = (g / 4, g % 4);
        let codes = four!(|R| {
            let row = rows[R];
            let low = field(load(&row.ql, half * 64 + part % 2 * 32), part / 2 * 4, 15);
            let top = field(load(&row.qh, half * 32), 2 * part, 3);
            let top = [neon::left::<4>(top[0]), neon::left::<4>(top[1])];
            less(32, [neon::or(low[0], top[0]), neon::or(low[1], top[1])])
        });
        let scale = |at: usize| lanes(four!(|R| rows[R].scales[at].cast_signed()));
        let scale = [scale(2 * g), scale(2 * g + 1)];
        Group { codes, factors: Factors { d: *d, scale, ..Factors::zero() } }
    }
}

impl Unpack for blocks::Q2K {
    const SCALES: Scales = Scales::Per16;
    /// The scale, and what the minimums are multiplied with.
    type Head = (F32, F32);

    #[inline(always)]
    fn head(rows: [&Self; 4]) -> (F32, F32) {
        let dmin = halves(four!(|R| rows[R].dmin));
        (halves(four!(|R| rows[R].d)), neon::negate(dmin))
    }

    #[inline(always)]
    fn unpack(rows: [&Self; 4], &(d, second): &(F32, F32), g: usize) -> Group {
        let codes = four!(|R| less(0, field(load(&rows[R].qs, g / 4 * 32), g % 4 * 2, 3)));
        let low = |at: usize| lanes(four!(|R| rows[R].scales[at] & 15));
        let high = |at: usize| lanes(four!(|R| rows[R].scales[at] >> 4));
        let scale = [low(2 * g), low(2 * g + 1)];
        let min_scale = [high(2 * g), high(2 * g + 1)];
        Group { codes, factors: Factors { d, second, scale, min_scale } }
    }
}

impl Unpack for blocks::Q3K {
    const SCALES: Scales = Scales::Per16;
    type Head = (F32, [[i8; 16]; 4]);

    #[inline(always)]
    fn head(rows: [&Self; 4]) -> Self::Head {
        (halves(four!(|R| rows[R].d)), four!(|R| six_bit_scales(&rows[R].scales)))
    }

    #[inline(always)]
    fn unpack(rows: [&Self; 4], (d, scales): &Self::Head, g: usize) -> Group {
        let codes = four!(|R| {
            let row = rows[R];
            let low = field(load(&row.qs, g / 4 * 32), g % 4 * 2, 3);
            less(4, with_bit(low, &row.hmask, g, 4))
        });
        let scale = [lanes(four!(|R| scales[R][2 * g])), lanes(four!(|R| scales[R][2 * g + 1]))];
        Group { codes, factors: Factors { d: *d, scale, ..Factors::zero() } }
    }
}
