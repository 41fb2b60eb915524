//! How many slots each layer keeps.
//!
//! Layers differ: where each token asks for other experts, slots save few reads each but many are wanted;
//! where a few experts serve nearly all tokens, the slots behind those few are idle. Which is which is not
//! known beforehand, so shares begin equal and follow what is seen: a layer that misses a unit which left
//! only lately would have had it with a few slots more, so it gets a part of a slot, of which all pay the
//! same. (Ghost lists that steer sizes are those of Megiddo and Modha, "ARC", 2003; here between layers.)
//!
//! The constants are a compromise found by replay (docs/residency.md): larger steps help a model whose layers
//! differ more, and cost one whose layers are alike, as chance moves shares there.

use std::collections::BTreeSet;

use super::classes::Classes;

/// How lately a unit must have left, in departures from its layer, as a part of a layer's even share.
const LATELY: f32 = 0.5;
/// What a miss of such a unit moves, as a part of the even share: at first, while nothing is known, and what is
/// left of that at least.
const STEP: f32 = 0.04;
const LEAST_STEP: f32 = 0.1;
/// Tokens after which the step is half.
const SETTLED_TOKENS: f32 = 50.0;
/// The least a layer keeps, as a part of the even share.
const LEAST: f32 = 0.25;

/// The layers' shares of the slots, and what they are learnt from.
#[derive(Clone, Debug)]
pub(super) struct Shares {
    layers: Vec<Layer>,
    /// By unit: the number of its departure from its layer, from 1; 0 before it, and again once it has been wanted.
    departed: Vec<u64>,
    /// Whether this pass is a single token; and those so far.
    decoding: bool,
    tokens: u64,
    /// The part of the slots that can be used so far: as much of its share is a layer's.
    part: f32,
}

#[derive(Clone, Debug, Default)]
struct Layer {
    held: u32,
    share: f32,
    /// The share, were those of all layers of its class that have units equal.
    even: f32,
    class: u8,
    departures: u64,
}

impl Shares {
    /// `classes` gives each layer's class, and each class' slots: layers share those of their class.
    pub fn new(layers_of_units: &[u32], classes: &Classes<'_>) -> Shares {
        let used: BTreeSet<u32> = layers_of_units.iter().copied().collect();
        let mut layers = vec![Layer::default(); used.last().map_or(0, |last| *last as usize + 1)];
        for &layer in &used {
            let class = classes.of_layer(layer);
            let others = used.iter().filter(|other| classes.of_layer(**other) == class);
            let even = classes.slots(class) as f32 / others.count() as f32;
            layers[layer as usize] = Layer { share: even, even, class, ..Layer::default() };
        }
        Shares {
            layers,
            departed: vec![0; layers_of_units.len()],
            decoding: false,
            tokens: 0,
            part: 1.0,
        }
    }

    /// The share of a layer, were those of its class equal: in whole slots.
    pub fn even(&self, layer: u32) -> u32 {
        self.layers[layer as usize].even as u32
    }

    /// This part of the slots can be used so far.
    pub fn set_part(&mut self, part: f32) {
        self.part = part;
    }

    /// So many tokens begin.
    pub fn pass(&mut self, tokens: u32) {
        self.decoding = tokens == 1;
        self.tokens += u64::from(self.decoding);
    }

    /// A unit is wanted, and may be there by a guess. Learns from single tokens only: a batch reads what it wants
    /// in the order of the file, whoever left when.
    pub fn wanted(&mut self, unit: u32, layer: u32) {
        let departed = std::mem::take(&mut self.departed[unit as usize]);
        let Layer { departures, even, .. } = self.layers[layer as usize];
        let ago = departures - departed;
        if self.decoding && departed > 0 && (ago as f32) < (LATELY * even).max(1.0) {
            self.give_a_part_to(layer);
        }
    }

    fn give_a_part_to(&mut self, layer: u32) {
        let settled = SETTLED_TOKENS / (SETTLED_TOKENS + self.tokens as f32);
        let Layer { even, class, .. } = self.layers[layer as usize];
        let step = even * STEP * settled.max(LEAST_STEP);
        let part = step / self.layers.iter().filter(|other| other.class == class).count() as f32;
        let least = LEAST * even;
        let mut taken = 0.0;
        for Layer { share, .. } in self.layers.iter_mut().filter(|other| other.class == class) {
            // What is taken is what rounding left: the sum stays that of the slots.
            let less = *share - part.min(*share - least).max(0.0);
            taken += *share - less;
            *share = less;
        }
        self.layers[layer as usize].share += taken;
    }

    /// A unit of a layer has been given a slot.
    pub fn entered(&mut self, layer: u32) {
        self.layers[layer as usize].held += 1;
    }

    /// A unit of a layer has lost its slot. One that nobody had asked for says nothing of the layer's needs.
    pub fn left(&mut self, unit: u32, layer: u32, was_wanted: bool) {
        let layer = &mut self.layers[layer as usize];
        layer.held -= 1;
        if !was_wanted {
            return;
        }
        layer.departures += 1;
        self.departed[unit as usize] = layer.departures;
    }

    /// Whether one slot more is within this layer's share. A layer at its share replaces its own, and does not
    /// take: else each miss would move a slot to and fro and let go what the other layer counts on.
    pub fn below(&self, layer: u32) -> bool {
        let Layer { held, share, .. } = self.layers[layer as usize];
        held as f32 + 1.0 <= share * self.part
    }

    /// Whether this layer holds more than its share.
    pub fn above(&self, layer: u32) -> bool {
        let Layer { held, share, .. } = self.layers[layer as usize];
        held as f32 > share * self.part
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experts::{Admit, ExpertCache, Policy};
    use crate::extent::UnitId;

    /// Two layers of 16 units and 12 slots: the first asks for nine in turn, the second always for the same.
    #[test]
    fn slots_go_to_the_layer_that_misses_what_left_lately() {
        let layers: Vec<u32> = (0..32).map(|unit| unit / 16).collect();
        let mut cache = ExpertCache::new(&layers, 12, Policy::Mixed);
        let mut late_hits = 0;
        for token in 0..600 {
            cache.begin_pass(1);
            for unit in [UnitId(token % 9), UnitId(16)] {
                let hit = cache.want(unit, 1);
                late_hits += u32::from(hit && token >= 500);
                if !hit {
                    let claim = cache.claim(unit, Admit::Keep).unwrap();
                    cache.filled(claim.slot, true);
                    assert!(cache.hold(claim.slot));
                    cache.release(claim.slot);
                }
            }
        }
        // With equal shares, six slots, three of nine tokens would miss at the least.
        assert_eq!(late_hits, 200);
    }

    #[test]
    fn of_half_the_slots_each_layer_has_half_its_share() {
        let mut shares = Shares::new(&[0, 0, 0, 0, 1, 1, 1, 1], &Classes::one(&[0; 4]));
        shares.entered(0);
        assert!(shares.below(0) && !shares.above(0));
        shares.set_part(0.5);
        assert!(!shares.below(0) && !shares.above(0) && shares.below(1));
        shares.entered(0);
        assert!(shares.above(0));
    }

    #[test]
    fn shares_sum_to_the_slots_and_keep_their_least() {
        // The layer in the middle has no experts.
        let layers: Vec<u32> = (0..24).map(|unit| unit / 8 * 2).collect();
        let mut shares = Shares::new(&layers, &Classes::one(&[0; 12]));
        for round in 0..5000u32 {
            shares.pass(1);
            let unit = round % 2;
            shares.wanted(unit, 0);
            shares.entered(0);
            shares.left(unit, 0, true);
        }
        let all: Vec<f32> = shares.layers.iter().map(|layer| layer.share).collect();
        assert!((all.iter().sum::<f32>() - 12.0).abs() < 0.01, "{all:?}");
        assert_eq!(all[1], 0.0);
        assert!(all[0] > 9.5 && all[2] >= 1.0 && all[4] >= 1.0, "{all:?}");
    }
}
