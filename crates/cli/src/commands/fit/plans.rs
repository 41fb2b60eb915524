//! What is worked out without measuring: the plan of a run, and of other budgets.

use anyhow::Result;
use lowtide_engine::{Error, Forecast, Forecaster, MemoryLimit};
use lowtide_mapping::{MemoryLimits, page_size};

use crate::failure::{Failure, STATUS_RUNNING};
use crate::human;
use crate::load::{Phase, failure};

/// All that is worked out without measuring.
pub struct Plans {
    /// What was asked for, in bytes.
    pub asked: u64,
    /// What the machine and its control groups allow.
    pub allowed: u64,
    /// The least that runs.
    pub floor: u64,
    /// The least with which nothing is read twice.
    pub everything: u64,
    /// The plan; none below the floor.
    pub forecast: Option<Forecast>,
    /// Why it does not fit.
    pub reason: Option<String>,
    /// Budgets worth comparing.
    pub steps: Vec<Forecast>,
    /// The longest context.
    pub context_max: Option<usize>,
}

impl Plans {
    /// Asks the planner.
    pub fn make(forecaster: &Forecaster<'_>, memory: MemoryLimit) -> Result<Self> {
        let limits =
            MemoryLimits::read().map_err(|error| Failure::from_lines(&error, STATUS_RUNNING))?;
        let allowed = limits.effective_bytes();
        let opening = |error: Error| failure(&error, Phase::Opening);
        let (forecast, mut reason) = match forecaster.at_options() {
            Ok(forecast) => (Some(forecast), None),
            Err(error @ Error::Budget(_)) => {
                (None, error.to_string().lines().next().map(str::to_owned))
            }
            Err(error) => return Err(opening(error)),
        };
        let floor = forecaster.floor_bytes().map_err(opening)?;
        let everything = forecaster.resident_bytes(floor).map_err(opening)?;
        let found = || forecast.map_or(limits.available_bytes(), |f| f.budget.total_bytes);
        let asked = match memory {
            MemoryLimit::Bytes(bytes) => bytes,
            MemoryLimit::Auto => found(),
        };
        // Control groups keep limits in whole pages, below what was asked of them.
        if asked - asked % page_size() as u64 > allowed {
            reason = Some(format!("this machine allows {}", human::bytes(allowed)));
        }
        let sizes = step_sizes(floor, asked, everything);
        let steps = sizes.into_iter().filter_map(|bytes| forecaster.at_memory(bytes).ok());
        Ok(Self {
            asked,
            allowed,
            floor,
            everything,
            forecast,
            reason,
            steps: steps.collect(),
            context_max: forecaster.largest_context(),
        })
    }
}

/// Bytes read for a token; none where all is resident.
pub fn streamed(forecast: &Forecast) -> u64 {
    if forecast.all_resident { 0 } else { forecast.read_bytes }
}

/// Budgets worth comparing: the floor, what was asked for, steps between that and the one with
/// which everything stays. More than that brings nothing.
fn step_sizes(floor: u64, asked: u64, everything: u64) -> Vec<u64> {
    let from = asked.clamp(floor, everything);
    let missing = everything - from;
    let mut sizes = vec![
        floor,
        from,
        from + missing / 4,
        from + missing / 2,
        from + missing / 4 * 3,
        everything,
    ];
    sizes.sort_unstable();
    // Closer together than this there is nothing to choose.
    let least = (everything / 50).max(1);
    sizes.dedup_by(|next, kept| *next - *kept < least && *next != everything);
    sizes.dedup();
    sizes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_begin_at_the_floor_and_end_where_more_brings_nothing() {
        assert_eq!(step_sizes(100, 500, 1000), [100, 500, 625, 750, 875, 1000]);
        // Below the floor the floor is the first that runs.
        assert_eq!(step_sizes(100, 50, 1000).first(), Some(&100));
        assert_eq!(step_sizes(100, 5000, 1000), [100, 1000]);
        assert_eq!(step_sizes(1000, 1000, 1000), [1000]);
    }
}
