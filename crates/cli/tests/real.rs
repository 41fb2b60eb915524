//! The real models, where `LOWTIDE_TEST_MODELS` says that they are: what a user would type first.

mod common;

use std::path::PathBuf;

use common::{Folder, lowtide, run};
use serde_json::Value;

/// A model of the folder; `None`, with a line, where no folder is given.
fn model(file: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("LOWTIDE_TEST_MODELS") else {
        println!("LOWTIDE_TEST_MODELS is not set: {file} is not tested");
        return None;
    };
    let path = PathBuf::from(folder).join(file);
    assert!(path.exists(), "{} is missing", path.display());
    Some(path)
}

fn json(arguments: &[&str]) -> Value {
    let folder = Folder::new();
    let ran = run(lowtide(folder.path()).args(arguments).arg("--json"));
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn the_default_model_knows_the_capital_of_france() {
    let Some(path) = model("SmolLM2-135M-Instruct.Q4_1.gguf") else { return };
    let path = path.to_str().unwrap();
    let greedy = ["--temp", "0", "-n", "12"];
    let raw = json(&[&["run", path, "The capital of France is", "--raw"][..], &greedy].concat());
    assert!(raw["text"].as_str().unwrap().starts_with(" Paris"), "{}", raw["text"]);
    let asked = json(&["run", path, "What is 2+2?", "--temp", "0", "-n", "100"]);
    assert_eq!(asked["finish"], "end", "the model ends its turn by itself: {}", asked["text"]);
    // <|im_start|>system ... <|im_end|> from the template, and no such token from the question.
    let prompt = asked["prompt_ids"].as_array().unwrap();
    let count = |id: u64| prompt.iter().filter(|found| **found == id).count();
    assert_eq!((count(1), count(2), &prompt[0]), (3, 2, &1.into()));
    assert!(raw["memory"]["rss_peak_bytes"].as_u64().unwrap() < 400_000_000);
}

#[test]
fn the_base_model_goes_on_and_its_ids_are_those_of_the_text() {
    let Some(path) = model("gemma-3-270m-q4_k_m.gguf") else { return };
    let path = path.to_str().unwrap();
    let greedy = ["--temp", "0", "-n", "8"];
    let said = json(&[&["run", path, "The capital of France is", "--raw"][..], &greedy].concat());
    // What llama.cpp says as well.
    assert_eq!(said["text"], " the capital of the country of France.");
    let special = json(&["tokenize", path, "The capital of France is", "--special"]);
    assert_eq!(special["ids"], said["prompt_ids"]);
}

/// A file that is in the page cache already, by larger units than a page where the kernel does that, counts
/// only as far as the budget allows.
#[test]
fn what_is_cached_already_is_not_mapped_beyond_the_budget() {
    let Some(path) = model("gemma-3-270m-q4_k_m.gguf") else { return };
    let folder = Folder::new();
    let copy = folder.join("cached.gguf");
    std::fs::copy(path, &copy).unwrap();
    // Reading with readahead makes the large units.
    lowtide_mapping::evict_file(&std::fs::File::open(&copy).unwrap()).unwrap();
    std::fs::read(&copy).unwrap();
    for io in ["direct", "mapped"] {
        let copy = copy.to_str().unwrap();
        let common = ["run", copy, "Hello", "--raw", "-n", "4", "--ctx", "256", "--memory"];
        let said = json(&[&common[..], &["120MB", "--io", io]].concat());
        let peak = said["memory"]["rss_peak_bytes"].as_u64().unwrap();
        assert!(peak <= 120_000_000, "{io}: {peak}");
    }
}
