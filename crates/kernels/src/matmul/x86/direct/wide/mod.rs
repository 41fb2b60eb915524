//! What the direct formats need of a register: its lanes of 32 bits are rows.
//!
//! A value of a [`Wide`] type is the proof that the CPU has its instructions, so the operations are safe; they
//! are inlined into the functions of [`super`] that name the features.

use std::arch::x86_64::*;

use super::Rows;
use super::by_row::Codebook;
use super::codebooks::Entries;
use crate::quantize::XBlock;
pub(super) use bytes::ByteProducts;
pub(super) use eight::Eight;
pub(super) use sixteen::Sixteen;

/// Registers of one width.
pub(in crate::matmul::x86) trait Wide: Copy {
    /// Rows in a register.
    const ROWS: usize;
    /// A register of integers.
    type I: Copy;
    /// A register of singles.
    type F: Copy;

    /// The same 32 bits in all lanes.
    fn words(self, word: i32) -> Self::I;
    /// The same 8 bits in all bytes.
    fn bytes(self, byte: i8) -> Self::I;
    /// The same single in all lanes.
    fn floats(self, value: f32) -> Self::F;
    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    fn xor(self, a: Self::I, b: Self::I) -> Self::I;
    /// Sums of 32 bits.
    fn add(self, a: Self::I, b: Self::I) -> Self::I;
    /// Differences of 32 bits.
    fn sub(self, a: Self::I, b: Self::I) -> Self::I;
    /// Products, the lower 32 bits.
    fn mul(self, a: Self::I, b: Self::I) -> Self::I;
    /// Products of signed 16-bit numbers, neighbours added.
    fn products16(self, a: Self::I, b: Self::I) -> Self::I;
    /// Shifts of 16 bits; the numbers of bits are constants after inlining.
    fn left16(self, a: Self::I, bits: usize) -> Self::I;
    fn right16(self, a: Self::I, bits: usize) -> Self::I;
    /// Shifts of 32 bits.
    fn left32(self, a: Self::I, bits: usize) -> Self::I;
    fn right32(self, a: Self::I, bits: usize) -> Self::I;
    /// A shift of 32 bits that repeats the sign.
    fn signed_right32(self, a: Self::I, bits: usize) -> Self::I;
    /// Bytes of a table of 16 (in each 128 bits) that bytes below 16 choose; 0 for negative bytes.
    fn look_up(self, table: Self::I, bytes: Self::I) -> Self::I;
    fn unpack_low32(self, a: Self::I, b: Self::I) -> Self::I;
    fn unpack_high32(self, a: Self::I, b: Self::I) -> Self::I;
    fn unpack_low64(self, a: Self::I, b: Self::I) -> Self::I;
    fn unpack_high64(self, a: Self::I, b: Self::I) -> Self::I;
    fn to_floats(self, a: Self::I) -> Self::F;
    fn product(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// The bits of integers as singles.
    fn as_floats(self, a: Self::I) -> Self::F;
    fn as_words(self, a: Self::F) -> Self::I;
    /// The lower 16 bits of each lane as a half-precision number.
    fn halves(self, words: Self::I) -> Self::F;
    /// `2^(e - 128)` for `e` from 0 to 255.
    fn power(self, e: Self::I) -> Self::F;
    /// The smaller ones of bytes without sign.
    fn min_bytes(self, a: Self::I, b: Self::I) -> Self::I;
    /// 16 bytes in each 128 bits.
    fn broadcast(self, table: &[i8; 16]) -> Self::I;
    /// A table of 16 signed values in each 128 bits, as [`Wide::raise`] makes them.
    #[inline(always)]
    fn table(self, table: &[i8; 16]) -> Self::I {
        self.raise(self.broadcast(table))
    }
    /// Signed codes as [`Wide::dot_signed`] takes them.
    fn raise(self, codes: Self::I) -> Self::I;
    /// What sums of [`Wide::dot_signed`] over all of `x` start with.
    fn signed_start(self, x: &XBlock) -> Self::I;
    /// Adds the products of four vectors of raised signed codes with activations from quad `first` on.
    fn dot_signed(self, sum: Self::I, codes: [Self::I; 4], x: &XBlock, first: usize) -> Self::I;
    /// The same for codes of up to `BITS` (4, 5 or 6) bits without sign.
    fn dot<const BITS: u32>(
        self,
        sum: Self::I,
        codes: [Self::I; 4],
        x: &XBlock,
        first: usize,
    ) -> Self::I;
    /// `start` and the products of 32 codes of four bits with all activations.
    #[inline(always)]
    fn dot_all(self, start: i32, codes: [[Self::I; 4]; 2], x: &XBlock) -> Self::I {
        self.dot::<4>(self.dot::<4>(self.words(start), codes[0], x, 0), codes[1], x, 4)
    }
    /// The signed byte `byte` of each word, shifted right by `shift`, as [`Wide::scaled`] takes it.
    #[inline(always)]
    fn factor(self, words: Self::I, byte: usize, shift: usize) -> Self::I {
        self.signed_right32(self.left32(words, 24 - 8 * byte), 24 + shift)
    }
    /// Adds the products of the first or last (`part`) 16 codes of up to `BITS` (4, 5 or 6) bits with their activations
    /// and a [`Wide::factor`].
    #[inline(always)]
    fn scaled<const BITS: u32>(
        self,
        sum: Self::I,
        codes: [Self::I; 4],
        x: &XBlock,
        part: usize,
        factor: Self::I,
    ) -> Self::I {
        let products = self.dot::<BITS>(self.words(0), codes, x, 4 * part);
        self.add(sum, self.mul(products, factor))
    }
    /// Products of 32 codes of one row, none of them above 127 or below 0, with the activations, those negated
    /// whose bit is set; sums of four in each lane.
    fn row_products(self, codes: __m256i, minus: u32, x: &XBlock) -> __m256i;
    /// Rows 0 to 8, and the further ones if there are any.
    fn join(self, first: __m256i, second: __m256i) -> Self::I;
    /// Writes one value a row.
    fn store(self, values: Self::F, out: &mut [f32]);
    /// Writes one word a row.
    fn store_words(self, values: Self::I, out: &mut [u32; 16]);

    /// Sums of the products of group `g`'s first and last 16 codes; or of all in the first, if the format has one scale
    /// for them. `entries` are those of the group.
    ///
    /// # Safety
    /// Each row has a whole block.
    unsafe fn codebook_sums<B: Codebook>(
        self,
        rows: Rows,
        g: usize,
        entries: &Entries<Self::I>,
        x: &XBlock,
    ) -> [Self::I; 2];

    /// 16 bytes of every fourth row from row `row` on.
    ///
    /// # Safety
    /// Each of the rows has 16 bytes from `offset` on.
    unsafe fn every_fourth(self, rows: Rows, row: usize, offset: usize) -> Self::I;
    /// Four bytes of each row.
    ///
    /// # Safety
    /// Each of the rows has four bytes from `offset` on.
    unsafe fn words_at(self, rows: Rows, offset: usize) -> Self::I;
    /// A half-precision number of each row.
    ///
    /// # Safety
    /// Each of the rows has two bytes from `offset` on.
    unsafe fn halves_at(self, rows: Rows, offset: usize) -> Self::F;

    /// Exact sums of the products of 32 signed bytes of each row with all activations.
    ///
    /// # Safety
    /// Each of the rows has 32 bytes from `offset` on.
    #[inline(always)]
    unsafe fn signed_sums(self, rows: Rows, offset: usize, x: &XBlock) -> Self::I {
        // SAFETY: the caller's promise.
        let first = unsafe { rows.quads(self, offset) };
        // SAFETY: as above.
        let last = unsafe { rows.quads(self, offset + 16) };
        let start = self.signed_start(x);
        let isum = self.dot_signed(start, four!(|Q| self.raise(first[Q])), x, 0);
        self.dot_signed(isum, four!(|Q| self.raise(last[Q])), x, 4)
    }
}

/// Methods that are one intrinsic each.
macro_rules! operations {
    ($($name:ident($($arg:ident: $type:ty),+) -> $result:ty = $intrinsic:ident;)+) => {
        $(
            #[inline(always)]
            fn $name(self, $($arg: $type),+) -> $result {
                // SAFETY: `self` proves that the CPU has the instruction.
                unsafe { $intrinsic($($arg),+) }
            }
        )+
    };
}

/// Methods that shift by a number of bits.
macro_rules! shifts {
    ($($name:ident = $intrinsic:ident;)+) => {
        $(
            #[inline(always)]
            fn $name(self, a: Self::I, bits: usize) -> Self::I {
                // SAFETY: `self` proves that the CPU has the instruction.
                let bits = unsafe { _mm_cvtsi32_si128(bits as i32) };
                // SAFETY: as above.
                unsafe { $intrinsic(a, bits) }
            }
        )+
    };
}

/// Methods whose body may use the intrinsics of the features.
macro_rules! with_features {
    ($features:literal; $(#[inline(always)] fn $name:ident $(<const $constant:ident: $number:ty>)? ($($arg:ident: $type:ty),+) -> $result:ty $body:block)+) => {
        $(
            #[inline(always)]
            fn $name $(<const $constant: $number>)? (self, $($arg: $type),+) -> $result {
                #[inline]
                #[target_feature(enable = $features)]
                fn body $(<const $constant: $number>)? ($($arg: $type),+) -> $result $body
                // SAFETY: `self` proves that the CPU has the features.
                unsafe { body $(::<$constant>)? ($($arg),+) }
            }
        )+
    };
}

mod bytes;
mod eight;
mod sixteen;

/// The 32 codes of activations side by side.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn activations(x: &XBlock) -> __m256i {
    // SAFETY: the array is 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(x.quads.as_ptr().cast()) }
}
