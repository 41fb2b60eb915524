//! The inner loop: tiles of unpacked weights times columns of activations.
//!
//! `vpmaddubsw` multiplies unsigned codes of weights with signed codes of activations and adds
//! neighbours into 16 bits. How many of those sums fit into 16 bits before they must be widened
//! depends on the codes' width; `vpmaddwd` widens, and multiplies with the integer scale on the way.

use std::arch::x86_64::*;
use std::ops::Range;

use super::tile::Block16;
use super::unpack::{Class, Scales, Unpack};
use super::{COLUMNS, Part, each_at};
use crate::format::canonical::Min;
use crate::quantize::XBlock;

pub(super) type Sums<T, const SIDES: usize, const COLS: usize> = [[T; COLS]; SIDES];

/// The way of tiles through all columns, compiled with the features of the function `products` beside it.
macro_rules! passes {
    ($all_columns:ident, $features:literal) => {
        /// Adds the tile's blocks to the sums of all columns.
        #[target_feature(enable = $features)]
        pub(super) fn $all_columns<B: Unpack, const SIDES: usize>(part: &mut Part<'_, '_, '_>) {
            let cols = part.job.x.cols();
            for col in (0..cols).step_by(COLUMNS) {
                match cols - col {
                    1 => columns::<B, SIDES, 1>(part, col),
                    2 => columns::<B, SIDES, 2>(part, col),
                    3 => columns::<B, SIDES, 3>(part, col),
                    _ => columns::<B, SIDES, COLUMNS>(part, col),
                }
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn columns<B: Unpack, const SIDES: usize, const COLS: usize>(
            part: &mut Part<'_, '_, '_>,
            col: usize,
        ) {
            let mut x: [&[XBlock]; COLS] = [&[]; COLS];
            let mut sums = [[_mm256_setzero_ps(); COLS]; SIDES];
            for c in 0..COLS {
                x[c] = &part.job.x.column(col + c)[part.start..][..part.blocks.len()];
                let waiting = part.sums(col + c);
                for side in 0..SIDES {
                    sums[side][c] = waiting[side];
                }
            }
            multiply::<B, SIDES, COLS>(part.blocks, x, &mut sums);
            for c in 0..COLS {
                let mut done = [_mm256_setzero_ps(); 2];
                for side in 0..SIDES {
                    done[side] = sums[side][c];
                }
                part.set_sums(col + c, done);
            }
        }

        /// Adds the products of all blocks of the tile with the columns' blocks to `sums`.
        #[inline]
        #[target_feature(enable = $features)]
        fn multiply<B: Unpack, const SIDES: usize, const COLS: usize>(
            tile: &[Block16],
            x: [&[XBlock]; COLS],
            sums: &mut Sums<__m256, SIDES, COLS>,
        ) {
            let mut total = *sums;
            for (block, w) in tile.iter().enumerate() {
                let x = each_at(x, block);
                if B::SPLIT {
                    let low = products::<B, SIDES, COLS>(w, x, 0..4);
                    add::<SIDES, COLS>(low, w.d, x, &mut total);
                    // Split formats have no minimum: the field holds the second scale.
                    let high = products::<B, SIDES, COLS>(w, x, 4..8);
                    add::<SIDES, COLS>(high, w.min, x, &mut total);
                } else {
                    let products = products::<B, SIDES, COLS>(w, x, 0..8);
                    add::<SIDES, COLS>(products, w.d, x, &mut total);
                }
                add_minimum::<B, SIDES, COLS>(w, x, &mut total);
            }
            *sums = total;
        }
    };
}
pub(super) use passes;

passes! { all_columns, "avx2,fma,f16c" }

/// Step 2 of the sum (see [`crate::format::canonical`]).
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn add<const SIDES: usize, const COLS: usize>(
    products: Sums<__m256i, SIDES, COLS>,
    d: [__m256; 2],
    x: [&XBlock; COLS],
    total: &mut Sums<__m256, SIDES, COLS>,
) {
    for side in 0..SIDES {
        for col in 0..COLS {
            let d = _mm256_mul_ps(d[side], _mm256_set1_ps(x[col].d));
            let product = _mm256_cvtepi32_ps(products[side][col]);
            total[side][col] = _mm256_fmadd_ps(product, d, total[side][col]);
        }
    }
}

/// Step 3 of the sum.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn add_minimum<B: Unpack, const SIDES: usize, const COLS: usize>(
    w: &Block16,
    x: [&XBlock; COLS],
    total: &mut Sums<__m256, SIDES, COLS>,
) {
    for side in 0..SIDES {
        for col in 0..COLS {
            let (factor, min) = match B::MIN {
                Min::None => return,
                Min::Value => (w.min[side], _mm256_set1_ps(x[col].s)),
                Min::Scaled => {
                    let sums = _mm256_madd_epi16(w.offset[side], _mm256_set1_epi32(x[col].sums));
                    let d = _mm256_mul_ps(w.min[side], _mm256_set1_ps(x[col].d));
                    (_mm256_cvtepi32_ps(sums), d)
                }
            };
            total[side][col] = _mm256_fmadd_ps(factor, min, total[side][col]);
        }
    }
}

/// Step 1 of the sum, over some of the eight quads of codes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn products<B: Unpack, const SIDES: usize, const COLS: usize>(
    w: &Block16,
    x: [&XBlock; COLS],
    quads: Range<usize>,
) -> Sums<__m256i, SIDES, COLS> {
    match B::CLASS {
        Class::Signed => signed::<B, SIDES, COLS>(w, x, quads),
        _ => unsigned::<B, SIDES, COLS>(w, x, quads),
    }
}

/// The exact integer sums of a block, or of half of one, for codes of up to 7 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unsigned<B: Unpack, const SIDES: usize, const COLS: usize>(
    w: &Block16,
    x: [&XBlock; COLS],
    quads: Range<usize>,
) -> Sums<__m256i, SIDES, COLS> {
    let together = const { quads_in_16_bits::<B>() };
    let mut total = [[_mm256_setzero_si256(); COLS]; SIDES];
    for first in quads.clone().step_by(together) {
        let mut narrow = [[_mm256_setzero_si256(); COLS]; SIDES];
        for quad in first..first + together {
            for col in 0..COLS {
                let x = _mm256_set1_epi32(x[col].quads[quad]);
                for side in 0..SIDES {
                    let product = _mm256_maddubs_epi16(w.codes[quad][side], x);
                    narrow[side][col] = _mm256_add_epi16(narrow[side][col], product);
                }
            }
        }
        for side in 0..SIDES {
            let scale = scale::<B>(w, side, first);
            for col in 0..COLS {
                let wide = _mm256_madd_epi16(narrow[side][col], scale);
                total[side][col] = _mm256_add_epi32(total[side][col], wide);
            }
        }
    }
    if B::OFFSET != 0 {
        for side in 0..SIDES {
            let offset = match B::SCALES {
                Scales::None => {
                    let half = |used| if used { -B::OFFSET } else { 0 };
                    let (low, high) = (half(quads.start == 0), half(quads.end == 8));
                    _mm256_set1_epi32(i32::from(low as u16) | i32::from(high) << 16)
                }
                _ => w.offset[side],
            };
            for col in 0..COLS {
                let correction = _mm256_madd_epi16(offset, _mm256_set1_epi32(x[col].sums));
                total[side][col] = _mm256_add_epi32(total[side][col], correction);
            }
        }
    }
    total
}

/// How many products of `vpmaddubsw` can be added in 16 bits: with codes up to `2^b - 1` and
/// activations up to 127 each is at most `254 (2^b - 1)`, so 8 for 4 bits (30480), 4 for 5 bits
/// (31496), 2 for 6 bits (32004), 1 for 7 bits (32258). A scale per 16 codes allows 4 at most.
const fn quads_in_16_bits<B: Unpack>() -> usize {
    let quads = match B::CLASS {
        Class::Four => 8,
        Class::Five => 4,
        Class::Six => 2,
        Class::Seven | Class::Signed => 1,
    };
    if quads > 4 && (B::SPLIT || matches!(B::SCALES, Scales::Per16)) { 4 } else { quads }
}

/// What `vpmaddwd` multiplies sums of the codes from `4 * quad` on with.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scale<B: Unpack>(w: &Block16, side: usize, quad: usize) -> __m256i {
    match B::SCALES {
        Scales::None => _mm256_set1_epi16(1),
        Scales::Per32 => w.scale[0][side],
        Scales::Per16 => w.scale[quad / 4][side],
    }
}

/// The exact integer sums of a block, for signed bytes: the sign of each code moves to its
/// activation. Two products of 128 * 127 just fit into 16 bits, so each sum is widened at once.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn signed<B: Unpack, const SIDES: usize, const COLS: usize>(
    w: &Block16,
    x: [&XBlock; COLS],
    quads: Range<usize>,
) -> Sums<__m256i, SIDES, COLS> {
    let mut total = [[_mm256_setzero_si256(); COLS]; SIDES];
    for quad in quads {
        for side in 0..SIDES {
            let codes = w.codes[quad][side];
            let magnitudes = _mm256_abs_epi8(codes);
            let scale = scale::<B>(w, side, quad);
            for col in 0..COLS {
                let x = _mm256_set1_epi32(x[col].quads[quad]);
                let product = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(x, codes));
                let wide = _mm256_madd_epi16(product, scale);
                total[side][col] = _mm256_add_epi32(total[side][col], wide);
            }
        }
    }
    total
}
