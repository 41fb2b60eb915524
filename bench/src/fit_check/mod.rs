//! What `lowtide fit` predicts against what `lowtide bench` measures, for pairs of model and budget.

mod group;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use group::Group;

/// A model and a budget, as `lowtide` takes it; without one, all that can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The file.
    pub model: PathBuf,
    /// `6.8GB`.
    pub memory: Option<String>,
}

impl std::str::FromStr for Pair {
    type Err = String;

    /// `MODEL@6.8GB` or `MODEL`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (model, memory) = match text.rsplit_once('@') {
            // A folder's name may hold one.
            Some((model, memory)) if !memory.contains('/') => (model, Some(memory.to_owned())),
            _ => (text, None),
        };
        if model.is_empty() || memory.as_deref() == Some("") {
            return Err("a pair is MODEL@MEMORY, or MODEL".to_owned());
        }
        Ok(Self { model: PathBuf::from(model), memory })
    }
}

/// How to check.
#[derive(Debug, Clone)]
pub struct Check {
    /// The program.
    pub lowtide: PathBuf,
    /// Tokens of context, the same for both.
    pub context: u32,
    /// Seconds that a repetition should take.
    pub seconds: f64,
    /// Repetitions.
    pub repetitions: u32,
}

/// Both sides of a pair.
#[derive(Debug, Clone)]
pub struct Row {
    /// The file's name.
    pub model: String,
    /// What was planned for, in bytes.
    pub memory_bytes: u64,
    /// Bytes that a token reads, by the plan.
    pub read_bytes: u64,
    /// Tokens per second to be expected.
    pub expected: f64,
    /// At least and at most.
    pub range: [f64; 2],
    /// What each repetition gave.
    pub measured: Vec<f64>,
    /// Highest charge, and times that the limit was hit; `None` without a group.
    pub group: Option<(u64, u64)>,
}

impl Row {
    /// The middle of the repetitions.
    #[must_use]
    pub fn median(&self) -> f64 {
        let mut sorted = self.measured.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
    }

    /// Measured by predicted.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.median() / self.expected
    }
}

/// Predicts and measures one pair: the file leaves the page cache, then it is predicted, and leaves
/// it again before it is measured.
///
/// # Errors
/// A program that fails, with what it said; a file that cannot be opened.
pub fn check(check: &Check, pair: &Pair) -> Result<Row, String> {
    evict(&pair.model)?;
    let context = check.context.to_string();
    let mut fit = Command::new(&check.lowtide);
    fit.arg("fit").arg(&pair.model).args(["--json", "--ctx", &context]);
    if let Some(memory) = &pair.memory {
        fit.args(["--memory", memory]);
    }
    let fit = json(&mut fit)?;
    let number = |value: &Value, key: &str| {
        value[key].as_f64().ok_or_else(|| format!("fit says no {key} of {}", pair.model.display()))
    };
    let expected = number(&fit, "decode_expected_tok_s")?;
    let range = [0, 1].map(|i| fit["decode_tok_s"][i].as_f64().unwrap_or(0.0));
    let memory_bytes = fit["memory_bytes"].as_u64().unwrap_or(0);
    evict(&pair.model)?;
    let group = pair.memory.as_ref().and_then(|_| Group::with_limit(memory_bytes));
    let mut bench = match &group {
        Some(group) => group.command(&check.lowtide),
        None => Command::new(&check.lowtide),
    };
    let tokens = (expected * check.seconds).round().clamp(2.0, f64::from(check.context / 2));
    bench.arg("bench").arg(&pair.model).args(["--json", "-p", "0", "--ctx", &context]);
    bench.args(["-n", &tokens.to_string(), "-r", &check.repetitions.to_string()]);
    if let Some(memory) = &pair.memory {
        bench.args(["--memory", memory]);
    }
    let bench = json(&mut bench)?;
    let all = bench[0]["tok_s_all"].as_array().cloned().unwrap_or_default();
    Ok(Row {
        model: pair.model.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        memory_bytes,
        read_bytes: fit["read_bytes_per_token"].as_u64().unwrap_or(0),
        expected,
        range,
        measured: all.iter().filter_map(Value::as_f64).collect(),
        group: group.map(|group| {
            let (hits, peak) = group.seen();
            (peak, hits)
        }),
    })
}

fn evict(model: &Path) -> Result<(), String> {
    let told = |error: &dyn std::fmt::Display| format!("{}: {error}", model.display());
    let file = std::fs::File::open(model).map_err(|error| told(&error))?;
    lowtide_mapping::evict_file(&file).map_err(|error| told(&error))
}

fn json(command: &mut Command) -> Result<Value, String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{command:?}: {}\n{said}", output.status));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("{command:?}: {error}"))
}

/// The rows as a Markdown table.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| model | budget | read per token | predicted tok/s (at least, at most) | measured tok/s (each) | measured / predicted | charge peak, limit hits |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let each: Vec<String> = row.measured.iter().map(|rate| digits(*rate)).collect();
        let group = row.group.map_or("no limit set".to_owned(), |(peak, hits)| {
            format!("{:.2} GB, {hits}", peak as f64 / 1e9)
        });
        text.push_str(&format!(
            "| {} | {:.2} GB | {:.3} GB | {} ({}, {}) | {} ({}) | {:.2} | {group} |\n",
            row.model,
            row.memory_bytes as f64 / 1e9,
            row.read_bytes as f64 / 1e9,
            digits(row.expected),
            digits(row.range[0]),
            digits(row.range[1]),
            digits(row.median()),
            each.join(", "),
            row.ratio(),
        ));
    }
    text
}

/// Three digits.
fn digits(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 1.0 => format!("{v:.2}"),
        v => format!("{v:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_a_file_and_maybe_a_budget() {
        let pair: Pair = "a/b.gguf@6.8GB".parse().unwrap();
        assert_eq!((pair.model, pair.memory), ("a/b.gguf".into(), Some("6.8GB".into())));
        let pair: Pair = "a@b/c.gguf".parse().unwrap();
        assert_eq!((pair.model, pair.memory), ("a@b/c.gguf".into(), None));
        assert!("".parse::<Pair>().is_err() && "a@".parse::<Pair>().is_err());
    }

    #[test]
    fn the_middle_of_what_was_measured_counts() {
        let row = Row {
            model: "m".into(),
            memory_bytes: 700_000_000,
            read_bytes: 1_500_000_000,
            expected: 2.0,
            range: [1.0, 3.0],
            measured: vec![2.5, 1.0, 2.2],
            group: Some((690_000_000, 0)),
        };
        assert!((row.ratio() - 1.1).abs() < 1e-9);
        let text = table(&[row]);
        assert!(text.contains("| 2.00 (1.00, 3.00) | 2.20 (2.50, 1.00, 2.20) | 1.10 |"), "{text}");
    }
}
