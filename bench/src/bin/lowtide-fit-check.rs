//! `lowtide-fit-check`: does a run do what `lowtide fit` said it would?
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use lowtide_bench::fit_check::{Check, Pair, check, table};

/// Predict with `lowtide fit`, measure with `lowtide bench`, and compare: a Markdown table. Each file
/// leaves the page cache before both. With root, the measurement runs in a memory group whose limit
/// is the budget. The status is 1 where a ratio is outside the tolerance.
///
/// Example: lowtide-fit-check llama-30b-q4_0.gguf@6.8GB llama-30b-q4_0.gguf@16GB smollm2.gguf
#[derive(Parser, Debug)]
#[command(version)]
struct Args {
    /// MODEL@MEMORY, or MODEL where all of it should stay
    #[arg(required = true)]
    pairs: Vec<Pair>,
    /// The program [default: `lowtide` beside this one]
    #[arg(long)]
    lowtide: Option<PathBuf>,
    /// Tokens of context
    #[arg(long, default_value_t = 512)]
    ctx: u32,
    /// Seconds of each repetition, about
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Repetitions; their median counts
    #[arg(long, default_value_t = 3)]
    repetitions: u32,
    /// How far measured may be from predicted, in percent
    #[arg(long, default_value_t = 20.0)]
    tolerance: f64,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> Result<bool, String> {
    let beside = || {
        let own = std::env::current_exe().map_err(|error| error.to_string())?;
        Ok::<PathBuf, String>(own.with_file_name("lowtide"))
    };
    let how = Check {
        lowtide: args.lowtide.clone().map_or_else(beside, Ok)?,
        context: args.ctx,
        seconds: args.seconds,
        repetitions: args.repetitions.max(1),
    };
    let mut rows = Vec::new();
    for pair in &args.pairs {
        rows.push(check(&how, pair)?);
    }
    print!("{}", table(&rows));
    let is_close = |ratio: f64| (ratio - 1.0).abs() <= args.tolerance / 100.0;
    let far = rows.iter().filter(|row| !is_close(row.ratio())).count();
    println!("\n{} of {} within {} %", rows.len() - far, rows.len(), args.tolerance);
    Ok(far == 0)
}
