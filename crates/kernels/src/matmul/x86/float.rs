//! Weights that are floats: 16 partial sums in two vectors per row and column.

use std::arch::x86_64::*;

use super::tile::Next;
use crate::matmul::float::{Brain, Half, Single, Stored};
use crate::matmul::job::RowJob;
use crate::quantize::LANES;

/// A float format as 8 singles at a time.
pub(super) trait Float: Stored {
    /// 8 weights as singles.
    ///
    /// # Safety
    /// The CPU has AVX2, FMA and F16C.
    unsafe fn load(weights: &[Self::Bytes; 8]) -> __m256;
}

impl Float for Single {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(weights: &[[u8; 4]; 8]) -> __m256 {
        // SAFETY: the array is 32 readable bytes; the load needs no alignment.
        unsafe { _mm256_loadu_ps(weights.as_ptr().cast()) }
    }
}

impl Float for Half {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(weights: &[[u8; 2]; 8]) -> __m256 {
        _mm256_cvtph_ps(load16(weights))
    }
}

impl Float for Brain {
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c")]
    unsafe fn load(weights: &[[u8; 2]; 8]) -> __m256 {
        let wide = _mm256_cvtepu16_epi32(load16(weights));
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load16(weights: &[[u8; 2]; 8]) -> __m128i {
    // SAFETY: the array is 16 readable bytes; the load needs no alignment.
    unsafe { _mm_loadu_si128(weights.as_ptr().cast()) }
}

/// Rows and columns that share their loads: 2 x 3 x 2 sums leave four of the 16 registers.
const ROWS: usize = 2;
const COLS: usize = 3;

/// Rows at a time for one column: 4 x 2 sums hide the latency of the multiply-adds.
const ROWS_ONE: usize = 4;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn rows<F: Float>(mut job: RowJob<'_>) {
    let (rows, cols) = (job.rows.len(), job.x.cols());
    if cols == 1 {
        let whole = rows - rows % ROWS_ONE;
        for row in (0..whole).step_by(ROWS_ONE) {
            cell::<F, ROWS_ONE, 1>(&mut job, row, 0);
        }
        for row in whole..rows {
            cell::<F, 1, 1>(&mut job, row, 0);
        }
        return;
    }
    let whole = rows - rows % ROWS;
    for row in (0..whole).step_by(ROWS) {
        columns::<F, ROWS>(&mut job, row);
    }
    for row in whole..rows {
        columns::<F, 1>(&mut job, row);
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn columns<F: Float, const R: usize>(job: &mut RowJob<'_>, row: usize) {
    let cols = job.x.cols();
    for col in (0..cols).step_by(COLS) {
        match cols - col {
            1 => cell::<F, R, 1>(job, row, col),
            2 => cell::<F, R, 2>(job, row, col),
            _ => cell::<F, R, COLS>(job, row, col),
        }
    }
}

/// `R` rows times `C` columns.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn cell<F: Float, const R: usize, const C: usize>(job: &mut RowJob<'_>, row: usize, col: usize) {
    let weights: [&[F::Bytes]; R] = std::array::from_fn(|r| F::weights(job.row(row + r)));
    let x: [&[[f32; 8]]; C] = std::array::from_fn(|c| job.x.float_column(col + c).as_chunks().0);
    let whole = weights[0].len() / LANES;
    let mut sums = [[[_mm256_setzero_ps(); 2]; C]; R];
    let eights: [&[[F::Bytes; 8]]; R] =
        std::array::from_fn(|r| &weights[r].as_chunks().0[..2 * whole]);
    let x_whole: [&[[f32; 8]]; C] = std::array::from_fn(|c| &x[c][..2 * whole]);
    // With one column the next rows are asked for in the order in which they lie in memory.
    let mut next = Next::near(job, row, R);
    for block in 0..whole {
        if C == 1 {
            next.prefetch(R * size_of::<[F::Bytes; LANES]>());
        }
        for half in 0..2 {
            let at = 2 * block + half;
            // SAFETY: this function has the target features.
            let w: [__m256; R] = std::array::from_fn(|r| unsafe { F::load(&eights[r][at]) });
            for c in 0..C {
                let x = load(&x_whole[c][at]);
                for r in 0..R {
                    sums[r][c][half] = _mm256_fmadd_ps(w[r], x, sums[r][c][half]);
                }
            }
        }
    }
    if weights[0].len() > whole * LANES {
        for r in 0..R {
            let mut padded = [F::ZERO; LANES];
            let rest = &weights[r][whole * LANES..];
            padded[..rest.len()].copy_from_slice(rest);
            for (half, padded) in padded.as_chunks().0.iter().enumerate() {
                // SAFETY: this function has the target features.
                let w = unsafe { F::load(padded) };
                for c in 0..C {
                    let x = load(&x[c][2 * whole + half]);
                    sums[r][c][half] = _mm256_fmadd_ps(w, x, sums[r][c][half]);
                }
            }
        }
    }
    for (c, _) in x.iter().enumerate() {
        let out = job.out(col + c, row..row + R);
        for (r, out) in out.iter_mut().enumerate() {
            *out = tree(sums[r][c]);
        }
    }
}

/// Lanes 8 apart, then 4, 2, 1.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn tree(sums: [__m256; 2]) -> f32 {
    let eight = _mm256_add_ps(sums[0], sums[1]);
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    let one = _mm_add_ss(two, _mm_movehdup_ps(two));
    _mm_cvtss_f32(one)
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load(x: &[f32; 8]) -> __m256 {
    // SAFETY: the array is 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}
