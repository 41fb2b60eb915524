//! AVX-512 with VNNI: 16 rows to a register.

use std::arch::x86_64::*;

use super::super::without;
use super::{Eight, Rows, Wide, activations};
use crate::isa::{Avx2, Avx512, Avx512Vbmi};
use crate::matmul::x86::direct::by_row::{Codebook, row_sums};
use crate::matmul::x86::direct::codebooks::Entries;
use crate::matmul::x86::direct::planes;
use crate::quantize::XBlock;

/// 16 rows: AVX-512 with VNNI, and what the token looks entries of codebooks up with.
#[derive(Copy, Clone)]
pub(in crate::matmul::x86) struct Sixteen<T> {
    /// Never read: a value of the type is the proof.
    _token: T,
    eight: Eight<Avx2>,
}

impl<T> Sixteen<T> {
    pub(in crate::matmul::x86::direct) fn new(token: T, avx2: Avx2) -> Sixteen<T> {
        Sixteen { _token: token, eight: Eight(avx2) }
    }
}

/// [`Wide::codebook_sums`] of 16 rows.
pub(in crate::matmul::x86) trait LookUp: Copy {
    /// # Safety
    /// Each row has a whole block.
    unsafe fn codebook_sums<B: Codebook>(
        w: Sixteen<Self>,
        rows: Rows,
        g: usize,
        entries: &Entries<__m512i>,
        x: &XBlock,
    ) -> [__m512i; 2];
}

impl LookUp for Avx512 {
    #[inline(always)]
    unsafe fn codebook_sums<B: Codebook>(
        w: Sixteen<Avx512>,
        rows: Rows,
        g: usize,
        entries: &Entries<__m512i>,
        x: &XBlock,
    ) -> [__m512i; 2] {
        // SAFETY: the caller's promise.
        unsafe { row_sums::<Sixteen<Avx512>, B>(w, rows, g, entries.signs, x) }
    }
}

impl LookUp for Avx512Vbmi {
    #[inline(always)]
    unsafe fn codebook_sums<B: Codebook>(
        _: Sixteen<Avx512Vbmi>,
        _: Rows,
        _: usize,
        entries: &Entries<__m512i>,
        x: &XBlock,
    ) -> [__m512i; 2] {
        // SAFETY: a value of the type proves that the CPU has the features.
        unsafe { planes::sums::<B>(entries, x) }
    }
}

impl<T: LookUp> Wide for Sixteen<T> {
    const ROWS: usize = 16;
    type I = __m512i;
    type F = __m512;

    operations! {
        words(word: i32) -> __m512i = _mm512_set1_epi32;
        bytes(byte: i8) -> __m512i = _mm512_set1_epi8;
        floats(value: f32) -> __m512 = _mm512_set1_ps;
        and(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512;
        or(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512;
        xor(a: __m512i, b: __m512i) -> __m512i = _mm512_xor_si512;
        add(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32;
        sub(a: __m512i, b: __m512i) -> __m512i = _mm512_sub_epi32;
        mul(a: __m512i, b: __m512i) -> __m512i = _mm512_mullo_epi32;
        products16(a: __m512i, b: __m512i) -> __m512i = _mm512_madd_epi16;
        look_up(table: __m512i, bytes: __m512i) -> __m512i = _mm512_shuffle_epi8;
        min_bytes(a: __m512i, b: __m512i) -> __m512i = _mm512_min_epu8;
        unpack_low32(a: __m512i, b: __m512i) -> __m512i = _mm512_unpacklo_epi32;
        unpack_high32(a: __m512i, b: __m512i) -> __m512i = _mm512_unpackhi_epi32;
        unpack_low64(a: __m512i, b: __m512i) -> __m512i = _mm512_unpacklo_epi64;
        unpack_high64(a: __m512i, b: __m512i) -> __m512i = _mm512_unpackhi_epi64;
        to_floats(a: __m512i) -> __m512 = _mm512_cvtepi32_ps;
        product(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps;
        fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps;
        as_floats(a: __m512i) -> __m512 = _mm512_castsi512_ps;
        as_words(a: __m512) -> __m512i = _mm512_castps_si512;
    }
    shifts! {
        left16 = _mm512_sll_epi16;
        right16 = _mm512_srl_epi16;
        left32 = _mm512_sll_epi32;
        right32 = _mm512_srl_epi32;
        signed_right32 = _mm512_sra_epi32;
    }
    with_features! { "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni";
        #[inline(always)]
        fn halves(words: __m512i) -> __m512 {
            _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words))
        }
        #[inline(always)]
        fn power(e: __m512i) -> __m512 {
            let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(e, _mm512_set1_epi32(1)));
            // 2^-128 and 2^-127 are subnormal.
            let small = _mm512_sllv_epi32(_mm512_set1_epi32(0x0020_0000), e);
            let is_normal = _mm512_cmpgt_epi32_mask(e, _mm512_set1_epi32(1));
            _mm512_castsi512_ps(_mm512_mask_blend_epi32(is_normal, small, normal))
        }
        #[inline(always)]
        fn broadcast(table: &[i8; 16]) -> __m512i {
            // SAFETY: the array is 16 readable bytes; the load needs no alignment.
            let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
            _mm512_broadcast_i32x4(table)
        }
        #[inline(always)]
        fn raise(codes: __m512i) -> __m512i {
            _mm512_xor_si512(codes, _mm512_set1_epi8(-128))
        }
        #[inline(always)]
        fn signed_start(x: &XBlock) -> __m512i {
            let [low, high] = without(128, x);
            _mm512_set1_epi32(low + high)
        }
        #[inline(always)]
        fn dot_signed(sum: __m512i, codes: [__m512i; 4], x: &XBlock, first: usize) -> __m512i {
            let mut sum = sum;
            for (quad, codes) in codes.into_iter().enumerate() {
                sum = _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(x.quads[first + quad]));
            }
            sum
        }
        #[inline(always)]
        fn dot<const BITS: u32>(sum: __m512i, codes: [__m512i; 4], x: &XBlock, first: usize) -> __m512i {
            let mut sum = sum;
            for (quad, codes) in codes.into_iter().enumerate() {
                sum = _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(x.quads[first + quad]));
            }
            sum
        }
        #[inline(always)]
        fn row_products(codes: __m256i, minus: u32, x: &XBlock) -> __m256i {
            let zero = _mm256_setzero_si256();
            let x = activations(x);
            _mm256_dpbusd_epi32(zero, codes, _mm256_mask_sub_epi8(x, minus, zero, x))
        }
        #[inline(always)]
        fn join(first: __m256i, second: __m256i) -> __m512i {
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second)
        }
        #[inline(always)]
        fn store(values: __m512, out: &mut [f32]) -> () {
            if let Some(out) = out.first_chunk_mut::<16>() {
                // SAFETY: the array is 64 writable bytes; the store needs no alignment.
                unsafe { _mm512_storeu_ps(out.as_mut_ptr(), values) };
            }
        }
        #[inline(always)]
        fn store_words(values: __m512i, out: &mut [u32; 16]) -> () {
            // SAFETY: the array is 64 writable bytes; the store needs no alignment.
            unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), values) };
        }
    }

    #[inline(always)]
    unsafe fn every_fourth(self, rows: Rows, row: usize, offset: usize) -> __m512i {
        let two = self.eight;
        // SAFETY: the caller's promise.
        let first = unsafe { two.every_fourth(rows, row, offset) };
        // SAFETY: as above.
        let second = unsafe { two.every_fourth(rows, row + 8, offset) };
        self.join(first, second)
    }

    #[inline(always)]
    unsafe fn words_at(self, rows: Rows, offset: usize) -> __m512i {
        let two = self.eight;
        // SAFETY: the caller's promise.
        let first = unsafe { two.words_at(rows, offset) };
        // SAFETY: as above.
        let second = unsafe { two.words_at(rows.upper_eight(), offset) };
        self.join(first, second)
    }

    #[inline(always)]
    unsafe fn halves_at(self, rows: Rows, offset: usize) -> __m512 {
        // SAFETY: the caller's promise.
        let first = unsafe { rows.eight_halves(offset) };
        // SAFETY: as above.
        let second = unsafe { rows.upper_eight().eight_halves(offset) };
        // SAFETY: `self` proves that the CPU has the instructions.
        let halves = unsafe { _mm256_set_m128i(second, first) };
        // SAFETY: as above.
        unsafe { _mm512_cvtph_ps(halves) }
    }

    #[inline(always)]
    unsafe fn codebook_sums<B: Codebook>(
        self,
        rows: Rows,
        g: usize,
        entries: &Entries<__m512i>,
        x: &XBlock,
    ) -> [__m512i; 2] {
        // SAFETY: the caller's promise.
        unsafe { T::codebook_sums::<B>(self, rows, g, entries, x) }
    }
}
