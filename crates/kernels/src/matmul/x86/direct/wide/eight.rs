//! 8 rows to a register: AVX2, with or without AVX-VNNI.

use std::arch::x86_64::*;

use super::{ByteProducts, Rows, Wide};
use crate::matmul::x86::direct::by_row::{Codebook, row_sums, sums};
use crate::matmul::x86::direct::codebooks::Entries;
use crate::quantize::XBlock;

/// 8 rows: AVX2, and what the token multiplies bytes with.
#[derive(Copy, Clone)]
pub(in crate::matmul::x86) struct Eight<T>(pub(in crate::matmul::x86::direct) T);

impl<T: ByteProducts> Wide for Eight<T> {
    const ROWS: usize = 8;
    type I = __m256i;
    type F = __m256;

    operations! {
        words(word: i32) -> __m256i = _mm256_set1_epi32;
        bytes(byte: i8) -> __m256i = _mm256_set1_epi8;
        floats(value: f32) -> __m256 = _mm256_set1_ps;
        and(a: __m256i, b: __m256i) -> __m256i = _mm256_and_si256;
        or(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256;
        xor(a: __m256i, b: __m256i) -> __m256i = _mm256_xor_si256;
        add(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi32;
        sub(a: __m256i, b: __m256i) -> __m256i = _mm256_sub_epi32;
        mul(a: __m256i, b: __m256i) -> __m256i = _mm256_mullo_epi32;
        products16(a: __m256i, b: __m256i) -> __m256i = _mm256_madd_epi16;
        look_up(table: __m256i, bytes: __m256i) -> __m256i = _mm256_shuffle_epi8;
        min_bytes(a: __m256i, b: __m256i) -> __m256i = _mm256_min_epu8;
        unpack_low32(a: __m256i, b: __m256i) -> __m256i = _mm256_unpacklo_epi32;
        unpack_high32(a: __m256i, b: __m256i) -> __m256i = _mm256_unpackhi_epi32;
        unpack_low64(a: __m256i, b: __m256i) -> __m256i = _mm256_unpacklo_epi64;
        unpack_high64(a: __m256i, b: __m256i) -> __m256i = _mm256_unpackhi_epi64;
        to_floats(a: __m256i) -> __m256 = _mm256_cvtepi32_ps;
        product(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps;
        fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps;
        as_floats(a: __m256i) -> __m256 = _mm256_castsi256_ps;
        as_words(a: __m256) -> __m256i = _mm256_castps_si256;
    }
    shifts! {
        left16 = _mm256_sll_epi16;
        right16 = _mm256_srl_epi16;
        left32 = _mm256_sll_epi32;
        right32 = _mm256_srl_epi32;
        signed_right32 = _mm256_sra_epi32;
    }
    with_features! { "avx2,fma,f16c";
        #[inline(always)]
        fn halves(words: __m256i) -> __m256 {
            let clean = _mm256_and_si256(words, _mm256_set1_epi32(0xffff));
            let packed = _mm256_packus_epi32(clean, clean);
            let sorted = _mm256_permute4x64_epi64::<0b11_01_10_00>(packed);
            _mm256_cvtph_ps(_mm256_castsi256_si128(sorted))
        }
        #[inline(always)]
        fn power(e: __m256i) -> __m256 {
            let normal = _mm256_slli_epi32::<23>(_mm256_sub_epi32(e, _mm256_set1_epi32(1)));
            // 2^-128 and 2^-127 are subnormal.
            let small = _mm256_sllv_epi32(_mm256_set1_epi32(0x0020_0000), e);
            let is_normal = _mm256_cmpgt_epi32(e, _mm256_set1_epi32(1));
            _mm256_castsi256_ps(_mm256_blendv_epi8(small, normal, is_normal))
        }
        #[inline(always)]
        fn broadcast(table: &[i8; 16]) -> __m256i {
            // SAFETY: the array is 16 readable bytes; the load needs no alignment.
            let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
            _mm256_broadcastsi128_si256(table)
        }
        #[inline(always)]
        fn store(values: __m256, out: &mut [f32]) -> () {
            if let Some(out) = out.first_chunk_mut::<8>() {
                // SAFETY: the array is 32 writable bytes; the store needs no alignment.
                unsafe { _mm256_storeu_ps(out.as_mut_ptr(), values) };
            }
        }
        #[inline(always)]
        fn store_words(values: __m256i, out: &mut [u32; 16]) -> () {
            // SAFETY: the array is 64 writable bytes; the store needs no alignment.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), values) };
        }
    }

    #[inline(always)]
    fn raise(self, codes: __m256i) -> __m256i {
        self.0.raise(codes)
    }

    #[inline(always)]
    fn signed_start(self, x: &XBlock) -> __m256i {
        self.0.signed_start(x)
    }

    #[inline(always)]
    fn dot_signed(self, sum: __m256i, codes: [__m256i; 4], x: &XBlock, first: usize) -> __m256i {
        self.0.dot_signed(sum, codes, x, first)
    }

    #[inline(always)]
    fn dot<const BITS: u32>(
        self,
        sum: __m256i,
        codes: [__m256i; 4],
        x: &XBlock,
        first: usize,
    ) -> __m256i {
        self.0.dot::<BITS>(sum, codes, x, first)
    }

    #[inline(always)]
    fn dot_all(self, start: i32, codes: [[__m256i; 4]; 2], x: &XBlock) -> __m256i {
        self.0.dot_all(start, codes, x)
    }

    #[inline(always)]
    fn factor(self, words: __m256i, byte: usize, shift: usize) -> __m256i {
        self.0.factor(words, byte, shift)
    }

    #[inline(always)]
    fn scaled<const BITS: u32>(
        self,
        sum: __m256i,
        codes: [__m256i; 4],
        x: &XBlock,
        part: usize,
        factor: __m256i,
    ) -> __m256i {
        self.0.scaled::<BITS>(sum, codes, x, part, factor)
    }

    #[inline(always)]
    fn row_products(self, codes: __m256i, minus: u32, x: &XBlock) -> __m256i {
        self.0.row_products(codes, minus, x)
    }

    #[inline(always)]
    fn join(self, first: __m256i, _: __m256i) -> __m256i {
        first
    }

    #[inline(always)]
    unsafe fn every_fourth(self, rows: Rows, row: usize, offset: usize) -> __m256i {
        // SAFETY: the caller's promise; the load needs no alignment.
        let a = unsafe { _mm_loadu_si128(rows.at(row, offset).cast()) };
        // SAFETY: as above.
        let b = unsafe { _mm_loadu_si128(rows.at(row + 4, offset).cast()) };
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm256_set_m128i(b, a) }
    }

    #[inline(always)]
    unsafe fn words_at(self, rows: Rows, offset: usize) -> __m256i {
        // SAFETY: the caller's promise.
        let [a, b, c, d] = unsafe { rows.four_words(0, offset) };
        // SAFETY: as above.
        let [e, f, g, h] = unsafe { rows.four_words(4, offset) };
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm256_setr_epi32(a, b, c, d, e, f, g, h) }
    }

    #[inline(always)]
    unsafe fn halves_at(self, rows: Rows, offset: usize) -> __m256 {
        // SAFETY: the caller's promise.
        let halves = unsafe { rows.eight_halves(offset) };
        // SAFETY: `self` proves that the CPU has the instruction.
        unsafe { _mm256_cvtph_ps(halves) }
    }

    #[inline(always)]
    unsafe fn signed_sums(self, rows: Rows, offset: usize, x: &XBlock) -> __m256i {
        let products = |row| {
            // SAFETY: the caller's promise; the load needs no alignment.
            let codes = unsafe { _mm256_loadu_si256(rows.at(row, offset).cast()) };
            self.0.signed_row_products(codes, x)
        };
        let [low, high] = sums(self, eight!(|I| products(I)));
        self.add(low, high)
    }

    #[inline(always)]
    unsafe fn codebook_sums<B: Codebook>(
        self,
        rows: Rows,
        g: usize,
        entries: &Entries<__m256i>,
        x: &XBlock,
    ) -> [__m256i; 2] {
        // SAFETY: the caller's promise.
        unsafe { row_sums::<Self, B>(self, rows, g, entries.signs, x) }
    }
}
