//! Formats of 32 weights to a block, and `IQ4_XS`: 4- and 5-bit codes, as they are or of a table, and bytes.

use super::{Factors, Group, Scales, Unpack, halves, lanes};
use crate::format::{blocks, quants};
use crate::neon::{self, I8, U8};

/// Implements [`Unpack`] for a block of 32 weights without integer scales: the codes of a row, and the factors of
/// four.
macro_rules! plain {
    ($block:ident |$row:ident| $codes:expr, |$rows:ident| $factors:expr) => {
        impl Unpack for blocks::$block {
            const SCALES: Scales = Scales::None;
            type Head = ();
            #[inline(always)]
            fn head(_: [&Self; 4]) {}
            #[inline(always)]
            fn unpack($rows: [&Self; 4], (): &(), _: usize) -> Group {
                let codes = four!(|R| {
                    let $row = $rows[R];
                    $codes
                });
                Group { codes, factors: $factors }
            }
        }
    };
}

#[inline(always)]
fn scaled(d: [[u8; 2]; 4]) -> Factors {
    Factors { d: halves(d), ..Factors::zero() }
}

#[inline(always)]
fn with_min(d: [[u8; 2]; 4], min: [[u8; 2]; 4]) -> Factors {
    Factors { second: halves(min), ..scaled(d) }
}

plain! { Q4_0 |row| less(8, nibbles(&row.qs)), |rows| scaled(four!(|R| rows[R].d)) }
plain! { Q4_1 |row| less(0, nibbles(&row.qs)),
|rows| with_min(four!(|R| rows[R].d), four!(|R| rows[R].m)) }
plain! { Q5_0 |row| less(16, five_bits(&row.qs, row.qh)), |rows| scaled(four!(|R| rows[R].d)) }
plain! { Q5_1 |row| less(0, five_bits(&row.qs, row.qh)),
|rows| with_min(four!(|R| rows[R].d), four!(|R| rows[R].m)) }
plain! { Q8_0 |row| {
    let (parts, _) = row.qs.as_chunks();
    [neon::signed(neon::load_bytes(&parts[0])), neon::signed(neon::load_bytes(&parts[1]))]
}, |rows| scaled(four!(|R| rows[R].d)) }
plain! { IQ4NL |row| of_table(&blocks::IQ4_VALUES, &row.qs), |rows| scaled(four!(|R| rows[R].d)) }
plain! { MXFP4 |row| of_table(&blocks::FP4_VALUES, &row.qs),
|rows| Factors { d: neon::load(&four!(|R| blocks::e8m0_half(rows[R].e))), ..Factors::zero() } }

impl Unpack for blocks::IQ4XS {
    const SCALES: Scales = Scales::None;
    type Head = neon::F32;

    #[inline(always)]
    fn head(rows: [&Self; 4]) -> neon::F32 {
        halves(four!(|R| rows[R].d))
    }

    #[inline(always)]
    fn unpack(rows: [&Self; 4], d: &neon::F32, g: usize) -> Group {
        let codes = four!(|R| of_table(&blocks::IQ4_VALUES, &rows[R].qs.as_chunks().0[g]));
        let scale = neon::to_floats(lanes(four!(|R| quants::iq4xs_scale(rows[R], g))));
        Group { codes, factors: Factors { d: neon::mul(*d, scale), ..Factors::zero() } }
    }
}

/// The low halves of 16 bytes, then the high ones.
#[inline(always)]
fn nibbles(qs: &[u8; 16]) -> [U8; 2] {
    let bytes = neon::load_bytes(qs);
    [neon::and(bytes, neon::bytes(15)), neon::right::<4>(bytes)]
}

/// The same with bit `i` of `qh` as the fifth bit of code `i`.
#[inline(always)]
fn five_bits(qs: &[u8; 16], qh: [u8; 4]) -> [U8; 2] {
    let low = nibbles(qs);
    let bit = neon::bytes(16);
    [
        neon::or(low[0], neon::and(neon::spread_bits(qh[0], qh[1]), bit)),
        neon::or(low[1], neon::and(neon::spread_bits(qh[2], qh[3]), bit)),
    ]
}

/// Codes less their offset.
#[inline(always)]
pub(super) fn less(offset: i8, codes: [U8; 2]) -> [I8; 2] {
    let offset = neon::signed_bytes(offset);
    [
        neon::sub_bytes(neon::signed(codes[0]), offset),
        neon::sub_bytes(neon::signed(codes[1]), offset),
    ]
}

#[inline(always)]
fn of_table(table: &[i8; 16], qs: &[u8; 16]) -> [I8; 2] {
    let table = neon::load_signed(table);
    let [low, high] = nibbles(qs);
    [neon::look_up(table, low), neon::look_up(table, high)]
}
