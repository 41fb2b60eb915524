//! How many page tables a mapping needs: the arithmetic, from first principles.
//!
//! A table is a page of entries of 8 bytes: 512 entries in 4096 bytes. A table of level 0 maps 512 pages, one of
//! level 1 maps 512 tables of level 0, and so on to level 3, the root (x86-64 with four levels, aarch64 with
//! 4 KiB pages and 48 bits). Huge pages leave out levels from below: an entry of level 1 maps 2 MiB by itself,
//! one of level 2 maps 1 GiB.
//!
//! The lecture's sum for 20 GiB: 20 * 2^18 pages / 512 = 10240 tables of level 0, / 512 = 20 of level 1:
//! 10260 tables of 4096 bytes = 42,024,960 bytes.

use std::ops::Range;

use crate::Error;

/// Entries in a table.
pub const TABLE_ENTRIES: u64 = 512;
/// Bytes of a table.
pub const TABLE_BYTES: u64 = 4096;
/// Levels, from the one that maps pages (0) to the root (3).
pub const LEVELS: usize = 4;

/// Sizes of page that the tables can map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PageSize {
    /// 4096 bytes, mapped by level 0.
    Size4K,
    /// 2 MiB, mapped by level 1.
    Size2M,
    /// 1 GiB, mapped by level 2.
    Size1G,
}

impl PageSize {
    /// Bytes of a page.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Size4K => 1 << 12,
            Self::Size2M => 1 << 21,
            Self::Size1G => 1 << 30,
        }
    }

    /// The page size of so many bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Option<Self> {
        match bytes {
            0x1000 => Some(Self::Size4K),
            0x20_0000 => Some(Self::Size2M),
            0x4000_0000 => Some(Self::Size1G),
            _ => None,
        }
    }

    /// The lowest level that has tables.
    const fn level(self) -> usize {
        match self {
            Self::Size4K => 0,
            Self::Size2M => 1,
            Self::Size1G => 2,
        }
    }
}

/// Tables of each level, and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PageTables {
    /// Tables of levels 0 (maps pages) to 3 (the root).
    pub levels: [u64; LEVELS],
}

impl PageTables {
    /// The tables that map every page of `length` bytes from address `start` on, exactly. Tables at the
    /// edges may be shared with neighbouring mappings; they are counted here.
    ///
    /// # Errors
    /// `ZeroLength`; `AddressOverflow` where the range does not fit 64 bits.
    pub fn exact(start: u64, length: u64, page: PageSize) -> Result<Self, Error> {
        if length == 0 {
            return Err(Error::ZeroLength { what: "a mapping" });
        }
        let last = start.checked_add(length - 1).ok_or(Error::AddressOverflow { start, length })?;
        let mut tables = Self::default();
        for level in page.level()..LEVELS {
            let span = table_span(level);
            tables.levels[level] = last / span - start / span + 1;
        }
        Ok(tables)
    }

    /// The fewest tables for `length` bytes: the mapping begins at the beginning of a table of every
    /// level.
    ///
    /// # Errors
    /// `ZeroLength`.
    pub fn best(length: u64, page: PageSize) -> Result<Self, Error> {
        Self::exact(0, length, page)
    }

    /// The most tables for `length` bytes: the mapping begins in the last page of a table of every level,
    /// and so needs one more than at best wherever there is more than that page.
    ///
    /// # Errors
    /// `ZeroLength`; `AddressOverflow` beyond 2^64 - 2^48 bytes.
    pub fn worst(length: u64, page: PageSize) -> Result<Self, Error> {
        Self::exact(table_span(LEVELS - 1) - page.bytes(), length, page)
    }

    /// The tables that hold at least one of `runs`: ranges of addresses, ascending, not overlapping.
    /// What a process must have for the pages that are present; tables whose pages were taken away
    /// again may be there beside these, until the mapping goes.
    #[must_use]
    pub fn holding(runs: impl IntoIterator<Item = Range<u64>>) -> Self {
        let mut tables = Self::default();
        let mut last_of = [None; LEVELS];
        for run in runs.into_iter().filter(|run| !run.is_empty()) {
            for (level, last_seen) in last_of.iter_mut().enumerate() {
                let (first, last) =
                    (run.start / table_span(level), (run.end - 1) / table_span(level));
                tables.levels[level] += last - first + u64::from(*last_seen != Some(first));
                *last_seen = Some(last);
            }
        }
        tables
    }

    /// All tables.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.levels.iter().sum()
    }

    /// Bytes of all tables.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.count() * TABLE_BYTES
    }

    /// Bytes of levels 0 and 1, the sum of the lecture (above them there are one or two tables, which the
    /// rest of the process uses too).
    #[must_use]
    pub fn lecture_bytes(&self) -> u64 {
        (self.levels[0] + self.levels[1]) * TABLE_BYTES
    }
}

/// Bytes that one table of a level maps: 2 MiB, 1 GiB, 512 GiB, 256 TiB.
#[must_use]
pub const fn table_span(level: usize) -> u64 {
    let mut span = PageSize::Size4K.bytes();
    let mut at = 0;
    while at <= level {
        span *= TABLE_ENTRIES;
        at += 1;
    }
    span
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_lecture() {
        let tables = PageTables::best(20 * GIB, PageSize::Size4K).unwrap();
        assert_eq!(tables.levels, [10240, 20, 1, 1]);
        assert_eq!(tables.lecture_bytes(), 42_024_960);
        assert_eq!(tables.bytes(), 42_024_960 + 2 * 4096);
    }

    #[test]
    fn spans() {
        assert_eq!([0, 1, 2, 3].map(table_span), [2 << 20, GIB, 512 * GIB, 256 << 40]);
    }

    #[test]
    fn worst_cases_need_one_more_at_every_level() {
        let tables = PageTables::worst(20 * GIB, PageSize::Size4K).unwrap();
        assert_eq!(tables.levels, [10241, 21, 2, 2]);
        // One page has no second table to reach into, two pages have.
        assert_eq!(PageTables::worst(4096, PageSize::Size4K).unwrap().levels, [1; 4]);
        assert_eq!(PageTables::worst(4097, PageSize::Size4K).unwrap().levels, [2; 4]);
    }

    #[test]
    fn huge_pages_leave_out_levels() {
        let best = |page| PageTables::best(20 * GIB, page).unwrap().levels;
        assert_eq!(best(PageSize::Size2M), [0, 20, 1, 1]);
        assert_eq!(best(PageSize::Size1G), [0, 0, 1, 1]);
        let worst = |page| PageTables::worst(20 * GIB, page).unwrap().levels;
        assert_eq!(worst(PageSize::Size2M), [0, 21, 2, 2]);
        assert_eq!(worst(PageSize::Size1G), [0, 0, 2, 2]);
    }

    /// The whole pages that a range touches.
    fn whole_pages(start: u64, length: u64, page: PageSize) -> Range<u64> {
        let bytes = page.bytes();
        let end = start.saturating_add(length);
        start / bytes * bytes..end.div_ceil(bytes).saturating_mul(bytes)
    }

    /// Counts tables by walking over pages, for small cases.
    fn by_walking(start: u64, length: u64, page: PageSize) -> [u64; LEVELS] {
        let mut levels = [0; LEVELS];
        let pages = whole_pages(start, length, page);
        for (level, count) in levels.iter_mut().enumerate().skip(page.level()) {
            let mut last = None;
            for address in pages.clone().step_by(page.bytes() as usize) {
                let table = address / table_span(level);
                *count += u64::from(last != Some(table));
                last = Some(table);
            }
        }
        levels
    }

    #[test]
    fn exact_agrees_with_walking_and_lies_between_best_and_worst() {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        for _ in 0..300 {
            let (start, length) = (random(4 * GIB), 1 + random(3 * GIB / 64));
            for page in [PageSize::Size4K, PageSize::Size2M, PageSize::Size1G] {
                let exact = PageTables::exact(start, length, page).unwrap();
                assert_eq!(
                    exact.levels,
                    by_walking(start, length, page),
                    "{start} {length} {page:?}"
                );
                let aligned = PageTables::exact(start / page.bytes() * page.bytes(), length, page);
                let aligned = aligned.unwrap();
                let best = PageTables::best(length, page).unwrap();
                let worst = PageTables::worst(length, page).unwrap();
                for level in 0..LEVELS {
                    assert!(best.levels[level] <= aligned.levels[level]);
                    assert!(aligned.levels[level] <= worst.levels[level]);
                }
            }
        }
    }

    #[test]
    fn tables_that_hold_runs_are_counted_once() {
        // Two runs in one table, one across two, one in the next gigabyte.
        let page = 4096;
        let runs = [0..page, 9 * page..10 * page, 511 * page..513 * page, GIB..GIB + 1, 5..5];
        assert_eq!(PageTables::holding(runs).levels, [3, 2, 1, 1]);
        assert_eq!(PageTables::holding([]).levels, [0; LEVELS]);
        let whole = PageTables::exact(GIB + page, 3 * GIB, PageSize::Size4K).unwrap();
        assert_eq!(PageTables::holding(Some(GIB + page..4 * GIB + page)), whole);
    }

    #[test]
    fn senseless_ranges_are_errors() {
        let exact = |start, length| PageTables::exact(start, length, PageSize::Size4K);
        assert!(matches!(exact(0, 0), Err(Error::ZeroLength { .. })));
        assert!(matches!(exact(u64::MAX, 2), Err(Error::AddressOverflow { .. })));
        assert_eq!(exact(u64::MAX, 1).unwrap().levels, [1; 4]);
        assert!(PageTables::best(u64::MAX, PageSize::Size4K).is_ok());
        assert!(PageTables::worst(u64::MAX, PageSize::Size4K).is_err());
        assert_eq!(PageSize::from_bytes(4096), Some(PageSize::Size4K));
        assert_eq!(PageSize::from_bytes(5), None);
    }
}
