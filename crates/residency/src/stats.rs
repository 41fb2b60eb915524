//! What the store has done.

/// Figures of one pass, or of all.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct PassStats {
    /// From `begin_pass` to `end_pass`.
    pub seconds: f64,
    /// Of which: the caller waited for bytes, of tiles or of rows.
    pub wait_s: f64,
    /// Times it had to wait.
    pub waits: u64,
    /// Bytes that direct reads delivered: weights used, and read ahead for the next pass.
    pub direct_bytes: u64,
    /// Bytes of the mapping that were brought in.
    pub populated_bytes: u64,
    /// What had to be read for them: not what was in the page cache already, where the kernel says so; but where
    /// whole huge pages are read, all of those.
    pub populated_read_bytes: u64,
    /// Bytes of single rows read.
    pub row_bytes: u64,
    /// Seconds in which at least one read was under way, as far as the caller's calls showed.
    pub disk_busy_s: f64,
    /// Extents acquired.
    pub acquired: u64,
    /// Experts that were in memory when a router asked for them.
    pub expert_hits: u64,
    /// Experts that were not.
    pub expert_misses: u64,
    /// Bytes of those.
    pub expert_bytes: u64,
    /// Experts guessed; read, unless a router had spoken before that began and wanted others.
    pub expert_guesses: u64,
    /// Of the misses: read on a guess, and so on their way or there when a router asked for them.
    pub expert_guesses_right: u64,
}

/// What one layer's experts have met since the store was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LayerTraffic {
    /// In memory when asked for.
    pub hits: u64,
    /// Not in memory.
    pub misses: u64,
}

impl PassStats {
    /// Bytes read, by whatever way.
    #[must_use]
    pub fn read_bytes(&self) -> u64 {
        self.direct_bytes + self.populated_read_bytes + self.row_bytes
    }

    /// Bandwidth seen while reads were under way; 0 if none were.
    #[must_use]
    pub fn disk_bytes_per_s(&self) -> f64 {
        if self.disk_busy_s > 0.0 { self.read_bytes() as f64 / self.disk_busy_s } else { 0.0 }
    }

    /// What has come since `earlier`, of the same store's total: a token may take several passes.
    #[must_use]
    pub fn since(&self, earlier: &PassStats) -> PassStats {
        self.each(earlier, |now, then| now - then, |now, then| now - then)
    }

    pub(crate) fn add(&mut self, other: &PassStats) {
        *self = self.each(other, |a, b| a + b, |a, b| a + b);
    }

    /// Every figure with its counterpart: the one list of them all.
    fn each(
        &self,
        other: &PassStats,
        reals: impl Fn(f64, f64) -> f64,
        counts: impl Fn(u64, u64) -> u64,
    ) -> PassStats {
        PassStats {
            seconds: reals(self.seconds, other.seconds),
            wait_s: reals(self.wait_s, other.wait_s),
            disk_busy_s: reals(self.disk_busy_s, other.disk_busy_s),
            waits: counts(self.waits, other.waits),
            direct_bytes: counts(self.direct_bytes, other.direct_bytes),
            populated_bytes: counts(self.populated_bytes, other.populated_bytes),
            populated_read_bytes: counts(self.populated_read_bytes, other.populated_read_bytes),
            row_bytes: counts(self.row_bytes, other.row_bytes),
            acquired: counts(self.acquired, other.acquired),
            expert_hits: counts(self.expert_hits, other.expert_hits),
            expert_misses: counts(self.expert_misses, other.expert_misses),
            expert_bytes: counts(self.expert_bytes, other.expert_bytes),
            expert_guesses: counts(self.expert_guesses, other.expert_guesses),
            expert_guesses_right: counts(self.expert_guesses_right, other.expert_guesses_right),
        }
    }
}

/// Figures since the store was opened.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct StoreStats {
    /// Passes ended.
    pub passes: u64,
    /// The last of them.
    pub last: PassStats,
    /// All of them.
    pub total: PassStats,
    /// Bytes of pinned extents that are there.
    pub pinned_bytes: u64,
    /// Of which locked in memory.
    pub locked_bytes: u64,
    /// Times that pinned pages had been taken away and were brought in again.
    pub reloads: u64,
}
