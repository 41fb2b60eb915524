//! The inner loop with AVX-512 VNNI: 16 rows to a vector, and `vpdpbusd`, which multiplies four
//! unsigned codes of a row with four signed codes of a column and adds all to 32 bits.

use std::arch::x86_64::*;

use super::each_at;
use super::tile::Block16;
use super::unpack::{Class, Scales, Unpack, start};
use crate::format::canonical::Min;
use crate::isa::Avx512;
use crate::matmul::job::RowJob;
use crate::quantize::XBlock;

/// Columns that pass over tiles together: each vector of weights is loaded once for so many. With two groups
/// of rows that are 12 integer and 12 float sums; each vector of activations then serves both groups.
const COLUMNS: usize = 6;

type Sums<T, const GROUPS: usize, const COLS: usize> = [[T; COLS]; GROUPS];

/// Unpacked blocks of `GROUPS` times 16 rows, and where their sums belong.
pub(super) struct Tiles<'j, 'a, 't, const GROUPS: usize> {
    pub(super) blocks: [&'t [Block16]; GROUPS],
    pub(super) job: &'j mut RowJob<'a>,
    pub(super) first: usize,
    /// First block of 32 of the tiles within the rows.
    pub(super) start: usize,
}

/// Adds the tiles' blocks to the sums of all columns.
pub(super) fn all_columns<B: Unpack, const GROUPS: usize>(
    _: Avx512,
    tiles: &mut Tiles<'_, '_, '_, GROUPS>,
) {
    // SAFETY: the token proves that the CPU has the instructions.
    unsafe { all_columns_here::<B, GROUPS>(tiles) }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn all_columns_here<B: Unpack, const GROUPS: usize>(tiles: &mut Tiles<'_, '_, '_, GROUPS>) {
    let cols = tiles.job.x.cols();
    let mut col = 0;
    while col < cols {
        col += match cols - col {
            1 => columns::<B, GROUPS, 1>(tiles, col),
            2 | 3 => columns::<B, GROUPS, 2>(tiles, col),
            4 | 5 => columns::<B, GROUPS, 4>(tiles, col),
            _ => columns::<B, GROUPS, COLUMNS>(tiles, col),
        };
    }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn columns<B: Unpack, const GROUPS: usize, const COLS: usize>(
    tiles: &mut Tiles<'_, '_, '_, GROUPS>,
    col: usize,
) -> usize {
    let len = tiles.blocks[0].len();
    let (first, start) = (tiles.first, tiles.start);
    let mut x: [&[XBlock]; COLS] = [&[]; COLS];
    let mut sums = [[_mm512_setzero_ps(); COLS]; GROUPS];
    for c in 0..COLS {
        x[c] = &tiles.job.x.column(col + c)[start..][..len];
        if start > 0 {
            let out = tiles.job.out(col + c, first..first + 16 * GROUPS);
            for (group, out) in out.as_chunks::<16>().0.iter().enumerate() {
                // SAFETY: the array is 64 readable bytes; the load needs no alignment.
                sums[group][c] = unsafe { _mm512_loadu_ps(out.as_ptr()) };
            }
        }
    }
    multiply::<B, GROUPS, COLS>(&tiles.blocks, x, &mut sums);
    for c in 0..COLS {
        let out = tiles.job.out(col + c, first..first + 16 * GROUPS);
        for (group, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            // SAFETY: the array is 64 writable bytes; the store needs no alignment.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sums[group][c]) };
        }
    }
    COLS
}

/// Adds the products of all blocks of the tiles with the columns' blocks to `sums`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn multiply<B: Unpack, const GROUPS: usize, const COLS: usize>(
    tiles: &[&[Block16]; GROUPS],
    x: [&[XBlock]; COLS],
    sums: &mut Sums<__m512, GROUPS, COLS>,
) {
    let mut total = *sums;
    for block in 0..tiles[0].len() {
        let (w, x) = (each_at(*tiles, block), each_at(x, block));
        let d: [__m512; GROUPS] = std::array::from_fn(|group| both(w[group].d));
        if B::SPLIT {
            add(dot::<B, GROUPS, COLS>(w, x, 0..4), d, x, &mut total);
            // Split formats have no minimum: the field holds the second scale.
            let d: [__m512; GROUPS] = std::array::from_fn(|group| both(w[group].min));
            add(dot::<B, GROUPS, COLS>(w, x, 4..8), d, x, &mut total);
        } else {
            add(products::<B, GROUPS, COLS>(w, x), d, x, &mut total);
        }
        add_minimum::<B, GROUPS, COLS>(w, x, &mut total);
    }
    *sums = total;
}

/// Step 2 of the sum (see [`crate::format::canonical`]).
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn add<const GROUPS: usize, const COLS: usize>(
    products: Sums<__m512i, GROUPS, COLS>,
    d: [__m512; GROUPS],
    x: [&XBlock; COLS],
    total: &mut Sums<__m512, GROUPS, COLS>,
) {
    for col in 0..COLS {
        let xd = _mm512_set1_ps(x[col].d);
        for group in 0..GROUPS {
            let product = _mm512_cvtepi32_ps(products[group][col]);
            let d = _mm512_mul_ps(d[group], xd);
            total[group][col] = _mm512_fmadd_ps(product, d, total[group][col]);
        }
    }
}

/// Step 3 of the sum.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn add_minimum<B: Unpack, const GROUPS: usize, const COLS: usize>(
    w: [&Block16; GROUPS],
    x: [&XBlock; COLS],
    total: &mut Sums<__m512, GROUPS, COLS>,
) {
    for col in 0..COLS {
        for group in 0..GROUPS {
            let min = both(w[group].min);
            let (factor, min) = match B::MIN {
                Min::None => return,
                Min::Value => (min, _mm512_set1_ps(x[col].s)),
                Min::Scaled => {
                    let scales = both_integers(w[group].offset);
                    let sums = _mm512_madd_epi16(scales, _mm512_set1_epi32(x[col].sums));
                    (_mm512_cvtepi32_ps(sums), _mm512_mul_ps(min, _mm512_set1_ps(x[col].d)))
                }
            };
            total[group][col] = _mm512_fmadd_ps(factor, min, total[group][col]);
        }
    }
}

/// The exact integer sums of a block.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn products<B: Unpack, const GROUPS: usize, const COLS: usize>(
    w: [&Block16; GROUPS],
    x: [&XBlock; COLS],
) -> Sums<__m512i, GROUPS, COLS> {
    match B::SCALES {
        Scales::None => dot::<B, GROUPS, COLS>(w, x, 0..8),
        Scales::Per16 => {
            let mut sums = scaled(dot::<B, GROUPS, COLS>(w, x, 0..4), w, 0);
            let high = scaled(dot::<B, GROUPS, COLS>(w, x, 4..8), w, 1);
            for group in 0..GROUPS {
                for col in 0..COLS {
                    sums[group][col] = _mm512_add_epi32(sums[group][col], high[group][col]);
                }
            }
            sums
        }
    }
}

/// The sums times the integer scale of the first or the last half.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn scaled<const GROUPS: usize, const COLS: usize>(
    mut sums: Sums<__m512i, GROUPS, COLS>,
    w: [&Block16; GROUPS],
    half: usize,
) -> Sums<__m512i, GROUPS, COLS> {
    for group in 0..GROUPS {
        // The same number twice in 16 bits: the upper one, with its sign.
        let scale = _mm512_srai_epi32::<16>(both_integers(w[group].scale[half]));
        for col in 0..COLS {
            sums[group][col] = _mm512_mullo_epi32(sums[group][col], scale);
        }
    }
    sums
}

/// Sums over some of the eight quads of codes, without scales.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn dot<B: Unpack, const GROUPS: usize, const COLS: usize>(
    w: [&Block16; GROUPS],
    x: [&XBlock; COLS],
    quads: std::ops::Range<usize>,
) -> Sums<__m512i, GROUPS, COLS> {
    let mut sums = [[_mm512_setzero_si512(); COLS]; GROUPS];
    if B::RAISE != 0 {
        for col in 0..COLS {
            let start = _mm512_set1_epi32(start::<B>(x[col], &quads));
            for group in 0..GROUPS {
                sums[group][col] = start;
            }
        }
    }
    for quad in quads {
        let mut codes = [_mm512_setzero_si512(); GROUPS];
        for group in 0..GROUPS {
            codes[group] = both_integers(w[group].codes[quad]);
            if matches!(B::CLASS, Class::Signed) {
                codes[group] = _mm512_xor_si512(codes[group], _mm512_set1_epi8(-128));
            }
        }
        for col in 0..COLS {
            let x = _mm512_set1_epi32(x[col].quads[quad]);
            for group in 0..GROUPS {
                sums[group][col] = _mm512_dpbusd_epi32(sums[group][col], codes[group], x);
            }
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
