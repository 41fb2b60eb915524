//! The one matrix product of attention: `c[row][column] = sum over k of a[row][k] * b[k][column]`,
//! where b lies in panels of 16 columns. Scores are queries times keys, outputs are weights times
//! values.
//!
//! Each element is one chain of fused multiply-adds in the order of k, so how rows and panels are
//! grouped into blocks cannot change a bit; blocks only decide what stays in registers.

#![allow(unsafe_code, reason = "unchecked indices in the innermost loop")]

use std::ops::Range;

use crate::simd::{Array, Kernel, LANES, Simd};

/// Sixteen numbers of a right-hand side.
pub(super) trait Element: Sync {
    /// Whether it is read once from far memory.
    const STREAMED: bool;
    fn load<S: Simd>(&self, s: S) -> S::F;
}

impl Element for Array {
    const STREAMED: bool = false;

    #[inline(always)]
    fn load<S: Simd>(&self, s: S) -> S::F {
        s.load(self)
    }
}

/// Sixteen f16.
impl Element for [u8; 2 * LANES] {
    const STREAMED: bool = true;

    #[inline(always)]
    fn load<S: Simd>(&self, s: S) -> S::F {
        s.load_f16(self)
    }
}

/// What is in c before the sum.
#[derive(Copy, Clone)]
pub(super) enum Start<'a> {
    /// Nothing: the sums start at 0.
    Zero,
    /// What was accumulated before.
    Keep,
    /// What was accumulated before, times one factor for each row (indexed as rows of c).
    Scale(&'a [f32]),
}

/// Operands of a product.
pub(super) struct Product<'a, B> {
    /// `[row][k]`, rows `a_stride` apart.
    pub a: &'a [f32],
    pub a_stride: usize,
    /// `[panel][k]`, panels `b_stride` apart.
    pub b: &'a [B],
    pub b_stride: usize,
    /// How many bytes after an element of b to ask for, if b is streamed.
    pub ahead: usize,
    /// Which k are summed.
    pub k: Range<usize>,
    /// `[row][panel]`, rows `c_stride` apart.
    pub c: &'a mut [Array],
    pub c_stride: usize,
    pub start: Start<'a>,
    /// Which rows and panels of c are computed.
    pub rows: Range<usize>,
    pub panels: Range<usize>,
}

impl<B: Element> Kernel for Product<'_, B> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(mut self, s: S) {
        let (rows, panels) = (self.rows.clone(), self.panels.clone());
        let mut row = rows.start;
        // Rows of a block times panels of a block is the number of accumulators: 24 of 32
        // registers, or 6 pairs of 16. Fewer rows take more panels, so that enough chains run at
        // once to hide the latency of a multiply-add.
        if S::BLOCK_ROWS == 12 {
            while rows.end - row >= 12 {
                row = self.rows::<S, 12, 2>(s, row, &panels);
            }
            if rows.end - row >= 8 {
                row = self.rows::<S, 8, 2>(s, row, &panels);
            }
        }
        while rows.end - row >= 6 {
            row = if S::BLOCK_ROWS == 12 {
                self.rows::<S, 6, 4>(s, row, &panels)
            } else {
                self.rows::<S, 6, 1>(s, row, &panels)
            };
        }
        let wide = S::BLOCK_ROWS == 12;
        match rows.end - row {
            5 if wide => self.rows::<S, 5, 4>(s, row, &panels),
            5 => self.rows::<S, 5, 1>(s, row, &panels),
            4 if wide => self.rows::<S, 4, 4>(s, row, &panels),
            4 => self.rows::<S, 4, 1>(s, row, &panels),
            3 if wide => self.rows::<S, 3, 4>(s, row, &panels),
            3 => self.rows::<S, 3, 2>(s, row, &panels),
            2 if wide => self.rows::<S, 2, 4>(s, row, &panels),
            2 => self.rows::<S, 2, 2>(s, row, &panels),
            1 => self.rows::<S, 1, 4>(s, row, &panels),
            _ => row,
        };
    }
}

impl<B: Element> Product<'_, B> {
    /// A block of rows over all panels; returns the row after it.
    #[inline(always)]
    fn rows<S: Simd, const M: usize, const N: usize>(
        &mut self,
        s: S,
        row: usize,
        panels: &Range<usize>,
    ) -> usize {
        let mut panel = panels.start;
        while panel + N <= panels.end {
            self.block::<S, M, N>(s, row, panel);
            panel += N;
        }
        if N > 2 && panel + 2 <= panels.end {
            self.block::<S, M, 2>(s, row, panel);
            panel += 2;
        }
        while panel < panels.end {
            self.block::<S, M, 1>(s, row, panel);
            panel += 1;
        }
        row + M
    }

    #[inline(always)]
    fn block<S: Simd, const M: usize, const N: usize>(&mut self, s: S, row: usize, panel: usize) {
        match M {
            1 => block_1::<S, B, N>(s, self, row, panel),
            2 => block_2::<S, B, N>(s, self, row, panel),
            3 => block_3::<S, B, N>(s, self, row, panel),
            4 => block_4::<S, B, N>(s, self, row, panel),
            5 => block_5::<S, B, N>(s, self, row, panel),
            6 => block_6::<S, B, N>(s, self, row, panel),
            8 => block_8::<S, B, N>(s, self, row, panel),
            12 => block_12::<S, B, N>(s, self, row, panel),
            _ => unreachable!("no block of {M} rows"),
        }
    }

    /// The sums of a row of a block before the first k.
    #[inline(always)]
    fn start_of<S: Simd, const N: usize>(&self, s: S, row: usize, panel: usize) -> [S::F; N] {
        let c = &self.c[row * self.c_stride + panel..][..N];
        let mut sums = [s.zero(); N];
        match self.start {
            Start::Zero => {}
            Start::Keep => {
                for n in 0..N {
                    sums[n] = s.load(&c[n]);
                }
            }
            Start::Scale(factors) => {
                let factor = s.splat(factors[row]);
                for n in 0..N {
                    sums[n] = s.mul(s.load(&c[n]), factor);
                }
            }
        }
        sums
    }
}

/// A function that computes a block of so many rows and N panels of c.
///
/// Every row's sums are variables of their own: as an array of arrays the compiler keeps them in
/// registers, but stores them to memory as well on each turn of the loop (measured: two thirds of
/// the speed).
macro_rules! block {
    ($name:ident, $($row:literal $sums:ident $a:ident),+) => {
        #[inline(always)]
        fn $name<S: Simd, B: Element, const N: usize>(
            s: S,
            product: &mut Product<'_, B>,
            row: usize,
            panel: usize,
        ) {
            let k = product.k.clone();
            $(let $a = &product.a[(row + $row) * product.a_stride..][k.clone()];)+
            let mut b: [&[B]; N] = [&[]; N];
            for (n, b) in b.iter_mut().enumerate() {
                *b = &product.b[(panel + n) * product.b_stride..][k.clone()];
            }
            $(let mut $sums = product.start_of::<S, N>(s, row + $row, panel);)+
            for k in 0..k.len() {
                let mut right = [s.zero(); N];
                for (right, b) in right.iter_mut().zip(b) {
                    // SAFETY: each slice of b was cut to the length of the range of k above.
                    let element = unsafe { b.get_unchecked(k) };
                    if B::STREAMED {
                        let address = std::ptr::from_ref(element).cast::<u8>();
                        s.prefetch(address.wrapping_add(product.ahead));
                    }
                    *right = element.load(s);
                }
                $(
                    // SAFETY: each slice of a was cut to the length of the range of k above.
                    let left = s.splat(*unsafe { $a.get_unchecked(k) });
                    for n in 0..N {
                        $sums[n] = s.fma(left, right[n], $sums[n]);
                    }
                )+
            }
            $(
                let c = &mut product.c[(row + $row) * product.c_stride + panel..][..N];
                for (c, sum) in c.iter_mut().zip($sums) {
                    s.store(sum, c);
                }
            )+
        }
    };
}

block!(block_1, 0 s0 a0);
block!(block_2, 0 s0 a0, 1 s1 a1);
block!(block_3, 0 s0 a0, 1 s1 a1, 2 s2 a2);
block!(block_4, 0 s0 a0, 1 s1 a1, 2 s2 a2, 3 s3 a3);
block!(block_5, 0 s0 a0, 1 s1 a1, 2 s2 a2, 3 s3 a3, 4 s4 a4);
block!(block_6, 0 s0 a0, 1 s1 a1, 2 s2 a2, 3 s3 a3, 4 s4 a4, 5 s5 a5);
block!(block_8, 0 s0 a0, 1 s1 a1, 2 s2 a2, 3 s3 a3, 4 s4 a4, 5 s5 a5, 6 s6 a6, 7 s7 a7);
block!(
    block_12, 0 s0 a0, 1 s1 a1, 2 s2 a2, 3 s3 a3, 4 s4 a4, 5 s5 a5, 6 s6 a6, 7 s7 a7, 8 s8 a8,
    9 s9 a9, 10 s10 a10, 11 s11 a11
);
