//! Memory that attention works in: claimed once, used by every call.

use std::sync::atomic::AtomicUsize;

use crate::shape::ShapeError;
use crate::simd::{Array, LANES};

use super::layout::{HEAD_DIM_MAX, TILE_PANELS, TILE_POSITIONS};
use super::state::HEADER;

/// Query rows that share a widened tile, about: enough to make widening cheap (64 positions of keys
/// and values are widened once per 96 rows), few enough for their state to stay in the second-level
/// cache.
const GROUP_ROWS: usize = 96;
/// Dimensions above which half as many rows are taken.
const GROUP_DIM: usize = 160;

/// The largest attention a scratch serves.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct AttentionSizes {
    /// Query heads of a layer.
    pub heads: usize,
    /// Key/value heads of a layer.
    pub kv_heads: usize,
    /// Numbers of a key of one head.
    pub key_dim: usize,
    /// Numbers of a value of one head.
    pub value_dim: usize,
    /// Positions that a query may see.
    pub context: usize,
}

impl AttentionSizes {
    fn check(&self) -> Result<(), ShapeError> {
        let AttentionSizes { heads, kv_heads, key_dim, value_dim, context } = *self;
        ShapeError::range("query heads", heads, 1..=65_536)?;
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(ShapeError::Heads { heads, kv_heads });
        }
        ShapeError::range("key dimension", key_dim, 1..=HEAD_DIM_MAX)?;
        ShapeError::range("value dimension", value_dim, 1..=HEAD_DIM_MAX)?;
        ShapeError::range("context", context, 1..=1 << 32)
    }
}

/// Tokens of a group: their rows (one for each query head that shares a key/value head) are worked
/// on together.
pub(super) fn group_tokens(shared: usize, key_dim: usize, value_dim: usize) -> usize {
    let rows = if key_dim.max(value_dim) > GROUP_DIM { GROUP_ROWS / 2 } else { GROUP_ROWS };
    (rows / shared).max(1)
}

/// f32 memory that begins on a cache line, so that no load of 16 straddles two.
struct Aligned {
    memory: Vec<f32>,
    offset: usize,
    arrays: usize,
}

impl Aligned {
    fn new(arrays: usize) -> Aligned {
        let memory = vec![0.0; arrays.saturating_add(1).saturating_mul(LANES)];
        let offset = memory.as_ptr().align_offset(size_of::<Array>()).min(LANES);
        Aligned { memory, offset, arrays }
    }

    fn arrays(&mut self) -> &mut [Array] {
        let floats = &mut self.memory[self.offset..];
        &mut floats.as_chunks_mut().0[..self.arrays]
    }

    fn bytes(&self) -> usize {
        size_of_val(self.memory.as_slice())
    }
}

/// One thread's memory.
struct Thread {
    queries: Aligned,
    scores: Aligned,
    keys: Aligned,
    values: Aligned,
    chunk: Aligned,
    total: Aligned,
}

/// Views of one thread's memory.
pub(super) struct Views<'a> {
    /// `[row][key_dim]`, scaled queries.
    pub queries: &'a mut [f32],
    /// `[row of a block][panel]`.
    pub scores: &'a mut [Array],
    /// A widened tile: `[panel][dim]`.
    pub keys: &'a mut [Array],
    /// A widened tile: `[panel][position]`.
    pub values: &'a mut [Array],
    /// `[row]` states, of the chunk being gathered.
    pub chunk: &'a mut [Array],
    /// `[row]` states, of the chunks before.
    pub total: &'a mut [Array],
}

/// Memory for calls of [`attention`](super::attention), sized for one number of threads and the
/// largest shapes; [`AttentionScratch::bytes`] goes into the memory budget.
pub struct AttentionScratch {
    threads: Vec<ThreadScratch>,
    /// States of chunks that are computed apart, then merged: `[kv head][chunk][row]`.
    partials: Aligned,
    /// Chunks not yet computed of each key/value head.
    pending: Vec<AtomicUsize>,
    sizes: AttentionSizes,
}

pub(super) struct ThreadScratch(Thread);

impl ThreadScratch {
    pub(super) fn views(&mut self) -> Views<'_> {
        let Thread { queries, scores, keys, values, chunk, total } = &mut self.0;
        Views {
            queries: queries.arrays().as_flattened_mut(),
            scores: scores.arrays(),
            keys: keys.arrays(),
            values: values.arrays(),
            chunk: chunk.arrays(),
            total: total.arrays(),
        }
    }
}

/// The three parts of a scratch, for one call.
pub(super) struct Parts<'a> {
    pub threads: &'a mut [ThreadScratch],
    pub partials: &'a mut [Array],
    pub pending: &'a [AtomicUsize],
}

impl AttentionScratch {
    /// Memory for `threads` threads and calls no larger than `sizes` in each number.
    ///
    /// # Errors
    /// [`ShapeError`] if a number is senseless.
    pub fn new(threads: usize, sizes: AttentionSizes) -> Result<AttentionScratch, ShapeError> {
        sizes.check()?;
        let AttentionSizes { heads, kv_heads, key_dim, value_dim, context } = sizes;
        let shared = heads / kv_heads;
        let rows = GROUP_ROWS.max(shared);
        let value_panels = value_dim.div_ceil(LANES);
        let state = HEADER + value_panels;
        let thread = || {
            ThreadScratch(Thread {
                queries: Aligned::new((rows * key_dim).div_ceil(LANES)),
                scores: Aligned::new(super::rows::BLOCK_ROWS_MAX * TILE_PANELS),
                keys: Aligned::new(TILE_PANELS * key_dim),
                values: Aligned::new(value_panels * TILE_POSITIONS),
                chunk: Aligned::new(rows * state),
                total: Aligned::new(rows * state),
            })
        };
        let chunks = context.div_ceil(super::CHUNK_POSITIONS) + 1;
        Ok(AttentionScratch {
            threads: (0..threads).map(|_| thread()).collect(),
            partials: Aligned::new(chunks.saturating_mul(heads).saturating_mul(state)),
            pending: (0..kv_heads).map(|_| AtomicUsize::new(0)).collect(),
            sizes,
        })
    }

    /// Bytes held by all threads together.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let of_thread = |ThreadScratch(thread): &ThreadScratch| {
            let Thread { queries, scores, keys, values, chunk, total } = thread;
            [queries, scores, keys, values, chunk, total].map(Aligned::bytes).iter().sum::<usize>()
        };
        self.threads.iter().map(of_thread).sum::<usize>() + self.partials.bytes()
    }

    /// The largest shapes it serves.
    #[must_use]
    pub fn sizes(&self) -> AttentionSizes {
        self.sizes
    }

    pub(super) fn parts(&mut self) -> Parts<'_> {
        Parts {
            threads: &mut self.threads,
            partials: self.partials.arrays(),
            pending: &self.pending,
        }
    }

    /// # Errors
    /// [`ShapeError`] if a call is larger than this scratch was made for.
    pub(super) fn check(&self, threads: usize, call: AttentionSizes) -> Result<(), ShapeError> {
        call.check()?;
        let sizes = self.sizes;
        ShapeError::range("threads of a call", threads, 1..=self.threads.len())?;
        ShapeError::range("query heads of a call", call.heads, 1..=sizes.heads)?;
        ShapeError::range("key/value heads of a call", call.kv_heads, 1..=sizes.kv_heads)?;
        let shared = GROUP_ROWS.max(sizes.heads / sizes.kv_heads);
        ShapeError::range("query heads that share", call.heads / call.kv_heads, 1..=shared)?;
        ShapeError::range("key dimension of a call", call.key_dim, 1..=sizes.key_dim)?;
        ShapeError::range("value dimension of a call", call.value_dim, 1..=sizes.value_dim)
    }
}
