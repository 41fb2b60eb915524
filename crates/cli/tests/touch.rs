//! `run --touch` and `--metrics`: what a token used, and what it cost.

mod common;

use std::process::Stdio;

use common::{Folder, assert_error, lowtide, run, tiny};
use lowtide_bench::synth;
use serde_json::Value;

const WIDTH: u64 = 32;

fn answer(folder: &Folder, tokens: &str, more: &[&str]) -> common::Ran {
    let path = tiny::write(folder, None);
    let mut command = lowtide(folder.path());
    command.arg("run").arg(path).args(["--raw", "--temp", "0", "--ignore-eos", "--max-tokens"]);
    run(command.args([tokens, "hello hello"]).args(more))
}

#[test]
fn a_dense_model_uses_all_but_the_embedding_for_every_token() {
    let folder = Folder::new();
    let (json, png, svg) = (folder.join("t.json"), folder.join("t.png"), folder.join("t.svg"));
    let paths = [&json, &png, &svg].map(|path| path.to_str().unwrap().to_owned());
    let ran =
        answer(&folder, "5", &["--touch", &paths[0], "--touch", &paths[1], "--touch", &paths[2]]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("a token used"), "{}", ran.stderr);
    let document: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let tokens = document["tokens"].as_array().unwrap();
    assert_eq!(tokens.len(), 5);
    // Tied: the embedding is the output matrix as well, so all of it is used. By hand: embedding, two
    // square matrices, two of half their rows, three of the feed-forward block, three norms.
    let weights = WIDTH * (261 + 2 * WIDTH + WIDTH + 3 * 64 + 3) * 4;
    for token in tokens {
        assert_eq!(token["bytes"], weights, "{token}");
        let ranges = token["ranges"].as_array().unwrap();
        let bytes = |r: &Value| r["end"].as_u64().unwrap() - r["start"].as_u64().unwrap();
        assert_eq!(ranges.iter().map(bytes).sum::<u64>(), weights);
    }
    assert_eq!((&tokens[0]["phase"], &tokens[1]["phase"]), (&"prompt".into(), &"answer".into()));
    assert_eq!(tokens[0]["tokens_in"], 3, "hello, a space, hello");
    assert_eq!(document["answer"]["bytes"], weights);
    assert_eq!(document["answer"]["bytes_per_token"], weights);
    assert!(std::fs::read_to_string(&svg).unwrap().trim_end().ends_with("</svg>"));
    let decoder = png::Decoder::new(std::io::BufReader::new(std::fs::File::open(&png).unwrap()));
    assert_eq!(decoder.read_info().unwrap().info().width, 1200);
    assert_eq!(folder.files(), ["t.json", "t.png", "t.svg", "tiny.gguf"], "nothing left over");
}

/// The bytes of an answer's tokens do not depend on where experts were found: all in memory, or in the
/// cache of a budget that holds a part of them.
#[test]
fn of_a_mixture_only_the_chosen_experts_are_used() {
    let folder = Folder::new();
    let model = folder.join("experts.gguf");
    let mut spec = synth::Spec::named("qwen3moe-tiny", "f32").unwrap();
    spec.shape.layers = 12;
    synth::write_file(&spec, &model, &mut |_| {}).unwrap();
    let fit = run(lowtide(folder.path()).arg("fit").arg(&model).args(["--ctx", "64", "--json"]));
    let floor = serde_json::from_str::<Value>(&fit.stdout).unwrap()["floor_bytes"].as_u64();
    let small = (floor.unwrap() + 16_000_000).to_string();
    let used = |memory: &str| {
        let json = folder.join("t.json");
        let mut command = lowtide(folder.path());
        command.arg("run").arg(&model).args(["--ids", "1,2,3", "--temp", "0", "--ignore-eos"]);
        command.args(["--max-tokens", "6", "--ctx", "64", "--memory", memory, "--touch"]);
        let ran = run(command.arg(&json));
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        serde_json::from_slice::<Value>(&std::fs::read(&json).unwrap()).unwrap()
    };
    let (all, cached) = (used("auto"), used(&small));
    let bytes = |document: &Value| -> Vec<u64> {
        let tokens = document["tokens"].as_array().unwrap();
        tokens.iter().map(|token| token["bytes"].as_u64().unwrap()).collect()
    };
    assert_eq!(bytes(&all), bytes(&cached));
    // Two of eight experts, and what every token passes.
    let share = bytes(&all)[3] as f64 / std::fs::metadata(&model).unwrap().len() as f64;
    assert!((0.2..0.6).contains(&share), "{share}");
}

/// The processor's marks against the store's record: two counts that know nothing of each other.
#[test]
fn the_kernel_counts_the_same_pages() {
    let Some(models) = std::env::var_os("LOWTIDE_TEST_MODELS") else { return };
    let model = std::path::Path::new(&models).join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let folder = Folder::new();
    let json = folder.join("t.json");
    let mut command = lowtide(folder.path());
    command.arg("run").arg(&model).args(["--temp", "0", "--max-tokens", "4", "Hello", "--touch"]);
    let ran = run(command.arg(&json));
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let document: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    let kernel = &document["answer"]["kernel"];
    // Null only where the kernel keeps no marks.
    let Some(difference) = kernel["difference"].as_f64() else {
        assert!(std::fs::write("/proc/self/clear_refs", "3").is_err(), "{document}");
        return;
    };
    assert!(difference.abs() < 0.02, "{kernel}");
}

#[test]
fn metrics_are_a_line_for_each_token() {
    let folder = Folder::new();
    let path = folder.join("m.jsonl");
    let ran = answer(&folder, "4", &["--metrics", path.to_str().unwrap(), "--json"]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    let document: Value = serde_json::from_str(&ran.stdout).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ids: Vec<&Value> = lines.iter().map(|line| &line["id"]).collect();
    let expected: Vec<&Value> = document["ids"].as_array().unwrap().iter().collect();
    assert_eq!(ids, expected);
    for (i, line) in lines.iter().enumerate() {
        assert_eq!(line["token"], i);
        assert_eq!(line["position"], 3 + i);
        let [seconds, wait, compute] =
            ["seconds", "wait_s", "compute_s"].map(|key| line[key].as_f64().unwrap());
        assert!(seconds > 0.0 && (wait + compute - seconds).abs() < 1e-6, "{line}");
        assert!(line["rss_bytes"].as_u64().unwrap() <= line["budget_bytes"].as_u64().unwrap());
    }
}

#[test]
fn files_that_cannot_be_written_are_refused_and_nothing_is_lost() {
    let folder = Folder::new();
    let model = tiny::write(&folder, None);
    let before = std::fs::read(&model).unwrap();
    let nowhere = folder.join("none/t.json");
    let old = folder.join("old.json");
    std::fs::write(&old, "old").unwrap();
    for flag in ["--touch", "--metrics"] {
        for path in [model.as_path(), folder.path(), &nowhere] {
            let ran = answer(&folder, "2", &[flag, path.to_str().unwrap()]);
            assert_error(&ran, 2);
            assert_eq!(ran.stdout, "");
        }
        // A run that is refused leaves what was there.
        let ran = answer(&folder, "2", &[flag, old.to_str().unwrap(), "--memory", "1MB"]);
        assert_error(&ran, 2);
        assert_eq!(std::fs::read(&old).unwrap(), b"old");
    }
    for flag in ["--svg", "--png"] {
        for path in [model.as_path(), folder.path(), &nowhere] {
            assert_error(
                &run(lowtide(folder.path()).arg("map").arg(&model).arg(flag).arg(path)),
                2,
            );
        }
    }
    // Two records in one file: one of them would be lost.
    let (same, also) = (folder.join("same.png"), folder.path().join("./same.png"));
    let ran = answer(
        &folder,
        "2",
        &["--touch", same.to_str().unwrap(), "--metrics", also.to_str().unwrap()],
    );
    assert_error(&ran, 2);
    assert!(ran.stderr.contains("--touch and --metrics both write"), "{}", ran.stderr);
    let mut map = lowtide(folder.path());
    assert_error(&run(map.arg("map").arg(&model).args(["--svg", "a", "--png", "a"])), 2);
    assert_eq!(std::fs::read(&model).unwrap(), before);
    assert_eq!(folder.files(), ["old.json", "tiny.gguf"]);
}

/// A trace as well is whole or what it was, and no model is lost for one.
#[test]
fn a_trace_replaces_no_model_and_nothing_where_a_run_is_refused() {
    let folder = Folder::new();
    let (model, old) = (folder.join("experts.gguf"), folder.join("old.jsonl"));
    let spec = synth::Spec::named("qwen3moe-tiny", "f32").unwrap();
    synth::write_file(&spec, &model, &mut |_| {}).unwrap();
    let before = std::fs::read(&model).unwrap();
    std::fs::write(&old, "old").unwrap();
    let traced = |path: &std::path::Path, memory: &str| {
        let mut command = lowtide(folder.path());
        command.arg("run").arg(&model).args(["--ids", "1,2", "-n", "2", "--memory", memory]);
        run(command.arg("--trace").arg(path))
    };
    for path in [model.as_path(), folder.path(), &folder.join("none/t")] {
        let ran = traced(path, "auto");
        assert_error(&ran, 2);
        assert!(ran.stderr.contains("try: --trace FILE"), "{}", ran.stderr);
    }
    assert_error(&traced(&old, "1MB"), 2);
    assert_eq!(std::fs::read(&old).unwrap(), b"old");
    assert_eq!(std::fs::read(&model).unwrap(), before);
    let ran = traced(&old, "auto");
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(std::fs::read_to_string(&old).unwrap().lines().count() > 2);
    assert_eq!(folder.files(), ["experts.gguf", "old.jsonl"]);
}

#[test]
fn a_run_that_is_ended_from_outside_leaves_its_trace() {
    let folder = Folder::new();
    let (model, trace) = (folder.join("experts.gguf"), folder.join("trace.jsonl"));
    let spec = synth::Spec::named("qwen3moe-tiny", "f32").unwrap();
    synth::write_file(&spec, &model, &mut |_| {}).unwrap();
    let mut command = lowtide(folder.path());
    command.arg("run").arg(&model).args(["--ids", "1,2", "--ignore-eos", "--ctx", "100000"]);
    command.args(["--kv", "q8_0", "-n", "99000", "--threads", "1", "--trace"]).arg(&trace);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begun = std::time::Instant::now();
    let lines = || std::fs::read_to_string(&trace).unwrap_or_default().lines().count();
    while lines() < 4 && begun.elapsed().as_secs() < 30 {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let seen = lines();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!((4..500).contains(&seen), "{seen} lines while it ran");
    let text = std::fs::read_to_string(&trace).unwrap();
    assert!(text.lines().all(|line| line.ends_with('}')), "{text}");
}
