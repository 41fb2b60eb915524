//! Random valid blocks of every format, with a given standard deviation.
//!
//! Layouts are ggml's (`ggml-common.h`); how each format decodes is stated where its scale is computed. Codes are uniform over
//! the format's range wherever any code is valid, which uses all of its bits (so files do not compress) and needs no
//! quantiser; the scale is then the standard deviation wanted over that of the codes. Ranges that are not symmetric get scales of random sign,
//! so that no format has a mean.

use lowtide_gguf::GgmlType;

use super::rng::Rng;

/// A byte of each block that may be changed by any of these bits without the block becoming invalid or its scale changing: by
/// it, copies of the same random blocks are told apart.
#[derive(Copy, Clone, Debug)]
pub(super) struct Vary {
    pub(super) byte: usize,
    pub(super) mask: u8,
}

/// Root mean square of `code - offset` for codes uniform in `0..n`.
fn rms(n: f32, offset: f32) -> f32 {
    let mean = (n - 1.0) / 2.0 - offset;
    ((n * n - 1.0) / 12.0 + mean * mean).sqrt()
}

/// Root mean square of the 16 values of `IQ4_NL` and `IQ4_XS`: -127 -104 -83 -65 -49 -35 -22 -10 1 13 25 38 53 69 89 113.
const IQ4_RMS: f32 = 67.44;

/// Root mean square of the 16 values of `MXFP4` and `NVFP4` as ggml stores them, doubled: 0 1 2 3 4 6 8 12 and their negatives.
const FP4_RMS: f32 = 5.852;

/// Root mean square of the code books of the i-quants, measured by decoding random blocks with ggml (python package `gguf`).
/// Scale nibbles are included: values relative to the block's `d`.
const IQ2_XXS_RMS: f32 = 53.5;
const IQ2_XS_RMS: f32 = 55.4;
const IQ2_S_RMS: f32 = 56.1;
const IQ3_XXS_RMS: f32 = 141.0;
const IQ3_S_RMS: f32 = 140.6;
const IQ1_RMS: f32 = 7.15;

/// Fills `out`, whole blocks of `ty`, with values of mean 0 and standard deviation `std`.
///
/// Gives `false`, `out` untouched, for types that no model's weights are stored in.
pub(super) fn fill(ty: GgmlType, std: f32, rng: &mut Rng, out: &mut [u8]) -> bool {
    let Some(layout) = ty.layout() else { return false };
    let Some(block) = writer_of(ty) else { return false };
    for bytes in out.chunks_exact_mut(layout.bytes as usize) {
        block(std, rng, bytes);
    }
    true
}

/// Whether weights are stored in `ty`.
pub(super) fn storable(ty: GgmlType) -> bool {
    writer_of(ty).is_some()
}

/// Fills `out`, `f32` values, uniformly between `low` and `high`.
pub(super) fn fill_uniform(low: f32, high: f32, rng: &mut Rng, out: &mut [u8]) {
    for bytes in out.chunks_exact_mut(4) {
        bytes.copy_from_slice(&(low + (high - low) * rng.unit()).to_le_bytes());
    }
}

/// Where blocks of `ty` may be varied.
pub(super) fn vary(ty: GgmlType) -> Vary {
    let (byte, mask) = match ty {
        // Low mantissa bits: neither sign nor exponent.
        GgmlType::F32 | GgmlType::F16 => (0, 0xff),
        GgmlType::BF16 => (0, 0x7f),
        // Codes after the scale(s).
        GgmlType::Q4_0 | GgmlType::Q5_0 | GgmlType::IQ4_NL | GgmlType::Q1_0 | GgmlType::Q2_0 => {
            (2, 0xff)
        }
        GgmlType::Q4_1 | GgmlType::Q5_1 => (4, 0xff),
        // One bit: from codes within +-126 it cannot make -128, which ggml's quantiser never writes.
        GgmlType::Q8_0 => (2, 0x01),
        GgmlType::Q2_K => (16, 0xff),
        GgmlType::Q4_K | GgmlType::Q5_K => (16, 0xff),
        GgmlType::IQ4_XS => (8, 0xff),
        GgmlType::MXFP4 => (1, 0xff),
        GgmlType::NVFP4 => (4, 0xff),
        GgmlType::IQ2_XXS
        | GgmlType::IQ2_XS
        | GgmlType::IQ2_S
        | GgmlType::IQ3_XXS
        | GgmlType::IQ3_S
        | GgmlType::IQ1_S => (2, 0xff),
        // Swaps 0 and 1, which are -d and 0, in one place: never the invalid code 3.
        GgmlType::TQ2_0 => (0, 0x01),
        // Q3_K, Q6_K, TQ1_0, IQ1_M start with codes in which any byte is valid.
        _ => (0, 0xff),
    };
    Vary { byte, mask }
}

type BlockWriter = fn(f32, &mut Rng, &mut [u8]);

fn writer_of(ty: GgmlType) -> Option<BlockWriter> {
    Some(match ty {
        GgmlType::F32 => |std, rng, b| b.copy_from_slice(&(std * rng.normal()).to_le_bytes()),
        GgmlType::F16 => |std, rng, b| put_f16(b, std * rng.normal()),
        GgmlType::BF16 => |std, rng, b| {
            b.copy_from_slice(&(std * rng.normal()).to_le_bytes()[2..]);
        },
        // (code - 8) * d and (code - 16) * d.
        GgmlType::Q4_0 => |std, rng, b| scaled(std / rms(16.0, 8.0), rng, b, 0),
        GgmlType::Q5_0 => |std, rng, b| scaled(std / rms(32.0, 16.0), rng, b, 0),
        // code * d + m.
        GgmlType::Q4_1 => |std, rng, b| with_min(std / rms(16.0, 7.5), -7.5, rng, b),
        GgmlType::Q5_1 => |std, rng, b| with_min(std / rms(32.0, 15.5), -15.5, rng, b),
        GgmlType::Q8_0 => q8_0,
        // A bit is -d or d.
        GgmlType::Q1_0 => |std, rng, b| scaled(std, rng, b, 0),
        // (code - 1) * d.
        GgmlType::Q2_0 => |std, rng, b| scaled(std / rms(4.0, 1.0), rng, b, 0),
        GgmlType::Q2_K => q2_k,
        // (code - 4) * (6-bit scale - 32) * d; the scales' sign makes the mean 0.
        GgmlType::Q3_K => |std, rng, b| scaled(std / rms(8.0, 4.0) / rms(64.0, 32.0), rng, b, 108),
        GgmlType::Q4_K => |std, rng, b| q45_k(std, 7.5, rng, b),
        GgmlType::Q5_K => |std, rng, b| q45_k(std, 15.5, rng, b),
        GgmlType::Q6_K => q6_k,
        GgmlType::IQ4_NL => |std, rng, b| scaled(std / IQ4_RMS, rng, b, 0),
        GgmlType::IQ4_XS => |std, rng, b| scaled(std / IQ4_RMS / rms(64.0, 32.0), rng, b, 0),
        GgmlType::IQ2_XXS => |std, rng, b| scaled(std / IQ2_XXS_RMS, rng, b, 0),
        GgmlType::IQ2_XS => |std, rng, b| scaled(std / IQ2_XS_RMS, rng, b, 0),
        GgmlType::IQ2_S => |std, rng, b| scaled(std / IQ2_S_RMS, rng, b, 0),
        GgmlType::IQ3_XXS => |std, rng, b| scaled(std / IQ3_XXS_RMS, rng, b, 0),
        GgmlType::IQ3_S => |std, rng, b| scaled(std / IQ3_S_RMS, rng, b, 0),
        GgmlType::IQ1_S => |std, rng, b| scaled(std / IQ1_RMS, rng, b, 0),
        GgmlType::IQ1_M => iq1_m,
        // Any byte decodes to trits: (trit - 1) * d.
        GgmlType::TQ1_0 => |std, rng, b| scaled(std / (2f32 / 3.0).sqrt(), rng, b, 52),
        GgmlType::TQ2_0 => tq2_0,
        GgmlType::MXFP4 => mxfp4,
        GgmlType::NVFP4 => nvfp4,
        _ => return None,
    })
}

/// A scale near `d`, of either sign: blocks of a real tensor differ in scale by tens of percent.
fn jitter(d: f32, rng: &mut Rng) -> f32 {
    // Uniform in 0.7..1.27 has a mean square of 1.
    d * rng.sign() * (0.7 + 0.57 * rng.unit())
}

/// Random bytes but for one f16 scale at byte `at`.
fn scaled(d: f32, rng: &mut Rng, block: &mut [u8], at: usize) {
    rng.fill(block);
    put_f16(&mut block[at..at + 2], jitter(d, rng));
}

/// Random bytes but for an f16 scale and the minimum that goes with it, at the block's start.
fn with_min(d: f32, offset: f32, rng: &mut Rng, block: &mut [u8]) {
    rng.fill(block);
    let d = jitter(d, rng).abs();
    put_f16(&mut block[..2], d);
    put_f16(&mut block[2..4], d * offset);
}

/// code * d, codes bell-shaped.
fn q8_0(std: f32, rng: &mut Rng, block: &mut [u8]) {
    const CODE_STD: f32 = 40.0;
    put_f16(&mut block[..2], jitter(std / CODE_STD, rng));
    for code in &mut block[2..] {
        *code = (CODE_STD * rng.normal()).clamp(-126.0, 126.0).round_ties_even() as i8 as u8;
    }
}

/// d * scale * code - dmin * min: 4-bit scales and mins (equal here, so dmin = 1.5 d centres the codes), 2-bit codes.
fn q2_k(std: f32, rng: &mut Rng, block: &mut [u8]) {
    rng.fill(block);
    for scale in &mut block[..16] {
        let nibble = 8 + (*scale & 7);
        *scale = nibble << 4 | nibble;
    }
    let scale_rms = (11.5f32 * 11.5 + 5.25).sqrt();
    let d = jitter(std / scale_rms / rms(4.0, 1.5), rng).abs();
    put_f16(&mut block[80..82], d);
    put_f16(&mut block[82..84], d * 1.5);
}

/// d * scale * code - dmin * min: 6-bit scales and mins (equal here, so dmin = offset * d centres the codes), eight of each packed into
/// twelve bytes after d and dmin.
fn q45_k(std: f32, offset: f32, rng: &mut Rng, block: &mut [u8]) {
    rng.fill(block);
    let mut scales = [0u8; 8];
    for scale in &mut scales {
        *scale = 32 + rng.below(32) as u8;
    }
    // Uniform in 32..64.
    let scale_rms = (47.5f32 * 47.5 + (1024.0 - 1.0) / 12.0).sqrt();
    let d = jitter(std / scale_rms / rms(offset * 2.0 + 1.0, offset), rng).abs();
    put_f16(&mut block[..2], d);
    put_f16(&mut block[2..4], d * offset);
    let packed = &mut block[4..16];
    for j in 0..4 {
        // Low six bits: scale j and min j; top two: those of scale and min j + 4, whose low four share the last four bytes.
        let (low, high) = (scales[j], scales[j + 4]);
        packed[j] = low | (high >> 4) << 6;
        packed[j + 4] = low | (high >> 4) << 6;
        packed[j + 8] = (high & 15) | (high & 15) << 4;
    }
}

/// (code - 32) * scale * d: 6-bit codes, 8-bit signed scales.
fn q6_k(std: f32, rng: &mut Rng, block: &mut [u8]) {
    rng.fill(block);
    for scale in &mut block[192..208] {
        let magnitude = 64 + (*scale & 63) as i8;
        *scale = (if *scale & 64 == 0 { magnitude } else { -magnitude }) as u8;
    }
    let scale_rms = (95.5f32 * 95.5 + (4096.0 - 1.0) / 12.0).sqrt();
    put_f16(&mut block[208..210], jitter(std / scale_rms / rms(64.0, 32.0), rng));
}

/// (code - 1) * d with codes 0 to 2; 3 does not occur in files.
fn tq2_0(std: f32, rng: &mut Rng, block: &mut [u8]) {
    for byte in &mut block[..64] {
        *byte = (0..4).fold(0, |byte, _| byte << 2 | rng.below(3) as u8);
    }
    put_f16(&mut block[64..66], jitter(std / (2f32 / 3.0).sqrt(), rng));
}

/// As `IQ1_S`, but the scale's four nibbles are the top nibbles of four 16-bit words of 3-bit scales.
fn iq1_m(std: f32, rng: &mut Rng, block: &mut [u8]) {
    rng.fill(block);
    let bits = f16_bits(jitter(std / IQ1_RMS, rng));
    for word in 0..4 {
        let nibble = (bits >> (4 * word) & 15) as u8;
        let high = &mut block[48 + 2 * word + 1];
        *high = *high & 15 | nibble << 4;
    }
}

/// value * 2^(e - 128), value one of the doubled 4-bit floats. Exponents of two neighbours are mixed to meet `std`.
fn mxfp4(std: f32, rng: &mut Rng, block: &mut [u8]) {
    rng.fill(block);
    let scale = std / FP4_RMS;
    let exponent = scale.log2().floor();
    // Squares of the two candidates are 1 and 4 times 4^exponent: take the larger with the probability that meets scale^2.
    let excess = ((scale / exponent.exp2()).powi(2) - 1.0) / 3.0;
    let up = f32::from(rng.unit() < excess);
    block[0] = (exponent + up + 128.0).clamp(1.0, 254.0) as u8;
}

/// value * d, d an unsigned 8-bit float (4 bits of exponent, 3 of mantissa) per 16 values, halved as ggml does.
fn nvfp4(std: f32, rng: &mut Rng, block: &mut [u8]) {
    rng.fill(block);
    for scale in &mut block[..4] {
        let d = 2.0 * jitter(std / FP4_RMS, rng).abs();
        *scale = ue4m3_bits(d);
    }
}

/// The nearest unsigned 8-bit float (bias 7) from below.
fn ue4m3_bits(x: f32) -> u8 {
    let smallest_normal = 2f32.powi(-6);
    if x < smallest_normal {
        return (x / smallest_normal * 8.0) as u8;
    }
    let exponent = x.log2().floor().min(8.0);
    let mantissa = ((x / exponent.exp2() - 1.0) * 8.0).clamp(0.0, 6.0) as u8;
    ((exponent + 7.0) as u8) << 3 | mantissa
}

pub(super) fn put_f16(out: &mut [u8], x: f32) {
    out.copy_from_slice(&f16_bits(x).to_le_bytes());
}

/// IEEE binary16, rounded to nearest even; values beyond the range become the largest finite one (weights are never infinite).
fn f16_bits(x: f32) -> u16 {
    let sign = (x.to_bits() >> 16 & 0x8000) as u16;
    let magnitude = x.abs().min(65_504.0);
    // Below 2^-14 halves are multiples of 2^-24; adding 2^-1 in f32, whose unit in the last place there is 2^-24, rounds to them.
    if magnitude < 2f32.powi(-14) {
        return sign | ((magnitude + 0.5).to_bits() & 0x7fff) as u16;
    }
    // Drop 13 bits of mantissa, rounding half to even; move the exponent's bias from 127 to 15.
    let bits = magnitude.to_bits();
    let rounded = bits + 0xfff + (bits >> 13 & 1);
    sign | (((rounded >> 13) - ((127 - 15) << 10)) as u16).min(0x7bff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_round_to_nearest_even() {
        let cases = [
            (0.0, 0),
            (-0.0, 0x8000),
            (1.0, 0x3c00),
            (-2.5, 0xc100),
            (65_504.0, 0x7bff),
            (1e9, 0x7bff),
            (1.0 + 1.0 / 2048.0, 0x3c00),
            (1.0 + 3.0 / 2048.0, 0x3c02),
            (2f32.powi(-14), 0x0400),
            (2f32.powi(-24), 0x0001),
            (2f32.powi(-25), 0x0000),
            (3.0 * 2f32.powi(-25), 0x0002),
            (2f32.powi(-14) - 2f32.powi(-25), 0x0400),
            (5.5e-5, 0x039b),
        ];
        for (x, bits) in cases {
            assert_eq!(f16_bits(x), bits, "{x}");
        }
    }

    #[test]
    fn normals_have_mean_0_and_deviation_1() {
        let mut rng = Rng::of(&[1]);
        let values: Vec<f64> = (0..100_000).map(|_| f64::from(rng.normal())).collect();
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let variance = values.iter().map(|v| v * v).sum::<f64>() / n;
        assert!(mean.abs() < 0.02 && (variance - 1.0).abs() < 0.02, "{mean} {variance}");
    }
}
