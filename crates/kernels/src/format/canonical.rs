//! The integers and scales of 32 consecutive weights: what matrix products are defined on.
//!
//! With `x` the 8-bit codes of the 32 activations, `dx` their scale and `sx = dx * sum(x)` (see
//! [`crate::quantize`]), a block changes the sum of its row like this, in this order:
//!
//! 1. `isum = scale[0] * sum(codes[..16] * x[..16]) + scale[1] * sum(codes[16..] * x[16..])`, exact;
//! 2. `acc = fma(isum as f32, d * dx, acc)`;
//! 3. formats with a minimum: `acc = fma(min, sx, acc)`; or, where the minimum has an integer part per
//!    16 weights, `acc = fma(msum as f32, min * dx, acc)` with the exact
//!    `msum = min_scale[0] * sum(x[..16]) + min_scale[1] * sum(x[16..])`.
//!
//! One format has a float scale per 16 weights: there steps 1 and 2 are done for the first half with
//! `d` and then for the second with `d_high`.
//!
//! Where all 32 weights share an integer scale, it is part of `d`: a half-precision number times a number of up to
//! six bits is exact in an `f32`, and what is multiplied once per row costs nothing with many columns (a product of
//! integers for each of them took 8 to 9 % of prefill with AVX-512). So `scale` is only for formats with one per 16.
//!
//! That is all the arithmetic a product has, so every implementation that takes the blocks in
//! order gives the same bits.

use super::blocks::{self, half, six_bit_pairs, six_bit_scales};
use super::quants;

/// 32 consecutive weights of a row: weight `i` is `d * scale[i / 16] * codes[i]` plus its minimum.
#[derive(Copy, Clone, Debug)]
pub struct Block32 {
    /// The codes, centred.
    pub codes: [i8; 32],
    /// Integer scales of the first and the last 16 codes; 1 where the format has none, or one for all 32.
    pub scale: [i16; 2],
    /// The float scale; times the integer scale, where the format has one for all 32 codes.
    pub d: f32,
    /// The float scale of the last 16 codes, for [`Canonical::SPLIT`] formats.
    pub d_high: f32,
    /// What is added to each weight; 0 where the format has no minimum.
    pub min: f32,
    /// For [`Min::Scaled`]: what `min` is multiplied with for the first and the last 16 weights.
    pub min_scale: [i16; 2],
}

/// What step 3 of the sum does.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Min {
    /// Nothing.
    None,
    /// `fma(min, sx, acc)`.
    Value,
    /// `fma(msum as f32, min * dx, acc)`.
    Scaled,
}

/// Which integer scales a format has: what step 1 of the sum multiplies with.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[derive(Copy, Clone, PartialEq, Eq)]
pub(crate) enum Scales {
    /// None that is not part of `d`.
    None,
    /// One for 16 codes.
    Per16,
}

/// A block struct whose weights have a canonical form.
pub trait Canonical: blocks::Block {
    /// How many groups of 32 weights the block holds.
    const GROUPS: usize = 8;
    /// What step 3 of the sum does.
    const MIN: Min = Min::None;
    /// Whether each half of 32 weights has its own float scale.
    const SPLIT: bool = false;
    /// Weights `32g..32g + 32`.
    fn group(&self, g: usize) -> Block32;
}

fn plain(d: f32, codes: [i8; 32]) -> Block32 {
    Block32 { codes, scale: [1; 2], d, d_high: d, min: 0.0, min_scale: [0; 2] }
}

impl Canonical for blocks::Q4_0 {
    const GROUPS: usize = 1;
    fn group(&self, _: usize) -> Block32 {
        plain(half(self.d), quants::signed(quants::nibbles(&self.qs), 8))
    }
}

impl Canonical for blocks::Q4_1 {
    const GROUPS: usize = 1;
    const MIN: Min = Min::Value;
    fn group(&self, _: usize) -> Block32 {
        let codes = quants::nibbles(&self.qs).map(u8::cast_signed);
        Block32 { min: half(self.m), ..plain(half(self.d), codes) }
    }
}

impl Canonical for blocks::Q5_0 {
    const GROUPS: usize = 1;
    fn group(&self, _: usize) -> Block32 {
        plain(half(self.d), quants::signed(quants::five_bits(&self.qs, self.qh), 16))
    }
}

impl Canonical for blocks::Q5_1 {
    const GROUPS: usize = 1;
    const MIN: Min = Min::Value;
    fn group(&self, _: usize) -> Block32 {
        let codes = quants::five_bits(&self.qs, self.qh).map(u8::cast_signed);
        Block32 { min: half(self.m), ..plain(half(self.d), codes) }
    }
}

impl Canonical for blocks::Q8_0 {
    const GROUPS: usize = 1;
    fn group(&self, _: usize) -> Block32 {
        plain(half(self.d), self.qs.map(u8::cast_signed))
    }
}

/// `Q4K` and `Q5K`: the minimum is the one product `-(dmin * min)`, rounded.
fn with_six_bit_pair(
    d: [u8; 2],
    dmin: [u8; 2],
    packed: &[u8; 12],
    g: usize,
    codes: [u8; 32],
) -> Block32 {
    let (scales, mins) = six_bit_pairs(packed);
    Block32 {
        min: -(half(dmin) * f32::from(mins[g])),
        ..plain(half(d) * f32::from(scales[g]), codes.map(u8::cast_signed))
    }
}

impl Canonical for blocks::Q4K {
    const MIN: Min = Min::Value;
    fn group(&self, g: usize) -> Block32 {
        with_six_bit_pair(self.d, self.dmin, &self.scales, g, quants::q4k(self, g))
    }
}

impl Canonical for blocks::Q5K {
    const MIN: Min = Min::Value;
    fn group(&self, g: usize) -> Block32 {
        with_six_bit_pair(self.d, self.dmin, &self.scales, g, quants::q5k(self, g))
    }
}

impl Canonical for blocks::Q6K {
    fn group(&self, g: usize) -> Block32 {
        let scale = [2 * g, 2 * g + 1].map(|i| i16::from(self.scales[i].cast_signed()));
        Block32 { scale, ..plain(half(self.d), quants::signed(quants::q6k(self, g), 32)) }
    }
}

impl Canonical for blocks::Q2K {
    const MIN: Min = Min::Scaled;
    fn group(&self, g: usize) -> Block32 {
        let bytes = [self.scales[2 * g], self.scales[2 * g + 1]];
        Block32 {
            scale: bytes.map(|byte| i16::from(byte & 15)),
            min: -half(self.dmin),
            min_scale: bytes.map(|byte| i16::from(byte >> 4)),
            ..plain(half(self.d), quants::q2k(self, g).map(u8::cast_signed))
        }
    }
}

impl Canonical for blocks::Q3K {
    fn group(&self, g: usize) -> Block32 {
        let scales = six_bit_scales(&self.scales);
        let scale = [2 * g, 2 * g + 1].map(|i| i16::from(scales[i]));
        Block32 { scale, ..plain(half(self.d), quants::signed(quants::q3k(self, g), 4)) }
    }
}

impl Canonical for blocks::IQ4NL {
    const GROUPS: usize = 1;
    fn group(&self, _: usize) -> Block32 {
        let codes = quants::nibbles(&self.qs).map(|q| blocks::IQ4_VALUES[q as usize]);
        plain(half(self.d), codes)
    }
}

impl Canonical for blocks::IQ4XS {
    fn group(&self, g: usize) -> Block32 {
        plain(half(self.d) * f32::from(quants::iq4xs_scale(self, g)), quants::iq4xs(self, g))
    }
}

impl Canonical for blocks::MXFP4 {
    const GROUPS: usize = 1;
    fn group(&self, _: usize) -> Block32 {
        let codes = quants::nibbles(&self.qs).map(|q| blocks::FP4_VALUES[q as usize]);
        plain(blocks::e8m0_half(self.e), codes)
    }
}

impl Canonical for blocks::NVFP4 {
    const GROUPS: usize = 2;
    const SPLIT: bool = true;
    fn group(&self, g: usize) -> Block32 {
        let [d, d_high] = [2 * g, 2 * g + 1].map(|i| blocks::ue4m3_half(self.d[i]));
        Block32 { d_high, ..plain(d, quants::nvfp4(self, g)) }
    }
}

/// `d` times `factor`, a power of two, and the scales `2 scale + 1`: how the formats write
/// `d * (scale + 1/2)` times a power of two, in integers.
fn odd_scales(d: [u8; 2], factor: f32, scale: [u8; 2], codes: [i8; 32]) -> Block32 {
    let scale = scale.map(|scale| 2 * i16::from(scale) + 1);
    Block32 { scale, ..plain(half(d) * factor, codes) }
}

/// The same with one scale.
fn odd_scale(d: [u8; 2], factor: f32, scale: u8, codes: [i8; 32]) -> Block32 {
    plain(half(d) * factor * f32::from(2 * scale + 1), codes)
}

impl Canonical for blocks::IQ2XXS {
    fn group(&self, g: usize) -> Block32 {
        let (codes, scale) = quants::iq2xxs(self, g);
        odd_scale(self.d, 0.125, scale, codes)
    }
}

impl Canonical for blocks::IQ2XS {
    fn group(&self, g: usize) -> Block32 {
        let (codes, scale) = quants::iq2xs(self, g);
        odd_scales(self.d, 0.125, scale, codes)
    }
}

impl Canonical for blocks::IQ2S {
    fn group(&self, g: usize) -> Block32 {
        let (codes, scale) = quants::iq2s(self, g);
        odd_scales(self.d, 0.125, scale, codes)
    }
}

impl Canonical for blocks::IQ3XXS {
    fn group(&self, g: usize) -> Block32 {
        let (codes, scale) = quants::iq3xxs(self, g);
        odd_scale(self.d, 0.25, scale, codes)
    }
}

impl Canonical for blocks::IQ3S {
    fn group(&self, g: usize) -> Block32 {
        let (codes, scale) = quants::iq3s(self, g);
        odd_scale(self.d, 1.0, scale, codes)
    }
}

impl Canonical for blocks::IQ1S {
    fn group(&self, g: usize) -> Block32 {
        let (codes, scale) = quants::iq1s(self, g);
        odd_scale(self.d, 0.125, scale, codes)
    }
}

impl Canonical for blocks::IQ1M {
    fn group(&self, g: usize) -> Block32 {
        let (codes, scale) = quants::iq1m(self, g);
        odd_scales(quants::iq1m_d(self), 0.125, scale, codes)
    }
}

impl Canonical for blocks::TQ1_0 {
    fn group(&self, g: usize) -> Block32 {
        plain(half(self.d), quants::tq1_0(self, g))
    }
}

impl Canonical for blocks::TQ2_0 {
    fn group(&self, g: usize) -> Block32 {
        plain(half(self.d), quants::tq2_0(self, g))
    }
}

impl Canonical for blocks::Q1_0 {
    const GROUPS: usize = 4;
    fn group(&self, g: usize) -> Block32 {
        plain(half(self.d), quants::q1_0(self, g))
    }
}

impl Canonical for blocks::Q2_0 {
    const GROUPS: usize = 2;
    fn group(&self, g: usize) -> Block32 {
        plain(half(self.d), quants::q2_0(self, g))
    }
}
