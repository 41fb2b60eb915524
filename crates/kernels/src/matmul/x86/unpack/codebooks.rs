//! The IQ formats with codebooks: 32 weights of a row are looked up, then rows change places with lanes.

use std::arch::x86_64::*;

use super::super::tile::Block16;
use super::lanes::*;
use super::{Class, Scales, Unpack};
use crate::format::blocks;
use crate::format::quants;

unpack! { IQ2XXS Centred(43) None 64 |rows, side, out| {
    let d = _mm256_mul_ps(halves(eight!(|I| rows[I].d)), _mm256_set1_ps(0.125));
    for (g, out) in out.iter_mut().enumerate() {
        let groups = eight!(|I| quants::iq2xxs_entries(rows[I], g));
        let values = eight!(|I| with_signs::<Self>(eights(groups[I].0), groups[I].1));
        set_codes(out, side, transpose(values));
        set_scale(out, side, d, eight!(|I| groups[I].2));
    }
} }

unpack! { IQ2XS Centred(43) Per16 64 |rows, side, out| {
    let d = _mm256_mul_ps(halves(eight!(|I| rows[I].d)), _mm256_set1_ps(0.125));
    for (g, out) in out.iter_mut().enumerate() {
        let values = eight!(|I| {
            let (entries, signs) = quants::iq2xs_entries(rows[I], g);
            with_signs::<Self>(eights(entries), signs)
        });
        set_codes(out, side, transpose(values));
        set_scales::<Self>(out, side, d, eight!(|I| quants::halves(rows[I].scales[g])));
    }
} }

unpack! { IQ2S Centred(43) Per16 64 |rows, side, out| {
    let d = _mm256_mul_ps(halves(eight!(|I| rows[I].d)), _mm256_set1_ps(0.125));
    for (g, out) in out.iter_mut().enumerate() {
        let values = eight!(|I| {
            with_signs::<Self>(eights(quants::iq2s_entries(rows[I], g)), rows[I].signs[g])
        });
        set_codes(out, side, transpose(values));
        set_scales::<Self>(out, side, d, eight!(|I| quants::halves(rows[I].scales[g])));
    }
} }

unpack! { IQ3XXS Centred(62) None 64 |rows, side, out| {
    let d = _mm256_mul_ps(halves(eight!(|I| rows[I].d)), _mm256_set1_ps(0.25));
    for (g, out) in out.iter_mut().enumerate() {
        let words = eight!(|I| quants::signs_and_scale(rows[I].signs[g]));
        let values = eight!(|I| {
            with_signs::<Self>(fours(quants::iq3xxs_entries(rows[I], g)), words[I].0)
        });
        set_codes(out, side, transpose(values));
        set_scale(out, side, d, eight!(|I| words[I].1));
    }
} }

unpack! { IQ3S Five None 15 |rows, side, out| {
    let d = halves(eight!(|I| rows[I].d));
    for (g, out) in out.iter_mut().enumerate() {
        let values = eight!(|I| {
            with_signs::<Self>(fours(quants::iq3s_entries(rows[I], g)), rows[I].signs[g])
        });
        set_codes(out, side, transpose(values));
        let scale = eight!(|I| quants::halves(rows[I].scales[g / 2])[g % 2]);
        set_scale(out, side, d, scale);
    }
} }

unpack! { IQ1S Five None 9 |rows, side, out| {
    let d = _mm256_mul_ps(halves(eight!(|I| rows[I].d)), _mm256_set1_ps(0.125));
    for (g, out) in out.iter_mut().enumerate() {
        let words = eight!(|I| u16::from_le_bytes(rows[I].qh[g]));
        let values = eight!(|I| {
            shifted(eights(quants::iq1s_entries(rows[I], g)), [words[I] >> 15 == 1; 4])
        });
        set_codes(out, side, transpose(values));
        set_scale(out, side, d, eight!(|I| (words[I] >> 12) as u8 & 7));
    }
} }

unpack! { IQ1M Five Per16 9 |rows, side, out| {
    let d = halves(eight!(|I| quants::iq1m_d(rows[I])));
    let d = _mm256_mul_ps(d, _mm256_set1_ps(0.125));
    for (g, out) in out.iter_mut().enumerate() {
        let values = eight!(|I| {
            let (entries, minus) = quants::iq1m_entries(rows[I], g);
            shifted(eights(entries), minus)
        });
        set_codes(out, side, transpose(values));
        set_scales::<Self>(out, side, d, eight!(|I| quants::iq1m_scales(rows[I], g)));
    }
} }

/// The float scale times `2 scale + 1`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn set_scale(out: &mut Block16, side: usize, d: __m256, scale: [u8; 8]) {
    let odd = floats(eight!(|I| f32::from(2 * scale[I] + 1)));
    out.d[side] = _mm256_mul_ps(d, odd);
}

/// The float scale, and the integer scales `2 scale + 1` of 16 codes each.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn set_scales<B: Unpack>(out: &mut Block16, side: usize, d: __m256, scales: [[u8; 2]; 8]) {
    out.d[side] = d;
    // A word of each row: the scale of the first 16 codes in the lowest byte, of the last in the next.
    let both = words_of(eight!(|I| [scales[I][0], scales[I][1], 0, 0]));
    let odd = _mm256_or_si256(_mm256_slli_epi16::<1>(both), _mm256_set1_epi16(0x0101));
    out.scale[0][side] = _mm256_shuffle_epi8(odd, lane_bytes(BYTE_TWICE[0]));
    out.scale[1][side] = _mm256_shuffle_epi8(odd, lane_bytes(BYTE_TWICE[1]));
    let each = _mm256_shuffle_epi8(odd, lane_bytes(TWO_BYTES[0]));
    out.offset[side] = _mm256_mullo_epi16(each, _mm256_set1_epi16(-B::OFFSET));
}

/// Four entries of 8 values side by side.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn eights(entries: [i64; 4]) -> __m256i {
    let [a, b, c, d] = entries;
    _mm256_setr_epi64x(a, b, c, d)
}

/// Eight entries of 4 values side by side.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn fours(entries: [i32; 8]) -> __m256i {
    let [a, b, c, d, e, f, g, h] = entries;
    _mm256_setr_epi32(a, b, c, d, e, f, g, h)
}

/// The values, with minus where bit `i % 8` of `signs[i / 8]` is set, plus the offset.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn with_signs<B: Unpack>(values: __m256i, signs: [u8; 4]) -> __m256i {
    let minus = spread_mask(i32::from_le_bytes(signs));
    // The minus of a mask that is -1 is the one that a complement lacks.
    let offset = _mm256_sub_epi8(_mm256_set1_epi8(B::OFFSET as i8), minus);
    _mm256_add_epi8(_mm256_xor_si256(values, minus), offset)
}

/// Eight times the values, plus one, or minus one for those 8 of which it is said; plus the offset of 9.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn shifted(values: __m256i, minus: [bool; 4]) -> __m256i {
    let [a, b, c, d] = steps(minus);
    // The values are -1, 0 and 1: no bit crosses from byte to byte that the mask would not remove.
    let eight_times =
        _mm256_and_si256(_mm256_slli_epi16::<3>(values), _mm256_set1_epi8(0xf8_u8.cast_signed()));
    _mm256_add_epi8(eight_times, _mm256_setr_epi64x(a, b, c, d))
}

/// 10 in each of 8 bytes, or 8.
#[inline]
fn steps(minus: [bool; 4]) -> [i64; 4] {
    let step = |minus: bool| if minus { 0x0808_0808_0808_0808 } else { 0x0a0a_0a0a_0a0a_0a0a };
    [step(minus[0]), step(minus[1]), step(minus[2]), step(minus[3])]
}
