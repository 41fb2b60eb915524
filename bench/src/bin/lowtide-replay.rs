//! `lowtide-replay`: recorded or made-up traffic of experts through the cache's policies.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, BufReader, Write};
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
    #[arg(value_parser = clap::value_parser!(u32).range(1..=100))]
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

/// Why there is no table, or no more of it.
enum Stop {
    /// Arguments or files that cannot be used.
    Refused(String),
    /// Standard output.
    Output(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let printed = traces(&args).map_err(Stop::Refused).and_then(|traces| print(&args, &traces));
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        // `lowtide-replay | head`: the reader has what it wanted.
        Err(Stop::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Stop::Output(error)) => {
            eprintln!("error: cannot write to standard output: {error}");
            ExitCode::from(1)
        }
        Err(Stop::Refused(why)) => {
            eprintln!("error: {why}");
            ExitCode::from(2)
        }
    }
}

/// What is replayed, by name: all of it is looked at before the first line is printed.
fn traces(args: &Args) -> Result<Vec<(String, Trace)>, String> {
    let traces = if args.traces.is_empty() { made_up(args)? } else { recorded(args)? };
    for (name, trace) in &traces {
        let (tokens, warm) = (trace.tokens(), args.warm);
        if tokens <= warm {
            return Err(format!(
                "{name} has {tokens} tokens, and --warm {warm} leaves none of them to count"
            ));
        }
    }
    Ok(traces)
}

fn made_up(args: &Args) -> Result<Vec<(String, Trace)>, String> {
    let &[layers, experts, used] = args.shape.as_slice() else {
        return Err("--shape wants three numbers: layers, experts, used".into());
    };
    if used == 0 || used > experts || layers == 0 || layers > 1 << 12 || experts > 1 << 12 {
        return Err(format!("{used} of {experts} experts in {layers} layers cannot be used"));
    }
    if args.tokens <= args.warm {
        let (tokens, warm) = (args.tokens, args.warm);
        return Err(format!("--tokens {tokens} has to be more than --warm {warm}"));
    }
    let trace = |kind: &Kind| kind.trace((layers, experts, used), args.tokens, 1);
    Ok(Kind::NAMED.iter().map(|(name, kind)| ((*name).to_owned(), trace(kind))).collect())
}

fn recorded(args: &Args) -> Result<Vec<(String, Trace)>, String> {
    let read = |path: &PathBuf| {
        let named = |error: io::Error| format!("{}: {error}", path.display());
        let trace = traffic::read(BufReader::new(File::open(path).map_err(named)?));
        Ok((path.display().to_string(), trace.map_err(named)?))
    };
    args.traces.iter().map(read).collect()
}

fn print(args: &Args, traces: &[(String, Trace)]) -> Result<(), Stop> {
    let mut out = io::stdout().lock();
    let names = args.policies.iter().map(|policy| format!("{policy:?}")).collect::<Vec<_>>();
    writeln!(out, "| traffic | cache % | optimum | frequencies known | {} |", names.join(" | "))?;
    writeln!(out, "|---|---|---|---|{}", "---|".repeat(names.len()))?;
    for (name, trace) in traces {
        rows(&mut out, args, name, trace)?;
    }
    Ok(())
}

fn rows(out: &mut impl Write, args: &Args, name: &str, trace: &Trace) -> io::Result<()> {
    for percent in &args.slots {
        let units = u64::from(trace.layers * trace.experts);
        let slots = (units * u64::from(*percent) / 100).clamp(u64::from(trace.used), units);
        // At most the number of units.
        let slots = slots as u32;
        let best = optimum(trace, slots, args.warm).rate();
        write!(out, "| {name} | {percent} | {:.1} |", 100.0 * best)?;
        let known = frequencies_known(trace, slots, args.warm);
        let policies = args.policies.iter().map(|policy| replay(trace, slots, *policy, args.warm));
        for rate in std::iter::once(known).chain(policies).map(|hits| hits.rate()) {
            write!(out, " {:.1} ({:.2}) |", 100.0 * rate, rate / best.max(1e-9))?;
        }
        writeln!(out)?;
    }
    Ok(())
}
