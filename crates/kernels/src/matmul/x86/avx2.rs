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
use crate::quantize::{START, XBlock};

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

        /// Adds the products of the sides from `side` on to `sums`.
        #[inline(never)]
        #[target_feature(enable = $features)]
        fn multiply_sides<B: Unpack, const SIDES: usize, const COLS: usize>(
            tile: &[Block16],
            side: usize,
            x: [&[XBlock]; COLS],
            sums: &mut Sums<__m256, SIDES, COLS>,
        ) {
            assert!(side + SIDES <= 2, "a tile has two sides");
            let mut total = *sums;
            for (block, w) in tile.iter().enumerate() {
                let x = each_at(x, block);
                let sides = Sides { w, side };
                let (d, min) = (sides.of(&w.d), sides.of(&w.min));
                if B::SPLIT {
                    let low = products::<B, SIDES, COLS>(sides, x, 0..4);
                    add::<SIDES, COLS>(low, d, x, &mut total);
                    // Split formats have no minimum: the field holds the second scale.
                    let high = products::<B, SIDES, COLS>(sides, x, 4..8);
                    add::<SIDES, COLS>(high, min, x, &mut total);
                } else {
                    let products = products::<B, SIDES, COLS>(sides, x, 0..8);
                    add::<SIDES, COLS>(products, d, x, &mut total);
                }
                add_minimum::<B, SIDES, COLS>(min, sides.of(&w.offset), x, &mut total);
            }
            *sums = total;
        }
    };
}
pub(super) use passes;

passes! { all_columns, "avx2,fma,f16c" }

/// Adds the products of all blocks of the tile with the columns' blocks to `sums`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn multiply<B: Unpack, const SIDES: usize, const COLS: usize>(
    tile: &[Block16],
    x: [&[XBlock]; COLS],
    sums: &mut Sums<__m256, SIDES, COLS>,
) {
    if matches!(B::CLASS, Class::Signed) {
        return multiply_sides::<B, SIDES, COLS>(tile, 0, x, sums);
    }
    // Sums of four columns in 16 and in 32 bits leave half of the registers for codes; of both sides at once they do
    // not, nor where the compiler sees both and reads the activations once.
    for side in 0..SIDES {
        let mut one = [sums[side]];
        multiply_sides::<B, 1, COLS>(tile, side, x, &mut one);
        [sums[side]] = one;
    }
}

/// The sides of a block from one on.
#[derive(Copy, Clone)]
pub(super) struct Sides<'a> {
    pub(super) w: &'a Block16,
    pub(super) side: usize,
}

impl Sides<'_> {
    #[inline(always)]
    pub(super) fn of<T: Copy, const N: usize>(self, both: &[T; 2]) -> [T; N] {
        std::array::from_fn(|i| both[self.side + i])
    }
}

/// Step 2 of the sum (see [`crate::format::canonical`]).
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn add<const SIDES: usize, const COLS: usize>(
    products: Sums<__m256i, SIDES, COLS>,
    d: [__m256; SIDES],
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
    min: [__m256; SIDES],
    scales: [__m256i; SIDES],
    x: [&XBlock; COLS],
    total: &mut Sums<__m256, SIDES, COLS>,
) {
    for side in 0..SIDES {
        for col in 0..COLS {
            let (factor, min) = match B::MIN {
                Min::None => return,
                Min::Value => (min[side], _mm256_set1_ps(x[col].s)),
                Min::Scaled => {
                    let sums = _mm256_madd_epi16(scales[side], _mm256_set1_epi32(x[col].sums));
                    let d = _mm256_mul_ps(min[side], _mm256_set1_ps(x[col].d));
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
    w: Sides<'_>,
    x: [&XBlock; COLS],
    quads: Range<usize>,
) -> Sums<__m256i, SIDES, COLS> {
    let mut sums = [[_mm256_setzero_si256(); COLS]; SIDES];
    if matches!(B::CLASS, Class::Signed) {
        signed::<B, SIDES, COLS>(w, x, quads, &mut sums);
    } else {
        for side in 0..SIDES {
            let w = Sides { side: w.side + side, ..w };
            unsigned::<B, COLS>(w, x, quads.clone(), &mut sums[side]);
        }
    }
    sums
}

/// The exact integer sums of a block, or of half of one, for codes of up to 7 bits.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn unsigned<B: Unpack, const COLS: usize>(
    w: Sides<'_>,
    x: [&XBlock; COLS],
    quads: Range<usize>,
    total: &mut [__m256i; COLS],
) {
    let together = const { quads_in_16_bits::<B>() };
    for first in quads.clone().step_by(together) {
        let mut narrow = [_mm256_setzero_si256(); COLS];
        if matches!(B::CLASS, Class::Centred(_)) {
            for col in 0..COLS {
                for start in &x[col].starts[first / 2..][..together / 2] {
                    narrow[col] = _mm256_add_epi16(narrow[col], _mm256_set1_epi32(*start));
                }
            }
        }
        for quad in first..first + together {
            let codes = w.w.codes[quad][w.side];
            for col in 0..COLS {
                let x = _mm256_set1_epi32(x[col].quads[quad]);
                narrow[col] = _mm256_add_epi16(narrow[col], _mm256_maddubs_epi16(codes, x));
            }
        }
        let scale = scale::<B>(w.w, w.side, first);
        for col in 0..COLS {
            total[col] = _mm256_add_epi32(total[col], _mm256_madd_epi16(narrow[col], scale));
        }
    }
    if B::OFFSET == 0 || matches!(B::CLASS, Class::Centred(_)) {
        return;
    }
    let offset = match B::SCALES {
        Scales::None => {
            let half = |used| if used { -B::OFFSET } else { 0 };
            let (low, high) = (half(quads.start == 0), half(quads.end == 8));
            _mm256_set1_epi32(i32::from(low as u16) | i32::from(high) << 16)
        }
        _ => w.w.offset[w.side],
    };
    for col in 0..COLS {
        let correction = _mm256_madd_epi16(offset, _mm256_set1_epi32(x[col].sums));
        total[col] = _mm256_add_epi32(total[col], correction);
    }
}

/// How many products of `vpmaddubsw` can be added in 16 bits: with codes up to `m` and activations up to 127 each is at
/// most `254 m`, so 8 for 4 bits (30480) and 4 for 5 bits (31496). A scale per 16 codes allows 4 at most.
///
/// Of centred codes a single product fits as it stands (32766), and of a sum what counts is the part without the
/// offset, whose products it starts with: what overflows on the way comes back. So 4 for `Q6_K` (32512) and 2 for
/// `IQ3_XXS` (31496). Prefill with AVX2 gained 12 to 13 % with `IQ2_XXS` and `IQ3_XXS`.
const fn quads_in_16_bits<B: Unpack>() -> usize {
    let most = match B::CLASS {
        Class::Four => 15,
        Class::Five => 31,
        Class::Centred(magnitude) => {
            assert!(B::OFFSET == START && magnitude as i16 + START <= 129);
            magnitude as usize
        }
        // Not asked for.
        Class::Signed => 128,
    };
    let quads = match i16::MAX as usize / (254 * most) {
        0..2 => 1,
        2..4 => 2,
        4..8 => 4,
        _ => 8,
    };
    if quads > 4 && (B::SPLIT || matches!(B::SCALES, Scales::Per16)) { 4 } else { quads }
}

/// What `vpmaddwd` multiplies sums of the codes from `4 * quad` on with.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn scale<B: Unpack>(w: &Block16, side: usize, quad: usize) -> __m256i {
    match B::SCALES {
        Scales::None => _mm256_set1_epi16(1),
        Scales::Per16 => w.scale[quad / 4][side],
    }
}

/// The exact integer sums of a block, for signed bytes: the sign of each code moves to its
/// activation. Two products of 128 * 127 just fit into 16 bits, so each sum is widened at once.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn signed<B: Unpack, const SIDES: usize, const COLS: usize>(
    w: Sides<'_>,
    x: [&XBlock; COLS],
    quads: Range<usize>,
    total: &mut Sums<__m256i, SIDES, COLS>,
) {
    for quad in quads {
        for side in 0..SIDES {
            let codes = w.w.codes[quad][w.side + side];
            let magnitudes = _mm256_abs_epi8(codes);
            let scale = scale::<B>(w.w, w.side + side, quad);
            for col in 0..COLS {
                let x = _mm256_set1_epi32(x[col].quads[quad]);
                let product = _mm256_maddubs_epi16(magnitudes, _mm256_sign_epi8(x, codes));
                let wide = _mm256_madd_epi16(product, scale);
                total[side][col] = _mm256_add_epi32(total[side][col], wide);
            }
        }
    }
}
