//! Watching this process's memory while it works: RSS is the kernel's own peak, the charge of the
//! control group is sampled, because its peak belongs to the group and not to this run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use lowtide_mapping::{MemoryGroup, MemoryLimits, ProcessActivity, ProcessMemory};

/// Between two samples. Reading one file takes some microseconds: nothing beside a token.
const SAMPLE_EVERY: Duration = Duration::from_millis(50);

/// What the watch has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// RSS now, in bytes.
    pub rss_bytes: u64,
    /// Highest RSS of the process.
    pub rss_peak_bytes: u64,
    /// The group's charge now; `None` outside a group.
    pub charge_bytes: Option<u64>,
    /// The highest charge since the watch began; `None` outside a group.
    pub charge_peak_bytes: Option<u64>,
    /// Page tables now, in bytes.
    pub page_table_bytes: u64,
    /// Faults since the watch began that were served from memory.
    pub minor_faults: u64,
    /// Faults since the watch began that waited for the disk.
    pub major_faults: u64,
}

/// A running watch.
pub struct Watch {
    start: ProcessActivity,
    group_peak_at_start: Option<u64>,
    charge_peak_bytes: Arc<AtomicU64>,
    done: Arc<AtomicBool>,
    sampler: Option<JoinHandle<()>>,
}

impl Watch {
    /// Starts to sample.
    pub fn begin() -> Self {
        let charge_peak_bytes = Arc::new(AtomicU64::new(0));
        let done = Arc::new(AtomicBool::new(false));
        let group = own_group();
        let sampler = group.is_some().then(|| {
            let (peak, done) = (Arc::clone(&charge_peak_bytes), Arc::clone(&done));
            std::thread::spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    if let Some(usage) = own_group().and_then(|group| group.usage_bytes) {
                        peak.fetch_max(usage, Ordering::Relaxed);
                    }
                    std::thread::park_timeout(SAMPLE_EVERY);
                }
            })
        });
        Self {
            start: ProcessActivity::read().unwrap_or_default(),
            group_peak_at_start: group.and_then(|group| group.peak_bytes),
            charge_peak_bytes,
            done,
            sampler,
        }
    }

    /// What was seen so far. Where the system does not tell, zeros.
    pub fn seen(&self) -> Seen {
        let memory = ProcessMemory::read().unwrap_or_default();
        let activity = ProcessActivity::read().unwrap_or_default().since(&self.start);
        let group = own_group();
        let charge_bytes = group.as_ref().and_then(|group| group.usage_bytes);
        // Where the group's own peak has risen since the start, it rose during this run: then it
        // is exact, and the samples may have missed it.
        let risen = group
            .and_then(|group| group.peak_bytes)
            .filter(|peak| self.group_peak_at_start.is_some_and(|start| *peak > start));
        let sampled = self.charge_peak_bytes.load(Ordering::Relaxed);
        Seen {
            rss_bytes: memory.rss_bytes,
            rss_peak_bytes: memory.rss_peak_bytes,
            charge_bytes,
            charge_peak_bytes: charge_bytes.map(|now| risen.unwrap_or(0).max(sampled).max(now)),
            page_table_bytes: memory.page_table_bytes,
            minor_faults: activity.minor_faults,
            major_faults: activity.major_faults,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(sampler) = self.sampler.take() {
            sampler.thread().unpark();
            // It only loops and reads: there is no result to lose.
            let _ = sampler.join();
        }
    }
}

/// Whether other processes are in the group, so that its charge is not this one's alone.
pub fn is_charge_shared() -> bool {
    own_group().is_some_and(|group| !group.is_ours_alone())
}

/// The group this process is charged to. The root group is none: its charge is the machine's.
fn own_group() -> Option<MemoryGroup> {
    let limits = MemoryLimits::read().ok()?;
    let is_root = limits.groups.len() == 1 && limits.tightest().is_none();
    limits.groups.into_iter().next().filter(|_| !is_root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_sees_memory_that_is_touched() {
        let watch = Watch::begin();
        let before = watch.seen();
        let touched = std::hint::black_box(vec![1_u8; 64 << 20]);
        let after = watch.seen();
        // The kernel adds these counters up lazily: some hundred KiB may be missing.
        assert!(after.rss_bytes >= before.rss_bytes + (60 << 20), "{before:?} {after:?}");
        assert!(after.rss_peak_bytes >= after.rss_bytes);
        assert!(after.minor_faults > before.minor_faults);
        drop(touched);
    }
}
