//! `cargo xtask bench-compare`: lowtide against llama-bench on the same files, threads and lengths.
//!
//! The contestants take turns, A B A B, because a shared machine's speed drifts by more than what is to be seen; what
//! is printed are medians over the rounds and their ratios, a Markdown table with the machine, the commits and
//! the command above it.

mod contestant;
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};

use crate::command::{cargo, run as run_command, target_dir};
use contestant::{Contestant, Run};

/// What `cargo xtask help` says about it.
pub const USAGE: &str = "bench-compare MODEL... --llama LLAMA-BENCH [--ik LLAMA-BENCH] [--lowtide BINARY] [-t THREADS] \
[-p TOKENS] [-n TOKENS] [-d DEPTH] [--rounds N] [--llama-args ARGS]";

/// Which test, in both programs' order: prefill before decode.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Test {
    depth: u64,
    decode: u64,
    prefill: u64,
}

impl Test {
    /// `pp512`, `tg128`, `tg128@d4096`.
    fn name(self) -> String {
        let Test { depth, decode, prefill } = self;
        let test = if decode > 0 { format!("tg{decode}") } else { format!("pp{prefill}") };
        if depth > 0 { format!("{test}@d{depth}") } else { test }
    }

    fn from_name(name: &str) -> Option<Test> {
        let (test, depth) = name.split_once("@d").unwrap_or((name, "0"));
        let depth = depth.parse().ok()?;
        if let Some(prefill) = test.strip_prefix("pp") {
            return Some(Test { depth, decode: 0, prefill: prefill.parse().ok()? });
        }
        Some(Test { depth, decode: test.strip_prefix("tg")?.parse().ok()?, prefill: 0 })
    }
}

/// Tokens a second, one of each round.
type Speeds = BTreeMap<Test, Vec<f64>>;

/// What to measure.
#[derive(PartialEq, Eq, Debug)]
struct Options {
    models: Vec<PathBuf>,
    lowtide: Option<PathBuf>,
    llama: PathBuf,
    ik: Option<PathBuf>,
    llama_args: Vec<String>,
    run: Run,
    rounds: usize,
}

impl Options {
    fn parse(args: &[String]) -> Result<Options> {
        let mut options = Options {
            models: Vec::new(),
            lowtide: None,
            llama: PathBuf::new(),
            ik: None,
            llama_args: Vec::new(),
            run: Run { threads: 2, prefill: 512, decode: 128, depth: 0 },
            rounds: 3,
        };
        let mut args = args.iter();
        while let Some(name) = args.next() {
            if !name.starts_with('-') {
                options.models.push(name.into());
                continue;
            }
            let value = args.next().with_context(|| format!("{name} wants a value"))?;
            let number = || value.parse().with_context(|| format!("{name} {value}: no number"));
            match name.as_str() {
                "--lowtide" => options.lowtide = Some(value.into()),
                "--llama" => options.llama = value.into(),
                "--ik" => options.ik = Some(value.into()),
                "--llama-args" => {
                    options.llama_args = value.split(' ').map(str::to_owned).collect()
                }
                "-t" => options.run.threads = number()?,
                "-p" => options.run.prefill = number()?,
                "-n" => options.run.decode = number()?,
                "-d" => options.run.depth = number()?,
                "--rounds" => options.rounds = number()? as usize,
                _ => bail!("{name} is unknown: cargo xtask {USAGE}"),
            }
        }
        ensure!(!options.models.is_empty(), "no model: cargo xtask {USAGE}");
        ensure!(!options.llama.as_os_str().is_empty(), "no --llama: cargo xtask {USAGE}");
        ensure!(options.rounds > 0, "--rounds 0 measures nothing");
        let Run { prefill, decode, .. } = options.run;
        ensure!(prefill > 0 || decode > 0, "-p 0 -n 0 measures nothing");
        Ok(options)
    }

    fn contestants(&self, lowtide: &Path) -> Vec<Contestant> {
        let theirs = |name, program: &PathBuf, args: &[String]| Contestant::LlamaBench {
            name,
            program: program.clone(),
            args: args.to_vec(),
        };
        let mut all = vec![
            Contestant::Lowtide(lowtide.to_owned()),
            theirs("llama.cpp", &self.llama, &self.llama_args),
        ];
        // Its flags are not llama.cpp's.
        all.extend(self.ik.iter().map(|ik| theirs("ik_llama.cpp", ik, &[])));
        all
    }
}

/// Measures and prints.
///
/// # Errors
/// If the arguments make no sense, or a program cannot be run or prints something else than speeds.
pub fn run(root: &Path, args: &[String]) -> Result<()> {
    let options = Options::parse(args)?;
    let lowtide = match &options.lowtide {
        Some(path) => path.clone(),
        None => {
            run_command(cargo(&["build", "--release", "--package", "lowtide"]).current_dir(root))?;
            target_dir(root)?.join("release/lowtide")
        }
    };
    let contestants = options.contestants(&lowtide);
    table::head(root, args, &options.llama)?;
    let mut rows = Vec::new();
    for model in &options.models {
        let mut speeds = vec![Speeds::new(); contestants.len()];
        for round in 0..options.rounds {
            for (contestant, speeds) in contestants.iter().zip(&mut speeds) {
                eprintln!("round {}: {} {}", round + 1, contestant.name(), model.display());
                for (test, speed) in contestant.measure(model, &options.run)? {
                    speeds.entry(test).or_default().push(speed);
                }
            }
        }
        rows.extend(table::rows(model, &speeds)?);
    }
    print!("{}", table::table(&contestants, &rows));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(args: &[&str]) -> Vec<String> {
        args.iter().map(|&arg| arg.to_owned()).collect()
    }

    #[test]
    fn names_of_tests_are_read_as_they_are_written() {
        for name in ["pp512", "tg128", "tg128@d4096", "pp64@d16"] {
            assert_eq!(Test::from_name(name).unwrap().name(), name);
        }
        assert_eq!(Test::from_name("xx3"), None);
        assert_eq!(Test::from_name("pp"), None);
    }

    #[test]
    fn arguments() {
        let args =
            ["a.gguf", "-t", "4", "b.gguf", "--llama", "x/llama-bench", "--llama-args", "-fa 1"];
        let options = Options::parse(&strings(&args)).unwrap();
        assert_eq!(options.models, [PathBuf::from("a.gguf"), PathBuf::from("b.gguf")]);
        assert_eq!(options.run, Run { threads: 4, prefill: 512, decode: 128, depth: 0 });
        assert_eq!(options.llama_args, ["-fa", "1"]);
        assert_eq!(options.contestants(Path::new("l")).len(), 2);
    }

    #[test]
    fn what_would_measure_nothing_is_refused() {
        for args in [
            &["a.gguf"][..],
            &["--llama", "x"],
            &["a.gguf", "--llama", "x", "--rounds", "0"],
            &["a.gguf", "--llama", "x", "-p", "0", "-n", "0"],
            &["a.gguf", "--llama", "x", "-p", "many"],
            &["a.gguf", "--llama", "x", "--speed", "1"],
            &["a.gguf", "--llama"],
        ] {
            assert!(Options::parse(&strings(args)).is_err(), "{args:?}");
        }
    }
}
