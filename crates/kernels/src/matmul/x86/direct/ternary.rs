//! Formats of one and two bits without codebook.

use super::super::tile::Next;
use super::k::{two_bits, two_of};
use super::plain::spread_bits;
use super::wide::Wide;
use super::{Direct, Rows, Sum, without};
use crate::format::blocks;
use crate::quantize::XBlock;

direct! { TQ2_0 8 |w, rows, x, next, sum| {
    // SAFETY: the block has 66 bytes.
    let d = unsafe { w.halves_at(rows, 64) };
    let mut sum = sum;
    for (half, x) in x.as_chunks::<4>().0.iter().enumerate() {
        // SAFETY: as above.
        let packed = unsafe { two_bits::<W, Self>(w, rows, 32 * half, next) };
        for g in 0..4 {
            let [a, b] = without(1, &x[g]);
            let codes = |part: usize| four!(|Q| two_of(w, packed[part][Q], g));
            sum = sum.step(w, w.dot_all(a + b, [codes(0), codes(1)], &x[g]), d, &x[g]);
        }
    }
    sum
} }

direct! { TQ1_0 8 |w, rows, x, next, sum| {
    next.prefetch(W::ROWS * size_of::<Self>() / 2);
    // SAFETY: the block has 54 bytes: 48 and four of digits, then `d`.
    let mut bytes = [unsafe { rows.quads(w, 0) }, unsafe { rows.quads(w, 16) }];
    // SAFETY: as above.
    let mut rest = unsafe { rows.quads(w, 32) };
    // SAFETY: as above.
    let mut last = unsafe { w.words_at(rows, 48) };
    // SAFETY: as above.
    let d = unsafe { w.halves_at(rows, 52) };
    next.prefetch(W::ROWS * size_of::<Self>() / 2);
    let start = |x| {
        let [a, b] = without(1, x);
        w.words(a + b)
    };
    let mut sum = sum;
    for x in &x[..5] {
        let mut isum = start(x);
        for part in 0..2 {
            isum = w.dot::<4>(isum, four!(|Q| next_digit(w, &mut bytes[part][Q])), x, 4 * part);
        }
        sum = sum.step(w, isum, d, x);
    }
    // Five times 16 values, then four times 4.
    for (group, x) in x[5..].iter().enumerate() {
        let first = four!(|Q| next_digit(w, &mut rest[Q]));
        let isum = w.dot::<4>(start(x), first, x, 0);
        let second = if group < 2 {
            four!(|Q| next_digit(w, &mut rest[Q]))
        } else {
            four!(|_Q| next_digit(w, &mut last))
        };
        sum = sum.step(w, w.dot::<4>(isum, second, x, 4), d, x);
    }
    sum
} }

/// The first ternary digit of each byte (see [`blocks::ternary`]); the next one moves to the front.
#[inline(always)]
fn next_digit<W: Wide>(w: W, bytes: &mut W::I) -> W::I {
    // Sums of 32 bits do for two of 16 here: three times a byte has ten bits.
    let three_times = |bytes| w.add(bytes, w.left16(bytes, 1));
    let (low, high) = (w.words(0x00ff_00ff), w.words(0xff00_ff00_u32.cast_signed()));
    let even = three_times(w.and(*bytes, low));
    let odd = three_times(w.right16(*bytes, 8));
    *bytes = w.or(w.and(even, low), w.left16(odd, 8));
    w.or(w.right16(even, 8), w.and(odd, high))
}

direct! { Q1_0 4 |w, rows, x, next, sum| {
    next.prefetch(W::ROWS * size_of::<Self>());
    // SAFETY: the block has 18 bytes.
    let words = unsafe { rows.quads(w, 2) };
    // SAFETY: as above.
    let d = unsafe { w.halves_at(rows, 0) };
    let mut sum = sum;
    for (g, x) in x.iter().enumerate() {
        // 0 and 2, for -1 and 1.
        let codes = spread_bits(w, words[g], 2);
        let [a, b] = without(1, x);
        sum = sum.step(w, w.dot_all(a + b, codes, x), d, x);
    }
    sum
} }

direct! { Q2_0 2 |w, rows, x, next, sum| {
    next.prefetch(W::ROWS * size_of::<Self>());
    // SAFETY: the block has 18 bytes.
    let words = unsafe { rows.quads(w, 2) };
    // SAFETY: as above.
    let d = unsafe { w.halves_at(rows, 0) };
    let mut sum = sum;
    for (g, x) in x.iter().enumerate() {
        // Shifted by `2i`, the four bytes of a word have codes `i`, `4 + i`, `8 + i` and `12 + i` at the bottom.
        let transposed = transposed(x);
        let [a, b] = without(1, x);
        let codes = |word| four!(|I| w.and(w.right32(word, 2 * I), w.bytes(3)));
        let codes = [codes(words[2 * g]), codes(words[2 * g + 1])];
        sum = sum.step(w, w.dot_all(a + b, codes, &transposed), d, x);
    }
    sum
} }

/// The same activations; word `i` of four words has what byte `i` of each of them had.
#[inline(always)]
fn transposed(x: &XBlock) -> XBlock {
    let mut quads = [0; 8];
    for half in 0..2 {
        for i in 0..4 {
            quads[4 * half + i] = i32::from_le_bytes(std::array::from_fn(|from| {
                x.quads[4 * half + from].to_le_bytes()[i]
            }));
        }
    }
    XBlock { quads, ..*x }
}
