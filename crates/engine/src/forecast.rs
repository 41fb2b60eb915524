//! "Will it fit, and what would change it": the planner's answers, without readying the model.

use lowtide_kernels::compute::Compute;
use lowtide_mapping::{MemoryLimits, claimed_bytes};
use lowtide_residency::{StoreOptions, UNIT_SLICES, Use};

use crate::budget::{Budget, MemoryLimit};
use crate::engine::LoadOptions;
use crate::error::Error;
use crate::forward::usize_of;
use crate::kv;
use crate::model_file::Model;
use crate::planner::{self, Planned};

/// What running would look like, worked out from the header alone.
#[derive(Debug, Clone, Copy)]
pub struct Forecast {
    /// The split of the budget.
    pub budget: Budget,
    /// Tokens the context holds.
    pub context: usize,
    /// Tokens of a prompt that go through the model together.
    pub batch: usize,
    /// Bytes of weights every pass computes with, resident or not: what one token reads of memory.
    pub pass_bytes: u64,
    /// Bytes of weights that a pass of one token reads from the disk, the embedding's row included, and
    /// of experts as many as [`Traffic::Mild`] misses.
    pub read_bytes: u64,
    /// Bytes the KV cache keeps for one position, all layers together.
    pub position_bytes: u64,
    /// Whether nothing is streamed.
    pub all_resident: bool,
    /// Bytes of a read of the ring; 0 where nothing passes through it.
    pub request_bytes: u64,
    /// Reads of the ring under way at once.
    pub queue_depth: u32,
    /// How experts come in; `None` where the model has none or all of them stay.
    pub experts: Option<ExpertReads>,
}

/// How a router spreads its tokens over a layer's experts. What it will be cannot be told from a
/// header. Random weights with text of random tokens, the least skewed there is in practice, gave a
/// cache of 26, 38 and 51 % of the experts 37, 50 and 59 % of hits: `share^0.75`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// All alike: hits are the cache's share of the experts. The worst there is.
    Even,
    /// Some favourites: hits are `share^0.75`.
    Mild,
    /// Many: hits are `share^0.14`. A text of the 30B shape with random weights, whose routers have strong
    /// favourites, hit 84 and 90 % with 33 and 51 % of the experts. (One model, so as much a guess as the others.)
    Skewed,
}

/// What a token reads of experts.
#[derive(Debug, Clone, Copy)]
pub struct ExpertReads {
    /// Layers that have experts.
    pub layers: u32,
    /// Experts of a layer that a token uses.
    pub used: u32,
    /// The share of all experts that the cache holds.
    pub cached_share: f64,
    /// Bytes of an expert.
    pub unit_bytes: u64,
    /// Pieces of the file that it lies in.
    pub pieces: u32,
}

impl ExpertReads {
    /// The part of a token's experts that the cache has, where traffic is spread like this. With even traffic it
    /// hits as often as it holds of all; a router's favourites are in it more often than that.
    #[must_use]
    pub fn hits(&self, spread: Traffic) -> f64 {
        let exponent = match spread {
            Traffic::Even => 1.0,
            Traffic::Mild => 0.75,
            Traffic::Skewed => 0.14,
        };
        self.cached_share.clamp(0.0, 1.0).powf(exponent)
    }

    /// Experts of a layer that a token reads, where traffic is spread like this.
    #[must_use]
    pub fn missed(&self, spread: Traffic) -> f64 {
        f64::from(self.used) * (1.0 - self.hits(spread))
    }

    /// Bytes of experts that a token reads.
    #[must_use]
    pub fn missed_bytes(&self, spread: Traffic) -> f64 {
        f64::from(self.layers) * self.missed(spread) * self.unit_bytes as f64
    }
}

/// Answers "what if" for one model without readying it: each answer is the plan a run would follow.
pub struct Forecaster<'m> {
    model: &'m Model,
    options: LoadOptions,
    compute: Compute,
}

/// The plan that a run with `options` would follow. Reads no weights and keeps no memory.
///
/// # Errors
/// As [`crate::Engine::new`]: the budget is below the floor, or threads could not be had.
pub fn plan(model: &Model, options: &LoadOptions) -> Result<Forecast, Error> {
    Forecaster::new(model, options)?.at_options()
}

impl<'m> Forecaster<'m> {
    /// Starts the threads that a run would use: their scratch is part of the sum.
    ///
    /// # Errors
    /// Threads could not be had.
    pub fn new(model: &'m Model, options: &LoadOptions) -> Result<Self, Error> {
        Ok(Self { model, options: *options, compute: planner::compute(options)? })
    }

    /// The plan for the options as they were given.
    ///
    /// # Errors
    /// The budget is below the floor.
    pub fn at_options(&self) -> Result<Forecast, Error> {
        self.forecast(&self.options)
    }

    /// The plan for another budget, in bytes.
    ///
    /// # Errors
    /// The budget is below the floor.
    pub fn at_memory(&self, bytes: u64) -> Result<Forecast, Error> {
        self.forecast(&LoadOptions { memory: MemoryLimit::Bytes(bytes), ..self.options })
    }

    /// The smallest budget in bytes that runs, for the context of the options or else the shortest.
    /// Found by bisection of the planner itself, so that what it says is what a run accepts.
    ///
    /// # Errors
    /// No budget is enough.
    pub fn floor_bytes(&self) -> Result<u64, Error> {
        let fits = |bytes: u64| self.at_memory(bytes).is_ok();
        let mut high = self.model.file_bytes().max(1 << 26);
        while !fits(high) {
            // Past the address space nothing helps: the planner's own refusal says why.
            if high > 1 << 46 {
                return self.at_memory(high).map(|forecast| forecast.budget.total_bytes);
            }
            high *= 2;
        }
        Ok(bisect(0, high, BISECT_BYTES, fits))
    }

    /// The smallest budget in bytes with which nothing is read twice; at least `from`.
    ///
    /// # Errors
    /// No budget is enough.
    pub fn resident_bytes(&self, from: u64) -> Result<u64, Error> {
        let fits = |bytes: u64| self.at_memory(bytes).is_ok_and(|f| f.all_resident);
        let mut high = from.max(1 << 26);
        while !fits(high) {
            if high > 1 << 46 {
                return self.at_memory(high).map(|forecast| forecast.budget.total_bytes);
            }
            high *= 2;
        }
        Ok(bisect(from.saturating_sub(1), high, BISECT_BYTES, fits))
    }

    /// The longest context that the budget of the options holds, at most what the model was
    /// trained for; `None` if not even one token fits.
    #[must_use]
    pub fn largest_context(&self) -> Option<usize> {
        let fits = |context: u64| {
            let options = LoadOptions { context: Some(usize_of(context)), ..self.options };
            self.forecast(&options).is_ok()
        };
        let trained = u64::from(self.model.config.context_length.max(1));
        if fits(trained) {
            return Some(usize_of(trained));
        }
        fits(1).then(|| usize_of(trained - bisect(0, trained - 1, 1, |less| fits(trained - less))))
    }

    fn forecast(&self, options: &LoadOptions) -> Result<Forecast, Error> {
        let claimed = claimed_bytes(&MemoryLimits::read()?);
        let planned = planner::planned(self.model, options, &self.compute, claimed)?;
        let Planned { plan, bound, budget, sizes, .. } = planned;
        let bytes = |is_counted: fn(&Use) -> bool| {
            let counted = plan.extents().iter().filter(|x| is_counted(&x.usage));
            counted.map(|x| x.len).sum::<u64>()
        };
        let trunk = bytes(|usage| matches!(usage, Use::Tile | Use::Always));
        // A token uses a few of a layer's experts.
        let experts = self.model.config.experts.as_ref();
        let share = experts.map_or(0.0, |e| e.used as f64 / e.count.max(1) as f64);
        let active = (bytes(|usage| matches!(usage, Use::Expert { .. })) as f64 * share) as u64;
        let units = plan.extents().units().len().max(1) as f64;
        let request = (StoreOptions::default().piece_bytes as u64).min(plan.slot_bytes);
        let slots = f64::from(plan.experts.slots);
        let unit_bytes = bytes(|usage| matches!(usage, Use::Expert { .. })) / units as u64;
        let reads = experts.filter(|_| !plan.is_all_resident()).map(|experts| ExpertReads {
            layers: plan.extents().expert_layers(),
            used: experts.used as u32,
            cached_share: slots / units,
            unit_bytes,
            pieces: UNIT_SLICES as u32,
        });
        let missed = reads.map_or(0, |reads| reads.missed_bytes(Traffic::Mild) as u64);
        let position = kv::layout(&self.model.config, sizes.kv)?.position_bytes() as u64;
        Ok(Forecast {
            budget,
            context: sizes.context,
            batch: sizes.batch,
            pass_bytes: trunk + active,
            read_bytes: plan.sums.streamed_bytes + missed + bound.embedding.row_bytes as u64,
            position_bytes: position * u64::from(self.model.config.layers),
            all_resident: plan.is_all_resident(),
            request_bytes: if plan.sums.streamed_bytes > 0 { request } else { 0 },
            queue_depth: plan.input.ring.queue_depth,
            experts: reads,
        })
    }
}

/// How finely budgets are told apart: far below what the measured part of the sum varies by.
const BISECT_BYTES: u64 = 64 << 10;

/// The smallest value in `(low, high]` that fits, to within `step`; `high` does.
fn bisect(mut low: u64, mut high: u64, step: u64, fits: impl Fn(u64) -> bool) -> u64 {
    while high - low > step {
        let middle = low + (high - low) / 2;
        if fits(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    high
}
