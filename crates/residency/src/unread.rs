//! What bringing in a part of a mapping will read from the disk, asked before it is read.

use std::ops::Range;
use std::sync::Arc;

use lowtide_mapping::{Mapping, tells_resident_pages};

use crate::store::Source;

/// Pages that are looked for in the page cache at a time: those of 16 MiB.
const LOOK_PAGES: usize = 4096;

/// What is read at a time where whole huge pages are ([`Mapping::read_by_huge_pages`]).
const BLOCK_BYTES: usize = 2 << 20;

/// Looks into the page cache. It is for the figures: an error shows in the populate, if at all.
pub(crate) struct Unread {
    mappings: Vec<Arc<Mapping>>,
    /// Of which of them the kernel says what is in the page cache.
    tells: Vec<bool>,
    scratch: Vec<u8>,
    /// Where whole huge pages are read: which blocks of each mapping have been counted. Whoever comes first reads a
    /// block for all that lie in it, and small tiles are dozens to a block; so it counts as his, once.
    counted: Option<Vec<Vec<bool>>>,
}

impl Unread {
    pub fn new(sources: &[Source], huge: bool) -> Unread {
        let mappings: Vec<_> = sources.iter().map(|s| Arc::clone(&s.mapping)).collect();
        let none_of = |mapping: &Arc<Mapping>| vec![false; mapping.len().div_ceil(BLOCK_BYTES)];
        Unread {
            tells: sources.iter().map(|s| tells_resident_pages(s.file.file())).collect(),
            scratch: vec![0; LOOK_PAGES],
            counted: huge.then(|| mappings.iter().map(none_of).collect()),
            mappings,
        }
    }

    /// Bytes that bringing in a range has to read: of the range, or of blocks around it that nobody has begun to read.
    /// Where the kernel does not say what is cached, all of them.
    pub fn count(&mut self, source: usize, range: &Range<usize>) -> u64 {
        if self.counted.is_none() {
            return self.missing(source, range.clone());
        }
        let len = self.mappings.get(source).map_or(0, |mapping| mapping.len());
        let mut read = 0;
        for block in range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES) {
            if self.is_first(source, block) {
                let start = block * BLOCK_BYTES;
                read += self.missing(source, start..len.min(start + BLOCK_BYTES));
            }
        }
        read
    }

    /// What is brought in from now on is read anew: everything was there, and some of it has been taken away.
    pub fn forget(&mut self) {
        self.counted.iter_mut().flatten().for_each(|blocks| blocks.fill(false));
    }

    /// Whether a block has not been counted; from now on it has.
    fn is_first(&mut self, source: usize, block: usize) -> bool {
        let of_all = self.counted.as_mut().and_then(|all| all.get_mut(source)?.get_mut(block));
        of_all.is_some_and(|counted| !std::mem::replace(counted, true))
    }

    fn missing(&mut self, source: usize, range: Range<usize>) -> u64 {
        let all = range.len() as u64;
        let (Some(mapping), Some(true)) = (self.mappings.get(source), self.tells.get(source))
        else {
            return all;
        };
        let there = mapping.resident_bytes(range, &mut self.scratch).unwrap_or(0);
        // Whole pages, of which the first and the last may be a neighbour's as well.
        all.saturating_sub(there)
    }
}
