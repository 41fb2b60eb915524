//! Which bytes of a model are in memory, and when.
//!
//! ```text
//! Extents (order of use) + budget --Plan::new--> Plan          pure arithmetic
//! Plan + files            --Store::open--> Store               claims the ring, reads nothing
//! store.begin_pass(..); store.acquire(id) -> Tile: &[u8]; store.end_pass() -> PassStats
//! Plan + FakeDisk         --sim::simulate--> seconds a pass    the same schedule, no disk
//! ```
//!
//! What holds whatever happens:
//!
//! - **A tile is the file's bytes.** Plan, budget, backend and thread count decide where they are and
//!   when they came, never what they are.
//! - **Memory is claimed when the store is opened** (ring, arena) or planned (pages of the mapping):
//!   pinned + ring + overhead stay within the budget for weights the plan was given.
//! - **Bytes come by calls that can fail**: io_uring, `pread`, `MADV_POPULATE_READ`. A disk error, a
//!   truncated or overwritten file and a read that hangs are [`ResidencyError`]s.
//! - **Policy is pure**: [`Ring`] and [`Schedule`] decide what is read next; the live store and the
//!   simulator only carry it out.
//!
//! The map: `extent` what is used, `plan` and `select` what stays, `ring` and `schedule` what is read
//! next, `store` the face, `driver` between the schedule and the lanes, `direct` and `mapped` the two
//! lanes, `kept` whose pages are whose, `rows` single rows, `touch` a record of what was used, `watch` pinned pages that were taken away, `sim` machines we do not
//! have, `probe` the one we do.
#![forbid(unsafe_code)]

mod board;
mod direct;
mod driver;
mod error;
pub mod experts;
mod extent;
#[cfg(test)]
mod failure_tests;
mod filling;
mod kept;
mod mapped;
mod plan;
#[cfg(test)]
mod plan_tests;
mod pressure;
mod probe;
mod readahead;
mod ring;
#[cfg(test)]
mod ring_tests;
mod rows;
mod schedule;
mod select;
pub mod sim;
mod spread_probe;
mod stats;
mod store;
mod store_experts;
#[cfg(test)]
mod test_rng;
mod touch;
mod unread;
mod watch;

pub use board::{Board, Glance, Whereabouts};
pub use error::{PlanError, ResidencyError};
pub use experts::live::ExpertUse;
pub use experts::{ExpertSlots, SlotClass};
pub use extent::{
    Bytes, Extent, ExtentId, Extents, SourceId, TILE_ROW_GROUP, UNIT_SLICES, Unit, UnitId, Use,
    tile_rows, tile_target_bytes,
};
pub use plan::{PAGE_BYTES, PinnedIn, Placement, Plan, PlanInput, RingParams, Streaming, Sums};
pub use probe::{DiskProbe, ProbePoint, probe_disk, probe_ways};
pub use ring::{Fill, Ring, Slot, SlotId, Standing};
pub use schedule::{Depth, Destination, Issue, Schedule, Wanted};
pub use spread_probe::SpreadProbe;
pub use stats::{LayerTraffic, PassStats, StoreStats};
pub use store::{Keep, Source, Store, StoreOptions, Tile, streaming_for};
pub use store_experts::Expert;
pub use touch::{TouchedRow, Touches};
