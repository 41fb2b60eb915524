//! Formats of 32 weights to a block, and `IQ4_XS`: 4-bit codes, as they are or of a table, and bytes.

use super::super::tile::Next;
use super::super::unpack::{FP4_RAISED, Unpack};
use super::wide::Wide;
use super::{Direct, Rows, Sum, high, low, without};
use crate::format::blocks;
use crate::quantize::XBlock;

direct! { Q4_0 1 |w, rows, x, next, sum| {
    next.prefetch(W::ROWS * size_of::<Self>());
    let x = &x[0];
    // SAFETY: the block has 18 bytes.
    let codes = unsafe { rows.quads(w, 2) };
    // SAFETY: as above.
    let d = unsafe { w.halves_at(rows, 0) };
    let [a, b] = without(8, x);
    sum.step(w, w.dot_all(a + b, halves(w, codes), x), d, x)
} }

direct! { Q4_1 1 |w, rows, x, next, sum| {
    next.prefetch(W::ROWS * size_of::<Self>());
    let x = &x[0];
    // SAFETY: the block has 20 bytes.
    let codes = unsafe { rows.quads(w, 4) };
    // SAFETY: as above.
    let pairs = unsafe { w.words_at(rows, 0) };
    let (d, min) = (w.halves(pairs), w.halves(w.right32(pairs, 16)));
    sum.step_with_minimum(w, w.dot_all(0, halves(w, codes), x), d, min, x)
} }

direct! { Q5_0 1 |w, rows, x, next, sum| {
    next.prefetch(W::ROWS * size_of::<Self>());
    let x = &x[0];
    // SAFETY: the block has 22 bytes.
    let codes = unsafe { rows.quads(w, 6) };
    // SAFETY: as above.
    let fifth = unsafe { w.words_at(rows, 2) };
    // SAFETY: as above.
    let d = unsafe { w.halves_at(rows, 0) };
    let [a, b] = without(16, x);
    sum.step(w, five_bits(w, w.words(a + b), codes, fifth, x), d, x)
} }

direct! { Q5_1 1 |w, rows, x, next, sum| {
    next.prefetch(W::ROWS * size_of::<Self>());
    let x = &x[0];
    // SAFETY: the block has 24 bytes.
    let codes = unsafe { rows.quads(w, 8) };
    // SAFETY: as above.
    let fifth = unsafe { w.words_at(rows, 4) };
    // SAFETY: as above.
    let pairs = unsafe { w.words_at(rows, 0) };
    let (d, min) = (w.halves(pairs), w.halves(w.right32(pairs, 16)));
    sum.step_with_minimum(w, five_bits(w, w.words(0), codes, fifth, x), d, min, x)
} }

direct! { Q8_0 1 |w, rows, x, next, sum| {
    next.prefetch(W::ROWS * size_of::<Self>());
    // SAFETY: the block has 34 bytes.
    let isum = unsafe { w.signed_sums(rows, 2, &x[0]) };
    // SAFETY: as above.
    let d = unsafe { w.halves_at(rows, 0) };
    sum.step(w, isum, d, &x[0])
} }

direct! { IQ4NL 1 |w, rows, x, next, sum| {
    next.prefetch(W::ROWS * size_of::<Self>());
    let x = &x[0];
    // SAFETY: the block has 18 bytes.
    let codes = unsafe { rows.quads(w, 2) };
    // SAFETY: as above.
    let d = unsafe { w.halves_at(rows, 0) };
    sum.step(w, table_dot(w, codes, w.table(&blocks::IQ4_VALUES), x), d, x)
} }

direct! { MXFP4 1 |w, rows, x, next, sum| {
    next.prefetch(W::ROWS * size_of::<Self>());
    let x = &x[0];
    // SAFETY: the block has 17 bytes.
    let codes = unsafe { rows.quads(w, 1) };
    // SAFETY: as above.
    let e = w.and(unsafe { w.words_at(rows, 0) }, w.words(255));
    let table = w.broadcast(&FP4_RAISED);
    let [a, b] = without(FP4_RAISE, x);
    let isum = w.words(a + b);
    let isum = w.dot::<5>(isum, four!(|Q| w.look_up(table, low(w, codes[Q]))), x, 0);
    let isum = w.dot::<5>(isum, four!(|Q| w.look_up(table, high(w, codes[Q]))), x, 4);
    sum.step(w, isum, w.power(e), x)
} }

direct! { NVFP4 2 |w, rows, x, next, sum| {
    // SAFETY: the block has 36 bytes.
    let scales = unsafe { w.words_at(rows, 0) };
    let table = w.broadcast(&FP4_RAISED);
    let mut sum = sum;
    for (g, x) in x.iter().enumerate() {
        next.prefetch(W::ROWS * size_of::<Self>() / 2);
        // SAFETY: as above.
        let codes = unsafe { rows.quads(w, 4 + 16 * g) };
        let start = without(FP4_RAISE, x);
        for half in 0..2 {
            // 8 bytes are 16 codes: first the low halves.
            let (a, b) = (codes[2 * half], codes[2 * half + 1]);
            let codes = [low(w, a), low(w, b), high(w, a), high(w, b)];
            let isum = w.words(start[half]);
            let isum = w.dot::<5>(isum, four!(|Q| w.look_up(table, codes[Q])), x, 4 * half);
            let byte = w.and(w.right32(scales, 8 * (2 * g + half)), w.words(255));
            sum = sum.step(w, isum, ue4m3_halves(w, byte), x);
        }
    }
    sum
} }

/// [`blocks::ue4m3_half`] of each lane: as a half-precision number, which has the same exponents but another bias.
#[inline(always)]
fn ue4m3_halves<W: Wide>(w: W, bytes: W::I) -> W::F {
    let half = w.left32(w.and(bytes, w.words(0x7f)), 7);
    // All ones, unless the byte is 0x7f: no other is 0 with these bits changed, and 0 has no sign to repeat.
    let other = w.signed_right32(w.sub(w.words(0), w.xor(bytes, w.words(0x7f))), 31);
    w.product(w.halves(w.and(half, other)), w.floats(128.0))
}

direct! { IQ4XS 8 |w, rows, x, next, sum| {
    // SAFETY: the block has 136 bytes.
    let [pairs, scales_low, ..] = unsafe { rows.quads(w, 0) };
    let d = w.halves(pairs);
    let scales_high = w.right32(pairs, 16);
    let table = w.table(&blocks::IQ4_VALUES);
    let mut sum = sum;
    for (g, x) in x.iter().enumerate() {
        next.prefetch(W::ROWS * size_of::<Self>() / 8);
        // SAFETY: as above.
        let codes = unsafe { rows.quads(w, 8 + 16 * g) };
        let bottom = w.and(w.right32(scales_low, 4 * g), w.words(15));
        let top = w.and(w.right32(scales_high, 2 * g), w.words(3));
        let scale = w.sub(w.or(bottom, w.left32(top, 4)), w.words(32));
        let d = w.product(d, w.to_floats(scale));
        sum = sum.step(w, table_dot(w, codes, table, x), d, x);
    }
    sum
} }

/// The low halves of the bytes, then the high ones.
#[inline(always)]
fn halves<W: Wide>(w: W, bytes: [W::I; 4]) -> [[W::I; 4]; 2] {
    [four!(|Q| low(w, bytes[Q])), four!(|Q| high(w, bytes[Q]))]
}

/// What values in [`FP4_RAISED`] are larger by.
const FP4_RAISE: i32 = blocks::MXFP4::OFFSET as i32;

/// The exact sum for 4-bit codes of values in a [raised](Wide::table) table, first the low halves.
#[inline(always)]
fn table_dot<W: Wide>(w: W, codes: [W::I; 4], table: W::I, x: &XBlock) -> W::I {
    let isum = w.signed_start(x);
    let isum = w.dot_signed(isum, four!(|Q| w.look_up(table, low(w, codes[Q]))), x, 0);
    w.dot_signed(isum, four!(|Q| w.look_up(table, high(w, codes[Q]))), x, 4)
}

/// Byte `i` of each 32 bits, four times.
const FOUR_TIMES: [[i8; 16]; 4] = {
    let mut all = [[0; 16]; 4];
    let mut at = 0;
    while at < 64 {
        all[at / 16][at % 16] = (at % 16 / 4 * 4 + at / 16) as i8;
        at += 1;
    }
    all
};

/// The bits of each lane's word as bytes of two times four vectors: byte `i` of vector `q` is 0 if bit `4q + i` is, and
/// `most` (up to 16) if it is set.
#[inline(always)]
pub(super) fn spread_bits<W: Wide>(w: W, bits: W::I, most: i8) -> [[W::I; 4]; 2] {
    // Byte j of `shifted` has the low four bits of byte j of `bits` on top.
    let shifted = w.left32(bits, 4);
    let (mask, most) = (w.words(0x8040_2010_u32.cast_signed()), w.bytes(most));
    let spread = |odd: bool, byte: usize| {
        let source = if odd { bits } else { shifted };
        let bytes = w.look_up(source, w.broadcast(&FOUR_TIMES[byte]));
        w.min_bytes(w.and(bytes, mask), most)
    };
    [four!(|Q| spread(Q % 2 == 1, Q / 2)), four!(|Q| spread(Q % 2 == 1, 2 + Q / 2))]
}

/// Adds to `start` the products of codes whose low four bits are halves of bytes, first the low ones, and whose fifth
/// bits are in one word of each row, bit `i` that of code `i`.
#[inline(always)]
fn five_bits<W: Wide>(w: W, start: W::I, codes: [W::I; 4], fifth: W::I, x: &XBlock) -> W::I {
    let [first, last] = spread_bits(w, fifth, 16);
    let isum = w.dot::<5>(start, four!(|Q| w.or(low(w, codes[Q]), first[Q])), x, 0);
    w.dot::<5>(isum, four!(|Q| w.or(high(w, codes[Q]), last[Q])), x, 4)
}
