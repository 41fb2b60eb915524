//! The "K" formats: super-blocks of 256 with integer scales.

use std::arch::x86_64::*;

use super::super::tile::Block16;
use super::lanes::*;
use super::{Class, Scales, Unpack};
use crate::format::blocks;

unpack! { Q4K Four None 0 |rows, side, out| {
    let heads = eight!(|I| head(rows[I]));
    six_bit_scales(heads, side, out);
    for (pair, out) in out.chunks_exact_mut(2).enumerate() {
        let packed = bytes32(eight!(|I| &rows[I].qs.as_chunks().0[pair]));
        set_codes(&mut out[0], side, eight!(|Q| low(packed[Q])));
        set_codes(&mut out[1], side, eight!(|Q| high(packed[Q])));
    }
} }

unpack! { Q5K Five None 0 |rows, side, out| {
    let heads = eight!(|I| head(rows[I]));
    six_bit_scales(heads, side, out);
    let mut fifth = bytes32(eight!(|I| &rows[I].qh));
    let bit = _mm256_set1_epi8(16);
    for (pair, out) in out.chunks_exact_mut(2).enumerate() {
        let packed = bytes32(eight!(|I| &rows[I].qs.as_chunks().0[pair]));
        for quad in 0..8 {
            // Bits 0 and 1 of each byte belong to this pair.
            let first = _mm256_and_si256(_mm256_slli_epi16::<4>(fifth[quad]), bit);
            let second = _mm256_and_si256(_mm256_slli_epi16::<3>(fifth[quad]), bit);
            out[0].codes[quad][side] = _mm256_or_si256(low(packed[quad]), first);
            out[1].codes[quad][side] = _mm256_or_si256(high(packed[quad]), second);
            fifth[quad] = _mm256_srli_epi16::<2>(fifth[quad]);
        }
    }
} }

unpack! { Q6K Centred(32) Per16 64 |rows, side, out| {
    let d = halves(eight!(|I| rows[I].d));
    let scales = quads(eight!(|I| load(&rows[I].scales)));
    for (g, out) in out.iter_mut().enumerate() {
        out.d[side] = d;
        signed_scales(scales[g / 2], g % 2, -Self::OFFSET, side, out);
    }
    for (half, out) in out.chunks_exact_mut(4).enumerate() {
        for part in 0..2 {
            let (ql, qh) = (4 * half + part, 2 * half + part);
            let more = _mm256_set1_epi8(Self::OFFSET as i8 - 32);
            let raised = |low, top| _mm256_add_epi8(six(low, top), more);
            let lows = quads(eight!(|I| load(&rows[I].ql.as_chunks().0[ql])));
            let highs = quads(eight!(|I| load(&rows[I].ql.as_chunks().0[ql + 2])));
            let tops = quads(eight!(|I| load(&rows[I].qh.as_chunks().0[qh])));
            for quad in 0..4 {
                let (a, b, top) = (lows[quad], highs[quad], tops[quad]);
                let at = 4 * part + quad;
                out[0].codes[at][side] = raised(low(a), _mm256_slli_epi16::<4>(top));
                out[1].codes[at][side] = raised(low(b), _mm256_slli_epi16::<2>(top));
                out[2].codes[at][side] = raised(high(a), top);
                out[3].codes[at][side] = raised(high(b), _mm256_srli_epi16::<2>(top));
            }
        }
    }
} }

unpack! { Q2K Four Per16 0 |rows, side, out| {
    let scales = quads(eight!(|I| load(&rows[I].scales)));
    let [d, dmin] = half_pairs(words_of(eight!(|I| two_halves(rows[I].d, rows[I].dmin))));
    let minus_dmin = _mm256_xor_ps(dmin, _mm256_set1_ps(-0.0));
    for (g, out) in out.iter_mut().enumerate() {
        out.d[side] = d;
        out.min[side] = minus_dmin;
        let (scale, min) = (low(scales[g / 2]), high(scales[g / 2]));
        let first = g % 2 * 2;
        out.scale[0][side] = _mm256_shuffle_epi8(scale, lane_bytes(BYTE_TWICE[first]));
        out.scale[1][side] = _mm256_shuffle_epi8(scale, lane_bytes(BYTE_TWICE[first + 1]));
        out.offset[side] = _mm256_shuffle_epi8(min, lane_bytes(TWO_BYTES[g % 2]));
    }
    for (half, out) in out.chunks_exact_mut(4).enumerate() {
        two_bits(bytes32(eight!(|I| &rows[I].qs.as_chunks().0[half])), side, out);
    }
} }

unpack! { Q3K Four Per16 4 |rows, side, out| {
    let d = halves(eight!(|I| rows[I].d));
    let [a, b, tops, _] = quads(eight!(|I| three_words(&rows[I].scales)));
    let scales = [
        six(low(a), _mm256_slli_epi16::<4>(tops)),
        six(low(b), _mm256_slli_epi16::<2>(tops)),
        six(high(a), tops),
        six(high(b), _mm256_srli_epi16::<2>(tops)),
    ];
    for (g, out) in out.iter_mut().enumerate() {
        out.d[side] = d;
        let centred = _mm256_sub_epi8(scales[g / 2], _mm256_set1_epi8(32));
        signed_scales(centred, g % 2, -4, side, out);
    }
    let mut third = bytes32(eight!(|I| &rows[I].hmask));
    let bit = _mm256_set1_epi8(4);
    for (half, out) in out.chunks_exact_mut(4).enumerate() {
        two_bits(bytes32(eight!(|I| &rows[I].qs.as_chunks().0[half])), side, out);
        for out in out {
            for (quad, third) in third.iter_mut().enumerate() {
                let top = _mm256_and_si256(_mm256_slli_epi16::<2>(*third), bit);
                out.codes[quad][side] = _mm256_or_si256(out.codes[quad][side], top);
                // The next group's bit moves to the bottom of each byte.
                *third = _mm256_srli_epi16::<1>(*third);
            }
        }
    }
} }

/// Two half-precision numbers as a word.
fn two_halves(low: [u8; 2], high: [u8; 2]) -> [u8; 4] {
    [low[0], low[1], high[0], high[1]]
}

/// 12 bytes, and four zeros.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn three_words(bytes: &[u8; 12]) -> __m128i {
    let [a, b, c, ..] = bytes.as_chunks::<4>().0 else { return _mm_setzero_si128() };
    let [a, b, c] = [i32::from_le_bytes(*a), i32::from_le_bytes(*b), i32::from_le_bytes(*c)];
    _mm_setr_epi32(a, b, c, 0)
}

/// Four groups of 32 codes, two bits of each byte for each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn two_bits(mut packed: [__m256i; 8], side: usize, out: &mut [Block16]) {
    let mask = _mm256_set1_epi8(3);
    for out in out {
        set_codes(out, side, eight!(|Q| _mm256_and_si256(packed[Q], mask)));
        packed = eight!(|Q| _mm256_srli_epi16::<2>(packed[Q]));
    }
}

/// The first 16 bytes of a block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn head<B: blocks::Block>(block: &B) -> __m128i {
    const { assert!(size_of::<B>() >= 16) };
    load(blocks::bytes_of(block).first_chunk().unwrap_or(&[0; 16]))
}

/// Scales and minimums of `Q4K` and `Q5K` (see [`blocks::six_bit_pairs`]) for 8 rows.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn six_bit_scales(heads: [__m128i; 8], side: usize, out: &mut [Block16]) {
    let [pairs, scales, mins, rest] = quads(heads);
    let [d, dmin] = half_pairs(pairs);
    let minus_dmin = _mm256_xor_ps(dmin, _mm256_set1_ps(-0.0));
    let own = _mm256_set1_epi8(63);
    let scale_bytes =
        [_mm256_and_si256(scales, own), six(low(rest), _mm256_srli_epi16::<2>(scales))];
    let min_bytes = [_mm256_and_si256(mins, own), six(high(rest), _mm256_srli_epi16::<2>(mins))];
    for (g, out) in out.iter_mut().enumerate() {
        let scale = _mm256_shuffle_epi8(scale_bytes[g / 4], lane_bytes(BYTE_ONCE[g % 4]));
        out.d[side] = _mm256_mul_ps(d, _mm256_cvtepi32_ps(scale));
        let min = _mm256_shuffle_epi8(min_bytes[g / 4], lane_bytes(BYTE_ONCE[g % 4]));
        out.min[side] = _mm256_mul_ps(minus_dmin, _mm256_cvtepi32_ps(min));
    }
}

/// Four bits, and two of the bits of `top` above them.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn six(low: __m256i, top: __m256i) -> __m256i {
    _mm256_or_si256(low, _mm256_and_si256(top, _mm256_set1_epi8(0x30)))
}

/// Signed 8-bit scales: bytes `2 * pair` and `2 * pair + 1` of each lane, and with `factor` as the
/// offset.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn signed_scales(scales: __m256i, pair: usize, factor: i16, side: usize, out: &mut Block16) {
    let [first, second, both] = WORDS[pair];
    // `[0, byte]` in 16 bits, shifted right with its sign, is the byte as a 16-bit number.
    let first = _mm256_srai_epi16::<8>(_mm256_shuffle_epi8(scales, lane_bytes(first)));
    let second = _mm256_srai_epi16::<8>(_mm256_shuffle_epi8(scales, lane_bytes(second)));
    let both = _mm256_srai_epi16::<8>(_mm256_shuffle_epi8(scales, lane_bytes(both)));
    out.scale[0][side] = first;
    out.scale[1][side] = second;
    out.offset[side] = _mm256_mullo_epi16(both, _mm256_set1_epi16(factor));
}
