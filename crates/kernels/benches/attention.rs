//! Attention of the shapes of real models: `cargo bench -p lowtide-kernels --bench attention`.
//!
//! Arguments: `[threads] [filter]`. Prints microseconds per call and multiply-adds per nanosecond; with
//! one thread they are of processor time, which means something on a busy machine too. Each shape's output is checked against two positions' plain softmax before it is timed.

use std::sync::LazyLock;
use std::time::Instant;

use lowtide_kernels::attention::{
    AttentionJob, AttentionScratch, AttentionSizes, KvFormat, KvLayout, attention, kv_load,
    kv_store,
};
use lowtide_kernels::compute::Compute;
use lowtide_kernels::isa::Isa;

struct Shape {
    name: &'static str,
    heads: usize,
    kv_heads: usize,
    dim: usize,
    window: Option<usize>,
}

const SHAPES: [Shape; 5] = [
    Shape { name: "SmolLM2-135M", heads: 9, kv_heads: 3, dim: 64, window: None },
    Shape { name: "gemma-3-270m", heads: 4, kv_heads: 1, dim: 256, window: None },
    Shape { name: "gemma-3-270m local", heads: 4, kv_heads: 1, dim: 256, window: Some(512) },
    Shape { name: "Qwen3-30B-A3B", heads: 32, kv_heads: 4, dim: 128, window: None },
    Shape { name: "llama-30b", heads: 52, kv_heads: 52, dim: 128, window: None },
];

fn numbers(n: usize, mut seed: u32) -> Vec<f32> {
    (0..n)
        .map(|_| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / 8_388_608.0 - 1.0
        })
        .collect()
}

/// Seconds that this thread has run (Linux), or the time of day.
fn thread_seconds() -> f64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let ran = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanoseconds = ran.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    nanoseconds.map_or_else(|| START.elapsed().as_secs_f64(), |ns| ns * 1e-9)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let threads = arguments.first().and_then(|a| a.parse().ok()).unwrap_or(2);
    let filter = arguments.get(1).map_or("", String::as_str);
    for shape in SHAPES.iter().filter(|shape| shape.name.contains(filter)) {
        for format in [KvFormat::F16, KvFormat::Q8_0] {
            for (depth, tokens) in
                [(100, 1), (1000, 1), (4096, 1), (4096, 4), (0, 512), (1000, 96), (3584, 512)]
            {
                measure(shape, format, threads, depth, tokens);
            }
        }
    }
}

fn measure(shape: &Shape, format: KvFormat, threads: usize, depth: usize, tokens: usize) {
    let Shape { name, heads, kv_heads, dim, window } = *shape;
    let compute = Compute::new(Isa::detect(), threads).expect("threads");
    let layout = KvLayout::new(format, kv_heads, dim, dim).expect("layout");
    let context = depth + tokens;
    let sizes = AttentionSizes { heads, kv_heads, key_dim: dim, value_dim: dim, context };
    let mut scratch = AttentionScratch::new(threads, sizes).expect("scratch");
    // As many layers as make a cache larger than the last level's, so that decode reads memory.
    let layer_bytes = layout.bytes(context).expect("bytes");
    let layers = if tokens < 64 { (64_000_000 / layer_bytes).clamp(1, 30) } else { 1 };
    let keys = numbers(context * kv_heads * dim, 1);
    let values = numbers(context * kv_heads * dim, 2);
    let mut caches: Vec<Vec<u8>> = (0..layers).map(|_| vec![0; layer_bytes]).collect();
    for cache in &mut caches {
        kv_store(&compute, &layout, cache, 0, &keys, &values).expect("store");
    }
    let queries = numbers(tokens * heads * dim, 3);
    let mut out = vec![0.0; tokens * heads * dim];
    let mut call = |cache: &[u8], out: &mut [f32]| {
        let job = AttentionJob {
            layout: &layout,
            cache,
            queries: &queries,
            heads,
            first_position: depth,
            window,
            scale: 0.1,
            softcap: None,
            sinks: None,
            out,
        };
        attention(&compute, &mut scratch, job).expect("attention");
    };
    call(&caches[0], &mut out);
    check(&layout, &caches[0], shape, depth, &queries, &out);
    let mut best = f64::INFINITY;
    let mut calls = 0_u32;
    let started = Instant::now();
    while calls < 3 || started.elapsed().as_secs_f64() < 0.4 {
        let (start, thread_start) = (Instant::now(), thread_seconds());
        for cache in &caches {
            call(cache, &mut out);
        }
        let wall = start.elapsed().as_secs_f64();
        // The system counts what a thread has run in ticks of milliseconds.
        let long = threads == 1 && wall > 0.02;
        let seconds = if long { thread_seconds() - thread_start } else { wall };
        best = best.min(seconds / layers as f64);
        calls += 1;
    }
    let seen = |token: usize| (depth + token + 1).min(window.unwrap_or(usize::MAX));
    let products = (0..tokens).map(seen).sum::<usize>() * heads * 2 * dim;
    println!(
        "{name:18} {:5} depth {depth:4} tokens {tokens:3}: {:10.1} us, {:5.1} mul-adds/ns, {:5.1} GB/s of cache",
        format.name(),
        best * 1e6,
        products as f64 / best / 1e9,
        seen(tokens - 1) as f64 * layout.position_bytes() as f64 / best / 1e9,
    );
}

/// The first token's first head by the definition.
fn check(
    layout: &KvLayout,
    cache: &[u8],
    shape: &Shape,
    depth: usize,
    queries: &[f32],
    out: &[f32],
) {
    let mut key = vec![0.0; shape.kv_heads * shape.dim];
    let mut value = key.clone();
    let (mut sum, mut weighted) = (0.0, 0.0);
    let first = (depth + 1).saturating_sub(shape.window.unwrap_or(usize::MAX));
    for position in first..=depth {
        kv_load(layout, cache, position, &mut key, &mut value).expect("load");
        let score: f32 = key[..shape.dim].iter().zip(queries).map(|(k, q)| k * q).sum();
        let weight = f64::from(score * 0.1).exp();
        sum += weight;
        weighted += weight * f64::from(value[0]);
    }
    let error = (weighted / sum - f64::from(out[0])).abs();
    assert!(error < 1e-5, "{}: {} {}", shape.name, weighted / sum, out[0]);
}
