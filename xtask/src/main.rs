//! `cargo xtask`: the chores of the project that are not the program itself.
//!
//! Each command is a module; none of them is needed to build or to use lowtide.
#![forbid(unsafe_code)]

mod bench_compare;
mod command;
mod goldens;
mod kl;
mod licences;
mod serve_test;
mod test_run;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
cargo xtask COMMAND

  tidy                     check the rules of CONTRIBUTING.md that no compiler checks
  test [ARGS]              fetch the models and vocabularies the tests want, then cargo test --workspace ARGS
  serve SUITE [ARGS]       run tests/serve/SUITE.py against lowtide serve: clients, load, fuzz, compare
  licences                 check the licences of all dependencies against deny.toml
  kl REFERENCE MODEL       compare two files of saved logits (docs/logits-format.md)
  bench-compare MODEL... --llama LLAMA-BENCH [--ik LLAMA-BENCH] [OPTIONS]
                           lowtide against llama-bench in turns; medians and ratios as a Markdown table
  goldens --llama-bin DIR --llama-src DIR --models DIR [--only NAME]
                           regenerate tests/golden with llama.cpp as the oracle
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<()> {
    let Some((name, rest)) = args.split_first() else {
        print!("{HELP}");
        return Ok(());
    };
    match (name.as_str(), rest) {
        ("tidy", []) => tidy::run(&root()),
        ("test", rest) => test_run::run(&root(), rest),
        ("serve", [suite, rest @ ..]) => serve_test::run(&root(), suite, rest),
        ("licences", []) => licences::run(&root()),
        ("kl", [reference, model]) => kl::run(Path::new(reference), Path::new(model)),
        ("bench-compare", rest) => bench_compare::run(&root(), rest),
        ("goldens", rest) => goldens::run(&root(), rest),
        ("help" | "--help" | "-h", _) => {
            print!("{HELP}");
            Ok(())
        }
        _ => bail!("cannot make sense of {args:?}; `cargo xtask help` lists the commands"),
    }
}

/// The workspace root: the parent of this package, as cargo saw it when it built us.
fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_path_buf()
}
