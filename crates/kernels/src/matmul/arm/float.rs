//! Weights that are floats: 16 partial sums in four vectors per row and column.

use std::array::from_fn;

use crate::matmul::float::{Brain, Half, Single, Stored};
use crate::matmul::job::RowJob;
use crate::neon::{self, F32};
use crate::quantize::LANES;

/// A float format as 4 singles at a time.
pub(super) trait Float: Stored {
    /// Four weights as singles.
    fn load(weights: &[Self::Bytes; 4]) -> F32;
}

impl Float for Single {
    #[inline(always)]
    fn load(weights: &[[u8; 4]; 4]) -> F32 {
        neon::singles(weights)
    }
}

impl Float for Half {
    #[inline(always)]
    fn load(weights: &[[u8; 2]; 4]) -> F32 {
        neon::halves(weights)
    }
}

impl Float for Brain {
    #[inline(always)]
    fn load(weights: &[[u8; 2]; 4]) -> F32 {
        neon::brains(weights)
    }
}

/// Rows at a time: with one column 4 x 4 sums, with more 2 x 2 x 4, half of the 32 registers.
pub(super) fn rows<F: Float>(mut job: RowJob<'_>) {
    let (rows, cols) = (job.rows.len(), job.x.cols());
    let mut row = 0;
    while row < rows {
        row += match (rows - row, cols) {
            (4.., 1) => columns::<F, 4>(&mut job, row),
            (2.., 2..) => columns::<F, 2>(&mut job, row),
            _ => columns::<F, 1>(&mut job, row),
        };
    }
}

/// `R` rows in all columns; returns `R`.
fn columns<F: Float, const R: usize>(job: &mut RowJob<'_>, row: usize) -> usize {
    let cols = job.x.cols();
    for col in (0..cols).step_by(2) {
        if cols - col == 1 {
            cell::<F, R, 1>(job, row, col);
        } else {
            cell::<F, R, 2>(job, row, col);
        }
    }
    R
}

/// `R` rows times `C` columns.
#[inline(always)]
fn cell<F: Float, const R: usize, const C: usize>(job: &mut RowJob<'_>, row: usize, col: usize) {
    let weights: [&[F::Bytes]; R] = from_fn(|r| F::weights(job.row(row + r)));
    let x: [&[[f32; LANES]]; C] = from_fn(|c| job.x.float_column(col + c).as_chunks().0);
    let whole = weights[0].len() / LANES;
    let blocks: [&[[F::Bytes; LANES]]; R] = weights.map(|row| &row.as_chunks().0[..whole]);
    let x_whole = x.map(|x| &x[..whole]);
    let mut sums = [[[neon::floats(0.0); 4]; C]; R];
    for block in 0..whole {
        multiply::<F, R, C>(blocks, x_whole, block, &mut sums);
    }
    if weights[0].len() > whole * LANES {
        let padded: [[F::Bytes; LANES]; R] = weights.map(|row| {
            let mut padded = [F::ZERO; LANES];
            let rest = &row[whole * LANES..];
            padded[..rest.len()].copy_from_slice(rest);
            padded
        });
        let padded = padded.each_ref().map(std::slice::from_ref);
        multiply::<F, R, C>(padded, x.map(|x| &x[whole..]), 0, &mut sums);
    }
    for c in 0..C {
        let out = job.out(col + c, row..row + R);
        for (r, out) in out.iter_mut().enumerate() {
            *out = tree(sums[r][c]);
        }
    }
}

/// Sixteen weights of each row times sixteen values of each column: block `at`.
#[inline(always)]
fn multiply<F: Float, const R: usize, const C: usize>(
    weights: [&[[F::Bytes; LANES]]; R],
    x: [&[[f32; LANES]]; C],
    at: usize,
    sums: &mut [[[F32; 4]; C]; R],
) {
    for part in 0..4 {
        let mut values = [neon::floats(0.0); C];
        for c in 0..C {
            values[c] = neon::load(&x[c][at].as_chunks().0[part]);
        }
        for r in 0..R {
            let w = F::load(&weights[r][at].as_chunks().0[part]);
            for c in 0..C {
                sums[r][c][part] = neon::fma(sums[r][c][part], w, values[c]);
            }
        }
    }
}

/// Lanes 8 apart, then 4, 2, 1.
#[inline(always)]
fn tree(sums: [F32; 4]) -> f32 {
    let (low, high) = (neon::add(sums[0], sums[2]), neon::add(sums[1], sums[3]));
    let mut four = [0.0; 4];
    neon::store(neon::add(low, high), &mut four);
    (four[0] + four[2]) + (four[1] + four[3])
}
