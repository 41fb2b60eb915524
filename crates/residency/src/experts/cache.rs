//! Which unit is in which slot. Pure: the live store and the replay drive the same code.

use super::classes::Classes;
use super::policy::{Judge, Policy};
use crate::extent::UnitId;
use crate::ring::SlotId;

/// What a slot is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Slot {
    Free,
    Loading(u32),
    Ready(u32),
    Held(u32),
    /// A slice could not be read; whoever asks is told.
    Failed(u32),
}

/// How a unit stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// There; [`ExpertCache::hold`] takes it.
    Ready(SlotId),
    /// On its way.
    Loading(SlotId),
    /// In use.
    Held(SlotId),
    /// Its read failed.
    Failed(SlotId),
    /// Not there.
    Absent,
}

/// How a unit that is read is taken up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Admit {
    /// As any other.
    Keep,
    /// Only in passing, by a long prompt that reads every unit once: it takes a free slot whose memory is there, or
    /// one of the few of its kind, and goes before all others. So a prompt does not flush the cache, nor wait
    /// for memory that it has no need of.
    Pass,
    /// Perhaps needed soon: it takes a free slot, that of a unit that went by in passing, or the one that
    /// would go next, but never one that this token has used. Until it is used it goes before all others.
    Guess,
}

/// A slot given to a unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Claim {
    /// Where to.
    pub slot: SlotId,
    /// Who was there.
    pub evicted: Option<UnitId>,
}

/// Slots that units in passing may take from others: enough for the disk to run ahead of the
/// computation, and at most a quarter of all.
const PASSING_SLOTS: u32 = 24;

/// Units and slots.
#[derive(Clone, Debug)]
pub struct ExpertCache {
    slots: Vec<Slot>,
    /// By slot: goes before all others.
    passing: Vec<bool>,
    /// By slot: came on a guess, and has not been used.
    guessed: Vec<bool>,
    /// By unit: its slot, or `NONE`.
    place: Vec<u32>,
    /// By unit: this layer needs it, so it stays.
    wanted: Vec<bool>,
    /// By unit: used by this pass.
    used: Vec<bool>,
    free: u32,
    /// Slots from the front whose memory is there.
    there: u32,
    /// Slots from the front that what stays may take.
    usable: u32,
    classes: Vec<Class>,
    class_of_slot: Vec<u8>,
    class_of_unit: Vec<u8>,
    judge: Judge,
}

/// The slots of one size.
#[derive(Clone, Copy, Debug, Default)]
struct Class {
    slots: u32,
    passing: u32,
}

const NONE: u32 = u32::MAX;

impl ExpertCache {
    /// An empty cache whose slots have room for any unit. `layers` gives each unit's layer.
    #[must_use]
    pub fn new(layers: &[u32], slots: u32, policy: Policy) -> ExpertCache {
        ExpertCache::with_classes(layers, &Classes::one(&vec![0; slots as usize]), policy)
    }

    /// An empty cache with slots of several sizes.
    #[must_use]
    pub fn with_classes(layers: &[u32], classes: &Classes<'_>, policy: Policy) -> ExpertCache {
        let slots = classes.slot_count();
        let class_of_unit: Vec<u8> = layers.iter().map(|layer| classes.of_layer(*layer)).collect();
        let last = class_of_unit.iter().chain(classes.of_slots()).max().copied().unwrap_or(0);
        let class = |class| Class { slots: classes.slots(class), passing: 0 };
        ExpertCache {
            slots: vec![Slot::Free; slots as usize],
            passing: vec![false; slots as usize],
            guessed: vec![false; slots as usize],
            place: vec![NONE; layers.len()],
            wanted: vec![false; layers.len()],
            used: vec![false; layers.len()],
            free: slots,
            there: slots,
            usable: slots,
            classes: (0..=last).map(class).collect(),
            class_of_slot: classes.of_slots().to_vec(),
            class_of_unit,
            judge: Judge::new(policy, layers, classes),
        }
    }

    /// A pass of so many tokens begins; what the last one wanted and did not use may go.
    pub fn begin_pass(&mut self, tokens: u32) {
        self.judge.pass(tokens);
        self.wanted.fill(false);
        self.used.fill(false);
    }

    /// A layer needs a unit for `tokens` tokens: it stays until [`ExpertCache::release`]. True if it is
    /// there or on its way.
    pub fn want(&mut self, unit: UnitId, tokens: u32) -> bool {
        self.judge.used(unit.0, tokens);
        self.wanted[unit.index()] = true;
        self.used[unit.index()] = true;
        let slot = self.place[unit.index()];
        if slot != NONE && tokens == 1 {
            // Used by a single token: as good as any other.
            self.set_passing(slot, false);
        }
        slot != NONE
    }

    /// The slot of a unit that is there, or on its way, because somebody guessed right; to be asked before
    /// [`ExpertCache::want`], and told only once.
    pub fn take_guess(&mut self, unit: UnitId) -> Option<SlotId> {
        match self.place[unit.index()] {
            NONE => None,
            slot => std::mem::take(&mut self.guessed[slot as usize]).then_some(SlotId(slot)),
        }
    }

    /// Keeps a unit from going, or lets it go again. False if nothing changes by that.
    pub fn keep(&mut self, unit: UnitId, stays: bool) -> bool {
        std::mem::replace(&mut self.wanted[unit.index()], stays) != stays
    }

    /// Whether a slot's unit came by a guess and nobody has asked for it.
    pub(super) fn is_unasked(&self, slot: SlotId) -> bool {
        self.guessed[slot.0 as usize]
    }

    /// How a unit stands.
    #[must_use]
    pub fn standing(&self, unit: UnitId) -> Standing {
        let Some(&slot) = self.place.get(unit.index()).filter(|&&slot| slot != NONE) else {
            return Standing::Absent;
        };
        let id = SlotId(slot);
        match self.slots[slot as usize] {
            Slot::Ready(_) => Standing::Ready(id),
            Slot::Loading(_) => Standing::Loading(id),
            Slot::Held(_) => Standing::Held(id),
            Slot::Failed(_) => Standing::Failed(id),
            Slot::Free => Standing::Absent,
        }
    }

    /// Gives an absent unit a slot, which then is loading; `None` while none may be had.
    pub fn claim(&mut self, unit: UnitId, admit: Admit) -> Option<Claim> {
        let free = if self.free > 0 { self.free_slot(unit) } else { None };
        // Memory may take longer to come than what leaves would take to be read again.
        let room = if admit == Admit::Pass { self.there } else { self.usable };
        let at_once = free.filter(|&i| i < room as usize).or_else(|| self.passed(unit));
        let slot = at_once.or_else(|| match admit {
            Admit::Guess => self.victim(unit, true),
            Admit::Keep => self.victim(unit, false).or(free),
            Admit::Pass => {
                let class = self.classes[self.class(unit) as usize];
                let may_grow = class.passing < PASSING_SLOTS.min(class.slots / 4).max(1);
                if may_grow { free.or_else(|| self.victim(unit, false)) } else { None }
            }
        })?;
        Some(self.give(slot, unit, admit))
    }

    /// As [`ExpertCache::claim`], but units that are wanted later may go as well: `later` says which
    /// goes first. For when nothing else can.
    pub fn claim_wanted(
        &mut self,
        unit: UnitId,
        admit: Admit,
        later: impl Fn(UnitId) -> usize,
    ) -> Option<Claim> {
        let ready = |s: &Slot| match s {
            Slot::Ready(unit) => Some(later(UnitId(*unit))),
            _ => None,
        };
        let class = self.class(unit);
        let slots = self.slots_of(class).filter(|&i| ready(&self.slots[i]).is_some());
        let slot = slots.max_by_key(|&i| ready(&self.slots[i]))?;
        Some(self.give(slot, unit, admit))
    }

    fn class(&self, unit: UnitId) -> u8 {
        self.class_of_unit[unit.index()]
    }

    /// The slots of a class.
    fn slots_of(&self, class: u8) -> impl Iterator<Item = usize> + '_ {
        (0..self.slots.len()).filter(move |&i| self.class_of_slot[i] == class)
    }

    /// A slot with room for `unit` whose own went by in passing.
    fn passed(&self, unit: UnitId) -> Option<usize> {
        let class = self.class(unit);
        if self.classes[class as usize].passing == 0 {
            return None;
        }
        self.slots_of(class).find(|&i| self.passing[i] && self.may_go(i).is_some())
    }

    /// The unit of a slot that nobody needs now.
    fn may_go(&self, slot: usize) -> Option<u32> {
        match self.slots[slot] {
            Slot::Ready(unit) if !self.wanted[unit as usize] => Some(unit),
            _ => None,
        }
    }

    fn victim(&mut self, unit: UnitId, is_guess: bool) -> Option<usize> {
        let (slots, wanted, used) = (&self.slots, &self.wanted, &self.used);
        let stays = |unit: u32| wanted[unit as usize] || (is_guess && used[unit as usize]);
        let (class, class_of_slot) = (self.class(unit), &self.class_of_slot);
        let candidates = || {
            (0u32..).zip(slots).zip(class_of_slot).filter_map(|((i, s), of)| match *s {
                Slot::Ready(unit) if *of == class && !stays(unit) => Some((i, unit)),
                _ => None,
            })
        };
        self.judge.victim(unit.0, candidates).map(|slot| slot as usize)
    }

    fn give(&mut self, slot: usize, unit: UnitId, admit: Admit) -> Claim {
        let evicted = self.vacate(slot);
        self.slots[slot] = Slot::Loading(unit.0);
        self.place[unit.index()] = slot as u32;
        self.free -= 1;
        self.judge.entered(unit.0, slot as u32);
        self.set_passing(slot as u32, admit != Admit::Keep);
        self.guessed[slot] = admit == Admit::Guess;
        Claim { slot: SlotId(slot as u32), evicted: evicted.map(UnitId) }
    }

    fn set_passing(&mut self, slot: u32, passing: bool) {
        let old = std::mem::replace(&mut self.passing[slot as usize], passing);
        let class = &mut self.classes[self.class_of_slot[slot as usize] as usize];
        class.passing = class.passing - u32::from(old) + u32::from(passing);
    }

    /// Empties a slot.
    fn vacate(&mut self, slot: usize) -> Option<u32> {
        let unit = match std::mem::replace(&mut self.slots[slot], Slot::Free) {
            Slot::Free => return None,
            Slot::Loading(unit) | Slot::Ready(unit) | Slot::Held(unit) | Slot::Failed(unit) => unit,
        };
        self.place[unit as usize] = NONE;
        self.free += 1;
        self.set_passing(slot as u32, false);
        let was_wanted = !std::mem::take(&mut self.guessed[slot]);
        self.judge.left(unit, slot as u32, was_wanted);
        Some(unit)
    }

    /// All slices of a slot have come back.
    pub fn filled(&mut self, slot: SlotId, ok: bool) {
        let s = &mut self.slots[slot.0 as usize];
        if let Slot::Loading(unit) = *s {
            *s = if ok { Slot::Ready(unit) } else { Slot::Failed(unit) };
        }
    }

    /// After a failure has been told: the unit is absent, and read again when it is wanted again.
    pub fn forget_failed(&mut self, slot: SlotId) {
        if matches!(self.slots[slot.0 as usize], Slot::Failed(_)) {
            self.vacate(slot.0 as usize);
        }
    }

    /// The same for one whose failure nobody was told of, if there is any.
    pub(super) fn forget_untold(&mut self) -> Option<UnitId> {
        let slot = self.slots.iter().position(|s| matches!(s, Slot::Failed(_)))?;
        self.vacate(slot).map(UnitId)
    }

    /// Takes a ready unit into use.
    pub fn hold(&mut self, slot: SlotId) -> bool {
        let s = &mut self.slots[slot.0 as usize];
        let Slot::Ready(unit) = *s else { return false };
        *s = Slot::Held(unit);
        true
    }

    /// Ends the use of a unit; from now on it may go.
    pub fn release(&mut self, slot: SlotId) {
        let s = &mut self.slots[slot.0 as usize];
        if let Slot::Held(unit) = *s {
            *s = Slot::Ready(unit);
            self.wanted[unit as usize] = false;
        }
    }

    /// Whether every slot with room for a unit is in use, so that it cannot come.
    #[must_use]
    pub fn is_exhausted(&self, unit: UnitId) -> bool {
        self.slots_of(self.class(unit)).all(|i| matches!(self.slots[i], Slot::Held(_)))
    }

    /// The layer of a unit.
    #[must_use]
    pub fn layer_of(&self, unit: UnitId) -> u32 {
        self.judge.layer_of(unit.0)
    }

    /// Slots in which nothing is.
    #[must_use]
    pub fn free_count(&self) -> u32 {
        self.free
    }

    /// The first slot with room for `unit` in which nothing is: memory comes in from the front.
    fn free_slot(&self, unit: UnitId) -> Option<usize> {
        self.slots_of(self.class(unit)).find(|&i| self.slots[i] == Slot::Free)
    }

    /// So many slots from the front can be read into without waiting for memory, and so many are open to what stays.
    /// Until all are, the cache is as large as those.
    pub fn set_there(&mut self, there: u32, usable: u32) {
        (self.there, self.usable) = (there, usable);
        let all = self.slots.len() as f32;
        self.judge.set_part((usable as f32).min(all) / all);
    }

    /// Of the slots with room for `unit` in which nothing is, those whose memory is there.
    #[must_use]
    pub fn room_there(&self, unit: UnitId) -> u32 {
        let there = self.slots_of(self.class(unit)).take_while(|&i| i < self.there as usize);
        // At most as many as there are slots.
        there.filter(|&i| self.slots[i] == Slot::Free).count() as u32
    }

    /// The even share of each layer that takes slots of the same size as `unit`.
    #[must_use]
    pub fn even_share(&self, unit: UnitId) -> u32 {
        self.judge.even_share(unit.0)
    }

    /// The units that are there or on their way.
    pub fn present(&self) -> impl Iterator<Item = UnitId> + '_ {
        (0u32..).zip(&self.place).filter(|(_, slot)| **slot != NONE).map(|(unit, _)| UnitId(unit))
    }
}
