//! The inner loop with AVX-512 VNNI: 16 rows to a vector, and `vpdpbusd`, which multiplies four
//! unsigned codes of a row with four signed codes of a column and adds all to 32 bits.

use std::arch::x86_64::*;

use super::tile::Block16;
use super::unpack::{Class, Scales, Unpack};
use super::{Part, each_at};
use crate::format::canonical::Min;
use crate::isa::Avx512;
use crate::quantize::XBlock;

/// Columns that pass over a tile together: each vector of weights is loaded once for so many.
const COLUMNS: usize = 8;

/// Adds the tile's blocks to the sums of all columns.
pub(super) fn all_columns<B: Unpack>(_: Avx512, part: &mut Part<'_, '_, '_>) {
    // SAFETY: the token proves that the CPU has the instructions.
    unsafe { all_columns_here::<B>(part) }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn all_columns_here<B: Unpack>(part: &mut Part<'_, '_, '_>) {
    let cols = part.job.x.cols();
    let mut col = 0;
    while col < cols {
        col += match cols - col {
            1 => columns::<B, 1>(part, col),
            2 | 3 => columns::<B, 2>(part, col),
            4..8 => columns::<B, 4>(part, col),
            _ => columns::<B, COLUMNS>(part, col),
        };
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn columns<B: Unpack, const COLS: usize>(part: &mut Part<'_, '_, '_>, col: usize) -> usize {
    let mut x: [&[XBlock]; COLS] = [&[]; COLS];
    let mut sums = [_mm512_setzero_ps(); COLS];
    for c in 0..COLS {
        x[c] = &part.job.x.column(col + c)[part.start..][..part.blocks.len()];
        sums[c] = both(part.sums(col + c));
    }
    multiply::<B, COLS>(part.blocks, x, &mut sums);
    for (c, sum) in sums.into_iter().enumerate() {
        let low = _mm512_castps512_ps256(sum);
        part.set_sums(col + c, [low, _mm512_extractf32x8_ps::<1>(sum)]);
    }
    COLS
}

/// Adds the products of all blocks of the tile with the columns' blocks to `sums`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn multiply<B: Unpack, const COLS: usize>(
    tile: &[Block16],
    x: [&[XBlock]; COLS],
    sums: &mut [__m512; COLS],
) {
    let mut total = *sums;
    for (block, w) in tile.iter().enumerate() {
        let x = each_at(x, block);
        if B::SPLIT {
            add(dot::<B, COLS>(w, x, 0..4), both(w.d), x, &mut total);
            // Split formats have no minimum: the field holds the second scale.
            add(dot::<B, COLS>(w, x, 4..8), both(w.min), x, &mut total);
        } else {
            add(products::<B, COLS>(w, x), both(w.d), x, &mut total);
        }
        add_minimum::<B, COLS>(w, x, &mut total);
    }
    *sums = total;
}

/// Step 2 of the sum (see [`crate::format::canonical`]).
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn add<const COLS: usize>(
    products: [__m512i; COLS],
    d: __m512,
    x: [&XBlock; COLS],
    total: &mut [__m512; COLS],
) {
    for col in 0..COLS {
        let d = _mm512_mul_ps(d, _mm512_set1_ps(x[col].d));
        total[col] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(products[col]), d, total[col]);
    }
}

/// Step 3 of the sum.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn add_minimum<B: Unpack, const COLS: usize>(
    w: &Block16,
    x: [&XBlock; COLS],
    total: &mut [__m512; COLS],
) {
    for col in 0..COLS {
        let (factor, min) = match B::MIN {
            Min::None => return,
            Min::Value => (both(w.min), _mm512_set1_ps(x[col].s)),
            Min::Scaled => {
                let scales = both_integers(w.offset);
                let sums = _mm512_madd_epi16(scales, _mm512_set1_epi32(x[col].sums));
                let d = _mm512_mul_ps(both(w.min), _mm512_set1_ps(x[col].d));
                (_mm512_cvtepi32_ps(sums), d)
            }
        };
        total[col] = _mm512_fmadd_ps(factor, min, total[col]);
    }
}

/// The exact integer sums of a block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn products<B: Unpack, const COLS: usize>(w: &Block16, x: [&XBlock; COLS]) -> [__m512i; COLS] {
    let scale = |half: usize| {
        // The same number twice in 16 bits: the upper one, with its sign.
        _mm512_srai_epi32::<16>(both_integers(w.scale[half]))
    };
    match B::SCALES {
        Scales::None => dot::<B, COLS>(w, x, 0..8),
        Scales::Per32 => {
            let scale = scale(0);
            let mut sums = dot::<B, COLS>(w, x, 0..8);
            for sum in &mut sums {
                *sum = _mm512_mullo_epi32(*sum, scale);
            }
            sums
        }
        Scales::Per16 => {
            let (low_scale, high_scale) = (scale(0), scale(1));
            let mut sums = dot::<B, COLS>(w, x, 0..4);
            let high = dot::<B, COLS>(w, x, 4..8);
            for (sum, high) in sums.iter_mut().zip(high) {
                let low = _mm512_mullo_epi32(*sum, low_scale);
                *sum = _mm512_add_epi32(low, _mm512_mullo_epi32(high, high_scale));
            }
            sums
        }
    }
}

/// Sums over some of the eight quads of codes, without scales.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn dot<B: Unpack, const COLS: usize>(
    w: &Block16,
    x: [&XBlock; COLS],
    quads: std::ops::Range<usize>,
) -> [__m512i; COLS] {
    // Signed codes become unsigned ones, 128 larger; what an offset adds is taken off first.
    let offset = if matches!(B::CLASS, Class::Signed) { 128 } else { B::OFFSET };
    let mut sums = [_mm512_setzero_si512(); COLS];
    if offset != 0 {
        let low = if quads.start == 0 { i32::from(-offset) & 0xffff } else { 0 };
        let high = if quads.end == 8 { i32::from(-offset) << 16 } else { 0 };
        let factors = _mm512_set1_epi32(low | high);
        for col in 0..COLS {
            sums[col] = _mm512_dpwssd_epi32(sums[col], factors, _mm512_set1_epi32(x[col].sums));
        }
    }
    for quad in quads {
        let mut codes = both_integers(w.codes[quad]);
        if matches!(B::CLASS, Class::Signed) {
            codes = _mm512_xor_si512(codes, _mm512_set1_epi8(-128));
        }
        for col in 0..COLS {
            let x = _mm512_set1_epi32(x[col].quads[quad]);
            sums[col] = _mm512_dpbusd_epi32(sums[col], codes, x);
        }
    }
    sums
}

/// 8 rows and 8 rows, which lie side by side in memory.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn both(sides: [__m256; 2]) -> __m512 {
    _mm512_insertf32x8::<1>(_mm512_castps256_ps512(sides[0]), sides[1])
}

/// [`both`] for integers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn both_integers(sides: [__m256i; 2]) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(sides[0]), sides[1])
}
