//! The IQ formats with codebooks and signs.
//!
//! Their entries are looked up row by row, so here a vector first holds 32 codes of one row; only the sums of products
//! change places, an eighth of the codes' number. The signs go to the activations.

use std::arch::x86_64::*;

use super::super::tile::Next;
use super::super::unpack::eight;
use super::wide::Wide;
use super::{Direct, Rows, high, low, step};
use crate::format::blocks::{self, Block};
use crate::format::{grids, quants};
use crate::quantize::XBlock;

/// A block of entries of a codebook, 32 codes to a group.
trait Codebook: Block {
    /// The codes of group `g`, none of which has a sign.
    fn codes<W: Wide>(&self, w: W, g: usize) -> __m256i;
    /// Where the words of signs of group `g` are, for formats that have a bit for each code.
    const SIGNS: Option<usize>;
}

impl Codebook for blocks::IQ2XXS {
    const SIGNS: Option<usize> = None;

    #[inline(always)]
    fn codes<W: Wide>(&self, w: W, g: usize) -> __m256i {
        eights(
            w,
            self.qs[g]
                .first_chunk::<4>()
                .map_or([0; 4], |bytes| bytes.map(|b| grids::IQ2_XXS[usize::from(b)])),
        )
    }
}

impl Codebook for blocks::IQ2XS {
    const SIGNS: Option<usize> = None;

    #[inline(always)]
    fn codes<W: Wide>(&self, w: W, g: usize) -> __m256i {
        let words = u64::from_le_bytes(self.qs[g]);
        let entry = |i: usize| grids::IQ2_XS[(words >> (16 * i)) as usize & 511];
        eights(w, [entry(0), entry(1), entry(2), entry(3)])
    }
}

impl Codebook for blocks::IQ2S {
    const SIGNS: Option<usize> = Some(34);

    #[inline(always)]
    fn codes<W: Wide>(&self, w: W, g: usize) -> __m256i {
        eights(w, quants::iq2s_entries(self, g))
    }
}

impl Codebook for blocks::IQ3XXS {
    const SIGNS: Option<usize> = None;

    #[inline(always)]
    fn codes<W: Wide>(&self, w: W, g: usize) -> __m256i {
        fours(w, quants::iq3xxs_entries(self, g))
    }
}

impl Codebook for blocks::IQ3S {
    const SIGNS: Option<usize> = Some(74);

    #[inline(always)]
    fn codes<W: Wide>(&self, w: W, g: usize) -> __m256i {
        fours(w, quants::iq3s_entries(self, g))
    }
}

direct! { IQ2XXS 8 |w, rows, x, next, sum| {
    // SAFETY: the block has 66 bytes, in each group four of entries and four of signs and scale.
    let d = w.product(w.halves(unsafe { w.words_at::<2>(rows, 0) }), w.floats(0.125));
    let mut sum = sum;
    for (g, x) in x.iter().enumerate() {
        next.prefetch(W::ROWS * size_of::<Self>() / 8);
        // SAFETY: as above.
        let words = unsafe { w.words_at::<4>(rows, 6 + 8 * g) };
        // SAFETY: the caller's promise.
        let [first, last] = unsafe { row_sums::<W, Self>(w, rows, g, four_sevens(w, words), x) };
        let isum = w.mul(w.add(first, last), odd(w, w.right32(words, 28)));
        sum = step(w, isum, d, x, sum);
    }
    sum
} }

direct! { IQ3XXS 8 |w, rows, x, next, sum| {
    // SAFETY: the block has 98 bytes, the signs and scales from 66 on.
    let d = w.product(w.halves(unsafe { w.words_at::<2>(rows, 0) }), w.floats(0.25));
    let mut sum = sum;
    for (g, x) in x.iter().enumerate() {
        next.prefetch(W::ROWS * size_of::<Self>() / 8);
        // SAFETY: as above.
        let words = unsafe { w.words_at::<4>(rows, 66 + 4 * g) };
        // SAFETY: the caller's promise.
        let [first, last] = unsafe { row_sums::<W, Self>(w, rows, g, four_sevens(w, words), x) };
        let isum = w.mul(w.add(first, last), odd(w, w.right32(words, 28)));
        sum = step(w, isum, d, x, sum);
    }
    sum
} }

direct! { IQ2XS 8 |w, rows, x, next, sum| {
    // SAFETY: the block has 74 bytes, entries and signs from 2 on, scales from 66 on.
    let d = w.product(w.halves(unsafe { w.words_at::<2>(rows, 0) }), w.floats(0.125));
    // SAFETY: as above.
    let scales = [unsafe { w.words_at::<4>(rows, 66) }, unsafe { w.words_at::<4>(rows, 70) }];
    let mut sum = sum;
    for (g, x) in x.iter().enumerate() {
        next.prefetch(W::ROWS * size_of::<Self>() / 8);
        // SAFETY: as above.
        let words = [unsafe { w.words_at::<4>(rows, 2 + 8 * g) }, unsafe {
            w.words_at::<4>(rows, 6 + 8 * g)
        }];
        // Seven bits on top of each 16.
        let sevens = w.or(
            w.or(
                w.and(w.right32(words[0], 9), w.words(0x7f)),
                w.and(w.right32(words[0], 17), w.words(0x7f00)),
            ),
            w.or(
                w.and(w.left32(words[1], 7), w.words(0x7f_0000)),
                w.and(w.right32(words[1], 1), w.words(0x7f00_0000)),
            ),
        );
        // SAFETY: the caller's promise.
        let sums = unsafe { row_sums::<W, Self>(w, rows, g, with_parity(w, sevens), x) };
        let scales = w.right32(scales[g / 4], 8 * (g % 4));
        sum = step(w, scaled_halves(w, sums, scales), d, x, sum);
    }
    sum
} }

direct! { IQ2S 8 |w, rows, x, next, sum| {
    // SAFETY: the block has 82 bytes, the scales from 74 on.
    let d = w.product(w.halves(unsafe { w.words_at::<2>(rows, 0) }), w.floats(0.125));
    // SAFETY: as above.
    let scales = [unsafe { w.words_at::<4>(rows, 74) }, unsafe { w.words_at::<4>(rows, 78) }];
    let mut sum = sum;
    for (g, x) in x.iter().enumerate() {
        next.prefetch(W::ROWS * size_of::<Self>() / 8);
        // SAFETY: the caller's promise.
        let sums = unsafe { row_sums::<W, Self>(w, rows, g, w.words(0), x) };
        let scales = w.right32(scales[g / 4], 8 * (g % 4));
        sum = step(w, scaled_halves(w, sums, scales), d, x, sum);
    }
    sum
} }

direct! { IQ3S 8 |w, rows, x, next, sum| {
    // SAFETY: the block has 110 bytes, the scales from 106 on.
    let d = w.halves(unsafe { w.words_at::<2>(rows, 0) });
    // SAFETY: as above.
    let scales = unsafe { w.words_at::<4>(rows, 106) };
    let mut sum = sum;
    for (g, x) in x.iter().enumerate() {
        next.prefetch(W::ROWS * size_of::<Self>() / 8);
        // SAFETY: the caller's promise.
        let [first, last] = unsafe { row_sums::<W, Self>(w, rows, g, w.words(0), x) };
        let scale = w.and(w.right32(scales, 4 * g), w.words(15));
        sum = step(w, w.mul(w.add(first, last), odd(w, scale)), d, x, sum);
    }
    sum
} }

/// `2 scale + 1`.
#[inline(always)]
fn odd<W: Wide>(w: W, scale: W::I) -> W::I {
    w.add(w.add(scale, scale), w.words(1))
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

/// Sums of the products of group `g`'s first and last 16 codes; `signs` are those of a format that has no words of
/// signs.
///
/// # Safety
/// Each row has a whole block.
#[inline(always)]
unsafe fn row_sums<W: Wide, B: Codebook>(
    w: W,
    rows: Rows,
    g: usize,
    signs: W::I,
    x: &XBlock,
) -> [W::I; 2] {
    let mut minus = [0; 16];
    if B::SIGNS.is_none() {
        w.store_words(signs, &mut minus);
    }
    // SAFETY: the caller's promise.
    let first = sums(w, eight!(|I| unsafe { row_products::<W, B>(w, rows, I, g, &minus, x) }));
    let mut second = first;
    if W::ROWS == 16 {
        // SAFETY: as above.
        second = sums(w, eight!(|I| unsafe { row_products::<W, B>(w, rows, I + 8, g, &minus, x) }));
    }
    [w.join(first[0], second[0]), w.join(first[1], second[1])]
}

/// Products of one row, sums of four in each lane.
///
/// # Safety
/// The row has a whole block.
#[inline(always)]
unsafe fn row_products<W: Wide, B: Codebook>(
    w: W,
    rows: Rows,
    row: usize,
    g: usize,
    minus: &[u32; 16],
    x: &XBlock,
) -> __m256i {
    // SAFETY: the caller's promise.
    let block = unsafe { rows.block::<B>(row) };
    let minus = match B::SIGNS {
        // SAFETY: a block has a word of signs a group from there on.
        Some(at) => unsafe { rows.at(row, at + 4 * g).cast::<u32>().read_unaligned() },
        None => minus[row],
    };
    w.row_products(block.codes(w, g), minus, x)
}

/// Sums of the lower and of the upper four lanes of 8 rows, a row to a lane.
#[inline(always)]
fn sums<W: Wide>(_: W, rows: [__m256i; 8]) -> [__m256i; 2] {
    // SAFETY: a `Wide` value proves that the CPU has AVX2.
    unsafe { sums_here(rows) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn sums_here(rows: [__m256i; 8]) -> [__m256i; 2] {
    let two = |a, b| _mm256_add_epi32(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let four = |a, b| _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
    let [a, b, c, d, e, f, g, h] = rows;
    let (first, last) = (four(two(a, b), two(c, d)), four(two(e, f), two(g, h)));
    [_mm256_permute2x128_si256::<0x20>(first, last), _mm256_permute2x128_si256::<0x31>(first, last)]
}

/// Four entries of 8 codes side by side.
#[inline(always)]
fn eights<W: Wide>(_: W, entries: [i64; 4]) -> __m256i {
    let [a, b, c, d] = entries;
    // SAFETY: a `Wide` value proves that the CPU has AVX2.
    unsafe { _mm256_setr_epi64x(a, b, c, d) }
}

/// Eight entries of 4 codes side by side.
#[inline(always)]
fn fours<W: Wide>(_: W, entries: [i32; 8]) -> __m256i {
    let [a, b, c, d, e, f, g, h] = entries;
    // SAFETY: a `Wide` value proves that the CPU has AVX2.
    unsafe { _mm256_setr_epi32(a, b, c, d, e, f, g, h) }
}
