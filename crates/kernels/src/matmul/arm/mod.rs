//! Products on 64-bit Arm: four rows to a vector.
//!
//! With one column, rows stay as they lie in memory: the 32 codes of a row are two registers, multiplied with
//! the column's two, and the sums of four rows' lanes are added pairwise into one register. With more
//! columns, blocks of eight rows are unpacked into a tile first, in the order that the CPU's multiplication wants
//! (see [`dot`]).

mod dot;
mod float;
mod tile;
mod unpack;

use std::array::from_fn;

use super::float::{Brain, Half, Single};
use super::job::RowJob;
use crate::format::blocks::as_blocks;
use crate::format::canonical::Min;
use crate::format::{Format, with_block};
use crate::neon::{self, F32, I8, I32};
use crate::quantize::XBlock;
use dot::Dot;
pub(in crate::matmul) use tile::Tile;
use unpack::{Factors, Scales, Unpack};

/// Computes the rows.
pub(super) fn rows<D: Dot>(dot: D, job: RowJob<'_>, tile: &mut Tile) {
    match job.format {
        Format::F32 => float::rows::<Single>(job),
        Format::F16 => float::rows::<Half>(job),
        Format::BF16 => float::rows::<Brain>(job),
        format => with_block!(format, B => dot.rows::<B>(job, tile), float => {}),
    }
}

/// The same for a format of blocks, inlined where the instruction set is known.
#[inline(always)]
fn block_rows<D: Dot, B: Unpack>(dot: D, job: RowJob<'_>, tile: &mut Tile) {
    if job.x.cols() == 1 {
        one_column::<D, B>(dot, job);
    } else {
        tile::all_columns::<D, B>(dot, job, tile);
    }
}

/// Four rows at a time; a last group that is not full repeats the last row.
#[inline(always)]
fn one_column<D: Dot, B: Unpack>(dot: D, mut job: RowJob<'_>) {
    let column = job.x.column(0);
    for first in (0..job.rows.len()).step_by(4) {
        let len = 4.min(job.rows.len() - first);
        let weights: [&[B]; 4] = from_fn(|row| as_blocks(job.row(first + row.min(len - 1))));
        let mut total = neon::floats(0.0);
        for (block, x) in column.chunks_exact(B::GROUPS).enumerate() {
            let rows = four!(|R| &weights[R][block]);
            let head = B::head(rows);
            for (g, x) in x.iter().enumerate() {
                let group = B::unpack(rows, &head, g);
                total = step::<B>(&group.factors, row_sums::<D, B>(dot, &group.codes, x), x, total);
            }
        }
        let mut sums = [0.0; 4];
        neon::store(total, &mut sums);
        job.out(0, first..first + len).copy_from_slice(&sums[..len]);
    }
}

/// The exact sums of four rows: of the first and the last 16 codes if the format treats them apart, else of
/// all 32 in the first place.
#[inline(always)]
fn row_sums<D: Dot, B: Unpack>(dot: D, codes: &[[I8; 2]; 4], x: &XBlock) -> [I32; 2] {
    let x = codes_of(x);
    let mut low = [neon::words(0); 4];
    let mut high = [neon::words(0); 4];
    for row in 0..4 {
        low[row] = dot.dot(low[row], codes[row][0], x[0]);
        if B::HALVES {
            high[row] = dot.dot(high[row], codes[row][1], x[1]);
        } else {
            low[row] = dot.dot(low[row], codes[row][1], x[1]);
        }
    }
    [neon::sums(low), if B::HALVES { neon::sums(high) } else { neon::words(0) }]
}

/// The 32 codes of a block of activations.
#[inline(always)]
fn codes_of(x: &XBlock) -> [I8; 2] {
    let (parts, _) = x.quads.as_chunks();
    [neon::of_words(neon::load_words(&parts[0])), neon::of_words(neon::load_words(&parts[1]))]
}

/// What a block does to the sums of four rows (see [`crate::format::canonical`]), given the sums of its codes'
/// products.
#[inline(always)]
fn step<B: Unpack>(w: &Factors, sums: [I32; 2], x: &XBlock, total: F32) -> F32 {
    let dx = neon::floats(x.d);
    let isum = match B::SCALES {
        Scales::None => sums[0],
        Scales::Per16 => {
            neon::mul_add_words(neon::mul_words(sums[0], w.scale[0]), sums[1], w.scale[1])
        }
    };
    let mut total = neon::fma(total, neon::to_floats(isum), neon::mul(w.d, dx));
    if B::SPLIT {
        total = neon::fma(total, neon::to_floats(sums[1]), neon::mul(w.second, dx));
    }
    match B::MIN {
        Min::None => total,
        Min::Value => neon::fma(total, w.second, neon::floats(x.s)),
        Min::Scaled => {
            let low = neon::mul_words(w.min_scale[0], neon::words(i32::from(x.sums as i16)));
            let msum = neon::mul_add_words(low, w.min_scale[1], neon::words(x.sums >> 16));
            neon::fma(total, neon::to_floats(msum), neon::mul(w.second, dx))
        }
    }
}
