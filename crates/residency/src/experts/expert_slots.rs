//! How many units the cache of experts holds. Pure arithmetic, a part of the plan.

use crate::extent::{Extents, UNIT_SLICES};
use crate::plan::PAGE_BYTES;

/// The cache of experts: slots that hold one unit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExpertSlots {
    /// Slots.
    pub slots: u32,
    /// Bytes of a slot's parts, one for each slice: the largest slice's, in whole pages.
    pub spans: [u64; UNIT_SLICES],
}

impl ExpertSlots {
    /// Bytes of one slot.
    #[must_use]
    pub fn slot_bytes(&self) -> u64 {
        self.spans.iter().sum()
    }

    /// Bytes of all slots.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.slot_bytes() * u64::from(self.slots)
    }

    /// Slots of `unit_cost` bytes each in `free` bytes, which are at least `smallest` and the slots of
    /// the floor; all tiles of the trunk take `trunk`.
    ///
    /// The trunk comes first, because every token uses all of it and only a few of a layer's experts.
    /// But a layer's experts come as one deep queue only if they have a slot each, so a quarter of
    /// what is left goes to that.
    pub(crate) fn for_budget(
        extents: &Extents,
        free: u64,
        (smallest, trunk): (u64, u64),
        unit_cost: u64,
    ) -> ExpertSlots {
        let units = extents.units().len() as u64;
        if units == 0 {
            return ExpertSlots::default();
        }
        let together = u64::from(extents.used_together()) + 2;
        let floor = floor_slots(extents);
        // At the floor exactly this much is left.
        let most = free.saturating_sub(smallest) / unit_cost.max(1);
        let share = (free / 4 / unit_cost.max(1)).clamp(floor, together.max(floor));
        let behind_trunk = free.saturating_sub(trunk) / unit_cost.max(1);
        let slots = share.max(behind_trunk).min(most).min(units);
        ExpertSlots { slots: u32::try_from(slots).unwrap_or(u32::MAX), spans: unit_spans(extents) }
    }
}

/// Slots that must be there: one in use and one being read.
pub(crate) fn floor_slots(extents: &Extents) -> u64 {
    (extents.units().len() as u64).min(2)
}

/// The largest slice of each kind in whole pages.
pub(crate) fn unit_spans(extents: &Extents) -> [u64; UNIT_SLICES] {
    let mut spans = [0; UNIT_SLICES];
    for unit in extents.units() {
        for (span, id) in spans.iter_mut().zip(unit.slices) {
            let pages = extents[id.index()].aligned(PAGE_BYTES);
            *span = (pages.end - pages.start).max(*span);
        }
    }
    spans
}
