//! The ring: which streamed tile goes into which slot, and when. Pure: the live store and the
//! simulator drive the same code.
//!
//! The streamed tiles of all passes form one endless sequence: tile `i` of pass `p` has the number
//! `p * tiles + i`. Reading runs ahead of use along that sequence, around the end of a pass into
//! the next. Use only ever moves forward: skipping tiles, giving up a pass and starting again are
//! all the same step, "go forward to number s", and everything between is let go.

/// A place in the ring.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SlotId(pub u32);

/// What a slot is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slot {
    /// Nothing; the next tile may go here.
    Free,
    /// Being filled with the tile of this number.
    Loading(u64),
    /// Being filled with a tile nobody wants any more; free once the read has come back.
    Abandoned,
    /// Filled, waiting for use.
    Ready(u64),
    /// The read failed; the one who asks for this number is told.
    Failed(u64),
    /// In use.
    Held(u64),
}

/// A read to start now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fill {
    /// Where to.
    pub slot: SlotId,
    /// Which streamed tile (0 is the first of a pass).
    pub tile: u32,
}

/// How a wanted tile stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// In this slot; [`Ring::hold`] takes it.
    Ready(SlotId),
    /// On its way into this slot.
    Loading(SlotId),
    /// Next in line: [`Ring::next_fill`] gives it out as soon as a slot is free.
    Queued,
    /// Its read failed.
    Failed(SlotId),
    /// All slots are held, so it can never come.
    Exhausted,
    /// In use already.
    Held,
}

/// The state of the ring.
#[derive(Clone, Debug)]
pub struct Ring {
    tiles: u64,
    slots: Vec<Slot>,
    /// Every wanted tile from `floor` to here has been asked of the disk.
    next: u64,
    /// Everything below this number has been used or passed over.
    floor: u64,
    /// Tiles that pass `skip_pass` will not use.
    skipped: Vec<bool>,
    skip_pass: u64,
}

impl Ring {
    /// A ring of `slots` slots for `tiles` tiles a pass.
    #[must_use]
    pub fn new(tiles: u32, slots: u32) -> Ring {
        Ring {
            tiles: u64::from(tiles),
            slots: vec![Slot::Free; slots as usize],
            next: 0,
            floor: 0,
            skipped: vec![false; tiles as usize],
            skip_pass: 0,
        }
    }

    /// The slots as they are.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The tile a number stands for.
    fn tile(&self, seq: u64) -> u32 {
        u32::try_from(seq % self.tiles.max(1)).unwrap_or(u32::MAX)
    }

    /// Moves to the start of a pass: the one that is about to begin, or, if tiles of the current
    /// pass have been used, the one after it. `skipped(i)` says which tiles it will not use; what
    /// was read ahead and will be used stays. Later passes are taken to use everything. What failed was
    /// the last pass's failure, and is read again.
    pub fn begin_pass(&mut self, skipped: impl Fn(u32) -> bool) {
        if self.tiles == 0 {
            return;
        }
        self.go_to(self.floor.div_ceil(self.tiles) * self.tiles);
        for (i, s) in (0u32..).zip(self.skipped.iter_mut()) {
            *s = skipped(i);
        }
        self.skip_pass = self.floor / self.tiles;
        // What the last skip set passed over may be wanted now: look again from the start.
        self.next = self.floor;
        for i in 0..self.slots.len() {
            let goes = match self.slots[i] {
                Slot::Loading(seq) | Slot::Ready(seq) => self.is_skipped(seq),
                Slot::Failed(_) => true,
                Slot::Free | Slot::Abandoned | Slot::Held(_) => false,
            };
            if goes {
                self.let_go(i);
            }
        }
    }

    fn is_skipped(&self, seq: u64) -> bool {
        seq / self.tiles.max(1) == self.skip_pass && self.skipped[self.tile(seq) as usize]
    }

    /// The next read to start, or `None` while no slot is free or a whole cycle is read ahead.
    pub fn next_fill(&mut self) -> Option<Fill> {
        let (slot, seq) = self.peek()?;
        self.slots[slot] = Slot::Loading(seq);
        self.next = seq + 1;
        Some(Fill { slot: slot_id(slot), tile: self.tile(seq) })
    }

    /// The tile [`Ring::next_fill`] would give out.
    #[must_use]
    pub fn peek_tile(&self) -> Option<u32> {
        self.peek().map(|(_, seq)| self.tile(seq))
    }

    fn peek(&self) -> Option<(usize, u64)> {
        let slot = self.slots.iter().position(|s| *s == Slot::Free)?;
        // One cycle ahead is everything there is. The held tile counts: it need not be read twice.
        let horizon = self.floor + self.tiles.saturating_sub(1).max(1);
        let seq = (self.next..horizon)
            .find(|&seq| self.tiles > 0 && !self.is_skipped(seq) && !self.is_present(seq))?;
        Some((slot, seq))
    }

    fn is_present(&self, seq: u64) -> bool {
        self.slots
            .iter()
            .any(|s| matches!(*s, Slot::Loading(x) | Slot::Ready(x) | Slot::Failed(x) if x == seq))
    }

    /// The read into `slot` has come back.
    pub fn filled(&mut self, slot: SlotId, ok: bool) {
        let s = &mut self.slots[slot.0 as usize];
        *s = match *s {
            Slot::Loading(seq) if ok => Slot::Ready(seq),
            Slot::Loading(seq) => Slot::Failed(seq),
            Slot::Abandoned => Slot::Free,
            other => other,
        };
    }

    /// Says that `tile` is used next: tiles before it are passed over, and reading starts there
    /// if it has not. A tile behind the last used one is that of the next pass.
    pub fn want(&mut self, tile: u32) -> Standing {
        debug_assert!(u64::from(tile) < self.tiles);
        if self.slots.iter().any(|s| matches!(s, Slot::Held(seq) if self.tile(*seq) == tile)) {
            return Standing::Held;
        }
        let pass = self.floor / self.tiles * self.tiles;
        let mut seq = pass + u64::from(tile);
        if seq < self.floor {
            seq += self.tiles;
        }
        self.go_to(seq);
        if self.is_skipped(seq) {
            // Asked for after all.
            self.skipped[tile as usize] = false;
        }
        for (i, s) in self.slots.iter().enumerate() {
            match *s {
                Slot::Ready(x) if x == seq => return Standing::Ready(slot_id(i)),
                Slot::Loading(x) if x == seq => return Standing::Loading(slot_id(i)),
                Slot::Failed(x) if x == seq => return Standing::Failed(slot_id(i)),
                _ => {}
            }
        }
        self.next = seq;
        self.make_room()
    }

    /// Lets go of the tile farthest ahead if no slot is free or about to be.
    fn make_room(&mut self) -> Standing {
        if self.slots.iter().any(|s| matches!(s, Slot::Free | Slot::Abandoned)) {
            return Standing::Queued;
        }
        let ahead = |s: &Slot| match *s {
            Slot::Loading(seq) | Slot::Ready(seq) | Slot::Failed(seq) => Some(seq),
            _ => None,
        };
        let farthest = (0..self.slots.len())
            .filter(|&i| ahead(&self.slots[i]).is_some())
            .max_by_key(|&i| ahead(&self.slots[i]));
        match farthest {
            Some(i) => {
                self.let_go(i);
                Standing::Queued
            }
            None => Standing::Exhausted,
        }
    }

    /// Takes a ready tile into use.
    pub fn hold(&mut self, slot: SlotId) -> bool {
        let s = &mut self.slots[slot.0 as usize];
        let Slot::Ready(seq) = *s else { return false };
        *s = Slot::Held(seq);
        self.floor = self.floor.max(seq + 1);
        self.next = self.next.max(self.floor);
        true
    }

    /// Ends the use of a tile; its slot is free.
    pub fn release(&mut self, slot: SlotId) {
        let s = &mut self.slots[slot.0 as usize];
        if matches!(s, Slot::Held(_)) {
            *s = Slot::Free;
        }
    }

    /// After a failure has been told: the tile is read again when it is wanted again.
    pub fn retry(&mut self, slot: SlotId) {
        if let Slot::Failed(seq) = self.slots[slot.0 as usize] {
            self.slots[slot.0 as usize] = Slot::Free;
            self.next = self.next.min(seq);
        }
    }

    fn go_to(&mut self, seq: u64) {
        self.floor = self.floor.max(seq);
        self.next = self.next.max(self.floor);
        for i in 0..self.slots.len() {
            if let Slot::Loading(s) | Slot::Ready(s) | Slot::Failed(s) = self.slots[i]
                && s < self.floor
            {
                self.let_go(i);
            }
        }
    }

    fn let_go(&mut self, i: usize) {
        self.slots[i] = match self.slots[i] {
            Slot::Loading(_) => Slot::Abandoned,
            Slot::Ready(_) | Slot::Failed(_) => Slot::Free,
            other => other,
        };
    }
}

fn slot_id(i: usize) -> SlotId {
    SlotId(u32::try_from(i).unwrap_or(u32::MAX))
}
