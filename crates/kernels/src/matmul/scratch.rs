//! The plan of one call (which chunk is which rows of which job) and the memory threads work in.

use std::ops::Range;

use super::job::{MatmulJob, Out};
use crate::isa::Isa;

/// Rows are dealt out in multiples of this: the widest group of rows any kernel takes at once.
pub(super) const ROW_GROUP: usize = 16;

/// Chunks per thread that are aimed for: enough to even out threads of unequal speed.
const CHUNKS_PER_THREAD: usize = 6;

/// A chunk should not cost less than reading this many bytes of weights, about a microsecond.
const CHUNK_COST_MIN: usize = 12 << 10;

/// Jobs in one call that need no further allocation: two per expert of the largest models.
const JOBS_EXPECTED: usize = 1024;

/// Everything products need that is allocated once.
pub(crate) struct Scratch {
    pub(super) plan: Vec<Planned>,
    pub(super) threads: Vec<ThreadScratch>,
}

/// One job in the plan.
pub(super) struct Planned {
    pub(super) job: usize,
    pub(super) out: Out,
    first_chunk: usize,
    rows_per_chunk: usize,
}

/// What one thread works in.
pub(crate) struct ThreadScratch {
    #[cfg(target_arch = "x86_64")]
    pub(super) tile: super::x86::Tile,
    #[cfg(target_arch = "aarch64")]
    pub(super) tile: super::arm::Tile,
}

impl Scratch {
    /// For `threads` threads that use `isa`.
    pub(crate) fn new(_isa: Isa, threads: usize) -> Scratch {
        let threads = (0..threads).map(|_| ThreadScratch {
            #[cfg(target_arch = "x86_64")]
            tile: super::x86::Tile::new(),
            #[cfg(target_arch = "aarch64")]
            tile: super::arm::Tile::new(),
        });
        Scratch { plan: Vec::with_capacity(JOBS_EXPECTED), threads: threads.collect() }
    }

    /// Allocated bytes.
    pub(crate) fn bytes(&self) -> usize {
        let tile = size_of::<ThreadScratch>();
        #[cfg(target_arch = "x86_64")]
        let tile = tile + super::x86::Tile::BYTES;
        #[cfg(target_arch = "aarch64")]
        let tile = tile + super::arm::Tile::BYTES;
        self.plan.capacity() * size_of::<Planned>() + self.threads.len() * tile
    }

    /// Divides the jobs into chunks; returns how many.
    pub(super) fn plan(&mut self, jobs: &mut [MatmulJob<'_>]) -> usize {
        // Unpacking a row costs about what multiplying it by four columns does.
        let cost = |job: &MatmulJob<'_>| {
            job.weights.len().saturating_mul(job.x.cols().div_ceil(4)).saturating_add(1)
        };
        let total = jobs.iter().map(cost).fold(0, usize::saturating_add);
        let aim = (total / (self.threads.len() * CHUNKS_PER_THREAD)).max(CHUNK_COST_MIN);
        self.plan.clear();
        let mut first_chunk = 0;
        for (index, job) in jobs.iter_mut().enumerate() {
            if job.rows == 0 || job.x.cols() == 0 {
                continue;
            }
            let rows = (aim / (cost(job) / job.rows).max(1)).next_multiple_of(ROW_GROUP);
            let rows_per_chunk = rows.clamp(ROW_GROUP, job.rows.next_multiple_of(ROW_GROUP));
            self.plan.push(Planned { job: index, out: Out::new(job), first_chunk, rows_per_chunk });
            first_chunk += job.rows.div_ceil(rows_per_chunk);
        }
        first_chunk
    }
}

/// The job of chunk `chunk`, and which of its rows.
pub(super) fn find<'p>(
    plan: &'p [Planned],
    jobs: &[MatmulJob<'_>],
    chunk: usize,
) -> (&'p Planned, Range<usize>) {
    let planned = &plan[plan.partition_point(|planned| planned.first_chunk <= chunk) - 1];
    let start = (chunk - planned.first_chunk) * planned.rows_per_chunk;
    let end = (start + planned.rows_per_chunk).min(jobs[planned.job].rows);
    (planned, start..end)
}
