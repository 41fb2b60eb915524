//! From a block's bytes to its integer codes, shared by dequantisation and canonical form.

use super::blocks::{self, eight_signs, ternary};
use super::grids;

/// The 32 values of 16 bytes: low halves first, then high halves.
pub(crate) fn nibbles(qs: &[u8; 16]) -> [u8; 32] {
    let mut all = [0; 32];
    let (low, high) = all.split_at_mut(16);
    for ((low, high), q) in low.iter_mut().zip(high).zip(qs) {
        (*low, *high) = (q & 15, q >> 4);
    }
    all
}

/// Codes of at most 6 bits, each less `raise` (at most 32).
pub(crate) fn signed(codes: [u8; 32], raise: i8) -> [i8; 32] {
    let mut all = [0; 32];
    for (signed, code) in all.iter_mut().zip(codes) {
        *signed = code.cast_signed().wrapping_sub(raise);
    }
    all
}

/// [`nibbles`] with bit `i` of `qh` as the fifth bit of value `i`.
pub(crate) fn five_bits(qs: &[u8; 16], qh: [u8; 4]) -> [u8; 32] {
    let low = nibbles(qs);
    let high = u32::from_le_bytes(qh);
    std::array::from_fn(|i| low[i] | (((high >> i) & 1) as u8) << 4)
}

/// Codes of values `32g..32g + 32` of a `Q4K` block.
pub(crate) fn q4k(block: &blocks::Q4K, g: usize) -> [u8; 32] {
    std::array::from_fn(|i| (block.qs[g / 2 * 32 + i] >> (g % 2 * 4)) & 15)
}

/// Codes of values `32g..32g + 32` of a `Q5K` block.
pub(crate) fn q5k(block: &blocks::Q5K, g: usize) -> [u8; 32] {
    std::array::from_fn(|i| {
        let low = (block.qs[g / 2 * 32 + i] >> (g % 2 * 4)) & 15;
        low | ((block.qh[i] >> g) & 1) << 4
    })
}

/// Codes (0..64) of values `32g..32g + 32` of a `Q6K` block.
pub(crate) fn q6k(block: &blocks::Q6K, g: usize) -> [u8; 32] {
    let (half, g) = (g / 4, g % 4);
    std::array::from_fn(|i| {
        let low = (block.ql[half * 64 + g % 2 * 32 + i] >> (g / 2 * 4)) & 15;
        low | ((block.qh[half * 32 + i] >> (2 * g)) & 3) << 4
    })
}

/// Codes of values `32g..32g + 32` where each half of 128 takes two bits from the same 32 bytes.
fn two_bits(qs: &[u8; 64], g: usize) -> [u8; 32] {
    std::array::from_fn(|i| (qs[g / 4 * 32 + i] >> (g % 4 * 2)) & 3)
}

/// Codes of values `32g..32g + 32` of a `Q2K` block.
pub(crate) fn q2k(block: &blocks::Q2K, g: usize) -> [u8; 32] {
    two_bits(&block.qs, g)
}

/// Codes (0..8) of values `32g..32g + 32` of a `Q3K` block.
pub(crate) fn q3k(block: &blocks::Q3K, g: usize) -> [u8; 32] {
    let low = two_bits(&block.qs, g);
    std::array::from_fn(|i| low[i] | ((block.hmask[i] >> g) & 1) << 2)
}

/// The 16 bytes of group `g` of an `IQ4XS` block as values.
pub(crate) fn iq4xs(block: &blocks::IQ4XS, g: usize) -> [i8; 32] {
    let (parts, _) = block.qs.as_chunks::<16>();
    nibbles(&parts[g]).map(|q| blocks::IQ4_VALUES[q as usize])
}

/// The scale of group `g` of an `IQ4XS` block, less 32.
pub(crate) fn iq4xs_scale(block: &blocks::IQ4XS, g: usize) -> i8 {
    let low = (block.scales_l[g / 2] >> (g % 2 * 4)) & 15;
    let high = (u16::from_le_bytes(block.scales_h) >> (2 * g)) as u8 & 3;
    (low | high << 4).cast_signed() - 32
}

/// Twice the values `32g..32g + 32` of an `NVFP4` block, without scales.
pub(crate) fn nvfp4(block: &blocks::NVFP4, g: usize) -> [i8; 32] {
    std::array::from_fn(|i| {
        let byte = block.qs[g * 16 + i / 16 * 8 + i % 8];
        blocks::FP4_VALUES[usize::from((byte >> (i % 16 / 8 * 4)) & 15)]
    })
}

/// Digits less one of values `32g..32g + 32` of a `TQ1_0` block.
pub(crate) fn tq1_0(block: &blocks::TQ1_0, g: usize) -> [i8; 32] {
    std::array::from_fn(|i| {
        let digit = match g * 32 + i {
            at @ 0..160 => ternary(block.qs[at % 32], at / 32),
            at @ 160..240 => ternary(block.qs[32 + at % 16], (at - 160) / 16),
            at => ternary(block.qh[at % 4], (at - 240) / 4),
        };
        digit.cast_signed() - 1
    })
}

/// Codes less one of values `32g..32g + 32` of a `TQ2_0` block.
pub(crate) fn tq2_0(block: &blocks::TQ2_0, g: usize) -> [i8; 32] {
    signed(two_bits(&block.qs, g), 1)
}

/// Plus or minus one: values `32g..32g + 32` of a `Q1_0` block.
pub(crate) fn q1_0(block: &blocks::Q1_0, g: usize) -> [i8; 32] {
    std::array::from_fn(|i| if (block.qs[g * 4 + i / 8] >> (i % 8)) & 1 == 1 { 1 } else { -1 })
}

/// Codes less one of values `32g..32g + 32` of a `Q2_0` block.
pub(crate) fn q2_0(block: &blocks::Q2_0, g: usize) -> [i8; 32] {
    std::array::from_fn(|i| ((block.qs[g * 8 + i / 4] >> (i % 4 * 2)) & 3).cast_signed() - 1)
}

/// Four entries of 8 with their signs.
fn signed_eights(entries: [i64; 4], signs: [u8; 4]) -> [i8; 32] {
    std::array::from_fn(|i| sign(byte8(entries[i / 8], i % 8), signs[i / 8], i % 8))
}

/// Eight entries of 4 with their signs.
fn signed_fours(entries: [i32; 8], signs: [u8; 4]) -> [i8; 32] {
    std::array::from_fn(|i| sign(byte8(entries[i / 4].into(), i % 4), signs[i / 8], i % 8))
}

/// Byte `i` of a codebook's entry.
fn byte8(entry: i64, i: usize) -> i8 {
    entry.to_le_bytes()[i].cast_signed()
}

fn sign(value: i8, signs: u8, bit: usize) -> i8 {
    if (signs >> bit) & 1 == 1 { -value } else { value }
}

/// The word of signs and scale of `IQ2XXS` and `IQ3XXS`: signs of four times 8 values, and the scale.
#[inline]
pub(crate) fn signs_and_scale(bytes: [u8; 4]) -> ([u8; 4], u8) {
    let word = u32::from_le_bytes(bytes);
    let signs = |at: u32| eight_signs(word >> at);
    ([signs(0), signs(7), signs(14), signs(21)], (word >> 28) as u8)
}

/// Entries, signs and scale of group `g` of an `IQ2XXS` block.
#[inline]
pub(crate) fn iq2xxs_entries(block: &blocks::IQ2XXS, g: usize) -> ([i64; 4], [u8; 4], u8) {
    let [a, b, c, d, rest @ ..] = block.qs[g];
    let (signs, scale) = signs_and_scale(rest);
    let entry = |byte: u8| grids::IQ2_XXS[usize::from(byte)];
    ([entry(a), entry(b), entry(c), entry(d)], signs, scale)
}

/// Values without scale, and the scale, of group `g` of an `IQ2XXS` block.
pub(crate) fn iq2xxs(block: &blocks::IQ2XXS, g: usize) -> ([i8; 32], u8) {
    let (entries, signs, scale) = iq2xxs_entries(block, g);
    (signed_eights(entries, signs), scale)
}

/// Entries and signs of group `g` of an `IQ2XS` block.
#[inline]
pub(crate) fn iq2xs_entries(block: &blocks::IQ2XS, g: usize) -> ([i64; 4], [u8; 4]) {
    let words = u64::from_le_bytes(block.qs[g]);
    let word = |i: usize| (words >> (16 * i)) as usize;
    let entry = |i: usize| grids::IQ2_XS[word(i) & 511];
    let signs = |i: usize| eight_signs((word(i) >> 9) as u32);
    ([entry(0), entry(1), entry(2), entry(3)], [signs(0), signs(1), signs(2), signs(3)])
}

/// Values without scale, and the scales of their halves, of group `g` of an `IQ2XS` block.
pub(crate) fn iq2xs(block: &blocks::IQ2XS, g: usize) -> ([i8; 32], [u8; 2]) {
    let (entries, signs) = iq2xs_entries(block, g);
    (signed_eights(entries, signs), halves(block.scales[g]))
}

/// Entries of group `g` of an `IQ2S` block.
#[inline]
pub(crate) fn iq2s_entries(block: &blocks::IQ2S, g: usize) -> [i64; 4] {
    let (low, high) = (&block.qs[g], usize::from(block.qh[g]));
    let entry = |i: usize| grids::IQ2_S[usize::from(low[i]) | (high >> (2 * i) & 3) << 8];
    [entry(0), entry(1), entry(2), entry(3)]
}

/// Values without scale, and the scales of their halves, of group `g` of an `IQ2S` block.
pub(crate) fn iq2s(block: &blocks::IQ2S, g: usize) -> ([i8; 32], [u8; 2]) {
    (signed_eights(iq2s_entries(block, g), block.signs[g]), halves(block.scales[g]))
}

/// Entries of group `g` of an `IQ3XXS` block.
#[inline]
pub(crate) fn iq3xxs_entries(block: &blocks::IQ3XXS, g: usize) -> [i32; 8] {
    let entry = |i: usize| grids::IQ3_XXS[usize::from(block.qs[g][i])];
    [entry(0), entry(1), entry(2), entry(3), entry(4), entry(5), entry(6), entry(7)]
}

/// Values without scale, and the scale, of group `g` of an `IQ3XXS` block.
pub(crate) fn iq3xxs(block: &blocks::IQ3XXS, g: usize) -> ([i8; 32], u8) {
    let (signs, scale) = signs_and_scale(block.signs[g]);
    (signed_fours(iq3xxs_entries(block, g), signs), scale)
}

/// Entries of group `g` of an `IQ3S` block.
#[inline]
pub(crate) fn iq3s_entries(block: &blocks::IQ3S, g: usize) -> [i32; 8] {
    let (low, high) = (&block.qs[g], usize::from(block.qh[g]));
    let entry = |i: usize| grids::IQ3_S[usize::from(low[i]) | (high >> i & 1) << 8];
    [entry(0), entry(1), entry(2), entry(3), entry(4), entry(5), entry(6), entry(7)]
}

/// Values without scale, and the scale, of group `g` of an `IQ3S` block.
pub(crate) fn iq3s(block: &blocks::IQ3S, g: usize) -> ([i8; 32], u8) {
    let scale = halves(block.scales[g / 2])[g % 2];
    (signed_fours(iq3s_entries(block, g), block.signs[g]), scale)
}

/// Entries of group `g` of an `IQ1S` block.
#[inline]
pub(crate) fn iq1s_entries(block: &blocks::IQ1S, g: usize) -> [i64; 4] {
    let (low, high) = (&block.qs[g], usize::from(u16::from_le_bytes(block.qh[g])));
    let entry = |i: usize| grids::IQ1[usize::from(low[i]) | (high >> (3 * i) & 7) << 8];
    [entry(0), entry(1), entry(2), entry(3)]
}

/// Eight times the values without scale, and the scale, of group `g` of an `IQ1S` block.
pub(crate) fn iq1s(block: &blocks::IQ1S, g: usize) -> ([i8; 32], u8) {
    let word = u16::from_le_bytes(block.qh[g]);
    (shifted_eights(iq1s_entries(block, g), [word >> 15 == 1; 4]), (word >> 12) as u8 & 7)
}

/// Entries of group `g` of an `IQ1M` block, and whether the 1/8 is minus.
#[inline]
pub(crate) fn iq1m_entries(block: &blocks::IQ1M, g: usize) -> ([i64; 4], [bool; 4]) {
    let (low, high) = (&block.qs[g], u16::from_le_bytes(block.qh[g]));
    let bits = |i: usize| usize::from(high >> (4 * i));
    let entry = |i: usize| grids::IQ1[usize::from(low[i]) | (bits(i) & 7) << 8];
    let minus = |i: usize| bits(i) & 8 != 0;
    ([entry(0), entry(1), entry(2), entry(3)], [minus(0), minus(1), minus(2), minus(3)])
}

/// The scales of the halves of group `g` of an `IQ1M` block.
#[inline]
pub(crate) fn iq1m_scales(block: &blocks::IQ1M, g: usize) -> [u8; 2] {
    let scales = u16::from_le_bytes(block.scales[g / 2]) >> (g % 2 * 6);
    [scales as u8 & 7, (scales >> 3) as u8 & 7]
}

/// Eight times the values without scale, and the scales of their halves, of group `g` of an `IQ1M`
/// block.
pub(crate) fn iq1m(block: &blocks::IQ1M, g: usize) -> ([i8; 32], [u8; 2]) {
    let (entries, minus) = iq1m_entries(block, g);
    (shifted_eights(entries, minus), iq1m_scales(block, g))
}

/// The half-precision scale whose four parts are the tops of the four words of `IQ1M`'s scales.
pub(crate) fn iq1m_d(block: &blocks::IQ1M) -> [u8; 2] {
    let top = |i: usize| block.scales[i][1] >> 4;
    [top(0) | top(1) << 4, top(2) | top(3) << 4]
}

/// Four entries of 8, times eight, one added or (where it is minus) taken off.
fn shifted_eights(entries: [i64; 4], minus: [bool; 4]) -> [i8; 32] {
    std::array::from_fn(|i| 8 * byte8(entries[i / 8], i % 8) + if minus[i / 8] { -1 } else { 1 })
}

/// The low and the high half of a byte.
pub(crate) fn halves(byte: u8) -> [u8; 2] {
    [byte & 15, byte >> 4]
}
