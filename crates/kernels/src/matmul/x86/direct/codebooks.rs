//! The IQ formats with codebooks and signs: from their bytes to indices, signs and scales.
//!
//! With AVX-512 VBMI entries are looked up 64 at a time ([`super::planes`]), else row by row ([`super::by_row`]).

use super::super::tile::Next;
use super::by_row::Codebook;
use super::k::byte;
use super::wide::Wide;
use super::{Direct, Rows, Sum, high, low};
use crate::format::blocks;
use crate::quantize::XBlock;

/// What chooses 32 weights of each row.
pub(in crate::matmul::x86) struct Entries<I> {
    /// The lowest 8 bits of the indices: four of entries of 8, or eight of entries of 4.
    pub(super) low: [I; 2],
    /// The bits above them, in as many bytes.
    pub(super) high: [I; 2],
    /// A bit for each weight that is set for minus.
    pub(super) signs: I,
}

direct! { IQ2XXS 8 |w, rows, x, next, sum| {
    // SAFETY: the block has 66 bytes, in each group four of entries and four of signs and scale.
    let d = w.product(unsafe { w.halves_at(rows, 0) }, w.floats(0.125));
    let mut sum = sum;
    for (pair, x) in x.as_chunks::<2>().0.iter().enumerate() {
        next.prefetch(W::ROWS * size_of::<Self>() / 4);
        // SAFETY: as above.
        let words = unsafe { rows.quads(w, 2 + 16 * pair) };
        for g in 0..2 {
            let low = [words[2 * g], w.words(0)];
            let group = Group { g: 2 * pair + g, low, word: words[2 * g + 1] };
            // SAFETY: the caller's promise.
            sum = unsafe { group.add::<Self>(w, rows, d, &x[g], sum) };
        }
    }
    sum
} }

direct! { IQ3XXS 8 |w, rows, x, next, sum| {
    // SAFETY: the block has 98 bytes, the signs and scales from 66 on.
    let d = w.product(unsafe { w.halves_at(rows, 0) }, w.floats(0.25));
    let mut sum = sum;
    for (half, x) in x.as_chunks::<4>().0.iter().enumerate() {
        // SAFETY: as above.
        let words = unsafe { rows.quads(w, 66 + 16 * half) };
        for pair in 0..2 {
            next.prefetch(W::ROWS * size_of::<Self>() / 4);
            // SAFETY: as above.
            let [a, b, c, e] = unsafe { rows.quads(w, 2 + 32 * half + 16 * pair) };
            for (g, low) in [[a, b], [c, e]].into_iter().enumerate() {
                let at = 2 * pair + g;
                let group = Group { g: 4 * half + at, low, word: words[at] };
                // SAFETY: the caller's promise.
                sum = unsafe { group.add::<Self>(w, rows, d, &x[at], sum) };
            }
        }
    }
    sum
} }

/// A group of `IQ2XXS` or `IQ3XXS`.
struct Group<W: Wide> {
    g: usize,
    /// The entries.
    low: [W::I; 2],
    /// The signs and the scale.
    word: W::I,
}

impl<W: Wide> Group<W> {
    /// # Safety
    /// Each row has a whole block.
    #[inline(always)]
    unsafe fn add<B: Codebook>(self, w: W, rows: Rows, d: W::F, x: &XBlock, sum: Sum<W>) -> Sum<W> {
        let signs = four_sevens(w, self.word);
        let entries = Entries { low: self.low, high: [w.words(0); 2], signs };
        // SAFETY: the caller's promise.
        let [first, last] = unsafe { w.codebook_sums::<B>(rows, self.g, &entries, x) };
        let d = with_odd(w, d, w.right32(self.word, 28));
        sum.step(w, w.add(first, last), d, x)
    }
}

direct! { IQ2XS 8 |w, rows, x, next, sum| {
    // SAFETY: the block has 74 bytes, entries and signs from 2 on, scales from 66 on.
    let d = w.product(unsafe { w.halves_at(rows, 0) }, w.floats(0.125));
    // SAFETY: as above.
    let scales = [unsafe { w.words_at(rows, 66) }, unsafe { w.words_at(rows, 70) }];
    let apart = w.broadcast(&LOW_AND_HIGH);
    let mut sum = sum;
    for (pair, x) in x.as_chunks::<2>().0.iter().enumerate() {
        next.prefetch(W::ROWS * size_of::<Self>() / 4);
        // SAFETY: as above.
        let words = unsafe { rows.quads(w, 2 + 16 * pair) };
        for part in 0..2 {
            let g = 2 * pair + part;
            // Two numbers of 16 bits each; then the low bytes of both, and the high ones above.
            let a = w.look_up(words[2 * part], apart);
            let b = w.look_up(words[2 * part + 1], apart);
            let low = w.or(w.and(a, w.words(0xffff)), w.left32(b, 16));
            let tops = w.or(w.right32(a, 16), w.and(b, w.words(0xffff_0000_u32.cast_signed())));
            let signs = with_parity(w, w.and(w.right16(tops, 1), w.bytes(0x7f)));
            let high = w.and(tops, w.bytes(1));
            let zero = w.words(0);
            let entries = Entries { low: [low, zero], high: [high, zero], signs };
            // SAFETY: the caller's promise.
            let sums = unsafe { w.codebook_sums::<Self>(rows, g, &entries, &x[part]) };
            let scales = w.right32(scales[g / 4], 8 * (g % 4));
            sum = sum.step(w, scaled_halves(w, sums, scales), d, &x[part]);
        }
    }
    sum
} }

/// In each word: bytes 0 and 2, then 1 and 3.
const LOW_AND_HIGH: [i8; 16] = [0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15];

direct! { IQ2S 8 |w, rows, x, next, sum| {
    // SAFETY: the block has 82 bytes: `d`, 32 of entries, 32 of signs, 8 of more bits of entries, 8 of scales.
    let d = w.product(unsafe { w.halves_at(rows, 0) }, w.floats(0.125));
    // SAFETY: as above.
    let [top0, top1, scale0, scale1] = unsafe { rows.quads(w, 66) };
    let (tops, scales) = ([top0, top1], [scale0, scale1]);
    let mut sum = sum;
    for (half, x) in x.as_chunks::<4>().0.iter().enumerate() {
        next.prefetch(W::ROWS * size_of::<Self>() / 2);
        // SAFETY: as above.
        let low = unsafe { rows.quads(w, 2 + 16 * half) };
        // SAFETY: as above.
        let signs = unsafe { rows.quads(w, 34 + 16 * half) };
        for g in 0..4 {
            let high = spread(w, byte(w, tops[half], g), 6, 0x0303_0303);
            let zero = w.words(0);
            let entries = Entries { low: [low[g], zero], high: [high, zero], signs: signs[g] };
            // SAFETY: the caller's promise.
            let sums = unsafe { w.codebook_sums::<Self>(rows, 4 * half + g, &entries, &x[g]) };
            sum = sum.step(w, scaled_halves(w, sums, w.right32(scales[half], 8 * g)), d, &x[g]);
        }
    }
    sum
} }

direct! { IQ3S 8 |w, rows, x, next, sum| {
    // SAFETY: the block has 110 bytes: `d`, 64 of entries, 8 of more bits, 32 of signs, four of scales.
    let d = unsafe { w.halves_at(rows, 0) };
    // SAFETY: as above.
    let tops = [unsafe { w.words_at(rows, 66) }, unsafe { w.words_at(rows, 70) }];
    // SAFETY: as above.
    let scales = unsafe { w.words_at(rows, 106) };
    let mut sum = sum;
    for (half, x) in x.as_chunks::<4>().0.iter().enumerate() {
        // SAFETY: as above.
        let signs = unsafe { rows.quads(w, 74 + 16 * half) };
        for pair in 0..2 {
            next.prefetch(W::ROWS * size_of::<Self>() / 4);
            // SAFETY: as above.
            let [a, b, c, e] = unsafe { rows.quads(w, 2 + 32 * half + 16 * pair) };
            for (part, low) in [[a, b], [c, e]].into_iter().enumerate() {
                let g = 2 * pair + part;
                let top = byte(w, tops[half], g);
                let high = [top, w.right32(top, 4)].map(|bits| spread(w, bits, 7, 0x0101_0101));
                let entries = Entries { low, high, signs: signs[g] };
                // SAFETY: the caller's promise.
                let sums = unsafe { w.codebook_sums::<Self>(rows, 4 * half + g, &entries, &x[g]) };
                let scale = w.and(w.right32(scales, 4 * (4 * half + g)), w.words(15));
                sum = sum.step(w, w.add(sums[0], sums[1]), with_odd(w, d, scale), &x[g]);
            }
        }
    }
    sum
} }

direct! { IQ1S 8 |w, rows, x, next, sum| {
    // SAFETY: the block has 50 bytes: `d`, 32 of entries, 16 of more bits of them, scales and signs.
    let d = w.product(unsafe { w.halves_at(rows, 0) }, w.floats(0.125));
    // SAFETY: as above.
    let tops = unsafe { rows.quads(w, 34) };
    let mut sum = sum;
    for (half, x) in x.as_chunks::<4>().0.iter().enumerate() {
        next.prefetch(W::ROWS * size_of::<Self>() / 2);
        // SAFETY: as above.
        let low = unsafe { rows.quads(w, 2 + 16 * half) };
        for g in 0..4 {
            let top = w.right32(tops[2 * half + g / 2], g % 2 * 16);
            let part = |i: usize| w.and(w.left32(top, 5 * i), w.words(7 << (8 * i)));
            let high = w.or(w.or(part(0), part(1)), w.or(part(2), part(3)));
            let signs = w.signed_right32(w.left32(top, 16), 31);
            let zero = w.words(0);
            let entries = Entries { low: [low[g], zero], high: [high, zero], signs };
            // SAFETY: the caller's promise.
            let sums = unsafe { w.codebook_sums::<Self>(rows, 4 * half + g, &entries, &x[g]) };
            let d = with_odd(w, d, w.and(w.right32(top, 12), w.words(7)));
            sum = sum.step(w, w.add(sums[0], sums[1]), d, &x[g]);
        }
    }
    sum
} }

direct! { IQ1M 8 |w, rows, x, next, sum| {
    // SAFETY: the block has 56 bytes: 32 of entries, 16 of more bits of them and signs, 8 of scales.
    let tops = unsafe { rows.quads(w, 32) };
    // SAFETY: as above.
    let scales = [unsafe { w.words_at(rows, 48) }, unsafe { w.words_at(rows, 52) }];
    // The tops of the four numbers of 16 bits are those of a fifth.
    let [a, b] = scales.map(|two| {
        let first = w.and(w.right32(two, 12), w.words(15));
        w.or(first, w.and(w.right32(two, 24), w.words(0xf0)))
    });
    let d = w.product(w.halves(w.or(a, w.left32(b, 8))), w.floats(0.125));
    let mut sum = sum;
    for (half, x) in x.as_chunks::<4>().0.iter().enumerate() {
        next.prefetch(W::ROWS * size_of::<Self>() / 2);
        // SAFETY: as above.
        let low = unsafe { rows.quads(w, 16 * half) };
        for g in 0..4 {
            let top = w.right32(tops[2 * half + g / 2], g % 2 * 16);
            let part = |i: usize| w.and(w.left32(top, 4 * i), w.words(15 << (8 * i)));
            let high = w.or(w.or(part(0), part(1)), w.or(part(2), part(3)));
            // The sign of each entry's eighth is its highest bit: all bits of a byte.
            let minus = w.and(w.right32(high, 3), w.bytes(1));
            let signs = w.sub(w.left32(minus, 8), minus);
            let zero = w.words(0);
            let entries = Entries { low: [low[g], zero], high: [high, zero], signs };
            // SAFETY: the caller's promise.
            let sums = unsafe { w.codebook_sums::<Self>(rows, 4 * half + g, &entries, &x[g]) };
            let scales = w.right32(scales[half], g / 2 * 16 + g % 2 * 6);
            let scale = |at| odd(w, w.and(w.right32(scales, at), w.words(7)));
            let isum = w.add(w.mul(sums[0], scale(0)), w.mul(sums[1], scale(3)));
            sum = sum.step(w, isum, d, &x[g]);
        }
    }
    sum
} }

/// Shifts the lowest byte of each word by 0, 1, 2 and 3 times `bits` and keeps the bits of `mask`.
#[inline(always)]
fn spread<W: Wide>(w: W, byte: W::I, bits: usize, mask: i32) -> W::I {
    let two = w.or(byte, w.left32(byte, bits));
    w.and(w.or(two, w.left32(two, 2 * bits)), w.words(mask))
}

/// `2 scale + 1`.
#[inline(always)]
fn odd<W: Wide>(w: W, scale: W::I) -> W::I {
    w.add(w.add(scale, scale), w.words(1))
}

/// The float scale times `2 scale + 1`.
#[inline(always)]
fn with_odd<W: Wide>(w: W, d: W::F, scale: W::I) -> W::F {
    w.product(d, w.to_floats(odd(w, scale)))
}

/// The sums of both halves with their [`odd`] scales: the lowest four bits, and the next.
#[inline(always)]
fn scaled_halves<W: Wide>(w: W, sums: [W::I; 2], scales: W::I) -> W::I {
    let scale = |bytes| odd(w, w.and(bytes, w.words(15)));
    w.add(w.mul(sums[0], scale(low(w, scales))), w.mul(sums[1], scale(high(w, scales))))
}

/// Four times 7 bits of signs at the bottom of each word as [`with_parity`] returns them.
#[inline(always)]
fn four_sevens<W: Wide>(w: W, words: W::I) -> W::I {
    let part = |words, mask| w.and(words, w.words(mask));
    let low = w.or(part(words, 0x7f), part(w.left32(words, 1), 0x7f00));
    let high = w.or(part(w.left32(words, 2), 0x7f_0000), part(w.left32(words, 3), 0x7f00_0000));
    with_parity(w, w.or(low, high))
}

/// Bytes of seven bits; the eighth makes the number of bits even (see [`blocks::eight_signs`]).
#[inline(always)]
fn with_parity<W: Wide>(w: W, sevens: W::I) -> W::I {
    // The lowest bit of each byte sees no bit of the next one: the shifts add up to 7.
    let folded = w.xor(sevens, w.right32(sevens, 4));
    let folded = w.xor(folded, w.right32(folded, 2));
    let folded = w.xor(folded, w.right32(folded, 1));
    w.or(sevens, w.left32(w.and(folded, w.bytes(1)), 7))
}
