//! The "K" formats: super-blocks of 256 with integer scales.

use std::array::from_fn;

use super::plain::less;
use super::{Factors, Group, Scales, Unpack, halves, lanes};
use crate::format::blocks::{self, six_bit_pairs, six_bit_scales};
use crate::neon::{self, F32, I8, I32, U8};

/// Of `Q4K` and `Q5K`.
pub(crate) struct SixBitPairs {
    d: F32,
    /// By group.
    scale: [I32; 8],
    min: [F32; 8],
}

/// The minimum of a group is `-(dmin * min)`, whose bits are those of `-dmin * min`.
#[inline(always)]
fn six_bit_head(d: [[u8; 2]; 4], dmin: [[u8; 2]; 4], packed: [&[u8; 12]; 4]) -> SixBitPairs {
    let pairs = packed.map(six_bit_pairs);
    let dmin = neon::negate(halves(dmin));
    SixBitPairs {
        d: halves(d),
        scale: from_fn(|g| lanes(pairs.map(|(scales, _)| scales[g]))),
        min: from_fn(|g| neon::mul(dmin, neon::to_floats(lanes(pairs.map(|(_, mins)| mins[g]))))),
    }
}

impl SixBitPairs {
    #[inline(always)]
    fn group(&self, codes: [[I8; 2]; 4], g: usize) -> Group {
        let scale = [self.scale[g]; 2];
        let factors = Factors { d: self.d, second: self.min[g], scale, ..Factors::zero() };
        Group { codes, factors }
    }
}

/// Two vectors of 32 bytes.
#[inline(always)]
fn load(bytes: &[u8], at: usize) -> [U8; 2] {
    let (parts, _) = bytes[at..at + 32].as_chunks();
    [neon::load_bytes(&parts[0]), neon::load_bytes(&parts[1])]
}

/// Bits `shift` and up of each byte, as many as `mask` has.
#[inline(always)]
fn field(bytes: [U8; 2], shift: usize, mask: u8) -> [U8; 2] {
    bytes.map(|bytes| neon::and(neon::shift(bytes, -(shift as i8)), neon::bytes(mask)))
}

/// `low`, with `value` added where bit `g` of the other is set.
#[inline(always)]
fn with_bit(low: [U8; 2], high: &[u8; 32], g: usize, value: u8) -> [U8; 2] {
    let high = load(high, 0);
    from_fn(|i| {
        let bit = neon::and(neon::test(high[i], neon::bytes(1 << g)), neon::bytes(value));
        neon::or(low[i], bit)
    })
}

impl Unpack for blocks::Q4K {
    const SCALES: Scales = Scales::Per32;
    type Head = SixBitPairs;

    #[inline(always)]
    fn head(rows: [&Self; 4]) -> SixBitPairs {
        let scales = rows.map(|row| &row.scales);
        six_bit_head(rows.map(|row| row.d), rows.map(|row| row.dmin), scales)
    }

    #[inline(always)]
    fn unpack(rows: [&Self; 4], head: &SixBitPairs, g: usize) -> Group {
        let codes = rows.map(|row| less(0, field(load(&row.qs, g / 2 * 32), g % 2 * 4, 15)));
        head.group(codes, g)
    }
}

impl Unpack for blocks::Q5K {
    const SCALES: Scales = Scales::Per32;
    type Head = SixBitPairs;

    #[inline(always)]
    fn head(rows: [&Self; 4]) -> SixBitPairs {
        let scales = rows.map(|row| &row.scales);
        six_bit_head(rows.map(|row| row.d), rows.map(|row| row.dmin), scales)
    }

    #[inline(always)]
    fn unpack(rows: [&Self; 4], head: &SixBitPairs, g: usize) -> Group {
        let codes = rows.map(|row| {
            let low = field(load(&row.qs, g / 2 * 32), g % 2 * 4, 15);
            less(0, with_bit(low, &row.qh, g, 16))
        });
        head.group(codes, g)
    }
}

/// The scales of the first and the last 16 codes of group `g`.
#[inline(always)]
fn scale_pair<T: Copy + Into<i32>>(scales: [[T; 16]; 4], g: usize) -> [I32; 2] {
    [lanes(scales.map(|row| row[2 * g])), lanes(scales.map(|row| row[2 * g + 1]))]
}

impl Unpack for blocks::Q6K {
    const SCALES: Scales = Scales::Per16;
    type Head = F32;

    #[inline(always)]
    fn head(rows: [&Self; 4]) -> F32 {
        halves(rows.map(|row| row.d))
    }

    #[inline(always)]
    fn unpack(rows: [&Self; 4], d: &F32, g: usize) -> Group {
        let (half, part) = (g / 4, g % 4);
        let codes = rows.map(|row| {
            let low = field(load(&row.ql, half * 64 + part % 2 * 32), part / 2 * 4, 15);
            let top = field(load(&row.qh, half * 32), 2 * part, 3);
            less(32, from_fn(|i| neon::or(low[i], neon::left::<4>(top[i]))))
        });
        let scale = scale_pair(rows.map(|row| row.scales.map(u8::cast_signed)), g);
        Group { codes, factors: Factors { d: *d, scale, ..Factors::zero() } }
    }
}

impl Unpack for blocks::Q2K {
    const SCALES: Scales = Scales::Per16;
    /// The scale, and what the minimums are multiplied with.
    type Head = (F32, F32);

    #[inline(always)]
    fn head(rows: [&Self; 4]) -> (F32, F32) {
        let dmin = halves(rows.map(|row| row.dmin));
        (halves(rows.map(|row| row.d)), neon::negate(dmin))
    }

    #[inline(always)]
    fn unpack(rows: [&Self; 4], &(d, second): &(F32, F32), g: usize) -> Group {
        let codes = rows.map(|row| less(0, field(load(&row.qs, g / 4 * 32), g % 4 * 2, 3)));
        let scale = scale_pair(rows.map(|row| row.scales.map(|byte| byte & 15)), g);
        let min_scale = scale_pair(rows.map(|row| row.scales.map(|byte| byte >> 4)), g);
        Group { codes, factors: Factors { d, second, scale, min_scale } }
    }
}

impl Unpack for blocks::Q3K {
    const SCALES: Scales = Scales::Per16;
    type Head = (F32, [[i8; 16]; 4]);

    #[inline(always)]
    fn head(rows: [&Self; 4]) -> Self::Head {
        (halves(rows.map(|row| row.d)), rows.map(|row| six_bit_scales(&row.scales)))
    }

    #[inline(always)]
    fn unpack(rows: [&Self; 4], (d, scales): &Self::Head, g: usize) -> Group {
        let codes = rows.map(|row| {
            let low = field(load(&row.qs, g / 4 * 32), g % 4 * 2, 3);
            less(4, with_bit(low, &row.hmask, g, 4))
        });
        let scale = scale_pair(*scales, g);
        Group { codes, factors: Factors { d: *d, scale, ..Factors::zero() } }
    }
}
