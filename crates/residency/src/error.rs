//! What can go wrong while planning and while reading.

use std::time::Duration;

use crate::extent::{Bytes, Extent, ExtentId, SourceId};

/// Why no plan could be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// An extent that no file can hold.
    #[error("extent at byte {offset} of shard {} with {len} bytes: {why}", source_id.0)]
    Extent {
        /// The file.
        source_id: SourceId,
        /// First byte.
        offset: u64,
        /// Length.
        len: u64,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A parameter that makes no sense.
    #[error("plan parameter {what}: {why}")]
    Parameter {
        /// The parameter.
        what: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The budget does not hold even the smallest working set.
    #[error(
        "weights need at least {} ({} always resident + {} for {slots} tiles of {}), the budget leaves {}",
        Bytes(*floor_bytes), Bytes(*always_bytes), Bytes(*ring_bytes), Bytes(*slot_bytes),
        Bytes(*budget_bytes)
    )]
    BelowFloor {
        /// The smallest budget for weights that works.
        floor_bytes: u64,
        /// Of which: norms, biases, and what holds them.
        always_bytes: u64,
        /// Of which: the smallest ring.
        ring_bytes: u64,
        /// Slots of that ring.
        slots: u32,
        /// Bytes of one slot: the largest tile.
        slot_bytes: u64,
        /// What was given.
        budget_bytes: u64,
    },
}

/// Why bytes of the model could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ResidencyError {
    /// An extent could not be read: the disk failed, the file was cut short.
    #[error("{source} ({extent})")]
    Read {
        /// What was read.
        extent: Extent,
        /// What failed, where in which file, and why.
        source: lowtide_mapping::Error,
    },
    /// Rows could not be read.
    #[error(transparent)]
    Rows(lowtide_mapping::Error),
    /// The file was written to while the model was running, so that what was computed may mix old
    /// and new weights; or a page of it could not be read when it was touched.
    #[error(transparent)]
    Changed(lowtide_mapping::Error),
    /// A read that did not come back.
    #[error("model fault: reading {} has not returned for {waited:.0?}", extent.place())]
    Deadline {
        /// What was read.
        extent: Extent,
        /// How long the store waited.
        waited: Duration,
    },
    /// Every slot of the ring is held by the caller.
    #[error("{id} needs a slot, but all {slots} are held by tiles not yet released")]
    RingExhausted {
        /// What was asked for.
        id: ExtentId,
        /// Slots of the ring.
        slots: u32,
    },
    /// A streamed tile that is held cannot be acquired again.
    #[error("{id} is held already")]
    Held {
        /// What was asked for.
        id: ExtentId,
    },
    /// An id that is not a tile of this plan, or a range outside of the file.
    #[error("{what} is not part of this plan")]
    Unknown {
        /// What was asked for.
        what: String,
    },
    /// The schedule cannot go on: a mistake in this crate, reported instead of waiting for ever.
    #[error("{id} can never arrive: the schedule has stalled")]
    Stalled {
        /// What was asked for.
        id: ExtentId,
    },
    /// The helper thread could not be started or has died.
    #[error("residency helper thread: {0}")]
    Helper(String),
    /// A system call about memory or files failed while the store was set up or kept going.
    #[error("{what}: {source}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// What failed and why.
        source: lowtide_mapping::Error,
    },
    /// The disk probe could not read the file.
    #[error("disk probe of {path}: {why}")]
    Probe {
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
}

impl ResidencyError {
    /// Whether the model's file, not the caller, is at fault: truncated, overwritten, unreadable,
    /// hung. Servers answer these with `model_fault`.
    #[must_use]
    pub fn is_model_fault(&self) -> bool {
        match self {
            Self::Read { source, .. } | Self::System { source, .. } => source.is_model_fault(),
            Self::Rows(source) | Self::Changed(source) => source.is_model_fault(),
            Self::Deadline { .. } => true,
            _ => false,
        }
    }
}
