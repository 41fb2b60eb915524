//! The ring under random use: no tile is lost, doubled or mistaken, whatever the caller does.

use std::collections::{HashMap, VecDeque};

use crate::ring::{Ring, Slot, SlotId, Standing};
use crate::test_rng::Rng;

/// A disk and its reader: what the ring believes is checked against what was really read.
struct Bench {
    ring: Ring,
    contents: HashMap<SlotId, u32>,
    under_way: VecDeque<(SlotId, u32)>,
    reads: u64,
    rng: Rng,
}

impl Bench {
    fn new(tiles: u32, slots: u32, seed: u64) -> Bench {
        Bench {
            ring: Ring::new(tiles, slots),
            contents: HashMap::new(),
            under_way: VecDeque::new(),
            reads: 0,
            rng: Rng::new(seed),
        }
    }

    fn issue_all(&mut self) {
        while let Some(fill) = self.ring.next_fill() {
            assert!(
                self.under_way.iter().all(|(s, _)| *s != fill.slot),
                "a second read into {:?}",
                fill.slot
            );
            assert!(matches!(self.ring.slots()[fill.slot.0 as usize], Slot::Loading(_)));
            self.under_way.push_back((fill.slot, fill.tile));
            self.reads += 1;
        }
    }

    /// Completes one of the reads, in any order.
    fn complete_one(&mut self) -> bool {
        if self.under_way.is_empty() {
            return false;
        }
        let i = self.rng.below(self.under_way.len() as u64) as usize;
        let Some((slot, tile)) = self.under_way.remove(i) else { return false };
        self.contents.insert(slot, tile);
        self.ring.filled(slot, true);
        true
    }

    fn acquire(&mut self, tile: u32) -> SlotId {
        loop {
            match self.ring.want(tile) {
                Standing::Ready(slot) => {
                    assert_eq!(self.contents[&slot], tile, "the slot holds another tile");
                    assert!(self.ring.hold(slot));
                    return slot;
                }
                Standing::Loading(_) | Standing::Queued => {
                    self.issue_all();
                    assert!(self.complete_one(), "nothing under way for tile {tile}: a deadlock");
                }
                other => panic!("tile {tile}: {other:?}"),
            }
        }
    }
}

#[test]
fn whole_passes_read_each_tile_once_and_run_ahead_around_the_end() {
    for (tiles, slots) in [(1, 3), (2, 3), (5, 3), (17, 4), (100, 16)] {
        let mut b = Bench::new(tiles, slots, 3);
        for pass in 0..4 {
            b.ring.begin_pass(|_| false);
            for tile in 0..tiles {
                b.issue_all();
                let slot = b.acquire(tile);
                b.issue_all();
                b.ring.release(slot);
            }
            b.issue_all();
            let ahead = u64::from(slots.min((tiles - 1).max(1)));
            assert_eq!(b.reads, (pass + 1) * u64::from(tiles) + ahead, "{tiles} {slots}");
        }
    }
}

#[test]
fn random_use_never_deadlocks_or_hands_out_the_wrong_tile() {
    for seed in 0..300 {
        let mut rng = Rng::new(seed);
        let tiles = 1 + rng.below(40) as u32;
        let slots = 2 + rng.below(8) as u32;
        let mut b = Bench::new(tiles, slots, seed);
        let mut held: VecDeque<(u32, SlotId)> = VecDeque::new();
        let mut tile = 0;
        for _ in 0..400 {
            match rng.below(12) {
                0 => {
                    let skip = rng.below(4);
                    b.ring.begin_pass(|i| skip == 0 && i % 3 == 0);
                    tile = 0;
                }
                1 => tile = (tile + rng.below(5) as u32) % tiles,
                2 => b.issue_all(),
                3 => _ = b.complete_one(),
                _ => {
                    if held.iter().all(|(t, _)| *t != tile) {
                        let slot = b.acquire(tile);
                        held.push_back((tile, slot));
                    }
                    tile = (tile + 1) % tiles;
                }
            }
            while held.len() >= slots as usize || (rng.below(2) == 0 && !held.is_empty()) {
                let (t, slot) = held.pop_front().unwrap();
                assert_eq!(b.contents[&slot], t, "overwritten while held");
                b.ring.release(slot);
            }
        }
    }
}

#[test]
fn an_abandoned_pass_keeps_what_the_next_one_needs() {
    let mut b = Bench::new(8, 5, 1);
    b.ring.begin_pass(|_| false);
    for tile in 0..6 {
        let slot = b.acquire(tile);
        b.ring.release(slot);
        b.issue_all();
    }
    while b.complete_one() {}
    // 6 and 7 are ready, and so are 0, 1 and 2 of the next pass: these stay.
    b.ring.begin_pass(|_| false);
    let reads = b.reads;
    for tile in 0..3 {
        assert!(matches!(b.ring.want(tile), Standing::Ready(_)), "{:?}", b.ring);
        let slot = b.acquire(tile);
        b.ring.release(slot);
    }
    assert_eq!(b.reads, reads);
    b.acquire(3);
    assert!(b.reads > reads);
}

#[test]
fn skipped_tiles_are_not_read_until_a_pass_wants_them() {
    let mut b = Bench::new(10, 4, 5);
    for pass in 0..3 {
        b.ring.begin_pass(|i| i >= 7);
        for tile in 0..7 {
            let slot = b.acquire(tile);
            b.ring.release(slot);
            b.issue_all();
        }
        // The head (7, 8, 9) was never read; the next pass was.
        assert_eq!(b.reads, (pass + 1) * 7 + 4);
    }
    b.ring.begin_pass(|_| false);
    for tile in 0..10 {
        let slot = b.acquire(tile);
        b.ring.release(slot);
        b.issue_all();
    }
    assert_eq!(b.reads, 3 * 7 + 10 + 4);
}

#[test]
fn a_tile_marked_skipped_and_wanted_after_all_is_read() {
    let mut b = Bench::new(6, 3, 9);
    b.ring.begin_pass(|i| i == 2);
    for tile in [0, 1, 2, 3, 4, 5] {
        b.issue_all();
        while b.complete_one() {}
        let slot = b.acquire(tile);
        b.ring.release(slot);
    }
}

#[test]
fn holding_every_slot_is_an_answer_and_not_a_wait() {
    let mut b = Bench::new(6, 3, 9);
    let slots: Vec<_> = (0..3).map(|t| b.acquire(t)).collect();
    assert_eq!(b.ring.want(3), Standing::Exhausted);
    assert_eq!(b.ring.want(1), Standing::Held);
    b.ring.release(slots[0]);
    b.acquire(3);
}

#[test]
fn a_failed_read_is_told_and_tried_again() {
    let mut b = Bench::new(6, 3, 9);
    b.ring.begin_pass(|_| false);
    b.issue_all();
    let (slot, _) = b.under_way.pop_front().unwrap();
    b.ring.filled(slot, false);
    assert_eq!(b.ring.want(0), Standing::Failed(slot));
    b.ring.retry(slot);
    b.acquire(0);
    b.acquire(1);
}
