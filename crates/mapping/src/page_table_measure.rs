//! The same by measurement: the growth of `VmPTE` while every page of a mapping is touched.
//!
//! No memory is used for the pages themselves: reading anonymous memory that was never written maps the one zero
//! page that all share, and `MADV_POPULATE_READ` does that for a whole range by one call. The tables are
//! real, and charged: 40 MiB for 20 GiB.

use crate::advise::Advice;
use crate::page_tables::{PageSize, PageTables};
use crate::process::ProcessMemory;
use crate::request::{MapRequest, Protection};
use crate::{Error, Sharing};

/// What was measured, beside what the arithmetic says for the very addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeasuredPageTables {
    /// First address of the mapping.
    pub start: u64,
    /// Bytes touched.
    pub length: u64,
    /// The tables by arithmetic, for these addresses. The upper levels are partly there already.
    pub predicted: PageTables,
    /// Growth of `VmPTE`, in bytes.
    pub measured_bytes: u64,
    /// Growth of RSS meanwhile, in bytes: what the pages cost. Near zero.
    pub rss_growth_bytes: u64,
}

/// Bytes populated by one call: keeps the calls short enough to be interrupted between.
const CHUNK_BYTES: usize = 1 << 30;

/// Maps `length` bytes, touches every page, and says by how much the page tables grew. Other threads that map
/// memory meanwhile are measured too: ask while nothing else runs. `progress` is told the bytes done, and
/// returns false to stop early.
///
/// # Errors
/// `ZeroLength`, `Map` (more than the address space has), `Advise` (no memory for the tables), `System`;
/// a stop by `progress` gives what was measured up to there.
pub fn measure_page_tables(
    length: usize,
    mut progress: impl FnMut(usize) -> bool,
) -> Result<MeasuredPageTables, Error> {
    let mapping = MapRequest::anonymous(length)
        .protection(Protection::READ)
        .sharing(Sharing::Private)
        .no_reserve()
        .map()?;
    // One huge zero page would serve 2 MiB by an entry of level 1. A kernel without them says EINVAL.
    mapping.advise_if_known(Advice::NoHugePages);
    let before = ProcessMemory::read()?;
    let mut done = 0;
    while done < length {
        let end = length.min(done.saturating_add(CHUNK_BYTES));
        mapping.populate(done..end)?;
        done = end;
        if !progress(done) {
            break;
        }
    }
    let after = ProcessMemory::read()?;
    let start = mapping.address() as u64;
    Ok(MeasuredPageTables {
        start,
        length: done as u64,
        predicted: PageTables::exact(start, done as u64, PageSize::Size4K)?,
        measured_bytes: after.page_table_bytes.saturating_sub(before.page_table_bytes),
        rss_growth_bytes: after.rss_bytes.saturating_sub(before.rss_bytes),
    })
}
