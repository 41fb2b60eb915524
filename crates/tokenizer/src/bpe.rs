//! Byte-pair merges: always the pair of the lowest rank, of equal ones the leftmost.
//!
//! Symbols are numbers, not strings: a merge is looked up by two ids in one hash probe. Short words are
//! merged by scanning an array, long ones with a heap over a linked list, so that a word of a megabyte takes
//! n log n.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::vocab::NONE;

/// Up to this many symbols scanning is faster than the heap.
const SCAN_MAX: usize = 64;

#[derive(Copy, Clone, Debug)]
struct Merge {
    left: u32,
    right: u32,
    rank: u32,
    result: u32,
}

/// The merges of a vocabulary, by the two symbols that are merged.
#[derive(Debug)]
pub(crate) struct Merges {
    table: HashTable<Merge>,
    hasher: RandomState,
}

fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

impl Merges {
    pub(crate) fn with_capacity(merges: usize) -> Merges {
        Merges { table: HashTable::with_capacity(merges), hasher: RandomState::default() }
    }

    /// Adds a merge. Of two with the same parts the first one counts.
    pub(crate) fn insert(&mut self, left: u32, right: u32, rank: u32, result: u32) {
        let Merges { table, hasher } = self;
        let hash = hasher.hash_one(key(left, right));
        let rehash = |merge: &Merge| hasher.hash_one(key(merge.left, merge.right));
        table
            .entry(hash, |merge| merge.left == left && merge.right == right, rehash)
            .or_insert(Merge { left, right, rank, result });
    }

    /// Rank and result of merging two symbols; ranks of [`NONE`] for none.
    #[inline]
    fn find(&self, left: u32, right: u32) -> (u32, u32) {
        let hash = self.hasher.hash_one(key(left, right));
        let found = self.table.find(hash, |merge| merge.left == left && merge.right == right);
        found.map_or((NONE, NONE), |merge| (merge.rank, merge.result))
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.table.allocation_size()
    }
}

/// A symbol of a word: its id ([`NONE`] if it has none) and where it starts, in bytes of the word.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Symbol {
    pub(crate) id: u32,
    pub(crate) start: u32,
}

/// Reused between words.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    pairs: Vec<(u32, u32)>,
    next: Vec<u32>,
    prev: Vec<u32>,
    heap: BinaryHeap<Reverse<Pair>>,
}

/// Merges the symbols of one word in place.
pub(crate) fn merge(merges: &Merges, word: &mut Vec<Symbol>, scratch: &mut Scratch) {
    if word.len() <= SCAN_MAX {
        scan(merges, word, scratch);
    } else {
        heap(merges, word, scratch);
    }
}

fn scan(merges: &Merges, word: &mut Vec<Symbol>, scratch: &mut Scratch) {
    let pairs = &mut scratch.pairs;
    let find = |word: &[Symbol], at: usize| match word.get(at..at + 2) {
        Some([left, right]) => merges.find(left.id, right.id),
        _ => (NONE, NONE),
    };
    pairs.clear();
    pairs.extend((0..word.len()).map(|at| find(word, at)));
    // `min_by_key` gives the first of equal ones: the leftmost.
    while let Some((at, &(rank, result))) = pairs.iter().enumerate().min_by_key(|(_, pair)| pair.0)
        && rank != NONE
    {
        word[at].id = result;
        word.remove(at + 1);
        pairs.remove(at + 1);
        pairs[at] = find(word, at);
        if at > 0 {
            pairs[at - 1] = find(word, at - 1);
        }
    }
}

/// A pair that may be merged: ordered by rank, then by place. It is out of date once a symbol of it changed.
#[derive(Copy, Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Pair {
    rank: u32,
    left: u32,
    right: u32,
    left_id: u32,
    right_id: u32,
    result: u32,
}

struct List<'a> {
    merges: &'a Merges,
    word: &'a mut Vec<Symbol>,
    next: &'a mut Vec<u32>,
    prev: &'a mut Vec<u32>,
    heap: &'a mut BinaryHeap<Reverse<Pair>>,
}

impl List<'_> {
    fn push(&mut self, left: u32, right: u32) {
        let (Some(l), Some(r)) = (self.word.get(left as usize), self.word.get(right as usize))
        else {
            return;
        };
        let (left_id, right_id) = (l.id, r.id);
        let (rank, result) = self.merges.find(left_id, right_id);
        if rank != NONE {
            self.heap.push(Reverse(Pair { rank, left, right, left_id, right_id, result }));
        }
    }

    fn merge(&mut self, pair: Pair) {
        let (left, right) = (pair.left as usize, pair.right as usize);
        let current = self.next[left] == pair.right
            && self.word[left].id == pair.left_id
            && self.word[right].id == pair.right_id;
        if !current {
            return;
        }
        self.word[left].id = pair.result;
        let after = self.next[right];
        self.next[left] = after;
        // Marks the right symbol as gone: nothing has itself as its successor.
        self.next[right] = pair.right;
        if let Some(prev) = self.prev.get_mut(after as usize) {
            *prev = pair.left;
        }
        self.push(self.prev[left], pair.left);
        self.push(pair.left, after);
    }
}

fn heap(merges: &Merges, word: &mut Vec<Symbol>, scratch: &mut Scratch) {
    // Words are cut below 2^31 bytes: indices fit, and NONE is none of them.
    let len = word.len() as u32;
    let Scratch { next, prev, heap, .. } = scratch;
    next.clear();
    next.extend((1..len).chain([NONE]));
    prev.clear();
    prev.extend([NONE].into_iter().chain(0..len - 1));
    heap.clear();
    let mut list = List { merges, word, next, prev, heap };
    for right in 1..len {
        list.push(right - 1, right);
    }
    while let Some(Reverse(pair)) = list.heap.pop() {
        list.merge(pair);
    }
    let mut at = 0;
    let next = &scratch.next;
    word.retain(|_| {
        let kept = next[at as usize] != at;
        at += 1;
        kept
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(ids: &[u32]) -> Vec<Symbol> {
        (0..).zip(ids).map(|(start, &id)| Symbol { id, start }).collect()
    }

    fn both(merges: &Merges, ids: &[u32]) -> Vec<Symbol> {
        let (mut scanned, mut heaped) = (word(ids), word(ids));
        scan(merges, &mut scanned, &mut Scratch::default());
        heap(merges, &mut heaped, &mut Scratch::default());
        assert_eq!(scanned, heaped, "{ids:?}");
        scanned
    }

    #[test]
    fn lowest_rank_first_and_leftmost_of_equals() {
        let mut merges = Merges::with_capacity(0);
        merges.insert(1, 1, 5, 2);
        merges.insert(2, 1, 4, 3);
        merges.insert(1, 1, 0, 9);
        let ids = |ids: &[u32]| both(&merges, ids).iter().map(|s| s.id).collect::<Vec<_>>();
        assert_eq!(ids(&[1, 1, 1]), [3]);
        assert_eq!(ids(&[1, 1, 1, 1]), [3, 1]);
        assert_eq!(ids(&[1, 1, 7, 1]), [2, 7, 1]);
        assert_eq!(ids(&[NONE, NONE]), [NONE, NONE]);
    }

    #[test]
    fn scan_and_heap_agree_on_random_merges() {
        let mut state = 1u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 33) % below) as u32
        };
        for _ in 0..300 {
            let mut merges = Merges::with_capacity(0);
            for rank in 0..random(40) {
                merges.insert(random(8), random(8), rank / 2, random(8));
            }
            let ids: Vec<u32> = (0..2 + random(60)).map(|_| random(8)).collect();
            both(&merges, &ids);
        }
    }
}
