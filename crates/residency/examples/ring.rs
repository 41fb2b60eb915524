//! Runs passes over any file within a budget, touching every byte with two threads, and compares
//! with plain O_DIRECT reading of the same disk in the same run.
//!
//! `cargo run --release -p lowtide-residency --example ring -- FILE BUDGET_BYTES [direct|mapped]
//! [mapping|arena] [PASSES] [TILE_BYTES] [DEPTH]`
//!
//! Every byte is summed, and the sums of all passes must agree. Where everything is resident, passes
//! over the bare mapping follow each managed one, for the ratio. The simulator is asked for the same
//! pass on a disk of the bandwidth measured, alone and beside two threads that read memory, and its
//! answer printed beside the clock's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use lowtide_kernels::pool::ThreadPool;
use lowtide_mapping::{Backend, Mapping, MemoryLimits, ProcessMemory, open_model_file};
use lowtide_residency::sim::{FakeCompute, FakeDisk, simulate};
use lowtide_residency::{
    Bytes, Extents, PinnedIn, Plan, PlanInput, RingParams, Source, SourceId, Store, StoreOptions,
    Streaming, Use, probe_disk, probe_ways, tile_target_bytes,
};

type AnyError = Box<dyn std::error::Error>;

struct Args {
    path: String,
    budget: u64,
    streaming: Streaming,
    pinned_in: PinnedIn,
    passes: u32,
    tile_bytes: u64,
    depth: u32,
}

fn args() -> Result<Args, AnyError> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let word = |i: usize, default: &str| args.get(i).cloned().unwrap_or_else(|| default.into());
    let budget: u64 = word(1, "6000000000").parse()?;
    Ok(Args {
        path: args
            .first()
            .ok_or("FILE BUDGET [direct|mapped] [mapping|arena] [PASSES] ..")?
            .clone(),
        budget,
        streaming: match word(2, "direct").as_str() {
            "mapped" => Streaming::Mapped,
            _ => Streaming::Direct,
        },
        pinned_in: match word(3, "mapping").as_str() {
            "arena" => PinnedIn::Arena,
            _ => PinnedIn::Mapping,
        },
        passes: word(4, "3").parse()?,
        tile_bytes: word(5, &tile_target_bytes(budget).to_string()).parse()?,
        depth: word(6, "8").parse()?,
    })
}

/// Sums the bytes as 64-bit words: the fastest honest way of touching every one.
fn touch(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let sum = words.iter().fold(0u64, |sum, w| sum.wrapping_add(u64::from_ne_bytes(*w)));
    rest.iter().fold(sum, |sum, &b| sum.wrapping_add(u64::from(b)))
}

/// Sums with all threads of the pool, as the engine multiplies a tile.
fn touch_all(pool: &ThreadPool, bytes: &[u8]) -> u64 {
    let sum = AtomicU64::new(0);
    let chunk = bytes.len().div_ceil(4 * pool.threads()).next_multiple_of(8).max(8);
    pool.run(bytes.len().div_ceil(chunk), &|i, _thread| {
        let end = bytes.len().min((i + 1) * chunk);
        sum.fetch_add(touch(&bytes[i * chunk..end]), Ordering::Relaxed);
    });
    sum.into_inner()
}

fn store(args: &Args) -> Result<(Store, Arc<Mapping>), AnyError> {
    let file = open_model_file(&args.path)?;
    let mapping = Arc::new(Mapping::of_file(file.file())?);
    let mut extents = Extents::new();
    let mut at = 0;
    while at < file.size() {
        let len = args.tile_bytes.min(file.size() - at);
        extents.push(SourceId(0), at, len, Use::Tile)?;
        at += len;
    }
    let input = PlanInput {
        weights_budget_bytes: args.budget,
        streaming: args.streaming,
        pinned_in: args.pinned_in,
        ring: RingParams { queue_depth: args.depth, ..RingParams::default() },
    };
    let plan = Plan::new(extents, input)?;
    println!("plan: {:?} {} slots of {}", plan.sums, plan.slots, Bytes(plan.slot_bytes));
    let source = Source { file: Arc::new(file), mapping: Arc::clone(&mapping) };
    Ok((Store::open(vec![source], plan, StoreOptions::default())?, mapping))
}

/// The same tiles without the store: the ratio is what the manager costs.
fn bare_pass(pool: &ThreadPool, store: &Store, mapping: &Mapping) -> Result<(u64, f64), AnyError> {
    let begin = Instant::now();
    let mut sum = 0u64;
    for x in store.plan().extents().iter() {
        let bytes = mapping.bytes(usize::try_from(x.offset)?..usize::try_from(x.end())?)?;
        sum = sum.wrapping_add(touch_all(pool, bytes));
    }
    Ok((sum, begin.elapsed().as_secs_f64()))
}

/// The share of the disk's bandwidth that is left while two threads read memory.
fn beside_compute(path: &str) -> Result<f64, AnyError> {
    let pool = ThreadPool::new(2)?;
    let memory = vec![1u8; 256 << 20];
    let probe = || probe_ways(path, 1.0, Backend::Auto, &[(8 << 20, 8)]);
    let alone = probe()?.bytes_per_s();
    let done = AtomicBool::new(false);
    let beside = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                std::hint::black_box(touch_all(&pool, &memory));
            }
        });
        let beside = probe();
        done.store(true, Ordering::Relaxed);
        beside
    });
    Ok((beside?.bytes_per_s() / alone).min(1.0))
}

/// What the simulator says to the last pass, on this disk.
fn predict(store: &Store, disk: FakeDisk) -> Result<f64, AnyError> {
    let last = store.stats().last;
    let bytes: u64 = store.plan().extents().iter().map(|x| x.len).sum();
    let compute = FakeCompute {
        bytes_per_s: bytes as f64 / (last.seconds - last.wait_s),
        pass_s: 0.0,
        tile_s: 0.0,
    };
    let passes = simulate(store.plan(), disk, compute, 4)?;
    Ok(passes[1..].iter().map(|p| p.seconds).sum::<f64>() / 3.0)
}

fn main() -> Result<(), AnyError> {
    let args = args()?;
    let before = probe_disk(&args.path, 2.0)?;
    let beside_compute = beside_compute(&args.path)?;
    let begin = Instant::now();
    let (store, mapping) = store(&args)?;
    println!("open: {:.2} s, {:?}", begin.elapsed().as_secs_f64(), store.reader());
    run_passes(&args, &store, &mapping)?;
    let streamed = store.plan().sums.streamed_bytes as f64;
    let last = store.stats().last.seconds;
    let disk = FakeDisk::new(before.bytes_per_s(), 2e-3, args.depth);
    let predicted = predict(&store, FakeDisk { beside_compute, ..disk })?;
    println!(
        "beside two threads that read memory the disk keeps {beside_compute:.2} of its bandwidth"
    );
    println!("{:?}", store.stats());
    let memory = ProcessMemory::read()?;
    println!("{memory:?}");
    let limits = MemoryLimits::read()?;
    println!("charge peak {:?}", limits.own().and_then(|g| g.peak_bytes).map(Bytes));
    drop(store);
    let after = probe_disk(&args.path, 2.0)?;
    for (name, probe) in [("before", &before), ("after", &after)] {
        for p in &probe.points {
            println!(
                "probe {name}: {} x {}: {:.2} GB/s, {:.1} ms",
                Bytes(p.request_bytes),
                p.depth,
                p.bytes_per_s / 1e9,
                p.latency_s * 1e3
            );
        }
        let bound = streamed / probe.bytes_per_s();
        println!("bound {name}: {bound:.2} s, last pass {:.2} of it", bound / last);
    }
    println!("simulated {predicted:.2} s, measured {last:.2} s");
    Ok(())
}

fn run_passes(args: &Args, store: &Store, mapping: &Mapping) -> Result<(), AnyError> {
    let pool = &ThreadPool::new(2)?;
    let mut sum = None;
    for pass in 0..args.passes {
        store.begin_pass(|_| false)?;
        let mut now = 0u64;
        for x in store.plan().extents().iter() {
            let tile = store.acquire(x.id)?;
            now = now.wrapping_add(touch_all(pool, &tile));
        }
        let p = store.end_pass()?;
        assert_eq!(*sum.get_or_insert(now), now, "pass {pass} read other bytes");
        println!(
            "pass {pass}: {:.3} s, wait {:.0} %, read {} at {:.2} GB/s",
            p.seconds,
            100.0 * p.wait_s / p.seconds,
            Bytes(p.read_bytes()),
            p.read_bytes() as f64 / p.seconds / 1e9,
        );
        if store.plan().rows_are_resident() {
            let (bare, seconds) = bare_pass(pool, store, mapping)?;
            assert_eq!(bare, now);
            println!("  bare mapping: {seconds:.3} s, ratio {:.3}", seconds / p.seconds);
        }
    }
    Ok(())
}
