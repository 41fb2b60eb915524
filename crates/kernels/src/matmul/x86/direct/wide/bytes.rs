//! What AVX2 and AVX-VNNI differ in: the products of bytes.

use std::arch::x86_64::*;

use super::super::without;
use super::activations;
use crate::isa::{Avx2, AvxVnni};
use crate::matmul::x86::unpack::spread_mask;
use crate::quantize::XBlock;

/// The methods of [`super::Wide`] around products of bytes, for 8 rows.
pub(in crate::matmul::x86) trait ByteProducts: Copy {
    fn raise(self, codes: __m256i) -> __m256i;
    fn signed_start(self, x: &XBlock) -> __m256i;
    fn dot_signed(self, sum: __m256i, codes: [__m256i; 4], x: &XBlock, first: usize) -> __m256i;
    fn dot<const BITS: u32>(
        self,
        sum: __m256i,
        codes: [__m256i; 4],
        x: &XBlock,
        first: usize,
    ) -> __m256i;
    fn dot_all(self, start: i32, codes: [[__m256i; 4]; 2], x: &XBlock) -> __m256i;
    fn factor(self, words: __m256i, byte: usize, shift: usize) -> __m256i;
    fn scaled<const BITS: u32>(
        self,
        sum: __m256i,
        codes: [__m256i; 4],
        x: &XBlock,
        part: usize,
        factor: __m256i,
    ) -> __m256i;
    fn row_products(self, codes: __m256i, minus: u32, x: &XBlock) -> __m256i;
    /// Products of 32 signed codes of one row with the activations; sums of four in each lane.
    fn signed_row_products(self, codes: __m256i, x: &XBlock) -> __m256i;
}

impl ByteProducts for Avx2 {
    with_features! { "avx2,fma,f16c";
        #[inline(always)]
        fn raise(codes: __m256i) -> __m256i {
            // The sign of each code moves to its activation instead.
            codes
        }
        #[inline(always)]
        fn signed_start(_x: &XBlock) -> __m256i {
            _mm256_setzero_si256()
        }
        #[inline(always)]
        fn dot_signed(sum: __m256i, codes: [__m256i; 4], x: &XBlock, first: usize) -> __m256i {
            let mut sum = sum;
            for (quad, codes) in codes.into_iter().enumerate() {
                let x = _mm256_set1_epi32(x.quads[first + quad]);
                // Two products of 128 * 127 just fit into 16 bits.
                let product = _mm256_maddubs_epi16(_mm256_abs_epi8(codes), _mm256_sign_epi8(x, codes));
                sum = _mm256_add_epi32(sum, _mm256_madd_epi16(product, _mm256_set1_epi16(1)));
            }
            sum
        }
        #[inline(always)]
        fn dot<const BITS: u32>(sum: __m256i, codes: [__m256i; 4], x: &XBlock, first: usize) -> __m256i {
            widened::<BITS>(sum, codes, x, first, _mm256_set1_epi16(1))
        }
        #[inline(always)]
        fn dot_all(start: i32, codes: [[__m256i; 4]; 2], x: &XBlock) -> __m256i {
            let two = |quad: usize| {
                let product = |quad: usize| _mm256_maddubs_epi16(codes[quad / 4][quad % 4], _mm256_set1_epi32(x.quads[quad]));
                _mm256_add_epi16(product(quad), product(quad + 1))
            };
            // 16 products of 15 * 127 fit into 16 bits.
            let sums = _mm256_add_epi16(_mm256_add_epi16(two(0), two(2)), _mm256_add_epi16(two(4), two(6)));
            _mm256_add_epi32(_mm256_madd_epi16(sums, _mm256_set1_epi16(1)), _mm256_set1_epi32(start))
        }
        #[inline(always)]
        fn factor(words: __m256i, byte: usize, shift: usize) -> __m256i {
            // In both halves of the word, for sums of 16 bits.
            let upper = _mm256_set1_epi16((byte as i16) << 8 | 0x80);
            let pairs = _mm256_shuffle_epi8(words, _mm256_add_epi8(word_starts(), upper));
            _mm256_sra_epi16(pairs, _mm_cvtsi32_si128(8 + shift as i32))
        }
        #[inline(always)]
        fn scaled<const BITS: u32>(sum: __m256i, codes: [__m256i; 4], x: &XBlock, part: usize, factor: __m256i) -> __m256i {
            widened::<BITS>(sum, codes, x, 4 * part, factor)
        }
        #[inline(always)]
        fn row_products(codes: __m256i, minus: u32, x: &XBlock) -> __m256i {
            // Two products of 62 * 127 fit into 16 bits.
            let products = _mm256_maddubs_epi16(codes, negated(x, minus));
            _mm256_madd_epi16(products, _mm256_set1_epi16(1))
        }
        #[inline(always)]
        fn signed_row_products(codes: __m256i, x: &XBlock) -> __m256i {
            // Two products of 128 * 127 just fit into 16 bits.
            let x = _mm256_sign_epi8(activations(x), codes);
            let products = _mm256_maddubs_epi16(_mm256_abs_epi8(codes), x);
            _mm256_madd_epi16(products, _mm256_set1_epi16(1))
        }
    }
}

/// Adds the products of codes of up to `BITS` bits, summed in 16 bits as far as they fit, then widened and multiplied with
/// `factor` in each half of a word.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn widened<const BITS: u32>(
    sum: __m256i,
    codes: [__m256i; 4],
    x: &XBlock,
    first: usize,
    factor: __m256i,
) -> __m256i {
    let product =
        |quad: usize| _mm256_maddubs_epi16(codes[quad], _mm256_set1_epi32(x.quads[first + quad]));
    let low = _mm256_add_epi16(product(0), product(1));
    let high = _mm256_add_epi16(product(2), product(3));
    if BITS <= 5 {
        // 8 products of 31 * 127 fit into 16 bits.
        return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_add_epi16(low, high), factor));
    }
    // 4 products of 63 * 127 do.
    let wide = _mm256_add_epi32(_mm256_madd_epi16(low, factor), _mm256_madd_epi16(high, factor));
    _mm256_add_epi32(sum, wide)
}

impl ByteProducts for AvxVnni {
    with_features! { "avx2,fma,f16c,avxvnni";
        #[inline(always)]
        fn raise(codes: __m256i) -> __m256i {
            _mm256_xor_si256(codes, _mm256_set1_epi8(-128))
        }
        #[inline(always)]
        fn signed_start(x: &XBlock) -> __m256i {
            let [low, high] = without(128, x);
            _mm256_set1_epi32(low + high)
        }
        #[inline(always)]
        fn dot_signed(sum: __m256i, codes: [__m256i; 4], x: &XBlock, first: usize) -> __m256i {
            four_products(sum, codes, x, first)
        }
        #[inline(always)]
        fn dot<const BITS: u32>(sum: __m256i, codes: [__m256i; 4], x: &XBlock, first: usize) -> __m256i {
            four_products(sum, codes, x, first)
        }
        #[inline(always)]
        fn dot_all(start: i32, codes: [[__m256i; 4]; 2], x: &XBlock) -> __m256i {
            four_products(four_products(_mm256_set1_epi32(start), codes[0], x, 0), codes[1], x, 4)
        }
        #[inline(always)]
        fn factor(words: __m256i, byte: usize, shift: usize) -> __m256i {
            let left = _mm_cvtsi32_si128(24 - 8 * byte as i32);
            _mm256_sra_epi32(_mm256_sll_epi32(words, left), _mm_cvtsi32_si128(24 + shift as i32))
        }
        #[inline(always)]
        fn scaled<const BITS: u32>(sum: __m256i, codes: [__m256i; 4], x: &XBlock, part: usize, factor: __m256i) -> __m256i {
            let products = four_products(_mm256_setzero_si256(), codes, x, 4 * part);
            _mm256_add_epi32(sum, _mm256_mullo_epi32(products, factor))
        }
        #[inline(always)]
        fn row_products(codes: __m256i, minus: u32, x: &XBlock) -> __m256i {
            _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), codes, negated(x, minus))
        }
        #[inline(always)]
        fn signed_row_products(codes: __m256i, x: &XBlock) -> __m256i {
            let x = _mm256_sign_epi8(activations(x), codes);
            _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), _mm256_abs_epi8(codes), x)
        }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn four_products(sum: __m256i, codes: [__m256i; 4], x: &XBlock, first: usize) -> __m256i {
    let mut sum = sum;
    for (quad, codes) in codes.into_iter().enumerate() {
        sum = _mm256_dpbusd_avx_epi32(sum, codes, _mm256_set1_epi32(x.quads[first + quad]));
    }
    sum
}

/// In the upper byte of each half of a word, where its word starts in 128 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn word_starts() -> __m256i {
    let four = _mm_setr_epi32(0, 0x0400_0400, 0x0800_0800, 0x0c00_0c00);
    _mm256_broadcastsi128_si256(four)
}

/// The activations, with minus those whose bit is set.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn negated(x: &XBlock, minus: u32) -> __m256i {
    // -1 negates, 1 does not: the mask is -1 or 0, with the lowest bit set it is -1 or 1.
    let factors = _mm256_or_si256(spread_mask(minus.cast_signed()), _mm256_set1_epi8(1));
    _mm256_sign_epi8(activations(x), factors)
}
