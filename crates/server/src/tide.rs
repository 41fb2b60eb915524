//! The tide: which parts of the model are where, as the page draws them.
//!
//! The contract with the page (`crates/server/web`):
//!
//! - `GET /` is the page, `GET /assets/*` its files. Chat goes through `/v1/chat/completions` with
//!   `stream: true` and `stream_options.include_usage`; the last two chunks carry `timings`.
//! - `GET /props`: `{"model", "architecture", "file_bytes", "layers", "context", "budget": {"total_bytes",
//!   "pinned_bytes", "ring_bytes", "expert_cache_bytes", "kv_bytes", "scratch_bytes", "vocab_bytes",
//!   "reserve_bytes"}, "sampling": {..}, "version"}`.
//! - `GET /tide/layout`: `{"file_bytes", "rows": [{"layer": int or null, "name", "kind", "tiles":
//!   [[offset, length, state0], ..]}]}`; `state0` is 0 on disk, 1 pinned. Tiles are numbered through all rows
//!   in this order. Offsets of a split set count through all of its files.
//! - `GET /tide`: server-sent events, five a second while something moves, else one every 2 s: `{"t_ms", "tok_s",
//!   "disk_share" (0..1 of the time since the last event), "read_bytes_s", "rss_bytes", "charge_bytes" or
//!   null, "budget_bytes", "page_table_bytes", "busy", "queue", "resident": "<base64 of a bitmap over all tiles, the
//!   first tile in the lowest bit>", "reading": [tile, ..], "used": [first, last] or null}`.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use base64::Engine as _;
use lowtide_engine::Engine;
use lowtide_mapping::ProcessMemory;
use lowtide_residency::{Glance, Placement};
use serde_json::{Value, json};

use crate::metrics::charge_bytes;
use crate::state::Shared;

/// Between two events while something moves.
pub const LIVELY: Duration = Duration::from_millis(200);
/// Between two events while nothing does.
pub const QUIET: Duration = Duration::from_secs(2);

/// A tensor of the picture.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Row {
    layer: Option<u32>,
    name: String,
    kind: &'static str,
    /// Offset, length, whether it is pinned.
    tiles: Vec<(u64, u64, bool)>,
}

/// The picture's rows. Tiles are in the order of use, as the store numbers extents.
#[derive(Debug, Clone, Default)]
pub struct Layout {
    file_bytes: u64,
    rows: Vec<Row>,
}

impl Layout {
    /// The layout of the model in `engine`.
    pub fn of(engine: &Engine) -> Self {
        let model = engine.model();
        let plan = engine.store().plan();
        let mut bases = vec![0_u64];
        for shard in model.shards() {
            bases.push(bases.last().unwrap_or(&0) + shard.file.size());
        }
        let places = model.tensors();
        let mut rows: Vec<Row> = Vec::new();
        for extent in plan.extents().iter() {
            let key = (extent.source.0, extent.offset);
            let after = places.partition_point(|place| (place.shard, place.offset) <= key);
            let name = after.checked_sub(1).map_or("", |at| &places[at].name);
            let base = bases.get(extent.source.0 as usize).copied().unwrap_or(0);
            let pinned = plan.placement(extent.id) == Some(Placement::Pinned);
            let tile = (base + extent.offset, extent.len, pinned);
            match rows.last_mut().filter(|row| row.name == name) {
                Some(row) => row.tiles.push(tile),
                None => rows.push(Row {
                    layer: layer(name),
                    name: name.to_owned(),
                    kind: kind(name),
                    tiles: vec![tile],
                }),
            }
        }
        Self { file_bytes: model.file_bytes(), rows }
    }

    /// The body of `/tide/layout`.
    pub fn json(&self) -> Value {
        let rows: Vec<Value> = self.rows.iter().map(Row::json).collect();
        json!({ "file_bytes": self.file_bytes, "rows": rows })
    }
}

impl Row {
    fn json(&self) -> Value {
        let tiles: Vec<Value> = self
            .tiles
            .iter()
            .map(|(offset, length, pinned)| json!([offset, length, u8::from(*pinned)]))
            .collect();
        json!({ "layer": self.layer, "name": self.name, "kind": self.kind, "tiles": tiles })
    }
}

fn layer(name: &str) -> Option<u32> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

fn kind(name: &str) -> &'static str {
    let stem = name.splitn(3, '.').last().unwrap_or(name);
    match stem {
        _ if name.starts_with("output") || name.starts_with("token_embd") => "output",
        stem if stem.contains("_exps") => "experts",
        stem if stem.starts_with("ffn_gate_inp") => "router",
        stem if stem.starts_with("attn") => "attention",
        stem if stem.starts_with("ffn") => "ffn",
        _ => "other",
    }
}

/// Makes events out of what the board shows.
pub struct Tide {
    shared: Arc<Shared>,
    last: Instant,
    tokens: u64,
    glance: Glance,
}

impl Tide {
    /// From now on.
    pub fn new(shared: &Arc<Shared>) -> Self {
        let tokens = shared.metrics.tokens();
        let glance = shared.board.look();
        Self { shared: Arc::clone(shared), last: Instant::now(), tokens, glance }
    }

    /// The next event's data, and whether anything moved since the last one.
    pub fn event(&mut self) -> (String, bool) {
        let now = Instant::now();
        let seconds = (now - self.last).as_secs_f64().max(1e-3);
        let glance = self.shared.board.look();
        let tokens = self.shared.metrics.tokens();
        let busy = self.shared.metrics.running.load(Ordering::Relaxed) > 0;
        let waited = glance.wait_ns.saturating_sub(self.glance.wait_ns) as f64 / 1e9;
        let read = glance.read_bytes.saturating_sub(self.glance.read_bytes) as f64;
        let memory = ProcessMemory::read().unwrap_or_default();
        let budget = self.shared.face().map_or(0, |face| face.budget.total_bytes);
        let event = json!({
            "t_ms": u64::try_from(self.shared.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "tok_s": (tokens - self.tokens) as f64 / seconds,
            "disk_share": (waited / seconds).min(1.0),
            "read_bytes_s": read / seconds,
            "rss_bytes": memory.rss_bytes,
            "charge_bytes": charge_bytes(),
            "budget_bytes": budget,
            "page_table_bytes": memory.page_table_bytes,
            "busy": busy,
            "queue": self.shared.queue.waiting(),
            "resident": base64::engine::general_purpose::STANDARD.encode(&glance.resident),
            "reading": glance.reading,
            "used": glance.used.map(|(first, last)| [first, last]),
        });
        let moved = busy || read > 0.0 || glance.resident != self.glance.resident;
        (self.last, self.tokens, self.glance) = (now, tokens, glance);
        (event.to_string(), moved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_kind_and_layer() {
        for (name, expected) in [
            ("blk.3.attn_q.weight", (Some(3), "attention")),
            ("blk.11.ffn_down.weight", (Some(11), "ffn")),
            ("blk.0.ffn_up_exps.weight", (Some(0), "experts")),
            ("blk.0.ffn_gate_inp.weight", (Some(0), "router")),
            ("token_embd.weight", (None, "output")),
            ("output.weight", (None, "output")),
            ("", (None, "other")),
        ] {
            assert_eq!((layer(name), kind(name)), expected, "{name}");
        }
    }
}
