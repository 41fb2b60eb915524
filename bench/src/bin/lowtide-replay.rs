//! `lowtide-replay`: recorded or made-up traffic of experts through the cache's policies.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use lowtide_bench::traffic::{self, Kind};
use lowtide_residency::experts::Policy;
use lowtide_residency::experts::replay::{Trace, frequencies_known, optimum, replay};

/// Replay traffic of experts through each policy and compare with Belady's optimum, which knows when each
/// expert comes next, and with knowing only how often each comes: a Markdown table of hit rates in percent,
/// the share of the optimum in brackets.
///
/// Example: lowtide-replay trace.jsonl --slots 10,30,50
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    /// What `lowtide run --trace` wrote; left out, traffic is made up
    traces: Vec<PathBuf>,
    /// Sizes of the cache, in percent of all experts
    #[arg(long, default_value = "10,30,60", value_delimiter = ',')]
    slots: Vec<u32>,
    /// Policies, as `lru` or `lfu:64` (half-life in tokens)
    #[arg(long, value_delimiter = ',', value_parser = policy)]
    #[arg(
        default_value = "lru,lru-cycle,lfu:16,lfu:64,lfu:128,lfu:512,lfu-layer:32,lfu-layer:128,mixed,s3-fifo"
    )]
    policies: Vec<Policy>,
    /// Tokens of made-up traffic
    #[arg(long, default_value_t = 600)]
    tokens: usize,
    /// Tokens at the start that are not counted
    #[arg(long, default_value_t = 100)]
    warm: usize,
    /// Layers, experts and experts used of made-up traffic
    #[arg(long, default_value = "48,128,8", value_delimiter = ',')]
    shape: Vec<u32>,
}

fn policy(name: &str) -> Result<Policy, String> {
    Policy::named(name).ok_or_else(|| format!("not one of {}", Policy::NAMES.join(" ")))
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<(), String> {
    let names = args.policies.iter().map(|policy| format!("{policy:?}")).collect::<Vec<_>>();
    println!("| traffic | cache % | optimum | frequencies known | {} |", names.join(" | "));
    println!("|---|---|---|---|{}", "---|".repeat(names.len()));
    if args.traces.is_empty() {
        let &[layers, experts, used] = args.shape.as_slice() else {
            return Err("--shape wants three numbers: layers, experts, used".into());
        };
        if used == 0 || used > experts || layers == 0 || layers > 1 << 12 || experts > 1 << 12 {
            return Err(format!("{used} of {experts} experts in {layers} layers cannot be used"));
        }
        for (name, kind) in Kind::NAMED {
            let trace = kind.trace((layers, experts, used), args.tokens, 1);
            rows(args, name, &trace);
        }
    }
    for path in &args.traces {
        let named = |error: std::io::Error| format!("{}: {error}", path.display());
        let trace = traffic::read(BufReader::new(File::open(path).map_err(named)?));
        rows(args, &path.display().to_string(), &trace.map_err(named)?);
    }
    Ok(())
}

fn rows(args: &Args, name: &str, trace: &Trace) {
    for percent in &args.slots {
        let units = u64::from(trace.layers * trace.experts);
        let slots = (units * u64::from(*percent) / 100).clamp(u64::from(trace.used), units);
        // At most the number of units.
        let slots = slots as u32;
        let best = optimum(trace, slots, args.warm).rate();
        print!("| {name} | {percent} | {:.1} |", 100.0 * best);
        let known = frequencies_known(trace, slots, args.warm);
        let policies = args.policies.iter().map(|policy| replay(trace, slots, *policy, args.warm));
        for rate in std::iter::once(known).chain(policies).map(|hits| hits.rate()) {
            print!(" {:.1} ({:.2}) |", 100.0 * rate, rate / best.max(1e-9));
        }
        println!();
    }
}
