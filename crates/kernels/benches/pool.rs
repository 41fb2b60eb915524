//! What a job of the thread pool costs: `cargo bench -p lowtide-kernels --bench pool`.
//!
//! Prints nanoseconds per job of empty chunks, back to back and after pauses (workers asleep), and
//! how much twice as many threads as cores slow down chunks of 20 us; times are shortest of many, so
//! that a busy machine does not hide them.

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lowtide_kernels::pool::ThreadPool;

fn main() {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    for threads in [1, 2, cores, 2 * cores] {
        let pool = ThreadPool::new(threads).expect("threads");
        println!(
            "{threads} threads: {:6.0} ns a job of 2 empty chunks, {:6.0} ns of 16, {:6.0} ns after a pause",
            back_to_back(&pool, 2),
            back_to_back(&pool, 16),
            after_pauses(&pool)
        );
    }
    let (alone, shared) = overhead();
    println!(
        "2 threads: {shared:.0} ns a job of 2 chunks of {alone:.0} ns: {:.0} ns for the barrier",
        shared - alone
    );
    let right = with_work(&ThreadPool::new(cores).expect("threads"));
    let twice = with_work(&ThreadPool::new(2 * cores).expect("threads"));
    println!(
        "64 chunks of work: {right:.0} us with {cores} threads, {twice:.0} us with twice as many: x {:.2}",
        twice / right
    );
}

fn back_to_back(pool: &ThreadPool, chunks: usize) -> f64 {
    let count = AtomicUsize::new(0);
    let mut best = f64::INFINITY;
    let rounds = 2000;
    for _ in 0..100 {
        let start = Instant::now();
        for _ in 0..rounds {
            pool.run(chunks, &|_, _| {
                count.fetch_add(1, Ordering::Relaxed);
            });
        }
        best = best.min(start.elapsed().as_secs_f64() / f64::from(rounds));
    }
    assert_eq!(count.into_inner(), 100 * rounds as usize * chunks);
    best * 1e9
}

fn work(chunk: usize, rounds: u32) {
    let mut x = chunk as u64 + 1;
    for _ in 0..rounds {
        x = black_box(x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}

/// Shortest nanoseconds of a chunk of about 5 us, and of a job of two on two threads: the difference is
/// what handing out and waiting cost when both threads run.
fn overhead() -> (f64, f64) {
    let pool = ThreadPool::new(2).expect("threads");
    let (mut alone, mut shared) = (f64::INFINITY, f64::INFINITY);
    for _ in 0..100_000 {
        let start = Instant::now();
        work(0, 4_000);
        alone = alone.min(start.elapsed().as_secs_f64() * 1e9);
        let start = Instant::now();
        pool.run(2, &|chunk, _| work(chunk, 4_000));
        shared = shared.min(start.elapsed().as_secs_f64() * 1e9);
    }
    (alone, shared)
}

fn after_pauses(pool: &ThreadPool) -> f64 {
    let mut times: Vec<f64> = (0..200)
        .map(|_| {
            std::thread::sleep(Duration::from_micros(500));
            let start = Instant::now();
            pool.run(2, &|_, _| {});
            start.elapsed().as_secs_f64() * 1e9
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Median microseconds of a job of 64 chunks of about 20 us each.
fn with_work(pool: &ThreadPool) -> f64 {
    let mut times: Vec<f64> = (0..300)
        .map(|_| {
            let start = Instant::now();
            pool.run(64, &|chunk, _| work(chunk, 20_000));
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
