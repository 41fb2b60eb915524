//! The "K" formats: super-blocks of 256 with integer scales.

use std::arch::x86_64::*;

use super::super::tile::Next;
use super::{Direct, ROWS, Rows, dot, halves, high, low, step, without};
use crate::format::blocks;
use crate::quantize::XBlock;

/// Byte `i` of each lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn byte(words: __m512i, i: usize) -> __m512i {
    let shifted = _mm512_srl_epi32(words, _mm_cvtsi32_si128(8 * i as i32));
    _mm512_and_si512(shifted, _mm512_set1_epi32(255))
}

/// What `Q4K` and `Q5K` have in front of their codes, for 16 rows.
struct Head {
    d: __m512,
    minus_dmin: __m512,
    /// Scales of groups 0..4 and 4..8, a byte each.
    scales: [__m512i; 2],
    mins: [__m512i; 2],
}

impl Head {
    /// See [`blocks::six_bit_pairs`].
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn new(quads: [__m512i; 4]) -> Head {
        let [pairs, scales, mins, rest] = quads;
        let own = _mm512_set1_epi8(63);
        let top = |bytes| _mm512_and_si512(_mm512_srli_epi16::<2>(bytes), _mm512_set1_epi8(0x30));
        let dmin = halves(_mm512_srli_epi32::<16>(pairs));
        Head {
            d: halves(pairs),
            minus_dmin: _mm512_xor_ps(dmin, _mm512_set1_ps(-0.0)),
            scales: [_mm512_and_si512(scales, own), _mm512_or_si512(low(rest), top(scales))],
            mins: [_mm512_and_si512(mins, own), _mm512_or_si512(high(rest), top(mins))],
        }
    }

    /// Steps 2 and 3 for group `g`, `isum` without its scale.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    fn step(&self, g: usize, isum: __m512i, x: &XBlock, sum: __m512) -> __m512 {
        let isum = _mm512_mullo_epi32(isum, byte(self.scales[g / 4], g % 4));
        let min = _mm512_cvtepi32_ps(byte(self.mins[g / 4], g % 4));
        let sum = step(isum, self.d, x, sum);
        _mm512_fmadd_ps(_mm512_mul_ps(self.minus_dmin, min), _mm512_set1_ps(x.s), sum)
    }
}

direct! { Q4K 8 |rows, x, next, sum| {
    // SAFETY: the block has 144 bytes.
    let head = Head::new(unsafe { rows.quads(0) });
    let mut sum = sum;
    for (pair, x) in x.as_chunks::<2>().0.iter().enumerate() {
        next.prefetch(ROWS * size_of::<Self>() / 4);
        // SAFETY: as above.
        let first = unsafe { rows.quads(16 + 32 * pair) };
        // SAFETY: as above.
        let last = unsafe { rows.quads(32 + 32 * pair) };
        let isum = dot(_mm512_setzero_si512(), four!(|Q| low(first[Q])), &x[0], 0);
        let isum = dot(isum, four!(|Q| low(last[Q])), &x[0], 4);
        sum = head.step(2 * pair, isum, &x[0], sum);
        let isum = dot(_mm512_setzero_si512(), four!(|Q| high(first[Q])), &x[1], 0);
        let isum = dot(isum, four!(|Q| high(last[Q])), &x[1], 4);
        sum = head.step(2 * pair + 1, isum, &x[1], sum);
    }
    sum
} }

direct! { Q5K 8 |rows, x, next, sum| {
    // SAFETY: the block has 176 bytes.
    let head = Head::new(unsafe { rows.quads(0) });
    // SAFETY: as above.
    let mut fifth = [unsafe { rows.quads(16) }, unsafe { rows.quads(32) }];
    let bit = _mm512_set1_epi8(16);
    let mut sum = sum;
    for (pair, x) in x.as_chunks::<2>().0.iter().enumerate() {
        next.prefetch(ROWS * size_of::<Self>() / 4);
        let mut isums = [_mm512_setzero_si512(); 2];
        for part in 0..2 {
            // SAFETY: as above.
            let packed = unsafe { rows.quads(48 + 32 * pair + 16 * part) };
            let tops = fifth[part];
            let first = four!(|Q| {
                let top = _mm512_and_si512(_mm512_slli_epi16::<4>(tops[Q]), bit);
                _mm512_or_si512(low(packed[Q]), top)
            });
            let second = four!(|Q| {
                let top = _mm512_and_si512(_mm512_slli_epi16::<3>(tops[Q]), bit);
                _mm512_or_si512(high(packed[Q]), top)
            });
            isums[0] = dot(isums[0], first, &x[0], 4 * part);
            isums[1] = dot(isums[1], second, &x[1], 4 * part);
            fifth[part] = four!(|Q| _mm512_srli_epi16::<2>(tops[Q]));
        }
        sum = head.step(2 * pair, isums[0], &x[0], sum);
        sum = head.step(2 * pair + 1, isums[1], &x[1], sum);
    }
    sum
} }

direct! { Q6K 8 |rows, x, next, sum| {
    // SAFETY: the block has 210 bytes.
    let d = halves(unsafe { rows.words::<2>(208) });
    // SAFETY: as above.
    let scales = unsafe { rows.quads(192) };
    let upper = _mm512_set1_epi8(0x30);
    let mut sum = sum;
    for (half, x) in x.as_chunks::<4>().0.iter().enumerate() {
        let mut isums = [_mm512_setzero_si512(); 4];
        for part in 0..2 {
            next.prefetch(ROWS * size_of::<Self>() / 4);
            // SAFETY: as above.
            let a = unsafe { rows.quads(64 * half + 16 * part) };
            // SAFETY: as above.
            let b = unsafe { rows.quads(64 * half + 32 + 16 * part) };
            // SAFETY: as above.
            let top = unsafe { rows.quads(128 + 32 * half + 16 * part) };
            let six = |low, top| _mm512_or_si512(low, _mm512_and_si512(top, upper));
            let codes = [
                four!(|Q| six(low(a[Q]), _mm512_slli_epi16::<4>(top[Q]))),
                four!(|Q| six(low(b[Q]), _mm512_slli_epi16::<2>(top[Q]))),
                four!(|Q| six(high(a[Q]), top[Q])),
                four!(|Q| six(high(b[Q]), _mm512_srli_epi16::<2>(top[Q]))),
            ];
            for g in 0..4 {
                let start = _mm512_set1_epi32(without(32, &x[g])[part]);
                let products = dot(start, codes[g], &x[g], 4 * part);
                // Byte `2g + part` of the half's scales, with its sign.
                let left = _mm_cvtsi32_si128(24 - 8 * (g % 2 * 2 + part) as i32);
                let word = _mm512_sll_epi32(scales[2 * half + g / 2], left);
                let scale = _mm512_srai_epi32::<24>(word);
                isums[g] = _mm512_add_epi32(isums[g], _mm512_mullo_epi32(products, scale));
            }
        }
        for g in 0..4 {
            sum = step(isums[g], d, &x[g], sum);
        }
    }
    sum
} }
