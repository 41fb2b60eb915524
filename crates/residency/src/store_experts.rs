//! The store's face for experts: a router says what it needs, then each is taken as it comes.

use std::time::Instant;

use lowtide_mapping::Priority;

use crate::direct::Filled;
use crate::driver::{Driver, Lane};
use crate::error::ResidencyError;
use crate::experts::Standing;
use crate::experts::live::{ExpertUse, GHOST_PERCENT};
use crate::extent::{Extent, ExtentId, UNIT_SLICES, UnitId};
use crate::plan::Streaming;
use crate::ring::SlotId;
use crate::stats::LayerTraffic;
use crate::store::{Store, Tile};

impl Store {
    /// Says which experts a layer needs, in ascending order, each once: all that are missing are read at
    /// once, as far as there is room, the others as room comes. `is_stream`: a long prompt, which reads
    /// every expert once; it does not flush the cache.
    ///
    /// # Errors
    /// [`ResidencyError::Unknown`] for units that are not of this plan.
    pub fn demand_experts(
        &self,
        uses: &[ExpertUse],
        is_stream: bool,
    ) -> Result<(), ResidencyError> {
        let mut driver = self.driver.borrow_mut();
        let units = self.plan.extents().units().len();
        if let Some(bad) = uses.iter().find(|u| u.unit.index() >= units) {
            return Err(ResidencyError::Unknown { what: bad.unit.to_string() });
        }
        driver.look_at_expert_slots();
        let Some(experts) = driver.experts.as_mut() else { return Ok(()) };
        let met = experts.demand(uses, is_stream);
        driver.settle_guesses(&self.plan, uses);
        let mut pass = self.pass.borrow_mut();
        pass.expert_hits += met.hits;
        pass.expert_misses += met.misses;
        pass.expert_bytes += met.bytes;
        pass.expert_guesses_right += met.guessed;
        drop(pass);
        driver.pump(self);
        Ok(())
    }

    /// Reads experts that may be needed soon, the likeliest first, while the disk has nothing else to do, in the room of
    /// those that would go next. Those whose like turn out wrong too often are mostly left undone.
    pub fn guess_experts(&self, units: &[UnitId]) {
        let mut driver = self.driver.borrow_mut();
        if let Some(experts) = driver.experts.as_mut() {
            experts.guess(units);
        }
        // While some are left, each tile that is taken starts what the disk has room for.
        self.advance(&mut driver);
    }

    /// Whether extents can be had without waiting, and out of their order.
    #[must_use]
    pub fn are_resident(&self, mut ids: impl Iterator<Item = ExtentId>) -> bool {
        ids.all(|id| match self.plan.extents().get(id.index()) {
            Some(x) => matches!(self.resident(x), Ok(Some(_))),
            None => false,
        })
    }

    /// Whether an expert can be had without waiting.
    #[must_use]
    pub fn is_expert_ready(&self, unit: UnitId) -> bool {
        match &self.driver.borrow().experts {
            Some(experts) => matches!(experts.standing(unit), Standing::Ready(_)),
            None => true,
        }
    }

    /// Takes an expert, waiting until all of its slices are there. It stays until the guard is dropped.
    ///
    /// # Errors
    /// As [`Store::acquire`].
    pub fn acquire_expert(&self, unit: UnitId) -> Result<Expert<'_>, ResidencyError> {
        let Some(described) = self.plan.extents().units().get(unit.index()) else {
            return Err(ResidencyError::Unknown { what: unit.to_string() });
        };
        if self.plan.experts.slots == 0 {
            let [gate, up, down] = described.slices;
            let tiles = [self.acquire(gate)?, self.acquire(up)?, self.acquire(down)?];
            return Ok(Expert { store: self, bytes: UnitBytes::Tiles(tiles), slot: None });
        }
        self.check_now_and_then()?;
        self.pass.borrow_mut().acquired += 1;
        described.slices.iter().for_each(|slice| self.note_use(*slice));
        let x = self.plan.extents()[described.slices[0].index()];
        let mut driver = self.driver.borrow_mut();
        let slot = self.await_expert(&mut driver, unit, &x)?;
        let bytes = match self.plan.input.streaming {
            Streaming::Direct => {
                let lent = driver.lend_unit(slot);
                UnitBytes::Lent(lent.ok_or(ResidencyError::Stalled { id: x.id })?)
            }
            Streaming::Mapped => {
                let [a, b, c] = described.slices.map(|id| self.plan.extents()[id.index()]);
                UnitBytes::Mapped([
                    self.mapped_bytes(&a)?,
                    self.mapped_bytes(&b)?,
                    self.mapped_bytes(&c)?,
                ])
            }
        };
        if let Some(experts) = driver.experts.as_mut() {
            experts.cache().hold(slot);
        }
        driver.pump(self);
        Ok(Expert { store: self, bytes, slot: Some(slot) })
    }

    /// Waits until all slices of a unit are in its slot.
    fn await_expert(
        &self,
        driver: &mut Driver,
        unit: UnitId,
        x: &Extent,
    ) -> Result<SlotId, ResidencyError> {
        let begin = Instant::now();
        let mut waited = false;
        let slot = loop {
            let Some(experts) = driver.experts.as_mut() else {
                return Err(ResidencyError::Stalled { id: x.id });
            };
            match experts.standing(unit) {
                Standing::Ready(slot) => break slot,
                Standing::Held(_) => return Err(ResidencyError::Held { id: x.id }),
                Standing::Failed(slot) => {
                    experts.cache().forget_failed(slot);
                    return Err(driver.take_unit_error(self, unit));
                }
                Standing::Absent if experts.cache().is_exhausted(unit) => {
                    let slots = self.plan.experts.slots;
                    return Err(ResidencyError::RingExhausted { id: x.id, slots });
                }
                Standing::Absent => {
                    if driver.pump(self) {
                        continue;
                    }
                    let fetch = driver.experts.as_mut().and_then(|e| e.force_fetch(unit));
                    match fetch {
                        Some(fetch) => driver.fetch(self, fetch, Priority::Demand),
                        None => waited |= self.wait(driver, x, Lane::Experts)?,
                    }
                }
                Standing::Loading(_) => waited |= self.wait(driver, x, Lane::Experts)?,
            }
        };
        if waited {
            self.note_wait(begin);
        }
        Ok(slot)
    }

    fn release_expert(&self, slot: SlotId, filled: Option<[Filled; UNIT_SLICES]>) {
        let mut driver = self.driver.borrow_mut();
        driver.release_unit(slot, filled);
        driver.pump(self);
    }

    /// Hits and misses of each layer that has experts; empty where there is no cache of them.
    #[must_use]
    pub fn expert_layers(&self) -> Vec<LayerTraffic> {
        let driver = self.driver.borrow();
        driver.experts.as_ref().map_or_else(Vec::new, |experts| experts.traffic().to_vec())
    }

    /// What larger caches would have hit, of decoded tokens: uses in all, and for each cache its size
    /// in percent of this one's slots with its hits.
    #[must_use]
    pub fn expert_ghosts(&self) -> (u64, Vec<(u32, u64)>) {
        let driver = self.driver.borrow();
        let Some(experts) = driver.experts.as_ref() else { return (0, Vec::new()) };
        let (uses, hits) = experts.ghost_hits();
        (uses, GHOST_PERCENT.into_iter().zip(hits).collect())
    }
}

enum UnitBytes<'a> {
    Tiles([Tile<'a>; UNIT_SLICES]),
    Mapped([&'a [u8]; UNIT_SLICES]),
    Lent([Filled; UNIT_SLICES]),
    Returned,
}

/// The bytes of an expert, there until the guard is dropped.
pub struct Expert<'a> {
    store: &'a Store,
    bytes: UnitBytes<'a>,
    slot: Option<SlotId>,
}

impl Expert<'_> {
    /// A slice's bytes: 0 the first that was pushed, and so on; empty beyond the last.
    #[must_use]
    pub fn slice(&self, index: usize) -> &[u8] {
        match &self.bytes {
            UnitBytes::Tiles(tiles) => tiles.get(index).map_or(&[], |tile| tile),
            UnitBytes::Mapped(bytes) => bytes.get(index).map_or(&[], |bytes| bytes),
            UnitBytes::Lent(filled) => filled.get(index).map_or(&[], Filled::bytes),
            UnitBytes::Returned => &[],
        }
    }
}

impl Drop for Expert<'_> {
    fn drop(&mut self) {
        let Some(slot) = self.slot else { return };
        let filled = match std::mem::replace(&mut self.bytes, UnitBytes::Returned) {
            UnitBytes::Lent(filled) => Some(filled),
            UnitBytes::Tiles(_) | UnitBytes::Mapped(_) | UnitBytes::Returned => None,
        };
        self.store.release_expert(slot, filled);
    }
}
