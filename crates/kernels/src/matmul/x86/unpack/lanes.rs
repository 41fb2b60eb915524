//! Moving bytes of 8 rows into lanes: what all formats share.

use std::arch::x86_64::*;

use super::super::tile::Block16;
use crate::format::blocks;

/// An index for `vpshufb` that picks bytes of each 32-bit lane.
pub(super) type Index = [u8; 32];

/// The bytes with these numbers, or [`ZERO`], of each lane.
pub(super) const fn index(pick: [u8; 4]) -> Index {
    let mut index = [ZERO; 32];
    let mut i = 0;
    while i < 32 {
        if pick[i % 4] != ZERO {
            index[i] = (i % 16 / 4 * 4) as u8 + pick[i % 4];
        }
        i += 1;
    }
    index
}

/// An index with the top bit set gives a zero.
pub(super) const ZERO: u8 = 0x80;

/// Byte `i` as a 32-bit number.
pub(super) const BYTE_ONCE: [Index; 4] = [
    index([0, ZERO, ZERO, ZERO]),
    index([1, ZERO, ZERO, ZERO]),
    index([2, ZERO, ZERO, ZERO]),
    index([3, ZERO, ZERO, ZERO]),
];

/// Byte `i` as two 16-bit numbers.
pub(super) const BYTE_TWICE: [Index; 4] = [
    index([0, ZERO, 0, ZERO]),
    index([1, ZERO, 1, ZERO]),
    index([2, ZERO, 2, ZERO]),
    index([3, ZERO, 3, ZERO]),
];

/// Byte `i` four times.
pub(super) const BYTE_FOUR_TIMES: [Index; 4] =
    [index([0; 4]), index([1; 4]), index([2; 4]), index([3; 4])];

/// Bytes `2i` and `2i + 1` as 16-bit numbers.
pub(super) const TWO_BYTES: [Index; 2] = [index([0, ZERO, 1, ZERO]), index([2, ZERO, 3, ZERO])];

/// On top of 16 bits: byte `2i` twice, byte `2i + 1` twice, one of each.
pub(super) const WORDS: [[Index; 3]; 2] = [
    [index([ZERO, 0, ZERO, 0]), index([ZERO, 1, ZERO, 1]), index([ZERO, 0, ZERO, 1])],
    [index([ZERO, 2, ZERO, 2]), index([ZERO, 3, ZERO, 3]), index([ZERO, 2, ZERO, 3])],
];

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn lane_bytes(index: Index) -> __m256i {
    // SAFETY: the array is 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(index.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn set_codes(out: &mut Block16, side: usize, codes: [__m256i; 8]) {
    assert!(side < 2, "a tile has two sides");
    for (out, codes) in out.codes.iter_mut().zip(codes) {
        out[side] = codes;
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn low(bytes: __m256i) -> __m256i {
    _mm256_and_si256(bytes, _mm256_set1_epi8(15))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn high(bytes: __m256i) -> __m256i {
    _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), _mm256_set1_epi8(15))
}

/// Low halves first, then high halves: the order of the "_0" and "_1" formats.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn nibbles(packed: [__m256i; 4]) -> [__m256i; 8] {
    eight!(|Q| if Q < 4 { low(packed[Q % 4]) } else { high(packed[Q % 4]) })
}

/// 32 bytes of each of 8 rows, four bytes of each row to a vector.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn bytes32(rows: [&[u8; 32]; 8]) -> [__m256i; 8] {
    let [a, b, c, d] = quads(eight!(|I| load(&rows[I].as_chunks().0[0])));
    let [e, f, g, h] = quads(eight!(|I| load(&rows[I].as_chunks().0[1])));
    [a, b, c, d, e, f, g, h]
}

/// Transposes 8 rows of four 32-bit words into four vectors of 8.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn quads(rows: [__m128i; 8]) -> [__m256i; 4] {
    let (a, b) = (_mm256_set_m128i(rows[4], rows[0]), _mm256_set_m128i(rows[5], rows[1]));
    let (c, d) = (_mm256_set_m128i(rows[6], rows[2]), _mm256_set_m128i(rows[7], rows[3]));
    let (low01, high01) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let (low23, high23) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    [
        _mm256_unpacklo_epi64(low01, low23),
        _mm256_unpackhi_epi64(low01, low23),
        _mm256_unpacklo_epi64(high01, high23),
        _mm256_unpackhi_epi64(high01, high23),
    ]
}

/// 8 half-precision numbers as singles.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn halves(rows: [[u8; 2]; 8]) -> __m256 {
    let [a, b, c, d, e, f, g, h] = eight!(|I| i16::from_le_bytes(rows[I]));
    _mm256_cvtph_ps(_mm_setr_epi16(a, b, c, d, e, f, g, h))
}

/// The first four bytes of each block, as a word of each row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn words<B: blocks::Block>(rows: [&B; 8]) -> __m256i {
    const { assert!(size_of::<B>() >= 4) };
    words_of(eight!(|I| *blocks::bytes_of(rows[I]).first_chunk().unwrap_or(&[0; 4])))
}

/// A word of each row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn words_of(rows: [[u8; 4]; 8]) -> __m256i {
    let [a, b, c, d, e, f, g, h] = eight!(|I| i32::from_le_bytes(rows[I]));
    _mm256_setr_epi32(a, b, c, d, e, f, g, h)
}

/// The lower and the upper half-precision number of each lane.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn half_pairs(pairs: __m256i) -> [__m256; 2] {
    let index = _mm256_setr_epi8(
        0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15, //
        0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15,
    );
    // In each 128 bits: four lower ones, four upper ones; then the middle quarters change places.
    let sorted = _mm256_permute4x64_epi64::<0b11_01_10_00>(_mm256_shuffle_epi8(pairs, index));
    [
        _mm256_cvtph_ps(_mm256_castsi256_si128(sorted)),
        _mm256_cvtph_ps(_mm256_extracti128_si256::<1>(sorted)),
    ]
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn load(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: the array is 16 readable bytes; the load needs no alignment.
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// 32 bytes of each of 8 rows, already in registers: [`bytes32`].
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn transpose(rows: [__m256i; 8]) -> [__m256i; 8] {
    let [a, b, c, d] = quads(eight!(|I| _mm256_castsi256_si128(rows[I])));
    let [e, f, g, h] = quads(eight!(|I| _mm256_extracti128_si256::<1>(rows[I])));
    [a, b, c, d, e, f, g, h]
}

/// A single of each row.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn floats(rows: [f32; 8]) -> __m256 {
    let [a, b, c, d, e, f, g, h] = rows;
    _mm256_setr_ps(a, b, c, d, e, f, g, h)
}

/// The bits of each lane's word as bytes of eight vectors: byte `i` of vector `q` is 0 if bit `4q + i` is, and at
/// least 16 if it is set.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn spread_bits(bits: __m256i) -> [__m256i; 8] {
    // Byte j of `shifted` has the low four bits of byte j of `bits` on top.
    let shifted = _mm256_slli_epi32::<4>(bits);
    let mask = _mm256_set1_epi32(0x8040_2010_u32.cast_signed());
    eight!(|Q| {
        let source = if Q.is_multiple_of(2) { shifted } else { bits };
        let bytes = _mm256_shuffle_epi8(source, lane_bytes(BYTE_FOUR_TIMES[Q / 2]));
        _mm256_and_si256(bytes, mask)
    })
}

/// Looks bytes below 16 up in a table.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn look_up(table: &[i8; 16], bytes: __m256i) -> __m256i {
    // SAFETY: the array is 16 readable bytes; the load needs no alignment.
    let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), bytes)
}

/// All bits of byte `i` set where bit `i` is.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(in crate::matmul::x86) fn spread_mask(bits: i32) -> __m256i {
    // Byte i / 8, eight times; each with a bit of its own.
    let spread =
        _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let own = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64.cast_signed());
    let set = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(bits), spread), own);
    _mm256_cmpeq_epi8(set, own)
}
