//! What a vocabulary costs: `measure MODEL.gguf TEXT`. Load time, heap, memory of the process before and after,
//! encoding speed on a text, on a megabyte of one letter and on a megabyte of spaces.

use std::error::Error;
use std::time::{Duration, Instant};

use lowtide_gguf::Gguf;
use lowtide_tokenizer::{DecodeOptions, EncodeOptions, Tokenizer};

fn status_kb(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kb| kb.parse().ok()).unwrap_or(0)
}

/// Time that this thread was on a processor, or the time of day where that is not known: on a busy machine the
/// clock measures the neighbours.
fn cpu_time(start: Instant) -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let on_cpu = stat.and_then(|stat| stat.split_whitespace().next()?.parse().ok());
    on_cpu.map_or_else(|| start.elapsed(), Duration::from_nanos)
}

/// The best of `n` runs.
fn best<T>(n: u32, mut run: impl FnMut() -> T) -> (Duration, T) {
    let start = Instant::now();
    let mut timed = || {
        let before = cpu_time(start);
        let result = run();
        (cpu_time(start) - before, result)
    };
    let mut best = timed();
    for _ in 1..n {
        let next = timed();
        if next.0 < best.0 {
            best = next;
        }
    }
    best
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: measure MODEL.gguf TEXT";
    let file = std::fs::read(args.next().ok_or(usage)?)?;
    let text = std::fs::read_to_string(args.next().ok_or(usage)?)?;
    let gguf = Gguf::parse(&file)?;
    let before = status_kb("VmRSS");
    let (first, tokenizer) = best(1, || Tokenizer::from_gguf(&gguf));
    let tokenizer = tokenizer?;
    let (after, peak) = (status_kb("VmRSS"), status_kb("VmHWM"));
    let (load, _) = best(5, || Tokenizer::from_gguf(&gguf));
    println!(
        "{} tokens: load {:.1} ms (first {:.1} ms), heap {:.2} MB, RSS {:+.1} MB (peak {:+.1} MB)",
        tokenizer.vocab_size(),
        load.as_secs_f64() * 1e3,
        first.as_secs_f64() * 1e3,
        tokenizer.heap_bytes() as f64 / 1e6,
        (after as f64 - before as f64) / 1e3,
        (peak as f64 - before as f64) / 1e3,
    );
    let texts =
        [("text", text), ("one letter", "a".repeat(1 << 20)), ("spaces", " ".repeat(1 << 20))];
    for (name, text) in &texts {
        let (time, ids) = best(3, || tokenizer.encode(text, EncodeOptions::default()));
        let speed = text.len() as f64 / 1e6 / time.as_secs_f64();
        let back = tokenizer.decode(&ids, DecodeOptions::default()) == *text;
        println!("  {name}: {} tokens, {speed:.1} MB/s, decodes to itself: {back}", ids.len());
    }
    Ok(())
}
