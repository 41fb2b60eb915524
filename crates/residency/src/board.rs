//! A board on which the store notes where extents are, for those who watch from another thread.
//!
//! Only atomics, written by the engine's thread: watching costs a store a tile and never waits.

use std::sync::PoisonError;
use std::sync::RwLock;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::extent::ExtentId;

/// Where an extent is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whereabouts {
    /// On the disk.
    Disk,
    /// On its way in.
    Reading,
    /// In memory.
    Memory,
}

const NOWHERE: u32 = u32::MAX;

/// What can be seen at one moment.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Glance {
    /// A bit for each extent that is in memory, the first extent in the lowest bit.
    pub resident: Vec<u8>,
    /// Extents on their way in.
    pub reading: Vec<u32>,
    /// First and last extent used since the last glance.
    pub used: Option<(u32, u32)>,
    /// Nanoseconds waited for the disk so far.
    pub wait_ns: u64,
    /// Bytes brought in so far.
    pub read_bytes: u64,
}

/// The board.
#[derive(Debug, Default)]
pub struct Board {
    states: RwLock<Vec<AtomicU8>>,
    in_slot: RwLock<Vec<AtomicU32>>,
    used_first: AtomicU32,
    used_last: AtomicU32,
    wait_ns: AtomicU64,
    read_bytes: AtomicU64,
}

impl Board {
    /// Begins anew for a store with so many extents and slots.
    pub(crate) fn reset(&self, extents: usize, slots: usize) {
        let states = (0..extents).map(|_| AtomicU8::new(0)).collect();
        *self.states.write().unwrap_or_else(PoisonError::into_inner) = states;
        let slots = (0..slots).map(|_| AtomicU32::new(NOWHERE)).collect();
        *self.in_slot.write().unwrap_or_else(PoisonError::into_inner) = slots;
        self.used_first.store(NOWHERE, Ordering::Relaxed);
        self.used_last.store(0, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, id: ExtentId, whereabouts: Whereabouts) {
        let states = self.states.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(state) = states.get(id.index()) {
            state.store(whereabouts as u8, Ordering::Relaxed);
        }
    }

    /// Another extent is read into a slot: the one that was there is gone.
    pub(crate) fn fill_slot(&self, slot: u32, id: ExtentId) {
        let slots = self.in_slot.read().unwrap_or_else(PoisonError::into_inner);
        let Some(slot) = slots.get(slot as usize) else { return };
        let before = slot.swap(id.0, Ordering::Relaxed);
        if before != NOWHERE && before != id.0 {
            self.set(ExtentId(before), Whereabouts::Disk);
        }
    }

    pub(crate) fn used(&self, id: ExtentId) {
        self.used_first.fetch_min(id.0, Ordering::Relaxed);
        self.used_last.fetch_max(id.0, Ordering::Relaxed);
    }

    pub(crate) fn waited(&self, nanoseconds: u64) {
        self.wait_ns.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    pub(crate) fn read(&self, bytes: u64) {
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// What is where now, and what was used since the last look.
    #[must_use]
    pub fn look(&self) -> Glance {
        let states = self.states.read().unwrap_or_else(PoisonError::into_inner);
        let mut resident = vec![0_u8; states.len().div_ceil(8)];
        let mut reading = Vec::new();
        for (index, state) in states.iter().enumerate() {
            match state.load(Ordering::Relaxed) {
                1 => reading.push(index as u32),
                2 => resident[index / 8] |= 1 << (index % 8),
                _ => {}
            }
        }
        let first = self.used_first.swap(NOWHERE, Ordering::Relaxed);
        let last = self.used_last.swap(0, Ordering::Relaxed);
        Glance {
            resident,
            reading,
            used: (first <= last).then_some((first, last)),
            wait_ns: self.wait_ns.load(Ordering::Relaxed),
            read_bytes: self.read_bytes.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_board_shows_what_came_and_went() {
        let board = Board::default();
        board.reset(10, 2);
        assert_eq!(board.look(), Glance { resident: vec![0, 0], ..Glance::default() });
        board.set(ExtentId(9), Whereabouts::Memory);
        board.fill_slot(1, ExtentId(3));
        board.set(ExtentId(3), Whereabouts::Reading);
        board.used(ExtentId(4));
        board.used(ExtentId(2));
        let glance = board.look();
        assert_eq!((glance.resident, glance.reading), (vec![0, 2], vec![3]));
        assert_eq!(glance.used, Some((2, 4)));
        assert_eq!(board.look().used, None);
        board.set(ExtentId(3), Whereabouts::Memory);
        board.fill_slot(1, ExtentId(5));
        assert_eq!(board.look().resident, vec![0, 2], "what was in the slot is gone");
    }
}
