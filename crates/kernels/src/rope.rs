//! Rotary position embedding: pairs of a head's items are turned by an angle that grows with the
//! position.
//!
//! Sines and cosines are computed in f64 by this file's own polynomials (not the system's library,
//! whose last bit differs between systems), once for all heads of a token.
#![allow(unsafe_code, reason = "threads write disjoint rows")]

use crate::compute::Compute;
use crate::disjoint::Disjoint;
use crate::shape::ShapeError;
use crate::simd::{Kernel, Simd, dispatch};

pub use crate::rope_scaling::{RopeScaling, inverse_frequencies, yarn_magnitude};

/// Items of a chunk when rotating: a few microseconds of work.
const CHUNK_ITEMS: usize = 16 * 1024;
/// Angles of a chunk when preparing.
const CHUNK_ANGLES: usize = 2 * 1024;

/// Which items make a pair.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum RopeStyle {
    /// Items 2i and 2i + 1 (llama).
    Norm,
    /// Items i and i + dims / 2 (GPT-NeoX, Qwen, Gemma).
    Neox,
}

/// The frequencies of a model's rotation.
#[derive(Clone, PartialEq, Debug)]
pub struct RopeTable {
    inverse_frequencies: Vec<f64>,
    magnitude: f32,
}

impl RopeTable {
    /// A table of one frequency (radians per position) for each pair, slow or fast as the engine
    /// says ([`inverse_frequencies`]); rotated items are also multiplied by `magnitude`
    /// ([`yarn_magnitude`], 1 for other scalings).
    #[must_use]
    pub fn new(inverse_frequencies: Vec<f64>, magnitude: f32) -> RopeTable {
        RopeTable { inverse_frequencies, magnitude }
    }

    /// How many items of a head are rotated: two for each frequency.
    #[must_use]
    pub fn dims(&self) -> usize {
        2 * self.inverse_frequencies.len()
    }
}

/// Sines and cosines of a run of tokens; memory is claimed once.
#[derive(Clone, Debug)]
pub struct Rotation {
    /// `[token][pair]`.
    cosines: Vec<f32>,
    sines: Vec<f32>,
    pairs: usize,
    tokens: usize,
}

impl Rotation {
    /// Room for `tokens_max` tokens of tables of at most `dims_max` dimensions.
    #[must_use]
    pub fn new(tokens_max: usize, dims_max: usize) -> Rotation {
        let room = tokens_max.saturating_mul(dims_max / 2);
        Rotation { cosines: vec![0.0; room], sines: vec![0.0; room], pairs: 0, tokens: 0 }
    }

    /// Bytes held, for the memory budget.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of_val(self.cosines.as_slice()) + size_of_val(self.sines.as_slice())
    }

    /// Computes the angles of `tokens` tokens at positions `first_position`, `+ 1`, ...
    ///
    /// # Errors
    /// [`ShapeError`] if they are more than [`Rotation::new`] made room for.
    pub fn prepare(
        &mut self,
        compute: &Compute,
        table: &RopeTable,
        first_position: usize,
        tokens: usize,
    ) -> Result<(), ShapeError> {
        let pairs = table.inverse_frequencies.len();
        let needed = tokens.saturating_mul(pairs);
        ShapeError::range("angles of a rotation", needed, 0..=self.cosines.len())?;
        (self.pairs, self.tokens) = (pairs, tokens);
        if pairs == 0 {
            return Ok(());
        }
        let isa = compute.isa();
        let cosines = Disjoint::new(&mut self.cosines[..needed]);
        let sines = Disjoint::new(&mut self.sines[..needed]);
        compute.pool().run_ranges(tokens, (CHUNK_ANGLES / pairs).max(1), &|range, _| {
            for token in range {
                let at = token * pairs..(token + 1) * pairs;
                // SAFETY: each token belongs to one chunk of the job.
                let cosines = unsafe { cosines.part(at.clone()) };
                // SAFETY: as above.
                let sines = unsafe { sines.part(at) };
                let position = (first_position + token) as f64;
                dispatch(isa, Angles { table, position, cosines, sines });
            }
        });
        Ok(())
    }

    /// Rotates each head of each prepared token in place. `x` is `[token][heads * head_dim]`; the
    /// first `dims` items of a head are rotated, the others left.
    ///
    /// # Errors
    /// [`ShapeError`] if `x` has not the prepared number of tokens, or heads are too small.
    pub fn apply(
        &self,
        compute: &Compute,
        x: &mut [f32],
        heads: usize,
        head_dim: usize,
        style: RopeStyle,
    ) -> Result<(), ShapeError> {
        let pairs = self.pairs;
        let row = heads.saturating_mul(head_dim);
        ShapeError::length("rows to rotate", self.tokens.saturating_mul(row), x.len())?;
        ShapeError::range("rotated dimensions", 2 * pairs, 0..=head_dim)?;
        if row == 0 || pairs == 0 {
            return Ok(());
        }
        let isa = compute.isa();
        let x = Disjoint::new(x);
        compute.pool().run_ranges(self.tokens, (CHUNK_ITEMS / row).max(1), &|range, _| {
            for token in range {
                // SAFETY: each token belongs to one chunk of the job.
                let x = unsafe { x.part(token * row..(token + 1) * row) };
                let angles = token * pairs..(token + 1) * pairs;
                let (cosines, sines) = (&self.cosines[angles.clone()], &self.sines[angles]);
                dispatch(isa, Rotate { x, head_dim, cosines, sines, style });
            }
        });
        Ok(())
    }
}

struct Angles<'a> {
    table: &'a RopeTable,
    position: f64,
    cosines: &'a mut [f32],
    sines: &'a mut [f32],
}

impl Kernel for Angles<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, _: S) {
        let magnitude = f64::from(self.table.magnitude);
        let angles = self.table.inverse_frequencies.iter();
        for ((frequency, cosine), sine) in angles.zip(self.cosines).zip(self.sines) {
            let (s, c) = sine_cosine(self.position * frequency);
            *cosine = (c * magnitude) as f32;
            *sine = (s * magnitude) as f32;
        }
    }
}

/// Sine and cosine of an angle of at most some 10^8 radians, to about 1e-15.
///
/// The angle is reduced by multiples of pi/2 (two-part Cody and Waite with fma), then Taylor series
/// up to x^17 and x^18 on -pi/4..pi/4, whose first omitted terms are below 1e-18.
#[inline(always)]
fn sine_cosine(angle: f64) -> (f64, f64) {
    use std::f64::consts::{FRAC_2_PI, FRAC_PI_2};
    /// pi/2 minus its f64.
    const FRAC_PI_2_LOW: f64 = 6.123_233_995_736_766e-17;
    /// 1.5 * 2^52: adding it rounds to an integer, left in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    let rounded = angle.mul_add(FRAC_2_PI, ROUND);
    let quarter = rounded.to_bits();
    let n = rounded - ROUND;
    let x = n.mul_add(-FRAC_PI_2_LOW, n.mul_add(-FRAC_PI_2, angle));
    let y = x * x;
    let mut sine = 1.0 / 355_687_428_096_000.0;
    let inverse_factorials = [
        -1.0 / 1_307_674_368_000.0,
        1.0 / 6_227_020_800.0,
        -1.0 / 39_916_800.0,
        1.0 / 362_880.0,
        -1.0 / 5040.0,
        1.0 / 120.0,
        -1.0 / 6.0,
    ];
    for c in inverse_factorials {
        sine = y.mul_add(sine, c);
    }
    let sine = (x * y).mul_add(sine, x);
    let mut cosine = -1.0 / 6_402_373_705_728_000.0;
    let inverse_factorials = [
        1.0 / 20_922_789_888_000.0,
        -1.0 / 87_178_291_200.0,
        1.0 / 479_001_600.0,
        -1.0 / 3_628_800.0,
        1.0 / 40_320.0,
        -1.0 / 720.0,
        1.0 / 24.0,
        -0.5,
    ];
    for c in inverse_factorials {
        cosine = y.mul_add(cosine, c);
    }
    let cosine = y.mul_add(cosine, 1.0);
    let swap = quarter & 1 != 0;
    let (s, c) = if swap { (cosine, sine) } else { (sine, cosine) };
    let sine_sign = (quarter & 2) << 62;
    let cosine_sign = (quarter.wrapping_add(1) & 2) << 62;
    (f64::from_bits(s.to_bits() ^ sine_sign), f64::from_bits(c.to_bits() ^ cosine_sign))
}

struct Rotate<'a> {
    x: &'a mut [f32],
    head_dim: usize,
    cosines: &'a [f32],
    sines: &'a [f32],
    style: RopeStyle,
}

impl Kernel for Rotate<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, _: S) {
        let pairs = self.cosines.len();
        let angles = || self.cosines.iter().zip(self.sines);
        for head in self.x.chunks_exact_mut(self.head_dim) {
            match self.style {
                RopeStyle::Neox => {
                    let (first, second) = head[..2 * pairs].split_at_mut(pairs);
                    for ((a, b), (c, s)) in first.iter_mut().zip(second).zip(angles()) {
                        (*a, *b) = rotate(*a, *b, *c, *s);
                    }
                }
                RopeStyle::Norm => {
                    for ([a, b], (c, s)) in head.as_chunks_mut().0.iter_mut().zip(angles()) {
                        (*a, *b) = rotate(*a, *b, *c, *s);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn rotate(a: f32, b: f32, cosine: f32, sine: f32) -> (f32, f32) {
    (a.mul_add(cosine, -(b * sine)), a.mul_add(sine, b * cosine))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::testing::{Random, assert_same_bits};

    #[test]
    fn sines_agree_with_the_library_over_long_contexts() {
        let mut random = Random::new(9);
        for round in 0..200_000 {
            let scale = 10.0_f64.powi(round % 8);
            let angle = f64::from(random.unit()) * scale;
            let (sine, cosine) = sine_cosine(angle);
            assert!((sine - angle.sin()).abs() < 1e-15 + 1e-16 * angle, "{angle}: {sine}");
            assert!((cosine - angle.cos()).abs() < 1e-15 + 1e-16 * angle, "{angle}: {cosine}");
        }
        assert_eq!(sine_cosine(0.0), (0.0, 1.0));
    }

    fn expected(
        x: &[f32],
        table: &RopeTable,
        first: usize,
        heads: usize,
        head_dim: usize,
        style: RopeStyle,
    ) -> Vec<f64> {
        let mut out: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let pairs = table.inverse_frequencies.len();
        for (row, head) in out.chunks_mut(head_dim).enumerate() {
            let position = (first + row / heads) as f64;
            for (pair, frequency) in table.inverse_frequencies.iter().enumerate() {
                let (sine, cosine) = (position * frequency).sin_cos();
                let (i, j) = match style {
                    RopeStyle::Norm => (2 * pair, 2 * pair + 1),
                    RopeStyle::Neox => (pair, pair + pairs),
                };
                let (a, b) = (head[i], head[j]);
                head[i] = (a * cosine - b * sine) * f64::from(table.magnitude);
                head[j] = (a * sine + b * cosine) * f64::from(table.magnitude);
            }
        }
        out
    }

    #[test]
    fn rotates_as_defined_with_equal_bits_everywhere() {
        let mut random = Random::new(11);
        for style in [RopeStyle::Norm, RopeStyle::Neox] {
            for (head_dim, dims, magnitude) in [(64, 64, 1.0), (80, 32, 1.25), (6, 2, 1.0)] {
                let (heads, tokens) = (3, 1 + random.below(200));
                let first = random.below(100_000);
                let frequencies = inverse_frequencies(dims, 10_000.0, RopeScaling::None, None);
                let table = RopeTable::new(frequencies, magnitude);
                let x = random.normals(tokens * heads * head_dim, 1.0);
                let mut reference: Option<Vec<f32>> = None;
                for isa in Isa::available() {
                    let compute = Compute::new(isa, 2).unwrap();
                    let mut rotation = Rotation::new(tokens, dims);
                    rotation.prepare(&compute, &table, first, tokens).unwrap();
                    let mut y = x.clone();
                    rotation.apply(&compute, &mut y, heads, head_dim, style).unwrap();
                    assert_same_bits(&y, reference.get_or_insert_with(|| y.clone()));
                    // One token alone has the bits it has in the run.
                    let last = (tokens - 1) * heads * head_dim;
                    let mut one = x[last..].to_vec();
                    rotation.prepare(&compute, &table, first + tokens - 1, 1).unwrap();
                    rotation.apply(&compute, &mut one, heads, head_dim, style).unwrap();
                    assert_same_bits(&one, &y[last..]);
                }
                let expected = expected(&x, &table, first, heads, head_dim, style);
                for (y, exact) in reference.unwrap().iter().zip(expected) {
                    assert!((f64::from(*y) - exact).abs() < 2e-6, "{y} {exact}");
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let compute = Compute::new(Isa::detect(), 1).unwrap();
        let table = RopeTable::new(vec![1.0; 8], 1.0);
        let mut rotation = Rotation::new(4, 16);
        assert!(rotation.prepare(&compute, &table, 0, 5).is_err());
        rotation.prepare(&compute, &table, 0, 4).unwrap();
        let mut x = vec![0.0; 4 * 2 * 16];
        assert!(rotation.apply(&compute, &mut x, 2, 16, RopeStyle::Norm).is_ok());
        assert!(rotation.apply(&compute, &mut x, 2, 15, RopeStyle::Norm).is_err());
        assert!(rotation.apply(&compute, &mut x, 8, 4, RopeStyle::Neox).is_err());
    }
}
