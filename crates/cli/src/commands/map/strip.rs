//! From bytes to cells: the whole file as a strip of columns, and kinds of tensors by layers.

use std::collections::BTreeMap;
use std::ops::Range;

use super::kind::{Group, Kind};
use super::layout::Layout;
use super::survey::Survey;

/// One column of the strip: some bytes of the model, files end to end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Column {
    /// What most of its bytes are for.
    pub group: Group,
    /// Share of its bytes in the page cache, 0 to 1.
    pub cached: f64,
    /// Share of its bytes in the process's page tables.
    pub mapped: f64,
    /// Share of its bytes in the process's own buffers.
    pub buffered: f64,
}

/// The model as `count` columns of equal bytes.
pub fn columns(layout: &Layout, survey: &Survey, count: usize) -> Vec<Column> {
    let total = layout.file_bytes();
    let edge = |i: usize| (u128::from(total) * i as u128 / count.max(1) as u128) as u64;
    (0..count).map(|i| column(layout, survey, edge(i)..edge(i + 1))).collect()
}

fn column(layout: &Layout, survey: &Survey, range: Range<u64>) -> Column {
    let (mut cached, mut mapped, mut buffered) = (0, 0, 0);
    for shard in 0..layout.shards.len() {
        let base = layout.base(shard);
        let here = shifted(&range, base, layout.shards[shard].size());
        cached += survey.cached(shard, &here);
        mapped += survey.mapped(shard, &here);
        buffered += survey.buffered(shard, &here);
    }
    let group = group_of(layout, &range);
    let length = (range.end - range.start).max(1) as f64;
    let share = |bytes: u64| bytes as f64 / length;
    Column { group, cached: share(cached), mapped: share(mapped), buffered: share(buffered) }
}

/// What most bytes of each of `count` columns are for.
pub fn groups(layout: &Layout, count: usize) -> Vec<Group> {
    let total = layout.file_bytes();
    let edge = |i: usize| (u128::from(total) * i as u128 / count.max(1) as u128) as u64;
    (0..count).map(|i| group_of(layout, &(edge(i)..edge(i + 1)))).collect()
}

fn group_of(layout: &Layout, range: &Range<u64>) -> Group {
    let mut bytes: BTreeMap<Group, u64> = BTreeMap::new();
    for part in &layout.parts {
        let base = layout.base(part.shard);
        let overlap = overlap(&(base + part.range.start..base + part.range.end), range);
        if overlap > 0 {
            *bytes.entry(part.kind.group()).or_default() += overlap;
        }
    }
    let most = bytes.into_iter().max_by_key(|(_, bytes)| *bytes);
    most.map_or(Group::Rest, |(group, _)| group)
}

/// The part of `range` (of all files end to end) that lies in the file at `base`, in its own bytes.
fn shifted(range: &Range<u64>, base: u64, size: u64) -> Range<u64> {
    let start = range.start.max(base).min(base + size) - base;
    start..(range.end.max(base).min(base + size) - base).max(start)
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> u64 {
    a.end.min(b.end).saturating_sub(a.start.max(b.start))
}

/// Bytes of a cell of the grid, and how many are in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cell {
    /// All.
    pub bytes: u64,
    /// In the page cache, or in the process.
    pub held: u64,
}

impl Cell {
    /// Share in memory; `None` where there is nothing.
    pub fn share(self) -> Option<f64> {
        (self.bytes > 0).then(|| self.held as f64 / self.bytes as f64)
    }
}

/// A row of the grid.
pub struct Row {
    /// Its kind of tensors.
    pub kind: Kind,
    /// One cell for what is in no layer, then one for each layer.
    pub cells: Vec<Cell>,
}

impl Row {
    /// All cells together.
    pub fn sum(&self) -> Cell {
        self.cells.iter().fold(Cell::default(), |sum, cell| Cell {
            bytes: sum.bytes + cell.bytes,
            held: sum.held + cell.held,
        })
    }
}

/// Kinds by layers. `by_process`: what the process has in its page tables or in buffers of its own, not
/// the page cache.
pub fn grid(layout: &Layout, survey: &Survey, by_process: bool) -> Vec<Row> {
    let width = layout.layers as usize + 1;
    let mut rows: BTreeMap<Kind, Vec<Cell>> = BTreeMap::new();
    for part in &layout.parts {
        let cells = rows.entry(part.kind).or_insert_with(|| vec![Cell::default(); width]);
        let cell = &mut cells[part.layer.map_or(0, |layer| layer as usize + 1)];
        cell.bytes += part.bytes();
        cell.held += match by_process {
            // Both where a tile was mapped before it was streamed: it is there once.
            true => {
                let buffered = survey.buffered(part.shard, &part.range);
                (survey.mapped(part.shard, &part.range) + buffered).min(part.bytes())
            }
            false => survey.cached(part.shard, &part.range),
        };
    }
    rows.into_iter().map(|(kind, cells)| Row { kind, cells }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_files_end_to_end() {
        assert_eq!(shifted(&(5..15), 10, 100), 0..5);
        assert_eq!(shifted(&(5..15), 0, 8), 5..8);
        assert_eq!(shifted(&(5..15), 20, 8), 0..0);
        assert_eq!(overlap(&(0..10), &(5..20)), 5);
        assert_eq!(overlap(&(0..5), &(5..20)), 0);
        assert_eq!(Cell { bytes: 0, held: 0 }.share(), None);
    }
}
