//! Which bytes passes use, noted as they are used: off unless asked for, and then all of its memory
//! is claimed at once.

use crate::extent::{ExtentId, SourceId};

/// Bytes of a file that were read by their place: a token's embedding, a norm.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct TouchedRow {
    /// The file.
    pub source: SourceId,
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

/// What was used since the last look.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Touches {
    /// A bit for each extent, in order of use.
    extents: Vec<u64>,
    rows: Vec<TouchedRow>,
    rows_max: usize,
    rows_lost: u64,
}

impl Touches {
    /// Room for so many extents, and for rows up to `rows_max` between two looks.
    #[must_use]
    pub fn new(extents: usize, rows_max: usize) -> Touches {
        let rows = Vec::with_capacity(rows_max);
        Touches { extents: vec![0; extents.div_ceil(64)], rows, rows_max, rows_lost: 0 }
    }

    pub(crate) fn mark(&mut self, id: ExtentId) {
        if let Some(word) = self.extents.get_mut(id.index() / 64) {
            *word |= 1 << (id.index() % 64);
        }
    }

    pub(crate) fn mark_rows(&mut self, source: SourceId, offsets: &[u64], len: u64) {
        for &offset in offsets {
            // Growing would claim memory in the middle of a pass.
            match self.rows.len() < self.rows_max {
                true => self.rows.push(TouchedRow { source, offset, len }),
                false => self.rows_lost += 1,
            }
        }
    }

    /// Forgets everything; the memory stays.
    pub fn clear(&mut self) {
        self.extents.fill(0);
        self.rows.clear();
        self.rows_lost = 0;
    }

    /// Whether the extent was acquired.
    #[must_use]
    pub fn has(&self, id: ExtentId) -> bool {
        self.extents.get(id.index() / 64).is_some_and(|word| word >> (id.index() % 64) & 1 == 1)
    }

    /// Rows that were read, in the order of reading; one that was read twice stands here twice.
    #[must_use]
    pub fn rows(&self) -> &[TouchedRow] {
        &self.rows
    }

    /// Rows for which there was no room.
    #[must_use]
    pub fn rows_lost(&self) -> u64 {
        self.rows_lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_marked_is_there_until_cleared_and_memory_stays() {
        let mut touches = Touches::new(130, 2);
        let room = touches.rows.capacity();
        for i in [0, 63, 64, 129, 100_000] {
            touches.mark(ExtentId(i));
        }
        let set: Vec<u32> = (0..200).filter(|&i| touches.has(ExtentId(i))).collect();
        assert_eq!(set, [0, 63, 64, 129]);
        touches.mark_rows(SourceId(1), &[5, 6, 7], 10);
        assert_eq!((touches.rows().len(), touches.rows_lost()), (2, 1));
        assert_eq!(touches.rows()[1], TouchedRow { source: SourceId(1), offset: 6, len: 10 });
        touches.clear();
        assert!(!touches.has(ExtentId(63)) && touches.rows().is_empty());
        assert_eq!((touches.rows_lost(), touches.rows.capacity()), (0, room));
    }
}
