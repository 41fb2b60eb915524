//! What is read next: the ring for streamed tiles and the first loading of pinned ones, in one
//! order. Pure; the live store and the simulator drive the same code.

use crate::extent::ExtentId;
use crate::plan::{Placement, Plan};
use crate::ring::{Ring, SlotId, Standing};

/// Where a read goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Destination {
    /// Into a slot of the ring.
    Slot(SlotId),
    /// To the extent's own place among the pinned ones.
    Pinned,
    /// Into a slot of the cache of experts.
    Expert(SlotId),
}

/// A read to start now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Issue {
    /// What to read.
    pub extent: ExtentId,
    /// Where to.
    pub to: Destination,
}

/// How a wanted extent stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// Pinned and there.
    Resident,
    /// Streamed and there; [`Schedule::hold`] takes it.
    Ready(SlotId),
    /// Not there yet.
    Wait(Destination),
    /// Streamed, and waiting for a slot that a read under way still occupies.
    Queued,
    /// Its read failed; [`Schedule::retry`] lets it be read again.
    Failed(Destination),
    /// All slots are held.
    Exhausted,
    /// In use already.
    Held,
    /// Not a tile of this plan.
    Unknown,
}

/// Reads that may be under way at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Depth {
    /// Into slots.
    pub slots: u32,
    /// To pinned places.
    pub pinned: u32,
    /// Both share one queue: their sum stays within `slots`.
    pub shared: bool,
}

/// The order of reading.
#[derive(Clone, Debug)]
pub struct Schedule {
    ring: Ring,
    streamed: Vec<ExtentId>,
    placement: Vec<Placement>,
    pinned: Pinned,
    depth: Depth,
    slots_under_way: u32,
    pinned_under_way: u32,
    /// The extent after the last one acquired.
    position: usize,
    /// Passes begun.
    pass: u32,
    /// The pass in which each extent's last read was begun.
    begun: Vec<u32>,
}

impl Schedule {
    /// The schedule of a plan.
    #[must_use]
    pub fn new(plan: &Plan, depth: Depth) -> Schedule {
        let ids = || plan.extents().iter().map(|x| x.id);
        let placement: Vec<_> =
            ids().map(|id| plan.placement(id).unwrap_or(Placement::Rows)).collect();
        let tiles = u32::try_from(plan.streamed().len()).unwrap_or(u32::MAX);
        Schedule {
            ring: Ring::new(tiles, plan.slots),
            streamed: plan.streamed().to_vec(),
            pinned: Pinned::new(&placement),
            pass: 0,
            begun: vec![0; placement.len()],
            placement,
            depth,
            slots_under_way: 0,
            pinned_under_way: 0,
            position: 0,
        }
    }

    /// The ring, to look at.
    #[must_use]
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// A pass begins, and will not use the extents for which `skipped` is true. What failed before is read
    /// again: a disk that is well by now fails nothing more.
    pub fn begin_pass(&mut self, skipped: impl Fn(ExtentId) -> bool) {
        let streamed = &self.streamed;
        self.ring.begin_pass(|i| streamed.get(i as usize).is_some_and(|&id| skipped(id)));
        self.pinned.forget_failed();
        self.pass = self.pass.wrapping_add(1);
        self.position = 0;
    }

    /// The next read to start, if one may. Call until it says `None`: after every acquire,
    /// release and completion there may be more.
    pub fn next_issue(&mut self) -> Option<Issue> {
        let sum = self.slots_under_way + self.pinned_under_way;
        let (slots, pins) = match self.depth.shared {
            true => (sum, sum),
            false => (self.slots_under_way, self.pinned_under_way),
        };
        let pin_limit = if self.depth.shared { self.depth.slots } else { self.depth.pinned };
        let tile = (slots < self.depth.slots).then(|| self.ring.peek_tile()).flatten();
        let tile = tile.and_then(|i| self.streamed.get(i as usize).copied());
        let pin = (pins < pin_limit).then(|| self.pinned.peek()).flatten();
        let streamed_first = match (tile, pin) {
            (None, None) => return None,
            (Some(t), Some(p)) => self.distance(t) < self.distance(p),
            (tile, None) => tile.is_some(),
            (None, Some(_)) => false,
        };
        let issue = if streamed_first {
            let fill = self.ring.next_fill()?;
            self.slots_under_way += 1;
            Issue { extent: tile?, to: Destination::Slot(fill.slot) }
        } else {
            let extent = self.pinned.take()?;
            self.pinned_under_way += 1;
            Issue { extent, to: Destination::Pinned }
        };
        self.begun[issue.extent.index()] = self.pass;
        Some(issue)
    }

    /// Extents between here and that one, along the order of use and around its end.
    fn distance(&self, id: ExtentId) -> usize {
        let n = self.placement.len().max(1);
        (id.index() + n - self.position % n) % n
    }

    /// A read has come back. True if it failed and whoever wants the extent is told: what was begun before this
    /// pass may have failed before it as well, and is read again instead.
    pub fn completed(&mut self, issue: Issue, ok: bool) -> bool {
        match issue.to {
            Destination::Slot(slot) => {
                self.slots_under_way = self.slots_under_way.saturating_sub(1);
                self.ring.filled(slot, ok);
            }
            Destination::Pinned => {
                self.pinned_under_way = self.pinned_under_way.saturating_sub(1);
                self.pinned.loaded(issue.extent, ok);
            }
            // Experts are not on this schedule: nobody knows their order.
            Destination::Expert(_) => {}
        }
        let is_told = self.begun[issue.extent.index()] == self.pass;
        if !ok && !is_told {
            self.retry(issue.extent, issue.to);
        }
        !ok && is_told
    }

    /// Says that `id` is used next, and how it stands.
    pub fn want(&mut self, id: ExtentId) -> Wanted {
        let Some(placement) = self.placement.get(id.index()) else { return Wanted::Unknown };
        match *placement {
            Placement::Rows | Placement::Cached => Wanted::Unknown,
            Placement::Pinned => {
                self.position = id.index() + 1;
                self.pinned.want(id)
            }
            Placement::Streamed(tile) => {
                self.position = id.index();
                match self.ring.want(tile) {
                    Standing::Ready(slot) => Wanted::Ready(slot),
                    Standing::Loading(slot) => Wanted::Wait(Destination::Slot(slot)),
                    Standing::Queued => Wanted::Queued,
                    Standing::Failed(slot) => Wanted::Failed(Destination::Slot(slot)),
                    Standing::Exhausted => Wanted::Exhausted,
                    Standing::Held => Wanted::Held,
                }
            }
        }
    }

    /// Takes a ready tile into use; false if it is not ready.
    pub fn hold(&mut self, slot: SlotId) -> bool {
        let held = self.ring.hold(slot);
        self.position += usize::from(held);
        held
    }

    /// Ends the use of a streamed tile.
    pub fn release(&mut self, slot: SlotId) {
        self.ring.release(slot);
    }

    /// After a failure has been told: the extent is read again when it is wanted again.
    pub fn retry(&mut self, id: ExtentId, to: Destination) {
        match to {
            Destination::Slot(slot) => self.ring.retry(slot),
            Destination::Pinned => self.pinned.forget(id),
            Destination::Expert(_) => {}
        }
    }

    /// Pinned pages may have been taken away: all are loaded again, from here on in order of use.
    /// What is still there costs no reading.
    pub fn reload_pinned(&mut self) {
        let n = self.placement.len().max(1);
        self.pinned.forget_all(self.position % n);
    }

    /// Whether every pinned extent is there.
    #[must_use]
    pub fn pinned_complete(&self) -> bool {
        self.pinned.missing == 0 && self.pinned_under_way == 0
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Pin {
    Missing,
    UnderWay,
    Here,
    Failed,
    /// Not a pinned extent.
    Other,
}

/// The pinned extents and how far their first loading is.
#[derive(Clone, Debug)]
struct Pinned {
    state: Vec<Pin>,
    /// Where the search for the next missing one begins.
    cursor: usize,
    missing: usize,
    failed: usize,
}

impl Pinned {
    fn new(placement: &[Placement]) -> Pinned {
        let state: Vec<_> = placement
            .iter()
            .map(|p| if *p == Placement::Pinned { Pin::Missing } else { Pin::Other })
            .collect();
        let missing = state.iter().filter(|s| **s == Pin::Missing).count();
        Pinned { state, cursor: 0, missing, failed: 0 }
    }

    /// The next missing one at or after the cursor, around the end.
    fn peek(&mut self) -> Option<ExtentId> {
        if self.missing == 0 {
            return None;
        }
        let n = self.state.len();
        self.cursor =
            (0..n).map(|i| (self.cursor + i) % n).find(|&i| self.state[i] == Pin::Missing)?;
        Some(id(self.cursor))
    }

    fn take(&mut self) -> Option<ExtentId> {
        let next = self.peek()?;
        self.state[next.index()] = Pin::UnderWay;
        self.missing -= 1;
        Some(next)
    }

    fn loaded(&mut self, id: ExtentId, ok: bool) {
        self.state[id.index()] = if ok { Pin::Here } else { Pin::Failed };
        self.failed += usize::from(!ok);
    }

    fn want(&mut self, id: ExtentId) -> Wanted {
        match self.state[id.index()] {
            Pin::Here => Wanted::Resident,
            Pin::UnderWay => Wanted::Wait(Destination::Pinned),
            Pin::Failed => Wanted::Failed(Destination::Pinned),
            Pin::Missing => {
                self.cursor = id.index();
                Wanted::Wait(Destination::Pinned)
            }
            Pin::Other => Wanted::Unknown,
        }
    }

    fn forget(&mut self, id: ExtentId) {
        let state = &mut self.state[id.index()];
        if matches!(*state, Pin::Here | Pin::Failed) {
            self.failed -= usize::from(*state == Pin::Failed);
            *state = Pin::Missing;
            self.missing += 1;
            self.cursor = id.index();
        }
    }

    fn forget_all(&mut self, here: usize) {
        self.forget_if(|state| matches!(state, Pin::Here | Pin::Failed));
        self.cursor = here;
    }

    fn forget_failed(&mut self) {
        if self.failed > 0 {
            self.forget_if(|state| state == Pin::Failed);
        }
    }

    fn forget_if(&mut self, is_gone: impl Fn(Pin) -> bool) {
        for state in self.state.iter_mut().filter(|state| is_gone(**state)) {
            self.missing += 1;
            self.failed -= usize::from(*state == Pin::Failed);
            *state = Pin::Missing;
        }
    }
}

fn id(i: usize) -> ExtentId {
    ExtentId(u32::try_from(i).unwrap_or(u32::MAX))
}
