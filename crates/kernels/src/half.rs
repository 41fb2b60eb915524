//! f16 (IEEE 754 binary16) and bf16 as their `u16` bits, to and from f32.
//!
//! The scalar functions give what the F16C instructions give, NaNs included (a NaN becomes quiet and
//! keeps the top bits of its payload), so slices converted by either are equal.

use crate::isa::Isa;
use crate::simd::{Kernel, LANES, Simd, dispatch};

/// The f32 with the value of an f16, exactly.
#[inline]
#[must_use]
pub fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    let exponent = magnitude >> 10;
    let value = match exponent {
        // Zero or subnormal: the fraction counts units of 2^-24, and both are exact in f32.
        0 => (magnitude as f32 * (1.0 / 16_777_216.0)).to_bits(),
        31 if magnitude > 0x7c00 => 0x7fc0_0000 | (magnitude << 13),
        31 => 0x7f80_0000,
        _ => (magnitude << 13) + ((127 - 15) << 23),
    };
    f32::from_bits(sign | value)
}

/// The f16 nearest to an f32, ties to even; too large becomes infinity.
#[inline]
#[must_use]
pub fn f32_to_f16(x: f32) -> u16 {
    let bits = x.to_bits();
    let sign = ((bits >> 16) & 0x8000) as u16;
    let magnitude = bits & 0x7fff_ffff;
    let value = if magnitude > 0x7f80_0000 {
        0x7e00 | (magnitude >> 13) & 0x3ff
    } else if magnitude >= 0x4780_0000 {
        // 65536 and above, infinity too.
        0x7c00
    } else if magnitude >= 0x3880_0000 {
        // Normal: move the exponent, add a half (less one bit where the kept last bit is even) and
        // cut; a carry runs into the exponent, up to infinity, as it should.
        (magnitude - ((127 - 15) << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13
    } else {
        // Subnormal: adding 0.5, whose last bit is 2^-24, makes the adder round to units of 2^-24.
        (f32::from_bits(magnitude) + 0.5).to_bits() - 0.5_f32.to_bits()
    };
    sign | value as u16
}

/// The f32 with the value of a bf16, exactly.
#[inline]
#[must_use]
pub fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// The bf16 nearest to an f32, ties to even; a NaN becomes quiet.
#[inline]
#[must_use]
pub fn f32_to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    // At most 0x7f800000 + 0x8000: no overflow.
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// Converts f16 to f32, item by item; the shorter slice decides how many.
pub fn f16_to_f32_slice(isa: Isa, from: &[u16], to: &mut [f32]) {
    dispatch(isa, Widen { from, to });
}

/// Converts f32 to f16 as [`f32_to_f16`] does; the shorter slice decides how many.
pub fn f32_to_f16_slice(isa: Isa, from: &[f32], to: &mut [u16]) {
    dispatch(isa, Narrow { from, to });
}

/// Converts bf16 to f32, item by item; the shorter slice decides how many.
pub fn bf16_to_f32_slice(from: &[u16], to: &mut [f32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = bf16_to_f32(*from);
    }
}

/// Converts f32 to bf16 as [`f32_to_bf16`] does; the shorter slice decides how many.
pub fn f32_to_bf16_slice(from: &[f32], to: &mut [u16]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = f32_to_bf16(*from);
    }
}

struct Widen<'a> {
    from: &'a [u16],
    to: &'a mut [f32],
}

impl Kernel for Widen<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let (from, from_rest) = self.from.as_chunks::<LANES>();
        let (to, to_rest) = self.to.as_chunks_mut::<LANES>();
        let whole = from.len().min(to.len());
        for (to, from) in to.iter_mut().zip(from) {
            let mut bytes = [0; 2 * LANES];
            for (bytes, bits) in bytes.as_chunks_mut::<2>().0.iter_mut().zip(from) {
                *bytes = bits.to_le_bytes();
            }
            s.store(s.load_f16(&bytes), to);
        }
        let from = from.get(whole).map_or(from_rest, |chunk| chunk);
        let to = to.get_mut(whole).map_or(to_rest, |chunk| chunk);
        for (to, from) in to.iter_mut().zip(from) {
            *to = f16_to_f32(*from);
        }
    }
}

struct Narrow<'a> {
    from: &'a [f32],
    to: &'a mut [u16],
}

impl Kernel for Narrow<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let (from, from_rest) = self.from.as_chunks::<LANES>();
        let (to, to_rest) = self.to.as_chunks_mut::<LANES>();
        let whole = from.len().min(to.len());
        for (to, from) in to.iter_mut().zip(from) {
            s.store_f16(s.load(from), to);
        }
        let from = from.get(whole).map_or(from_rest, |chunk| chunk);
        let to = to.get_mut(whole).map_or(to_rest, |chunk| chunk);
        for (to, from) in to.iter_mut().zip(from) {
            *to = f32_to_f16(*from);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An independent decoder, by the definition of binary16.
    fn f16_by_definition(bits: u16) -> f64 {
        let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
        let exponent = i32::from(bits >> 10 & 31);
        let fraction = f64::from(bits & 0x3ff);
        match exponent {
            0 => sign * fraction * 2.0_f64.powi(-24),
            31 if fraction == 0.0 => sign * f64::INFINITY,
            31 => f64::NAN,
            _ => sign * (1.0 + fraction / 1024.0) * 2.0_f64.powi(exponent - 15),
        }
    }

    #[test]
    fn every_f16_has_its_value_and_survives_the_way_back() {
        for bits in 0..=u16::MAX {
            let expected = f16_by_definition(bits);
            let x = f16_to_f32(bits);
            assert_eq!(x.is_nan(), expected.is_nan());
            if !x.is_nan() {
                assert_eq!(f64::from(x).to_bits(), expected.to_bits(), "{bits:#x}");
                assert_eq!(f32_to_f16(x), bits);
            }
            let x = bf16_to_f32(bits);
            assert!(x.is_nan() || f32_to_bf16(x) == bits);
        }
    }

    #[test]
    fn rounding_is_to_nearest_even_at_every_midpoint() {
        for low in 0..0x7bff_u16 {
            let (a, b) = (f16_to_f32(low), f16_to_f32(low + 1));
            // Exact: both neighbours have 11 bits.
            let middle = (a + b) / 2.0;
            let even = if low % 2 == 0 { low } else { low + 1 };
            assert_eq!(f32_to_f16(middle), even);
            assert_eq!(f32_to_f16(middle.next_down()), low);
            assert_eq!(f32_to_f16(middle.next_up()), low + 1);
            assert_eq!(f32_to_f16(-middle), even | 0x8000);
        }
        assert_eq!(f32_to_f16(65519.996), 0x7bff);
        assert_eq!(f32_to_f16(65520.0), 0x7c00);
        assert_eq!(f32_to_f16(f32::MAX), 0x7c00);
        assert_eq!(f32_to_bf16(f32::MAX), 0x7f80);
        assert_eq!(f32_to_bf16(1.0 + 1.0 / 256.0), 0x3f80);
        assert_eq!(f32_to_bf16(1.0 + 3.0 / 256.0), 0x3f82);
    }

    /// Every 16-bit pattern, and f32 patterns over all exponents, on every instruction set.
    #[test]
    fn slices_equal_the_scalar_functions_on_every_isa() {
        let halves: Vec<u16> = (0..=u16::MAX).collect();
        let floats: Vec<f32> =
            (0..=u32::MAX).step_by(3557).map(f32::from_bits).chain([0.0]).collect();
        for isa in Isa::available() {
            let mut wide = vec![0.0; halves.len()];
            f16_to_f32_slice(isa, &halves, &mut wide);
            for (bits, x) in halves.iter().zip(&wide) {
                assert_eq!(x.to_bits(), f16_to_f32(*bits).to_bits(), "{isa:?} {bits:#x}");
            }
            let mut narrow = vec![0; floats.len()];
            f32_to_f16_slice(isa, &floats, &mut narrow);
            for (x, bits) in floats.iter().zip(&narrow) {
                assert_eq!(*bits, f32_to_f16(*x), "{isa:?} {:#x}", x.to_bits());
            }
            for len in 0..40 {
                let mut wide = vec![7.0; 40];
                f16_to_f32_slice(isa, &halves[0x3c00..][..len], &mut wide);
                assert_eq!(wide.iter().filter(|x| **x != 7.0).count(), len);
            }
        }
    }
}
