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
use crate::human::{Align, Table};
use crate::output::Stdout;
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
    text(&mut out, &shown, &checks)?;
    out.finish()?;
    Ok(())
}

fn text(out: &mut impl Write, path: &Path, checks: &[Check]) -> io::Result<()> {
    writeln!(out, "disk of {}\n", one_line(&path.display().to_string()))?;
    let mut table = Table::new(&[Align::Left, Align::Left, Align::Left]);
    for check in checks {
        let verdict = match check.verdict {
            Verdict::Good => "good",
            Verdict::Fair => "fair",
            Verdict::Poor => "POOR",
            Verdict::Unknown => "?",
        };
        table.row([verdict, check.name, check.finding.as_str()]);
        if let Some(mend) = &check.mend {
            table.row(["", "", &format!("mend: {mend}")]);
        }
    }
    table.write(out, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_followed_by_its_mend() {
        let checks = [
            Check::new("io_uring", Verdict::Fair, "refused").mend("allow it"),
            Check::new("memory", Verdict::Good, "20 GB/s"),
        ];
        let mut out = Vec::new();
        text(&mut out, "/m".as_ref(), &checks).unwrap();
        let out = String::from_utf8(out).unwrap();
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(
            lines[2..],
            [
                "fair  io_uring  refused",
                "                mend: allow it",
                "good  memory    20 GB/s"
            ]
        );
    }
}
