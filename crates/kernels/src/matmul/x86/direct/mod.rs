//! One column (decoding) with AVX-512: 16 rows' bytes go from memory through registers into the sums.
//!
//! With one column a tile is used once, and writing and reading it costs more than the products: with it
//! a thread gets through 15 to 28 GB of weights a second, here through 34 to 38, which is what memory
//! delivers (bench `products`, column `ram`; MXFP4: 9 and 14). Here the rows of a block change places with
//! lanes in registers only. The operations on floats are those of the tiled code in the same order, so
//! the bits are the same.

use std::arch::x86_64::*;

use super::tile::Next;
use crate::format::blocks::{self, Block};
use crate::isa::Avx512;
use crate::matmul::job::RowJob;
use crate::quantize::XBlock;

/// Implements [`Direct`] for a block struct.
macro_rules! direct {
    ($block:ident $groups:literal |$rows:ident, $x:ident, $next:ident, $sum:ident| $body:block) => {
        impl Direct for blocks::$block {
            const GROUPS: usize = $groups;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
            unsafe fn add(
                $rows: Rows,
                $x: &[XBlock],
                $next: &mut Next,
                $sum: __m512,
            ) -> __m512 $body
        }
    };
}

/// `[f(0), .. f(3)]`, written out for the reason that [`super::unpack`]'s `eight!` is.
macro_rules! four {
    (|$i:ident| $value:expr) => {
        four!(@ $i, $value, 0 1 2 3)
    };
    (@ $i:ident, $value:expr, $($n:literal)+) => {
        [$({
            const $i: usize = $n;
            $value
        }),+]
    };
}

mod k;

/// How many rows a vector holds.
pub(super) const ROWS: usize = 16;

/// One block of each of 16 rows that lie at equal distances in memory.
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
    /// The CPU has the instructions; each row has a whole block, and `x` has `GROUPS` items.
    unsafe fn add(rows: Rows, x: &[XBlock], next: &mut Next, sum: __m512) -> __m512;
}

/// Computes as many rows as are whole groups of 16, and returns how many.
pub(super) fn rows<B: Direct>(_: Avx512, job: &mut RowJob<'_>) -> usize {
    // SAFETY: the token proves that the CPU has the instructions.
    unsafe { rows_here::<B>(job) }
}

#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn rows_here<B: Direct>(job: &mut RowJob<'_>) -> usize {
    let whole = job.rows.len() / ROWS * ROWS;
    let distance = job.row_bytes;
    let column = job.x.column(0);
    assert_eq!(column.len() / B::GROUPS * size_of::<B>(), distance, "rows are whole blocks");
    for first in (0..whole).step_by(ROWS) {
        let mut next = Next::new(job.row(first), ROWS, distance);
        let group = &job.weights[first * distance..(first + ROWS) * distance];
        let mut sum = _mm512_setzero_ps();
        for (block, x) in column.chunks_exact(B::GROUPS).enumerate() {
            let at = |row: usize| group.as_ptr().wrapping_add(row * distance);
            let start = block * size_of::<B>();
            let fourth = [at(0), at(4), at(8), at(12)].map(|row| row.wrapping_add(start));
            // SAFETY: this function has the target features; `group` has 16 rows of as many blocks as
            // the column has chunks, asserted above.
            sum = unsafe { B::add(Rows { fourth, distance }, x, &mut next, sum) };
        }
        if let Some(out) = job.out(0, first..first + ROWS).first_chunk_mut::<ROWS>() {
            // SAFETY: the array is 64 writable bytes; the store needs no alignment.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sum) };
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

    /// 16 bytes of rows `row`, `row + 4`, `row + 8` and `row + 12`.
    ///
    /// # Safety
    /// The block has 16 bytes from `offset` on.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn every_fourth(self, row: usize, offset: usize) -> __m512i {
        // SAFETY: the caller's promise, and `Rows` has 16 rows; the loads need no alignment.
        let a = unsafe { _mm_loadu_si128(self.at(row, offset).cast()) };
        // SAFETY: as above.
        let b = unsafe { _mm_loadu_si128(self.at(row + 4, offset).cast()) };
        // SAFETY: as above.
        let c = unsafe { _mm_loadu_si128(self.at(row + 8, offset).cast()) };
        // SAFETY: as above.
        let d = unsafe { _mm_loadu_si128(self.at(row + 12, offset).cast()) };
        let all = _mm512_castsi128_si512(a);
        let all = _mm512_inserti32x4::<1>(all, b);
        let all = _mm512_inserti32x4::<2>(all, c);
        _mm512_inserti32x4::<3>(all, d)
    }

    /// 16 bytes of each row, four bytes of each to a vector.
    ///
    /// # Safety
    /// The block has 16 bytes from `offset` on.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn quads(self, offset: usize) -> [__m512i; 4] {
        // SAFETY: the caller's promise.
        let a = unsafe { self.every_fourth(0, offset) };
        // SAFETY: as above.
        let b = unsafe { self.every_fourth(1, offset) };
        // SAFETY: as above.
        let c = unsafe { self.every_fourth(2, offset) };
        // SAFETY: as above.
        let d = unsafe { self.every_fourth(3, offset) };
        let (low01, high01) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (low23, high23) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        [
            _mm512_unpacklo_epi64(low01, low23),
            _mm512_unpackhi_epi64(low01, low23),
            _mm512_unpacklo_epi64(high01, high23),
            _mm512_unpackhi_epi64(high01, high23),
        ]
    }

    /// Two bytes of each row as a 16-bit number in 32 bits; the upper half is anything.
    ///
    /// # Safety
    /// The block has `BYTES` (2 or 4) bytes from `offset` on.
    #[inline]
    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
    unsafe fn words<const BYTES: usize>(self, offset: usize) -> __m512i {
        let word = |row: usize| {
            let address = self.at(row, offset);
            if BYTES == 2 {
                // SAFETY: the caller's promise.
                i32::from(unsafe { address.cast::<i16>().read_unaligned() })
            } else {
                // SAFETY: the caller's promise.
                unsafe { address.cast::<i32>().read_unaligned() }
            }
        };
        let four = |row: usize| [word(row), word(row + 1), word(row + 2), word(row + 3)];
        let [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]] =
            [four(0), four(4), four(8), four(12)];
        let low = _mm512_castsi128_si512(_mm_setr_epi32(a, b, c, d));
        let all = _mm512_inserti32x4::<1>(low, _mm_setr_epi32(e, f, g, h));
        let all = _mm512_inserti32x4::<2>(all, _mm_setr_epi32(i, j, k, l));
        _mm512_inserti32x4::<3>(all, _mm_setr_epi32(m, n, o, p))
    }
}

/// The lower 16 bits of each lane as a half-precision number.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn halves(words: __m512i) -> __m512 {
    _mm512_cvtph_ps(_mm512_cvtepi32_epi16(words))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn low(bytes: __m512i) -> __m512i {
    _mm512_and_si512(bytes, _mm512_set1_epi8(15))
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn high(bytes: __m512i) -> __m512i {
    low(_mm512_srli_epi16::<4>(bytes))
}

/// `-offset` times the sums of the first and of the last half of `x`.
#[inline(always)]
fn without(offset: i32, x: &XBlock) -> [i32; 2] {
    [-offset * i32::from(x.sums as i16), -offset * (x.sums >> 16)]
}

/// Adds products of codes with four vectors' worth of activations from quad `first` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn dot(mut sum: __m512i, codes: [__m512i; 4], x: &XBlock, first: usize) -> __m512i {
    for (quad, codes) in codes.into_iter().enumerate() {
        sum = _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(x.quads[first + quad]));
    }
    sum
}

/// Step 2 of the sum (see [`crate::format::canonical`]).
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn step(isum: __m512i, d: __m512, x: &XBlock, sum: __m512) -> __m512 {
    _mm512_fmadd_ps(_mm512_cvtepi32_ps(isum), _mm512_mul_ps(d, _mm512_set1_ps(x.d)), sum)
}

direct! { Q4_0 1 |rows, x, next, sum| {
    next.prefetch(ROWS * size_of::<Self>());
    let x = &x[0];
    // SAFETY: the block has 18 bytes.
    let codes = unsafe { rows.quads(2) };
    // SAFETY: as above.
    let d = halves(unsafe { rows.words::<4>(0) });
    let [a, b] = without(8, x);
    let isum = dot(_mm512_set1_epi32(a + b), four!(|Q| low(codes[Q])), x, 0);
    step(dot(isum, four!(|Q| high(codes[Q])), x, 4), d, x, sum)
} }

direct! { Q4_1 1 |rows, x, next, sum| {
    next.prefetch(ROWS * size_of::<Self>());
    let x = &x[0];
    // SAFETY: the block has 20 bytes.
    let codes = unsafe { rows.quads(4) };
    // SAFETY: as above.
    let pairs = unsafe { rows.words::<4>(0) };
    let (d, min) = (halves(pairs), halves(_mm512_srli_epi32::<16>(pairs)));
    let isum = dot(_mm512_setzero_si512(), four!(|Q| low(codes[Q])), x, 0);
    let sum = step(dot(isum, four!(|Q| high(codes[Q])), x, 4), d, x, sum);
    _mm512_fmadd_ps(min, _mm512_set1_ps(x.s), sum)
} }

direct! { Q8_0 1 |rows, x, next, sum| {
    next.prefetch(ROWS * size_of::<Self>());
    let x = &x[0];
    // SAFETY: the block has 34 bytes.
    let first = unsafe { rows.quads(2) };
    // SAFETY: as above.
    let last = unsafe { rows.quads(18) };
    // SAFETY: as above.
    let d = halves(unsafe { rows.words::<4>(0) });
    let sign = _mm512_set1_epi8(-128);
    let [a, b] = without(128, x);
    let isum = _mm512_set1_epi32(a + b);
    let isum = dot(isum, four!(|Q| _mm512_xor_si512(first[Q], sign)), x, 0);
    step(dot(isum, four!(|Q| _mm512_xor_si512(last[Q], sign)), x, 4), d, x, sum)
} }

direct! { IQ4NL 1 |rows, x, next, sum| {
    next.prefetch(ROWS * size_of::<Self>());
    let x = &x[0];
    // SAFETY: the block has 18 bytes.
    let codes = unsafe { rows.quads(2) };
    // SAFETY: as above.
    let d = halves(unsafe { rows.words::<4>(0) });
    step(table_dot(codes, raised(&blocks::IQ4_VALUES), x), d, x, sum)
} }

direct! { MXFP4 1 |rows, x, next, sum| {
    next.prefetch(ROWS * size_of::<Self>());
    let x = &x[0];
    // SAFETY: the block has 17 bytes.
    let codes = unsafe { rows.quads(1) };
    // SAFETY: as above.
    let e = _mm512_and_si512(unsafe { rows.words::<2>(0) }, _mm512_set1_epi32(255));
    // 2^(e - 128): a normal number from e = 2 on.
    let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(e, _mm512_set1_epi32(1)));
    let subnormal = _mm512_sllv_epi32(_mm512_set1_epi32(0x0020_0000), e);
    let is_normal = _mm512_cmpgt_epi32_mask(e, _mm512_set1_epi32(1));
    let d = _mm512_castsi512_ps(_mm512_mask_blend_epi32(is_normal, subnormal, normal));
    step(table_dot(codes, raised(&blocks::FP4_VALUES), x), d, x, sum)
} }

direct! { IQ4XS 8 |rows, x, next, sum| {
    // SAFETY: the block has 136 bytes.
    let [pairs, scales_low, ..] = unsafe { rows.quads(0) };
    let d = halves(pairs);
    let scales_high = _mm512_srli_epi32::<16>(pairs);
    let table = raised(&blocks::IQ4_VALUES);
    let mut sum = sum;
    for (g, x) in x.iter().enumerate() {
        next.prefetch(ROWS * size_of::<Self>() / 8);
        // SAFETY: as above.
        let codes = unsafe { rows.quads(8 + 16 * g) };
        let shift = |bits: usize| _mm_cvtsi32_si128(bits as i32);
        let bottom = _mm512_and_si512(_mm512_srl_epi32(scales_low, shift(4 * g)), _mm512_set1_epi32(15));
        let top = _mm512_and_si512(_mm512_srl_epi32(scales_high, shift(2 * g)), _mm512_set1_epi32(3));
        let scale = _mm512_or_si512(bottom, _mm512_slli_epi32::<4>(top));
        let scale = _mm512_sub_epi32(scale, _mm512_set1_epi32(32));
        sum = step(_mm512_mullo_epi32(table_dot(codes, table, x), scale), d, x, sum);
    }
    sum
} }

/// A table of 16 values, each 128 larger, in all 128-bit lanes.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn raised(table: &[i8; 16]) -> __m512i {
    // SAFETY: the array is 16 readable bytes; the load needs no alignment.
    let table = unsafe { _mm_loadu_si128(table.as_ptr().cast()) };
    _mm512_xor_si512(_mm512_broadcast_i32x4(table), _mm512_set1_epi8(-128))
}

/// The exact sum for 4-bit codes of values in a [`raised`] table, first the low halves.
#[inline]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512vl,avx512dq,avx512vnni")]
fn table_dot(codes: [__m512i; 4], table: __m512i, x: &XBlock) -> __m512i {
    let [a, b] = without(128, x);
    let isum = _mm512_set1_epi32(a + b);
    let isum = dot(isum, four!(|Q| _mm512_shuffle_epi8(table, low(codes[Q]))), x, 0);
    dot(isum, four!(|Q| _mm512_shuffle_epi8(table, high(codes[Q]))), x, 4)
}
