//! Attention of consecutive queries to everything before them: causal, grouped heads, optional
//! sliding window, soft cap and sinks.
//!
//! One pass over the cache, no matrix of scores: each query keeps the largest score so far and
//! rescales what it has gathered when a larger one comes ("online softmax", Milakov and Gimelshein
//! 2018; tiled as in FlashAttention, Dao et al. 2022). How memory is laid out is told in
//! [`KvLayout`]'s file, the fixed order of all sums in `state.rs`.
//!
//! Work is cut by key/value head, and
//! - for many tokens by groups of tokens: a tile is widened to f32 once for about 96 query rows;
//! - for few tokens and a long context by chunks of 256 positions, whose results the thread that
//!   finishes a head's last chunk merges in order: one barrier in all.
#![allow(unsafe_code, reason = "threads write disjoint outputs and states")]

mod layout;
mod product;
mod rows;
mod scratch;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod tile;

use std::sync::atomic::Ordering;

use crate::compute::Compute;
use crate::disjoint::Disjoint;
use crate::shape::ShapeError;
use crate::simd::dispatch;

pub use layout::{HEAD_DIM_MAX, KvFormat, KvLayout, TILE_POSITIONS};
use rows::{GatherAll, GatherChunk, Group, MergeAll, Outputs, Work, pack_queries};
pub use scratch::{AttentionScratch, AttentionSizes};
use scratch::{Parts, ThreadScratch, Views, group_tokens};
pub use store::{kv_load, kv_store};

/// Positions of a chunk: what is gathered from nothing and merged. A multiple of
/// [`TILE_POSITIONS`]; changing it changes bits.
pub(crate) const CHUNK_POSITIONS: usize = 256;

/// Below this many multiply-adds the calling thread works alone: about 4 us, not worth a barrier.
const SERIAL_PRODUCTS: usize = 100_000;

/// One layer's attention.
pub struct AttentionJob<'a> {
    /// The cache's shape.
    pub layout: &'a KvLayout,
    /// The cache, with the keys and values of the queries' own positions stored already.
    pub cache: &'a [u8],
    /// Queries, `[token][head * key_dim]`; heads `h * n .. (h + 1) * n` share key/value head h.
    pub queries: &'a [f32],
    /// Query heads.
    pub heads: usize,
    /// Position of the first token; the others follow.
    pub first_position: usize,
    /// How many positions a query sees at most, its own included; `None`: all.
    pub window: Option<usize>,
    /// What scores are multiplied by, 1 / sqrt(key_dim) mostly.
    pub scale: f32,
    /// `cap * tanh(score / cap)` is applied to scaled scores.
    pub softcap: Option<f32>,
    /// A score for each query head that takes weight and has no value.
    pub sinks: Option<&'a [f32]>,
    /// Outputs, `[token][head * value_dim]`.
    pub out: &'a mut [f32],
}

/// What a checked job amounts to.
struct Plan {
    tokens: usize,
    tiles: usize,
    shared: usize,
    window: usize,
    group_tokens: usize,
}

impl AttentionJob<'_> {
    fn check(&self, threads: usize, scratch: &AttentionScratch) -> Result<Plan, ShapeError> {
        let layout = self.layout;
        let (heads, kv_heads) = (self.heads, layout.kv_heads());
        let (key_dim, value_dim) = (layout.key_dim(), layout.value_dim());
        let context = 1;
        scratch.check(threads, AttentionSizes { heads, kv_heads, key_dim, value_dim, context })?;
        let tokens = ShapeError::rows("queries", self.queries.len(), heads * key_dim)?;
        ShapeError::length("attention's output", tokens * heads * value_dim, self.out.len())?;
        if let Some(sinks) = self.sinks {
            ShapeError::length("sinks", heads, sinks.len())?;
        }
        let window = self.window.unwrap_or(usize::MAX);
        ShapeError::range("sliding window", window, 1..=usize::MAX)?;
        let tiles = layout.tiles(self.cache.len())?;
        let end = self.first_position.saturating_add(tokens);
        let first = (self.first_position + 1).saturating_sub(window);
        if tokens != 0 && end.div_ceil(TILE_POSITIONS) - first / TILE_POSITIONS > tiles {
            let capacity = tiles * TILE_POSITIONS;
            return Err(ShapeError::Capacity { first, end, capacity });
        }
        let shared = heads / kv_heads;
        let group_tokens = group_tokens(shared, key_dim, value_dim);
        Ok(Plan { tokens, tiles, shared, window, group_tokens })
    }

    /// The group of a key/value head and a run of tokens.
    fn group(&self, plan: &Plan, kv_head: usize, first_token: usize) -> Group<'_> {
        let scale = f64::from(self.scale);
        let log2_e = std::f64::consts::LOG2_E;
        let (factor, cap) = match self.softcap {
            None => (scale * log2_e, None),
            Some(cap) => (scale / f64::from(cap), Some((f64::from(cap) * log2_e) as f32)),
        };
        Group {
            layout: self.layout,
            cache: self.cache,
            tiles: plan.tiles,
            kv_head,
            shared: plan.shared,
            position: self.first_position + first_token,
            tokens: plan.group_tokens.min(plan.tokens - first_token),
            window: plan.window,
            query_factor: factor as f32,
            cap,
        }
    }

    /// Multiply-adds of the whole job, about.
    fn products(&self, plan: &Plan) -> usize {
        let seen = (self.first_position + plan.tokens).min(plan.window);
        let dims = self.layout.key_dim() + self.layout.value_dim();
        plan.tokens.saturating_mul(seen).saturating_mul(self.heads * dims)
    }
}

/// Computes attention: for each query head of each token, the softmax-weighted mean of the values
/// it sees.
///
/// NaN and infinities in, NaN out; no panic.
///
/// # Errors
/// [`ShapeError`] if the slices do not fit each other or the scratch, or the cache cannot hold all
/// positions that are seen.
pub fn attention(
    compute: &Compute,
    scratch: &mut AttentionScratch,
    job: AttentionJob<'_>,
) -> Result<(), ShapeError> {
    let plan = job.check(compute.threads(), scratch)?;
    if plan.tokens == 0 {
        return Ok(());
    }
    let parts = scratch.parts();
    let serial = job.products(&plan) < SERIAL_PRODUCTS;
    if !serial && compute.threads() > 1 && plan.tokens <= plan.group_tokens {
        let first = job.group(&plan, 0, 0);
        let chunks = first.chunks().len();
        let kv_heads = job.layout.kv_heads();
        let room = chunks * first.rows() * first.state() * kv_heads <= parts.partials.len();
        // Enough heads to share out evenly need no cutting.
        if chunks > 1 && room && kv_heads < 4 * compute.threads() {
            by_chunks(compute, parts, job, &plan);
            return Ok(());
        }
    }
    by_groups(compute, parts.threads, job, &plan, serial);
    Ok(())
}

/// Each (group of tokens, key/value head) is one piece of work.
fn by_groups(
    compute: &Compute,
    threads: &mut [ThreadScratch],
    mut job: AttentionJob<'_>,
    plan: &Plan,
    serial: bool,
) {
    let isa = compute.isa();
    let groups = plan.tokens.div_ceil(plan.group_tokens);
    let kv_heads = job.layout.kv_heads();
    let out = Disjoint::new(std::mem::take(&mut job.out));
    let threads = Disjoint::new(threads);
    let piece = |index: usize, thread: usize| {
        // Late tokens see most: they come first, so that the last pieces are small.
        let first_token = (groups - 1 - index / kv_heads) * plan.group_tokens;
        let group = job.group(plan, index % kv_heads, first_token);
        // SAFETY: within a job no two threads have the same index.
        let own = unsafe { threads.part(thread..thread + 1) };
        let views = own[0].views();
        pack_queries(&group, job.queries, first_token, views.queries);
        let out = Outputs { out: &out, first_token, sinks: job.sinks };
        dispatch(isa, GatherAll { group: &group, views, out });
    };
    if serial {
        (0..groups * kv_heads).for_each(|index| piece(index, 0));
    } else {
        compute.pool().run(groups * kv_heads, &piece);
    }
}

/// Each (chunk, key/value head) is one piece of work; there is one group of tokens.
fn by_chunks(compute: &Compute, parts: Parts<'_>, mut job: AttentionJob<'_>, plan: &Plan) {
    let isa = compute.isa();
    let kv_heads = job.layout.kv_heads();
    let out = Disjoint::new(std::mem::take(&mut job.out));
    let first = job.group(plan, 0, 0);
    let chunks = first.chunks();
    let chunk_len = first.rows() * first.state();
    let head_len = chunk_len * chunks.len();
    let threads = Disjoint::new(parts.threads);
    let partials = Disjoint::new(parts.partials);
    for pending in &parts.pending[..kv_heads] {
        pending.store(chunks.len(), Ordering::Relaxed);
    }
    compute.pool().run(kv_heads * chunks.len(), &|index, thread| {
        let (kv_head, chunk) = (index / chunks.len(), index % chunks.len());
        let group = job.group(plan, kv_head, 0);
        // SAFETY: within a job no two threads have the same index.
        let own = unsafe { threads.part(thread..thread + 1) };
        let Views { queries, scores, keys, values, .. } = own[0].views();
        pack_queries(&group, job.queries, 0, queries);
        let start = kv_head * head_len + chunk * chunk_len;
        let mut work = Work { queries, scores, keys, values };
        let views = &mut work;
        {
            // SAFETY: each piece of work has its own part, and the merge below comes after all.
            let states = unsafe { partials.part(start..start + chunk_len) };
            dispatch(
                isa,
                GatherChunk { group: &group, chunk: chunks.start + chunk, views, states },
            );
        }
        // Release: this chunk's states are written; acquire: so are all others of the head, for
        // whoever comes last.
        if parts.pending[kv_head].fetch_sub(1, Ordering::AcqRel) == 1 {
            // SAFETY: all pieces of work of this head are done and have let go of their parts.
            let partials = unsafe { partials.part(kv_head * head_len..(kv_head + 1) * head_len) };
            let out = Outputs { out: &out, first_token: 0, sinks: job.sinks };
            dispatch(isa, MergeAll { group: &group, partials, out });
        }
    });
}
