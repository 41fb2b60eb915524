//! Extents: the byte ranges a pass uses, in the order in which it uses them.

use std::fmt;
use std::ops::{Deref, Range};

use crate::error::PlanError;

/// Which file of a model (the shard's index; 0 for a single file).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SourceId(pub u32);

/// An extent's place in the order of use of one pass. Prints `x412`.
///
/// Only [`Extents::push`] makes them, so an id is always a valid index of the list it came from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ExtentId(pub(crate) u32);

impl ExtentId {
    /// The place in the order of use, from 0.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ExtentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "x{}", self.0)
    }
}

/// How a pass uses an extent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Use {
    /// Used once in every pass, at its place in the order: pinned or streamed, as the plan decides.
    Tile,
    /// Small and used in every pass (norms, biases): pinned whatever the budget.
    Always,
    /// A few rows of it in every pass (a token embedding): read row by row, resident only when
    /// everything is.
    Lookup,
    /// A slice of a unit that only some tokens use: one matrix of one expert.
    Expert {
        /// The unit: all slices of the expert come and go together.
        unit: UnitId,
        /// Which of its slices, from 0.
        slice: u8,
    },
}

/// A unit of experts' slices: one expert of one layer. Prints `e412`.
///
/// Only [`Extents::push_unit`] makes them, so an id is always a valid index of the list it came from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct UnitId(pub(crate) u32);

impl UnitId {
    /// The place among all units, from 0: layer by layer, in each by expert.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for UnitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "e{}", self.0)
    }
}

/// Slices of a unit: gate, up and down.
pub const UNIT_SLICES: usize = 3;

/// What is fetched and dropped together: the slices of one expert.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unit {
    /// The layer it belongs to, counted among the layers that have experts.
    pub layer: u32,
    /// Its slices.
    pub slices: [ExtentId; UNIT_SLICES],
}

/// A byte range of one file that is used as one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Its place in the order of use.
    pub id: ExtentId,
    /// The file it lies in.
    pub source: SourceId,
    /// First byte in the file.
    pub offset: u64,
    /// Length in bytes, at least 1.
    pub len: u64,
    /// How a pass uses it.
    pub usage: Use,
}

impl Extent {
    /// The byte after the last one. [`Extents::push`] has checked that this does not wrap.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }

    /// The smallest range of whole blocks of `align` bytes (a power of two) that covers the extent.
    #[must_use]
    pub fn aligned(&self, align: u64) -> Range<u64> {
        let mask = align - 1;
        (self.offset & !mask)..(self.end().saturating_add(mask) & !mask)
    }
}

impl Extent {
    /// How much it is and where, for an error that a user reads.
    pub(crate) fn place(&self) -> String {
        let place = format!("{} from byte {} on", Bytes(self.len), self.offset);
        if self.source.0 > 0 { format!("{place} of shard {}", self.source.0) } else { place }
    }
}

/// `x412@1.9GiB+3.2MiB`
impl fmt::Display for Extent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}+{}", self.id, Bytes(self.offset), Bytes(self.len))?;
        if self.source.0 > 0 {
            write!(f, " of shard {}", self.source.0)?;
        }
        Ok(())
    }
}

/// The blocks of `align` bytes (a power of two) that the extents touch, by file and place: what overlaps or meets
/// is one range.
pub(crate) fn joined<'a>(
    extents: impl Iterator<Item = &'a Extent>,
    align: u64,
) -> Vec<(SourceId, Range<u64>)> {
    let mut blocks: Vec<_> = extents.map(|x| (x.source, x.aligned(align))).collect();
    blocks.sort_by_key(|(source, range)| (*source, range.start));
    blocks.dedup_by(|(source, range), (before, so_far)| {
        let touch = source == before && range.start <= so_far.end;
        if touch {
            so_far.end = so_far.end.max(range.end);
        }
        touch
    });
    blocks
}

/// A byte count for people: binary units, one decimal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1024.0 && unit + 1 < UNITS.len() {
            value /= 1024.0;
            unit += 1;
        }
        if unit == 0 { write!(f, "{}B", self.0) } else { write!(f, "{value:.1}{}", UNITS[unit]) }
    }
}

/// The extents of one pass in order of use.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Extents {
    list: Vec<Extent>,
    units: Vec<Unit>,
    used_together: u32,
}

impl Extents {
    /// An empty list.
    #[must_use]
    pub fn new() -> Extents {
        Extents::default()
    }

    /// Appends an extent that is used after all pushed so far.
    ///
    /// # Errors
    /// [`PlanError::Extent`] for an empty or wrapping range, or more than 2^32-1 extents.
    pub fn push(
        &mut self,
        source: SourceId,
        offset: u64,
        len: u64,
        usage: Use,
    ) -> Result<ExtentId, PlanError> {
        let bad = |why| PlanError::Extent { source_id: source, offset, len, why };
        let id = u32::try_from(self.list.len()).map_err(|_| bad("too many extents"))?;
        if len == 0 {
            return Err(bad("empty"));
        }
        // A file offset is a signed 64-bit number for the kernel; room is left to round up.
        match offset.checked_add(len) {
            Some(end) if end <= i64::MAX as u64 - (1 << 30) => {}
            _ => return Err(bad("ends beyond the largest file offset")),
        }
        let id = ExtentId(id);
        self.list.push(Extent { id, source, offset, len, usage });
        Ok(id)
    }

    /// Appends the slices of one expert as `(source, offset, length)`. `layer` counts the layers that
    /// have experts, from 0, and does not fall; a token uses `used` of a layer's units.
    ///
    /// # Errors
    /// As [`Extents::push`]; [`PlanError::Parameter`] for a layer that falls.
    pub fn push_unit(
        &mut self,
        layer: u32,
        used: u32,
        slices: [(SourceId, u64, u64); UNIT_SLICES],
    ) -> Result<UnitId, PlanError> {
        if self.units.last().is_some_and(|last| last.layer > layer) {
            return Err(PlanError::Parameter { what: "layer of an expert", why: "it falls" });
        }
        // There are fewer units than extents, and `push` bounds those.
        let unit = UnitId(u32::try_from(self.units.len()).unwrap_or(u32::MAX));
        let mut ids = [ExtentId(0); UNIT_SLICES];
        for ((slice, id), (source, offset, len)) in (0u8..).zip(&mut ids).zip(slices) {
            *id = self.push(source, offset, len, Use::Expert { unit, slice })?;
        }
        self.units.push(Unit { layer, slices: ids });
        self.used_together = self.used_together.max(used);
        Ok(unit)
    }

    /// The units, by layer and then by expert.
    #[must_use]
    pub fn units(&self) -> &[Unit] {
        &self.units
    }

    /// Units of one layer that a token uses, at most.
    #[must_use]
    pub fn used_together(&self) -> u32 {
        self.used_together
    }

    /// The layers that have experts.
    #[must_use]
    pub fn expert_layers(&self) -> u32 {
        self.units.last().map_or(0, |unit| unit.layer + 1)
    }
}

impl Deref for Extents {
    type Target = [Extent];

    fn deref(&self) -> &[Extent] {
        &self.list
    }
}

/// Tiles start at a multiple of this many rows, so that a kernel whose SIMD lanes are rows (16 of
/// them with AVX-512) has full groups in every tile but the last.
pub const TILE_ROW_GROUP: u64 = 16;

/// Cuts a tensor of `rows` rows of `row_bytes` into tiles of about `target_bytes`: balanced, none
/// larger than the target by more than two row groups, none a sliver.
pub fn tile_rows(
    rows: u64,
    row_bytes: u64,
    target_bytes: u64,
) -> impl Iterator<Item = Range<u64>> + Clone {
    let groups = rows.div_ceil(TILE_ROW_GROUP);
    let bytes = u128::from(rows) * u128::from(row_bytes);
    let tiles = bytes.div_ceil(u128::from(target_bytes.max(1)));
    let tiles = u64::try_from(tiles).unwrap_or(u64::MAX).min(groups);
    // The product is at most groups * groups: only u128 holds it for any input.
    let cut = move |i: u64| {
        let group = u128::from(groups) * u128::from(i) / u128::from(tiles.max(1));
        u64::try_from(group).unwrap_or(u64::MAX).saturating_mul(TILE_ROW_GROUP).min(rows)
    };
    (0..tiles).map(move |i| cut(i)..cut(i + 1))
}

/// Tile size for a budget for weights: large requests are what slow disks want (8 MiB was the
/// fastest measured), but a ring of a sixteenth of the budget must have some slots.
#[must_use]
pub fn tile_target_bytes(weights_budget_bytes: u64) -> u64 {
    const MIB: u64 = 1 << 20;
    (weights_budget_bytes / 256).next_power_of_two().clamp(MIB, 8 * MIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_the_rows_in_order_and_stay_near_the_target() {
        for rows in [1, 15, 16, 17, 511, 6656, 17920, 32000, 262_144] {
            for row_bytes in [1, 18, 324, 3744, 65_536] {
                for target in [1, 4096, 1 << 20, 8 << 20] {
                    let tiles: Vec<_> = tile_rows(rows, row_bytes, target).collect();
                    let mut next = 0;
                    for t in &tiles {
                        assert_eq!(t.start, next);
                        assert!(t.end > t.start && t.start % TILE_ROW_GROUP == 0);
                        let bytes = (t.end - t.start) * row_bytes;
                        assert!(bytes <= target + 2 * TILE_ROW_GROUP * row_bytes, "{rows} {t:?}");
                        next = t.end;
                    }
                    assert_eq!(next, rows);
                }
            }
        }
        assert_eq!(tile_rows(0, 10, 10).count(), 0);
        assert_eq!(tile_rows(u64::MAX, u64::MAX, 1).next(), Some(0..16));
    }

    #[test]
    fn blocks_are_joined_within_a_file() {
        let mut x = Extents::new();
        for (file, offset, len) in [
            (1, 0, 1),
            (0, 9000, 100),
            (0, 0, 4096),
            (0, 4097, 1),
            (0, 20_000, 9000),
            (0, 21_000, 9),
        ] {
            x.push(SourceId(file), offset, len, Use::Tile).unwrap();
        }
        let pages = |n: u64| n * 4096;
        let first = SourceId(0);
        let expected =
            [(first, 0..pages(3)), (first, pages(4)..pages(8)), (SourceId(1), 0..pages(1))];
        assert_eq!(joined(x.iter(), 4096), expected);
    }

    #[test]
    fn push_refuses_what_cannot_be_read() {
        let mut x = Extents::new();
        assert!(x.push(SourceId(0), 10, 0, Use::Tile).is_err());
        assert!(x.push(SourceId(0), u64::MAX, 1, Use::Tile).is_err());
        assert!(x.push(SourceId(0), i64::MAX as u64, 1, Use::Tile).is_err());
        let id = x.push(SourceId(2), 2_040_109_466, 3_355_443, Use::Tile).unwrap();
        assert_eq!(x[id.index()].to_string(), "x0@1.9GiB+3.2MiB of shard 2");
        assert_eq!(x[0].aligned(4096), 2_040_107_008..2_043_465_728);
    }
}
