//! Sixteen lanes of f32, the one shape in which this crate's float kernels are written.
//!
//! A kernel is a type that implements [`Kernel`]: its body is generic over [`Simd`] and is compiled
//! once per instruction set. Because every operation here is exactly rounded (or exact) and works
//! lane by lane, the body gives the same bits on all of them: 16 lanes are one register of
//! AVX-512, two of AVX2, four of NEON, and an array in portable Rust. There is no second version of a formula
//! that could differ.
//!
//! Bodies use loops, not closures: a closure does not inherit the instruction set of the function it
//! is written in, and one that the compiler does not inline calls every intrinsic as a function
//! (measured: a fifth of the speed).
#![allow(unsafe_code, reason = "intrinsics, and loads through pointers in the innermost loops")]

use crate::half;
use crate::isa::Isa;

/// How many lanes a [`Simd::F`] has.
pub(crate) const LANES: usize = 16;

/// Sixteen f32 in an array.
pub(crate) type Array = [f32; LANES];

/// Operations on 16 lanes. A value of the type proves that the CPU can do them.
///
/// `max(a, b)` is `if a > b { a } else { b }`, lane by lane: a NaN in `b` is kept, one in `a` is
/// dropped. That is what x86 does, and so what the scalar reference does.
pub(crate) trait Simd: Copy {
    /// Sixteen f32.
    type F: Copy;
    /// How many rows a block of a matrix product has at most: 12 where the register file holds 32
    /// `F`, 6 where it holds 8.
    const BLOCK_ROWS: usize;

    fn splat(self, x: f32) -> Self::F;
    fn load(self, from: &Array) -> Self::F;
    fn store(self, x: Self::F, to: &mut Array);
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The bits with the sign bit cleared.
    fn abs(self, a: Self::F) -> Self::F;
    /// `a < b ? x : y`, lane by lane.
    fn select_less(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F;
    /// The bits of each lane shifted left by 23.
    fn shift_left_23(self, a: Self::F) -> Self::F;
    /// Sixteen f16 as bytes, the low byte first.
    fn load_f16(self, from: &[u8; 2 * LANES]) -> Self::F;
    /// Rounded to nearest, ties to even.
    fn store_f16(self, x: Self::F, to: &mut [u16; LANES]);
    /// Sixteen bytes, each the bits of a signed one.
    fn load_i8(self, from: &[u8; LANES]) -> Self::F;

    /// Asks for the cache line of an address, which need not be a valid one.
    fn prefetch(self, address: *const u8);
    /// Runs a kernel as a function of its own: for parts that several places of a kernel use.
    fn call<K: Kernel>(self, kernel: K) -> K::Output;

    #[inline(always)]
    fn zero(self) -> Self::F {
        self.splat(0.0)
    }

    #[inline(always)]
    fn to_array(self, x: Self::F) -> Array {
        let mut array = [0.0; LANES];
        self.store(x, &mut array);
        array
    }
}

/// The sum of 16 lanes in the one order this crate uses: (j, j + 8), then 4, 2 and 1 apart.
#[inline(always)]
pub(crate) fn sum_lanes(x: &Array) -> f32 {
    let mut x = *x;
    let mut half = LANES / 2;
    while half != 0 {
        for j in 0..half {
            x[j] += x[j + half];
        }
        half /= 2;
    }
    x[0]
}

/// `f(item, thread)`-like work that is compiled once per instruction set.
pub(crate) trait Kernel {
    type Output;
    /// Must be `#[inline(always)]`, so that it is compiled inside the function that enables the
    /// instruction set.
    fn call<S: Simd>(self, s: S) -> Self::Output;
}

/// Runs a kernel with the instruction set.
#[inline]
pub(crate) fn dispatch<K: Kernel>(isa: Isa, kernel: K) -> K::Output {
    match isa {
        Isa::Scalar => call_scalar(kernel),
        // SAFETY: the tokens in both prove avx2, fma and f16c (made only by `isa.rs`).
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2(_) | Isa::AvxVnni(_) => unsafe { x86::call_avx2(kernel) },
        // SAFETY: the tokens in both prove avx512f, bw, vl, dq and avx2's set.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512(_) | Isa::Avx512Vbmi(_) => unsafe { x86::call_avx512(kernel) },
        #[cfg(target_arch = "aarch64")]
        Isa::Neon(_) | Isa::NeonDot(_) | Isa::NeonI8mm(_) => neon::call(kernel),
    }
}

#[cfg(target_arch = "aarch64")]
mod neon;

/// The reference: arrays and `f32` operations.
#[derive(Copy, Clone)]
pub(crate) struct Scalar;

#[inline(never)]
fn call_scalar<K: Kernel>(kernel: K) -> K::Output {
    kernel.call(Scalar)
}

#[inline(always)]
fn map2(a: Array, b: Array, f: impl Fn(f32, f32) -> f32) -> Array {
    std::array::from_fn(|j| f(a[j], b[j]))
}

impl Simd for Scalar {
    type F = Array;
    const BLOCK_ROWS: usize = 6;

    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        call_scalar(kernel)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Array {
        [x; LANES]
    }
    #[inline(always)]
    fn load(self, from: &Array) -> Array {
        *from
    }
    #[inline(always)]
    fn store(self, x: Array, to: &mut Array) {
        *to = x;
    }
    #[inline(always)]
    fn add(self, a: Array, b: Array) -> Array {
        map2(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Array, b: Array) -> Array {
        map2(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Array, b: Array) -> Array {
        map2(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Array, b: Array) -> Array {
        map2(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn fma(self, a: Array, b: Array, c: Array) -> Array {
        std::array::from_fn(|j| a[j].mul_add(b[j], c[j]))
    }
    #[inline(always)]
    fn max(self, a: Array, b: Array) -> Array {
        map2(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn abs(self, a: Array) -> Array {
        a.map(f32::abs)
    }
    #[inline(always)]
    fn select_less(self, a: Array, b: Array, x: Array, y: Array) -> Array {
        std::array::from_fn(|j| if a[j] < b[j] { x[j] } else { y[j] })
    }
    #[inline(always)]
    fn shift_left_23(self, a: Array) -> Array {
        a.map(|a| f32::from_bits(a.to_bits() << 23))
    }
    #[inline(always)]
    fn load_f16(self, from: &[u8; 2 * LANES]) -> Array {
        let (pairs, _) = from.as_chunks::<2>();
        std::array::from_fn(|j| half::f16_to_f32(u16::from_le_bytes(pairs[j])))
    }
    #[inline(always)]
    fn store_f16(self, x: Array, to: &mut [u16; LANES]) {
        *to = x.map(half::f32_to_f16);
    }
    #[inline(always)]
    fn load_i8(self, from: &[u8; LANES]) -> Array {
        from.map(|byte| f32::from(byte.cast_signed()))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::{Array, Kernel, LANES, Simd};
    use std::arch::x86_64::*;

    /// Made only inside [`call_avx2`].
    #[derive(Copy, Clone)]
    pub(super) struct Avx2(());

    /// Made only inside [`call_avx512`].
    #[derive(Copy, Clone)]
    pub(super) struct Avx512(());

    #[inline(never)]
    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) fn call_avx2<K: Kernel>(kernel: K) -> K::Output {
        kernel.call(Avx2(()))
    }

    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]
    pub(super) fn call_avx512<K: Kernel>(kernel: K) -> K::Output {
        kernel.call(Avx512(()))
    }

    /// An intrinsic without memory access.
    macro_rules! op {
        ($intrinsic:ident($($arg:expr),*)) => {
            // SAFETY: `self` exists only inside `call_avx2` or `call_avx512`, whose callers
            // have proved the instruction set.
            unsafe { $intrinsic($($arg),*) }
        };
    }

    impl Simd for Avx2 {
        type F = [__m256; 2];
        const BLOCK_ROWS: usize = 6;

        #[inline(always)]
        fn prefetch(self, address: *const u8) {
            // SAFETY: sse is part of the instruction set, as above; any address will do.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) };
        }
        #[inline(always)]
        fn call<K: Kernel>(self, kernel: K) -> K::Output {
            op!(call_avx2(kernel))
        }
        #[inline(always)]
        fn splat(self, x: f32) -> Self::F {
            [op!(_mm256_set1_ps(x)); 2]
        }
        #[inline(always)]
        fn load(self, from: &Array) -> Self::F {
            let (low, high) = from.split_at(8);
            // SAFETY: avx2 as above; `low` has 8 items.
            let low = unsafe { _mm256_loadu_ps(low.as_ptr()) };
            // SAFETY: avx2 as above; `high` has 8 items.
            let high = unsafe { _mm256_loadu_ps(high.as_ptr()) };
            [low, high]
        }
        #[inline(always)]
        fn store(self, x: Self::F, to: &mut Array) {
            let (low, high) = to.split_at_mut(8);
            // SAFETY: avx2 as above; `low` has 8 items.
            unsafe { _mm256_storeu_ps(low.as_mut_ptr(), x[0]) };
            // SAFETY: avx2 as above; `high` has 8 items.
            unsafe { _mm256_storeu_ps(high.as_mut_ptr(), x[1]) };
        }
        #[inline(always)]
        fn add(self, a: Self::F, b: Self::F) -> Self::F {
            [op!(_mm256_add_ps(a[0], b[0])), op!(_mm256_add_ps(a[1], b[1]))]
        }
        #[inline(always)]
        fn sub(self, a: Self::F, b: Self::F) -> Self::F {
            [op!(_mm256_sub_ps(a[0], b[0])), op!(_mm256_sub_ps(a[1], b[1]))]
        }
        #[inline(always)]
        fn mul(self, a: Self::F, b: Self::F) -> Self::F {
            [op!(_mm256_mul_ps(a[0], b[0])), op!(_mm256_mul_ps(a[1], b[1]))]
        }
        #[inline(always)]
        fn div(self, a: Self::F, b: Self::F) -> Self::F {
            [op!(_mm256_div_ps(a[0], b[0])), op!(_mm256_div_ps(a[1], b[1]))]
        }
        #[inline(always)]
        fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
            [op!(_mm256_fmadd_ps(a[0], b[0], c[0])), op!(_mm256_fmadd_ps(a[1], b[1], c[1]))]
        }
        #[inline(always)]
        fn max(self, a: Self::F, b: Self::F) -> Self::F {
            [op!(_mm256_max_ps(a[0], b[0])), op!(_mm256_max_ps(a[1], b[1]))]
        }
        #[inline(always)]
        fn abs(self, a: Self::F) -> Self::F {
            let sign = op!(_mm256_set1_ps(-0.0));
            [op!(_mm256_andnot_ps(sign, a[0])), op!(_mm256_andnot_ps(sign, a[1]))]
        }
        #[inline(always)]
        fn select_less(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F {
            // SAFETY: avx2 as above.
            let low = unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(a[0], b[0]) };
            // SAFETY: avx2 as above.
            let high = unsafe { _mm256_cmp_ps::<_CMP_LT_OQ>(a[1], b[1]) };
            [op!(_mm256_blendv_ps(y[0], x[0], low)), op!(_mm256_blendv_ps(y[1], x[1], high))]
        }
        #[inline(always)]
        fn shift_left_23(self, a: Self::F) -> Self::F {
            let low = op!(_mm256_castps_si256(a[0]));
            let high = op!(_mm256_castps_si256(a[1]));
            // SAFETY: avx2 as above.
            let low = unsafe { _mm256_slli_epi32::<23>(low) };
            // SAFETY: avx2 as above.
            let high = unsafe { _mm256_slli_epi32::<23>(high) };
            [op!(_mm256_castsi256_ps(low)), op!(_mm256_castsi256_ps(high))]
        }
        #[inline(always)]
        fn load_f16(self, from: &[u8; 2 * LANES]) -> Self::F {
            let (low, high) = from.split_at(16);
            // SAFETY: avx2 as above; `low` has 16 bytes.
            let low = unsafe { _mm_loadu_si128(low.as_ptr().cast()) };
            // SAFETY: avx2 as above; `high` has 16 bytes.
            let high = unsafe { _mm_loadu_si128(high.as_ptr().cast()) };
            [op!(_mm256_cvtph_ps(low)), op!(_mm256_cvtph_ps(high))]
        }
        #[inline(always)]
        fn store_f16(self, x: Self::F, to: &mut [u16; LANES]) {
            for (x, to) in x.into_iter().zip(to.chunks_exact_mut(8)) {
                // SAFETY: f16c as above.
                let halves = unsafe { _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x) };
                // SAFETY: avx2 as above; `to` has 8 items, 16 bytes.
                unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), halves) };
            }
        }
        #[inline(always)]
        fn load_i8(self, from: &[u8; LANES]) -> Self::F {
            // SAFETY: avx2 as above; 16 bytes.
            let bytes = unsafe { _mm_loadu_si128(from.as_ptr().cast()) };
            let high = op!(_mm_unpackhi_epi64(bytes, bytes));
            let (low, high) = (op!(_mm256_cvtepi8_epi32(bytes)), op!(_mm256_cvtepi8_epi32(high)));
            [op!(_mm256_cvtepi32_ps(low)), op!(_mm256_cvtepi32_ps(high))]
        }
    }

    impl Simd for Avx512 {
        type F = __m512;
        const BLOCK_ROWS: usize = 12;

        #[inline(always)]
        fn prefetch(self, address: *const u8) {
            // SAFETY: sse is part of the instruction set, as above; any address will do.
            unsafe { _mm_prefetch::<_MM_HINT_T1>(address.cast()) };
        }
        #[inline(always)]
        fn call<K: Kernel>(self, kernel: K) -> K::Output {
            op!(call_avx512(kernel))
        }
        #[inline(always)]
        fn splat(self, x: f32) -> Self::F {
            op!(_mm512_set1_ps(x))
        }
        #[inline(always)]
        fn load(self, from: &Array) -> Self::F {
            // SAFETY: avx512f as above; 16 items.
            unsafe { _mm512_loadu_ps(from.as_ptr()) }
        }
        #[inline(always)]
        fn store(self, x: Self::F, to: &mut Array) {
            // SAFETY: avx512f as above; 16 items.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) };
        }
        #[inline(always)]
        fn add(self, a: Self::F, b: Self::F) -> Self::F {
            op!(_mm512_add_ps(a, b))
        }
        #[inline(always)]
        fn sub(self, a: Self::F, b: Self::F) -> Self::F {
            op!(_mm512_sub_ps(a, b))
        }
        #[inline(always)]
        fn mul(self, a: Self::F, b: Self::F) -> Self::F {
            op!(_mm512_mul_ps(a, b))
        }
        #[inline(always)]
        fn div(self, a: Self::F, b: Self::F) -> Self::F {
            op!(_mm512_div_ps(a, b))
        }
        #[inline(always)]
        fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
            op!(_mm512_fmadd_ps(a, b, c))
        }
        #[inline(always)]
        fn max(self, a: Self::F, b: Self::F) -> Self::F {
            op!(_mm512_max_ps(a, b))
        }
        #[inline(always)]
        fn abs(self, a: Self::F) -> Self::F {
            op!(_mm512_abs_ps(a))
        }
        #[inline(always)]
        fn select_less(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F {
            // SAFETY: avx512f as above.
            let less = unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) };
            op!(_mm512_mask_blend_ps(less, y, x))
        }
        #[inline(always)]
        fn shift_left_23(self, a: Self::F) -> Self::F {
            let bits = op!(_mm512_castps_si512(a));
            // SAFETY: avx512f as above.
            let shifted = unsafe { _mm512_slli_epi32::<23>(bits) };
            op!(_mm512_castsi512_ps(shifted))
        }
        #[inline(always)]
        fn load_f16(self, from: &[u8; 2 * LANES]) -> Self::F {
            // SAFETY: avx512f as above; 32 bytes.
            let halves = unsafe { _mm256_loadu_si256(from.as_ptr().cast()) };
            op!(_mm512_cvtph_ps(halves))
        }
        #[inline(always)]
        fn store_f16(self, x: Self::F, to: &mut [u16; LANES]) {
            // SAFETY: avx512f as above.
            let halves = unsafe { _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(x) };
            // SAFETY: avx512f as above; 16 items, 32 bytes.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), halves) };
        }
        #[inline(always)]
        fn load_i8(self, from: &[u8; LANES]) -> Self::F {
            // SAFETY: avx512f as above; 16 bytes.
            let bytes = unsafe { _mm_loadu_si128(from.as_ptr().cast()) };
            let integers = op!(_mm512_cvtepi8_epi32(bytes));
            op!(_mm512_cvtepi32_ps(integers))
        }
    }
}
