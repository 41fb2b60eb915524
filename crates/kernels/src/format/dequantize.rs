//! The values of blocks, rounded exactly where the formats' authors round (ggml's
//! `dequantize_row_*`): the reference for what a file means. Products do not go through here.

use super::blocks::{self, as_blocks, half, six_bit_pairs, six_bit_scales};
use super::{Format, FormatError, quants};
use crate::half::bf16_to_f32;

/// Writes the values of the blocks in `bytes` to `out`.
///
/// # Errors
/// [`FormatError`] unless `bytes` are exactly as many whole blocks as `out` has values.
pub fn dequantize(format: Format, bytes: &[u8], out: &mut [f32]) -> Result<(), FormatError> {
    let values = out.len();
    let Some(expected) = format.row_bytes(values) else {
        return Err(FormatError::Ragged { format, values, block_len: format.block_len() });
    };
    if bytes.len() != expected {
        return Err(FormatError::Length { format, values, bytes: bytes.len() });
    }
    match format {
        Format::F32 => floats(bytes, out, f32::from_le_bytes),
        Format::F16 => floats(bytes, out, half),
        Format::BF16 => floats(bytes, out, bfloat),
        Format::Q4_0 => each(bytes, out, q4_0),
        Format::Q4_1 => each(bytes, out, q4_1),
        Format::Q5_0 => each(bytes, out, q5_0),
        Format::Q5_1 => each(bytes, out, q5_1),
        Format::Q8_0 => each(bytes, out, q8_0),
        Format::Q4_K => each(bytes, out, q4_k),
        Format::Q5_K => each(bytes, out, q5_k),
        Format::Q6_K => each(bytes, out, q6_k),
        Format::Q2_K => each(bytes, out, q2_k),
        Format::Q3_K => each(bytes, out, q3_k),
        Format::IQ4_NL => each(bytes, out, iq4_nl),
        Format::IQ4_XS => each(bytes, out, iq4_xs),
        Format::MXFP4 => each(bytes, out, mxfp4),
        Format::NVFP4 => each(bytes, out, nvfp4),
        Format::IQ2_XXS => each(bytes, out, iq2_xxs),
        Format::IQ2_XS => each(bytes, out, iq2_xs),
        Format::IQ2_S => each(bytes, out, iq2_s),
        Format::IQ3_XXS => each(bytes, out, iq3_xxs),
        Format::IQ3_S => each(bytes, out, iq3_s),
        Format::IQ1_S => each(bytes, out, iq1_s),
        Format::IQ1_M => each(bytes, out, iq1_m),
        Format::TQ1_0 => each(bytes, out, tq1_0),
        Format::TQ2_0 => each(bytes, out, tq2_0),
        Format::Q1_0 => each(bytes, out, q1_0),
        Format::Q2_0 => each(bytes, out, q2_0),
    }
    Ok(())
}

/// The single whose upper half these bytes are.
pub(crate) fn bfloat(bytes: [u8; 2]) -> f32 {
    bf16_to_f32(u16::from_le_bytes(bytes))
}

fn floats<const N: usize>(bytes: &[u8], out: &mut [f32], value: fn([u8; N]) -> f32) {
    for (bytes, out) in bytes.as_chunks().0.iter().zip(out) {
        *out = value(*bytes);
    }
}

fn each<B: blocks::Block, const LEN: usize>(
    bytes: &[u8],
    out: &mut [f32],
    values: fn(&B) -> [f32; LEN],
) {
    for (block, out) in as_blocks::<B>(bytes).iter().zip(out.as_chunks_mut().0) {
        *out = values(block);
    }
}

fn q4_0(block: &blocks::Q4_0) -> [f32; 32] {
    let d = half(block.d);
    quants::nibbles(&block.qs).map(|q| f32::from(i16::from(q) - 8) * d)
}

fn q4_1(block: &blocks::Q4_1) -> [f32; 32] {
    let (d, m) = (half(block.d), half(block.m));
    quants::nibbles(&block.qs).map(|q| f32::from(q) * d + m)
}

fn q5_0(block: &blocks::Q5_0) -> [f32; 32] {
    let d = half(block.d);
    quants::five_bits(&block.qs, block.qh).map(|q| f32::from(i16::from(q) - 16) * d)
}

fn q5_1(block: &blocks::Q5_1) -> [f32; 32] {
    let (d, m) = (half(block.d), half(block.m));
    quants::five_bits(&block.qs, block.qh).map(|q| f32::from(q) * d + m)
}

fn q8_0(block: &blocks::Q8_0) -> [f32; 32] {
    let d = half(block.d);
    block.qs.map(|q| f32::from(q.cast_signed()) * d)
}

fn q4_k(block: &blocks::Q4K) -> [f32; 256] {
    let groups = std::array::from_fn(|g| quants::q4k(block, g));
    scaled_with_minimum(half(block.d), half(block.dmin), &block.scales, &groups)
}

fn q5_k(block: &blocks::Q5K) -> [f32; 256] {
    let groups = std::array::from_fn(|g| quants::q5k(block, g));
    scaled_with_minimum(half(block.d), half(block.dmin), &block.scales, &groups)
}

fn scaled_with_minimum(d: f32, dmin: f32, packed: &[u8; 12], groups: &[[u8; 32]; 8]) -> [f32; 256] {
    let (scales, mins) = six_bit_pairs(packed);
    std::array::from_fn(|i| {
        let g = i / 32;
        (d * f32::from(scales[g])) * f32::from(groups[g][i % 32]) - dmin * f32::from(mins[g])
    })
}

fn q6_k(block: &blocks::Q6K) -> [f32; 256] {
    let d = half(block.d);
    let groups: [[u8; 32]; 8] = std::array::from_fn(|g| quants::q6k(block, g));
    std::array::from_fn(|i| {
        let scale = f32::from(block.scales[i / 16].cast_signed());
        (d * scale) * f32::from(i16::from(groups[i / 32][i % 32]) - 32)
    })
}

fn q2_k(block: &blocks::Q2K) -> [f32; 256] {
    let (d, dmin) = (half(block.d), half(block.dmin));
    let groups: [[u8; 32]; 8] = std::array::from_fn(|g| quants::q2k(block, g));
    std::array::from_fn(|i| {
        let (scale, min) = (block.scales[i / 16] & 15, block.scales[i / 16] >> 4);
        (d * f32::from(scale)) * f32::from(groups[i / 32][i % 32]) - dmin * f32::from(min)
    })
}

fn q3_k(block: &blocks::Q3K) -> [f32; 256] {
    let d = half(block.d);
    let scales = six_bit_scales(&block.scales);
    let groups: [[u8; 32]; 8] = std::array::from_fn(|g| quants::q3k(block, g));
    std::array::from_fn(|i| {
        (d * f32::from(scales[i / 16])) * f32::from(i16::from(groups[i / 32][i % 32]) - 4)
    })
}

fn iq4_nl(block: &blocks::IQ4NL) -> [f32; 32] {
    let d = half(block.d);
    quants::nibbles(&block.qs).map(|q| d * f32::from(blocks::IQ4_VALUES[q as usize]))
}

fn iq4_xs(block: &blocks::IQ4XS) -> [f32; 256] {
    let d = half(block.d);
    groups(|g| {
        let scale = d * f32::from(quants::iq4xs_scale(block, g));
        (quants::iq4xs(block, g), [scale; 2])
    })
}

fn mxfp4(block: &blocks::MXFP4) -> [f32; 32] {
    let d = blocks::e8m0_half(block.e);
    quants::nibbles(&block.qs).map(|q| f32::from(blocks::FP4_VALUES[q as usize]) * d)
}

fn nvfp4(block: &blocks::NVFP4) -> [f32; 64] {
    let groups: [[i8; 32]; 2] = std::array::from_fn(|g| quants::nvfp4(block, g));
    std::array::from_fn(|i| f32::from(groups[i / 32][i % 32]) * blocks::ue4m3_half(block.d[i / 16]))
}

/// 256 values from the values without scale of each 32, and the scales of their halves.
fn groups(group: impl Fn(usize) -> ([i8; 32], [f32; 2])) -> [f32; 256] {
    let groups: [_; 8] = std::array::from_fn(group);
    std::array::from_fn(|i| {
        let (codes, scales) = groups[i / 32];
        scales[i % 32 / 16] * f32::from(codes[i % 32])
    })
}

fn iq2_xxs(block: &blocks::IQ2XXS) -> [f32; 256] {
    let d = half(block.d);
    groups(|g| {
        let (codes, scale) = quants::iq2xxs(block, g);
        (codes, [d * (0.5 + f32::from(scale)) * 0.25; 2])
    })
}

fn iq2_xs(block: &blocks::IQ2XS) -> [f32; 256] {
    let d = half(block.d);
    groups(|g| {
        let (codes, scales) = quants::iq2xs(block, g);
        (codes, scales.map(|scale| d * (0.5 + f32::from(scale)) * 0.25))
    })
}

fn iq2_s(block: &blocks::IQ2S) -> [f32; 256] {
    let d = half(block.d);
    groups(|g| {
        let (codes, scales) = quants::iq2s(block, g);
        (codes, scales.map(|scale| d * (0.5 + f32::from(scale)) * 0.25))
    })
}

fn iq3_xxs(block: &blocks::IQ3XXS) -> [f32; 256] {
    let d = half(block.d);
    groups(|g| {
        let (codes, scale) = quants::iq3xxs(block, g);
        (codes, [d * (0.5 + f32::from(scale)) * 0.5; 2])
    })
}

fn iq3_s(block: &blocks::IQ3S) -> [f32; 256] {
    let d = half(block.d);
    groups(|g| {
        let (codes, scale) = quants::iq3s(block, g);
        (codes, [d * f32::from(1 + 2 * scale); 2])
    })
}

// The codes of the 1-bit formats are eight times the values; an eighth of a scale is exact.
fn iq1_s(block: &blocks::IQ1S) -> [f32; 256] {
    let d = half(block.d);
    groups(|g| {
        let (codes, scale) = quants::iq1s(block, g);
        (codes, [d * f32::from(1 + 2 * scale) * 0.125; 2])
    })
}

fn iq1_m(block: &blocks::IQ1M) -> [f32; 256] {
    let d = half(quants::iq1m_d(block));
    groups(|g| {
        let (codes, scales) = quants::iq1m(block, g);
        (codes, scales.map(|scale| d * f32::from(1 + 2 * scale) * 0.125))
    })
}

fn tq1_0(block: &blocks::TQ1_0) -> [f32; 256] {
    let d = half(block.d);
    groups(|g| (quants::tq1_0(block, g), [d; 2]))
}

fn tq2_0(block: &blocks::TQ2_0) -> [f32; 256] {
    let d = half(block.d);
    groups(|g| (quants::tq2_0(block, g), [d; 2]))
}

fn q1_0(block: &blocks::Q1_0) -> [f32; 128] {
    let d = half(block.d);
    let groups: [[i8; 32]; 4] = std::array::from_fn(|g| quants::q1_0(block, g));
    std::array::from_fn(|i| f32::from(groups[i / 32][i % 32]) * d)
}

fn q2_0(block: &blocks::Q2_0) -> [f32; 64] {
    let d = half(block.d);
    let groups: [[i8; 32]; 2] = std::array::from_fn(|g| quants::q2_0(block, g));
    std::array::from_fn(|i| f32::from(groups[i / 32][i % 32]) * d)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks and the values ggml's own functions give for them (`tests/golden/dequant/README.md`).
    #[test]
    fn values_are_ggmls_to_the_bit() {
        let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/dequant");
        for &format in Format::ALL.iter().filter(|format| !format.is_float()) {
            let path = format!("{directory}/{format}.bin");
            let file = std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
            let count = file.len() / (format.block_bytes() + 4 * format.block_len());
            let (bytes, expected) = file.split_at(count * format.block_bytes());
            let mut values = vec![0.0; count * format.block_len()];
            assert!(count >= 5 && expected.len() == 4 * values.len(), "{path}: size");
            dequantize(format, bytes, &mut values).unwrap();
            for (i, (value, expected)) in values.iter().zip(expected.as_chunks().0).enumerate() {
                let expected = f32::from_le_bytes(*expected);
                let same = value.to_bits() == expected.to_bits();
                assert!(
                    same || (value.is_nan() && expected.is_nan()),
                    "{format}: value {i} is {value:?}, not {expected:?}"
                );
            }
        }
    }

    #[test]
    fn wrong_lengths_are_errors() {
        let mut out = [0.0; 33];
        let result = dequantize(Format::Q8_0, &[0; 34], &mut out);
        assert!(matches!(result, Err(FormatError::Ragged { values: 33, .. })));
        let result = dequantize(Format::Q8_0, &[0; 33], &mut out[..32]);
        assert!(matches!(result, Err(FormatError::Length { bytes: 33, .. })));
        assert_eq!(dequantize(Format::BF16, &[0x80, 0x3f], &mut out[..1]), Ok(()));
        assert_eq!(out[0], 1.0);
    }
}
