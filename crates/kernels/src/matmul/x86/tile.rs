//! Unpacked weights of 16 rows, and asking for the next rows in time.
#![allow(unsafe_code, reason = "vectors of zeros, and prefetches")]

use std::arch::x86_64::*;
use std::sync::OnceLock;

use crate::matmul::job::RowJob;

/// 32 weights of each of 16 rows, ready to be multiplied: two vectors of 8 rows side by side, or one
/// of 16. Lane `r` of 32 bits belongs to row `r`.
#[derive(Copy, Clone)]
#[repr(C, align(64))]
pub(super) struct Block16 {
    /// Vectors `q`: codes `4q..4q + 4` of each row, a byte each.
    pub(super) codes: [[__m256i; 2]; 8],
    /// The float scale.
    pub(super) d: [__m256; 2],
    /// The minimum, for formats that have one; for split formats, which have none, the float scale of
    /// the last 16 codes.
    pub(super) min: [__m256; 2],
    /// The integer scale of the first and of the last 16 codes, twice, as 16-bit numbers; for formats
    /// that have some.
    pub(super) scale: [[__m256i; 2]; 2],
    /// What to multiply the sums of the first and of the last 16 activations with, two 16-bit numbers,
    /// to take account of the codes' offset, for formats with scales and an offset; or the integer
    /// scales of the minimum, for formats that have those.
    pub(super) offset: [__m256i; 2],
}

impl Block16 {
    fn zero() -> Block16 {
        // SAFETY: all fields are vectors of numbers, for which zero bytes are values.
        unsafe { std::mem::zeroed() }
    }
}

/// Blocks of 32 of each row that a tile holds where many columns pass over it: whole rows of up to 4096 weights, which
/// are then read from the second-level cache. With tiles of 512 weights, which the first level held, the rows' bytes
/// were read in pieces that no prefetcher follows (half of the time of unpacking was waiting for them), and the sums went
/// through memory between the pieces. On Zen 4 512 columns take 4 to 9 % less time so, 128 take 4 to 7 % less.
const ROW_BLOCKS: usize = 128;

/// The same for all rows of a tile together where the columns are not that many: 16 KiB of codes; with the scales and
/// four columns of activations it fills the first-level cache.
const NEAR_BLOCKS: usize = 32;

/// With few columns a tile is used up at once, and a smaller one mixes reading and computing better.
const DECODE_BLOCKS: usize = 16;

/// Up to so many columns use the small tile.
const DECODE_COLS: usize = 4;

/// Up to so many columns use the one that the first-level cache holds: with 8 columns the large one is a tenth to a fifth
/// slower, from 64 on it is faster.
const NEAR_COLS: usize = 48;

/// Blocks of 16 rows that a tile holds: those of 32 rows, which AVX-512 takes together.
const TILE_BLOCKS: usize = 2 * ROW_BLOCKS;

/// Memory for the blocks of 16 rows.
pub(in crate::matmul) struct Tile(pub(super) Vec<Block16>);

impl Tile {
    /// What it takes.
    pub(in crate::matmul) const BYTES: usize = TILE_BLOCKS * size_of::<Block16>();

    pub(in crate::matmul) fn new() -> Tile {
        Tile(vec![Block16::zero(); TILE_BLOCKS])
    }

    /// How many blocks of `groups` times 32 weights to take of each row at a time, where `rows` times 16 rows share the
    /// tile and `cols` columns pass over it: equal parts of a row, as large as pays.
    pub(super) fn step(blocks: usize, groups: usize, rows: usize, cols: usize) -> usize {
        let most = if cols <= DECODE_COLS {
            DECODE_BLOCKS / rows
        } else if cols <= NEAR_COLS {
            NEAR_BLOCKS / rows
        } else {
            ROW_BLOCKS
        };
        let most = most / groups;
        blocks.div_ceil(blocks.div_ceil(most).max(1)).max(1)
    }
}

/// Which of the next rows' bytes were not asked for yet.
///
/// The rows of a group are read side by side, a pattern that no hardware prefetcher recognises: it
/// gets a third of the memory's bandwidth (bench `products`, column `ram`). So while one group is
/// unpacked, the bytes of the next one are asked for in the order in which they lie in memory.
pub(super) struct Next {
    end: usize,
    /// The first line that was not asked for.
    line: usize,
    /// Whether a group of rows is small enough to wait in the first-level cache.
    near: bool,
}

impl Next {
    /// Behind the `rows` rows of `job` from `first` on.
    pub(super) fn new(job: &RowJob<'_>, first: usize, rows: usize) -> Next {
        let near = rows * job.row_bytes <= NEAR_BYTES;
        let (behind, then) = job.after(first, rows);
        // The line that the rows before end in was asked for with them.
        let line = if behind == then { then.next_multiple_of(64) } else { then / 64 * 64 };
        Next { end: then, line, near }
    }

    /// The same for rows that are read once, with nothing but a column beside them. Where the first-level cache holds
    /// 48 KiB (Zen 5) they are used from it, whatever their size: with two threads that brings 50 GB a second where
    /// prefetching to the second level brings 43. Where it holds 32 KiB, a line on its way to it occupies one of few
    /// places for as long as the memory takes, and on its way to the second level it does not: on Zen 4 that brings
    /// 25 to 31 GB a second instead of 16 to 21 (`Q8_0`; a plain read gets 33). Other processors with 32 KiB, and rows
    /// of floats, were not measured.
    pub(super) fn near(job: &RowJob<'_>, first: usize, rows: usize) -> Next {
        let next = Next::new(job, first, rows);
        Next { near: next.near || is_first_level_large(), ..next }
    }

    /// Asks for nothing any more.
    pub(super) fn stop(&mut self) {
        self.line = usize::MAX;
    }

    /// Asks for the next `bytes` bytes, for each line of them once: asked twice, the second counts
    /// among the few that a core can wait for. They may lie past the end of the weights: a prefetch of
    /// memory that is not there does nothing.
    #[inline(always)]
    pub(super) fn prefetch(&mut self, bytes: usize) {
        self.end = self.end.wrapping_add(bytes);
        while self.line < self.end {
            let address = std::ptr::without_provenance::<i8>(self.line);
            if self.near {
                // SAFETY: every x86-64 CPU has SSE, and a prefetch reads nothing.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(address) };
            } else {
                // SAFETY: as above.
                unsafe { _mm_prefetch::<_MM_HINT_T1>(address) };
            }
            self.line = self.line.wrapping_add(64);
        }
    }
}

/// Larger groups of rows are prefetched to the second-level cache: a quarter of the first level is
/// what the tile and the activations leave.
const NEAR_BYTES: usize = 8 << 10;

/// Whether the first-level data cache of a core holds 48 KiB or more, or the CPU does not say.
fn is_first_level_large() -> bool {
    static LARGE: OnceLock<bool> = OnceLock::new();
    *LARGE.get_or_init(|| {
        // Intel describes its caches in leaf 4, AMD in another one of the same form.
        let bytes = data_cache(0, 4).max(data_cache(0x8000_0000, 0x8000_001d));
        bytes == 0 || bytes >= 48 << 10
    })
}

/// Size of the data cache of level 1 by a leaf of `cpuid`, if the CPU has it among those from `base` on; 0 where it
/// does not say.
fn data_cache(base: u32, leaf: u32) -> usize {
    let known = cpuid(base, 0).eax >= leaf;
    let caches = (0..8).filter(|_| known).map(|index| cpuid(leaf, index));
    // Type 1 is a data cache; the level stands above it. The numbers are one less than what they count.
    let sizes = caches.filter(|cache| cache.eax & 0xff == 0x21).map(|cache| {
        let field = |from: u32, bits: u32| (cache.ebx >> from & ((1 << bits) - 1)) as usize + 1;
        field(0, 12) * field(12, 10) * field(22, 10) * (cache.ecx as usize + 1)
    });
    sizes.max().unwrap_or(0)
}

#[allow(unused_unsafe, reason = "safe from Rust 1.94 on")]
fn cpuid(leaf: u32, index: u32) -> CpuidResult {
    // SAFETY: every x86-64 CPU has the instruction.
    unsafe { __cpuid_count(leaf, index) }
}
