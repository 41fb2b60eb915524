//! A program that is measured: how to ask it, and how to read its answer.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::Test;
use crate::command::{command, output};

/// One measurement's numbers; a length of 0 leaves that test out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Run {
    pub(super) threads: u64,
    pub(super) prefill: u64,
    pub(super) decode: u64,
    pub(super) depth: u64,
}

/// A program that prints tokens a second.
pub(super) enum Contestant {
    /// `lowtide bench`.
    Lowtide(PathBuf),
    /// llama.cpp's `llama-bench`, or that of a fork.
    LlamaBench { name: &'static str, program: PathBuf, args: Vec<String> },
}

impl Contestant {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Contestant::Lowtide(_) => "lowtide",
            Contestant::LlamaBench { name, .. } => name,
        }
    }

    /// Runs it once (both programs first do each test once without counting it).
    pub(super) fn measure(&self, model: &Path, run: &Run) -> Result<Vec<(Test, f64)>> {
        let mut command = self.command(model, run);
        let text = output(&mut command)?;
        let answer = serde_json::from_slice(&text)
            .with_context(|| format!("{} printed no JSON", self.name()))?;
        let speeds = match self {
            Contestant::Lowtide(_) => of_lowtide(&answer),
            Contestant::LlamaBench { .. } => of_llama_bench(&answer),
        };
        let speeds = speeds.with_context(|| format!("{} printed {answer}", self.name()))?;
        let wanted = usize::from(run.prefill > 0) + usize::from(run.decode > 0);
        ensure!(speeds.len() == wanted, "{} made {} tests", self.name(), speeds.len());
        Ok(speeds)
    }

    fn command(&self, model: &Path, run: &Run) -> Command {
        let Run { threads, prefill, decode, depth } = run;
        let [threads, prefill, decode, depth] =
            [threads, prefill, decode, depth].map(u64::to_string);
        let lengths = ["-p", &prefill, "-n", &decode, "-r", "1"];
        match self {
            Contestant::Lowtide(program) => {
                let mut command = command(program, &["bench"]);
                command.arg(model).args(["--threads", &threads]).args(lengths);
                command.args(["-d", &depth, "--json"]);
                command
            }
            Contestant::LlamaBench { program, args, .. } => {
                let mut command = command(program, &["-m"]);
                command.arg(model).args(["-t", &threads]).args(lengths).args(["-o", "json"]);
                if run.depth > 0 {
                    command.args(["-d", &depth]);
                }
                command.args(args);
                command
            }
        }
    }
}

fn of_lowtide(answer: &Value) -> Option<Vec<(Test, f64)>> {
    let row = |row: &Value| Some((Test::from_name(row["test"].as_str()?)?, row["tok_s"].as_f64()?));
    answer.as_array()?.iter().map(row).collect()
}

fn of_llama_bench(answer: &Value) -> Option<Vec<(Test, f64)>> {
    let row = |row: &Value| {
        let test = Test {
            // Forks that know no depth do not print it.
            depth: row["n_depth"].as_u64().unwrap_or(0),
            decode: row["n_gen"].as_u64()?,
            prefill: row["n_prompt"].as_u64()?,
        };
        Some((test, row["avg_ts"].as_f64()?))
    };
    answer.as_array()?.iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn both_answers_name_the_same_tests() {
        let ours = json!([{"test": "pp512", "tok_s": 2.5, "tok_s_all": [2.5]},
                          {"test": "tg128@d16", "tok_s": 1.5, "tok_s_all": [1.5]}]);
        let theirs = json!([{"n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ts": 2.5},
                            {"n_prompt": 0, "n_gen": 128, "n_depth": 16, "avg_ts": 1.5}]);
        assert_eq!(of_lowtide(&ours).unwrap(), of_llama_bench(&theirs).unwrap());
        assert_eq!(of_lowtide(&ours).unwrap()[1].1, 1.5);
    }

    #[test]
    fn another_answer_is_not_taken_for_speeds() {
        assert_eq!(of_lowtide(&json!({"error": 1})), None);
        assert_eq!(of_llama_bench(&json!([{"n_gen": 1}])), None);
    }

    #[test]
    fn both_get_the_same_numbers() {
        let run = Run { threads: 3, prefill: 5, decode: 7, depth: 9 };
        let line = |contestant: Contestant| {
            let command = contestant.command(Path::new("m.gguf"), &run);
            crate::command::line(&command)
        };
        let theirs =
            Contestant::LlamaBench { name: "x", program: "b".into(), args: vec!["-fa".into()] };
        assert_eq!(
            line(Contestant::Lowtide("l".into())),
            "l bench m.gguf --threads 3 -p 5 -n 7 -r 1 -d 9 --json"
        );
        assert_eq!(line(theirs), "b -m m.gguf -t 3 -p 5 -n 7 -r 1 -o json -d 9 -fa");
    }
}
