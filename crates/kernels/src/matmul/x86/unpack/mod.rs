//! From 8 rows of blocks in the file's layout to [`Block16`].

use std::ops::Range;

use super::direct::without;
use super::tile::Block16;
use crate::format::canonical::Canonical;
pub(crate) use crate::format::canonical::Scales;
use crate::quantize::XBlock;

/// Implements [`Unpack`] for a block struct: its name, class, scales, offset, and how.
macro_rules! unpack {
    ($block:ident $class:ident$(($magnitude:literal))? $scales:ident $offset:tt
     |$rows:ident, $side:ident, $out:ident| $body:block) => {
        impl Unpack for blocks::$block {
            const CLASS: Class = Class::$class$(($magnitude))?;
            const SCALES: Scales = Scales::$scales;
            const OFFSET: i16 = $offset;

            #[inline]
            #[target_feature(enable = "avx2,fma,f16c")]
            unsafe fn unpack($rows: [&Self; 8], $side: usize, $out: &mut [Block16]) $body
        }
    };
}

mod codebooks;
mod k;
mod lanes;
mod plain;
mod tables;
mod ternary;

pub(super) use lanes::spread_mask;
pub(super) use tables::FP4_RAISED;

/// What the codes in a [`Block16`] are, and so how many products fit into 16 bits.
#[derive(Copy, Clone, PartialEq, Eq)]
pub(crate) enum Class {
    /// 0..16.
    Four,
    /// 0..32.
    Five,
    /// At most so far from [`START`](crate::quantize::START), which is the offset.
    Centred(u8),
    /// -128..128.
    Signed,
}

/// A block that can be unpacked 8 rows at a time.
pub(crate) trait Unpack: Canonical {
    /// What the codes are.
    const CLASS: Class;
    /// Which scales are set.
    const SCALES: Scales;
    /// What the codes in the tile are larger by than the canonical ones; 0 for signed codes. Codes that are made larger
    /// until none has a sign are multiplied faster, if they stay below 128.
    const OFFSET: i16;
    /// What codes are larger by where `vpdpbusd` takes them: it wants none with a sign.
    const RAISE: i32 = if matches!(Self::CLASS, Class::Signed) { 128 } else { Self::OFFSET as i32 };
    /// Unpacks the block that each of 8 rows has at the same place into [`Canonical::GROUPS`] blocks of
    /// the tile, on one of its two sides.
    ///
    /// # Safety
    /// The CPU has AVX2, FMA and F16C.
    unsafe fn unpack(rows: [&Self; 8], side: usize, out: &mut [Block16]);
}

/// What sums of [raised](Unpack::RAISE) codes over `quads` start with, so that the true sum comes out.
#[inline(always)]
pub(super) fn start<B: Unpack>(x: &XBlock, quads: &Range<usize>) -> i32 {
    let [low, high] = without(B::RAISE, x);
    let part = |used, sum| if used { sum } else { 0 };
    part(quads.start == 0, low) + part(quads.end == 8, high)
}
