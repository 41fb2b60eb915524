//! How codes are multiplied with each of the three instruction sets.
//!
//! | | multiplies | the tile's codes |
//! |---|---|---|
//! | NEON | `smull`, `smlal`: two products fit into 16 bits, then `sadalp` | as in the rows |
//! | dot product | `sdot` by element: four codes of each of four rows with four of a column | four rows side by side |
//! | i8mm | `smmla`: eight codes of two rows with eight of two columns | two rows side by side |
#![allow(unsafe_code, reason = "the step from token to target feature")]

use super::tile::Tile;
use super::unpack::Unpack;
use super::{block_rows, codes_of};
use crate::isa::{Neon, NeonDot, NeonI8mm};
use crate::matmul::job::RowJob;
use crate::neon::{self, I8, I32};
use crate::quantize::XBlock;

/// A token and the products its instruction set has.
pub(in crate::matmul) trait Dot: Copy {
    /// Computes the rows as a function of the instruction set.
    fn rows<B: Unpack>(self, job: RowJob<'_>, tile: &mut Tile);
    /// Adds the products of 16 codes to the lanes, which to which is left open.
    fn dot(self, sum: I32, a: I8, b: I8) -> I32;
    /// The 32 codes of each of four rows, as `products` takes them.
    fn pack(self, rows: [[I8; 2]; 4]) -> [I8; 8];
    /// The exact sums of four rows in `C` (1, 2 or 4) columns: of the first and the last 16 codes if
    /// `HALVES`, else of all in the first place.
    fn products<const C: usize, const HALVES: bool>(
        self,
        codes: &[I8; 8],
        x: [&XBlock; C],
    ) -> [[I32; 2]; C];
}

/// The sums of both halves as they are, or their sum.
#[inline(always)]
fn halves<const HALVES: bool>(low: I32, high: I32) -> [I32; 2] {
    if HALVES { [low, high] } else { [neon::add_words(low, high), neon::words(0)] }
}

impl Dot for Neon {
    #[inline(always)]
    fn rows<B: Unpack>(self, job: RowJob<'_>, tile: &mut Tile) {
        block_rows::<Neon, B>(self, job, tile);
    }

    #[inline(always)]
    fn dot(self, sum: I32, a: I8, b: I8) -> I32 {
        neon::dot_without_dot(sum, a, b)
    }

    #[inline(always)]
    fn pack(self, [a, b, c, d]: [[I8; 2]; 4]) -> [I8; 8] {
        [a[0], b[0], c[0], d[0], a[1], b[1], c[1], d[1]]
    }

    #[inline(always)]
    fn products<const C: usize, const HALVES: bool>(
        self,
        codes: &[I8; 8],
        x: [&XBlock; C],
    ) -> [[I32; 2]; C] {
        let zero = neon::words(0);
        let mut sums = [[zero; 2]; C];
        for col in 0..C {
            let x = codes_of(x[col]);
            let (mut low, mut high) = ([zero; 4], [zero; 4]);
            for row in 0..4 {
                low[row] = self.dot(zero, codes[row], x[0]);
                let start = if HALVES { zero } else { low[row] };
                high[row] = self.dot(start, codes[4 + row], x[1]);
            }
            sums[col] =
                if HALVES { [neon::sums(low), neon::sums(high)] } else { [neon::sums(high), zero] };
        }
        sums
    }
}

#[target_feature(enable = "neon,dotprod")]
fn rows_dot<B: Unpack>(token: NeonDot, job: RowJob<'_>, tile: &mut Tile) {
    block_rows::<NeonDot, B>(token, job, tile);
}

impl Dot for NeonDot {
    fn rows<B: Unpack>(self, job: RowJob<'_>, tile: &mut Tile) {
        // SAFETY: the token proves that the CPU has the instructions.
        unsafe { rows_dot::<B>(self, job, tile) }
    }

    #[inline(always)]
    fn dot(self, sum: I32, a: I8, b: I8) -> I32 {
        // SAFETY: as above.
        unsafe { neon::dot(sum, a, b) }
    }

    #[inline(always)]
    fn pack(self, [a, b, c, d]: [[I8; 2]; 4]) -> [I8; 8] {
        let [q0, q1, q2, q3] = neon::transpose([a[0], b[0], c[0], d[0]]);
        let [q4, q5, q6, q7] = neon::transpose([a[1], b[1], c[1], d[1]]);
        [q0, q1, q2, q3, q4, q5, q6, q7]
    }

    #[inline(always)]
    fn products<const C: usize, const HALVES: bool>(
        self,
        codes: &[I8; 8],
        x: [&XBlock; C],
    ) -> [[I32; 2]; C] {
        let mut sums = [[neon::words(0); 2]; C];
        for col in 0..C {
            let x = codes_of(x[col]);
            let mut parts = [neon::words(0); 2];
            for half in 0..2 {
                let codes = &codes[4 * half..4 * half + 4];
                // SAFETY: as above.
                let sum = unsafe { neon::dot_quad::<0>(neon::words(0), codes[0], x[half]) };
                // SAFETY: as above.
                let sum = unsafe { neon::dot_quad::<1>(sum, codes[1], x[half]) };
                // SAFETY: as above.
                let sum = unsafe { neon::dot_quad::<2>(sum, codes[2], x[half]) };
                // SAFETY: as above.
                parts[half] = unsafe { neon::dot_quad::<3>(sum, codes[3], x[half]) };
            }
            sums[col] = halves::<HALVES>(parts[0], parts[1]);
        }
        sums
    }
}

#[target_feature(enable = "neon,dotprod,i8mm")]
fn rows_i8mm<B: Unpack>(token: NeonI8mm, job: RowJob<'_>, tile: &mut Tile) {
    block_rows::<NeonI8mm, B>(token, job, tile);
}

/// Eights of codes of `a` and of `b` side by side.
#[inline(always)]
fn side_by_side(a: [I8; 2], b: [I8; 2]) -> [I8; 4] {
    [
        neon::first_eights(a[0], b[0]),
        neon::last_eights(a[0], b[0]),
        neon::first_eights(a[1], b[1]),
        neon::last_eights(a[1], b[1]),
    ]
}

impl NeonI8mm {
    /// The sums of one column.
    #[inline(always)]
    fn one<const HALVES: bool>(self, codes: &[I8; 8], x: &XBlock) -> [I32; 2] {
        let x = codes_of(x);
        let x = side_by_side(x, x);
        let mut parts = [neon::words(0); 2];
        for half in 0..2 {
            let mut pairs = [neon::words(0); 2];
            for pair in 0..2 {
                for eight in 2 * half..2 * half + 2 {
                    pairs[pair] = self.dot(pairs[pair], codes[4 * pair + eight], x[eight]);
                }
            }
            parts[half] = neon::add_pairs(pairs[0], pairs[1]);
        }
        halves::<HALVES>(parts[0], parts[1])
    }

    /// The sums of two columns.
    #[inline(always)]
    fn two<const HALVES: bool>(self, codes: &[I8; 8], x: [&XBlock; 2]) -> [[I32; 2]; 2] {
        let x = side_by_side(codes_of(x[0]), codes_of(x[1]));
        // By pair of rows and half of the codes.
        let mut squares = [[neon::words(0); 2]; 2];
        for pair in 0..2 {
            for eight in 0..4 {
                let half = if HALVES { eight / 2 } else { 0 };
                let (sum, w) = (squares[pair][half], codes[4 * pair + eight]);
                // SAFETY: the token proves that the CPU has the instruction.
                squares[pair][half] = unsafe { neon::matrix(sum, w, x[eight]) };
            }
        }
        let [[a0, a1], [b0, b1]] = squares;
        [
            [neon::even_words(a0, b0), neon::even_words(a1, b1)],
            [neon::odd_words(a0, b0), neon::odd_words(a1, b1)],
        ]
    }
}

impl Dot for NeonI8mm {
    fn rows<B: Unpack>(self, job: RowJob<'_>, tile: &mut Tile) {
        // SAFETY: the token proves that the CPU has the instructions.
        unsafe { rows_i8mm::<B>(self, job, tile) }
    }

    #[inline(always)]
    fn dot(self, sum: I32, a: I8, b: I8) -> I32 {
        self.neon_dot().dot(sum, a, b)
    }

    #[inline(always)]
    fn pack(self, [a, b, c, d]: [[I8; 2]; 4]) -> [I8; 8] {
        let [p0, p1, p2, p3] = side_by_side(a, b);
        let [p4, p5, p6, p7] = side_by_side(c, d);
        [p0, p1, p2, p3, p4, p5, p6, p7]
    }

    #[inline(always)]
    fn products<const C: usize, const HALVES: bool>(
        self,
        codes: &[I8; 8],
        x: [&XBlock; C],
    ) -> [[I32; 2]; C] {
        let mut sums = [[neon::words(0); 2]; C];
        if C == 1 {
            sums[0] = self.one::<HALVES>(codes, x[0]);
        } else {
            for (x, sums) in x.as_chunks::<2>().0.iter().zip(sums.as_chunks_mut().0) {
                *sums = self.two::<HALVES>(codes, *x);
            }
        }
        sums
    }
}
