//! `lowtide doctor`: what this machine does for a model that is bigger than its memory, and what to
//! mend where it does less than it could.

mod disk;
mod machine;

use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::args::DoctorArgs;
use crate::failure::one_line;
use crate::output::{self, Stdout};
use crate::store::{Store, resolve};
use crate::trial::Trial;

/// How it is.
#[derive(Serialize, Clone, Copy, PartialEq, Eq, Debug)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As good as it gets.
    Good,
    /// Works, slower or less than it could.
    Fair,
    /// In the way.
    Poor,
    /// Could not be found out.
    Unknown,
}

impl Verdict {
    /// At the start of a line.
    fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Fair => "fair",
            Self::Poor => "POOR",
            Self::Unknown => "?",
        }
    }

    /// For those who see it for the first time.
    fn meaning(self) -> &'static str {
        match self {
            Self::Good => "good: nothing to do",
            Self::Fair => "fair: works, and could be better",
            Self::Poor => "POOR: in the way",
            Self::Unknown => "?: could not be found out",
        }
    }
}

/// One thing that was looked at.
#[derive(Serialize, Clone, PartialEq, Debug)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    finding: String,
    /// What to do about it.
    mend: Option<String>,
    /// The figures behind it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    points: Vec<Point>,
}

/// A measured way of reading.
#[derive(Serialize, Clone, Copy, PartialEq, Debug)]
struct Point {
    request_bytes: u64,
    depth: u32,
    bytes_per_s: f64,
    latency_s: f64,
}

impl Check {
    fn new(name: &'static str, verdict: Verdict, finding: impl Into<String>) -> Self {
        Self { name, verdict, finding: finding.into(), mend: None, points: Vec::new() }
    }

    fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }

    /// What could not be found out, and why.
    fn unknown(name: &'static str, why: &dyn std::error::Error) -> Self {
        let why = why.to_string();
        Self::new(name, Verdict::Unknown, one_line(why.lines().next().unwrap_or_default()))
    }
}

#[derive(Serialize)]
struct Document {
    path: String,
    checks: Vec<Check>,
}

/// Looks, judges, and prints.
pub fn doctor(args: &DoctorArgs) -> Result<()> {
    let store = Store::locate();
    let (path, trial) = match &args.model {
        Some(model) => (resolve::model(&store, model)?, None),
        None => {
            let trial = Trial::write(store.dir())?;
            (trial.path().to_owned(), Some(trial))
        }
    };
    let mut checks = disk::checks(&path);
    checks.extend(machine::checks());
    let shown = match trial {
        Some(_) => store.dir().to_owned(),
        None => path,
    };
    drop(trial);
    if args.json {
        let path = shown.to_string_lossy().into_owned();
        Stdout::lock().json(&Document { path, checks })?;
        return Ok(());
    }
    let mut out = Stdout::lock();
    text(&mut out, &shown, &checks, output::width())?;
    out.finish()?;
    Ok(())
}

/// Columns of the verdict, and of the verdict with the name.
const VERDICT: usize = 6;
const NAME: usize = 24;

fn text(out: &mut impl Write, path: &Path, checks: &[Check], width: usize) -> io::Result<()> {
    writeln!(out, "disk of {}\n", one_line(&path.display().to_string()))?;
    for check in checks {
        let mut label =
            format!("{:VERDICT$}{:rest$}", check.verdict.word(), check.name, rest = NAME - VERDICT);
        let mend = check.mend.iter().map(|mend| format!("mend: {mend}"));
        for paragraph in std::iter::once(check.finding.clone()).chain(mend) {
            for line in wrapped(&paragraph, width - NAME) {
                writeln!(out, "{}", format!("{label:NAME$}{line}").trim_end())?;
                label.clear();
            }
        }
    }
    let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
    let sums = [Verdict::Good, Verdict::Fair, Verdict::Poor, Verdict::Unknown]
        .map(|verdict| (count(verdict), verdict.meaning()));
    let sums: Vec<String> = sums
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, meaning)| format!("{count} {meaning}"))
        .collect();
    writeln!(out)?;
    wrapped(&sums.join("; "), width).iter().try_for_each(|line| writeln!(out, "{line}"))
}

/// Lines of at most `width` characters, broken between words; a longer word has a line of its own.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().map_or(0, |line| line.chars().count());
        match lines.last_mut() {
            Some(last) if line == 0 => last.push_str(word),
            Some(last) if line + 1 + word.chars().count() <= width => {
                last.push(' ');
                last.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_followed_by_its_mend_and_no_line_is_too_long() {
        let long =
            "refused by a filter of the container that this program was started in, it seems";
        let checks = [
            Check::new("io_uring", Verdict::Fair, long).mend("allow it"),
            Check::new("memory", Verdict::Good, "20 GB/s"),
        ];
        let mut out = Vec::new();
        text(&mut out, "/m".as_ref(), &checks, 60).unwrap();
        let out = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(
            lines[2..],
            [
                "fair  io_uring          refused by a filter of the container",
                "                        that this program was started in, it",
                "                        seems",
                "                        mend: allow it",
                "good  memory            20 GB/s",
                "",
                "1 good: nothing to do; 1 fair: works, and could be better"
            ]
        );
        assert!(lines.iter().all(|line| line.chars().count() <= 60));
    }
}
