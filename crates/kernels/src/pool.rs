// Long because: what proves the orderings right, in words and in tests, stands beside them.
//! A pool of threads for work of microseconds: one product of a small model takes 20 us, and a
//! token is 200 of those, so starting and joining a job may cost a fraction of a microsecond only.
//!
//! # How a job runs
//! A job is a function and a number of chunks. The chunks are dealt out to *regions*, a run of
//! neighbours for each thread, and `unfinished` counts those not yet done: a word for each region and
//! that counter are all there is in the steady state. A thread takes the chunks of its own region in
//! order, then those of the others from their ends; the caller takes chunks too, and
//! returns when `unfinished` is zero. **Nobody waits for a thread, only for chunks**: a worker that
//! the system has not scheduled claims nothing, the others do its share, and it costs nothing. So
//! more threads than cores is a little slower, not a collapse.
//!
//! Products ask for the bytes behind those they compute, and in a region of neighbours these are the
//! same thread's next ones. While all threads took from one list, each chunk began with rows that
//! nobody had asked for, and its last request was for another thread's: small models decode 11 to 21 % faster without
//! that (two threads, Zen 4; docs/performance.md).
//!
//! # Why the memory orderings are right
//! - *A worker sees the job it claims from.* The caller writes `job` and `unfinished`, then stores
//!   the regions' words (release). A claim is a compare-exchange (acquire) that read such a store or a
//!   later claim; claims are read-modify-writes and so continue the store's release sequence.
//!   Every claim therefore happens after the writes to `job`. A worker reads `job` only *after*
//!   a claim has succeeded, never before.
//! - *`job` is not overwritten under a reader.* A thread with a claimed chunk has not yet
//!   subtracted it from `unfinished`; the caller returns, and so can start another job, only after
//!   it has read `unfinished == 0` (acquire), which synchronises with each subtraction (release,
//!   again one release sequence). All uses of `job` and of the closure happen before that. Chunks of a
//!   region that the caller has yet to fill are among the unfinished, so it fills all of them in time.
//! - *A stale value is harmless.* A worker may load a region's word, sleep for an hour, and then
//!   compare-exchange successfully because the region of some later job has the same value: it
//!   has then properly claimed a chunk of that later job, and reads `job` afterwards. No epoch
//!   is needed. Only an empty region is filled, and nobody claims from an empty one, so no claim is
//!   overwritten.
//! - *No wake-up is lost.* A worker sets `asleep`, then reads the regions; the caller stores
//!   them, then reads `asleep`. All are `SeqCst`, so at least one of the two sees the
//!   other's store: either the worker stays awake or the caller unparks it (`unpark` before
//!   `park` leaves a token, so that order is fine too). The same argument with `caller_waits` and
//!   `unfinished` covers the caller's own sleep.
#![allow(unsafe_code, reason = "a borrowed closure is handed to threads that outlive the borrow")]

use std::any::Any;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// More threads than this are refused: larger than any machine of today, small enough that a typing
/// error does not exhaust the process.
pub const THREADS_MAX: usize = 1024;

/// For this long a waiting thread only executes `pause`: longer than the gap between two products.
const SPIN: Duration = Duration::from_micros(10);

/// For this long (from the start of the wait) it also offers its core to others between looks; then
/// it sleeps. A sleeping worker costs the caller a system call to wake.
const YIELD: Duration = Duration::from_micros(80);

/// With more threads than this some share a region: a thread that waits looks at all of them.
const REGIONS_MAX: usize = 8;

/// The function of a job: called with (chunk, thread).
pub type Chunk<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// Why a pool could not be made.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// 0, or more than [`THREADS_MAX`].
    #[error("{threads} threads asked for; the number must be from 1 to {THREADS_MAX}")]
    Threads {
        /// What was asked for.
        threads: usize,
    },
    /// The system refused a thread.
    #[error("starting thread {index} of {threads}: {source}")]
    Spawn {
        /// Which one.
        index: usize,
        /// Of how many.
        threads: usize,
        /// The system's word.
        source: std::io::Error,
    },
}

/// Keeps its content on cache lines of its own (two, because CPUs prefetch lines in pairs).
#[repr(align(128))]
struct Line<T>(T);

/// The chunks of one thread that nobody has taken yet: the number of the first in the lower half of the word, that of
/// the last and 1 in the upper half.
#[derive(Default)]
struct Region(AtomicU64);

impl Region {
    fn fill(&self, chunks: Range<u32>) {
        self.0.store(Self::word(&chunks), Ordering::SeqCst);
    }

    fn is_empty(&self) -> bool {
        Self::split(self.0.load(Ordering::SeqCst)).is_empty()
    }

    /// Claims the first chunk.
    fn first(&self) -> Option<u32> {
        self.claim(|chunks| (chunks.start, chunks.start + 1..chunks.end))
    }

    /// Claims the last one.
    fn last(&self) -> Option<u32> {
        self.claim(|chunks| (chunks.end - 1, chunks.start..chunks.end - 1))
    }

    fn claim(&self, take: impl Fn(Range<u32>) -> (u32, Range<u32>)) -> Option<u32> {
        let mut word = self.0.load(Ordering::SeqCst);
        loop {
            let chunks = Self::split(word);
            if chunks.is_empty() {
                return None;
            }
            let (chunk, rest) = take(chunks);
            let rest = Self::word(&rest);
            match self.0.compare_exchange_weak(word, rest, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return Some(chunk),
                Err(now) => word = now,
            }
        }
    }

    fn word(chunks: &Range<u32>) -> u64 {
        u64::from(chunks.start) | u64::from(chunks.end) << 32
    }

    fn split(word: u64) -> Range<u32> {
        word as u32..(word >> 32) as u32
    }
}

struct Shared {
    /// The chunks of each region that nobody has taken yet.
    unclaimed: Box<[Line<Region>]>,
    unfinished: Line<AtomicUsize>,
    /// Written by the caller between jobs; read by whoever holds a claimed chunk.
    job: Line<UnsafeCell<*const Chunk<'static>>>,
    /// One per worker: it is about to park, or parked.
    asleep: Box<[Line<AtomicBool>]>,
    caller_waits: AtomicBool,
    panicked: AtomicBool,
    /// The caller's sleep, and the first panic of the running job. Never locked in the steady state.
    slow: Mutex<Option<Box<dyn Any + Send>>>,
    finished: Condvar,
    stop: AtomicBool,
}

// SAFETY: all fields but `job` are Sync; accesses to `job` are ordered as the module's documentation
// proves, and the function it points to is Sync.
unsafe impl Sync for Shared {}
// SAFETY: the raw pointer in `job` is only used while the caller of `run` keeps its target alive.
unsafe impl Send for Shared {}

/// Threads that run the chunks of one job at a time.
///
/// The thread that calls [`run`](ThreadPool::run) takes part as thread 0, so a pool of one thread
/// starts none.
pub struct ThreadPool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    busy: AtomicBool,
}

impl ThreadPool {
    /// A pool in which `threads` threads work, the caller of [`run`](ThreadPool::run) included.
    ///
    /// # Errors
    /// [`PoolError`] if the number is senseless or the system refuses a thread.
    pub fn new(threads: usize) -> Result<ThreadPool, PoolError> {
        if threads == 0 || threads > THREADS_MAX {
            return Err(PoolError::Threads { threads });
        }
        let nothing: &'static Chunk<'static> = &|_, _| {};
        let shared = Arc::new(Shared {
            unclaimed: (0..threads.min(REGIONS_MAX)).map(|_| Line(Region::default())).collect(),
            unfinished: Line(AtomicUsize::new(0)),
            job: Line(UnsafeCell::new(nothing)),
            asleep: (1..threads).map(|_| Line(AtomicBool::new(false))).collect(),
            caller_waits: AtomicBool::new(false),
            panicked: AtomicBool::new(false),
            slow: Mutex::new(None),
            finished: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let mut pool =
            ThreadPool { shared, workers: Vec::with_capacity(threads - 1), busy: false.into() };
        for index in 1..threads {
            let shared = Arc::clone(&pool.shared);
            let worker = std::thread::Builder::new()
                .name(format!("lowtide-{index}"))
                .spawn(move || shared.work(index))
                .map_err(|source| PoolError::Spawn { index, threads, source })?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// How many threads work on a job, the caller included.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `function(chunk, thread)` once for each chunk below `chunks`, and returns when all are done. Each thread
    /// takes neighbours in ascending order, and helps others when it has done its own. `thread` is below
    /// [`threads`](ThreadPool::threads) and within this call no two threads have the same.
    ///
    /// Called while a job of this pool is running (from inside a chunk, or from another thread), it
    /// does all chunks itself, as thread 0.
    ///
    /// # Panics
    /// If a chunk panics, with the first panic's payload, after the chunks that were running have
    /// ended. The pool stays usable.
    #[inline]
    pub fn run(&self, chunks: usize, function: &Chunk<'_>) {
        let count = u32::try_from(chunks).unwrap_or(0);
        let alone = count <= 1 || self.workers.is_empty();
        if alone || self.busy.swap(true, Ordering::Acquire) {
            for chunk in 0..chunks {
                function(chunk, 0);
            }
            return;
        }
        let panic = self.run_shared(count, function);
        self.busy.store(false, Ordering::Release);
        if let Some(payload) = panic {
            resume_unwind(payload);
        }
    }

    /// [`run`](ThreadPool::run) over ranges of `0..len` of `grain` items (the last one shorter):
    /// `function(range, thread)`.
    #[inline]
    pub fn run_ranges(
        &self,
        len: usize,
        grain: usize,
        function: &(dyn Fn(Range<usize>, usize) + Sync),
    ) {
        let grain = grain.max(1);
        self.run(len.div_ceil(grain), &|chunk, thread| {
            let start = chunk * grain;
            function(start..len.min(start + grain), thread);
        });
    }

    fn run_shared(&self, chunks: u32, function: &Chunk<'_>) -> Option<Box<dyn Any + Send>> {
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. No thread uses the pointer after this function has seen
        // `unfinished == 0`, and this function does not return or unwind before that (chunks are
        // run under `catch_unwind`).
        let function = unsafe {
            std::mem::transmute::<*const Chunk<'_>, *const Chunk<'static>>(std::ptr::from_ref(
                function,
            ))
        };
        // SAFETY: `busy` makes this the only caller, and nobody holds a claimed chunk between jobs
        // (the last one ended with `unfinished == 0`), so nobody reads the cell now.
        unsafe { *shared.job.0.get() = function };
        shared.unfinished.0.store(chunks as usize, Ordering::Relaxed);
        shared.deal_out(chunks);
        let helpers = chunks as usize - 1;
        for (asleep, worker) in shared.asleep.iter().zip(&self.workers).take(helpers) {
            if asleep.0.load(Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        shared.claim_all(0);
        shared.wait_until_finished();
        // Relaxed: set before the subtraction from `unfinished` that this thread has acquired.
        if !shared.panicked.load(Ordering::Relaxed) {
            return None;
        }
        shared.panicked.store(false, Ordering::Relaxed);
        shared.lock_slow().take()
    }
}

impl Shared {
    /// Gives each region its part of `0..chunks`.
    fn deal_out(&self, chunks: u32) {
        let regions = self.unclaimed.len() as u64;
        let border = |index: u64| (u64::from(chunks) * index / regions) as u32;
        for (index, region) in (0..).zip(&self.unclaimed) {
            region.0.fill(border(index)..border(index + 1));
        }
    }

    /// Takes and runs chunks until none is unclaimed: those of the thread's own region in order, then those of the
    /// others from their ends.
    fn claim_all(&self, thread: usize) {
        let regions = self.unclaimed.len();
        let own = thread % regions;
        let mut done = 0;
        while let Some(chunk) = self.unclaimed[own].0.first() {
            self.run_claimed(chunk, thread);
            done += 1;
        }
        for other in (own + 1..regions).chain(0..own) {
            while let Some(chunk) = self.unclaimed[other].0.last() {
                self.run_claimed(chunk, thread);
                done += 1;
            }
        }
        // All `done` chunks are of one job: it cannot have ended before this subtraction.
        if done != 0
            && self.unfinished.0.fetch_sub(done, Ordering::SeqCst) == done
            && self.caller_waits.load(Ordering::SeqCst)
        {
            // Taking the lock puts this after the caller's check or before it: never in between.
            drop(self.lock_slow());
            self.finished.notify_one();
        }
    }

    fn run_claimed(&self, chunk: u32, thread: usize) {
        // SAFETY: this thread holds a claimed chunk, so the job was written before and is not overwritten until the
        // chunk is subtracted from `unfinished`.
        let function = unsafe { *self.job.0.get() };
        // SAFETY: as above: `run` keeps the function alive until `unfinished == 0`.
        let function = unsafe { &*function };
        self.run_chunk(function, chunk as usize, thread);
    }

    fn run_chunk(&self, function: &Chunk<'_>, chunk: usize, thread: usize) {
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| function(chunk, thread))) {
            let mut first = self.lock_slow();
            if first.is_none() {
                *first = Some(payload);
                self.panicked.store(true, Ordering::Relaxed);
            } else {
                // Its `Drop` may panic, outside of any `catch_unwind`: the chunk would never be counted
                // as done. A leak by a job that fails anyway is the lesser evil.
                std::mem::forget(payload);
            }
        }
    }

    fn wait_until_finished(&self) {
        let mut wait = Wait::new();
        while self.unfinished.0.load(Ordering::SeqCst) != 0 {
            if wait.pause() {
                continue;
            }
            self.caller_waits.store(true, Ordering::SeqCst);
            let mut guard = self.lock_slow();
            while self.unfinished.0.load(Ordering::SeqCst) != 0 {
                guard = self.finished.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            drop(guard);
            self.caller_waits.store(false, Ordering::SeqCst);
        }
    }

    fn work(&self, index: usize) {
        let asleep = &self.asleep[index - 1].0;
        loop {
            self.claim_all(index);
            let mut wait = Wait::new();
            while self.is_idle() {
                if self.stop.load(Ordering::SeqCst) {
                    return;
                }
                if wait.pause() {
                    continue;
                }
                asleep.store(true, Ordering::SeqCst);
                while self.is_idle() && !self.stop.load(Ordering::SeqCst) {
                    std::thread::park();
                }
                asleep.store(false, Ordering::SeqCst);
            }
        }
    }

    fn is_idle(&self) -> bool {
        self.unclaimed.iter().all(|region| region.0.is_empty())
    }

    fn lock_slow(&self) -> MutexGuard<'_, Option<Box<dyn Any + Send>>> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A wait that begins with `pause`, goes on with offers of the core, and then gives up.
struct Wait {
    rounds: u32,
    start: Option<Instant>,
}

impl Wait {
    fn new() -> Wait {
        Wait { rounds: 0, start: None }
    }

    /// Passes a little time; false when it is time to sleep.
    fn pause(&mut self) -> bool {
        std::hint::spin_loop();
        self.rounds = self.rounds.wrapping_add(1);
        if !self.rounds.is_multiple_of(32) {
            return true;
        }
        let waited = self.start.get_or_insert_with(Instant::now).elapsed();
        if waited > SPIN {
            std::thread::yield_now();
            // Look at the clock after every offer: it may have taken milliseconds.
            self.rounds = 31;
        }
        waited < YIELD
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker cannot panic outside `catch_unwind`; nothing useful to do if it had.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disjoint::Disjoint;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn every_chunk_runs_once_on_a_thread_of_the_pool() {
        for threads in [1, 2, 3, 7] {
            let pool = ThreadPool::new(threads).unwrap();
            for chunks in [0, 1, 2, 3, 5, 64, 1000] {
                let counts: Vec<AtomicUsize> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(chunks, &|chunk, thread| {
                    assert!(thread < threads);
                    counts[chunk].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    /// Many short jobs of varying size over borrowed data that changes between jobs: a worker that
    /// used a stale job or was not waited for would add a wrong number. Pauses now and then let
    /// workers fall asleep, so both sides of the wake-up are exercised.
    #[test]
    fn stress_short_jobs_with_more_threads_than_cores() {
        for threads in [2, 4, 9] {
            let pool = ThreadPool::new(threads).unwrap();
            let mut random = 88_172_645_463_325_252_u64;
            for round in 0..4000_u64 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                let chunks = (random % 23) as usize;
                let data: Vec<u64> = (0..chunks as u64).map(|i| i * round + 1).collect();
                let sum = AtomicU64::new(0);
                pool.run(chunks, &|chunk, _| {
                    sum.fetch_add(data[chunk], Ordering::Relaxed);
                });
                assert_eq!(sum.load(Ordering::Relaxed), data.iter().sum::<u64>());
                if random.is_multiple_of(97) {
                    std::thread::sleep(Duration::from_micros(random % 200));
                }
            }
        }
    }

    /// What makes the rows that a thread asks for ahead its own: its chunks are neighbours in ascending order, and
    /// those it takes from others come after them, from the ends.
    #[test]
    fn a_thread_takes_neighbours_in_order_and_helps_from_the_end() {
        const CHUNKS: usize = 40;
        for threads in [2, 3, 8, 11] {
            let pool = ThreadPool::new(threads).unwrap();
            let regions = threads.min(REGIONS_MAX);
            let of = |chunk: usize| (0..regions).rfind(|i| i * CHUNKS / regions <= chunk).unwrap();
            for _ in 0..100 {
                let taken: Vec<Mutex<Vec<usize>>> =
                    (0..threads).map(|_| Mutex::default()).collect();
                pool.run(CHUNKS, &|chunk, thread| taken[thread].lock().unwrap().push(chunk));
                for (thread, taken) in taken.into_iter().enumerate() {
                    let taken = taken.into_inner().unwrap();
                    let own = thread % regions;
                    let helps = taken.iter().position(|chunk| of(*chunk) != own);
                    let (first, then) = taken.split_at(helps.unwrap_or(taken.len()));
                    assert!(first.is_sorted(), "{thread} of {threads}: {taken:?}");
                    for pair in then.windows(2) {
                        let same = of(pair[0]) == of(pair[1]);
                        // It comes back to its own where that was dealt out only while it helped.
                        let in_order = (pair[0] < pair[1]) == (of(pair[1]) == own);
                        assert!(!same || in_order, "{thread} of {threads}: {taken:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_region_is_taken_from_both_sides_until_it_is_empty() {
        let region = Region::default();
        assert!(region.is_empty() && region.first().is_none() && region.last().is_none());
        region.fill(7..10);
        assert_eq!((region.first(), region.last(), region.is_empty()), (Some(7), Some(9), false));
        assert_eq!((region.last(), region.first(), region.last()), (Some(8), None, None));
        region.fill(u32::MAX - 1..u32::MAX);
        assert_eq!((region.first(), region.is_empty()), (Some(u32::MAX - 1), true));
    }

    #[test]
    fn no_two_threads_of_a_job_share_an_index() {
        let pool = ThreadPool::new(4).unwrap();
        let inside: Vec<AtomicBool> = (0..4).map(|_| AtomicBool::new(false)).collect();
        for _ in 0..200 {
            pool.run(40, &|_, thread| {
                assert!(!inside[thread].swap(true, Ordering::SeqCst));
                std::hint::black_box((0..100).sum::<u64>());
                inside[thread].store(false, Ordering::SeqCst);
            });
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_stays_usable() {
        let pool = ThreadPool::new(3).unwrap();
        for at in [0, 5, 19] {
            let result = catch_unwind(AssertUnwindSafe(|| {
                pool.run(20, &|chunk, _| assert!(chunk != at, "chunk {at} fails"));
            }));
            let payload = result.unwrap_err();
            assert_eq!(payload.downcast_ref::<String>().unwrap(), &format!("chunk {at} fails"));
            let count = AtomicUsize::new(0);
            pool.run(50, &|_, _| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 50);
        }
    }

    /// Of two panics the second has nobody to go to.
    #[test]
    fn a_payload_that_panics_when_dropped_is_left_alone() {
        struct Spiteful;
        impl Drop for Spiteful {
            fn drop(&mut self) {
                panic!("a payload was dropped");
            }
        }
        for threads in [2, 3] {
            let pool = ThreadPool::new(threads).unwrap();
            let begun = AtomicUsize::new(0);
            let ran = catch_unwind(AssertUnwindSafe(|| {
                pool.run(20, &|_, _| {
                    begun.fetch_add(1, Ordering::Relaxed);
                    std::panic::panic_any(Spiteful);
                });
            }));
            // The first one reaches the caller, who is to keep it from its drop as well.
            let payload = ran.unwrap_err();
            assert!(payload.is::<Spiteful>());
            std::mem::forget(payload);
            assert_eq!(begun.load(Ordering::Relaxed), 20, "every chunk was run");
            let count = AtomicUsize::new(0);
            pool.run(50, &|_, _| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert_eq!(count.into_inner(), 50);
        }
    }

    #[test]
    fn nested_and_concurrent_runs_do_all_chunks() {
        let pool = ThreadPool::new(2).unwrap();
        let count = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        pool.run(4, &|_, _| {
                            pool.run(3, &|_, _| {
                                count.fetch_add(1, Ordering::Relaxed);
                            });
                        });
                    }
                });
            }
        });
        assert_eq!(count.into_inner(), 3 * 100 * 4 * 3);
    }

    #[test]
    fn ranges_cover_the_length_once() {
        let pool = ThreadPool::new(2).unwrap();
        for (len, grain) in [(0, 4), (1, 4), (4, 4), (5, 4), (103, 0), (103, 10)] {
            let mut data = vec![0_u8; len];
            let parts = Disjoint::new(&mut data);
            pool.run_ranges(len, grain, &|range, _| {
                // SAFETY: `run_ranges` gives disjoint ranges.
                let part = unsafe { parts.part(range) };
                part.iter_mut().for_each(|item| *item += 1);
            });
            assert!(data.iter().all(|item| *item == 1));
        }
    }

    #[test]
    fn senseless_thread_counts_are_errors() {
        for threads in [0, THREADS_MAX + 1, usize::MAX] {
            assert!(matches!(ThreadPool::new(threads), Err(PoolError::Threads { .. })));
        }
    }
}
