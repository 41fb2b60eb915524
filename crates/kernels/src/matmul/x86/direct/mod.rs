//! One column (decoding) or two, one after the other: rows' bytes go from memory through registers into the sums, 8 rows to a
//! vector with AVX2 and AVX-VNNI, 16 with AVX-512.
//!
//! With one column a tile is used once, and writing and reading it costs more than the products: with it
//! a thread gets through 17 to 23 GB of weights a second, where memory delivers 30 (bench `products`,
//! column `ram`). Here the rows of a block change places with lanes in registers only. The
//! operations on floats are those of the tiled code in the same order, so the bits are the same.

use std::arch::x86_64::{__m128i, _mm_setr_epi16};

use super::tile::Next;
use crate::format::blocks::Block;
use crate::isa::{Avx2, Avx512, Avx512Vbmi, AvxVnni, Isa};
use crate::matmul::job::RowJob;
use crate::quantize::XBlock;
use wide::{Eight, Sixteen, Wide};

/// Implements [`Direct`] for a block struct: how many groups of 32 weights it holds, and how.
macro_rules! direct {
    ($block:ident $groups:literal
     |$w:ident, $rows:ident, $x:ident, $next:ident, $sum:ident| $body:block) => {
        impl Direct for blocks::$block {
            const GROUPS: usize = $groups;

            #[inline(always)]
            unsafe fn add<W: Wide>(
                $w: W,
                $rows: Rows,
                $x: &[XBlock],
                $next: &mut Next,
                $sum: Sum<W>,
            ) -> Sum<W> $body
        }
    };
}

mod by_row;
mod codebooks;
mod k;
mod plain;
mod planes;
mod ternary;
mod wide;

/// One block of each of some rows that lie at equal distances in memory.
#[derive(Copy, Clone)]
pub(super) struct Rows {
    /// Rows 0, 4, 8 and 12: the others are at small multiples of the distance, which instructions
    /// can add by themselves.
    fourth: [*const u8; 4],
    distance: usize,
}

/// A block whose products with one column need no tile.
pub(super) trait Direct: Block {
    /// How many groups of 32 weights the block holds.
    const GROUPS: usize;
    /// Adds the block's products with `x` (an [`XBlock`] a group) to the rows' sums, and asks for the
    /// next rows' bytes: as many as it takes, little by little. In bursts of a super-block of 16 rows (36 to 53 lines) a
    /// thread waits for the lines it has just asked for: `Q4_K`, `Q5_K` and `Q6_K` were then slower than
    /// with a tile (bench `products`, column `ram`).
    ///
    /// # Safety
    /// Each row has a whole block; `x` has `GROUPS` items.
    unsafe fn add<W: Wide>(w: W, rows: Rows, x: &[XBlock], next: &mut Next, sum: Sum<W>) -> Sum<W>;
}

/// The rows' sums, in which the last products may not be yet.
///
/// From the load of a group's weights to their sum is a chain of about 50 cycles, and a core looks ahead by little more
/// than one group. So the end of the chain is put behind the next group's loads: with one sum in 16 bits of all 32 codes
/// ([`Wide::dot_all`]) `Q4_0` gained 9 % on Zen 1. (Where a minimum comes after the products, the two registers that it needs
/// cost more than is gained: `Q5_K` lost 3 %.)
#[derive(Copy, Clone)]
pub(super) struct Sum<W: Wide> {
    sum: W::F,
    /// Exact products and their scale.
    products: (W::I, W::F),
}

impl<W: Wide> Sum<W> {
    #[inline(always)]
    fn new(w: W, sum: W::F) -> Self {
        // 0 times -0 is -0, which changes no number, not even a 0's sign.
        Sum { sum, products: (w.words(0), w.floats(-0.0)) }
    }

    /// Step 2 of the sum (see [`crate::format::canonical`]).
    #[inline(always)]
    fn step(self, w: W, isum: W::I, d: W::F, x: &XBlock) -> Self {
        Sum { sum: self.settled(w), products: (isum, w.product(d, w.floats(x.d))) }
    }

    /// Steps 2 and 3.
    #[inline(always)]
    fn step_with_minimum(self, w: W, isum: W::I, d: W::F, min: W::F, x: &XBlock) -> Self {
        let sum = self.step(w, isum, d, x).settled(w);
        Sum::new(w, w.fma(min, w.floats(x.s), sum))
    }

    /// The sums of all there is.
    #[inline(always)]
    fn settled(self, w: W) -> W::F {
        let (isum, d) = self.products;
        w.fma(w.to_floats(isum), d, self.sum)
    }
}

/// Computes as many rows as are whole vectors, and returns how many.
pub(super) fn rows<B: Direct>(isa: Isa, avx2: Avx2, job: &mut RowJob<'_>) -> usize {
    match isa {
        // SAFETY: the token proves that the CPU has the instructions.
        Isa::Avx512(token) => unsafe { rows_of_16::<B>(Sixteen::new(token, avx2), job) },
        // SAFETY: as above.
        Isa::Avx512Vbmi(token) => unsafe { rows_of_16_vbmi::<B>(Sixteen::new(token, avx2), job) },
        // SAFETY: as above.
        Isa::AvxVnni(token) => unsafe { rows_of_8_vnni::<B>(Eight(token), job) },
        // SAFETY: as above.
        _ => unsafe { rows_of_8::<B>(Eight(avx2), job) },
    }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn rows_of_16<B: Direct>(w: Sixteen<Avx512>, job: &mut RowJob<'_>) -> usize {
    rows_of::<Sixteen<Avx512>, B>(w, job)
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512vbmi")]
fn rows_of_16_vbmi<B: Direct>(w: Sixteen<Avx512Vbmi>, job: &mut RowJob<'_>) -> usize {
    rows_of::<Sixteen<Avx512Vbmi>, B>(w, job)
}

#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
fn rows_of_8_vnni<B: Direct>(w: Eight<AvxVnni>, job: &mut RowJob<'_>) -> usize {
    rows_of::<Eight<AvxVnni>, B>(w, job)
}

#[target_feature(enable = "avx2,fma,f16c")]
fn rows_of_8<B: Direct>(w: Eight<Avx2>, job: &mut RowJob<'_>) -> usize {
    rows_of::<Eight<Avx2>, B>(w, job)
}

#[inline(always)]
fn rows_of<W: Wide, B: Direct>(w: W, job: &mut RowJob<'_>) -> usize {
    let whole = job.rows.len() / W::ROWS * W::ROWS;
    let distance = job.row_bytes;
    let cols = job.x.cols();
    let blocks = distance / size_of::<B>();
    for first in (0..whole).step_by(W::ROWS) {
        let mut next = Next::near(job, first, W::ROWS);
        let group = &job.weights[first * distance..(first + W::ROWS) * distance];
        for col in 0..cols {
            let column = job.x.column(col);
            assert_eq!(column.len(), blocks * B::GROUPS, "rows are whole blocks");
            let mut sum = Sum::new(w, w.floats(0.0));
            for (block, x) in column.chunks_exact(B::GROUPS).enumerate() {
                let at = |row: usize| group.as_ptr().wrapping_add(row * distance);
                let start = block * size_of::<B>();
                let fourth = [at(0), at(4), at(8), at(12)].map(|row| row.wrapping_add(start));
                // SAFETY: `group` has `ROWS` rows of as many blocks as the column has chunks, asserted above.
                sum = unsafe { B::add(w, Rows { fourth, distance }, x, &mut next, sum) };
            }
            w.store(sum.settled(w), job.out(col, first..first + W::ROWS));
            // The other columns find these rows in the cache, and the next ones were asked for.
            next.stop();
        }
    }
    whole
}

impl Rows {
    /// The address `offset` bytes into the block of row `row`.
    #[inline(always)]
    fn at(self, row: usize, offset: usize) -> *const u8 {
        self.fourth[row / 4].wrapping_add(row % 4 * self.distance + offset)
    }

    /// The block of row `row`.
    ///
    /// # Safety
    /// The row has a whole block of that kind, and the bytes outlive `'a`.
    #[inline(always)]
    unsafe fn block<'a, B: Block>(self, row: usize) -> &'a B {
        // SAFETY: the caller's promise; `Block` promises alignment 1 and that all bytes are values.
        unsafe { &*self.at(row, 0).cast::<B>() }
    }

    /// Row 8 and those after it.
    #[inline(always)]
    fn upper_eight(self) -> Rows {
        let [_, _, a, b] = self.fourth;
        Rows { fourth: [a, b, a, b], distance: self.distance }
    }

    /// Four bytes of each of four rows.
    ///
    /// # Safety
    /// Each of the rows has four bytes from `offset` on.
    #[inline(always)]
    unsafe fn four_words(self, row: usize, offset: usize) -> [i32; 4] {
        // SAFETY: the caller's promise.
        four!(|I| unsafe { self.at(row + I, offset).cast::<i32>().read_unaligned() })
    }

    /// Two bytes of each of eight rows.
    ///
    /// # Safety
    /// Each of the rows has two bytes from `offset` on.
    #[inline(always)]
    unsafe fn eight_halves(self, offset: usize) -> __m128i {
        // SAFETY: the caller's promise.
        let half = |row| unsafe { self.at(row, offset).cast::<i16>().read_unaligned() };
        let [a, b, c, d, e, f, g, h] = eight!(|I| half(I));
        // SAFETY: every x86-64 CPU has SSE2.
        unsafe { _mm_setr_epi16(a, b, c, d, e, f, g, h) }
    }

    /// 16 bytes of each row, four bytes of each to a vector.
    ///
    /// # Safety
    /// Each of the rows has 16 bytes from `offset` on.
    #[inline(always)]
    unsafe fn quads<W: Wide>(self, w: W, offset: usize) -> [W::I; 4] {
        // SAFETY: the caller's promise.
        let [a, b, c, d] = four!(|I| unsafe { w.every_fourth(self, I, offset) });
        let (low01, high01) = (w.unpack_low32(a, b), w.unpack_high32(a, b));
        let (low23, high23) = (w.unpack_low32(c, d), w.unpack_high32(c, d));
        [
            w.unpack_low64(low01, low23),
            w.unpack_high64(low01, low23),
            w.unpack_low64(high01, high23),
            w.unpack_high64(high01, high23),
        ]
    }
}

#[inline(always)]
fn low<W: Wide>(w: W, bytes: W::I) -> W::I {
    w.and(bytes, w.bytes(15))
}

#[inline(always)]
fn high<W: Wide>(w: W, bytes: W::I) -> W::I {
    low(w, w.right16(bytes, 4))
}

/// `-offset` times the sums of the first and of the last half of `x`.
#[inline(always)]
pub(super) fn without(offset: i32, x: &XBlock) -> [i32; 2] {
    [-offset * i32::from(x.sums as i16), -offset * (x.sums >> 16)]
}
