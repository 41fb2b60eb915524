//! Exponential, hyperbolic tangent and the activations built on them, with the same bits on every
//! instruction set and for every length: each is one fixed sequence of exactly rounded operations.
//!
//! Polynomials are minimax in relative error (fitted by iteratively reweighted least squares with
//! the constant term held at 1, then rounded to f32). Errors over all inputs are measured by the
//! tests of this file against f64.
#![allow(
    clippy::excessive_precision,
    reason = "coefficients are written as they were rounded, to be searched for"
)]

use crate::simd::{LANES, Simd};

/// 1.5 * 2^23: added to a small number it leaves the number, rounded to an integer (ties to even),
/// in the low bits of the fraction.
const ROUND: f32 = 12_582_912.0;
/// [`ROUND`] with the bias of f32's exponent in the low bits: shifted left by 23 the sum is 2^n.
const ROUND_BIASED: f32 = ROUND + 127.0;

/// 2^x on -1/2..1/2, highest power first; relative error 9.2e-8 before rounding.
#[allow(clippy::approx_constant, reason = "a fitted coefficient, close to ln 2 but not it")]
const EXP2: [f32; 6] =
    [0.001_326_472_7, 0.009_671_513, 0.055_507_336, 0.240_222_42, 0.693_147, 1.0];

/// 2^n for whole numbers -126 <= n <= 127.
#[inline(always)]
fn power_of_two<S: Simd>(s: S, n: S::F) -> S::F {
    s.shift_left_23(s.add(n, s.splat(ROUND_BIASED)))
}

/// Evaluates a polynomial, highest coefficient first, by Horner's rule.
#[inline(always)]
fn horner<S: Simd, const N: usize>(s: S, x: S::F, coefficients: [f32; N]) -> S::F {
    let mut sum = s.splat(coefficients[0]);
    for c in &coefficients[1..] {
        sum = s.fma(sum, x, s.splat(*c));
    }
    sum
}

/// 2^x for x <= 0, as a softmax needs it: relative error below 1.8e-7, 2^0 is exactly 1, anything
/// below -125 gives 2^-125 (against the 1 of the largest score, nothing), NaN stays NaN.
#[inline(always)]
pub(crate) fn exp2_nonpositive<S: Simd>(s: S, x: S::F) -> S::F {
    let x = s.max(s.splat(-125.0), x);
    let rounded = s.add(x, s.splat(ROUND_BIASED));
    let fraction = s.sub(x, s.sub(rounded, s.splat(ROUND_BIASED)));
    let power = horner(s, fraction, EXP2);
    s.mul(power, s.shift_left_23(rounded))
}

/// [`exp2_nonpositive`] of one number: the same operations, so the same bits.
#[inline(always)]
pub(crate) fn exp2_nonpositive_one(x: f32) -> f32 {
    let x = if -125.0 > x { -125.0 } else { x };
    let rounded = x + ROUND_BIASED;
    let fraction = x - (rounded - ROUND_BIASED);
    let mut power = EXP2[0];
    for c in &EXP2[1..] {
        power = power.mul_add(fraction, *c);
    }
    power * f32::from_bits(rounded.to_bits() << 23)
}

/// e^x within 2 units in the last place: 0 below -104, infinity above 88.8, NaN for NaN, exactly 1
/// for 0; subnormal results are rounded, not flushed.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::F) -> S::F {
    // Beyond these the result is 0 or infinity anyway; inside, n stays small enough for its halves.
    // As `min`, -max(-a, -b) would cost more than exchanging the operands of a selection.
    let x = s.max(s.splat(-105.0), x);
    let limit = s.splat(89.0);
    let x = s.select_less(limit, x, limit, x);
    let rounded = s.fma(x, s.splat(std::f32::consts::LOG2_E), s.splat(ROUND));
    let n = s.sub(rounded, s.splat(ROUND));
    // ln 2 in two parts (Cody and Waite): the first has 15 bits, so its product with n is exact.
    let rest = s.fma(n, s.splat(-0.693_145_75), x);
    let rest = s.fma(n, s.splat(-1.428_606_8e-6), rest);
    let power = horner(
        s,
        rest,
        [0.001_384_365_5, 0.008_374_155_5, 0.041_668, 0.166_664_32, 0.499_999_94, 1.0, 1.0],
    );
    // 2^n in two factors, as n runs from -152 to 129 and one factor only from -126 to 127.
    let half = s.sub(s.fma(n, s.splat(0.5), s.splat(ROUND)), s.splat(ROUND));
    let first = s.mul(power, power_of_two(s, half));
    s.mul(first, power_of_two(s, s.sub(n, half)))
}

/// The hyperbolic tangent within 3 units in the last place.
#[inline(always)]
pub(crate) fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let magnitude = s.abs(x);
    // Large: 1 - 2 / (e^2|x| + 1), which is 1 from about 9 on.
    let power = exp(s, s.add(magnitude, magnitude));
    let one = s.splat(1.0);
    let large = s.sub(one, s.div(s.splat(2.0), s.add(power, one)));
    let negative = s.sub(s.zero(), large);
    let large = s.select_less(x, s.zero(), negative, large);
    // Small: an odd polynomial, since the difference above would cancel.
    let square = s.mul(x, x);
    let series = horner(
        s,
        square,
        [-0.005_704_985, 0.020_639_086, -0.053_739_715, 0.133_314_42, -0.333_332_8],
    );
    let small = s.fma(s.mul(series, square), x, x);
    s.select_less(magnitude, s.splat(0.625), small, large)
}

/// x / (1 + e^-x).
#[inline(always)]
pub(crate) fn silu<S: Simd>(s: S, x: S::F) -> S::F {
    let power = exp(s, s.sub(s.zero(), x));
    s.div(x, s.add(s.splat(1.0), power))
}

/// 1 / (1 + e^-x).
#[inline(always)]
pub(crate) fn sigmoid<S: Simd>(s: S, x: S::F) -> S::F {
    let power = exp(s, s.sub(s.zero(), x));
    s.div(s.splat(1.0), s.add(s.splat(1.0), power))
}

/// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), computed as x / (1 + e^-2u), which is the
/// same function without the cancellation at large negative x.
#[inline(always)]
pub(crate) fn gelu_tanh<S: Simd>(s: S, x: S::F) -> S::F {
    // -2 sqrt(2/pi) and that times 0.044715.
    let cubic = s.fma(s.mul(x, x), s.splat(-0.071_354_814), s.splat(-1.595_769_1));
    let power = exp(s, s.mul(x, cubic));
    s.div(x, s.add(s.splat(1.0), power))
}

/// A function of one number, 16 at a time. (A trait and not a closure: see `simd.rs`.)
pub(crate) trait Unary: Copy {
    fn apply<S: Simd>(self, s: S, x: S::F) -> S::F;
}

/// A function of two numbers, 16 at a time.
pub(crate) trait Binary: Copy {
    fn apply<S: Simd>(self, s: S, x: S::F, y: S::F) -> S::F;
}

/// Applies `f` to each run of 16 items in place, to a copy padded with zeros for the last one.
#[inline(always)]
pub(crate) fn map_in_place<S: Simd>(s: S, x: &mut [f32], f: impl Unary) {
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    for chunk in chunks {
        let y = f.apply(s, s.load(chunk));
        s.store(y, chunk);
    }
    if !rest.is_empty() {
        let mut padded = [0.0; LANES];
        padded[..rest.len()].copy_from_slice(rest);
        let y = s.to_array(f.apply(s, s.load(&padded)));
        rest.copy_from_slice(&y[..rest.len()]);
    }
}

/// Applies `f(x, y)` to each run of 16 items of both, the result into `x`; tails as above.
#[inline(always)]
pub(crate) fn zip_in_place<S: Simd>(s: S, x: &mut [f32], y: &[f32], f: impl Binary) {
    let (chunks, rest) = x.as_chunks_mut::<LANES>();
    let (others, others_rest) = y.as_chunks::<LANES>();
    for (chunk, other) in chunks.iter_mut().zip(others) {
        let z = f.apply(s, s.load(chunk), s.load(other));
        s.store(z, chunk);
    }
    if !rest.is_empty() {
        let mut padded = [[0.0; LANES]; 2];
        padded[0][..rest.len()].copy_from_slice(rest);
        let len = rest.len().min(others_rest.len());
        padded[1][..len].copy_from_slice(&others_rest[..len]);
        let z = s.to_array(f.apply(s, s.load(&padded[0]), s.load(&padded[1])));
        rest.copy_from_slice(&z[..rest.len()]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::simd::{Kernel, dispatch};

    #[derive(Copy, Clone, Debug)]
    enum Function {
        Exp2,
        Exp,
        Tanh,
        Silu,
        Gelu,
    }

    struct Apply<'a>(Function, &'a mut [f32]);

    impl Unary for Function {
        #[inline(always)]
        fn apply<S: Simd>(self, s: S, x: S::F) -> S::F {
            match self {
                Function::Exp2 => exp2_nonpositive(s, x),
                Function::Exp => exp(s, x),
                Function::Tanh => tanh(s, x),
                Function::Silu => silu(s, x),
                Function::Gelu => gelu_tanh(s, x),
            }
        }
    }

    impl Kernel for Apply<'_> {
        type Output = ();
        #[inline(always)]
        fn call<S: Simd>(self, s: S) {
            map_in_place(s, self.1, self.0);
        }
    }

    impl Function {
        /// x / (1 + e^-x): 0 where the denominator overflows, though the exact value is 1e-36.
        fn gated(self) -> bool {
            matches!(self, Function::Silu | Function::Gelu)
        }

        fn exact(self, x: f64) -> f64 {
            let gelu = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            match self {
                Function::Exp2 => x.max(-125.0).exp2(),
                Function::Exp => x.exp(),
                Function::Tanh => x.tanh(),
                Function::Silu => x / (1.0 + (-x).exp()),
                Function::Gelu => x / (1.0 + (-2.0 * gelu).exp()),
            }
        }
    }

    fn apply(isa: Isa, function: Function, x: &[f32]) -> Vec<f32> {
        let mut y = x.to_vec();
        dispatch(isa, Apply(function, &mut y));
        y
    }

    /// The error in units of the last place of the exact result (of the smallest subnormal near 0).
    fn ulps(got: f32, exact: f64) -> f64 {
        if got.is_infinite() || (exact as f32).is_infinite() {
            return if f64::from(got) == exact as f32 as f64 { 0.0 } else { f64::INFINITY };
        }
        let near = (exact as f32).abs();
        let unit = f64::from(near.next_up()) - f64::from(near);
        (f64::from(got) - exact).abs() / unit
    }

    /// Numbers over all exponents, a dense stretch around zero, and the special ones.
    fn inputs() -> Vec<f32> {
        let all = (0..=u32::MAX).step_by(6151).map(f32::from_bits);
        let dense = (0..400_000).map(|i| (i as f32 - 200_000.0) * 1.1e-3);
        let special = [0.0, -0.0, 1.0, f32::MIN_POSITIVE, f32::MAX, 88.7, 88.73, -103.9, -104.1];
        all.chain(dense).chain(special).chain([f32::INFINITY, f32::NEG_INFINITY]).collect()
    }

    #[test]
    fn errors_stay_within_the_documented_bounds() {
        let isa = Isa::detect();
        for (function, allowed) in [
            (Function::Exp2, 2.1),
            (Function::Exp, 2.0),
            (Function::Tanh, 3.0),
            (Function::Silu, 4.0),
            (Function::Gelu, 4.0),
        ] {
            let mut worst = (0.0, 0.0);
            for (x, y) in inputs().iter().zip(apply(isa, function, &inputs())) {
                let exact = function.exact(f64::from(*x));
                let skip = matches!(function, Function::Exp2) && *x > 0.0;
                if x.is_nan() {
                    assert!(y.is_nan(), "{function:?}({x}) = {y}");
                } else if !(skip || exact.is_nan() || function.gated() && exact.abs() < 1e-35) {
                    // Gelu's argument is a rounded product: its relative error grows with it.
                    let gelu = matches!(function, Function::Gelu) && *x < -1.0;
                    let allowance = if gelu { (x * x * x).abs().max(1.0) } else { 1.0 };
                    let error = ulps(y, exact) / f64::from(allowance);
                    if error > worst.0 {
                        worst = (error, *x);
                    }
                }
            }
            println!("{function:?}: worst error {:.3} ulp at {}", worst.0, worst.1);
            assert!(worst.0 <= allowed, "{function:?}: {} ulp at {}", worst.0, worst.1);
        }
    }

    #[test]
    fn special_values() {
        let isa = Isa::detect();
        let x = [0.0, -0.0, 200.0, -200.0, f32::INFINITY, f32::NEG_INFINITY];
        assert_eq!(
            apply(isa, Function::Exp, &x),
            [1.0, 1.0, f32::INFINITY, 0.0, f32::INFINITY, 0.0]
        );
        assert_eq!(apply(isa, Function::Tanh, &x), [0.0, -0.0, 1.0, -1.0, 1.0, -1.0]);
        assert_eq!(apply(isa, Function::Exp2, &[0.0, -0.0, -1.0, -3.0]), [1.0, 1.0, 0.5, 0.125]);
        assert_eq!(apply(isa, Function::Silu, &x[..5]), [0.0, 0.0, 200.0, 0.0, f32::INFINITY]);
    }

    #[test]
    fn bits_are_equal_on_every_isa_and_in_every_place() {
        let mut x = inputs();
        x.truncate(x.len() / LANES * LANES + 5);
        for function in
            [Function::Exp2, Function::Exp, Function::Tanh, Function::Silu, Function::Gelu]
        {
            let x: Vec<f32> = x.iter().copied().filter(|x| !x.is_nan()).collect();
            let expected = apply(Isa::Scalar, function, &x);
            for isa in Isa::available() {
                let got = apply(isa, function, &x);
                for i in 0..x.len() {
                    let same = got[i].to_bits() == expected[i].to_bits()
                        || (got[i].is_nan() && expected[i].is_nan());
                    assert!(same, "{isa:?} {function:?}({}): {} {}", x[i], got[i], expected[i]);
                }
                let shifted = apply(isa, function, &x[3..40]);
                assert!(shifted.iter().zip(&got[3..]).all(|(a, b)| a.to_bits() == b.to_bits()));
            }
            if matches!(function, Function::Exp2) {
                for (x, y) in x.iter().zip(&expected).filter(|(x, _)| **x <= 0.0) {
                    assert_eq!(exp2_nonpositive_one(*x).to_bits(), y.to_bits());
                }
            }
        }
    }
}
