//! The "_0" and "_1" formats: blocks of 32.

use std::arch::x86_64::*;

use super::super::tile::Block16;
use super::lanes::*;
use super::{Class, Scales, Unpack};
use crate::format::blocks;

unpack! { Q4_0 Four None 8 |rows, side, out| {
    let out = &mut out[0];
    set_codes(out, side, nibbles(quads(eight!(|I| load(&rows[I].qs)))));
    out.d[side] = halves(eight!(|I| rows[I].d));
} }

unpack! { Q4_1 Four None 0 |rows, side, out| {
    let out = &mut out[0];
    set_codes(out, side, nibbles(quads(eight!(|I| load(&rows[I].qs)))));
    [out.d[side], out.min[side]] = half_pairs(words(rows));
} }

unpack! { Q5_0 Five None 16 |rows, side, out| {
    let out = &mut out[0];
    let low = nibbles(quads(eight!(|I| load(&rows[I].qs))));
    set_codes(out, side, with_fifth_bits(low, words_of(eight!(|I| rows[I].qh))));
    out.d[side] = halves(eight!(|I| rows[I].d));
} }

unpack! { Q5_1 Five None 0 |rows, side, out| {
    let out = &mut out[0];
    let low = nibbles(quads(eight!(|I| load(&rows[I].qs))));
    set_codes(out, side, with_fifth_bits(low, words_of(eight!(|I| rows[I].qh))));
    [out.d[side], out.min[side]] = half_pairs(words(rows));
} }

unpack! { Q8_0 Signed None 0 |rows, side, out| {
    let out = &mut out[0];
    set_codes(out, side, bytes32(eight!(|I| &rows[I].qs)));
    out.d[side] = halves(eight!(|I| rows[I].d));
} }

/// Adds bit `4q + i` of each lane of `bits` to byte `i` of vector `q` as its fifth bit.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn with_fifth_bits(low: [__m256i; 8], bits: __m256i) -> [__m256i; 8] {
    let (spread, bit) = (spread_bits(bits), _mm256_set1_epi8(16));
    eight!(|Q| _mm256_or_si256(low[Q], _mm256_min_epu8(spread[Q], bit)))
}
