//! Tiles of unpacked rows times columns of activations.

use std::array::from_fn;

use super::dot::Dot;
use super::step;
use super::unpack::{Factors, Unpack};
use crate::format::blocks::as_blocks;
use crate::matmul::job::RowJob;
use crate::neon::{self, F32, I8};
use crate::quantize::XBlock;

/// Rows of a tile: two vectors of four.
const ROWS: usize = 8;

/// Blocks of 32 per row that a tile holds: 15 KiB, about half of the first-level cache of the Arm CPUs that have
/// the smallest (32 KiB). Not measured on any.
const BLOCKS: usize = 32;

/// 32 weights of each of eight rows.
#[derive(Copy, Clone)]
struct Packed {
    /// In the order that [`Dot::pack`] gave them.
    codes: [[I8; 8]; 2],
    factors: [Factors; 2],
}

/// Memory for the blocks of eight rows.
pub(in crate::matmul) struct Tile(Vec<Packed>);

impl Tile {
    /// What it takes.
    pub(in crate::matmul) const BYTES: usize = BLOCKS * size_of::<Packed>();

    pub(in crate::matmul) fn new() -> Tile {
        let (codes, factors) = ([[neon::signed_bytes(0); 8]; 2], [Factors::zero(); 2]);
        Tile(vec![Packed { codes, factors }; BLOCKS])
    }

    /// How many blocks of `groups` times 32 weights to take at a time: equal parts of a row, as large
    /// as the tile allows.
    fn step(blocks: usize, groups: usize) -> usize {
        blocks.div_ceil(blocks.div_ceil(BLOCKS / groups).max(1)).max(1)
    }
}

/// Eight rows at a time; a last group that is not full repeats the last row.
#[inline(always)]
pub(super) fn all_columns<D: Dot, B: Unpack>(dot: D, mut job: RowJob<'_>, tile: &mut Tile) {
    for first in (0..job.rows.len()).step_by(ROWS) {
        let len = ROWS.min(job.rows.len() - first);
        let weights: [[&[B]; 4]; 2] = from_fn(|side| {
            from_fn(|row| as_blocks(job.row(first + (4 * side + row).min(len - 1))))
        });
        let blocks = weights[0][0].len();
        let step = Tile::step(blocks, B::GROUPS);
        for start in (0..blocks).step_by(step) {
            let end = blocks.min(start + step);
            for (block, out) in (start..end).zip(tile.0.chunks_exact_mut(B::GROUPS)) {
                for (side, weights) in weights.iter().enumerate() {
                    unpack_block::<D, B>(dot, four!(|R| &weights[R][block]), side, out);
                }
            }
            let tile = &tile.0[..(end - start) * B::GROUPS];
            let mut part = Part { tile, job: &mut job, first, len, start: start * B::GROUPS };
            let cols = part.job.x.cols();
            let mut col = 0;
            while col < cols {
                col += match cols - col {
                    1 => columns::<D, B, 1>(dot, &mut part, col),
                    2 | 3 => columns::<D, B, 2>(dot, &mut part, col),
                    _ => columns::<D, B, 4>(dot, &mut part, col),
                };
            }
        }
    }
}

#[inline(always)]
fn unpack_block<D: Dot, B: Unpack>(dot: D, rows: [&B; 4], side: usize, out: &mut [Packed]) {
    let head = B::head(rows);
    for (g, out) in out.iter_mut().enumerate() {
        let group = B::unpack(rows, &head, g);
        out.codes[side] = dot.pack(group.codes);
        out.factors[side] = group.factors;
    }
}

/// A tile, and where its sums belong.
struct Part<'j, 'a, 't> {
    tile: &'t [Packed],
    job: &'j mut RowJob<'a>,
    first: usize,
    len: usize,
    /// First block of 32 of the tile within the rows.
    start: usize,
}

impl Part<'_, '_, '_> {
    fn out(&mut self, col: usize) -> &mut [f32] {
        self.job.out(col, self.first..self.first + self.len)
    }

    /// The sums of a column so far: they wait in the result.
    #[inline(always)]
    fn sums(&mut self, col: usize) -> [F32; 2] {
        let mut sums = [0.0; ROWS];
        if self.start > 0 {
            let out = self.out(col);
            sums[..out.len()].copy_from_slice(out);
        }
        let (parts, _) = sums.as_chunks();
        [neon::load(&parts[0]), neon::load(&parts[1])]
    }

    /// Puts the sums back.
    #[inline(always)]
    fn set_sums(&mut self, col: usize, sums: [F32; 2]) {
        let mut all = [0.0; ROWS];
        for (sums, all) in sums.into_iter().zip(all.as_chunks_mut().0) {
            neon::store(sums, all);
        }
        let out = self.out(col);
        out.copy_from_slice(&all[..out.len()]);
    }
}

/// Adds the tile's blocks to the sums of `C` columns; returns `C`.
#[inline(always)]
fn columns<D: Dot, B: Unpack, const C: usize>(
    dot: D,
    part: &mut Part<'_, '_, '_>,
    col: usize,
) -> usize {
    let tile = part.tile;
    let x: [&[XBlock]; C] = from_fn(|c| &part.job.x.column(col + c)[part.start..][..tile.len()]);
    let mut totals = [[neon::floats(0.0); 2]; C];
    for c in 0..C {
        totals[c] = part.sums(col + c);
    }
    for (block, w) in tile.iter().enumerate() {
        let mut here = [&x[0][block]; C];
        for c in 0..C {
            here[c] = &x[c][block];
        }
        for side in 0..2 {
            let sums = if B::HALVES {
                dot.products::<C, true>(&w.codes[side], here)
            } else {
                dot.products::<C, false>(&w.codes[side], here)
            };
            for c in 0..C {
                totals[c][side] = step::<B>(&w.factors[side], sums[c], here[c], totals[c][side]);
            }
        }
    }
    for (c, totals) in totals.into_iter().enumerate() {
        part.set_sums(col + c, totals);
    }
    C
}
