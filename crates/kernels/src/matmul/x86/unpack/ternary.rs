//! Formats of one and two bits without codebook.

use std::arch::x86_64::*;

use super::super::tile::Block16;
use super::k::two_bits;
use super::lanes::*;
use super::{Class, Scales, Unpack};
use crate::format::blocks;

unpack! { TQ1_0 Four None 1 |rows, side, out| {
    let d = halves(eight!(|I| rows[I].d));
    let mut bytes = bytes32(eight!(|I| rows[I].qs.first_chunk().unwrap_or(&[0; 32])));
    for out in &mut out[..5] {
        set_codes(out, side, eight!(|Q| digit(bytes[Q])));
        bytes = eight!(|Q| next_digit(bytes[Q]));
    }
    // Five times 16 values, then four times 4.
    let mut bytes = quads(eight!(|I| load(rows[I].qs.last_chunk().unwrap_or(&[0; 16]))));
    for half in 0..5 {
        for (quad, byte) in bytes.iter_mut().enumerate() {
            out[5 + half / 2].codes[half % 2 * 4 + quad][side] = digit(*byte);
            *byte = next_digit(*byte);
        }
    }
    let mut rest = words_of(eight!(|I| rows[I].qh));
    for quad in 4..8 {
        out[7].codes[quad][side] = digit(rest);
        rest = next_digit(rest);
    }
    for out in out {
        out.d[side] = d;
    }
} }

/// The first ternary digit of each byte (see [`blocks::ternary`]): fractions from 86/256 and 171/256
/// on have digits 1 and 2.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn digit(bytes: __m256i) -> __m256i {
    let (one, two) = (_mm256_set1_epi8(86), _mm256_set1_epi8(171_u8.cast_signed()));
    let at_least_one = _mm256_cmpeq_epi8(_mm256_max_epu8(bytes, one), bytes);
    let at_least_two = _mm256_cmpeq_epi8(_mm256_max_epu8(bytes, two), bytes);
    _mm256_abs_epi8(_mm256_add_epi8(at_least_one, at_least_two))
}

/// Moves each byte's next digit to the front.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn next_digit(bytes: __m256i) -> __m256i {
    _mm256_add_epi8(bytes, _mm256_add_epi8(bytes, bytes))
}

unpack! { TQ2_0 Four None 1 |rows, side, out| {
    let d = halves(eight!(|I| rows[I].d));
    for (half, out) in out.chunks_exact_mut(4).enumerate() {
        two_bits(bytes32(eight!(|I| &rows[I].qs.as_chunks().0[half])), side, out);
        for out in out {
            out.d[side] = d;
        }
    }
} }

unpack! { Q1_0 Four None 1 |rows, side, out| {
    let d = halves(eight!(|I| rows[I].d));
    let words = quads(eight!(|I| load(&rows[I].qs)));
    for (out, bits) in out.iter_mut().zip(words) {
        let spread = spread_bits(bits);
        // 0 and 2, for -1 and 1.
        set_codes(out, side, eight!(|Q| _mm256_min_epu8(spread[Q], _mm256_set1_epi8(2))));
        out.d[side] = d;
    }
} }

unpack! { Q2_0 Four None 1 |rows, side, out| {
    let d = halves(eight!(|I| rows[I].d));
    let [a, b, c, e] = quads(eight!(|I| load(&rows[I].qs)));
    for (out, words) in out.iter_mut().zip([[a, b], [c, e]]) {
        set_codes(out, side, eight!(|Q| four_in_byte::<{ Q % 4 }>(words[Q / 4])));
        out.d[side] = d;
    }
} }

/// The four 2-bit codes of byte `BYTE` of each lane, the first in the lowest bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn four_in_byte<const BYTE: usize>(words: __m256i) -> __m256i {
    // Codes in the lowest two bits, and codes in the two bits above: no index has both.
    const DIVIDED: [i8; 16] = [0, 1, 2, 3, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0];
    let bytes = _mm256_shuffle_epi8(words, lane_bytes(BYTE_FOUR_TIMES[BYTE]));
    let first = _mm256_and_si256(bytes, _mm256_set1_epi32(0x0000_0c03));
    let second = _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), _mm256_set1_epi32(0x0c03_0000));
    look_up(&DIVIDED, _mm256_or_si256(first, second))
}
