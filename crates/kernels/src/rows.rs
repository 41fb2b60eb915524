//! Operations on rows that a mixture of experts needs: softmax of short ones, weighted sums of chosen ones.
#![allow(unsafe_code, reason = "threads write disjoint rows")]

use crate::compute::Compute;
use crate::disjoint::Disjoint;
use crate::math;
use crate::shape::ShapeError;
use crate::simd::{Kernel, LANES, Simd, dispatch, sum_lanes};

struct Rows<'a> {
    x: &'a mut [f32],
    len: usize,
}

#[derive(Copy, Clone)]
struct ExpMinus(f32);

impl math::Unary for ExpMinus {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F) -> S::F {
        math::exp(s, s.sub(x, s.splat(self.0)))
    }
}

#[derive(Copy, Clone)]
struct Divide(f32);

impl math::Unary for Divide {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F) -> S::F {
        s.div(x, s.splat(self.0))
    }
}

impl Kernel for Rows<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        for row in self.x.chunks_exact_mut(self.len) {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            math::map_in_place(s, row, ExpMinus(max));
            let mut lanes = [0.0; LANES];
            for items in row.chunks(LANES) {
                lanes.iter_mut().zip(items).for_each(|(lane, item)| *lane += item);
            }
            math::map_in_place(s, row, Divide(sum_lanes(&lanes)));
        }
    }
}

/// Each row of `len` items becomes its softmax, `e^(x - max)` divided by their sum. The sum has 16 partial
/// sums, lane `j` taking items `j, j + 16, ...`, added as a tree, like every sum in this crate. What is no number makes its whole row none.
///
/// # Errors
/// [`ShapeError`] if `x` is not whole rows.
pub fn softmax_rows(compute: &Compute, x: &mut [f32], len: usize) -> Result<(), ShapeError> {
    ShapeError::rows("softmax", x.len(), len)?;
    // A router's scores of a batch cost less than waking a thread for most batches.
    dispatch(compute.isa(), Rows { x, len });
    Ok(())
}

/// A row's items of a chunk: a few microseconds of work.
const CHUNK_ITEMS: usize = 8 * 1024;

#[derive(Copy, Clone)]
struct AddScaled(f32);

impl math::Binary for AddScaled {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F, y: S::F) -> S::F {
        s.fma(y, s.splat(self.0), x)
    }
}

struct AddRow<'a> {
    factor: f32,
    x: &'a mut [f32],
    y: &'a [f32],
}

impl Kernel for AddRow<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        math::zip_in_place(s, self.x, self.y, AddScaled(self.factor));
    }
}

/// A row of one matrix that is added to a row of another, multiplied by a factor.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct ScaledRow {
    /// The row that is added to.
    pub to: u32,
    /// What the added row is multiplied by.
    pub factor: f32,
}

/// For each `i`, `x[rows[i].to] += rows[i].factor * y[i]`, one fused multiply-add an item: rows of
/// `len` items, of `y` as many as of `rows`. For experts that saw some of the tokens.
///
/// # Errors
/// [`ShapeError`] if `x` or `y` are not whole rows, `y` has not `rows.len()` of them, or the rows that
/// are added to do not ascend or go beyond `x`.
pub fn add_scaled_rows(
    compute: &Compute,
    x: &mut [f32],
    y: &[f32],
    len: usize,
    rows: &[ScaledRow],
) -> Result<(), ShapeError> {
    let count = ShapeError::rows("rows that are added to", x.len(), len)?;
    ShapeError::length("rows that are added", rows.len().saturating_mul(len), y.len())?;
    let mut least = 0;
    for row in rows {
        let to = row.to as usize;
        ShapeError::range("ascending rows that are added to", to, least..=count.saturating_sub(1))?;
        least = to + 1;
    }
    let isa = compute.isa();
    let x = Disjoint::new(x);
    let per_chunk = (CHUNK_ITEMS / len).max(1);
    compute.pool().run_ranges(rows.len(), per_chunk, &|range, _| {
        for at in range {
            let ScaledRow { to, factor } = rows[at];
            let to = to as usize;
            // SAFETY: rows ascend, as checked above, so no two are the same; each `at` belongs to one
            // chunk of the job, and `to` is a row of `x`.
            let x = unsafe { x.part(to * len..(to + 1) * len) };
            let y = &y[at * len..(at + 1) * len];
            dispatch(isa, AddRow { factor, x, y });
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::testing::{Random, assert_same_bits};

    #[test]
    fn agrees_with_f64_and_bits_are_equal_everywhere() {
        let mut random = Random::new(5);
        for len in [1, 2, 8, 17, 60, 128, 384] {
            let x = random.normals(3 * len, 4.0);
            let mut expected: Option<Vec<f32>> = None;
            for isa in Isa::available() {
                let mut y = x.clone();
                softmax_rows(&Compute::new(isa, 1).unwrap(), &mut y, len).unwrap();
                assert_same_bits(&y, expected.get_or_insert_with(|| y.clone()));
            }
            for (x, y) in x.chunks(len).zip(expected.unwrap().chunks(len)) {
                let sum: f64 = x.iter().map(|x| f64::from(*x).exp()).sum();
                for (x, y) in x.iter().zip(y) {
                    let exact = f64::from(*x).exp() / sum;
                    assert!((f64::from(*y) - exact).abs() <= 3e-6 * exact, "{y} {exact}");
                }
            }
        }
    }

    #[test]
    fn scaled_rows_are_added_where_they_belong() {
        let mut random = Random::new(4);
        let (len, tokens) = (48, 700);
        let (x, all) = (random.normals(tokens * len, 1.0), random.normals(tokens * len, 1.0));
        let rows: Vec<ScaledRow> = (0..tokens as u32)
            .filter(|to| to % 3 != 1)
            .map(|to| ScaledRow { to, factor: to as f32 * 0.25 - 3.0 })
            .collect();
        let y = &all[..rows.len() * len];
        let mut expected = x.clone();
        for (row, y) in rows.iter().zip(y.chunks(len)) {
            for (x, y) in expected[row.to as usize * len..].iter_mut().zip(y) {
                *x = y.mul_add(row.factor, *x);
            }
        }
        for isa in Isa::available() {
            let compute = Compute::new(isa, 2).unwrap();
            let mut z = x.clone();
            add_scaled_rows(&compute, &mut z, y, len, &rows).unwrap();
            assert_same_bits(&z, &expected);
            let twice = [rows[1], rows[1]];
            assert!(add_scaled_rows(&compute, &mut z, &y[..2 * len], len, &twice).is_err());
            let beyond = [ScaledRow { to: tokens as u32, factor: 1.0 }];
            assert!(add_scaled_rows(&compute, &mut z, &y[..len], len, &beyond).is_err());
        }
    }

    #[test]
    fn nan_poisons_its_row_alone() {
        let mut x = [1.0, f32::NAN, 3.0, 4.0];
        softmax_rows(&Compute::new(Isa::detect(), 1).unwrap(), &mut x, 2).unwrap();
        assert!(x[0].is_nan() && x[1].is_nan() && x[2] + x[3] > 0.999);
        assert!(softmax_rows(&Compute::new(Isa::detect(), 1).unwrap(), &mut x, 3).is_err());
    }
}
