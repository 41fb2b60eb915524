//! One group of query rows against the tiles it sees.

use std::ops::Range;

use crate::simd::{Array, Kernel, LANES, Simd};

use super::layout::{KvFormat, KvLayout, TILE_PANELS, TILE_POSITIONS};
use super::product::{Product, Start};
use super::scratch::Views;
use super::state::{HEADER, clear, finish, merge, weigh};
use super::{CHUNK_POSITIONS, tile};

/// The largest [`Simd::BLOCK_ROWS`].
pub(super) const BLOCK_ROWS_MAX: usize = 12;

/// The queries of a run of tokens for one key/value head. Rows are `[token][sharing head]`.
#[derive(Copy, Clone)]
pub(super) struct Group<'a> {
    pub layout: &'a KvLayout,
    pub cache: &'a [u8],
    /// Tiles of the cache.
    pub tiles: usize,
    pub kv_head: usize,
    /// Query heads that share the key/value head.
    pub shared: usize,
    /// Position of the first token.
    pub position: usize,
    pub tokens: usize,
    /// Positions that a query sees at most, its own included.
    pub window: usize,
    /// Multiplies queries: everything that stands before the scores' soft cap or exponential.
    pub query_factor: f32,
    /// The soft cap times log2 e.
    pub cap: Option<f32>,
}

impl Group<'_> {
    pub(super) fn rows(&self) -> usize {
        self.tokens * self.shared
    }

    /// Arrays of a row's state.
    pub(super) fn state(&self) -> usize {
        HEADER + self.layout.value_panels()
    }

    /// How far behind a head's keys lies what is read next: its values.
    fn after_keys(&self) -> usize {
        self.layout.key_bytes()
    }

    /// How far behind a head's values lies what is read next: the next tile's keys (unless the
    /// cache goes round there).
    fn after_values(&self) -> usize {
        self.layout.tile_bytes() - self.layout.key_bytes()
    }

    /// The positions that a row sees.
    #[inline(always)]
    fn seen(&self, row: usize) -> Range<usize> {
        let end = self.position + row / self.shared + 1;
        end.saturating_sub(self.window)..end
    }

    /// The positions of a tile that a row sees, counted from the tile's first; may be empty.
    #[inline(always)]
    fn seen_in_tile(&self, row: usize, tile: usize) -> Range<usize> {
        let seen = self.seen(row);
        let first = tile * TILE_POSITIONS;
        let place = |position: usize| position.saturating_sub(first).min(TILE_POSITIONS);
        place(seen.start)..place(seen.end)
    }

    /// The chunks that any row sees.
    pub(super) fn chunks(&self) -> Range<usize> {
        let first = self.seen(0).start / CHUNK_POSITIONS;
        first..self.seen(self.rows() - 1).end.div_ceil(CHUNK_POSITIONS)
    }

    /// The tiles of a chunk that any row sees.
    fn tiles_of(&self, chunk: usize) -> Range<usize> {
        const TILES: usize = CHUNK_POSITIONS / TILE_POSITIONS;
        let first = self.seen(0).start / TILE_POSITIONS;
        let end = self.seen(self.rows() - 1).end.div_ceil(TILE_POSITIONS);
        first.max(chunk * TILES)..end.min((chunk + 1) * TILES)
    }
}

/// Scales the queries of a group into scratch, row after row. `queries` is the whole call's.
pub(super) fn pack_queries(
    group: &Group<'_>,
    queries: &[f32],
    first_token: usize,
    packed: &mut [f32],
) {
    let dims = group.layout.key_dim();
    let per_head = group.shared * dims;
    let row = per_head * group.layout.kv_heads();
    for (token, packed) in packed.chunks_exact_mut(per_head).take(group.tokens).enumerate() {
        let from = &queries[(first_token + token) * row + group.kv_head * per_head..][..per_head];
        for (to, x) in packed.iter_mut().zip(from) {
            *to = x * group.query_factor;
        }
    }
}

/// Gathers one chunk into `states`, from nothing.
pub(super) struct GatherChunk<'a, 'v> {
    pub group: &'a Group<'a>,
    pub chunk: usize,
    pub views: &'a mut Work<'v>,
    pub states: &'a mut [Array],
}

/// The views of a thread's scratch that gathering needs.
pub(super) struct Work<'a> {
    pub queries: &'a [f32],
    pub scores: &'a mut [Array],
    pub keys: &'a mut [Array],
    pub values: &'a mut [Array],
}

impl Kernel for GatherChunk<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let GatherChunk { group, chunk, views, states } = self;
        for row in states.chunks_exact_mut(group.state()).take(group.rows()) {
            clear(row);
        }
        for tile in group.tiles_of(chunk) {
            gather_tile(s, group, tile, views, states);
        }
    }
}

/// Where a tile's keys and values are read from.
#[derive(Copy, Clone)]
enum Source {
    /// Widened in registers, for few rows.
    Direct,
    /// Widened into scratch beforehand.
    Scratch,
}

#[inline(always)]
fn gather_tile<S: Simd>(
    s: S,
    group: &Group<'_>,
    tile: usize,
    work: &mut Work<'_>,
    states: &mut [Array],
) {
    // Both ends of what a row sees grow with the row, so the rows that see the tile are a run.
    let sees = |row: usize| !group.seen_in_tile(row, tile).is_empty();
    let mut rows = 0..group.rows();
    while !rows.is_empty() && !sees(rows.start) {
        rows.start += 1;
    }
    while !rows.is_empty() && !sees(rows.end - 1) {
        rows.end -= 1;
    }
    if rows.is_empty() {
        return;
    }
    let (keys, values) = group.layout.head(group.cache, tile % group.tiles, group.kv_head);
    let few = rows.len() <= S::BLOCK_ROWS;
    let source = if few && group.layout.format() == KvFormat::F16 {
        Source::Direct
    } else {
        let first = group.seen_in_tile(rows.start, tile).start;
        let end = group.seen_in_tile(rows.end - 1, tile).end;
        let panels = first / LANES..end.div_ceil(LANES);
        let layout = group.layout;
        tile::widen_keys(s, layout, keys, panels, group.after_keys(), work.keys);
        tile::widen_values(s, layout, values, first..end, group.after_values(), work.values);
        Source::Scratch
    };
    let mut row = rows.start;
    while row < rows.end {
        let end = rows.end.min(row + S::BLOCK_ROWS);
        let block = Block { group, tile, rows: row..end, source, keys, values };
        block.gather(s, work, states);
        row = end;
    }
}

/// A few rows against one tile.
struct Block<'a> {
    group: &'a Group<'a>,
    tile: usize,
    rows: Range<usize>,
    source: Source,
    keys: &'a [u8],
    values: &'a [u8],
}

impl Block<'_> {
    #[inline(always)]
    fn gather<S: Simd>(&self, s: S, work: &mut Work<'_>, states: &mut [Array]) {
        let stride = self.group.state();
        let seen = |row: usize| self.group.seen_in_tile(row, self.tile);
        let (first, last) = (seen(self.rows.start), seen(self.rows.end - 1));
        self.score(s, work, first.start / LANES..last.end.div_ceil(LANES));
        let mut factors = [0.0; BLOCK_ROWS_MAX];
        let scores = work.scores.as_chunks_mut::<TILE_PANELS>().0;
        for ((row, scores), factor) in self.rows.clone().zip(scores).zip(&mut factors) {
            let state = &mut states[row * stride..];
            if let Some(header) = state.first_chunk_mut::<HEADER>() {
                *factor = weigh(s, scores, seen(row), self.group.cap, header);
            }
        }
        let states = &mut states[self.rows.start * stride..self.rows.end * stride];
        let all = 0..self.rows.len();
        if first == last {
            self.add_values(s, work, states, all, first, Start::Scale(&factors));
            return;
        }
        // The positions that all rows see are added for all rows at once, what comes before and
        // after them row by row: each row still takes its positions in order.
        let common_start = last.start.min(first.end);
        let common = common_start..first.end.max(common_start);
        self.add_values(s, work, states, all.clone(), 0..0, Start::Scale(&factors));
        for row in all.clone() {
            let seen = seen(self.rows.start + row);
            let before = seen.start.min(common.start)..common.start;
            self.add_values(s, work, states, row..row + 1, before, Start::Keep);
        }
        self.add_values(s, work, states, all.clone(), common.clone(), Start::Keep);
        for row in all {
            let seen = seen(self.rows.start + row);
            let after = common.end..seen.end.max(common.end);
            self.add_values(s, work, states, row..row + 1, after, Start::Keep);
        }
    }

    /// Scores of the block's rows: queries times keys.
    #[inline(always)]
    fn score<S: Simd>(&self, s: S, work: &mut Work<'_>, panels: Range<usize>) {
        let dims = self.group.layout.key_dim();
        let a = &work.queries[self.rows.start * dims..self.rows.end * dims];
        let rows = 0..self.rows.len();
        let c = &mut *work.scores;
        match self.source {
            Source::Direct => s.call(Product {
                a,
                a_stride: dims,
                b: self.keys.as_chunks::<{ 2 * LANES }>().0,
                b_stride: dims,
                ahead: self.group.after_keys(),
                k: 0..dims,
                c,
                c_stride: TILE_PANELS,
                start: Start::Zero,
                rows,
                panels,
            }),
            Source::Scratch => s.call(Product {
                a,
                a_stride: dims,
                b: &*work.keys,
                b_stride: dims,
                ahead: 0,
                k: 0..dims,
                c,
                c_stride: TILE_PANELS,
                start: Start::Zero,
                rows,
                panels,
            }),
        }
    }

    /// Adds weights times values of some positions to the outputs of some rows (of the block).
    #[inline(always)]
    fn add_values<S: Simd>(
        &self,
        s: S,
        work: &mut Work<'_>,
        states: &mut [Array],
        rows: Range<usize>,
        k: Range<usize>,
        start: Start<'_>,
    ) {
        if k.is_empty() && matches!(start, Start::Keep) {
            return;
        }
        let a = work.scores.as_flattened();
        let panels = 0..self.group.layout.value_panels();
        let c_stride = self.group.state();
        let c = &mut states[HEADER..];
        match self.source {
            Source::Direct => s.call(Product {
                a,
                a_stride: TILE_POSITIONS,
                b: self.values.as_chunks::<{ 2 * LANES }>().0,
                b_stride: TILE_POSITIONS,
                ahead: self.group.after_values(),
                k,
                c,
                c_stride,
                start,
                rows,
                panels,
            }),
            Source::Scratch => s.call(Product {
                a,
                a_stride: TILE_POSITIONS,
                b: &*work.values,
                b_stride: TILE_POSITIONS,
                ahead: 0,
                k,
                c,
                c_stride,
                start,
                rows,
                panels,
            }),
        }
    }
}

/// Gathers all chunks of a group and writes its outputs.
pub(super) struct GatherAll<'a> {
    pub group: &'a Group<'a>,
    pub views: Views<'a>,
    pub out: Outputs<'a>,
}

impl Kernel for GatherAll<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let GatherAll { group, views, out } = self;
        let Views { queries, scores, keys, values, chunk: states, total } = views;
        let mut work = Work { queries, scores, keys, values };
        let chunks = group.chunks();
        if chunks.len() == 1 {
            let chunk = chunks.start;
            s.call(GatherChunk { group, chunk, views: &mut work, states });
            write_outputs(s, group, states, out);
            return;
        }
        let (rows, stride) = (group.rows(), group.state());
        for row in total.chunks_exact_mut(stride).take(rows) {
            clear(row);
        }
        for chunk in chunks {
            s.call(GatherChunk { group, chunk, views: &mut work, states });
            merge_rows(s, group, total, states);
        }
        write_outputs(s, group, total, out);
    }
}

/// Merges the chunks of a group that were gathered apart (`partials` is `[chunk][row]` states, the
/// first of which becomes the total) and writes its outputs.
pub(super) struct MergeAll<'a> {
    pub group: &'a Group<'a>,
    pub partials: &'a mut [Array],
    pub out: Outputs<'a>,
}

impl Kernel for MergeAll<'_> {
    type Output = ();

    #[inline(always)]
    fn call<S: Simd>(self, s: S) {
        let len = self.group.rows() * self.group.state();
        let (total, later) = self.partials.split_at_mut(len);
        for chunk in later.chunks_exact(len) {
            merge_rows(s, self.group, total, chunk);
        }
        write_outputs(s, self.group, total, self.out);
    }
}

#[inline(always)]
fn merge_rows<S: Simd>(s: S, group: &Group<'_>, total: &mut [Array], chunk: &[Array]) {
    let stride = group.state();
    let rows = total.chunks_exact_mut(stride).zip(chunk.chunks_exact(stride));
    for (total, chunk) in rows.take(group.rows()) {
        merge(s, total, chunk);
    }
}

/// Where a group's outputs go.
#[derive(Copy, Clone)]
pub(super) struct Outputs<'a> {
    /// The whole call's, `[token][head * value_dim]`.
    pub out: &'a crate::disjoint::Disjoint<'a, f32>,
    /// The group's first token.
    pub first_token: usize,
    /// The scores of the sinks, one for each query head.
    pub sinks: Option<&'a [f32]>,
}

#[inline(always)]
fn write_outputs<S: Simd>(s: S, group: &Group<'_>, states: &[Array], out: Outputs<'_>) {
    let dims = group.layout.value_dim();
    let heads = group.shared * group.layout.kv_heads();
    for (row, state) in states.chunks_exact(group.state()).take(group.rows()).enumerate() {
        let token = out.first_token + row / group.shared;
        let head = group.kv_head * group.shared + row % group.shared;
        let start = (token * heads + head) * dims;
        let sink = out.sinks.map(|sinks| sinks[head] * std::f32::consts::LOG2_E);
        // SAFETY: a row of outputs belongs to one token and head, and so to one group.
        let to = unsafe { out.out.part(start..start + dims) };
        finish(s, state, sink, to);
    }
}
