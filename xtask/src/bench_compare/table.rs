//! What is printed: where and what was measured, and the table.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::contestant::Contestant;
use super::{Speeds, Test};
use crate::command::{command, output};

/// One test of one model: the median speed of each contestant, lowtide's first.
pub(super) struct Row {
    model: String,
    test: Test,
    medians: Vec<f64>,
    /// Lowest and highest ratio of lowtide to the second contestant within a round.
    spread: [f64; 2],
}

/// Prints machine, commits and command.
pub(super) fn head(root: &Path, args: &[String], llama: &Path) -> Result<()> {
    println!("Machine: {}, {} processors", processor(), threads());
    let commit = output(command("git", &["rev-parse", "--short", "HEAD"]).current_dir(root))?;
    let isa = std::env::var("LOWTIDE_ISA").map(|isa| format!(", LOWTIDE_ISA={isa}"));
    println!("lowtide: {}{}", String::from_utf8_lossy(&commit).trim(), isa.unwrap_or_default());
    println!("llama.cpp: {}", llama.display());
    println!("Command: cargo xtask bench-compare {}\n", args.join(" "));
    Ok(())
}

/// The model's name of the CPU, as the kernel gives it.
fn processor() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split_once(": "));
    name.map_or("unknown processor", |(_, name)| name).to_owned()
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// One row a test; every contestant must have made the same tests equally often.
pub(super) fn rows(model: &Path, speeds: &[Speeds]) -> Result<Vec<Row>> {
    let (ours, theirs) = (speeds.first().context("nobody")?, speeds.get(1).context("nobody else")?);
    let name = model.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut rows = Vec::new();
    for (&test, own) in ours {
        let of = |speeds: &Speeds| {
            let found = speeds.get(&test).filter(|found| found.len() == own.len());
            found.cloned().with_context(|| format!("{name}: not everybody made {}", test.name()))
        };
        let all: Vec<Vec<f64>> = speeds.iter().map(of).collect::<Result<_>>()?;
        let other = &theirs[&test];
        let ratios: Vec<f64> = own.iter().zip(other).map(|(own, other)| own / other).collect();
        ensure!(ratios.iter().all(|ratio| ratio.is_finite()), "{name}: a speed of 0");
        let spread = [
            ratios.iter().copied().fold(f64::INFINITY, f64::min),
            ratios.iter().copied().fold(0.0, f64::max),
        ];
        let medians = all.iter().map(|speeds| median(speeds)).collect();
        rows.push(Row { model: name.clone(), test, medians, spread });
    }
    // Prefill first, as llama-bench has it.
    rows.sort_by_key(|row| (row.test.depth, row.test.decode, row.test.prefill));
    Ok(rows)
}

/// The middle one, or the mean of the middle two.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// The Markdown table.
pub(super) fn table(contestants: &[Contestant], rows: &[Row]) -> String {
    let mut out = String::from("| model | test |");
    let mut rule = String::from("|---|---|");
    for (i, contestant) in contestants.iter().enumerate() {
        let _ = write!(out, " {} |", contestant.name());
        rule += "---:|";
        if i > 0 {
            out += " ratio |";
            rule += "---:|";
        }
        if i == 1 {
            out += " of rounds |";
            rule += "---:|";
        }
    }
    out = out + "\n" + &rule + "\n";
    for Row { model, test, medians, spread } in rows {
        let _ = write!(out, "| {model} | {} | {:.1} |", test.name(), medians[0]);
        for (i, median) in medians.iter().enumerate().skip(1) {
            let _ = write!(out, " {median:.1} | {:.2} |", medians[0] / median);
            if i == 1 {
                let _ = write!(out, " {:.2}-{:.2} |", spread[0], spread[1]);
            }
        }
        out += "\n";
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speeds(values: &[f64]) -> Speeds {
        let test = Test::from_name("tg128").unwrap();
        [(test, values.to_vec())].into()
    }

    fn contestants() -> [Contestant; 2] {
        let theirs =
            Contestant::LlamaBench { name: "llama.cpp", program: "b".into(), args: vec![] };
        [Contestant::Lowtide("l".into()), theirs]
    }

    #[test]
    fn medians_and_ratios_of_rounds() {
        let all = [speeds(&[30.0, 10.0, 24.0]), speeds(&[10.0, 20.0, 16.0])];
        let rows = rows(Path::new("x/m.gguf"), &all).unwrap();
        let table = table(&contestants(), &rows);
        assert_eq!(
            table,
            "| model | test | lowtide | llama.cpp | ratio | of rounds |\n|---|---|---:|---:|---:|---:|\n\
             | m | tg128 | 24.0 | 16.0 | 1.50 | 0.50-3.00 |\n"
        );
    }

    #[test]
    fn a_contestant_that_left_a_test_out_is_noticed() {
        assert!(rows(Path::new("m"), &[speeds(&[1.0]), Speeds::new()]).is_err());
        assert!(rows(Path::new("m"), &[speeds(&[1.0]), speeds(&[1.0, 2.0])]).is_err());
        assert!(rows(Path::new("m"), &[speeds(&[1.0]), speeds(&[0.0])]).is_err());
    }

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
    }
}
