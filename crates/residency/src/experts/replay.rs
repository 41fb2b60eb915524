//! Recorded traffic, replayed: the live cache's own code against Belady's optimum, without a disk.
//!
//! A layer asks for all experts of a token at once, and they all have to be there together; the
//! optimum is bound by that as well. Among what may go it drops the unit whose next use is farthest.

use super::cache::{Admit, ExpertCache, Standing};
use super::policy::Policy;
use crate::extent::UnitId;

/// Which experts each token used.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Trace {
    /// Layers that have experts.
    pub layers: u32,
    /// Experts of a layer.
    pub experts: u32,
    /// Experts of a layer that a token uses.
    pub used: u32,
    /// `[token][layer][used]`, ascending in each layer.
    picks: Vec<u32>,
}

impl Trace {
    /// A trace of no tokens; all three are at least 1.
    #[must_use]
    pub fn new(layers: u32, experts: u32, used: u32) -> Trace {
        let used = used.clamp(1, experts.max(1));
        Trace { layers: layers.max(1), experts: experts.max(1), used, picks: Vec::new() }
    }

    /// Picks of one token: `[layer][used]`. False if they are not as many, or no experts.
    pub fn push(&mut self, picks: &[u32]) -> bool {
        let fits = picks.len() == (self.layers * self.used) as usize
            && picks.iter().all(|&expert| expert < self.experts);
        if fits {
            self.picks.extend_from_slice(picks);
        }
        fits
    }

    /// Tokens.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.picks.len() / (self.layers * self.used) as usize
    }

    /// All picks, `[token][layer][used]`.
    #[must_use]
    pub fn picks(&self) -> &[u32] {
        &self.picks
    }

    /// The units one layer of one token asks for at once, over all tokens and layers in order.
    fn demands(&self) -> impl Iterator<Item = impl Iterator<Item = u32> + Clone + '_> + '_ {
        let layers = self.layers as usize;
        self.picks.chunks(self.used as usize).enumerate().map(move |(i, picks)| {
            let first = (i % layers) as u32 * self.experts;
            picks.iter().map(move |&expert| first + expert)
        })
    }

    fn layers_of_units(&self) -> Vec<u32> {
        (0..self.layers * self.experts).map(|unit| unit / self.experts).collect()
    }
}

/// What a replay met.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hits {
    /// Uses of units that were there.
    pub hits: u64,
    /// Uses of units that were not.
    pub misses: u64,
}

impl Hits {
    /// Hits of all uses; 0 for none.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.hits as f64 / (self.hits + self.misses).max(1) as f64
    }
}

/// Replays a trace through a cache. The first `warm` tokens are not counted.
#[must_use]
pub fn replay(trace: &Trace, slots: u32, policy: Policy, warm: usize) -> Hits {
    let mut cache = ExpertCache::new(&trace.layers_of_units(), slots, policy);
    let mut hits = Hits::default();
    let layers = trace.layers as usize;
    for (i, units) in trace.demands().enumerate() {
        if i % layers == 0 {
            cache.begin_pass(1);
        }
        for unit in units.clone() {
            let hit = cache.want(UnitId(unit), 1);
            if i / layers >= warm {
                hits.hits += u64::from(hit);
                hits.misses += u64::from(!hit);
            }
        }
        // As the live store does: those that are there are used while the others come.
        for unit in units.clone().map(UnitId) {
            if let Standing::Ready(slot) = cache.standing(unit) {
                cache.hold(slot);
            }
        }
        for unit in units.clone().map(UnitId) {
            if cache.standing(unit) == Standing::Absent
                && let Some(claim) = cache.claim(unit, Admit::Keep)
            {
                cache.filled(claim.slot, true);
                cache.hold(claim.slot);
            }
        }
        for unit in units.map(UnitId) {
            if let Standing::Held(slot) = cache.standing(unit) {
                cache.release(slot);
            }
        }
    }
    hits
}

/// Belady's optimum for the same trace and slots: no policy that must hold what it computes with can
/// have more hits.
#[must_use]
pub fn optimum(trace: &Trace, slots: u32, warm: usize) -> Hits {
    let demands: Vec<Vec<u32>> = trace.demands().map(Iterator::collect).collect();
    // Next use of each use, in demands, from the end.
    let mut upcoming = vec![u32::MAX; (trace.layers * trace.experts) as usize];
    let mut next_use: Vec<Vec<u32>> = vec![Vec::new(); demands.len()];
    for (i, demand) in demands.iter().enumerate().rev() {
        next_use[i] = demand.iter().map(|&unit| upcoming[unit as usize]).collect();
        demand.iter().for_each(|&unit| upcoming[unit as usize] = i as u32);
    }
    foreseen(&demands, slots, warm * trace.layers as usize, |i, j| next_use[i][j])
}

/// The same with less foresight: how often the whole trace uses each unit, not when. Each layer has its share
/// of the slots, and what is used least goes: about the best that counting can do where nothing changes.
#[must_use]
pub fn frequencies_known(trace: &Trace, slots: u32, warm: usize) -> Hits {
    let mut all = Hits::default();
    for layer in 0..trace.layers as usize {
        let own = trace.demands().skip(layer).step_by(trace.layers as usize);
        let demands: Vec<Vec<u32>> = own.map(Iterator::collect).collect();
        let mut uses = vec![0u32; (trace.layers * trace.experts) as usize];
        demands.iter().flatten().for_each(|&unit| uses[unit as usize] += 1);
        let key = |i: usize, j: usize| u32::MAX - uses[demands[i][j] as usize];
        let hits = foreseen(&demands, (slots / trace.layers).max(trace.used), warm, key);
        all.hits += hits.hits;
        all.misses += hits.misses;
    }
    all
}

/// Replays demands, of which the first `warm` are not counted; when room is needed the unit goes whose `key` (of
/// a demand, and a place in it) was highest at its last use.
fn foreseen(
    demands: &[Vec<u32>],
    slots: u32,
    warm: usize,
    key: impl Fn(usize, usize) -> u32,
) -> Hits {
    // Units that are in, by their key.
    let mut present = std::collections::BTreeSet::new();
    let units = demands.iter().flatten().max().map_or(0, |&last| last as usize + 1);
    let mut keys = vec![None; units];
    let mut hits = Hits::default();
    for (i, demand) in demands.iter().enumerate() {
        let counts = i >= warm;
        for &unit in demand {
            let hit = keys[unit as usize].take();
            if let Some(old) = hit {
                present.remove(&(old, unit));
            }
            hits.hits += u64::from(counts && hit.is_some());
            hits.misses += u64::from(counts && hit.is_none());
        }
        // Those of this demand are in now, whatever comes; the rest shares what is left.
        let room = (slots as usize).saturating_sub(demand.len());
        while present.len() > room {
            if let Some((_, gone)) = present.pop_last() {
                keys[gone as usize] = None;
            }
        }
        for (j, &unit) in demand.iter().enumerate() {
            present.insert((key(i, j), unit));
            keys[unit as usize] = Some(key(i, j));
        }
    }
    hits
}
