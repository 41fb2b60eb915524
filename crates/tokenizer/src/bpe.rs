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
    /// The heap's memory; empty between words.
    heap: Vec<Reverse<Pair>>,
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

/// A pair that may be merged: its rank above, the place of its left symbol below. So the lowest rank comes
/// first, of equal ones the leftmost. It is out of date once the symbols there merge with another rank; what
/// stands there is looked up again rather than kept: 8 bytes instead of 24 for each byte of a long word.
type Pair = u64;

fn pair(rank: u32, left: u32) -> Pair {
    u64::from(rank) << 32 | u64::from(left)
}

struct List<'a> {
    merges: &'a Merges,
    word: &'a mut Vec<Symbol>,
    next: &'a mut Vec<u32>,
    prev: &'a mut Vec<u32>,
    heap: BinaryHeap<Reverse<Pair>>,
}

impl List<'_> {
    /// Rank and result of a symbol and the next one.
    fn find(&self, left: u32) -> (u32, u32) {
        let right = self.next.get(left as usize).and_then(|&next| self.word.get(next as usize));
        match (self.word.get(left as usize), right) {
            (Some(left), Some(right)) => self.merges.find(left.id, right.id),
            _ => (NONE, NONE),
        }
    }

    fn push(&mut self, left: u32) {
        let (rank, _) = self.find(left);
        if rank != NONE {
            self.heap.push(Reverse(pair(rank, left)));
        }
    }

    fn merge(&mut self, top: Pair) {
        let (rank, left) = ((top >> 32) as u32, top as u32);
        let right = self.next[left as usize];
        let (current, result) = self.find(left);
        // Nothing has itself as its successor but what is gone.
        if right == left || current != rank {
            return;
        }
        self.word[left as usize].id = result;
        let after = self.next[right as usize];
        self.next[left as usize] = after;
        self.next[right as usize] = right;
        if let Some(prev) = self.prev.get_mut(after as usize) {
            *prev = left;
        }
        let prev = self.prev[left as usize];
        if prev != NONE {
            self.push(prev);
        }
        self.push(left);
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
    let mut pairs = std::mem::take(heap);
    pairs.clear();
    let mut list = List { merges, word, next, prev, heap: BinaryHeap::new() };
    pairs.extend((0..len - 1).filter_map(|left| match list.find(left) {
        (NONE, _) => None,
        (rank, _) => Some(Reverse(pair(rank, left))),
    }));
    list.heap = BinaryHeap::from(pairs);
    while let Some(Reverse(top)) = list.heap.pop() {
        list.merge(top);
    }
    *heap = list.heap.into_vec();
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
