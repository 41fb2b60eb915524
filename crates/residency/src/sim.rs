//! The simulator: the same plan and the same schedule over a disk and a processor that are only
//! numbers, for machines we do not have.
//!
//! Time is counted in nanoseconds, in integers, so that a run gives the same figures everywhere.

use std::collections::VecDeque;

use crate::error::ResidencyError;
use crate::extent::{Extent, Use};
use crate::plan::{Placement, Plan};
use crate::schedule::{Depth, Destination, Issue, Schedule, Wanted};

/// A disk in figures.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct FakeDisk {
    /// What it delivers when it always has work.
    pub bytes_per_s: f64,
    /// From the start of a read to its first byte. Hidden behind other reads where there are any.
    pub latency_s: f64,
    /// Reads it works on at a time; later ones wait.
    pub queue_depth: u32,
    /// What a single read gets at most (a large read on an idle NVMe drive does not fill it).
    pub bytes_per_s_single: f64,
    /// The share of its bandwidth that is left while the processor computes: reading wants memory
    /// bandwidth too, and on a virtual machine often a core.
    pub beside_compute: f64,
    /// Every n-th read fails; 0 for none.
    pub fault_every: u64,
}

impl FakeDisk {
    /// A disk without quirks.
    #[must_use]
    pub fn new(bytes_per_s: f64, latency_s: f64, queue_depth: u32) -> FakeDisk {
        FakeDisk {
            bytes_per_s,
            latency_s,
            queue_depth,
            bytes_per_s_single: bytes_per_s,
            beside_compute: 1.0,
            fault_every: 0,
        }
    }
}

/// A processor in figures.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct FakeCompute {
    /// Weights it works through for one token.
    pub bytes_per_s: f64,
    /// Per pass, whatever the weights: attention, sampling.
    pub pass_s: f64,
    /// Per tile: the barrier.
    pub tile_s: f64,
}

/// One simulated pass.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct SimPass {
    /// Start to end.
    pub seconds: f64,
    /// Of which: compute waited for the disk.
    pub wait_s: f64,
    /// Of which: the disk had nothing to do although tiles were still to be read.
    pub disk_idle_s: f64,
    /// Read from the disk.
    pub read_bytes: u64,
    /// Reads that failed and were told to the caller.
    pub faults: u64,
}

/// Runs `passes` passes and gives each one's figures; the first includes loading the pinned tiles.
///
/// # Errors
/// [`ResidencyError`] where the schedule refuses a tile, which would be a mistake in it.
pub fn simulate(
    plan: &Plan,
    disk: FakeDisk,
    compute: FakeCompute,
    passes: u32,
) -> Result<Vec<SimPass>, ResidencyError> {
    let depth = plan.input.ring.queue_depth;
    let mut world = World {
        schedule: Schedule::new(plan, Depth { slots: depth, pinned: depth, shared: true }),
        plan,
        disk: Disk { model: disk, under_way: VecDeque::new(), busy_until: 0, reads: 0, idle: 0 },
        now: 0,
        pass: SimPass::default(),
    };
    (0..passes).map(|_| world.run_pass(compute)).collect()
}

struct World<'a> {
    plan: &'a Plan,
    schedule: Schedule,
    disk: Disk,
    now: u64,
    pass: SimPass,
}

impl World<'_> {
    fn run_pass(&mut self, compute: FakeCompute) -> Result<SimPass, ResidencyError> {
        let (begin, idle) = (self.now, self.disk.idle);
        self.pass = SimPass::default();
        self.schedule.begin_pass(|_| false);
        let plan = self.plan;
        for x in plan.extents().iter().filter(|x| x.usage != Use::Lookup) {
            let slot = self.acquire(x)?;
            self.compute(x.len as f64 / compute.bytes_per_s + compute.tile_s);
            if let Some(Destination::Slot(slot)) = slot {
                self.schedule.release(slot);
            }
            self.start_reads();
        }
        self.compute(compute.pass_s);
        self.pass.seconds = (self.now - begin) as f64 * 1e-9;
        self.pass.disk_idle_s = (self.disk.idle - idle) as f64 * 1e-9;
        Ok(self.pass)
    }

    fn acquire(&mut self, x: &Extent) -> Result<Option<Destination>, ResidencyError> {
        loop {
            match self.schedule.want(x.id) {
                Wanted::Resident => return Ok(None),
                Wanted::Ready(slot) => {
                    self.schedule.hold(slot);
                    return Ok(Some(Destination::Slot(slot)));
                }
                Wanted::Failed(to) => {
                    self.pass.faults += 1;
                    self.schedule.retry(x.id, to);
                }
                Wanted::Wait(_) | Wanted::Queued => {
                    self.start_reads();
                    if !self.wait_for_disk() {
                        return Err(ResidencyError::Stalled { id: x.id });
                    }
                }
                Wanted::Exhausted | Wanted::Held | Wanted::Unknown => {
                    return Err(ResidencyError::Stalled { id: x.id });
                }
            }
        }
    }

    fn start_reads(&mut self) {
        while let Some(issue) = self.schedule.next_issue() {
            let x = &self.plan.extents()[issue.extent.index()];
            let span = x.aligned(crate::plan::PAGE_BYTES);
            self.pass.read_bytes += span.end - span.start;
            self.disk.start(self.now, issue, span.end - span.start);
        }
    }

    /// Moves time to the next completion; false if nothing is under way.
    fn wait_for_disk(&mut self) -> bool {
        let Some(done) = self.disk.under_way.front().map(|r| r.done) else { return false };
        let wait = done.saturating_sub(self.now);
        self.pass.wait_s += wait as f64 * 1e-9;
        self.now += wait;
        self.take_completions();
        true
    }

    /// The processor is busy; reads come back meanwhile, and are followed by others as they would
    /// be: the live store submits on release, so not before this tile is done.
    fn compute(&mut self, seconds: f64) {
        self.disk.slow_down(self.now, seconds);
        self.now += (seconds * 1e9) as u64;
        self.take_completions();
    }

    fn take_completions(&mut self) {
        while self.disk.under_way.front().is_some_and(|r| r.done <= self.now) {
            let Some(r) = self.disk.under_way.pop_front() else { return };
            self.schedule.completed(r.issue, r.ok);
        }
    }
}

struct Read {
    issue: Issue,
    done: u64,
    ok: bool,
}

struct Disk {
    model: FakeDisk,
    /// In order of completion, which is the order of starting: bandwidth is served in turn.
    under_way: VecDeque<Read>,
    busy_until: u64,
    reads: u64,
    /// Time without work so far.
    idle: u64,
}

impl Disk {
    /// The processor computes from `now` for so long: what is under way takes longer.
    fn slow_down(&mut self, now: u64, seconds: f64) {
        let busy = self.busy_until.saturating_sub(now) as f64;
        // Work of `busy` gets done at the lower rate, for at most the time of the computing.
        let share = self.model.beside_compute.clamp(0.01, 1.0);
        let lost = ((busy / share).min(seconds * 1e9) * (1.0 - share)) as u64;
        self.busy_until += lost;
        self.under_way.iter_mut().for_each(|read| read.done += lost);
    }

    fn start(&mut self, now: u64, issue: Issue, bytes: u64) {
        let d = &self.model;
        let ns = |s: f64| (s * 1e9) as u64;
        // Beyond its depth the disk sees a read only when an earlier one is done.
        let depth = d.queue_depth.max(1) as usize;
        let seen = match self.under_way.len().checked_sub(depth) {
            Some(i) => self.under_way[i].done.max(now),
            None => now,
        };
        let first_byte = seen + ns(d.latency_s);
        let transfer = self.busy_until.max(first_byte);
        self.idle += transfer - self.busy_until.min(transfer);
        let alone = first_byte + ns(bytes as f64 / d.bytes_per_s_single);
        self.busy_until = transfer + ns(bytes as f64 / d.bytes_per_s);
        self.reads += 1;
        let ok = d.fault_every == 0 || !self.reads.is_multiple_of(d.fault_every);
        let done = self.busy_until.max(alone);
        let done = self.under_way.back().map_or(done, |r| r.done.max(done));
        self.under_way.push_back(Read { issue, done, ok });
    }
}

/// A dense model's weights in figures.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Shape {
    /// For people.
    pub name: &'static str,
    /// Layers.
    pub layers: u64,
    /// Width of the residual stream.
    pub width: u64,
    /// Width of keys and values together with all their heads.
    pub kv_width: u64,
    /// Width of the feed-forward part.
    pub ff: u64,
    /// Tokens in the vocabulary.
    pub vocab: u64,
}

/// Dense shapes from 7 to 405 billion parameters (LLaMA 1, 2 and 3, from their papers).
pub const SHAPES: [Shape; 6] = [
    shape("7B", 32, 4096, 4096, 11_008, 32_000),
    shape("8B", 32, 4096, 1024, 14_336, 128_256),
    shape("13B", 40, 5120, 5120, 13_824, 32_000),
    shape("30B", 60, 6656, 6656, 17_920, 32_000),
    shape("70B", 80, 8192, 1024, 28_672, 128_256),
    shape("405B", 126, 16_384, 1024, 53_248, 128_256),
];

const fn shape(
    name: &'static str,
    layers: u64,
    width: u64,
    kv_width: u64,
    ff: u64,
    vocab: u64,
) -> Shape {
    Shape { name, layers, width, kv_width, ff, vocab }
}

impl Shape {
    /// The shape's extents in order of use, every matrix in blocks of 32 weights of `block_bytes`
    /// (18 for Q4_0), cut into tiles of about `tile_bytes`.
    ///
    /// # Errors
    /// Those of [`crate::Extents::push`].
    pub fn extents(
        &self,
        block_bytes: u64,
        tile_bytes: u64,
    ) -> Result<crate::Extents, crate::PlanError> {
        let row = |k: u64| k / 32 * block_bytes;
        let mut x = crate::Extents::new();
        let mut at = 0;
        let source = crate::SourceId(0);
        x.push(source, at, self.vocab * row(self.width), Use::Lookup)?;
        at += self.vocab * row(self.width);
        let (w, kv, ff) = (self.width, self.kv_width, self.ff);
        let layer = [(w, w), (kv, w), (kv, w), (w, w), (ff, w), (ff, w), (w, ff)];
        let head = [(self.vocab, w)];
        let matrices = (0..self.layers).flat_map(|_| layer).chain(head);
        for (i, (rows, k)) in matrices.enumerate() {
            if i % layer.len() == 0 || i % layer.len() == 4 {
                x.push(source, at, w * 4, Use::Always)?;
                at += w * 4;
            }
            for tile in crate::tile_rows(rows, row(k), tile_bytes) {
                let len = (tile.end - tile.start) * row(k);
                x.push(source, at, len, Use::Tile)?;
                at += len;
            }
        }
        Ok(x)
    }

    /// Bytes a pass touches.
    #[must_use]
    pub fn pass_bytes(extents: &crate::Extents) -> u64 {
        extents.iter().filter(|x| x.usage != Use::Lookup).map(|x| x.len).sum()
    }
}

/// One line of the table: a shape, a budget, a disk.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct TableRow {
    /// Bytes a pass touches.
    pub pass_bytes: u64,
    /// Pinned by the plan.
    pub pinned_bytes: u64,
    /// The ring.
    pub ring_bytes: u64,
    /// Seconds a pass (a token) in the steady state.
    pub pass_s: f64,
    /// The share of it in which compute waits for the disk.
    pub wait_share: f64,
    /// The bound: the larger of disk and compute time, over `pass_s`.
    pub achieved: f64,
}

/// Simulates one shape in one budget for weights on one machine: the mean of three passes after the
/// first. `None` if the budget is below the floor.
///
/// # Errors
/// [`ResidencyError`] if the schedule stalls, which would be a mistake in it.
pub fn table_row(
    shape: &Shape,
    weights_budget_bytes: u64,
    disk: FakeDisk,
    compute: FakeCompute,
) -> Result<Option<TableRow>, ResidencyError> {
    let tile_bytes = crate::tile_target_bytes(weights_budget_bytes);
    let Ok(extents) = shape.extents(18, tile_bytes) else { return Ok(None) };
    let pass_bytes = Shape::pass_bytes(&extents);
    let input = crate::PlanInput {
        weights_budget_bytes,
        streaming: crate::Streaming::Direct,
        pinned_in: crate::PinnedIn::Mapping,
        ring: crate::RingParams::for_disk(disk.bytes_per_s as u64, disk.queue_depth),
    };
    let Ok(plan) = Plan::new(extents, input) else { return Ok(None) };
    let passes = simulate(&plan, disk, compute, 4)?;
    let steady = &passes[1..];
    let mean = |f: fn(&SimPass) -> f64| steady.iter().map(f).sum::<f64>() / steady.len() as f64;
    let pass_s = mean(|p| p.seconds);
    let tiles = plan.extents().iter().filter(|x| plan.placement(x.id) != Some(Placement::Rows));
    let compute_s = pass_bytes as f64 / compute.bytes_per_s
        + compute.pass_s
        + tiles.count() as f64 * compute.tile_s;
    let bound = plan.pass_bound_s(disk.bytes_per_s).max(compute_s);
    Ok(Some(TableRow {
        pass_bytes,
        pinned_bytes: plan.sums.pinned_bytes,
        ring_bytes: plan.sums.ring_bytes,
        pass_s,
        wait_share: mean(|p| p.wait_s) / pass_s,
        achieved: bound / pass_s,
    }))
}
