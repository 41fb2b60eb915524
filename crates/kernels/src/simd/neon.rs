//! [`Simd`] with NEON: sixteen lanes are four registers.

use super::{Array, Kernel, LANES, Simd};
use crate::neon::{self, F32};

/// NEON belongs to the base of the target (see [`crate::neon`]), so the value proves nothing more.
#[derive(Copy, Clone)]
pub(super) struct Neon;

#[inline(never)]
pub(super) fn call<K: Kernel>(kernel: K) -> K::Output {
    kernel.call(Neon)
}

impl Simd for Neon {
    type F = [F32; 4];
    const BLOCK_ROWS: usize = 6;

    // The prefetch intrinsic is unstable (Rust 1.96), and whether one would help was not measured on any Arm CPU.
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
    #[inline(always)]
    fn call<K: Kernel>(self, kernel: K) -> K::Output {
        call(kernel)
    }
    #[inline(always)]
    fn splat(self, x: f32) -> Self::F {
        [neon::floats(x); 4]
    }
    #[inline(always)]
    fn load(self, from: &Array) -> Self::F {
        let (parts, _) = from.as_chunks();
        four!(|I| neon::load(&parts[I]))
    }
    #[inline(always)]
    fn store(self, x: Self::F, to: &mut Array) {
        for (x, to) in x.into_iter().zip(to.as_chunks_mut().0) {
            neon::store(x, to);
        }
    }
    #[inline(always)]
    fn add(self, a: Self::F, b: Self::F) -> Self::F {
        four!(|I| neon::add(a[I], b[I]))
    }
    #[inline(always)]
    fn sub(self, a: Self::F, b: Self::F) -> Self::F {
        four!(|I| neon::sub(a[I], b[I]))
    }
    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        four!(|I| neon::mul(a[I], b[I]))
    }
    #[inline(always)]
    fn div(self, a: Self::F, b: Self::F) -> Self::F {
        four!(|I| neon::div(a[I], b[I]))
    }
    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        four!(|I| neon::fma(c[I], a[I], b[I]))
    }
    // NEON's own maximum keeps a NaN of either side; the trait drops the one in `a`.
    #[inline(always)]
    fn max(self, a: Self::F, b: Self::F) -> Self::F {
        four!(|I| neon::choose(neon::greater(a[I], b[I]), a[I], b[I]))
    }
    #[inline(always)]
    fn abs(self, a: Self::F) -> Self::F {
        four!(|I| neon::abs(a[I]))
    }
    #[inline(always)]
    fn select_less(self, a: Self::F, b: Self::F, x: Self::F, y: Self::F) -> Self::F {
        four!(|I| neon::choose(neon::greater(b[I], a[I]), x[I], y[I]))
    }
    #[inline(always)]
    fn shift_left_23(self, a: Self::F) -> Self::F {
        four!(|I| neon::from_bits(neon::left_words::<23>(neon::bits(a[I]))))
    }
    #[inline(always)]
    fn load_f16(self, from: &[u8; 2 * LANES]) -> Self::F {
        let (parts, _) = from.as_chunks::<2>();
        let (parts, _) = parts.as_chunks();
        four!(|I| neon::halves(&parts[I]))
    }
    #[inline(always)]
    fn store_f16(self, x: Self::F, to: &mut [u16; LANES]) {
        for (x, to) in x.into_iter().zip(to.as_chunks_mut().0) {
            *to = neon::to_halves(x);
        }
    }
    #[inline(always)]
    fn load_i8(self, from: &[u8; LANES]) -> Self::F {
        neon::bytes_to_floats(from)
    }
}
