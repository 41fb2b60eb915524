//! Formats of codebooks (IQ1, IQ2, IQ3), and others of few bits.

use super::k::{field, load};
use super::plain::less;
use super::{Factors, Group, Scales, Unpack, halves, lanes};
use crate::format::blocks::{self, FP4_VALUES, ue4m3_half};
use crate::format::quants::{self, signs_and_scale};
use crate::neon::{self, F32, I8};

/// Implements [`Unpack`] for a block with odd integer scales `2 s + 1`: what its float scale is multiplied with, where
/// that is, and the codes of group `g` of a row with `s` of its halves.
macro_rules! codebook {
    ($block:ident $scales:ident $factor:literal |$r:ident| $d:expr, |$row:ident, $g:ident| $group:expr) => {
        impl Unpack for blocks::$block {
            const SCALES: Scales = Scales::$scales;
            type Head = F32;

            #[inline(always)]
            fn head(rows: [&Self; 4]) -> F32 {
                let d = four!(|R| {
                    let $r = rows[R];
                    $d
                });
                neon::mul(halves(d), neon::floats($factor))
            }

            #[inline(always)]
            fn unpack(rows: [&Self; 4], d: &F32, $g: usize) -> Group {
                let groups: [([I8; 2], [u8; 2]); 4] = four!(|R| {
                    let $row = rows[R];
                    $group
                });
                let codes = four!(|R| groups[R].0);
                let scale = |half: usize| lanes(four!(|R| 2 * i32::from(groups[R].1[half]) + 1));
                let scale = [scale(0), scale(1)];
                let factors = if matches!(Self::SCALES, Scales::None) {
                    // Both halves have the same.
                    Factors { d: neon::mul(*d, neon::to_floats(scale[0])), ..Factors::zero() }
                } else {
                    Factors { d: *d, scale, ..Factors::zero() }
                };
                Group { codes, factors }
            }
        }
    };
}

codebook! { IQ2XXS None 0.125 |row| row.d, |row, g| {
    let (entries, signs, scale) = quants::iq2xxs_entries(row, g);
    (signed(eights(entries), signs), [scale; 2])
} }
codebook! { IQ2XS Per16 0.125 |row| row.d, |row, g| {
    let (entries, signs) = quants::iq2xs_entries(row, g);
    (signed(eights(entries), signs), quants::halves(row.scales[g]))
} }
codebook! { IQ2S Per16 0.125 |row| row.d, |row, g| {
    let codes = signed(eights(quants::iq2s_entries(row, g)), row.signs[g]);
    (codes, quants::halves(row.scales[g]))
} }
codebook! { IQ3XXS None 0.25 |row| row.d, |row, g| {
    let (signs, scale) = signs_and_scale(row.signs[g]);
    (signed(fours(quants::iq3xxs_entries(row, g)), signs), [scale; 2])
} }
codebook! { IQ3S None 1.0 |row| row.d, |row, g| {
    let codes = signed(fours(quants::iq3s_entries(row, g)), row.signs[g]);
    (codes, [quants::halves(row.scales[g / 2])[g % 2]; 2])
} }
codebook! { IQ1S None 0.125 |row| row.d, |row, g| {
    let word = u16::from_le_bytes(row.qh[g]);
    let codes = shifted(quants::iq1s_entries(row, g), [word >> 15 == 1; 4]);
    (codes, [(word >> 12) as u8 & 7; 2])
} }
codebook! { IQ1M Per16 0.125 |row| quants::iq1m_d(row), |row, g| {
    let (entries, minus) = quants::iq1m_entries(row, g);
    (shifted(entries, minus), quants::iq1m_scales(row, g))
} }

#[inline(always)]
fn eights(entries: [i64; 4]) -> [I8; 2] {
    let [a, b, c, d] = entries;
    [neon::of_long_words(&[a, b]), neon::of_long_words(&[c, d])]
}

#[inline(always)]
fn fours(entries: [i32; 8]) -> [I8; 2] {
    let (parts, _) = entries.as_chunks();
    [neon::of_words(neon::load_words(&parts[0])), neon::of_words(neon::load_words(&parts[1]))]
}

/// Minus the value where the bit is set.
#[inline(always)]
fn signed(values: [I8; 2], signs: [u8; 4]) -> [I8; 2] {
    let [a, b, c, d] = signs;
    let (low, high) = (neon::spread_bits(a, b), neon::spread_bits(c, d));
    [neon::negate_where(low, values[0]), neon::negate_where(high, values[1])]
}

/// Eight times the values, one added or (where it is minus) taken off.
#[inline(always)]
fn shifted(entries: [i64; 4], minus: [bool; 4]) -> [I8; 2] {
    let values = eights(entries);
    let off = four!(|I| if minus[I] { 1_i8 } else { -1 }.cast_unsigned());
    let shift = |values: I8, off| {
        let eight_times = neon::signed(neon::left::<3>(neon::unsigned(values)));
        neon::sub_bytes(eight_times, neon::signed(off))
    };
    [
        shift(values[0], neon::eight_each(off[0], off[1])),
        shift(values[1], neon::eight_each(off[2], off[3])),
    ]
}

impl Unpack for blocks::NVFP4 {
    const SCALES: Scales = Scales::None;
    type Head = ();

    #[inline(always)]
    fn head(_: [&Self; 4]) {}

    #[inline(always)]
    fn unpack(rows: [&Self; 4], (): &(), g: usize) -> Group {
        let table = neon::load_signed(&FP4_VALUES);
        let codes = four!(|R| {
            let bytes = neon::load_bytes(&rows[R].qs.as_chunks().0[g]);
            let low = neon::look_up(table, neon::and(bytes, neon::bytes(15)));
            let high = neon::look_up(table, neon::right::<4>(bytes));
            [neon::first_eights(low, high), neon::last_eights(low, high)]
        });
        let d = |at: usize| neon::load(&four!(|R| ue4m3_half(rows[R].d[at])));
        let factors = Factors { d: d(2 * g), second: d(2 * g + 1), ..Factors::zero() };
        Group { codes, factors }
    }
}

/// Implements [`Unpack`] for a block with one float scale: the codes of group `g` of a row.
macro_rules! scaled_codes {
    ($block:ident |$row:ident, $g:ident| $codes:expr) => {
        impl Unpack for blocks::$block {
            const SCALES: Scales = Scales::None;
            type Head = F32;

            #[inline(always)]
            fn head(rows: [&Self; 4]) -> F32 {
                halves(four!(|R| rows[R].d))
            }

            #[inline(always)]
            fn unpack(rows: [&Self; 4], d: &F32, $g: usize) -> Group {
                let codes = four!(|R| {
                    let $row = rows[R];
                    $codes
                });
                Group { codes, factors: Factors { d: *d, ..Factors::zero() } }
            }
        }
    };
}

scaled_codes! { TQ2_0 |row, g| less(1, field(load(&row.qs, g / 4 * 32), g % 4 * 2, 3)) }
scaled_codes! { Q1_0 |row, g| {
    let bits: &[u8; 4] = &row.qs.as_chunks().0[g];
    let one = neon::signed_bytes(1);
    // 1 where the bit is set, else -1.
    [
        neon::negate_where(neon::invert(neon::spread_bits(bits[0], bits[1])), one),
        neon::negate_where(neon::invert(neon::spread_bits(bits[2], bits[3])), one),
    ]
} }
