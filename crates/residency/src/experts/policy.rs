//! Which unit goes when room is needed.
//!
//! Time is counted in tokens. Each policy keeps a few numbers for each unit and picks among the slots
//! that may go; with some thousands of slots that scan costs microseconds, and a read milliseconds.
//!
//! **Cycle guard.** A token passes the layers in order, so units last used by the same token do not
//! come back at the same time: those of the layer just passed come back last, those of the next layer
//! first. Plain least-recently-used would evict exactly the ones that come next. So among units that
//! are otherwise equal, the one whose layer is farthest ahead goes.

use super::classes::Classes;
use super::rates::Rates;
use super::shares::Shares;

/// How the unit that goes is chosen.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Policy {
    /// The one used longest ago, use by use.
    Lru,
    /// The one used longest ago, token by token, with the cycle guard.
    LruCycle,
    /// The one used least, where a use counts half as much after so many tokens; cycle guard among
    /// equals.
    Lfu {
        /// Tokens after which a use counts half.
        half_life: f32,
    },
    /// As [`Policy::Lfu`], but each layer keeps an equal share of the slots.
    LfuPerLayer {
        /// Tokens after which a use counts half.
        half_life: f32,
    },
    /// As [`Policy::LfuPerLayer`], with shares that follow where slots would save reads, and counts that forget
    /// at four speeds, of which those that predict best count most.
    Mixed,
    /// S3-FIFO: a tenth of the slots for newcomers, who move on when they are used again; a queue that
    /// gives used ones another round.
    S3Fifo,
}

impl Policy {
    /// What [`Policy::named`] knows.
    pub const NAMES: [&'static str; 6] =
        ["lru", "lru-cycle", "lfu", "lfu-layer", "mixed", "s3-fifo"];

    /// The policy of this name; decaying ones may be followed by their half-life, as in `lfu:64`.
    #[must_use]
    pub fn named(name: &str) -> Option<Policy> {
        let (name, half_life) = match name.split_once(':') {
            Some((name, text)) => (name, text.parse().ok().filter(|h: &f32| *h > 0.0)?),
            None => (name, HALF_LIFE_TOKENS),
        };
        Some(match name {
            "lru" => Policy::Lru,
            "lru-cycle" => Policy::LruCycle,
            "lfu" => Policy::Lfu { half_life },
            "lfu-layer" => Policy::LfuPerLayer { half_life },
            "mixed" => Policy::Mixed,
            "s3-fifo" => Policy::S3Fifo,
            _ => return None,
        })
    }
}

/// The half-life that measured best over all traffic, where it is the same for all.
const HALF_LIFE_TOKENS: f32 = 32.0;

/// The most even one over all traffic (docs/residency.md has the table).
impl Default for Policy {
    fn default() -> Policy {
        Policy::Mixed
    }
}

/// What is known of a unit.
#[derive(Clone, Copy, Debug)]
struct Seen {
    layer: u32,
    /// Use by use.
    order: u64,
    token: u64,
    /// Binary logarithm of the sum of `2^(t / half-life)` over the tokens `t` that used it: its order
    /// among units does not change as time passes, so nothing has to be decayed.
    heat: f64,
    /// S3-FIFO: uses since it came or was given another round, at most 3.
    uses: u8,
    /// S3-FIFO: left lately.
    ghost_until: u64,
}

/// A policy's memory.
#[derive(Clone, Debug)]
pub(super) struct Judge {
    policy: Policy,
    seen: Vec<Seen>,
    layers: u32,
    slots: u32,
    now: u64,
    layer: u32,
    uses: u64,
    /// S3-FIFO, by slot: when it was queued, and whether among the newcomers.
    queued: Vec<u64>,
    newcomer: Vec<bool>,
    newcomers: u32,
    queue_clock: u64,
    rates: Rates,
    shares: Shares,
}

impl Judge {
    pub fn new(policy: Policy, layers_of_units: &[u32], classes: &Classes<'_>) -> Judge {
        let slots = classes.slot_count();
        let layers = layers_of_units.iter().max().map_or(1, |last| last + 1);
        let seen = |&layer: &u32| Seen {
            layer,
            order: 0,
            token: 0,
            heat: f64::NEG_INFINITY,
            uses: 0,
            ghost_until: 0,
        };
        Judge {
            policy,
            seen: layers_of_units.iter().map(seen).collect(),
            layers,
            slots,
            now: 0,
            layer: 0,
            uses: 0,
            queued: vec![0; slots as usize],
            newcomer: vec![false; slots as usize],
            newcomers: 0,
            queue_clock: 0,
            rates: Rates::new(layers_of_units.len(), layers as usize),
            shares: Shares::new(layers_of_units, classes),
        }
    }

    pub fn layer_of(&self, unit: u32) -> u32 {
        self.seen[unit as usize].layer
    }

    /// Slots of each layer that shares them with a unit's layer, were all alike.
    pub fn even_share(&self, unit: u32) -> u32 {
        self.shares.even(self.layer_of(unit))
    }

    /// This part of the slots can be used so far.
    pub fn set_part(&mut self, part: f32) {
        self.shares.set_part(part);
    }

    /// So many tokens begin.
    pub fn pass(&mut self, tokens: u32) {
        self.now += u64::from(tokens);
        self.rates.pass(u64::from(tokens));
        self.shares.pass(tokens);
    }

    /// `tokens` of the pass use a unit.
    pub fn used(&mut self, unit: u32, tokens: u32) {
        self.uses += 1;
        let half_life = match self.policy {
            Policy::Lfu { half_life } | Policy::LfuPerLayer { half_life } => half_life,
            _ => 1.0,
        };
        let seen = &mut self.seen[unit as usize];
        self.layer = seen.layer;
        if self.policy == Policy::Mixed {
            self.shares.wanted(unit, seen.layer);
            return self.rates.used(unit, seen.layer, tokens);
        }
        seen.order = self.uses;
        seen.token = self.now;
        seen.uses = (seen.uses + 1).min(3);
        let fresh = self.now as f64 / f64::from(half_life) + f64::from(tokens).log2();
        let (high, low) = if seen.heat > fresh { (seen.heat, fresh) } else { (fresh, seen.heat) };
        seen.heat = high + (1.0 + (low - high).exp2()).log2();
    }

    /// A unit has been given a slot.
    pub fn entered(&mut self, unit: u32, slot: u32) {
        let seen = &mut self.seen[unit as usize];
        self.shares.entered(seen.layer);
        self.queue_clock += 1;
        self.queued[slot as usize] = self.queue_clock;
        let is_new = seen.ghost_until < self.queue_clock;
        self.newcomer[slot as usize] = is_new;
        self.newcomers += u32::from(is_new);
        seen.uses = 0;
    }

    /// A unit has lost its slot; nobody had wanted it if it was guessed wrongly.
    pub fn left(&mut self, unit: u32, slot: u32, was_wanted: bool) {
        let seen = &mut self.seen[unit as usize];
        self.shares.left(unit, seen.layer, was_wanted);
        if std::mem::take(&mut self.newcomer[slot as usize]) {
            self.newcomers -= 1;
            seen.ghost_until = self.queue_clock + u64::from(self.slots);
        }
    }

    /// Layers until this one comes again.
    fn ahead(&self, layer: u32) -> u32 {
        (layer + self.layers - self.layer - 1) % self.layers
    }

    /// The slot that goes, of those given as `(slot, unit)`, in which `for_unit` has room.
    pub fn victim<I>(&mut self, for_unit: u32, candidates: impl Fn() -> I) -> Option<u32>
    where
        I: Iterator<Item = (u32, u32)>,
    {
        let seen = |unit: u32| self.seen[unit as usize];
        let found = match self.policy {
            Policy::Lru => candidates().min_by_key(|&(_, unit)| seen(unit).order),
            Policy::LruCycle => candidates().min_by_key(|&(_, unit)| {
                (seen(unit).token, std::cmp::Reverse(self.ahead(seen(unit).layer)))
            }),
            Policy::Lfu { .. } => self.coldest(candidates()),
            Policy::LfuPerLayer { .. } | Policy::Mixed => {
                let own = seen(for_unit).layer;
                // A layer below its share takes from those above theirs.
                let takes = self.shares.below(own);
                let from = |layer| if takes { self.shares.above(layer) } else { layer == own };
                self.coldest(candidates().filter(|&(_, unit)| from(seen(unit).layer)))
                    .or_else(|| self.coldest(candidates().filter(|c| seen(c.1).layer == own)))
                    .or_else(|| self.coldest(candidates()))
            }
            Policy::S3Fifo => return self.s3_victim(candidates),
        };
        found.map(|(slot, _)| slot)
    }

    fn coldest(&self, candidates: impl Iterator<Item = (u32, u32)>) -> Option<(u32, u32)> {
        let heat = |unit: u32, seen: Seen| match self.policy {
            Policy::Mixed => f64::from(self.rates.rate(unit, seen.layer)),
            _ => seen.heat,
        };
        let judged = candidates.map(|(slot, unit)| {
            let seen = self.seen[unit as usize];
            (heat(unit, seen), self.ahead(seen.layer), (slot, unit))
        });
        let coldest = judged.min_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        coldest.map(|(.., found)| found)
    }

    fn s3_victim<I>(&mut self, candidates: impl Fn() -> I) -> Option<u32>
    where
        I: Iterator<Item = (u32, u32)>,
    {
        loop {
            let from_new = self.newcomers > self.slots / 10;
            let oldest = |new: bool| {
                let own = candidates().filter(|c| self.newcomer[c.0 as usize] == new);
                own.min_by_key(|c| self.queued[c.0 as usize])
            };
            let (slot, unit) = oldest(from_new).or_else(|| oldest(!from_new))?;
            let seen = &mut self.seen[unit as usize];
            if seen.uses <= 1 && self.newcomer[slot as usize] || seen.uses == 0 {
                return Some(slot);
            }
            // Another round, at the end of the queue of those who stay.
            seen.uses -= 1;
            self.queue_clock += 1;
            self.queued[slot as usize] = self.queue_clock;
            if std::mem::take(&mut self.newcomer[slot as usize]) {
                self.newcomers -= 1;
                seen.uses = 0;
            }
        }
    }
}
