//! Which pages of the mapping belong to what is in memory, for the threads that map and unmap them.

use std::ops::Range;

use crate::extent::{ExtentId, Extents, SourceId, Use};
use crate::plan::PAGE_BYTES;

/// Largest unit of the page cache: where a file is cached by so much (somebody read it before, with readahead),
/// touching one page of such a unit maps all of it (Linux 6.18; measured: 2 MiB of RSS for 4 KiB).
const FOLIO_BYTES_MAX: u64 = 2 << 20;

/// The extents in the order of their files, and which of them are kept in the mapping.
pub(crate) struct Kept {
    spans: Vec<Span>,
    /// Of each extent, its place among the spans; none of rows that are looked up.
    rank: Vec<Option<u32>>,
}

struct Span {
    source: SourceId,
    /// Bytes, of whole pages.
    pages: Range<u64>,
    /// How often it was asked for and not yet let go of: two slots of a ring may stand for one tile.
    keepers: u16,
}

impl Span {
    fn is_kept(&self) -> bool {
        self.keepers > 0
    }
}

impl Kept {
    /// None is kept yet.
    pub fn none_of(extents: &Extents) -> Kept {
        let mut order: Vec<_> = extents.iter().filter(|x| x.usage != Use::Lookup).collect();
        order.sort_by_key(|x| (x.source, x.offset));
        let mut rank = vec![None; extents.len()];
        (0u32..).zip(&order).for_each(|(i, x)| rank[x.id.index()] = Some(i));
        let span =
            |x: &crate::Extent| Span { source: x.source, pages: x.aligned(PAGE_BYTES), keepers: 0 };
        Kept { spans: order.into_iter().map(span).collect(), rank }
    }

    fn place(&self, id: ExtentId) -> Option<usize> {
        self.rank.get(id.index()).copied().flatten().map(|rank| rank as usize)
    }

    pub fn keep(&mut self, id: ExtentId) {
        if let Some(i) = self.place(id) {
            let keepers = &mut self.spans[i].keepers;
            *keepers = keepers.saturating_add(1);
        }
    }

    /// One of those who asked for the extent wants it no more. Returns what of its pages nobody wants: none while
    /// there is another, and not those of the first and the last that a neighbour keeps.
    pub fn release(&mut self, id: ExtentId) -> Range<u64> {
        let Some(i) = self.place(id) else { return 0..0 };
        self.spans[i].keepers = self.spans[i].keepers.saturating_sub(1);
        if self.spans[i].is_kept() {
            return 0..0;
        }
        let Span { source, pages, .. } = &self.spans[i];
        let meets = |s: &&Span| {
            s.source == *source && s.pages.start < pages.end && s.pages.end > pages.start
        };
        let before = self.spans[..i].iter().rev().take_while(meets).filter(|s| s.is_kept());
        let behind = self.spans[i + 1..].iter().take_while(meets).filter(|s| s.is_kept());
        let start = before.map(|s| s.pages.end).fold(pages.start, u64::max);
        let end = behind.map(|s| s.pages.start).fold(pages.end, u64::min);
        start..end.max(start)
    }

    /// Calls back with the pages around an extent, of whole units of the page cache, that belong to nothing kept:
    /// mapping the extent may have mapped them too.
    pub fn strays(&self, id: ExtentId, mut found: impl FnMut(Range<u64>)) {
        let Some(i) = self.place(id) else { return };
        let Span { source, pages, .. } = &self.spans[i];
        let start = pages.start / FOLIO_BYTES_MAX * FOLIO_BYTES_MAX;
        let end = pages.end.next_multiple_of(FOLIO_BYTES_MAX);
        let reaches = |s: &&Span| s.source == *source && s.pages.end > start;
        let first = i - self.spans[..i].iter().rev().take_while(reaches).count();
        let mut at = start;
        for span in &self.spans[first..] {
            if span.source != *source || span.pages.start >= end {
                break;
            }
            if span.is_kept() {
                if span.pages.start > at {
                    found(at..span.pages.start);
                }
                at = at.max(span.pages.end);
            }
        }
        if at < end {
            found(at..end);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::test_rng::Rng;

    fn pages(range: Range<u64>) -> impl Iterator<Item = u64> {
        assert_eq!((range.start % PAGE_BYTES, range.end % PAGE_BYTES), (0, 0));
        (range.start / PAGE_BYTES)..(range.end / PAGE_BYTES)
    }

    /// A page table whose page cache has large units only: whatever comes and goes, mapped is what is kept.
    #[test]
    fn what_is_mapped_is_what_is_kept() {
        let mut rng = Rng::new(5);
        let mut x = Extents::new();
        let mut at = 12_345;
        for i in 0..400u64 {
            let usage = if i % 50 == 3 { Use::Lookup } else { Use::Tile };
            let len = if i % 7 == 0 { 1 + rng.below(9000) } else { 1 + rng.below(3 << 20) };
            x.push(SourceId((i / 200) as u32), at, len, usage).unwrap();
            // Some stand apart.
            at += len + u64::from(i % 5 == 0) * rng.below(5 << 20);
        }
        let mut kept = Kept::none_of(&x);
        let mut wanted = HashSet::new();
        let mut mapped: [HashSet<u64>; 2] = Default::default();
        for step in 0..2000 {
            let id = x[rng.below(400) as usize].id;
            let extent = x[id.index()];
            let mapped_here = &mut mapped[extent.source.0 as usize];
            if extent.usage == Use::Lookup {
                continue;
            }
            if wanted.remove(&id) {
                pages(kept.release(id)).for_each(|p| assert!(mapped_here.remove(&p)));
            } else {
                wanted.insert(id);
                kept.keep(id);
                if step % 3 == 0 {
                    // Another slot for the same tile comes and goes.
                    kept.keep(id);
                    assert_eq!(kept.release(id), 0..0);
                }
                mapped_here.extend(pages(extent.aligned(FOLIO_BYTES_MAX)));
                kept.strays(id, |range| {
                    pages(range).for_each(|p| assert!(mapped_here.remove(&p)));
                });
            }
            if step % 40 > 0 {
                continue;
            }
            let of = |id: &&ExtentId| x[id.index()].source == extent.source;
            let expected: HashSet<u64> = wanted
                .iter()
                .filter(of)
                .flat_map(|id| pages(x[id.index()].aligned(PAGE_BYTES)))
                .collect();
            assert_eq!(*mapped_here, expected);
        }
        assert!(wanted.len() > 100);
    }
}
