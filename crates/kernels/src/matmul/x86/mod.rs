//! Products on x86-64: 8 rows to a vector with AVX2 and AVX-VNNI, 16 with AVX-512.
#![allow(unsafe_code, reason = "the step from token to target feature")]
#![allow(
    clippy::needless_range_loop,
    reason = "loops over constant ranges index several arrays of registers at once"
)]

mod avx2;
mod avx512;
mod avxvnni;
mod direct;
mod float;
mod float512;
mod tile;
mod unpack;

use std::arch::x86_64::*;

use super::float::{Brain, Half, Single};
use super::job::RowJob;
use crate::format::blocks::as_blocks;
use crate::format::{Format, blocks, with_block};
use crate::isa::{Avx2, Avx512, Isa};
pub(in crate::matmul) use tile::Tile;
use tile::{Block16, Next};
use unpack::Unpack;

/// Columns that pass over a tile together.
const COLUMNS: usize = 4;

/// For how many columns rows are unpacked again for each rather than once to a tile (bench `products`, columns `two` and
/// `four`). Two columns with 16 rows to a vector, weights in memory, two threads: 43 GB/s instead of 41 for `Q4_K`,
/// 45 instead of 36 for `IQ4_XS`; but 38 instead of 42 for `Q6_K`. With 8 rows most formats gain nothing.
fn direct_columns(isa: Isa, format: Format) -> usize {
    use Format::{IQ2_S, IQ2_XS, IQ2_XXS, IQ3_S, IQ3_XXS, Q6_K, Q8_0};
    match (isa, format) {
        (_, Q6_K | Q8_0) => 1,
        // Entries of codebooks are looked up one at a time for a tile.
        (Isa::Avx512Vbmi(_), IQ2_XXS | IQ2_XS | IQ2_S | IQ3_XXS | IQ3_S) => 4,
        (Isa::Avx512(_) | Isa::Avx512Vbmi(_), _) => 2,
        _ => 1,
    }
}

/// Computes the rows; with AVX-512 the columns pass over tiles of 16 rows at a time.
pub(super) fn rows(isa: Isa, avx2: Avx2, job: RowJob<'_>, tile: &mut Tile) {
    // SAFETY: the token proves that the CPU has the instructions.
    unsafe { rows_of_format(job, isa, avx2, tile) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rows_of_format(job: RowJob<'_>, isa: Isa, avx2: Avx2, tile: &mut Tile) {
    match (job.format, isa.avx512()) {
        (Format::F32, Some(token)) => return float512::rows::<Single>(token, job),
        (Format::F16, Some(token)) => return float512::rows::<Half>(token, job),
        (Format::BF16, Some(token)) => return float512::rows::<Brain>(token, job),
        _ => {}
    }
    match job.format {
        Format::F32 => float::rows::<Single>(job),
        Format::F16 => float::rows::<Half>(job),
        Format::BF16 => float::rows::<Brain>(job),
        format => with_block!(format, B => block_rows::<B>(job, isa, avx2, tile), float => {}),
    }
}

/// Computes the rows, from the first on, that need no tile; returns how many.
fn direct_rows(job: &mut RowJob<'_>, isa: Isa, avx2: Avx2) -> usize {
    match job.format {
        Format::Q4_0 => direct::rows::<blocks::Q4_0>(isa, avx2, job),
        Format::Q4_1 => direct::rows::<blocks::Q4_1>(isa, avx2, job),
        Format::Q5_0 => direct::rows::<blocks::Q5_0>(isa, avx2, job),
        Format::Q5_1 => direct::rows::<blocks::Q5_1>(isa, avx2, job),
        Format::Q8_0 => direct::rows::<blocks::Q8_0>(isa, avx2, job),
        Format::IQ4_NL => direct::rows::<blocks::IQ4NL>(isa, avx2, job),
        Format::MXFP4 => direct::rows::<blocks::MXFP4>(isa, avx2, job),
        Format::IQ4_XS => direct::rows::<blocks::IQ4XS>(isa, avx2, job),
        Format::Q4_K => direct::rows::<blocks::Q4K>(isa, avx2, job),
        Format::Q5_K => direct::rows::<blocks::Q5K>(isa, avx2, job),
        Format::Q6_K => direct::rows::<blocks::Q6K>(isa, avx2, job),
        Format::IQ2_XXS => direct::rows::<blocks::IQ2XXS>(isa, avx2, job),
        Format::IQ2_XS => direct::rows::<blocks::IQ2XS>(isa, avx2, job),
        Format::IQ2_S => direct::rows::<blocks::IQ2S>(isa, avx2, job),
        Format::IQ3_XXS => direct::rows::<blocks::IQ3XXS>(isa, avx2, job),
        Format::IQ3_S => direct::rows::<blocks::IQ3S>(isa, avx2, job),
        Format::IQ1_S => direct::rows::<blocks::IQ1S>(isa, avx2, job),
        Format::IQ1_M => direct::rows::<blocks::IQ1M>(isa, avx2, job),
        Format::Q2_K => direct::rows::<blocks::Q2K>(isa, avx2, job),
        Format::Q3_K => direct::rows::<blocks::Q3K>(isa, avx2, job),
        Format::NVFP4 => direct::rows::<blocks::NVFP4>(isa, avx2, job),
        // With 8 rows a tile, whose digits are found by comparing bytes, is a little faster.
        Format::TQ1_0 if isa.avx512().is_some() => direct::rows::<blocks::TQ1_0>(isa, avx2, job),
        Format::TQ2_0 => direct::rows::<blocks::TQ2_0>(isa, avx2, job),
        Format::Q1_0 => direct::rows::<blocks::Q1_0>(isa, avx2, job),
        Format::Q2_0 => direct::rows::<blocks::Q2_0>(isa, avx2, job),
        _ => 0,
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn block_rows<B: Unpack>(mut job: RowJob<'_>, isa: Isa, avx2: Avx2, tile: &mut Tile) {
    let direct = job.x.cols() <= direct_columns(isa, job.format);
    let done = if direct { direct_rows(&mut job, isa, avx2) } else { 0 };
    // Vectors of 16 rows pay if there are columns to share them.
    let wide = isa.avx512().filter(|_| job.x.cols() > 1);
    let mut first = done;
    while first < job.rows.len() {
        let rows = job.rows.len() - first;
        first += match (rows, wide) {
            (32.., Some(token)) => wide_group::<B, 2>(&mut job, first, token, tile),
            (16.., Some(token)) => wide_group::<B, 1>(&mut job, first, token, tile),
            (9.., _) => group::<B, 2>(&mut job, first, rows.min(16), isa, tile),
            _ => group::<B, 1>(&mut job, first, rows, isa, tile),
        };
    }
}

/// `rows` rows from `first` on, in `SIDES` groups of 8; a last group that is not full repeats the last
/// row. Returns `rows`.
#[target_feature(enable = "avx2,fma,f16c")]
fn group<B: Unpack, const SIDES: usize>(
    job: &mut RowJob<'_>,
    first: usize,
    rows: usize,
    isa: Isa,
    tile: &mut Tile,
) -> usize {
    let cols = job.x.cols();
    let weights: [[&[B]; 8]; SIDES] = std::array::from_fn(|side| {
        std::array::from_fn(|row| as_blocks(job.row(first + (8 * side + row).min(rows - 1))))
    });
    let blocks = weights[0][0].len();
    let step = Tile::step(blocks, B::GROUPS, 1, cols);
    let mut next = Next::new(job, first, 8 * SIDES);
    for start in (0..blocks).step_by(step) {
        let end = blocks.min(start + step);
        for (side, weights) in weights.iter().enumerate() {
            for (block, out) in (start..end).zip(tile.0.chunks_exact_mut(B::GROUPS)) {
                next.prefetch(8 * size_of::<B>());
                // SAFETY: this function has the target features.
                unsafe { B::unpack(each_at(*weights, block), side, out) }
            }
        }
        let blocks = &tile.0[..(end - start) * B::GROUPS];
        let mut part = Part { blocks, job: &mut *job, first, rows, start: start * B::GROUPS };
        match isa {
            Isa::AvxVnni(token) => avxvnni::all_columns::<B, SIDES>(token, &mut part),
            _ => avx2::all_columns::<B, SIDES>(&mut part),
        }
    }
    rows
}

/// `GROUPS` times 16 rows from `first` on.
#[target_feature(enable = "avx2,fma,f16c")]
fn wide_group<B: Unpack, const GROUPS: usize>(
    job: &mut RowJob<'_>,
    first: usize,
    token: Avx512,
    tile: &mut Tile,
) -> usize {
    let weights: [[[&[B]; 8]; 2]; GROUPS] = std::array::from_fn(|group| {
        std::array::from_fn(|side| {
            std::array::from_fn(|row| as_blocks(job.row(first + 16 * group + 8 * side + row)))
        })
    });
    let blocks = weights[0][0][0].len();
    // The groups share the tile.
    let step = Tile::step(blocks, B::GROUPS, GROUPS, job.x.cols());
    let mut next = Next::new(job, first, 16 * GROUPS);
    for start in (0..blocks).step_by(step) {
        let len = blocks.min(start + step) - start;
        let (used, _) = tile.0.split_at_mut(GROUPS * len * B::GROUPS);
        for (weights, tile) in weights.iter().zip(used.chunks_exact_mut(len * B::GROUPS)) {
            for (side, weights) in weights.iter().enumerate() {
                for (block, out) in (start..).zip(tile.chunks_exact_mut(B::GROUPS)) {
                    next.prefetch(8 * size_of::<B>());
                    // SAFETY: this function has the target features.
                    unsafe { B::unpack(each_at(*weights, block), side, out) }
                }
            }
        }
        let each = len * B::GROUPS;
        let blocks = std::array::from_fn(|group| &used[group * each..(group + 1) * each]);
        let mut tiles = avx512::Tiles { blocks, job: &mut *job, first, start: start * B::GROUPS };
        avx512::all_columns::<B, GROUPS>(token, &mut tiles);
    }
    16 * GROUPS
}

/// A tile of unpacked rows, and where its sums belong.
struct Part<'j, 'a, 't> {
    blocks: &'t [Block16],
    job: &'j mut RowJob<'a>,
    first: usize,
    rows: usize,
    /// First block of 32 of the tile within the rows.
    start: usize,
}

impl Part<'_, '_, '_> {
    /// The sums of a column so far (they wait in the result), 8 rows to a vector.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn sums(&mut self, col: usize) -> [__m256; 2] {
        let mut sums = [_mm256_setzero_ps(); 2];
        if self.start > 0 {
            let out = self.job.out(col, self.first..self.first + self.rows);
            for (sum, out) in sums.iter_mut().zip(out.chunks(8)) {
                *sum = load_some(out);
            }
        }
        sums
    }

    /// Puts the sums back.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    fn set_sums(&mut self, col: usize, sums: [__m256; 2]) {
        let out = self.job.out(col, self.first..self.first + self.rows);
        for (sum, out) in sums.into_iter().zip(out.chunks_mut(8)) {
            store_some(out, sum);
        }
    }
}

/// Item `index` of each slice.
// A loop, not `map`: from six slices on LLVM calls the closure's driver for each block, and all sums
// go through memory around the call.
#[inline(always)]
fn each_at<T, const N: usize>(slices: [&[T]; N], index: usize) -> [&T; N] {
    let mut items = [&slices[0][index]; N];
    for i in 1..N {
        items[i] = &slices[i][index];
    }
    items
}

/// Up to 8 values, the rest zero.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load_some(values: &[f32]) -> __m256 {
    let mut all = [0.0; 8];
    let all = values.first_chunk().unwrap_or_else(|| {
        all[..values.len()].copy_from_slice(values);
        &all
    });
    // SAFETY: the array is 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_ps(all.as_ptr()) }
}

/// The first lanes, as many as there is room for.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store_some(out: &mut [f32], values: __m256) {
    if let Some(out) = out.first_chunk_mut::<8>() {
        // SAFETY: the array is 32 writable bytes; the store needs no alignment.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), values) };
        return;
    }
    let mut all = [0.0; 8];
    // SAFETY: as above.
    unsafe { _mm256_storeu_ps(all.as_mut_ptr(), values) };
    out.copy_from_slice(&all[..out.len()]);
}
