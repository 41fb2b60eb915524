//! Quantisation with AVX2: the same bits as the scalar code, about 20 times as fast.
//!
//! Four blocks go together: a block is a chain of steps that wait for each other (its largest magnitude, a division, the choice of a
//! ratio, the scale), and sums over lanes of four cost little more than those of one.
#![allow(unsafe_code, reason = "loads, stores and the step from token to target feature")]

use std::arch::x86_64::*;

use super::{BLOCK, RATIOS, START, WEIGHTS, XBlock, unusual};
use crate::isa::Avx2;

const TIES_EVEN: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

pub(super) fn quantize(_: Avx2, x: &[f32], blocks: &mut [XBlock]) {
    // SAFETY: the token proves that the CPU has the instructions.
    unsafe { quantize_blocks(x, blocks) }
}

#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_blocks(x: &[f32], blocks: &mut [XBlock]) {
    let (fours, rest) = x.as_chunks::<BLOCK>().0.as_chunks::<4>();
    let (blocks, last) = blocks.split_at_mut(4 * fours.len());
    for (x, blocks) in fours.iter().zip(blocks.as_chunks_mut().0) {
        quantize_four(x, blocks);
    }
    if !rest.is_empty() {
        let mut x = [[0.0; BLOCK]; 4];
        x[..rest.len()].copy_from_slice(rest);
        let mut blocks = [XBlock::default(); 4];
        quantize_four(&x, &mut blocks);
        last.copy_from_slice(&blocks[..rest.len()]);
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn quantize_four(x: &[[f32; BLOCK]; 4], blocks: &mut [XBlock; 4]) {
    let [a, b, c, d] = x;
    let largest = largest_of_each([largest(a), largest(b), largest(c), largest(d)]);
    let amax = _mm_castsi128_ps(largest);
    let step = _mm_div_ps(amax, _mm_set1_ps(127.0));
    let inverse = each(_mm_div_ps(_mm_set1_ps(127.0), amax));
    let y = [
        scaled(a, inverse[0]),
        scaled(b, inverse[1]),
        scaled(c, inverse[2]),
        scaled(d, inverse[3]),
    ];
    let ratios = [best_ratio(&y[0]), best_ratio(&y[1]), best_ratio(&y[2]), best_ratio(&y[3])];
    let mut dots = [_mm_setzero_ps(); 4];
    let mut squares = [_mm_setzero_si128(); 4];
    for i in 0..4 {
        (dots[i], squares[i]) = encode(&y[i], ratios[i], &mut blocks[i]);
    }
    // `best_scale`, of all four.
    let dots = _mm_hadd_ps(_mm_hadd_ps(dots[0], dots[1]), _mm_hadd_ps(dots[2], dots[3]));
    let squares = _mm_hadd_epi32(
        _mm_hadd_epi32(squares[0], squares[1]),
        _mm_hadd_epi32(squares[2], squares[3]),
    );
    let d = each(_mm_mul_ps(step, _mm_div_ps(dots, _mm_cvtepi32_ps(squares))));
    for (block, d) in blocks.iter_mut().zip(d) {
        block.d = d;
        block.s *= d;
    }
    for (block, amax) in blocks.iter_mut().zip(each(amax)) {
        if let Some(unusual) = unusual(amax) {
            *block = unusual;
        }
    }
}

/// The bits of the largest magnitude, as the largest of the lanes. They compare like the magnitudes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn largest(x: &[f32; BLOCK]) -> __m128i {
    let magnitude = _mm256_set1_epi32(0x7fff_ffff);
    let mut max = _mm256_setzero_si256();
    for x in x.as_chunks().0 {
        max = _mm256_max_epi32(max, _mm256_and_si256(_mm256_castps_si256(load(x)), magnitude));
    }
    _mm_max_epi32(_mm256_castsi256_si128(max), _mm256_extracti128_si256::<1>(max))
}

/// Lane `i` becomes the largest lane of `x[i]`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn largest_of_each(x: [__m128i; 4]) -> __m128i {
    let low = _mm_max_epi32(_mm_unpacklo_epi32(x[0], x[1]), _mm_unpackhi_epi32(x[0], x[1]));
    let high = _mm_max_epi32(_mm_unpacklo_epi32(x[2], x[3]), _mm_unpackhi_epi32(x[2], x[3]));
    _mm_max_epi32(_mm_unpacklo_epi64(low, high), _mm_unpackhi_epi64(low, high))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scaled(x: &[f32; BLOCK], inverse: f32) -> [__m256; 4] {
    let (parts, _) = x.as_chunks::<8>();
    let inverse = _mm256_set1_ps(inverse);
    [
        _mm256_mul_ps(load(&parts[0]), inverse),
        _mm256_mul_ps(load(&parts[1]), inverse),
        _mm256_mul_ps(load(&parts[2]), inverse),
        _mm256_mul_ps(load(&parts[3]), inverse),
    ]
}

/// `best_ratio`: the sums over lanes of all four ratios are made together.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn best_ratio(y: &[__m256; 4]) -> f32 {
    let [a, b, c, d] = RATIOS;
    let low = _mm_hadd_ps(left_by(y, a), left_by(y, b));
    let high = _mm_hadd_ps(left_by(y, c), left_by(y, d));
    let [a, b, c, d] = WEIGHTS;
    let left = _mm_mul_ps(_mm_hadd_ps(low, high), _mm_setr_ps(a, b, c, d));
    let least = _mm_min_ps(left, _mm_shuffle_ps::<0b01_00_11_10>(left, left));
    let least = _mm_min_ps(least, _mm_shuffle_ps::<0b10_11_00_01>(least, least));
    // Of equals the first. Where nothing is equal there are values that are no numbers, whose codes nobody uses.
    let found = _mm_movemask_ps(_mm_cmpeq_ps(left, least)).trailing_zeros();
    RATIOS[found as usize & 3]
}

/// The squares that a ratio leaves, in four sums.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn left_by(y: &[__m256; 4], ratio: f32) -> __m128 {
    let ratio = _mm256_set1_ps(ratio);
    let mut sum = _mm256_setzero_ps();
    for &y in y {
        let y = _mm256_mul_ps(y, ratio);
        let left = _mm256_sub_ps(y, _mm256_round_ps::<TIES_EVEN>(y));
        sum = _mm256_add_ps(sum, _mm256_mul_ps(left, left));
    }
    halves(sum)
}

/// Fills in the block but for its scale: `s` becomes the sum of all codes. Returns `y . q` and `q . q`, each in four sums.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn encode(y: &[__m256; 4], ratio: f32, block: &mut XBlock) -> (__m128, __m128i) {
    let ratio = _mm256_set1_ps(ratio);
    // The conversion rounds half to even, as `MXCSR` is never changed.
    let codes = [
        _mm256_cvtps_epi32(_mm256_mul_ps(y[0], ratio)),
        _mm256_cvtps_epi32(_mm256_mul_ps(y[1], ratio)),
        _mm256_cvtps_epi32(_mm256_mul_ps(y[2], ratio)),
        _mm256_cvtps_epi32(_mm256_mul_ps(y[3], ratio)),
    ];
    let mut dot = _mm256_setzero_ps();
    for (&y, codes) in y.iter().zip(codes) {
        dot = _mm256_add_ps(dot, _mm256_mul_ps(y, _mm256_cvtepi32_ps(codes)));
    }
    // Packing works in 128-bit halves: the permutation puts the quads back in order.
    let words = [_mm256_packs_epi32(codes[0], codes[1]), _mm256_packs_epi32(codes[2], codes[3])];
    let squares = _mm256_add_epi32(
        _mm256_madd_epi16(words[0], words[0]),
        _mm256_madd_epi16(words[1], words[1]),
    );
    let squares =
        _mm_add_epi32(_mm256_castsi256_si128(squares), _mm256_extracti128_si256::<1>(squares));
    let bytes = _mm256_packs_epi16(words[0], words[1]);
    let bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
    let fours = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    // [sum of quads 0+1, 2+3, 0+1, 2+3] of each half, then the whole half.
    let eights = _mm256_hadd_epi32(fours, fours);
    let halves_of_codes = _mm256_hadd_epi32(eights, eights);
    let low = _mm256_extract_epi32::<0>(halves_of_codes);
    let high = _mm256_extract_epi32::<4>(halves_of_codes);
    let eights = _mm256_add_epi16(pairs, _mm256_shuffle_epi32::<0b10_11_00_01>(pairs));
    let starts = _mm256_mullo_epi16(eights, _mm256_set1_epi16(-START));
    let starts = _mm256_permutevar8x32_epi32(starts, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
    block.s = (low + high) as f32;
    block.sums = (low & 0xffff) | (high << 16);
    store_half(&mut block.starts, _mm256_castsi256_si128(starts));
    store(&mut block.quads, bytes);
    (halves(dot), squares)
}

/// Lanes `l` and `l + 4`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn halves(x: __m256) -> __m128 {
    _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn each(lanes: __m128) -> [f32; 4] {
    let mut each = [0.0; 4];
    // SAFETY: the array is 16 writable bytes; the store needs no alignment.
    unsafe { _mm_storeu_ps(each.as_mut_ptr(), lanes) };
    each
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
