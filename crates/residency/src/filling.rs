//! The cache of experts comes into memory slot by slot, ahead of its use.
//!
//! All of it at once, before the first token, cost 0.5 to 4.5 s a GB where it was measured: not for clearing
//! (0.05 s a GB) nor for huge pages (no compaction), but because a hypervisor hands out memory when it is
//! first touched. A helper does it while the disk reads, only as far as slots are used, and a run that
//! uses few experts never pays for all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use lowtide_mapping::Filler;

use crate::error::ResidencyError;

/// How far ahead of the last slot in use: some layers' experts.
const AHEAD_BYTES: usize = 256 << 20;

/// Brought in by one call: short, so that the end does not wait for it.
const STEP_BYTES: usize = 8 << 20;

struct Shared {
    /// Bytes from the front that are in use.
    used: AtomicUsize,
    /// Bytes from the front that are there; all, once the helper has given up.
    there: AtomicUsize,
    ends: AtomicBool,
}

/// The helper; it ends when this is dropped.
pub(crate) struct Filling {
    shared: Arc<Shared>,
    helper: Option<JoinHandle<()>>,
}

impl Filling {
    pub fn start(filler: Filler) -> Result<Filling, ResidencyError> {
        let shared = Arc::new(Shared {
            used: AtomicUsize::new(0),
            there: AtomicUsize::new(0),
            ends: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        let helper = std::thread::Builder::new()
            .name("lowtide-fill".into())
            .spawn(move || fill(filler, &own))
            .map_err(|e| ResidencyError::Helper(e.to_string()))?;
        Ok(Filling { shared, helper: Some(helper) })
    }

    /// So many bytes from the front are in use now.
    pub fn used_until(&self, bytes: usize) {
        if self.shared.used.fetch_max(bytes, Ordering::Relaxed) < bytes
            && let Some(helper) = &self.helper
        {
            helper.thread().unpark();
        }
    }

    /// Bytes from the front that can be read into without bringing in memory.
    pub fn there(&self) -> usize {
        self.shared.there.load(Ordering::Relaxed)
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        if let Some(helper) = self.helper.take() {
            helper.thread().unpark();
            // It does not panic, and if it did there would be nothing to mend.
            let _ = helper.join();
        }
    }
}

fn fill(mut filler: Filler, shared: &Shared) {
    while !shared.ends.load(Ordering::Relaxed) {
        let before = filler.filled();
        if before >= shared.used.load(Ordering::Relaxed).saturating_add(AHEAD_BYTES) {
            std::thread::park();
            continue;
        }
        // Refused, or all there: pages that are missing come when they are first read into.
        match filler.fill(STEP_BYTES) {
            Ok(after) if after > before => shared.there.store(after, Ordering::Relaxed),
            _ => {
                shared.there.store(usize::MAX, Ordering::Relaxed);
                return;
            }
        }
    }
}
