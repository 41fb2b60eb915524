//! AVX-512 VBMI: entries of codebooks, 64 look-ups at a time.
//!
//! An entry is 16 bits: 8 codes of 2 bits, or 4 of 3 bits. A *plane* is one byte of each entry; `vpermi2b` looks 64
//! bytes up in 128. Rows stay in lanes all the way, so no sums of a row must be added up at the end. Code `j` of
//! the four entries of a lane lies in bytes that are 8 (or 4) weights apart: the activations are put into that order.
//! A look-up of one entry at a time takes 0.2 ns, more than two thirds of the time of the formats that do so.

use std::arch::x86_64::*;

use super::codebooks::Entries;
use crate::format::{blocks, grids};
use crate::quantize::XBlock;

/// 64 entries of a plane.
#[repr(C, align(64))]
pub(in crate::matmul::x86) struct Part([u8; 64]);

/// What of a codebook is looked up in planes.
pub(in crate::matmul::x86) trait Planes {
    /// Bits of a code: 2 in entries of 8, 3 in entries of 4.
    const BITS: usize;
    /// The lower and the upper half of the codes.
    const PLANES: [&'static [Part]; 2];
    /// The value of each code, plus [`Planes::RAISE`]; then those of codes with their sign bit set.
    const VALUES: [i8; 16];
    /// Makes all values positive.
    const RAISE: i32;
    /// Whether each half of 32 weights has a scale of its own.
    const HALVES: bool;
}

macro_rules! planes {
    ($($block:ident $bits:literal $entries:ident $parts:literal
       $values:expr, $minus:expr, $raise:literal, $halves:literal;)+) => {
        $(impl Planes for blocks::$block {
            const BITS: usize = $bits;
            const PLANES: [&'static [Part]; 2] = {
                const LOW: &[Part] = &plane::<{ 64 * $parts }, $parts>(&grids::$entries, $bits, 0);
                const HIGH: &[Part] = &plane::<{ 64 * $parts }, $parts>(&grids::$entries, $bits, 1);
                [LOW, HIGH]
            };
            const VALUES: [i8; 16] = raised($bits, &$values, &$minus, $raise);
            const RAISE: i32 = $raise;
            const HALVES: bool = $halves;
        })+
    };
}

planes! {
    IQ2XXS 2 IQ2_XXS_ENTRIES 4 grids::TWO_BIT, minus(grids::TWO_BIT), 43, false;
    IQ2XS 2 IQ2_XS_ENTRIES 8 grids::TWO_BIT, minus(grids::TWO_BIT), 43, true;
    IQ2S 2 IQ2_S_ENTRIES 16 grids::TWO_BIT, minus(grids::TWO_BIT), 43, true;
    IQ3XXS 3 IQ3_XXS_ENTRIES 4 grids::IQ3_XXS_VALUES, minus(grids::IQ3_XXS_VALUES), 62, false;
    IQ3S 3 IQ3_S_ENTRIES 8 grids::IQ3_S_VALUES, minus(grids::IQ3_S_VALUES), 15, false;
    // Eight times -1, 0 or 1, plus one; with the "sign" minus one.
    IQ1S 2 IQ1_ENTRIES 32 [-7, 1, 9, 1], [-9, -1, 7, -1], 9, false;
    IQ1M 2 IQ1_ENTRIES 32 [-7, 1, 9, 1], [-9, -1, 7, -1], 9, true;
}

const fn plane<const N: usize, const PARTS: usize>(
    entries: &[u16; N],
    bits: usize,
    half: usize,
) -> [Part; PARTS] {
    let mut parts = [const { Part([0; 64]) }; PARTS];
    let mut i = 0;
    while i < N {
        parts[i / 64].0[i % 64] = if bits == 2 {
            (entries[i] >> (8 * half)) as u8
        } else {
            // Half a byte for each code.
            let two = entries[i] >> (6 * half);
            (two & 7 | (two >> 3 & 7) << 4) as u8
        };
        i += 1;
    }
    parts
}

const fn minus<const N: usize>(mut values: [i8; N]) -> [i8; N] {
    let mut i = 0;
    while i < N {
        values[i] = -values[i];
        i += 1;
    }
    values
}

const fn raised(bits: usize, values: &[i8], minus: &[i8], raise: i8) -> [i8; 16] {
    let mut table = [0; 16];
    let mut code = 0;
    while code < 1 << bits {
        table[code] = values[code] + raise;
        table[code | 1 << bits] = minus[code] + raise;
        code += 1;
    }
    table
}

/// The sums of the products of the first and of the last 16 weights of a group of 16 rows; both are in the first, if
/// the format has one scale for them.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
pub(super) fn sums<B: Planes>(entries: &Entries<__m512i>, x: &XBlock) -> [__m512i; 2] {
    // SAFETY: the array is 16 readable bytes; the load needs no alignment.
    let values = unsafe { _mm_loadu_si128(B::VALUES.as_ptr().cast()) };
    let values = _mm512_broadcast_i32x4(values);
    let [first, last] = super::without(B::RAISE, x);
    if B::HALVES {
        let start = [_mm512_set1_epi32(first), _mm512_set1_epi32(last)];
        return eights::<B>(entries, values, x, start);
    }
    let start = [_mm512_set1_epi32(first + last), _mm512_setzero_si512()];
    if B::BITS == 2 {
        eights::<B>(entries, values, x, start)
    } else {
        fours::<B>(entries, values, x, start)
    }
}

/// Adds the products of four entries of 8 to the sums.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn eights<B: Planes>(
    entries: &Entries<__m512i>,
    values: __m512i,
    x: &XBlock,
    mut sums: [__m512i; 2],
) -> [__m512i; 2] {
    let x = permuted(x, &EVERY_EIGHTH);
    for half in 0..2 {
        let plane = look_up(B::PLANES[half], entries.low[0], entries.high[0]);
        for j in 0..4 {
            // Bit `4 half + j` of each byte of signs, as bit 2.
            let at = 4 * half + j;
            let sign = if at < 2 {
                _mm512_sll_epi16(entries.signs, shift(2 - at))
            } else {
                _mm512_srl_epi16(entries.signs, shift(at - 2))
            };
            let codes =
                _mm512_and_si512(_mm512_srl_epi16(plane, shift(2 * j)), _mm512_set1_epi8(3));
            let index = _mm512_or_si512(codes, _mm512_and_si512(sign, _mm512_set1_epi8(4)));
            let codes = _mm512_shuffle_epi8(values, index);
            if B::HALVES {
                let lower = x[at] & 0xffff;
                sums[0] = _mm512_dpbusd_epi32(sums[0], codes, _mm512_set1_epi32(lower));
                sums[1] = _mm512_dpbusd_epi32(sums[1], codes, _mm512_set1_epi32(x[at] & !0xffff));
            } else {
                sums[0] = _mm512_dpbusd_epi32(sums[0], codes, _mm512_set1_epi32(x[at]));
            }
        }
    }
    sums
}

/// Adds the products of eight entries of 4 to the sums.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn fours<B: Planes>(
    entries: &Entries<__m512i>,
    values: __m512i,
    x: &XBlock,
    mut sums: [__m512i; 2],
) -> [__m512i; 2] {
    let x = permuted(x, &EVERY_FOURTH);
    for half in 0..2 {
        // Two bytes of signs, each for two entries: its upper half for the second.
        let twice = 0x0101_0000 + 0x0202_0202 * half as i32;
        let lanes = _mm512_set4_epi32(0x0c0c_0c0c, 0x0808_0808, 0x0404_0404, 0);
        let index = _mm512_add_epi8(lanes, _mm512_set1_epi32(twice));
        let signs = _mm512_shuffle_epi8(entries.signs, index);
        let signs =
            _mm512_mask_blend_epi8(0xaaaa_aaaa_aaaa_aaaa, signs, _mm512_srli_epi16::<4>(signs));
        let first = look_up(B::PLANES[0], entries.low[half], entries.high[half]);
        let second = look_up(B::PLANES[1], entries.low[half], entries.high[half]);
        for j in 0..4 {
            let plane = if j < 2 { first } else { second };
            let codes = _mm512_srl_epi16(plane, shift(j % 2 * 4));
            let codes = _mm512_and_si512(codes, _mm512_set1_epi8(7));
            let sign = _mm512_sll_epi16(signs, shift(3 - j));
            let index = _mm512_or_si512(codes, _mm512_and_si512(sign, _mm512_set1_epi8(8)));
            let codes = _mm512_shuffle_epi8(values, index);
            sums[0] = _mm512_dpbusd_epi32(sums[0], codes, _mm512_set1_epi32(x[4 * half + j]));
        }
    }
    sums
}

#[inline]
#[target_feature(enable = "avx2")]
fn shift(bits: usize) -> __m128i {
    _mm_cvtsi32_si128(bits as i32)
}

/// Bytes of a plane; `high` holds the bits of the indices above the lowest 8.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn look_up(plane: &[Part], low: __m512i, high: __m512i) -> __m512i {
    let upper_half = _mm512_movepi8_mask(low);
    let two = |at: usize| {
        let (a, b) = (load(&plane[at]), load(&plane[at + 1]));
        _mm512_permutex2var_epi8(a, low, b)
    };
    let four = |at: usize| _mm512_mask_blend_epi8(upper_half, two(at), two(at + 2));
    let bit = |bit: i8| _mm512_test_epi8_mask(high, _mm512_set1_epi8(bit));
    let eight = |at| _mm512_mask_blend_epi8(bit(1), four(at), four(at + 4));
    let sixteen = |at| _mm512_mask_blend_epi8(bit(2), eight(at), eight(at + 8));
    match plane.len() {
        4 => four(0),
        8 => eight(0),
        16 => sixteen(0),
        _ => _mm512_mask_blend_epi8(bit(4), sixteen(0), sixteen(16)),
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(part: &Part) -> __m512i {
    // SAFETY: the array is 64 readable bytes at a multiple of 64.
    unsafe { _mm512_load_si512(part.0.as_ptr().cast()) }
}

/// Byte `i` of word `j`: activation `8i + j`.
static EVERY_EIGHTH: [u8; 32] = {
    let mut order = [0; 32];
    let mut at = 0;
    while at < 32 {
        order[at] = (at % 4 * 8 + at / 4) as u8;
        at += 1;
    }
    order
};

/// Byte `i` of word `4h + j`: activation `16h + 4i + j`.
static EVERY_FOURTH: [u8; 32] = {
    let mut order = [0; 32];
    let mut at = 0;
    while at < 32 {
        order[at] = (at / 16 * 16 + at % 4 * 4 + at % 16 / 4) as u8;
        at += 1;
    }
    order
};

/// The codes of the activations in another order.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn permuted(x: &XBlock, order: &[u8; 32]) -> [i32; 8] {
    // SAFETY: the array is 32 readable bytes; the load needs no alignment.
    let order = unsafe { _mm256_loadu_si256(order.as_ptr().cast()) };
    // SAFETY: as above.
    let codes = unsafe { _mm256_loadu_si256(x.quads.as_ptr().cast()) };
    let codes = _mm256_permutexvar_epi8(order, codes);
    let mut out = [0; 8];
    // SAFETY: the array is 32 writable bytes; the store needs no alignment.
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), codes) };
    out
}
