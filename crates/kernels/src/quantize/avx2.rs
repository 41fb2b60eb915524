//! Quantisation with AVX2: the same bits as the scalar code, about 20 times as fast.
#![allow(unsafe_code, reason = "loads, stores and the step from token to target feature")]

use std::arch::x86_64::*;

use super::{BLOCK, START, XBlock, best_scale, scales};
use crate::isa::Avx2;

pub(super) fn quantize(_: Avx2, x: &[f32], blocks: &mut [XBlock]) {
    // SAFETY: the token proves that the CPU has the instructions.
    unsafe { quantize_blocks(x, blocks) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_blocks(x: &[f32], blocks: &mut [XBlock]) {
    for (x, block) in x.as_chunks().0.iter().zip(blocks) {
        *block = quantize_block(x);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_block(x: &[f32; BLOCK]) -> XBlock {
    let (parts, _) = x.as_chunks::<8>();
    let x: [__m256; 4] = std::array::from_fn(|i| load(&parts[i]));
    let magnitude = _mm256_set1_epi32(0x7fff_ffff);
    let bits = x.map(|x| _mm256_and_si256(_mm256_castps_si256(x), magnitude));
    let max =
        _mm256_max_epi32(_mm256_max_epi32(bits[0], bits[1]), _mm256_max_epi32(bits[2], bits[3]));
    let max = _mm_max_epi32(_mm256_castsi256_si128(max), _mm256_extracti128_si256::<1>(max));
    let max = _mm_max_epi32(max, _mm_shuffle_epi32::<0b01_00_11_10>(max));
    let max = _mm_max_epi32(max, _mm_shuffle_epi32::<0b10_11_00_01>(max));
    let Some((d, inverse)) = scales(_mm_cvtsi128_si32(max).cast_unsigned()) else {
        return XBlock { d: f32::NAN, s: f32::NAN, ..XBlock::default() };
    };
    let inverse = _mm256_set1_ps(inverse);
    // The conversion rounds half to even, as `MXCSR` is never changed.
    let y = x.map(|x| _mm256_mul_ps(x, inverse));
    let codes = y.map(|y| _mm256_cvtps_epi32(y));
    let mut dot = _mm256_setzero_ps();
    for (y, codes) in y.into_iter().zip(codes) {
        dot = _mm256_add_ps(dot, _mm256_mul_ps(y, _mm256_cvtepi32_ps(codes)));
    }
    let dot = _mm_add_ps(_mm256_castps256_ps128(dot), _mm256_extractf128_ps::<1>(dot));
    let dot = _mm_add_ps(dot, _mm_movehdup_ps(dot));
    let dot = _mm_cvtss_f32(_mm_add_ss(dot, _mm_movehl_ps(dot, dot)));
    // Packing works in 128-bit halves: the permutation puts the quads back in order.
    let words = [_mm256_packs_epi32(codes[0], codes[1]), _mm256_packs_epi32(codes[2], codes[3])];
    let squares = words.map(|words| _mm256_madd_epi16(words, words));
    let squares = _mm256_add_epi32(squares[0], squares[1]);
    let squares =
        _mm_add_epi32(_mm256_castsi256_si128(squares), _mm256_extracti128_si256::<1>(squares));
    let squares = _mm_add_epi32(squares, _mm_shuffle_epi32::<0b01_00_11_10>(squares));
    let squares = _mm_add_epi32(squares, _mm_shuffle_epi32::<0b10_11_00_01>(squares));
    let d = best_scale(d, dot, _mm_cvtsi128_si32(squares));
    let bytes = _mm256_packs_epi16(words[0], words[1]);
    let bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
    let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    // [sum of quads 0+1, 2+3, 0+1, 2+3] of each half, then the whole half.
    let eights = _mm256_hadd_epi32(fours, fours);
    let halves = _mm256_hadd_epi32(eights, eights);
    let low = _mm256_extract_epi32::<0>(halves);
    let high = _mm256_extract_epi32::<4>(halves);
    let eights = _mm256_add_epi16(pairs, _mm256_shuffle_epi32::<0b10_11_00_01>(pairs));
    let starts = _mm256_mullo_epi16(eights, _mm256_set1_epi16(-START));
    let starts = _mm256_permutevar8x32_epi32(starts, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
    let mut block = XBlock {
        quads: [0; 8],
        d,
        s: d * (low + high) as f32,
        sums: (low & 0xffff) | (high << 16),
        starts: [0; 4],
    };
    store_half(&mut block.starts, _mm256_castsi256_si128(starts));
    store(&mut block.quads, bytes);
    block
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn load(x: &[f32; 8]) -> __m256 {
    // SAFETY: the array is 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store(quads: &mut [i32; 8], bytes: __m256i) {
    // SAFETY: the array is 32 writable bytes; the store needs no alignment.
    unsafe { _mm256_storeu_si256(quads.as_mut_ptr().cast(), bytes) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn store_half(starts: &mut [i32; 4], words: __m128i) {
    // SAFETY: the array is 16 writable bytes; the store needs no alignment.
    unsafe { _mm_storeu_si128(starts.as_mut_ptr().cast(), words) }
}
