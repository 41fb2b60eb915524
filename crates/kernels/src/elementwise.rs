//! Small operations on whole activations: sums, scales, gated activations, soft caps.
//!
//! Each item of the result depends on its own operands only, so bits cannot depend on anything else.
#![allow(unsafe_code, reason = "threads write disjoint ranges")]

use crate::compute::Compute;
use crate::disjoint::Disjoint;
use crate::math;
use crate::shape::ShapeError;
use crate::simd::{Kernel, Simd, dispatch};

/// Items of a chunk: a few microseconds of work, so that what one token needs stays on one thread
/// unless it is worth waking another.
const CHUNK_ITEMS: usize = 8 * 1024;

#[derive(Copy, Clone)]
enum Binary {
    Add,
    Mul,
    SiluMul,
    GeluTanhMul,
    SwigluClamped,
}

#[derive(Copy, Clone)]
enum Unary {
    Scale(f32),
    Sigmoid,
    Silu,
    GeluTanh,
    Softcap(f32),
}

struct BinaryKernel<'a> {
    operation: Binary,
    x: &'a mut [f32],
    y: &'a [f32],
}

impl Kernel for BinaryKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let BinaryKernel { operation, x, y } = self;
        // One loop for each operation: the choice is made here, not for every item.
        match operation {
            Binary::Add => math::zip_in_place(s, x, y, Add),
            Binary::Mul => math::zip_in_place(s, x, y, Mul),
            Binary::SiluMul => math::zip_in_place(s, x, y, SiluMul),
            Binary::GeluTanhMul => math::zip_in_place(s, x, y, GeluTanhMul),
            Binary::SwigluClamped => math::zip_in_place(s, x, y, SwigluClamped),
        }
    }
}

struct UnaryKernel<'a> {
    operation: Unary,
    x: &'a mut [f32],
}

impl Kernel for UnaryKernel<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let x = self.x;
        match self.operation {
            Unary::Scale(factor) => math::map_in_place(s, x, Scale(factor)),
            Unary::Sigmoid => math::map_in_place(s, x, Sigmoid),
            Unary::Silu => math::map_in_place(s, x, Silu),
            Unary::GeluTanh => math::map_in_place(s, x, GeluTanh),
            Unary::Softcap(cap) => math::map_in_place(s, x, Softcap(cap)),
        }
    }
}

#[derive(Copy, Clone)]
struct Add;

impl math::Binary for Add {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F, y: S::F) -> S::F {
        s.add(x, y)
    }
}

#[derive(Copy, Clone)]
struct Mul;

impl math::Binary for Mul {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F, y: S::F) -> S::F {
        s.mul(x, y)
    }
}

#[derive(Copy, Clone)]
struct SiluMul;

impl math::Binary for SiluMul {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F, y: S::F) -> S::F {
        s.mul(math::silu(s, x), y)
    }
}

#[derive(Copy, Clone)]
struct GeluTanhMul;

impl math::Binary for GeluTanhMul {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F, y: S::F) -> S::F {
        s.mul(math::gelu_tanh(s, x), y)
    }
}

/// The largest gate, and the largest magnitude of up.
const SWIGLU_LIMIT: f32 = 7.0;
/// The gate's sigmoid is taken of the gate times this.
const SWIGLU_ALPHA: f32 = 1.702;

#[derive(Copy, Clone)]
struct SwigluClamped;

impl math::Binary for SwigluClamped {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F, y: S::F) -> S::F {
        let (low, high) = (s.splat(-SWIGLU_LIMIT), s.splat(SWIGLU_LIMIT));
        // Selections keep a NaN that is compared.
        let gate = s.select_less(high, x, high, x);
        let up = s.select_less(high, y, high, y);
        let up = s.select_less(up, low, low, up);
        let open = math::sigmoid(s, s.mul(gate, s.splat(SWIGLU_ALPHA)));
        s.mul(s.mul(gate, open), s.add(up, s.splat(1.0)))
    }
}

#[derive(Copy, Clone)]
struct Sigmoid;

impl math::Unary for Sigmoid {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F) -> S::F {
        math::sigmoid(s, x)
    }
}

#[derive(Copy, Clone)]
struct Scale(f32);

impl math::Unary for Scale {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F) -> S::F {
        s.mul(x, s.splat(self.0))
    }
}

#[derive(Copy, Clone)]
struct Silu;

impl math::Unary for Silu {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F) -> S::F {
        math::silu(s, x)
    }
}

#[derive(Copy, Clone)]
struct GeluTanh;

impl math::Unary for GeluTanh {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F) -> S::F {
        math::gelu_tanh(s, x)
    }
}

#[derive(Copy, Clone)]
struct Softcap(f32);

impl math::Unary for Softcap {
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F) -> S::F {
        let cap = s.splat(self.0);
        s.mul(math::tanh(s, s.div(x, cap)), cap)
    }
}

fn binary(
    compute: &Compute,
    operation: Binary,
    x: &mut [f32],
    y: &[f32],
) -> Result<(), ShapeError> {
    ShapeError::length("second operand", x.len(), y.len())?;
    let (isa, len) = (compute.isa(), x.len());
    let x = Disjoint::new(x);
    compute.pool().run_ranges(len, CHUNK_ITEMS, &|range, _| {
        // SAFETY: `run_ranges` gives each range to one chunk.
        let part = unsafe { x.part(range.clone()) };
        dispatch(isa, BinaryKernel { operation, x: part, y: &y[range] });
    });
    Ok(())
}

fn unary(compute: &Compute, operation: Unary, x: &mut [f32]) {
    let (isa, len) = (compute.isa(), x.len());
    let x = Disjoint::new(x);
    compute.pool().run_ranges(len, CHUNK_ITEMS, &|range, _| {
        // SAFETY: `run_ranges` gives each range to one chunk.
        let part = unsafe { x.part(range) };
        dispatch(isa, UnaryKernel { operation, x: part });
    });
}

/// `x += y`.
///
/// # Errors
/// [`ShapeError`] if the lengths differ.
pub fn add(compute: &Compute, x: &mut [f32], y: &[f32]) -> Result<(), ShapeError> {
    binary(compute, Binary::Add, x, y)
}

/// `x *= y`.
///
/// # Errors
/// [`ShapeError`] if the lengths differ.
pub fn mul(compute: &Compute, x: &mut [f32], y: &[f32]) -> Result<(), ShapeError> {
    binary(compute, Binary::Mul, x, y)
}

/// `gate = silu(gate) * up`, where `silu(x) = x / (1 + e^-x)`.
///
/// # Errors
/// [`ShapeError`] if the lengths differ.
pub fn silu_mul(compute: &Compute, gate: &mut [f32], up: &[f32]) -> Result<(), ShapeError> {
    binary(compute, Binary::SiluMul, gate, up)
}

/// `gate = gelu(gate) * up` with the tanh form of GELU,
/// `0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))`.
///
/// # Errors
/// [`ShapeError`] if the lengths differ.
pub fn gelu_tanh_mul(compute: &Compute, gate: &mut [f32], up: &[f32]) -> Result<(), ShapeError> {
    binary(compute, Binary::GeluTanhMul, gate, up)
}

/// `gate = g sigmoid(1.702 g) (u + 1)` with `g = min(gate, 7)` and `u = clamp(up, -7, 7)`: the gate of
/// OpenAI's gpt-oss (`swiglu` in its reference implementation).
///
/// # Errors
/// [`ShapeError`] if the lengths differ.
pub fn swiglu_clamped(compute: &Compute, gate: &mut [f32], up: &[f32]) -> Result<(), ShapeError> {
    binary(compute, Binary::SwigluClamped, gate, up)
}

/// Adds `bias` to each row of `x`; a row has as many items as `bias`.
///
/// # Errors
/// [`ShapeError`] if `x` is not whole rows.
pub fn add_bias(compute: &Compute, x: &mut [f32], bias: &[f32]) -> Result<(), ShapeError> {
    let len = bias.len();
    let rows = ShapeError::rows("rows that get a bias", x.len(), len)?;
    let isa = compute.isa();
    let x = Disjoint::new(x);
    let per_chunk = (CHUNK_ITEMS / len).max(1);
    compute.pool().run_ranges(rows, per_chunk, &|range, _| {
        for row in range {
            // SAFETY: each row belongs to one chunk of the job.
            let x = unsafe { x.part(row * len..(row + 1) * len) };
            dispatch(isa, BinaryKernel { operation: Binary::Add, x, y: bias });
        }
    });
    Ok(())
}

/// `x *= factor`.
pub fn scale(compute: &Compute, x: &mut [f32], factor: f32) {
    unary(compute, Unary::Scale(factor), x);
}

/// `x = 1 / (1 + e^-x)`.
pub fn sigmoid(compute: &Compute, x: &mut [f32]) {
    unary(compute, Unary::Sigmoid, x);
}

/// `x = x / (1 + e^-x)`.
pub fn silu(compute: &Compute, x: &mut [f32]) {
    unary(compute, Unary::Silu, x);
}

/// GELU in its tanh form (see [`gelu_tanh_mul`]).
pub fn gelu_tanh(compute: &Compute, x: &mut [f32]) {
    unary(compute, Unary::GeluTanh, x);
}

/// `x = cap * tanh(x / cap)`: keeps logits within `-cap..cap`.
pub fn softcap(compute: &Compute, x: &mut [f32], cap: f32) {
    unary(compute, Unary::Softcap(cap), x);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::testing::{Random, assert_same_bits};

    type Operation = fn(&Compute, &mut [f32], &[f32]);
    type Exact = fn(f64, f64) -> f64;

    fn gelu(x: f64) -> f64 {
        0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
    }

    fn swiglu(x: f64, y: f64) -> f64 {
        let x = x.min(7.0);
        x / (1.0 + (-1.702 * x).exp()) * (y.clamp(-7.0, 7.0) + 1.0)
    }

    const OPERATIONS: [(&str, Operation, Exact); 11] = [
        ("add", |c, x, y| add(c, x, y).unwrap(), |x, y| x + y),
        ("mul", |c, x, y| mul(c, x, y).unwrap(), |x, y| x * y),
        ("silu_mul", |c, x, y| silu_mul(c, x, y).unwrap(), |x, y| x / (1.0 + (-x).exp()) * y),
        ("gelu_mul", |c, x, y| gelu_tanh_mul(c, x, y).unwrap(), |x, y| gelu(x) * y),
        ("scale", |c, x, _| scale(c, x, 0.3), |x, _| x * f64::from(0.3_f32)),
        ("swiglu", |c, x, y| swiglu_clamped(c, x, y).unwrap(), swiglu),
        ("sigmoid", |c, x, _| sigmoid(c, x), |x, _| 1.0 / (1.0 + (-x).exp())),
        ("silu", |c, x, _| silu(c, x), |x, _| x / (1.0 + (-x).exp())),
        ("gelu", |c, x, _| gelu_tanh(c, x), |x, _| gelu(x)),
        ("softcap", |c, x, _| softcap(c, x, 30.0), |x, _| 30.0 * (x / 30.0).tanh()),
        ("bias", |c, x, y| add_bias(c, x, y).unwrap(), |x, y| x + y),
    ];

    #[test]
    fn agree_with_f64_and_bits_are_equal_everywhere() {
        let mut random = Random::new(3);
        for len in [1, 15, 16, 33, 576, 3 * CHUNK_ITEMS + 7] {
            let (x, y) = (random.normals(len, 3.0), random.normals(len, 1.0));
            for (name, operation, exact) in OPERATIONS {
                let mut expected: Option<Vec<f32>> = None;
                for isa in Isa::available() {
                    for threads in [1, 2] {
                        let compute = Compute::new(isa, threads).unwrap();
                        let mut z = x.clone();
                        operation(&compute, &mut z, &y);
                        assert_same_bits(&z, expected.get_or_insert_with(|| z.clone()));
                    }
                }
                for ((z, x), y) in expected.unwrap().iter().zip(&x).zip(&y) {
                    let exact = exact(f64::from(*x), f64::from(*y));
                    let error = (f64::from(*z) - exact).abs();
                    assert!(error <= 2e-6 * exact.abs() + 1e-9, "{name}({x}, {y}): {z} {exact}");
                }
            }
        }
    }

    #[test]
    fn a_bias_is_added_to_every_row() {
        let compute = Compute::new(Isa::detect(), 2).unwrap();
        let mut x = vec![1.0; 3 * 5];
        add_bias(&compute, &mut x, &[1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        assert_eq!(x, [2.0, 3.0, 4.0, 5.0, 6.0].repeat(3));
        assert!(add_bias(&compute, &mut x, &[1.0; 4]).is_err());
        assert!(add(&compute, &mut x, &[1.0; 4]).is_err());
    }

    #[test]
    fn a_clamped_gate_keeps_what_is_no_number() {
        for isa in Isa::available() {
            let compute = Compute::new(isa, 1).unwrap();
            let mut gate = [f32::NAN, 1.0, 100.0];
            swiglu_clamped(&compute, &mut gate, &[1.0, f32::NAN, -100.0]).unwrap();
            assert!(gate[0].is_nan() && gate[1].is_nan() && gate[2].is_finite());
        }
    }
}
