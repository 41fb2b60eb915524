//! `cargo xtask serve`: suites against a running `lowtide serve`, with clients that others wrote.
//!
//! The scripts are in `tests/serve`; their packages go into a virtual environment below `target/`, through pip and
//! so through whatever index the user has set.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use lowtide_bench::synth::{self, Spec};

use crate::command::{cargo, command, run as run_command, target_dir};

/// Exactly these, so that tests do not change under us.
const PACKAGES: [&str; 3] = ["openai==3.57.0", "anthropic==2.13.0", "schemathesis==4.32.5"];
const SUITES: [&str; 4] = ["clients", "load", "fuzz", "compare"];
const MODEL: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// Runs a suite with its arguments.
///
/// # Errors
/// If there is no such suite, something cannot be built or fetched, or it fails.
pub fn run(root: &Path, suite: &str, args: &[String]) -> Result<()> {
    if !SUITES.contains(&suite) {
        bail!("there is no suite {suite}; there are {}", SUITES.join(", "));
    }
    let target = target_dir(root)?;
    run_command(cargo(&["build", "--release", "--package", "lowtide"]).current_dir(root))?;
    let binary = target.join("release/lowtide");
    let model = if suite == "fuzz" { tiny(&target)? } else { real(&target, &binary)? };
    let python = environment(&target)?;
    let script = root.join("tests/serve").join(suite).with_extension("py");
    let mut test = command(python, &[script]);
    test.args(args).env("LOWTIDE_BINARY", binary).env("LOWTIDE_MODEL", model);
    run_command(&mut test)
}

/// A real model, fetched where it is missing.
fn real(target: &Path, binary: &Path) -> Result<PathBuf> {
    let models = target.join("test-models");
    run_command(command(binary, &["pull", "smollm2-135m"]).env("LOWTIDE_MODELS", &models))?;
    Ok(models.join(MODEL))
}

/// A model that answers in microseconds, with a chat template: for requests by the ten thousand.
fn tiny(target: &Path) -> Result<PathBuf> {
    let folder = target.join("serve-models");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let path = folder.join("tiny.gguf");
    synth::write_file(&Spec::named("qwen3-tiny", "f32")?, &path, &mut |_| ())?;
    Ok(path)
}

/// The Python of the virtual environment, made once.
fn environment(target: &Path) -> Result<PathBuf> {
    let folder = target.join("serve-venv");
    let python = folder.join("bin/python");
    let mark = folder.join("complete");
    let whole = PACKAGES.join(" ");
    if std::fs::read_to_string(&mark).is_ok_and(|found| found == whole) {
        return Ok(python);
    }
    run_command(command("python3", &["-m", "venv"]).arg(&folder))?;
    run_command(command(&python, &["-m", "pip", "install", "--quiet"]).args(PACKAGES))?;
    std::fs::write(&mark, whole).with_context(|| mark.display().to_string())?;
    Ok(python)
}
