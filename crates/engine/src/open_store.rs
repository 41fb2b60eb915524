//! From an opened model and a plan to a store, and the choice between its backends.

use lowtide_residency::{
    PinnedIn, Plan, PlanInput, RingParams, Source, Store, StoreOptions, Streaming, streaming_for,
};

use crate::engine::Io;
use crate::error::Error;
use crate::linear::TARGETS_MAX;
use crate::model_file::Model;

/// What the plan is made from. Pinned in the mapping and streamed by O_DIRECT is the default: the
/// stream then leaves the page cache, and so the pinned pages, alone, and a restart finds them
/// there (docs/residency.md has the figures). A file system that refuses O_DIRECT is streamed
/// through the mapping.
///
/// # Errors
/// The file cannot be looked at.
pub(crate) fn plan_input(
    model: &Model,
    weights_budget_bytes: u64,
    io: Io,
) -> Result<PlanInput, Error> {
    let streaming = match io {
        Io::Auto => streaming_for(&model.shards[0].file)?.0,
        Io::Direct => Streaming::Direct,
        Io::Mapped => Streaming::Mapped,
    };
    Ok(PlanInput {
        weights_budget_bytes,
        streaming,
        pinned_in: PinnedIn::Mapping,
        // A group of products holds up to three tiles; one more is in use, one being read.
        ring: RingParams { slots_min: TARGETS_MAX as u32 + 2, ..RingParams::default() },
    })
}

/// Opens the store of an engine that takes `budget_bytes` in all.
pub(crate) fn open(model: &Model, plan: Plan, budget_bytes: u64) -> Result<Store, Error> {
    let sources = model
        .shards
        .iter()
        .map(|s| Source { file: s.file.clone(), mapping: s.mapping.clone() })
        .collect();
    let options = StoreOptions { budget_bytes: Some(budget_bytes), ..StoreOptions::default() };
    Ok(Store::open(sources, plan, options)?)
}
