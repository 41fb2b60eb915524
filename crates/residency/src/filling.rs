//! The cache of experts comes into memory ahead of its use.
//!
//! All of it at once, before the first token, cost 0.5 to 4.5 s a GB where it was measured: not for clearing
//! (0.05 s a GB) nor for huge pages (no compaction), but because a hypervisor hands out memory when it is
//! first touched. So it is done while the run waits for the disk, by two helpers that give way to whatever else has
//! work, and until memory is there the cache does without it ([`super::experts::ExpertCache::claim`]). A run that uses
//! no experts, or ends before, never pays for all.
//!
//! Where other programs keep the cores busy such helpers starve. Then one that does not give way stays a little
//! ahead of the slots in use, and slots are used whether their memory is there or not.

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lowtide_mapping::Filler;

use crate::error::ResidencyError;

/// How far ahead of the last slot in use, where helpers that give way starve; and what is there from the start: some
/// layers' experts.
const AHEAD_BYTES: usize = 256 << 20;

/// Brought in by one call: short, so that the end does not wait for it.
const STEP_BYTES: usize = 8 << 20;

/// The same while the run waits: one huge page, 4 ms at 2.2 s a GB.
const WAITING_STEP_BYTES: usize = 2 << 20;

/// The first does not give way. The others do, and work only while the run waits: two bring in twice as much as one
/// (2.2 and 1.1 s a GB).
const HELPERS: usize = 3;

/// After each so long a wait in all, helpers that did not bring in so many bytes starve. Unhindered, two bring in 40 to
/// 90 MB even where memory is as slow as that.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const LEAST_BYTES: usize = 8 << 20;

#[derive(Default)]
struct Shared {
    /// Bytes from the front that are in use.
    used: AtomicUsize,
    /// Bytes from the front that are there; all, once the helpers have given up.
    there: AtomicUsize,
    /// Whether the run waits for the disk.
    waits: AtomicBool,
    /// Whether helpers that give way come to nothing.
    starve: AtomicBool,
    ends: AtomicBool,
    front: Mutex<Front>,
}

/// What the helpers have taken.
#[derive(Default)]
struct Front {
    /// Nothing from there on.
    next: usize,
    /// Where the part that each works on begins.
    under_way: [Option<usize>; HELPERS],
}

/// The helpers; they end when this is dropped.
pub(crate) struct Filling {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    look: Cell<Look>,
}

/// What the run has seen of the helpers lately.
#[derive(Clone, Copy, Default)]
struct Look {
    waited: Duration,
    there: usize,
}

impl Look {
    /// A wait has ended, and so many bytes are there now. True if helpers had time and did nothing with it.
    fn is_starving(&mut self, wait: Duration, there: usize) -> bool {
        self.waited += wait;
        if self.waited < LOOK_EVERY {
            return false;
        }
        let came = there.saturating_sub(self.there);
        *self = Look { waited: Duration::ZERO, there };
        came < LEAST_BYTES
    }
}

impl Filling {
    pub fn start(filler: &Filler) -> Result<Filling, ResidencyError> {
        let mut filling = Filling {
            shared: Arc::default(),
            helpers: Vec::with_capacity(HELPERS),
            look: Cell::default(),
        };
        for number in 0..HELPERS {
            let (own, filler) = (Arc::clone(&filling.shared), filler.clone());
            let builder = std::thread::Builder::new().name("lowtide-fill".into());
            match builder.spawn(move || own.fill(&filler, number)) {
                Ok(helper) => filling.helpers.push(helper),
                Err(e) if number == 0 => return Err(ResidencyError::Helper(e.to_string())),
                // One does with less hurry what two do.
                Err(_) => break,
            }
        }
        Ok(filling)
    }

    /// So many bytes from the front are in use now.
    pub fn used_until(&self, bytes: usize) {
        if self.shared.used.fetch_max(bytes, Ordering::Relaxed) < bytes && self.starve() {
            self.wake();
        }
    }

    fn starve(&self) -> bool {
        self.shared.starve.load(Ordering::Relaxed)
    }

    /// Wakes those whose turn it is: the first where the others starve, else the others.
    fn wake(&self) {
        let (first, others) = self.helpers.split_at(1);
        let helpers = if self.starve() { first } else { others };
        helpers.iter().for_each(|helper| helper.thread().unpark());
    }

    /// The run waits for the disk as long as `wait` takes.
    pub fn meanwhile<T>(&self, wait: impl FnOnce() -> T) -> T {
        if self.shared.used.load(Ordering::Relaxed) == 0 || self.there() == usize::MAX {
            return wait();
        }
        self.shared.waits.store(true, Ordering::Relaxed);
        self.wake();
        let begin = Instant::now();
        let result = wait();
        self.shared.waits.store(false, Ordering::Relaxed);
        let mut look = self.look.get();
        if look.is_starving(begin.elapsed(), self.there()) {
            self.shared.starve.store(true, Ordering::Relaxed);
        }
        self.look.set(look);
        result
    }

    /// Bytes from the front that can be read into without bringing in memory.
    pub fn there(&self) -> usize {
        self.shared.there.load(Ordering::Relaxed)
    }

    /// Bytes from the front that what stays may take: no more than are there, unless helpers starve.
    pub fn usable(&self) -> usize {
        if self.starve() { usize::MAX } else { self.there() }
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            // It does not panic, and if it did there would be nothing to mend.
            let _ = helper.join();
        }
    }
}

impl Shared {
    /// What helper `number` does.
    fn fill(&self, filler: &Filler, number: usize) {
        if number > 0 {
            lowtide_mapping::run_in_the_background();
        }
        while !self.ends.load(Ordering::Relaxed) && self.there.load(Ordering::Relaxed) < usize::MAX
        {
            let Some(range) = self.take(filler.bytes(), number) else {
                std::thread::park();
                continue;
            };
            let result = filler.fill(range);
            self.finish(filler.bytes(), number, result.is_ok());
        }
    }

    /// The next part for helper `number`, if it should do one now.
    fn take(&self, bytes: usize, number: usize) -> Option<Range<usize>> {
        let used = self.used.load(Ordering::Relaxed);
        let mut front = self.front.lock().unwrap_or_else(PoisonError::into_inner);
        let start = front.next;
        let starve = self.starve.load(Ordering::Relaxed);
        let ahead = if starve { used.saturating_add(AHEAD_BYTES) } else { AHEAD_BYTES };
        let waits = used > 0 && self.waits.load(Ordering::Relaxed);
        let step = if number == 0 && start < ahead {
            STEP_BYTES
        } else if waits && starve == (number == 0) {
            WAITING_STEP_BYTES
        } else {
            return None;
        };
        if start >= bytes {
            return None;
        }
        front.next = bytes.min(start + step);
        front.under_way[number] = Some(start);
        Some(start..front.next)
    }

    /// Helper `number` has done its part. If memory was refused, or all is there, no helper goes on: pages that are
    /// missing come when they are first read into.
    fn finish(&self, bytes: usize, number: usize, done: bool) {
        let mut front = self.front.lock().unwrap_or_else(PoisonError::into_inner);
        front.under_way[number] = None;
        let there = front.under_way.into_iter().flatten().fold(front.next, usize::min);
        let there = if done && there < bytes { there } else { usize::MAX };
        self.there.fetch_max(there, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helpers_that_give_way_work_while_the_run_waits() {
        let (shared, all) = (Shared::default(), 1 << 40);
        let taken = |number| shared.take(all, number).map(|range| range.len());
        // What is there from the start; nobody goes further before experts are used.
        while let Some(step) = taken(0) {
            assert_eq!(step, STEP_BYTES);
            shared.finish(all, 0, true);
        }
        assert_eq!(shared.there.load(Ordering::Relaxed), AHEAD_BYTES);
        shared.waits.store(true, Ordering::Relaxed);
        assert_eq!([taken(0), taken(1), taken(2)], [None; 3]);
        shared.used.store(1 << 20, Ordering::Relaxed);
        let step = Some(WAITING_STEP_BYTES);
        assert_eq!([taken(0), taken(1), taken(2)], [None, step, step]);
        shared.waits.store(false, Ordering::Relaxed);
        assert_eq!([taken(0), taken(1), taken(2)], [None; 3]);
    }

    #[test]
    fn where_they_starve_one_that_does_not_give_way_keeps_ahead() {
        let (shared, all) = (Shared::default(), 1 << 40);
        shared.front.lock().unwrap().next = AHEAD_BYTES;
        shared.used.store(AHEAD_BYTES, Ordering::Relaxed);
        shared.starve.store(true, Ordering::Relaxed);
        let taken = |number| shared.take(all, number).map(|range| range.len());
        while let Some(step) = taken(0) {
            assert_eq!(step, STEP_BYTES);
            shared.finish(all, 0, true);
        }
        assert_eq!(shared.there.load(Ordering::Relaxed), 2 * AHEAD_BYTES);
        shared.waits.store(true, Ordering::Relaxed);
        assert_eq!([taken(0), taken(1), taken(2)], [Some(WAITING_STEP_BYTES), None, None]);
    }

    #[test]
    fn helpers_starve_that_bring_in_little_in_a_long_wait() {
        let mut look = Look::default();
        let short = LOOK_EVERY / 4;
        let starving: Vec<bool> = (1..=4).map(|i| look.is_starving(short, i << 20)).collect();
        assert_eq!(starving, [false, false, false, true]);
        // From here on 2 MB each time, which is enough.
        assert!((3..=10).all(|i| !look.is_starving(short, i << 21)));
    }

    #[test]
    fn what_is_there_ends_before_the_first_part_under_way() {
        let (shared, all) = (Shared::default(), 14 << 20);
        let there = || shared.there.load(Ordering::Relaxed);
        shared.used.store(1, Ordering::Relaxed);
        shared.waits.store(true, Ordering::Relaxed);
        assert_eq!(shared.take(all, 0), Some(0..8 << 20));
        assert_eq!(shared.take(all, 1), Some(8 << 20..10 << 20));
        shared.finish(all, 1, true);
        assert_eq!(there(), 0);
        assert_eq!(shared.take(all, 1), Some(10 << 20..12 << 20));
        shared.finish(all, 0, true);
        assert_eq!(there(), 10 << 20);
        assert_eq!(shared.take(all, 2), Some(12 << 20..14 << 20));
        shared.finish(all, 1, true);
        assert_eq!(there(), 12 << 20);
        shared.finish(all, 2, true);
        assert_eq!(there(), usize::MAX);
        assert_eq!([0, 1, 2].map(|number| shared.take(all, number)), [None, None, None]);
    }

    #[test]
    fn refused_memory_ends_it() {
        let shared = Shared::default();
        assert!(shared.take(1 << 30, 0).is_some());
        shared.finish(1 << 30, 0, false);
        assert_eq!(shared.there.load(Ordering::Relaxed), usize::MAX);
    }
}
