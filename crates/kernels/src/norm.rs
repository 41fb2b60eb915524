//! Root-mean-square normalisation, of whole token vectors and of heads.

#![allow(unsafe_code, reason = "threads write disjoint rows")]

use crate::compute::Compute;
use crate::disjoint::Disjoint;
use crate::math;
use crate::shape::ShapeError;
use crate::simd::{Array, Kernel, LANES, Simd, dispatch};

/// Items of a chunk: about 2 us of work, so that a single token's norm never wakes a thread.
const CHUNK_ITEMS: usize = 16 * 1024;

/// Sums `term(x)` as this crate sums everything: lane j takes items j, j + 16, ..., the tail goes on
/// in lane order, and the lanes are added as a tree.
#[inline(always)]
fn square_sum<S: Simd>(s: S, x: &[f32]) -> f32 {
    let (chunks, rest) = x.as_chunks::<LANES>();
    let mut sum = s.zero();
    for chunk in chunks {
        let x = s.load(chunk);
        sum = s.fma(x, x, sum);
    }
    let mut lanes: Array = s.to_array(sum);
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = x.mul_add(*x, *lane);
    }
    crate::simd::sum_lanes(&lanes)
}

/// `y = x * (1 / sqrt(mean(x^2) + eps)) * weight` of one row.
struct Row<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
}

impl Kernel for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let Row { x, weight, eps, y } = self;
        let factor = factor(square_sum(s, x), x.len(), eps);
        let (xs, xs_rest) = x.as_chunks::<LANES>();
        let (ys, ys_rest) = y.as_chunks_mut::<LANES>();
        let (ws, ws_rest) = weight.as_chunks::<LANES>();
        let splat = s.splat(factor);
        for ((y, x), w) in ys.iter_mut().zip(xs).zip(ws) {
            s.store(s.mul(s.mul(s.load(x), splat), s.load(w)), y);
        }
        for ((y, x), w) in ys_rest.iter_mut().zip(xs_rest).zip(ws_rest) {
            *y = x * factor * w;
        }
    }
}

#[inline(always)]
fn factor(square_sum: f32, len: usize, eps: f32) -> f32 {
    1.0 / (square_sum / len as f32 + eps).sqrt()
}

/// The same in place.
struct RowInPlace<'a> {
    x: &'a mut [f32],
    weight: Option<&'a [f32]>,
    eps: f32,
}

impl Kernel for RowInPlace<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let RowInPlace { x, weight, eps } = self;
        let factor = factor(square_sum(s, x), x.len(), eps);
        match weight {
            None => math::map_in_place(s, x, Times(factor)),
            Some(weight) => math::zip_in_place(s, x, weight, Times(factor)),
        }
    }
}

/// x times a factor (times y).
#[derive(Copy, Clone)]
struct Times(f32);

impl math::Unary for Times {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F) -> S::F {
        s.mul(x, s.splat(self.0))
    }
}

impl math::Binary for Times {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F, y: S::F) -> S::F {
        s.mul(s.mul(x, s.splat(self.0)), y)
    }
}

/// Normalises each row of `x` into `out`: multiplied by `1 / sqrt(mean(x^2) + eps)`, then by
/// `weight`, item by item. A row has as many items as `weight`; its bits depend on it alone.
///
/// # Errors
/// [`ShapeError`] if `x` is not whole rows or `out` has another length.
pub fn rms_norm(
    compute: &Compute,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
) -> Result<(), ShapeError> {
    let len = weight.len();
    let rows = ShapeError::rows("normalisation", x.len(), len)?;
    ShapeError::length("output of a normalisation", x.len(), out.len())?;
    let isa = compute.isa();
    let out = Disjoint::new(out);
    compute.pool().run_ranges(rows, rows_per_chunk(len), &|range, _| {
        for row in range {
            let at = row * len..(row + 1) * len;
            // SAFETY: each row belongs to one chunk of the job.
            let y = unsafe { out.part(at.clone()) };
            dispatch(isa, Row { x: &x[at], weight, eps, y });
        }
    });
    Ok(())
}

/// [`rms_norm`] in place. For heads, `weight` has the head's dimension and a row is a head.
///
/// # Errors
/// [`ShapeError`] if `x` is not whole rows.
pub fn rms_norm_in_place(
    compute: &Compute,
    x: &mut [f32],
    weight: &[f32],
    eps: f32,
) -> Result<(), ShapeError> {
    normalise_in_place(compute, x, weight.len(), Some(weight), eps)
}

/// Rows of `len` items multiplied by `1 / sqrt(mean(x^2) + eps)`, without a weight.
///
/// # Errors
/// [`ShapeError`] if `x` is not whole rows.
pub fn rms_norm_unweighted_in_place(
    compute: &Compute,
    x: &mut [f32],
    len: usize,
    eps: f32,
) -> Result<(), ShapeError> {
    normalise_in_place(compute, x, len, None, eps)
}

fn normalise_in_place(
    compute: &Compute,
    x: &mut [f32],
    len: usize,
    weight: Option<&[f32]>,
    eps: f32,
) -> Result<(), ShapeError> {
    let rows = ShapeError::rows("normalisation", x.len(), len)?;
    let isa = compute.isa();
    let x = Disjoint::new(x);
    compute.pool().run_ranges(rows, rows_per_chunk(len), &|range, _| {
        for row in range {
            // SAFETY: each row belongs to one chunk of the job.
            let x = unsafe { x.part(row * len..(row + 1) * len) };
            dispatch(isa, RowInPlace { x, weight, eps });
        }
    });
    Ok(())
}

/// Rows that are worth a thread's while.
fn rows_per_chunk(len: usize) -> usize {
    (CHUNK_ITEMS / len).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::testing::{Random, assert_same_bits};

    #[test]
    fn agrees_with_f64_and_bits_are_equal_everywhere() {
        let mut random = Random::new(7);
        for len in [1, 3, 16, 17, 64, 100, 576, 2048] {
            let rows = 1 + 70_000 / len;
            let rows = if len > 500 { rows } else { rows.min(9) };
            let x = random.normals(rows * len, 3.0);
            let weight = random.normals(len, 1.0);
            let mut expected: Option<Vec<f32>> = None;
            for isa in Isa::available() {
                for threads in [1, 3] {
                    let compute = Compute::new(isa, threads).unwrap();
                    let mut out = vec![0.0; x.len()];
                    rms_norm(&compute, &x, &weight, 1e-5, &mut out).unwrap();
                    let mut in_place = x.clone();
                    rms_norm_in_place(&compute, &mut in_place, &weight, 1e-5).unwrap();
                    assert_same_bits(&out, &in_place);
                    let mut last = vec![0.0; len];
                    rms_norm(&compute, &x[(rows - 1) * len..], &weight, 1e-5, &mut last).unwrap();
                    assert_same_bits(&last, &out[(rows - 1) * len..]);
                    let expected = expected.get_or_insert_with(|| out.clone());
                    assert_same_bits(&out, expected);
                }
            }
            for (y, x) in expected.unwrap().chunks(len).zip(x.chunks(len)) {
                let squares: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
                let factor = 1.0 / (squares / len as f64 + 1e-5).sqrt();
                for ((y, x), w) in y.iter().zip(x).zip(&weight) {
                    let exact = f64::from(*x) * factor * f64::from(*w);
                    assert!((f64::from(*y) - exact).abs() <= 1e-6 * exact.abs(), "{y} {exact}");
                }
            }
        }
    }

    #[test]
    fn without_weight_it_is_the_weight_of_ones() {
        let compute = Compute::new(Isa::detect(), 1).unwrap();
        let x = Random::new(1).normals(5 * 40, 1.0);
        let (mut a, mut b) = (x.clone(), x);
        rms_norm_unweighted_in_place(&compute, &mut a, 40, 1e-6).unwrap();
        rms_norm_in_place(&compute, &mut b, &[1.0; 40], 1e-6).unwrap();
        assert_same_bits(&a, &b);
    }

    #[test]
    fn wrong_lengths_are_errors_and_nan_stays_in_its_row() {
        let compute = Compute::new(Isa::detect(), 2).unwrap();
        let mut out = [0.0; 6];
        assert!(rms_norm(&compute, &[1.0; 6], &[1.0; 4], 0.0, &mut out).is_err());
        assert!(rms_norm(&compute, &[1.0; 6], &[], 0.0, &mut out).is_err());
        assert!(rms_norm(&compute, &[1.0; 3], &[1.0; 3], 0.0, &mut out).is_err());
        let x = [f32::NAN, 1.0, 1.0, 2.0, f32::INFINITY, 1.0];
        rms_norm(&compute, &x, &[1.0; 2], 0.0, &mut out).unwrap();
        assert!(out[0].is_nan() && out[1].is_nan() && out[2].is_finite() && out[4].is_nan());
    }
}
