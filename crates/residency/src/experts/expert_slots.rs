//! How many units the cache of experts holds, and of which size. Pure arithmetic, a part of the plan.
//!
//! Files mix formats: of two layers the one's down projections may have four bits and the other's six. Were all
//! slots as large as the largest unit, a layer of smaller ones would waste the rest of its slots (7 % of the
//! cache with a usual Q4_K/Q6_K mix). So layers of nearly the same size make a class with slots of its own, as
//! many as its units are of all units.

use crate::extent::{Extents, UNIT_SLICES};
use crate::plan::PAGE_BYTES;

/// Sizes of slots, at most: mixes of formats have two or three.
const CLASSES_MAX: usize = 4;

/// Slots of one size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SlotClass {
    /// Slots.
    pub slots: u32,
    /// Bytes of a slot's parts, one for each slice: the largest slice's, in whole pages.
    pub spans: [u64; UNIT_SLICES],
}

impl SlotClass {
    /// Bytes of one slot.
    #[must_use]
    pub fn slot_bytes(&self) -> u64 {
        self.spans.iter().sum()
    }
}

/// The cache of experts: slots that hold one unit each.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ExpertSlots {
    /// Slots of all classes.
    pub slots: u32,
    classes: Vec<SlotClass>,
    class_of_layer: Vec<u8>,
}

impl ExpertSlots {
    /// The sizes of slots, each with at least one.
    #[must_use]
    pub fn classes(&self) -> &[SlotClass] {
        &self.classes
    }

    /// By layer that has experts: its place in [`ExpertSlots::classes`].
    #[must_use]
    pub fn class_of_layer(&self) -> &[u8] {
        &self.class_of_layer
    }

    /// The class of each slot, evenly mixed: memory comes in from the front, for all of them.
    #[must_use]
    pub fn class_of_slot(&self) -> Vec<u8> {
        let mut order: Vec<(f64, u8)> = Vec::with_capacity(self.slots as usize);
        for (class, of) in (0u8..).zip(&self.classes) {
            let slots = f64::from(of.slots);
            order.extend((0..of.slots).map(|i| ((f64::from(i) + 0.5) / slots, class)));
        }
        order.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        order.into_iter().map(|(_, class)| class).collect()
    }

    /// Units of any one layer that can be held at once.
    #[must_use]
    pub fn held_together(&self) -> u32 {
        self.classes.iter().map(|class| class.slots).min().unwrap_or(0)
    }

    /// Bytes of all slots.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.cost(|bytes| bytes)
    }

    /// What all slots cost, if one of so many bytes costs `cost`.
    pub(crate) fn cost(&self, cost: impl Fn(u64) -> u64) -> u64 {
        self.classes.iter().map(|class| u64::from(class.slots) * cost(class.slot_bytes())).sum()
    }

    /// Slots for `free` bytes, which are at least `smallest` and the slots of the floor; all tiles of
    /// the trunk take `trunk`, and a slot of so many bytes takes `cost`.
    ///
    /// The trunk comes first, because every token uses all of it and only a few of a layer's experts.
    /// But a layer's experts come as one deep queue only if they have a slot each, so a quarter of
    /// what is left goes to that.
    pub(crate) fn for_budget(
        extents: &Extents,
        free: u64,
        (smallest, trunk): (u64, u64),
        cost: impl Fn(u64) -> u64,
    ) -> ExpertSlots {
        let units = extents.units().len() as u64;
        if units == 0 {
            return ExpertSlots::default();
        }
        let spans = unit_spans(extents);
        let unit_cost = cost(spans.iter().sum());
        let together = u64::from(extents.used_together()) + 2;
        let floor = floor_slots(extents);
        // At the floor exactly this much is left.
        let most = free.saturating_sub(smallest) / unit_cost.max(1);
        let share = (free / 4 / unit_cost.max(1)).clamp(floor, together.max(floor));
        let behind_trunk = free.saturating_sub(trunk) / unit_cost.max(1);
        // Units are counted in 32 bits.
        let slots = share.max(behind_trunk).min(most).min(units) as u32;
        let one = ExpertSlots {
            slots,
            classes: vec![SlotClass { slots, spans }],
            class_of_layer: vec![0; extents.expert_layers() as usize],
        };
        // More slots, never fewer, so that more memory never means less of anything.
        ExpertSlots::in_classes(extents, u64::from(slots) * unit_cost, together, &cost)
            .filter(|several| several.slots >= one.slots)
            .unwrap_or(one)
    }

    /// Slots of several sizes that cost no more than `bytes`; `None` if layers differ too little, or if
    /// a class would have fewer than `together`.
    fn in_classes(
        extents: &Extents,
        bytes: u64,
        together: u64,
        cost: impl Fn(u64) -> u64,
    ) -> Option<ExpertSlots> {
        let (class_of_layer, spans) = sizes(extents);
        if spans.len() < 2 {
            return None;
        }
        let mut units = vec![0u64; spans.len()];
        for unit in extents.units() {
            units[usize::from(class_of_layer[unit.layer as usize])] += 1;
        }
        let costs = spans.iter().map(|spans| cost(spans.iter().sum()));
        // All units' cost; each class has the same part of its units.
        let whole: u64 = units.iter().zip(costs).map(|(units, cost)| units * cost).sum();
        let of = |(units, spans)| {
            let part = u128::from(units) * u128::from(bytes.min(whole)) / u128::from(whole.max(1));
            // At most `units`.
            SlotClass { slots: part as u32, spans }
        };
        let classes: Vec<SlotClass> = units.into_iter().zip(spans).map(of).collect();
        let is_enough = classes.iter().all(|class| u64::from(class.slots) >= together);
        let slots = classes.iter().map(|class| class.slots).sum();
        is_enough.then_some(ExpertSlots { slots, classes, class_of_layer })
    }
}

/// Slots that must be there: one in use and one being read.
pub(crate) fn floor_slots(extents: &Extents) -> u64 {
    (extents.units().len() as u64).min(2)
}

/// The largest slice of each kind in whole pages.
pub(crate) fn unit_spans(extents: &Extents) -> [u64; UNIT_SLICES] {
    layer_spans(extents).into_iter().fold([0; UNIT_SLICES], larger)
}

/// The same of each layer.
fn layer_spans(extents: &Extents) -> Vec<[u64; UNIT_SLICES]> {
    let mut spans = vec![[0; UNIT_SLICES]; extents.expert_layers() as usize];
    for unit in extents.units() {
        let own = unit.slices.map(|id| extents[id.index()].aligned(PAGE_BYTES));
        let layer = &mut spans[unit.layer as usize];
        *layer = larger(*layer, own.map(|pages| pages.end - pages.start));
    }
    spans
}

fn larger(a: [u64; UNIT_SLICES], b: [u64; UNIT_SLICES]) -> [u64; UNIT_SLICES] {
    std::array::from_fn(|slice| a[slice].max(b[slice]))
}

/// The class of each layer, and the parts that each class' slots need. Layers belong together if the
/// larger needs at most a 32nd more, as where slices begin moves sizes by a page; or more than
/// that, if there were too many classes.
fn sizes(extents: &Extents) -> (Vec<u8>, Vec<[u64; UNIT_SLICES]>) {
    let layers = layer_spans(extents);
    let bytes = |layer: &usize| layers[*layer].iter().sum::<u64>();
    let mut order: Vec<usize> = (0..layers.len()).filter(|layer| bytes(layer) > 0).collect();
    order.sort_by_key(bytes);
    let mut part = 32;
    loop {
        let mut class_of_layer = vec![0; layers.len()];
        let mut classes: Vec<[u64; UNIT_SLICES]> = Vec::new();
        let mut until = None;
        for layer in &order {
            let bytes = bytes(layer);
            if until.is_none_or(|until| bytes > until) {
                classes.push([0; UNIT_SLICES]);
                until = Some(bytes.saturating_add(bytes / part));
            }
            let class = classes.len() - 1;
            classes[class] = larger(classes[class], layers[*layer]);
            // Too many of them are not returned.
            class_of_layer[*layer] = class as u8;
        }
        if classes.len() <= CLASSES_MAX {
            return (class_of_layer, classes);
        }
        if part == 1 {
            // Sizes that differ by more than a factor of 2 four times over: one slot for all.
            return (vec![0; layers.len()], vec![unit_spans(extents)]);
        }
        part /= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::SourceId;

    const PAGE: u64 = PAGE_BYTES;

    /// One layer after the other, of so many units, each slice of so many bytes.
    fn extents(layers: &[(u64, u64)]) -> Extents {
        let mut extents = Extents::new();
        let mut at = 100;
        for (layer, &(units, slice)) in (0u32..).zip(layers) {
            for _ in 0..units {
                let slices = [0, 1, 2].map(|i| (SourceId(0), at + i * slice, slice));
                extents.push_unit(layer, 2, slices).unwrap();
                at += 3 * slice;
            }
        }
        extents
    }

    fn slots(extents: &Extents, bytes: u64) -> ExpertSlots {
        ExpertSlots::for_budget(extents, bytes, (0, 0), |bytes| bytes)
    }

    #[test]
    fn layers_of_two_sizes_share_the_bytes_by_their_units() {
        let extents = extents(&[(20, 10 * PAGE), (20, 20 * PAGE), (40, 10 * PAGE)]);
        // Off the page's start a slice touches one page more.
        let bytes = 40 * 3 * 21 * PAGE;
        let slots = slots(&extents, bytes);
        assert_eq!(slots.class_of_layer(), [0, 1, 0]);
        let of = |class: &SlotClass| (class.slots, class.slot_bytes() / PAGE);
        // 40 slots of the larger size; the same bytes give 62 of the average one.
        assert_eq!(slots.classes().iter().map(of).collect::<Vec<_>>(), [(46, 33), (15, 63)]);
        assert_eq!((slots.slots, slots.held_together()), (61, 15));
        assert!(slots.bytes() <= bytes);
        let by_slot = slots.class_of_slot();
        assert_eq!(by_slot.len(), 61);
        for front in 1..by_slot.len() {
            let large = by_slot[..front].iter().filter(|class| **class == 1).count();
            assert!((large * 61).abs_diff(front * 15) <= 61, "{large} of the first {front}");
        }
    }

    #[test]
    fn all_fits_in_what_all_takes() {
        let extents = extents(&[(20, 10 * PAGE), (20, 20 * PAGE)]);
        let slots = slots(&extents, 40 * 3 * 21 * PAGE);
        let counts: Vec<u32> = slots.classes().iter().map(|class| class.slots).collect();
        assert_eq!(counts, [20, 20]);
        assert_eq!(slots.bytes(), 20 * 3 * (11 + 21) * PAGE);
    }

    #[test]
    fn few_slots_or_sizes_a_page_apart_make_one_class() {
        let few = extents(&[(20, 10 * PAGE), (20, 20 * PAGE)]);
        let few = slots(&few, 5 * 3 * 21 * PAGE);
        assert_eq!((few.classes().len(), few.slots), (1, 5));
        let alike = extents(&[(20, 100 * PAGE), (20, 102 * PAGE)]);
        assert_eq!(slots(&alike, 30 * 3 * 103 * PAGE).classes().len(), 1);
    }

    #[test]
    fn many_sizes_are_joined() {
        let layers: Vec<(u64, u64)> = (0..12).map(|i| (20, (20 + 3 * i) * PAGE)).collect();
        let extents = extents(&layers);
        let slots = slots(&extents, 120 * 3 * 54 * PAGE);
        assert!((2..=CLASSES_MAX).contains(&slots.classes().len()), "{slots:?}");
        for (class, &(_, slice)) in slots.class_of_layer().iter().zip(&layers) {
            let spans = slots.classes()[usize::from(*class)].spans;
            assert!(spans.iter().all(|span| *span >= slice), "{slots:?}");
        }
    }
}
