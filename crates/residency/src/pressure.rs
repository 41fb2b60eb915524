//! Room under the limits of the memory groups.
//!
//! Pinned pages stay in the page cache when their plan is gone, so that a restart finds them. Charged to the
//! same group, they are in the way of a plan that pins others: the kernel then takes pages back at the limit, tens
//! of thousands of times, the oldest first, which may be the new plan's. So whoever comes lets go of them, where
//! there is a limit and it leaves no room beside them.

use std::ops::Range;

use lowtide_mapping::{Error, Mapping, MemoryGroup, MemoryLimits, ProcessMemory};

use crate::extent::{SourceId, Use, joined};
use crate::mapped::within;
use crate::plan::{PAGE_BYTES, PinnedIn, Placement, Plan};
use crate::store::Source;

/// Lets go of the pages of the files that the plan has no use for, if the process, grown to `budget` bytes, would
/// meet a limit beside them. What the plan pins stays, and where there is room all does.
pub(crate) fn make_room(sources: &[Source], plan: &Plan, budget: u64) -> Result<(), Error> {
    if !is_short(budget)? {
        return Ok(());
    }
    let kept = pages_kept(plan);
    let mut cached = 0;
    for (source, pages) in &kept {
        if let Some((mapping, range)) = place(sources, *source, pages) {
            cached += mapping.resident_pages(range)?.resident_bytes();
        }
    }
    // Part of what is to come is there and charged already.
    if !is_short(budget.saturating_sub(cached))? {
        return Ok(());
    }
    for (id, source) in (0..).map(SourceId).zip(sources) {
        let mut at = 0;
        let kept = kept.iter().filter(|(of, _)| *of == id).map(|(_, pages)| pages);
        for pages in kept.chain([&(u64::MAX..u64::MAX)]) {
            evict(sources, id, &(at..pages.start.min(source.mapping.len() as u64)))?;
            at = pages.end;
        }
    }
    Ok(())
}

/// Lets go of the pages that the plan pins, if a process of `budget` bytes would meet a limit beside them.
pub(crate) fn leave_room(sources: &[Source], plan: &Plan, budget: u64) -> Result<(), Error> {
    let kept = pages_kept(plan);
    let bytes: u64 = kept.iter().map(|(_, pages)| pages.end - pages.start).sum();
    if !is_short(budget.saturating_add(bytes))? {
        return Ok(());
    }
    kept.iter().try_for_each(|(source, pages)| evict(sources, *source, pages))
}

/// Whether a limit would be met if this process, from nothing, took so many bytes.
fn is_short(bytes: u64) -> Result<bool, Error> {
    let limits = MemoryLimits::read()?;
    if limits.groups.iter().all(|group| group.bound().is_none()) {
        return Ok(false);
    }
    let own = ProcessMemory::read()?.rss_bytes;
    Ok(limits.groups.iter().any(|group| is_beyond(group, own, bytes)))
}

/// What the process has in memory is either charged, and then part of `bytes` as well, or charged to another
/// group, and then not of this one's business: both are right without it.
fn is_beyond(group: &MemoryGroup, own: u64, bytes: u64) -> bool {
    let (Some(bound), Some(usage)) = (group.bound(), group.usage_bytes) else { return false };
    usage.saturating_add(bytes) > bound.saturating_add(own)
}

/// The pages of the files that the plan keeps in the page cache, in ascending order.
fn pages_kept(plan: &Plan) -> Vec<(SourceId, Range<u64>)> {
    let is_pinned = plan.input.pinned_in == PinnedIn::Mapping;
    let is_kept = |x: &&crate::Extent| match plan.placement(x.id) {
        Some(Placement::Pinned) => is_pinned,
        _ => x.usage == Use::Lookup && plan.rows_are_resident(),
    };
    joined(plan.extents().iter().filter(is_kept), PAGE_BYTES)
}

fn place<'s>(
    sources: &'s [Source],
    source: SourceId,
    pages: &Range<u64>,
) -> Option<(&'s Mapping, Range<usize>)> {
    let mapping = &*sources.get(source.0 as usize)?.mapping;
    Some((mapping, within(mapping, pages.clone())?))
}

fn evict(sources: &[Source], source: SourceId, pages: &Range<u64>) -> Result<(), Error> {
    match place(sources, source, pages) {
        Some((mapping, range)) => mapping.evict(range).map(drop),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_what_the_limit_leaves_beside_others() {
        let group = |usage, limit| MemoryGroup {
            path: "/".into(),
            limit_bytes: limit,
            high_bytes: None,
            usage_bytes: Some(usage),
            cache_bytes: None,
            peak_bytes: None,
            limit_hits: None,
            oom_kills: None,
        };
        // Of 40 charged 30 are this process's: 10 stand beside it.
        for (bytes, expected) in [(0, false), (490, false), (491, true), (u64::MAX, true)] {
            assert_eq!(is_beyond(&group(40, Some(500)), 30, bytes), expected, "{bytes}");
        }
        // Its file is charged to somebody else.
        assert!(!is_beyond(&group(40, Some(500)), 300, 700));
        assert!(!is_beyond(&group(40, None), 30, u64::MAX));
    }
}
