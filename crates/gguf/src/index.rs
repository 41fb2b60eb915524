//! A map from name to position that stores positions only: eight bytes an entry at most, so that a file of a million one-letter
//! keys costs little more than itself.
//!
//! Open addressing, linear probing, at most half full. Names are hashed with the standard library's keyed SipHash: a hostile
//! file cannot choose names that collide, so insertion stays constant and the whole table linear.

use std::hash::{BuildHasher, RandomState};

const EMPTY: u32 = u32::MAX;

/// Positions by name. The names themselves stay with the caller, who passes a way to look them up.
#[derive(Clone, Debug, Default)]
pub(crate) struct NameIndex {
    slots: Vec<u32>,
    len: usize,
    hasher: RandomState,
}

impl NameIndex {
    /// Position of `name`, `name_at` giving the name of a position.
    pub(crate) fn find<'n>(&self, name: &str, name_at: impl Fn(u32) -> &'n str) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let slot = self.slots[self.probe(name, &name_at)];
        (slot != EMPTY).then_some(slot)
    }

    /// Adds `name` at `position` (below `u32::MAX`), or gives the position where it already stands.
    pub(crate) fn insert<'n>(
        &mut self,
        name: &str,
        position: u32,
        name_at: impl Fn(u32) -> &'n str,
    ) -> Result<(), u32> {
        if (self.len + 1) * 2 > self.slots.len() {
            self.grow(&name_at);
        }
        let at = self.probe(name, &name_at);
        if self.slots[at] != EMPTY {
            return Err(self.slots[at]);
        }
        self.slots[at] = position;
        self.len += 1;
        Ok(())
    }

    /// The slot that holds `name`, or the empty one where it belongs. Ends because at least half of the slots are empty.
    fn probe<'n>(&self, name: &str, name_at: &impl Fn(u32) -> &'n str) -> usize {
        let mask = self.slots.len() - 1;
        // Only the low bits matter: the mask keeps them inside the table.
        let mut at = self.hasher.hash_one(name) as usize & mask;
        while self.slots[at] != EMPTY && name_at(self.slots[at]) != name {
            at = (at + 1) & mask;
        }
        at
    }

    fn grow<'n>(&mut self, name_at: &impl Fn(u32) -> &'n str) {
        let doubled = vec![EMPTY; (self.slots.len() * 2).max(16)];
        let old = std::mem::replace(&mut self.slots, doubled);
        for position in old.into_iter().filter(|&position| position != EMPTY) {
            let at = self.probe(name_at(position), name_at);
            self.slots[at] = position;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_inserted_and_refuses_repeats() {
        let names: Vec<String> = (0..1000).map(|i| format!("k{i}")).collect();
        let name_at = |i: u32| names[i as usize].as_str();
        let mut index = NameIndex::default();
        assert_eq!(index.find("k0", name_at), None);
        for (i, name) in names.iter().enumerate() {
            assert_eq!(index.insert(name, i as u32, name_at), Ok(()));
        }
        assert_eq!(index.insert("k7", 1000, name_at), Err(7));
        for (i, name) in names.iter().enumerate() {
            assert_eq!(index.find(name, name_at), Some(i as u32));
        }
        assert_eq!(index.find("k1000", name_at), None);
    }
}
