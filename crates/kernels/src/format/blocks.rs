//! The bytes of each block, as structs of bytes: alignment 1, every bit pattern valid, so that a
//! slice of file bytes at any offset is a slice of blocks.
//!
//! Numbers of more than one byte are little-endian. A scale is an IEEE half unless said otherwise.
//! `qs` of the "_0" and "_1" formats hold value `i` (0..16) in the low and value `i + 16` in the
//! high half of byte `i`. Source: `ggml-common.h` of the ggml project, from which GGUF takes its types.
#![allow(unsafe_code, reason = "a slice of bytes is viewed as a slice of blocks of bytes")]
#![allow(missing_docs, reason = "the fields are documented with the struct they belong to")]
#![allow(non_camel_case_types, reason = "these are the names everyone knows the formats by")]

use crate::half::f16_to_f32;

/// A block struct of this module.
///
/// # Safety
/// The type has alignment 1, no padding, and every bit pattern is a value.
pub unsafe trait Block: Copy + 'static {}

macro_rules! block {
    ($(#[$doc:meta])* $name:ident $bytes:literal { $($field:ident: $type:ty,)+ }) => {
        $(#[$doc])*
        #[derive(Copy, Clone)]
        #[repr(C)]
        pub struct $name { $(pub $field: $type,)+ }
        const _: () = assert!(size_of::<$name>() == $bytes && align_of::<$name>() == 1);
        // SAFETY: all fields are bytes or arrays of bytes, asserted by the alignment above.
        unsafe impl Block for $name {}
    };
}

block! {
    /// 32 values: `d * (q - 8)`.
    Q4_0 18 { d: [u8; 2], qs: [u8; 16], }
}
block! {
    /// 32 values: `d * q + m`.
    Q4_1 20 { d: [u8; 2], m: [u8; 2], qs: [u8; 16], }
}
block! {
    /// 32 values: `d * (q - 16)`; bit `i` of `qh` is the fifth bit of value `i`.
    Q5_0 22 { d: [u8; 2], qh: [u8; 4], qs: [u8; 16], }
}
block! {
    /// 32 values: `d * q + m`; `qh` as in `Q5_0`.
    Q5_1 24 { d: [u8; 2], m: [u8; 2], qh: [u8; 4], qs: [u8; 16], }
}
block! {
    /// 32 values: `d * q`, signed bytes.
    Q8_0 34 { d: [u8; 2], qs: [u8; 32], }
}
block! {
    /// 256 values: `d * scale * q - dmin * min`, a 6-bit scale and min per 32 values
    /// (see [`six_bit_pairs`]). Values `64j + i` (i < 32) are the low halves of `qs[32j + i]`, values
    /// `64j + 32 + i` the high ones.
    Q4K 144 { d: [u8; 2], dmin: [u8; 2], scales: [u8; 12], qs: [u8; 128], }
}
block! {
    /// As `Q4K`; bit `g` of `qh[i]` is the fifth bit of value `32g + i`.
    Q5K 176 { d: [u8; 2], dmin: [u8; 2], scales: [u8; 12], qh: [u8; 32], qs: [u8; 128], }
}
block! {
    /// 256 values: `d * scale * (q - 32)`, a signed 8-bit scale per 16 values. In each half of 128
    /// values, value `32g + i` (g < 4, i < 32) has its low four bits in the low (g < 2) or high half
    /// of `ql[32 (g mod 2) + i]` and its upper two bits at bit `2g` of `qh[i]`.
    Q6K 210 { ql: [u8; 128], qh: [u8; 64], scales: [u8; 16], d: [u8; 2], }
}

block! {
    /// 256 values: `d * scale * q - dmin * min`; scale (low half of the byte) and min (high half) per 16
    /// values. In each half of 128 values, value `32g + i` (g < 4, i < 32) is at bit `2g` of `qs[i]`.
    Q2K 84 { scales: [u8; 16], qs: [u8; 64], d: [u8; 2], dmin: [u8; 2], }
}
block! {
    /// 256 values: `d * (scale - 32) * (q - 4)`, a 6-bit scale per 16 values (see [`six_bit_scales`]). Low
    /// two bits as in `Q2K`; bit `g` (g < 8) of `hmask[i]` is the third bit of value `32g + i`.
    Q3K 110 { hmask: [u8; 32], qs: [u8; 64], scales: [u8; 12], d: [u8; 2], }
}
block! {
    /// 32 values: `d * table[q]`, see [`IQ4_VALUES`].
    IQ4NL 18 { d: [u8; 2], qs: [u8; 16], }
}
block! {
    /// 256 values: `d * (scale - 32) * table[q]`, a 6-bit scale per 32 values: low four bits in half
    /// a byte of `scales_l`, upper two at bit `2g` of `scales_h`. Each 16 bytes of `qs` as in `IQ4NL`.
    IQ4XS 136 { d: [u8; 2], scales_h: [u8; 2], scales_l: [u8; 4], qs: [u8; 128], }
}
block! {
    /// 32 values: `2^(e - 128) * table[q]`, see [`FP4_VALUES`].
    MXFP4 17 { e: u8, qs: [u8; 16], }
}
block! {
    /// 64 values: `d * table[q]`, see [`FP4_VALUES`]; a `d` per 16 values, see [`ue4m3_half`]. Each 8 bytes
    /// of `qs` hold 16 values, first the low halves.
    NVFP4 36 { d: [u8; 4], qs: [u8; 32], }
}
block! {
    /// 256 values: `d * (scale + 1/2) / 4 * +-grid`. Per 32 values: four bytes, each the entry of
    /// 8 values; then, in four bytes, four times 7 bits of signs (see [`eight_signs`]) and 4 of scale.
    IQ2XXS 66 { d: [u8; 2], qs: [[u8; 8]; 8], }
}
block! {
    /// 256 values: `d * (scale + 1/2) / 4 * +-grid`. Per 8 values two bytes: 9 bits of entry, 7 of
    /// signs; per 16 values half a byte of scale.
    IQ2XS 74 { d: [u8; 2], qs: [[u8; 8]; 8], scales: [u8; 8], }
}
block! {
    /// 256 values: `d * (scale + 1/2) / 4 * +-grid`. Per 8 values a byte of entry, with two more bits
    /// in `qh`, and a byte of signs; per 16 values half a byte of scale.
    IQ2S 82 { d: [u8; 2], qs: [[u8; 4]; 8], signs: [[u8; 4]; 8], qh: [u8; 8], scales: [u8; 8], }
}
block! {
    /// 256 values: `d * (scale + 1/2) / 2 * +-grid`. Per 4 values a byte of entry; per 32 values four
    /// bytes of signs and scale as in `IQ2XXS`.
    IQ3XXS 98 { d: [u8; 2], qs: [[u8; 8]; 8], signs: [[u8; 4]; 8], }
}
block! {
    /// 256 values: `d * (2 scale + 1) * +-grid`. Per 4 values a byte of entry, with one more bit in `qh`;
    /// per 8 values a byte of signs; per 32 values half a byte of scale.
    IQ3S 110 { d: [u8; 2], qs: [[u8; 8]; 8], qh: [u8; 8], signs: [[u8; 4]; 8], scales: [u8; 4], }
}
block! {
    /// 256 values: `d * (2 scale + 1) * (grid +- 1/8)`. Per 8 values a byte of entry; per 32 values
    /// two bytes `qh`: four times 3 more bits of entry, 3 bits of scale, the sign of the 1/8.
    IQ1S 50 { d: [u8; 2], qs: [[u8; 4]; 8], qh: [[u8; 2]; 8], }
}
block! {
    /// 256 values: as `IQ1S`, with half a byte of `qh` per 8 values (3 bits of entry, the sign of the
    /// 1/8) and 3 bits of scale per 16 values: 12 bits of each of four 16-bit numbers. The top four
    /// bits of those are the half-precision `d`.
    IQ1M 56 { qs: [[u8; 4]; 8], qh: [[u8; 2]; 8], scales: [[u8; 2]; 4], }
}
block! {
    /// 256 values: `d * (t - 1)`, five ternary digits `t` to a byte (see [`ternary`]): values
    /// `32n + i` (n < 5) are digit `n` of `qs[i]` (i < 32), then `160 + 16n + i` of `qs[32 + i]` (i < 16),
    /// then, with four digits, `240 + 4n + i` of `qh[i]` (i < 4).
    TQ1_0 54 { qs: [u8; 48], qh: [u8; 4], d: [u8; 2], }
}
block! {
    /// 256 values: `d * (q - 1)`; in each half of 128 values, value `32g + i` is at bit `2g` of `qs[i]`.
    TQ2_0 66 { qs: [u8; 64], d: [u8; 2], }
}
block! {
    /// 128 values: `d` where the bit is set, else `-d`; the first value in the lowest bit.
    Q1_0 18 { d: [u8; 2], qs: [u8; 16], }
}
block! {
    /// 64 values: `d * (q - 1)`; the first value in the two lowest bits.
    Q2_0 18 { d: [u8; 2], qs: [u8; 16], }
}

/// The values of the 16 codes of `IQ4NL` and `IQ4XS`.
pub const IQ4_VALUES: [i8; 16] =
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Twice the values of the 16 codes of the 4-bit float E2M1.
pub const FP4_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// The 8 six-bit scales and 8 six-bit minimums that `Q4K` and `Q5K` pack into 12 bytes.
///
/// The first four of each have bytes of their own (low six bits of bytes 0..4 and 4..8). The last four
/// have their low four bits in bytes 8..12 (scale low, minimum high half) and their upper two bits
/// in the top of bytes 0..4 and 4..8.
#[must_use]
pub fn six_bit_pairs(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for i in 0..4 {
        scales[i] = packed[i] & 63;
        mins[i] = packed[i + 4] & 63;
        scales[i + 4] = (packed[i + 8] & 15) | (packed[i] >> 6 << 4);
        mins[i + 4] = (packed[i + 8] >> 4) | (packed[i + 4] >> 6 << 4);
    }
    (scales, mins)
}

/// The 16 scales of `Q3K`, less 32: the low four bits are the halves of bytes 0..8 (first all low ones), the
/// upper two are in bytes 8..12, at bits 0, 2, 4, 6 for scales `i`, `4 + i`, `8 + i`, `12 + i`.
#[must_use]
pub fn six_bit_scales(packed: &[u8; 12]) -> [i8; 16] {
    std::array::from_fn(|i| {
        let low = (packed[i % 8] >> (i / 8 * 4)) & 15;
        let high = (packed[8 + i % 4] >> (i / 4 * 2)) & 3;
        (low | high << 4).cast_signed() - 32
    })
}

/// The eight signs that seven bits stand for: the eighth makes the number of ones even. A one is minus.
#[must_use]
#[inline]
pub fn eight_signs(seven: u32) -> u8 {
    const TABLE: [u8; 128] = {
        let mut table = [0; 128];
        let mut seven = 0u8;
        while seven < 128 {
            table[seven as usize] = seven | ((seven.count_ones() as u8 & 1) << 7);
            seven += 1;
        }
        table
    };
    TABLE[(seven & 127) as usize]
}

/// Digit `n` (0, 1, 2) of a byte of `TQ1_0`, which holds a fraction in units of 1/256: times 3^n, the
/// fraction of that, times 3.
#[must_use]
pub fn ternary(byte: u8, n: usize) -> u8 {
    const POWERS: [u8; 5] = [1, 3, 9, 27, 81];
    ((u16::from(byte.wrapping_mul(POWERS[n])) * 3) >> 8) as u8
}

/// Half of 2^(e - 127): a scale of `MXFP4`, for values that are doubled. There is no infinity
/// and no NaN.
#[must_use]
#[inline]
pub fn e8m0_half(e: u8) -> f32 {
    let e = u32::from(e);
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { (e - 1) << 23 })
}

/// Half of an unsigned float with 4 bits of exponent (bias 7) and 3 of fraction: a scale of `NVFP4`, for
/// values that are doubled. 0x7f, which is NaN elsewhere, counts as zero; bit 7 is ignored.
#[must_use]
pub const fn ue4m3_half(byte: u8) -> f32 {
    let (exponent, fraction) = ((byte >> 3) as u32 & 15, (byte & 7) as f32);
    let value = match exponent {
        _ if byte == 0x7f => 0.0,
        0 => fraction / 512.0,
        _ => (1.0 + fraction / 8.0) * f32::from_bits((exponent + 120) << 23),
    };
    value * 0.5
}

/// The bytes as blocks; bytes past the last whole block are left out.
#[must_use]
pub fn as_blocks<B: Block>(bytes: &[u8]) -> &[B] {
    let count = bytes.len() / size_of::<B>();
    // SAFETY: `Block` promises alignment 1 and that all bit patterns are valid, and `count` blocks
    // fit into the slice's bytes.
    unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), count) }
}

/// The bytes of a block.
#[must_use]
#[inline]
pub fn bytes_of<B: Block>(block: &B) -> &[u8] {
    // SAFETY: `Block` promises that the value is bytes without padding.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(block).cast(), size_of::<B>()) }
}

/// A half-precision number, exactly.
#[must_use]
#[inline]
pub fn half(bytes: [u8; 2]) -> f32 {
    f16_to_f32(u16::from_le_bytes(bytes))
}
