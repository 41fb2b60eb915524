//! Between the cache of experts and the lanes: what a layer has asked for, in order, and how far each
//! unit's slices have come.

use crate::experts::guesses::Guesses;
use crate::experts::{Admit, Claim, Classes, ExpertCache, Policy, Standing};
use crate::extent::{UNIT_SLICES, UnitId};
use crate::plan::Plan;
use crate::ring::SlotId;
use crate::stats::LayerTraffic;

/// What a router has asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ExpertUse {
    /// The unit.
    pub unit: UnitId,
    /// Tokens of the batch that use it.
    pub tokens: u32,
}

/// A unit to be read now, into a slot of which `evicted` was the last owner.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fetch {
    pub unit: UnitId,
    pub claim: Claim,
}

/// Units that are read at once; each is three reads.
const LOADING_MAX: u32 = 64;

/// The state of all experts.
pub(crate) struct LiveExperts {
    cache: ExpertCache,
    /// What the layer needs, in order of use.
    demanded: Vec<(UnitId, Admit)>,
    /// All before this one have been asked of the disk.
    next: usize,
    /// By slot.
    arriving: Vec<Arriving>,
    loading: u32,
    /// By layer, since the store was opened.
    traffic: Vec<LayerTraffic>,
    unit_bytes: Vec<u64>,
    /// What larger caches would have hit.
    ghosts: Vec<Ghost>,
    ghost_uses: u64,
    guesses: Guesses,
    /// What may be needed soon, the likeliest first.
    guessed: Vec<UnitId>,
    /// All before this one have been asked of the disk, or need not be.
    next_guess: usize,
    /// Units that a guess is about, while room is made for it.
    kept: Vec<UnitId>,
}

/// What a layer's demand met.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Met {
    pub hits: u64,
    pub misses: u64,
    /// Of the misses: somebody had guessed them, and they were on their way or there.
    pub guessed: u64,
    /// Bytes of the misses.
    pub bytes: u64,
}

/// How the read of a slice ended, the worse the later.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub(crate) enum Outcome {
    #[default]
    Read,
    /// It was a guess, which nobody needed before it began; or it failed for a pass that has ended.
    Withdrawn,
    Failed,
}

/// What the last slice of a unit brought with it; nothing for those before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Came {
    /// It was read on a guess.
    pub is_guess: bool,
    /// It is absent again, as if it had not been asked of the disk.
    pub forgotten: bool,
}

/// A unit on its way.
#[derive(Clone, Copy, Debug, Default)]
struct Arriving {
    /// Slices.
    to_come: u8,
    worst: Outcome,
    /// It was begun on a guess of this rank.
    guess: Option<u8>,
    /// It was begun for a pass that has ended.
    is_stale: bool,
}

/// A cache of another size that sees the same uses.
struct Ghost {
    cache: ExpertCache,
    hits: u64,
}

/// Sizes of the ghosts, in percent of the cache.
pub const GHOST_PERCENT: [u32; 2] = [150, 200];

impl LiveExperts {
    pub fn new(plan: &Plan, policy: Policy) -> LiveExperts {
        let extents = plan.extents();
        let layers: Vec<u32> = extents.units().iter().map(|unit| unit.layer).collect();
        let of_slot = plan.experts.class_of_slot();
        let slots = of_slot.len();
        let bytes = |unit: &crate::extent::Unit| {
            unit.slices.iter().map(|id| extents[id.index()].len).sum::<u64>()
        };
        let units = layers.len() as u32;
        let ghost = |percent: u32| {
            let slots = (slots as u64 * u64::from(percent) / 100).min(u64::from(units));
            // At most `units`, which are 32 bits.
            Ghost { cache: ExpertCache::new(&layers, slots as u32, policy), hits: 0 }
        };
        let most = (0..extents.expert_layers())
            .map(|layer| layers.iter().filter(|&&l| l == layer).count())
            .max()
            .unwrap_or(0);
        let classes = Classes::new(&of_slot, plan.experts.class_of_layer());
        LiveExperts {
            cache: ExpertCache::with_classes(&layers, &classes, policy),
            demanded: Vec::with_capacity(most * 2),
            next: 0,
            arriving: vec![Arriving::default(); slots],
            loading: 0,
            traffic: vec![LayerTraffic::default(); extents.expert_layers() as usize],
            unit_bytes: extents.units().iter().map(bytes).collect(),
            ghosts: GHOST_PERCENT.map(ghost).into_iter().collect(),
            ghost_uses: 0,
            guesses: Guesses::default(),
            guessed: Vec::with_capacity(most),
            next_guess: 0,
            kept: Vec::with_capacity(most),
        }
    }

    /// What failed in the last pass does not fail this one: [`LiveExperts::forget_failure`] comes before.
    pub fn begin_pass(&mut self, tokens: u32) {
        for arriving in self.arriving.iter_mut().filter(|a| a.to_come > 0) {
            // The slot is free when the slices that are still under way have come back, not before.
            arriving.worst = arriving.worst.min(Outcome::Withdrawn);
            arriving.is_stale = true;
        }
        self.cache.begin_pass(tokens);
        self.ghosts.iter_mut().for_each(|ghost| ghost.cache.begin_pass(tokens));
        self.forget_asked();
    }

    /// Nothing is needed, and nothing is guessed.
    fn forget_asked(&mut self) {
        self.demanded.clear();
        self.next = 0;
        self.forget_guesses();
    }

    /// A unit that failed in the last pass, now absent. Call until it says `None`. All of its slices have
    /// come back, so nothing lands in its slot any more.
    pub fn forget_failure(&mut self) -> Option<UnitId> {
        self.cache.forget_untold()
    }

    /// A layer needs these units, in this order.
    ///
    /// Of a long prompt's units the most used ones are kept as long as there is room whose memory is there, each
    /// layer its share; the others only pass.
    pub fn demand(&mut self, uses: &[ExpertUse], is_stream: bool) -> Met {
        self.forget_asked();
        let mut met = Met::default();
        for u in uses {
            let guessed = self.cache.take_guess(u.unit);
            let hit = self.cache.want(u.unit, u.tokens) && guessed.is_none();
            if let Some(rank) = guessed.and_then(|slot| self.arriving[slot.0 as usize].guess) {
                self.guesses.rank(rank).right();
            }
            met.guessed += u64::from(guessed.is_some());
            met.hits += u64::from(hit);
            met.misses += u64::from(!hit);
            met.bytes += if hit { 0 } else { self.unit_bytes[u.unit.index()] };
            if let Some(layer) = self.traffic.get_mut(self.cache.layer_of(u.unit) as usize) {
                layer.hits += u64::from(hit);
                layer.misses += u64::from(!hit);
            }
        }
        // Of one layer, so of one class.
        let (share, mut room) = match uses.first() {
            Some(first) if is_stream => {
                let share = self.cache.even_share(first.unit);
                (share as usize, share.min(self.cache.room_there(first.unit)) as usize)
            }
            _ => (0, 0),
        };
        for u in uses {
            let admit = if is_stream {
                let better = |other: &&ExpertUse| (other.tokens, u.unit) > (u.tokens, other.unit);
                let is_kept = uses.iter().filter(better).count() < share && room > 0;
                room -= usize::from(is_kept);
                if is_kept { Admit::Keep } else { Admit::Pass }
            } else {
                Admit::Keep
            };
            self.demanded.push((u.unit, admit));
        }
        if !is_stream {
            self.ghost_uses += uses.len() as u64;
            self.ghosts.iter_mut().for_each(|ghost| ghost.see(uses));
        }
        met
    }

    /// These units may be needed soon, the likeliest first.
    pub fn guess(&mut self, units: &[UnitId]) {
        self.forget_guesses();
        self.guessed.extend_from_slice(units);
    }

    fn forget_guesses(&mut self) {
        self.guessed.clear();
        self.next_guess = 0;
    }

    /// The next unit to read on a guess, if there is one that is missing and has room. Nothing while what is needed now
    /// waits for room itself, and none whose like turned out wrong too often. The room is made only now, as what is never
    /// read should not cost anybody's place.
    pub fn next_guess(&mut self) -> Option<Fetch> {
        if self.next < self.demanded.len() || self.loading >= LOADING_MAX {
            return None;
        }
        while let Some(&unit) = self.guessed.get(self.next_guess) {
            let rank = u8::try_from(self.next_guess).unwrap_or(u8::MAX);
            self.next_guess += 1;
            if self.cache.standing(unit) != Standing::Absent || !self.guesses.rank(rank).pays() {
                continue;
            }
            if let Some(claim) = self.claim_for_guess(unit) {
                self.begin(claim.slot, Some(rank));
                return Some(Fetch { unit, claim });
            }
        }
        None
    }

    /// Room for a guess, but not that of another one.
    fn claim_for_guess(&mut self, unit: UnitId) -> Option<Claim> {
        for &other in &self.guessed {
            if self.cache.keep(other, true) {
                self.kept.push(other);
            }
        }
        let claim = self.cache.claim(unit, Admit::Guess);
        while let Some(other) = self.kept.pop() {
            self.cache.keep(other, false);
        }
        claim
    }

    /// The next unit to read. Call until it says `None`.
    pub fn next_fetch(&mut self) -> Option<Fetch> {
        while let Some(&(unit, admit)) = self.demanded.get(self.next) {
            if self.cache.standing(unit) != Standing::Absent {
                self.next += 1;
                continue;
            }
            if self.loading >= LOADING_MAX {
                return None;
            }
            let claim = self.cache.claim(unit, admit)?;
            self.begin(claim.slot, None);
            self.next += 1;
            return Some(Fetch { unit, claim });
        }
        None
    }

    /// The same for the unit that is used next, at the cost of one that is used later.
    pub fn force_fetch(&mut self, unit: UnitId) -> Option<Fetch> {
        if self.loading > 0 || self.cache.standing(unit) != Standing::Absent {
            return None;
        }
        let admit = self.demanded.iter().find(|d| d.0 == unit).map_or(Admit::Keep, |d| d.1);
        let demanded = &self.demanded;
        let later = |other: UnitId| demanded.iter().position(|d| d.0 == other).unwrap_or(0);
        // Not asked for, there may be room all the same.
        let room = self.cache.claim(unit, admit);
        let claim = room.or_else(|| self.cache.claim_wanted(unit, admit, later))?;
        self.next = 0;
        self.begin(claim.slot, None);
        Some(Fetch { unit, claim })
    }

    fn begin(&mut self, slot: SlotId, guess: Option<u8>) {
        let to_come = UNIT_SLICES as u8;
        self.arriving[slot.0 as usize] = Arriving { to_come, guess, ..Arriving::default() };
        self.loading += 1;
    }

    /// A slice has come back.
    pub fn slice_done(&mut self, slot: SlotId, outcome: Outcome) -> Came {
        let arriving = &mut self.arriving[slot.0 as usize];
        // Of what a pass that has ended began, this one is not told: it asks again.
        let most = if arriving.is_stale { Outcome::Withdrawn } else { Outcome::Failed };
        arriving.worst = arriving.worst.max(outcome.min(most));
        arriving.to_come = arriving.to_come.saturating_sub(1);
        let Arriving { to_come: 0, worst, guess, .. } = *arriving else {
            return Came::default();
        };
        self.loading = self.loading.saturating_sub(1);
        let unasked = self.cache.is_unasked(slot);
        self.cache.filled(slot, worst == Outcome::Read);
        // What was withdrawn, and the failure of what nobody asked for, nobody is told.
        let forgotten = worst == Outcome::Withdrawn || (worst == Outcome::Failed && unasked);
        if forgotten {
            self.cache.forget_failed(slot);
            // Somebody may have asked meanwhile, and passed it by as on its way.
            self.next = 0;
        }
        let read = guess.filter(|_| worst != Outcome::Withdrawn);
        if let Some(rank) = read {
            self.guesses.rank(rank).read();
        }
        Came { is_guess: read.is_some(), forgotten }
    }

    /// Whether nothing is on its way or waiting.
    pub fn is_idle(&self) -> bool {
        self.loading == 0
            && self.next >= self.demanded.len()
            && self.next_guess >= self.guessed.len()
    }

    pub fn cache(&mut self) -> &mut ExpertCache {
        &mut self.cache
    }

    pub fn standing(&self, unit: UnitId) -> Standing {
        self.cache.standing(unit)
    }

    pub fn traffic(&self) -> &[LayerTraffic] {
        &self.traffic
    }

    /// Uses by decoded tokens, and hits that caches of [`GHOST_PERCENT`] of this one's slots would
    /// have had of them.
    pub fn ghost_hits(&self) -> (u64, [u64; GHOST_PERCENT.len()]) {
        let mut hits = [0; GHOST_PERCENT.len()];
        hits.iter_mut().zip(&self.ghosts).for_each(|(h, ghost)| *h = ghost.hits);
        (self.ghost_uses, hits)
    }
}

impl Ghost {
    fn see(&mut self, uses: &[ExpertUse]) {
        for u in uses {
            self.hits += u64::from(self.cache.want(u.unit, u.tokens));
        }
        for u in uses {
            if self.cache.standing(u.unit) == Standing::Absent
                && let Some(claim) = self.cache.claim(u.unit, Admit::Keep)
            {
                self.cache.filled(claim.slot, true);
            }
        }
        for u in uses {
            if let Standing::Ready(slot) = self.cache.standing(u.unit) {
                self.cache.hold(slot);
                self.cache.release(slot);
            }
        }
    }
}
