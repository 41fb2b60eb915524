//! Which pages of a mapping are in memory.
//!
//! Two different questions, which the literature of memory mapping likes to mix up:
//! [`Mapping::resident_pages`] (`mincore`) asks what is in the page cache, whoever brought it there;
//! [`Mapping::mapped_pages`] (`/proc/self/pagemap`) asks what this process has in its page tables, which is
//! what RSS counts.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::mapping::Mapping;
use crate::page::page_size;
use crate::{Error, sys};

/// A page per bit, for the pages that a range of a mapping touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageMap {
    /// Offset of the first page in the mapping, in bytes.
    start: usize,
    pages: usize,
    page_bytes: usize,
    bits: Vec<u64>,
}

/// Pages asked for at a time: `mincore` wants a byte for each.
const CHUNK_PAGES: usize = 1 << 16;

impl PageMap {
    fn new(range: &Range<usize>) -> Self {
        let page_bytes = page_size();
        let pages = range.len() / page_bytes;
        Self { start: range.start, pages, page_bytes, bits: vec![0; pages.div_ceil(64)] }
    }

    fn set(&mut self, page: usize) {
        if let Some(word) = self.bits.get_mut(page / 64) {
            *word |= 1 << (page % 64);
        }
    }

    /// How many pages the map covers.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// Bytes of the mapping that the map covers: whole pages.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.pages * self.page_bytes
    }

    /// Whether page number `page` of the range is set; false past its end.
    #[must_use]
    pub fn contains(&self, page: usize) -> bool {
        self.bits.get(page / 64).is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    /// How many pages are set.
    #[must_use]
    pub fn count(&self) -> usize {
        self.bits.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Bytes of the pages that are set; the page in which the file ends counts whole, as it costs whole.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.count() as u64 * self.page_bytes as u64
    }

    /// Whether every page is set.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.count() == self.pages
    }

    /// Runs of set pages, as bytes of the mapping, in ascending order.
    pub fn runs(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let mut page = 0;
        std::iter::from_fn(move || {
            let first = (page..self.pages).find(|&p| self.contains(p))?;
            let end = (first..self.pages).find(|&p| !self.contains(p)).unwrap_or(self.pages);
            page = end;
            Some(self.start + first * self.page_bytes..self.start + end * self.page_bytes)
        })
    }
}

impl Mapping {
    /// Which of the pages that `range` touches are in memory. For a file: in the page cache, also if
    /// another process brought them there. The kernel says so only about files that this process owns or
    /// may write to; about others it says that all is resident (a defence against spying, Linux 5.2).
    ///
    /// # Errors
    /// `OutsideMapping`, `ZeroLength`; `Advise` (`mincore` refused).
    pub fn resident_pages(&self, range: Range<usize>) -> Result<PageMap, Error> {
        let pages = self.pages_around(&range)?;
        let mut map = PageMap::new(&pages);
        let mut present = vec![0u8; CHUNK_PAGES.min(map.pages)];
        for first in (0..map.pages).step_by(CHUNK_PAGES) {
            let count = CHUNK_PAGES.min(map.pages - first);
            let start = pages.start + first * map.page_bytes;
            let present = &mut present[..count];
            self.mincore(start..start + count * map.page_bytes, present)?;
            let set = present.iter().enumerate().filter(|(_, byte)| *byte & 1 == 1);
            set.for_each(|(page, _)| map.set(first + page));
        }
        Ok(map)
    }

    /// Bytes of the pages that `range` touches that are in memory, as [`Mapping::resident_pages`] has it, without
    /// allocating: `scratch` has a byte for each page that is asked for at a time.
    ///
    /// # Errors
    /// As [`Mapping::resident_pages`].
    pub fn resident_bytes(&self, range: Range<usize>, scratch: &mut [u8]) -> Result<u64, Error> {
        let (pages, page) = (self.pages_around(&range)?, page_size());
        let mut count = 0;
        for start in pages.clone().step_by(page * scratch.len().max(1)) {
            let part = start..pages.end.min(start + page * scratch.len());
            let Some(present) = scratch.get_mut(..part.len() / page) else { break };
            self.mincore(part, present)?;
            count += present.iter().filter(|byte| **byte & 1 == 1).count();
        }
        Ok((count * page) as u64)
    }

    /// Asks of whole pages, `present` with a byte for each.
    fn mincore(&self, pages: Range<usize>, present: &mut [u8]) -> Result<(), Error> {
        assert_eq!(pages.len().div_ceil(page_size()), present.len(), "a byte for each page");
        let base = self.pointer(pages.start).as_ptr().cast();
        // SAFETY: the pages lie in this mapping (`pages_around`), and `present` has a byte for each (asserted).
        sys::check(unsafe { libc::mincore(base, pages.len(), present.as_mut_ptr().cast()) })
            .map(drop)
            .map_err(|source| Error::Advise { call: "mincore", place: self.place(&pages), source })
    }

    /// Which of the pages that `range` touches this process has in its page tables (what RSS counts, and
    /// the shared zero page).
    ///
    /// # Errors
    /// `OutsideMapping`, `ZeroLength`; `System` (no `/proc`).
    pub fn mapped_pages(&self, range: Range<usize>) -> Result<PageMap, Error> {
        let pages = self.pages_around(&range)?;
        let first_page = (self.address() + pages.start) / page_size();
        present_pages("/proc/self/pagemap".as_ref(), first_page as u64, &pages)
    }
}

/// Which pages are present by the `pagemap` at `path`, whose entry `first_entry` belongs to the first
/// page of `range` (whole pages; what the map counts from).
pub(crate) fn present_pages(
    path: &Path,
    first_entry: u64,
    range: &Range<usize>,
) -> Result<PageMap, Error> {
    let mut map = PageMap::new(range);
    let fail = |source| Error::System { action: "read", path: path.into(), source };
    let file = File::open(path).map_err(fail)?;
    let mut entries = vec![0u8; CHUNK_PAGES.min(map.pages) * ENTRY_BYTES];
    for first in (0..map.pages).step_by(CHUNK_PAGES) {
        let count = CHUNK_PAGES.min(map.pages - first);
        let Some(entries) = entries.get_mut(..count * ENTRY_BYTES) else { break };
        let at = (first_entry + first as u64) * ENTRY_BYTES as u64;
        file.read_exact_at(entries, at).map_err(fail)?;
        // Bit 63 of each little- or big-endian (native) word: present.
        let words = entries.as_chunks::<ENTRY_BYTES>().0.iter();
        let present = words.map(|word| u64::from_ne_bytes(*word) >> 63 == 1);
        present.enumerate().filter(|(_, set)| *set).for_each(|(page, _)| map.set(first + page));
    }
    Ok(map)
}

/// `Documentation/admin-guide/mm/pagemap.rst`: one 64-bit word a page.
const ENTRY_BYTES: usize = 8;

/// Whether the kernel says of this file which of its pages are in memory: it belongs to this process's user.
/// (There are others of whose files it does, who may write to them: they are not looked for.)
#[must_use]
pub fn tells_resident_pages(file: &File) -> bool {
    // SAFETY: geteuid takes nothing, and always succeeds.
    let own = unsafe { libc::geteuid() };
    file.metadata().is_ok_and(|meta| meta.uid() == own)
}

/// Which pages of a file are in the page cache, by mapping it for the moment: reads nothing.
///
/// # Errors
/// Those of [`Mapping::of_file`] and [`Mapping::resident_pages`].
pub fn cached_pages(file: &File) -> Result<PageMap, Error> {
    let mapping = Mapping::of_file(file)?;
    mapping.resident_pages(0..mapping.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_and_counts() {
        let page = page_size();
        let mut map = PageMap::new(&(2 * page..132 * page));
        assert_eq!((map.pages(), map.count(), map.runs().count()), (130, 0, 0));
        for set in [0, 1, 63, 64, 129] {
            map.set(set);
        }
        let runs: Vec<_> = map.runs().collect();
        assert_eq!(runs, [2 * page..4 * page, 65 * page..67 * page, 131 * page..132 * page]);
        assert_eq!((map.count(), map.resident_bytes()), (5, 5 * page as u64));
        assert!(map.contains(64) && !map.contains(65) && !map.contains(100_000));
        assert!(!map.is_full());
        (0..130).for_each(|set| map.set(set));
        assert!(map.is_full());
    }
}
