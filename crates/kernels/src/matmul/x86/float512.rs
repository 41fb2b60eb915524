//! Weights that are floats with AVX-512: the 16 partial sums of a row and column are one vector.

use std::arch::x86_64::*;

use super::float::Float;
use super::tile::Next;
use crate::isa::Avx512;
use crate::matmul::float::{Brain, Half, Single};
use crate::matmul::job::RowJob;
use crate::quantize::LANES;

/// A float format as 16 singles at a time.
pub(super) trait Wide: Float {
    /// 16 weights as singles.
    ///
    /// # Safety
    /// The CPU has AVX-512.
    unsafe fn load16(weights: &[Self::Bytes; LANES]) -> __m512;
}

impl Wide for Single {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load16(weights: &[[u8; 4]; LANES]) -> __m512 {
        // SAFETY: the array is 64 readable bytes; the load needs no alignment.
        unsafe { _mm512_loadu_ps(weights.as_ptr().cast()) }
    }
}

impl Wide for Half {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load16(weights: &[[u8; 2]; LANES]) -> __m512 {
        _mm512_cvtph_ps(load32(weights))
    }
}

impl Wide for Brain {
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load16(weights: &[[u8; 2]; LANES]) -> __m512 {
        let words = _mm512_cvtepu16_epi32(load32(weights));
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load32(weights: &[[u8; 2]; LANES]) -> __m256i {
    // SAFETY: the array is 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(weights.as_ptr().cast()) }
}

/// Rows and columns that share their loads: 4 x 6 sums leave eight of the 32 registers.
const ROWS: usize = 4;
const COLS: usize = 6;

/// Rows at a time for one column: as many sums hide the latency of the multiply-adds.
const ROWS_ONE: usize = 8;

/// Rows that all columns pass over while the second-level cache holds them.
const ROWS_CACHED: usize = 32;

/// Computes the rows.
pub(super) fn rows<F: Wide>(_: Avx512, job: RowJob<'_>) {
    // SAFETY: the token proves that the CPU has the instructions.
    unsafe { rows_here::<F>(job) }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn rows_here<F: Wide>(mut job: RowJob<'_>) {
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
    for first in (0..rows).step_by(ROWS_CACHED) {
        let end = rows.min(first + ROWS_CACHED);
        for col in (0..cols).step_by(COLS) {
            match cols - col {
                1 => some_rows::<F, 1>(&mut job, first..end, col),
                2 => some_rows::<F, 2>(&mut job, first..end, col),
                3 => some_rows::<F, 3>(&mut job, first..end, col),
                4 => some_rows::<F, 4>(&mut job, first..end, col),
                5 => some_rows::<F, 5>(&mut job, first..end, col),
                _ => some_rows::<F, COLS>(&mut job, first..end, col),
            }
        }
    }
}

/// Some rows times `C` columns.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn some_rows<F: Wide, const C: usize>(
    job: &mut RowJob<'_>,
    rows: std::ops::Range<usize>,
    col: usize,
) {
    let whole = rows.start + rows.len() / ROWS * ROWS;
    for row in (rows.start..whole).step_by(ROWS) {
        cell::<F, ROWS, C>(job, row, col);
    }
    for row in whole..rows.end {
        cell::<F, 1, C>(job, row, col);
    }
}

/// The sums over all blocks of [`LANES`] weights but a last one that is not full.
// Slices of one length and sums that nobody else sees: or there would be checks between the multiply-adds, and the
// sums would wait in memory.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn whole_blocks<F: Wide, const R: usize, const C: usize>(
    weights: &[&[F::Bytes]; R],
    x: &[&[[f32; LANES]]; C],
    mut next: Next,
) -> [[__m512; C]; R] {
    let whole = weights[0].len() / LANES;
    let mut w: [&[[F::Bytes; LANES]]; R] = [&[]; R];
    for r in 0..R {
        w[r] = &weights[r].as_chunks().0[..whole];
    }
    let mut columns: [&[[f32; LANES]]; C] = [&[]; C];
    for c in 0..C {
        columns[c] = &x[c][..whole];
    }
    let mut sums = [[_mm512_setzero_ps(); C]; R];
    for block in 0..whole {
        if C == 1 {
            next.prefetch(R * size_of::<[F::Bytes; LANES]>());
        }
        let mut loaded = [_mm512_setzero_ps(); R];
        for r in 0..R {
            // SAFETY: this function has the target features.
            loaded[r] = unsafe { F::load16(&w[r][block]) };
        }
        for c in 0..C {
            let x = load(&columns[c][block]);
            for r in 0..R {
                sums[r][c] = _mm512_fmadd_ps(loaded[r], x, sums[r][c]);
            }
        }
    }
    sums
}

/// `R` rows times `C` columns.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn cell<F: Wide, const R: usize, const C: usize>(job: &mut RowJob<'_>, row: usize, col: usize) {
    let mut weights: [&[F::Bytes]; R] = [&[]; R];
    for r in 0..R {
        weights[r] = F::weights(job.row(row + r));
    }
    let mut x: [&[[f32; LANES]]; C] = [&[]; C];
    for c in 0..C {
        x[c] = job.x.float_column(col + c).as_chunks().0;
    }
    let whole = weights[0].len() / LANES;
    // With one column the next rows are asked for in the order in which they lie in memory.
    let next = Next::near(job, row, R);
    let mut sums = whole_blocks::<F, R, C>(&weights, &x, next);
    if weights[0].len() > whole * LANES {
        for r in 0..R {
            let mut padded = [F::ZERO; LANES];
            let rest = &weights[r][whole * LANES..];
            padded[..rest.len()].copy_from_slice(rest);
            // SAFETY: this function has the target features.
            let w = unsafe { F::load16(&padded) };
            for c in 0..C {
                sums[r][c] = _mm512_fmadd_ps(w, load(&x[c][whole]), sums[r][c]);
            }
        }
    }
    for c in 0..C {
        let out = job.out(col + c, row..row + R);
        for (r, out) in out.iter_mut().enumerate() {
            let sums = sums[r][c];
            *out = super::float::tree([
                _mm512_castps512_ps256(sums),
                _mm512_extractf32x8_ps::<1>(sums),
            ]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(x: &[f32; LANES]) -> __m512 {
    // SAFETY: the array is 64 readable bytes; the load needs no alignment.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
}
