//! Formats of 4-bit codes whose values are in a table.

use std::arch::x86_64::*;

use super::super::tile::Block16;
use super::lanes::*;
use super::{Class, Scales, Unpack};
use crate::format::blocks::{self, FP4_VALUES, IQ4_VALUES};

/// The values of 4-bit floats, 12 larger so that none has a sign: five bits hold them then.
pub(in crate::matmul::x86) const FP4_RAISED: [i8; 16] = {
    let mut values = FP4_VALUES;
    let mut i = 0;
    while i < 16 {
        values[i] += 12;
        i += 1;
    }
    values
};

unpack! { IQ4NL Signed None 0 |rows, side, out| {
    let out = &mut out[0];
    let codes = nibbles(quads(eight!(|I| load(&rows[I].qs))));
    set_codes(out, side, eight!(|Q| look_up(&IQ4_VALUES, codes[Q])));
    out.d[side] = halves(eight!(|I| rows[I].d));
} }

unpack! { IQ4XS Signed None 0 |rows, side, out| {
    let d = halves(eight!(|I| rows[I].d));
    let lows = words_of(eight!(|I| rows[I].scales_l));
    let tops = words_of(eight!(|I| [rows[I].scales_h[0], rows[I].scales_h[1], 0, 0]));
    for (g, out) in out.iter_mut().enumerate() {
        let codes = nibbles(quads(eight!(|I| load(&rows[I].qs.as_chunks().0[g]))));
        set_codes(out, side, eight!(|Q| look_up(&IQ4_VALUES, codes[Q])));
        let shift = |bits: usize| _mm_cvtsi32_si128(bits as i32);
        let low = _mm256_and_si256(_mm256_srl_epi32(lows, shift(4 * g)), _mm256_set1_epi32(15));
        let top = _mm256_and_si256(_mm256_srl_epi32(tops, shift(2 * g)), _mm256_set1_epi32(3));
        let scale = _mm256_or_si256(low, _mm256_slli_epi32::<4>(top));
        let scale = _mm256_sub_epi32(scale, _mm256_set1_epi32(32));
        out.d[side] = _mm256_mul_ps(d, _mm256_cvtepi32_ps(scale));
    }
} }

unpack! { MXFP4 Five None 12 |rows, side, out| {
    let out = &mut out[0];
    let codes = nibbles(quads(eight!(|I| load(&rows[I].qs))));
    set_codes(out, side, eight!(|Q| look_up(&FP4_RAISED, codes[Q])));
    out.d[side] = floats(eight!(|I| blocks::e8m0_half(rows[I].e)));
} }

unpack! { NVFP4 Five None 12 |rows, side, out| {
    for (g, out) in out.iter_mut().enumerate() {
        // 8 bytes are 16 codes: first the low halves.
        let [a, b, c, d] = quads(eight!(|I| load(&rows[I].qs.as_chunks().0[g])));
        let codes = [low(a), low(b), high(a), high(b), low(c), low(d), high(c), high(d)];
        set_codes(out, side, eight!(|Q| look_up(&FP4_RAISED, codes[Q])));
        out.d[side] = floats(eight!(|I| UE4M3_HALF[usize::from(rows[I].d[2 * g])]));
        out.min[side] = floats(eight!(|I| UE4M3_HALF[usize::from(rows[I].d[2 * g + 1])]));
    }
} }

/// [`blocks::ue4m3_half`] of every byte.
static UE4M3_HALF: [f32; 256] = {
    let mut values = [0.0; 256];
    let mut byte = 0;
    while byte < 256 {
        values[byte] = blocks::ue4m3_half(byte as u8);
        byte += 1;
    }
    values
};
