//! Entries of codebooks looked up row by row.
//!
//! A vector first holds 32 codes of one row; only the sums of products change places, an eighth of the codes' number. The
//! signs go to the activations.

use std::arch::x86_64::*;

use super::planes::Planes;
use super::wide::Wide;
use super::{Rows, without};
use crate::format::blocks::{self, Block};
use crate::format::{grids, quants};
use crate::quantize::XBlock;

/// Where the signs are that are applied to the activations if entries are looked up row by row.
pub(in crate::matmul::x86) enum Signs {
    /// In [`super::codebooks::Entries::signs`].
    Entries,
    /// In the block, a word a group from that offset on; faster than the way through a vector.
    At(usize),
    /// In the codes, which are larger by so much that none has a sign.
    Raised(i32),
}

/// A block of entries of a codebook, 32 codes to a group.
pub(in crate::matmul::x86) trait Codebook: Block + Planes {
    /// The codes of group `g`, none of which has a sign.
    fn codes<W: Wide>(&self, w: W, g: usize) -> __m256i;
    /// Where the signs are.
    const SIGNS: Signs;
}

/// Implements [`Codebook`]: where the signs are, and the codes.
macro_rules! codebook {
    ($block:ident $signs:expr, |$self:ident, $w:ident, $g:ident| $codes:expr) => {
        impl Codebook for blocks::$block {
            const SIGNS: Signs = $signs;

            #[inline(always)]
            fn codes<W: Wide>(&self, $w: W, $g: usize) -> __m256i {
                let $self = self;
                $codes
            }
        }
    };
}

codebook! { IQ2XXS Signs::Entries, |block, w, g| {
    let [a, b, c, d, ..] = block.qs[g];
    let entry = |byte: u8| grids::IQ2_XXS[usize::from(byte)];
    eights(w, [entry(a), entry(b), entry(c), entry(d)])
} }
codebook! { IQ2XS Signs::Entries, |block, w, g| {
    let words = u64::from_le_bytes(block.qs[g]);
    let entry = |i: usize| grids::IQ2_XS[(words >> (16 * i)) as usize & 511];
    eights(w, [entry(0), entry(1), entry(2), entry(3)])
} }
codebook! { IQ2S Signs::At(34), |block, w, g| eights(w, quants::iq2s_entries(block, g)) }
codebook! { IQ3XXS Signs::Entries, |block, w, g| fours(w, quants::iq3xxs_entries(block, g)) }
codebook! { IQ3S Signs::At(74), |block, w, g| fours(w, quants::iq3s_entries(block, g)) }
codebook! { IQ1S Signs::Raised(grids::IQ1_RAISE), |block, w, g| {
    let (low, high) = (&block.qs[g], usize::from(u16::from_le_bytes(block.qh[g])));
    let bits = |i: usize| (high >> (3 * i) & 7) << 8 | high >> 15 << 11;
    let entry = |i: usize| grids::IQ1_RAISED[usize::from(low[i]) | bits(i)];
    eights(w, [entry(0), entry(1), entry(2), entry(3)])
} }
codebook! { IQ1M Signs::Raised(grids::IQ1_RAISE), |block, w, g| {
    let (low, high) = (&block.qs[g], usize::from(u16::from_le_bytes(block.qh[g])));
    let entry = |i: usize| grids::IQ1_RAISED[usize::from(low[i]) | (high >> (4 * i) & 15) << 8];
    eights(w, [entry(0), entry(1), entry(2), entry(3)])
} }

/// [`Wide::codebook_sums`] row by row.
///
/// # Safety
/// Each row has a whole block.
#[inline(always)]
pub(super) unsafe fn row_sums<W: Wide, B: Codebook>(
    w: W,
    rows: Rows,
    g: usize,
    signs: W::I,
    x: &XBlock,
) -> [W::I; 2] {
    let mut minus = [0; 16];
    if matches!(B::SIGNS, Signs::Entries) {
        w.store_words(signs, &mut minus);
    }
    // SAFETY: the caller's promise.
    let first = sums(w, eight!(|I| unsafe { row_products::<W, B>(w, rows, I, g, &minus, x) }));
    let mut second = first;
    if W::ROWS == 16 {
        // SAFETY: as above.
        second = sums(w, eight!(|I| unsafe { row_products::<W, B>(w, rows, I + 8, g, &minus, x) }));
    }
    let sums = [w.join(first[0], second[0]), w.join(first[1], second[1])];
    let Signs::Raised(raise) = B::SIGNS else { return sums };
    let [low, high] = without(raise, x);
    [w.add(sums[0], w.words(low)), w.add(sums[1], w.words(high))]
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
        Signs::Entries => minus[row],
        // SAFETY: a block has a word of signs a group from there on.
        Signs::At(at) => unsafe { rows.at(row, at + 4 * g).cast::<u32>().read_unaligned() },
        Signs::Raised(_) => 0,
    };
    w.row_products(block.codes(w, g), minus, x)
}

/// Sums of the lower and of the upper four lanes of 8 rows, a row to a lane.
#[inline(always)]
pub(super) fn sums<W: Wide>(_: W, rows: [__m256i; 8]) -> [__m256i; 2] {
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
