//! The inner loop with AVX-VNNI: that of [`super::avx2`], with `vpdpbusd` for the products as in [`super::avx512`].

use std::arch::x86_64::*;
use std::ops::Range;

use super::avx2::{Sides, Sums, add, add_minimum, passes};
use super::tile::Block16;
use super::unpack::{Class, Scales, Unpack, start};
use super::{COLUMNS, Part, each_at};
use crate::isa::AvxVnni;
use crate::quantize::XBlock;

/// Adds the tile's blocks to the sums of all columns.
pub(super) fn all_columns<B: Unpack, const SIDES: usize>(_: AvxVnni, part: &mut Part<'_, '_, '_>) {
    // SAFETY: the token proves that the CPU has the instructions.
    unsafe { all_columns_here::<B, SIDES>(part) }
}

passes! { all_columns_here, "avx2,fma,f16c,avxvnni" }

/// Adds the products of all blocks of the tile with the columns' blocks to `sums`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn multiply<B: Unpack, const SIDES: usize, const COLS: usize>(
    tile: &[Block16],
    x: [&[XBlock]; COLS],
    sums: &mut Sums<__m256, SIDES, COLS>,
) {
    multiply_sides::<B, SIDES, COLS>(tile, 0, x, sums);
}

/// Step 1 of the sum, over some of the eight quads of codes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn products<B: Unpack, const SIDES: usize, const COLS: usize>(
    w: Sides<'_>,
    x: [&XBlock; COLS],
    quads: Range<usize>,
) -> Sums<__m256i, SIDES, COLS> {
    let mut total = [[_mm256_setzero_si256(); COLS]; SIDES];
    match B::SCALES {
        Scales::None => total = dot::<B, SIDES, COLS>(w, x, quads),
        Scales::Per16 => {
            add_scaled(&mut total, dot::<B, SIDES, COLS>(w, x, 0..4), w.of(&w.w.scale[0]));
            add_scaled(&mut total, dot::<B, SIDES, COLS>(w, x, 4..8), w.of(&w.w.scale[1]));
        }
    }
    total
}

/// Adds the sums times the integer scales.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn add_scaled<const SIDES: usize, const COLS: usize>(
    total: &mut Sums<__m256i, SIDES, COLS>,
    sums: Sums<__m256i, SIDES, COLS>,
    scales: [__m256i; SIDES],
) {
    for side in 0..SIDES {
        // The same number twice in 16 bits: the upper one, with its sign.
        let scale = _mm256_srai_epi32::<16>(scales[side]);
        for col in 0..COLS {
            let scaled = _mm256_mullo_epi32(sums[side][col], scale);
            total[side][col] = _mm256_add_epi32(total[side][col], scaled);
        }
    }
}

/// Sums over some of the eight quads of codes, without scales.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn dot<B: Unpack, const SIDES: usize, const COLS: usize>(
    w: Sides<'_>,
    x: [&XBlock; COLS],
    quads: Range<usize>,
) -> Sums<__m256i, SIDES, COLS> {
    let mut sums = [[_mm256_setzero_si256(); COLS]; SIDES];
    if B::RAISE != 0 {
        for col in 0..COLS {
            let start = _mm256_set1_epi32(start::<B>(x[col], &quads));
            for side in 0..SIDES {
                sums[side][col] = start;
            }
        }
    }
    for quad in quads {
        let mut codes = [_mm256_setzero_si256(); SIDES];
        for side in 0..SIDES {
            codes[side] = w.w.codes[quad][w.side + side];
            if matches!(B::CLASS, Class::Signed) {
                codes[side] = _mm256_xor_si256(codes[side], _mm256_set1_epi8(-128));
            }
        }
        for col in 0..COLS {
            let x = _mm256_set1_epi32(x[col].quads[quad]);
            for side in 0..SIDES {
                sums[side][col] = _mm256_dpbusd_avx_epi32(sums[side][col], codes[side], x);
            }
        }
    }
    sums
}
