//! Experts: units of which each token uses a few, known only when a router has spoken.
//!
//! `expert_slots` how large the cache is, `classes` which slots have room for whom, `policy` which unit goes,
//! `rates` how often each is used, `shares` how many slots each layer keeps, `cache` who is in (pure: the live
//! store and the replay drive the same code), `replay` recorded traffic through it and through Belady's optimum,
//! `guesses` whether they pay, `live` between the cache and the lanes.

mod cache;
#[cfg(test)]
mod cache_tests;
mod classes;
pub(crate) mod expert_slots;
mod guesses;
pub(crate) mod live;
mod policy;
mod rates;
pub mod replay;
mod shares;

pub use cache::{Admit, Claim, ExpertCache, Standing};
pub use classes::Classes;
pub(crate) use expert_slots::unit_spans;
pub use expert_slots::{ExpertSlots, SlotClass};
pub use policy::Policy;
