//! The "K" formats: super-blocks of 256 with integer scales.

use super::super::tile::Next;
use super::wide::Wide;
use super::{Direct, Rows, Sum, high, low};
use crate::format::blocks;
use crate::quantize::XBlock;

/// Byte `i` of each lane.
#[inline(always)]
pub(super) fn byte<W: Wide>(w: W, words: W::I, i: usize) -> W::I {
    w.and(w.right32(words, 8 * i), w.words(255))
}

/// What `Q4K` and `Q5K` have in front of their codes.
struct Head<W: Wide> {
    d: W::F,
    minus_dmin: W::F,
    /// Scales of groups 0..4 and 4..8, a byte each.
    scales: [W::I; 2],
    mins: [W::I; 2],
}

impl<W: Wide> Head<W> {
    /// See [`blocks::six_bit_pairs`].
    #[inline(always)]
    fn new(w: W, quads: [W::I; 4]) -> Self {
        let [pairs, scales, mins, rest] = quads;
        let own = w.bytes(63);
        Head {
            d: w.halves(pairs),
            minus_dmin: minus(w, w.halves(w.right32(pairs, 16))),
            scales: [w.and(scales, own), w.or(low(w, rest), top_two(w, scales))],
            mins: [w.and(mins, own), w.or(high(w, rest), top_two(w, mins))],
        }
    }

    /// Steps 2 and 3 for group `g`, `isum` without its scale.
    #[inline(always)]
    fn step(&self, w: W, g: usize, isum: W::I, x: &XBlock, sum: Sum<W>) -> Sum<W> {
        let scale = w.to_floats(byte(w, self.scales[g / 4], g % 4));
        let min = w.to_floats(byte(w, self.mins[g / 4], g % 4));
        let min = w.product(self.minus_dmin, min);
        sum.step_with_minimum(w, isum, w.product(self.d, scale), min, x)
    }
}

#[inline(always)]
fn minus<W: Wide>(w: W, values: W::F) -> W::F {
    w.as_floats(w.xor(w.as_words(values), w.words(i32::MIN)))
}

/// Four bits, and two of the bits of `top` above them.
#[inline(always)]
fn six<W: Wide>(w: W, low: W::I, top: W::I) -> W::I {
    w.or(low, w.and(top, w.bytes(0x30)))
}

/// The top two bits of each byte, as bits 4 and 5.
#[inline(always)]
fn top_two<W: Wide>(w: W, bytes: W::I) -> W::I {
    w.and(w.right16(bytes, 2), w.bytes(0x30))
}

direct! { Q4K 8 |w, rows, x, next, sum| {
    // SAFETY: the block has 144 bytes.
    let head = Head::new(w, unsafe { rows.quads(w, 0) });
    let mut sum = sum;
    for (pair, x) in x.as_chunks::<2>().0.iter().enumerate() {
        next.prefetch(W::ROWS * size_of::<Self>() / 8);
        // SAFETY: as above.
        let first = unsafe { rows.quads(w, 16 + 32 * pair) };
        next.prefetch(W::ROWS * size_of::<Self>() / 8);
        // SAFETY: as above.
        let last = unsafe { rows.quads(w, 32 + 32 * pair) };
        let codes = [four!(|Q| low(w, first[Q])), four!(|Q| low(w, last[Q]))];
        sum = head.step(w, 2 * pair, w.dot_all(0, codes, &x[0]), &x[0], sum);
        let codes = [four!(|Q| high(w, first[Q])), four!(|Q| high(w, last[Q]))];
        sum = head.step(w, 2 * pair + 1, w.dot_all(0, codes, &x[1]), &x[1], sum);
    }
    sum
} }

direct! { Q5K 8 |w, rows, x, next, sum| {
    // SAFETY: the block has 176 bytes.
    let head = Head::new(w, unsafe { rows.quads(w, 0) });
    // SAFETY: as above.
    let mut fifth = [unsafe { rows.quads(w, 16) }, unsafe { rows.quads(w, 32) }];
    let bit = w.bytes(16);
    let mut sum = sum;
    for (pair, x) in x.as_chunks::<2>().0.iter().enumerate() {
        let mut isums = [w.words(0); 2];
        for part in 0..2 {
            next.prefetch(W::ROWS * size_of::<Self>() / 8);
            // SAFETY: as above.
            let packed = unsafe { rows.quads(w, 48 + 32 * pair + 16 * part) };
            let tops = fifth[part];
            let first = four!(|Q| w.or(low(w, packed[Q]), w.and(w.left16(tops[Q], 4), bit)));
            let second = four!(|Q| w.or(high(w, packed[Q]), w.and(w.left16(tops[Q], 3), bit)));
            isums[0] = w.dot::<5>(isums[0], first, &x[0], 4 * part);
            isums[1] = w.dot::<5>(isums[1], second, &x[1], 4 * part);
            fifth[part] = four!(|Q| w.right16(tops[Q], 2));
        }
        sum = head.step(w, 2 * pair, isums[0], &x[0], sum);
        sum = head.step(w, 2 * pair + 1, isums[1], &x[1], sum);
    }
    sum
} }

direct! { Q6K 8 |w, rows, x, next, sum| {
    // SAFETY: the block has 210 bytes.
    let d = unsafe { w.halves_at(rows, 208) };
    // SAFETY: as above.
    let scales = unsafe { rows.quads(w, 192) };
    let mut sum = sum;
    for (half, x) in x.as_chunks::<4>().0.iter().enumerate() {
        // The offset is 32.
        let mut isums = four!(|G| minus_offset(w, scales[2 * half + G / 2], G % 2, 3, &x[G]));
        // Bytes 0 and 2 of each word are those of this part: so the loop need not be unrolled.
        let mut scales = [scales[2 * half], scales[2 * half + 1]];
        for part in 0..2 {
            // At once and before the arithmetic: with this loop in its middle the compiler keeps all broadcasts in memory.
            // (16 rows ask twice, not to ask for 13 lines in a burst.)
            next.prefetch(8 * size_of::<Self>() / 4);
            // SAFETY: as above.
            let top = unsafe { rows.quads(w, 128 + 32 * half + 16 * part) };
            // SAFETY: as above.
            let a = unsafe { rows.quads(w, 64 * half + 16 * part) };
            let codes = four!(|Q| six(w, low(w, a[Q]), w.left16(top[Q], 4)));
            let factor = w.factor(scales[0], 0, 0);
            isums[0] = w.scaled::<6>(isums[0], codes, &x[0], part, factor);
            let codes = four!(|Q| six(w, high(w, a[Q]), top[Q]));
            let factor = w.factor(scales[1], 0, 0);
            isums[2] = w.scaled::<6>(isums[2], codes, &x[2], part, factor);
            if W::ROWS == 16 {
                next.prefetch(8 * size_of::<Self>() / 4);
            }
            // SAFETY: as above.
            let b = unsafe { rows.quads(w, 64 * half + 32 + 16 * part) };
            let codes = four!(|Q| six(w, low(w, b[Q]), w.left16(top[Q], 2)));
            let factor = w.factor(scales[0], 2, 0);
            isums[1] = w.scaled::<6>(isums[1], codes, &x[1], part, factor);
            let codes = four!(|Q| six(w, high(w, b[Q]), w.right16(top[Q], 2)));
            let factor = w.factor(scales[1], 2, 0);
            isums[3] = w.scaled::<6>(isums[3], codes, &x[3], part, factor);
            scales = scales.map(|words| w.right32(words, 8));
        }
        for g in 0..4 {
            sum = sum.step(w, isums[g], d, &x[g]);
        }
    }
    sum
} }

/// What the offset of all codes of a group makes their sum larger by, negated: its scales are bytes `2g` and `2g + 1` of
/// each word, and the offset is `256 / 2^shift`.
#[inline(always)]
fn minus_offset<W: Wide>(w: W, scales: W::I, g: usize, shift: usize, x: &XBlock) -> W::I {
    let pairs = w.look_up(scales, w.broadcast(&UPPER[g]));
    let sum = w.products16(pairs, w.words(x.sums));
    w.sub(w.words(0), w.signed_right32(sum, shift))
}

/// The first or last two bytes of each word, each in the upper half of 16 bits; -1 gives 0.
const UPPER: [[i8; 16]; 2] = [pairs(0, 1), pairs(2, 1)];
/// The same in the lower half.
const LOWER: [[i8; 16]; 2] = [pairs(0, 0), pairs(2, 0)];

const fn pairs(first: usize, half: usize) -> [i8; 16] {
    let mut all = [-1; 16];
    let mut pair = 0;
    while pair < 8 {
        all[2 * pair + half] = (pair / 2 * 4 + first + pair % 2) as i8;
        pair += 1;
    }
    all
}

direct! { Q2K 8 |w, rows, x, next, sum| {
    // SAFETY: the block has 84 bytes.
    let pairs = unsafe { w.words_at(rows, 80) };
    let (d, minus_dmin) = (w.halves(pairs), minus(w, w.halves(w.right32(pairs, 16))));
    // Bytes, each with a scale in its low and a scale of the minimum in its high half.
    // SAFETY: as above.
    let bytes = unsafe { rows.quads(w, 0) };
    let (scales, mins) = (four!(|Q| low(w, bytes[Q])), four!(|Q| high(w, bytes[Q])));
    let mut sum = sum;
    for (half, x) in x.as_chunks::<4>().0.iter().enumerate() {
        // SAFETY: as above.
        let packed = unsafe { two_bits::<W, Self>(w, rows, 16 + 32 * half, next) };
        for g in 0..4 {
            let at = 2 * half + g / 2;
            let mut isum = w.words(0);
            for part in 0..2 {
                let codes = four!(|Q| two_of(w, packed[part][Q], g));
                let factor = w.factor(scales[at], g % 2 * 2 + part, 0);
                isum = w.scaled::<4>(isum, codes, &x[g], part, factor);
            }
            sum = sum.step(w, isum, d, &x[g]);
            let mins = w.look_up(mins[at], w.broadcast(&LOWER[g % 2]));
            sum = sum.step(w, w.products16(mins, w.words(x[g].sums)), minus_dmin, &x[g]);
        }
    }
    sum
} }

direct! { Q3K 8 |w, rows, x, next, sum| {
    // SAFETY: the block has 110 bytes: the last two of the codes, 12 of scales, two of `d`.
    let [a, b, c, e] = unsafe { rows.quads(w, 94) };
    let d = w.halves(w.right32(e, 16));
    let word = |first, second| w.or(w.right32(first, 16), w.left32(second, 16));
    let (a, b, tops) = (word(a, b), word(b, c), word(c, e));
    let scales = [
        six(w, low(w, a), w.left16(tops, 4)),
        six(w, low(w, b), w.left16(tops, 2)),
        six(w, high(w, a), tops),
        six(w, high(w, b), w.right16(tops, 2)),
    ];
    // Without their offset of 32 and times 4, so that the uppermost bit is the sign.
    let scales = four!(|Q| w.left16(w.xor(scales[Q], w.bytes(32)), 2));
    // SAFETY: as above.
    let mut third = [unsafe { rows.quads(w, 0) }, unsafe { rows.quads(w, 16) }];
    let mut sum = sum;
    for (half, x) in x.as_chunks::<4>().0.iter().enumerate() {
        // SAFETY: as above.
        let packed = unsafe { two_bits::<W, Self>(w, rows, 32 + 32 * half, next) };
        for g in 0..4 {
            let at = 2 * half + g / 2;
            // 256 / 2^8 times what is 4 times as large: the offset is 4.
            let mut isum = minus_offset(w, scales[at], g % 2, 8, &x[g]);
            for part in 0..2 {
                // Bit `g` of each byte, as bit 2.
                let top = |bits| if g < 2 { w.left16(bits, 2 - g) } else { w.right16(bits, g - 2) };
                let codes = four!(|Q| {
                    w.or(two_of(w, packed[part][Q], g), w.and(top(third[part][Q]), w.bytes(4)))
                });
                let factor = w.factor(scales[at], g % 2 * 2 + part, 2);
                isum = w.scaled::<4>(isum, codes, &x[g], part, factor);
            }
            sum = sum.step(w, isum, d, &x[g]);
        }
        third = [four!(|Q| w.right16(third[0][Q], 4)), four!(|Q| w.right16(third[1][Q], 4))];
    }
    sum
} }

/// 32 bytes of each row, from `offset` on, of half a block.
///
/// # Safety
/// Each row has them.
#[inline(always)]
pub(super) unsafe fn two_bits<W: Wide, B: Direct>(
    w: W,
    rows: Rows,
    offset: usize,
    next: &mut Next,
) -> [[W::I; 4]; 2] {
    next.prefetch(W::ROWS * size_of::<B>() / 4);
    // SAFETY: the caller's promise.
    let first = unsafe { rows.quads(w, offset) };
    next.prefetch(W::ROWS * size_of::<B>() / 4);
    // SAFETY: as above.
    [first, unsafe { rows.quads(w, offset + 16) }]
}

/// Bits `2g` and `2g + 1` of each byte.
#[inline(always)]
pub(super) fn two_of<W: Wide>(w: W, packed: W::I, g: usize) -> W::I {
    w.and(w.right16(packed, 2 * g), w.bytes(3))
}
