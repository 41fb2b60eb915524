//! How the budget is split: one arithmetic for those who run a model and for those who only ask.

use lowtide_kernels::attention::{AttentionScratch, KvFormat, TILE_POSITIONS};
use lowtide_kernels::compute::Compute;
use lowtide_kernels::isa::Isa;
use lowtide_kernels::quantize::Keep;
use lowtide_mapping::{CpuLimits, MemoryLimits, ProcessMemory};
use lowtide_residency::{Plan, PlanError, tile_target_bytes};

use crate::bind::{Bound, Tile};
use crate::budget::{BelowFloor, Budget, FixedCosts, MemoryLimit};
use crate::engine::{LoadOptions, Sequences};
use crate::error::Error;
use crate::forward::usize_of;
use crate::model_file::Model;
use crate::{attend, kv, scratch};

/// Tokens that go through the model together at most, whatever the scratch allows: beyond this the
/// weights are read so seldom that more memory for it pays no longer.
const BATCH_MAX: usize = 2048;
/// The batch of a model whose weights all stay: larger ones are no faster.
pub(crate) const BATCH_RESIDENT: usize = 512;
/// Context where none is asked for (or the model's own, if that is shorter).
pub(crate) const CONTEXT_DEFAULT: usize = 4096;

/// Of what is left for weights and scratch, a batch's scratch takes at most one in so many bytes.
const SCRATCH_DIVISOR: u64 = 4;

/// Where nobody says how many tokens or sequences are wanted, their KV caches take at most one in so
/// many bytes of the budget.
const KV_DIVISOR: u64 = 8;

/// What a sampler holds for each token of the vocabulary at most: an adjusted logit (4), a candidate (8), and for
/// typical sampling its weight (8) and its place in another order (16).
const SAMPLER_BYTES_PER_TOKEN: u64 = 36;

/// The shortest context that is worth having.
const CONTEXT_MIN: usize = 256;

/// The sizes that were decided.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    pub context: usize,
    pub batch: usize,
    pub logit_rows: usize,
    pub sequences: usize,
    pub kv: KvFormat,
    pub keep: Keep,
}

/// The smallest of all limits and of what is available beside what others have `claimed`, less a reserve for the
/// rest of the machine.
pub(crate) fn auto_budget(limits: &MemoryLimits, claimed: u64) -> u64 {
    let room = limits.available_beside(claimed);
    room - (room / 16).clamp(64 << 20, 1 << 30).min(room / 8)
}

/// Works the plan out.
#[derive(Clone, Copy)]
struct Planner<'p> {
    model: &'p Model,
    options: &'p LoadOptions,
    total: u64,
    given: bool,
    keep: Keep,
    compute: &'p Compute,
}

/// A plan, and what an engine that follows it is made of.
pub(crate) struct Planned {
    pub plan: Plan,
    pub tiles: Vec<Tile>,
    pub bound: Bound,
    pub budget: Budget,
    pub sizes: Sizes,
}

/// The threads and the instruction set that `options` ask for.
pub(crate) fn compute(options: &LoadOptions) -> Result<Compute, Error> {
    let isa = Isa::from_env()?;
    let threads = match options.threads {
        Some(threads) => threads,
        None => CpuLimits::read()?.compute_threads(),
    };
    Ok(Compute::new(isa, threads)?)
}

/// The plan for `model` within the budget of `options`, where others have `claimed` so many bytes.
pub(crate) fn planned(
    model: &Model,
    options: &LoadOptions,
    compute: &Compute,
    claimed: u64,
) -> Result<Planned, Error> {
    let (total, given) = match options.memory {
        MemoryLimit::Bytes(bytes) => (bytes, true),
        MemoryLimit::Auto => (auto_budget(&MemoryLimits::read()?, claimed), false),
    };
    Planner { model, options, total, given, keep: model.bound.keeps.weights, compute }.plan()
}

impl Planner<'_> {
    fn plan(&self) -> Result<Planned, Error> {
        let context = self.context(CONTEXT_DEFAULT)?;
        if let Some(planned) = self.resident(context)? {
            return Ok(planned);
        }
        // Not everything fits. The context holds what is known to be needed and no more; the batch
        // grows towards the prompt, but its scratch takes at most a quarter of what is left: a prompt
        // of 2,000 tokens passes a model of 30B in 6.8 GB at once, which halves what it reads and
        // costs the decoding after it 1.5 % (200 MB of 13 GB are streamed instead of pinned).
        let known = self.options.tokens_needed;
        let context = if known > 0 { self.context(known)? } else { context };
        let sequences = self.options.sequences;
        let (smallest, ..) = self.attempt(context, 1, 0, sequences)?;
        let share = smallest / SCRATCH_DIVISOR;
        let mut wanted = self.options.prompt_tokens.clamp(1, BATCH_MAX);
        loop {
            let (weights, fixed, sizes) = self.attempt(context, wanted, share, sequences)?;
            match self.finish(weights, fixed, sizes) {
                // Near the floor the rest of the weights' bytes is not enough beside such a scratch.
                Err(Error::Budget(_)) if sizes.batch > self.batch_min() => wanted = sizes.batch / 2,
                Err(Error::Budget(_)) => return self.least(context),
                other => return other,
            }
        }
    }

    /// The plan of the smallest sizes there are, for a context of at most `context`. Its refusal names the floor,
    /// and a budget of that much runs: nothing here grows with the budget.
    fn least(&self, context: usize) -> Result<Planned, Error> {
        let shortest = Self { total: 0, ..*self }.context(0)?.min(context);
        let sequences = match self.options.sequences {
            Sequences::AtMost(_) => Sequences::AtMost(1),
            exactly @ Sequences::Exactly(_) => exactly,
        };
        let (weights, fixed, sizes) = self.attempt(shortest, 1, 0, sequences)?;
        self.finish(weights, fixed, sizes)
    }

    /// The plan that keeps every weight, if there is one. Where the number of sequences is free, there
    /// are fewer of them before weights are streamed.
    fn resident(&self, context: usize) -> Result<Option<Planned>, Error> {
        let mut sequences = self.options.sequences;
        loop {
            let (left, fixed, sizes) =
                self.attempt(context, BATCH_RESIDENT, u64::MAX, sequences)?;
            if let Ok(planned) = self.finish(left, fixed, sizes)
                && planned.plan.is_all_resident()
            {
                return Ok(Some(planned));
            }
            match sequences {
                Sequences::AtMost(_) if sizes.sequences > 1 => {
                    sequences = Sequences::AtMost(sizes.sequences / 2);
                }
                _ => return Ok(None),
            }
        }
    }

    /// Bytes left for weights, what the rest costs, and the sizes, for a batch of at most `batch`
    /// tokens whose scratch takes at most `share` bytes.
    fn attempt(
        &self,
        context: usize,
        batch: usize,
        share: u64,
        sequences: Sequences,
    ) -> Result<(u64, FixedCosts, Sizes), Error> {
        let config = &self.model.config;
        let token_bytes = scratch::bytes_per_token(config, self.keep);
        let affordable = usize_of(share / token_bytes.max(1));
        let batch = batch.min(affordable).max(self.batch_min()).min(context);
        let sequences = self.sequences(sequences, context, batch)?;
        let logit_rows = self.options.logit_rows.max(sequences).clamp(1, batch);
        let logits = 4 * logit_rows as u64 * config.vocabulary;
        // Each sequence beyond the first has a sampler at work beside the others'.
        let samplers = SAMPLER_BYTES_PER_TOKEN * (sequences as u64 - 1) * config.vocabulary;
        let memory = ProcessMemory::read()?;
        let fixed = FixedCosts {
            process_bytes: memory.anonymous_bytes,
            vocabulary_bytes: self.model.tokenizer.heap_bytes() as u64,
            program_bytes: memory.file_bytes,
            kv_bytes: (sequences as u64).saturating_mul(kv::bytes(
                config,
                self.options.kv,
                context,
                batch,
            )?),
            scratch_bytes: scratch::bytes(config, self.keep, batch)
                + logits
                + samplers
                + self.compute.scratch_bytes() as u64
                + AttentionScratch::new(self.compute.threads(), attend::sizes(config, context))?
                    .bytes() as u64,
            vector_bytes: 4 * self.model.bound.vector_floats as u64,
            caller_bytes: self.options.caller_bytes,
        };
        let (kv, keep) = (self.options.kv, self.keep);
        let sizes = Sizes { context, batch, logit_rows, sequences, kv, keep };
        Ok((self.total.saturating_sub(fixed.total()), fixed, sizes))
    }

    /// The smallest batch: a token of each sequence, where their number is given.
    fn batch_min(&self) -> usize {
        match self.options.sequences {
            Sequences::Exactly(sequences) => sequences.max(1),
            Sequences::AtMost(_) => 1,
        }
    }

    /// Sequences that share passes: a pass has a token of each.
    fn sequences(&self, of: Sequences, context: usize, batch: usize) -> Result<usize, Error> {
        let wanted = match of {
            Sequences::Exactly(wanted) => wanted,
            Sequences::AtMost(most) => {
                let config = &self.model.config;
                let own = kv::bytes(config, self.options.kv, context, batch)?;
                usize_of(self.total / KV_DIVISOR / own.max(1)).min(most)
            }
        };
        Ok(wanted.clamp(1, batch))
    }

    /// The context that was asked for; else what is wanted, within an eighth of the budget, but
    /// never less than is known to be needed nor more than the model was trained for.
    fn context(&self, wanted: usize) -> Result<usize, Error> {
        if let Some(context) = self.options.context {
            return Ok(context.max(1));
        }
        let config = &self.model.config;
        let trained = config.context_length as usize;
        // Where the whole answer's length is known, room for it is enough: each position of a large
        // model's cache costs as much as several rows of weights.
        let needed = match self.options.tokens_needed {
            0 => CONTEXT_MIN,
            known => known.next_multiple_of(TILE_POSITIONS),
        };
        let position = kv::layout(config, self.options.kv)?.position_bytes() as u64;
        let affordable = self.total / KV_DIVISOR / (position * u64::from(config.layers)).max(1);
        let wanted = usize_of(affordable).min(wanted).max(needed);
        Ok(wanted.min(trained))
    }

    fn finish(&self, weights: u64, fixed: FixedCosts, sizes: Sizes) -> Result<Planned, Error> {
        let mut bound = self.model.bound.clone();
        // Capped far below 2^32 by the configuration's limits.
        let used = self.model.config.experts.as_ref().map_or(0, |experts| experts.used as u32);
        let tiling = bound.cut(tile_target_bytes(weights), used)?;
        let input = crate::open_store::plan_input(self.model, weights, self.options.io)?;
        match Plan::new(tiling.extents, input) {
            Ok(plan) => {
                let budget = Budget {
                    total_bytes: self.total,
                    given: self.given,
                    pinned_bytes: plan.sums.pinned_bytes,
                    ring_bytes: plan.sums.ring_bytes,
                    expert_cache_bytes: plan.sums.expert_bytes,
                    table_bytes: plan.sums.overhead_bytes,
                    streamed_bytes: plan.sums.streamed_bytes,
                    fixed,
                };
                Ok(Planned { plan, tiles: tiling.tiles, bound, budget, sizes })
            }
            Err(PlanError::BelowFloor { floor_bytes, .. }) => Err(BelowFloor {
                budget_bytes: self.total,
                given: self.given,
                floor_bytes: floor_bytes.saturating_add(fixed.total()),
                weights_floor_bytes: floor_bytes,
                fixed,
                context: sizes.context,
                context_min: CONTEXT_MIN,
            }
            .into()),
            Err(other) => Err(other.into()),
        }
    }
}
