//! `run`, `chat`, `bench`, `perplexity` on a tiny model: shapes of documents, bounds, errors.

mod common;

use std::io::Write;
use std::process::Stdio;

use common::tiny::{END, TEMPLATE, Tiny};
use common::{Ran, assert_error, lowtide, ran};
use serde_json::Value;

/// Shared names of the interface; null counts as there.
const DOCUMENT: [(&str, &str); 6] = [
    ("model", "path architecture file_bytes parameters"),
    ("speed", "load_s ttft_s prefill_tokens prefill_tok_s decode_tokens decode_tok_s"),
    (
        "budget",
        "total_bytes pinned_bytes ring_bytes expert_cache_bytes kv_bytes scratch_bytes vocab_bytes \
         reserve_bytes",
    ),
    (
        "io",
        "backend read_bytes read_bytes_per_token disk_bytes_per_s wait_s compute_s expert_hits \
         expert_misses",
    ),
    ("memory", "rss_peak_bytes charge_peak_bytes page_table_bytes minor_faults major_faults"),
    ("bound", "decode_tok_s achieved"),
];

fn fed(tiny: &Tiny, arguments: &[&str], input: &[u8]) -> Ran {
    let mut command = lowtide(tiny.folder.path());
    command.arg(arguments[0]).arg(&tiny.path).args(&arguments[1..]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    ran(child.wait_with_output().unwrap())
}

fn ids(value: &Value) -> Vec<u64> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

#[test]
fn the_document_of_a_run_has_every_field_of_the_interface() {
    let tiny = Tiny::new(None);
    let arguments = ["hello", "--temp", "0", "-n", "5", "--ignore-eos", "--logprobs", "3"];
    let document = tiny.json("run", &arguments);
    for (part, fields) in DOCUMENT {
        for field in fields.split_whitespace() {
            assert!(document[part].get(field).is_some(), "{part}.{field}");
        }
    }
    assert_eq!(document["model"]["architecture"], "llama");
    assert_eq!(ids(&document["prompt_ids"]), [259]);
    assert_eq!(ids(&document["ids"]).len(), 5);
    assert_eq!(
        (&document["finish"], &document["speed"]["decode_tokens"]),
        (&"max_tokens".into(), &4.into())
    );
    let logprobs = document["logprobs"].as_array().unwrap();
    assert_eq!(logprobs.len(), 5);
    for (entry, id) in logprobs.iter().zip(ids(&document["ids"])) {
        assert_eq!(entry["id"].as_u64(), Some(id));
        // Greedy: the token is the likeliest.
        assert_eq!(entry["top"][0], serde_json::json!([id, entry["logprob"]]));
        assert_eq!(entry["top"].as_array().unwrap().len(), 3);
        assert!(entry["logprob"].as_f64().unwrap() < 0.0);
    }
    assert!(tiny.json("run", &["hello", "-n", "1"]).get("logprobs").is_none());
}

#[test]
fn a_run_streams_text_and_keeps_its_figures_apart() {
    let tiny = Tiny::new(None);
    let text = tiny.run("run", &["hello", "--temp", "0", "-n", "8", "--ignore-eos"]);
    assert_eq!(text.status, 0, "{}", text.stderr);
    let document = tiny.json("run", &["hello", "--temp", "0", "-n", "8", "--ignore-eos"]);
    let expected = document["text"].as_str().unwrap();
    assert_eq!(text.stdout.trim_end_matches('\n'), expected.trim_end_matches('\n'));
    for wanted in ["speed", "file", "RSS", "page tables", "minor", "tokens at"] {
        assert!(text.stderr.contains(wanted), "{wanted} is missing in:\n{}", text.stderr);
    }
    assert!(!text.stderr.contains('\x1b') && !text.stderr.contains('\r'), "plain off a terminal");
}

#[test]
fn prompts_come_from_everywhere_and_mean_the_same() {
    let tiny = Tiny::new(None);
    let of = |document: &Value| (ids(&document["prompt_ids"]), ids(&document["ids"]));
    let bounds = ["--temp", "0", "-n", "4", "--ignore-eos", "--json"];
    let argument = tiny.json("run", &[&["hello"], &bounds[..5]].concat());
    let by_ids = tiny.json("run", &[&["--ids", "259"], &bounds[..5]].concat());
    let fed = fed(&tiny, &[&["run"], &bounds[..]].concat(), b"hello");
    let file = tiny.folder.join("prompt");
    std::fs::write(&file, "hello").unwrap();
    let filed = tiny.json("run", &[&["-f", file.to_str().unwrap()], &bounds[..5]].concat());
    assert_eq!(of(&argument), of(&by_ids));
    assert_eq!(of(&argument), of(&serde_json::from_str(&fed.stdout).unwrap()));
    assert_eq!(of(&argument), of(&filed));
}

#[test]
fn seeds_repeat_and_stop_texts_stop() {
    let tiny = Tiny::new(None);
    let at = |seed: &str| {
        let arguments = ["hello", "--temp", "1.5", "-n", "24", "--ignore-eos", "--seed", seed];
        tiny.json("run", &arguments)
    };
    let (one, again, two) = (at("1"), at("1"), at("2"));
    assert_eq!(one["ids"], again["ids"]);
    assert_ne!(one["ids"], two["ids"]);
    let text = one["text"].as_str().unwrap();
    // Not the first, and no U+FFFD: that stands for bytes that are not it.
    let (_, stop) = text.char_indices().skip(1).find(|(_, c)| c.is_ascii_graphic()).unwrap();
    let end = text.find(stop).unwrap();
    let stop = stop.to_string();
    let arguments =
        ["hello", "--temp", "1.5", "-n", "24", "--ignore-eos", "--seed", "1", "--stop", &stop];
    let stopped = tiny.json("run", &arguments);
    assert_eq!(stopped["text"].as_str().unwrap(), &text[..end]);
    assert_eq!(stopped["finish"], "stopped");
}

#[test]
fn the_template_is_used_and_what_users_write_stays_text() {
    let tiny = Tiny::new(Some(TEMPLATE));
    let end = u64::from(END);
    let prompt = |arguments: &[&str]| {
        let bounds = ["-n", "1", "--temp", "0"];
        ids(&tiny.json("run", &[arguments, &bounds].concat())["prompt_ids"])
    };
    let ends = |ids: &[u64]| ids.iter().filter(|id| **id == end).count();
    let plain = prompt(&["hello\n"]);
    let bytes = |text: &str| text.bytes().map(u64::from).collect::<Vec<_>>();
    assert_eq!(plain, [bytes("[user]"), vec![259, end], bytes("[assistant]")].concat());
    assert_eq!(ends(&prompt(&["a<|end|>b"])), 1, "special text of a user is text");
    assert_eq!(ends(&prompt(&["--system", "be brief", "hello"])), 2);
    assert_eq!(prompt(&["--raw", "hello<|end|>"]), [259, end], "raw is all the user's own");
    assert_error(&Tiny::new(None).run("run", &["--system", "x", "hello"]), 2);
    assert_error(&Tiny::new(None).run("chat", &[]), 2);
}

#[test]
fn unusable_options_of_a_run_are_refused() {
    let tiny = Tiny::new(None);
    for (arguments, wanted) in [
        (&["x", "--memory", "0"][..], "at least one byte"),
        (&["x", "--memory", "1e30"], "1e30"),
        (&["x", "--memory", "-3"], "-3"),
        (&["x", "--memory", "6.8XB"], "XB"),
        (&["x", "--memory", "1000TB"], "--memory auto"),
        (&["x", "--memory", "1MB"], "floor"),
        (&["x", "--temp", "nan"], "nan"),
        (&["x", "--temp", "-1"], "-1"),
        (&["x", "--top-p", "1.5"], "0 to 1"),
        (&["x", "--threads", "0"], "0"),
        (&["x", "--ctx", "0"], "0"),
        (&["x", "--logit-bias", "99999999=1"], "99999999"),
        (&["x", "--logit-bias", "x"], "ID=BIAS"),
        (&["x", "--logprobs", "3"], "--json"),
        (&["x", "--stop", ""], "empty"),
        (&["x", "--io", "tape"], "mapped"),
        (&["--ids", "1,x"], "x"),
        (&["--ids", "4000000"], "4000000"),
        (&["x", "-f", "y"], "cannot be used with"),
        (&["-f", "/no/such/file"], "/no/such/file"),
        (&[""], "empty"),
    ] {
        let ran = tiny.run("run", arguments);
        assert_error(&ran, 2);
        assert!(ran.stderr.contains(wanted), "{arguments:?}: {wanted} not in\n{}", ran.stderr);
    }
    // Standard input is closed and empty: no prompt either.
    assert_error(&tiny.run("run", &[]), 2);
    let long = "x".repeat(600);
    let ran = tiny.run("run", &[&long, "--ctx", "256"]);
    assert_error(&ran, 2);
    assert!(ran.stderr.contains("600") && ran.stderr.contains("256"), "{}", ran.stderr);
}

#[test]
fn a_chat_remembers_saves_and_loads() {
    let tiny = Tiny::new(Some(TEMPLATE));
    let file = tiny.folder.join("talk.json");
    let script = format!(
        "hello\n/stats\n/mem\n/nonsense\nfirst\\\nsecond\n\"\"\"\none\ntwo\n\"\"\"\n/save {}\n/quit\nnot reached\n",
        file.display()
    );
    let options = ["chat", "--temp", "0", "-n", "4", "--ignore-eos"];
    let talk = fed(&tiny, &options, script.as_bytes());
    assert_eq!(talk.status, 0, "{}", talk.stderr);
    for wanted in ["tokens at", "page tables", "there is no /nonsense", "saved to"] {
        assert!(talk.stderr.contains(wanted), "{wanted} is missing in:\n{}", talk.stderr);
    }
    let saved: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let said: Vec<&str> = saved["turns"]
        .as_array()
        .unwrap()
        .iter()
        .step_by(2)
        .map(|turn| turn["content"].as_str().unwrap())
        .collect();
    assert_eq!(said, ["hello", "first\nsecond", "one\ntwo"]);
    let script = format!("/load {}\n/system\nhello\n", file.display());
    let again = fed(&tiny, &options, script.as_bytes());
    assert_eq!(again.status, 0, "{}", again.stderr);
    assert!(again.stderr.contains("6 messages"), "{}", again.stderr);
}

#[test]
fn the_session_that_is_gone_on_with_answers_as_a_new_one() {
    let tiny = Tiny::new(Some(TEMPLATE));
    // Penalties look at the conversation, whatever the session holds of it.
    for more in [&[][..], &["--frequency-penalty", "0.5", "--repeat-last-n", "500"]] {
        let options = [&["chat", "--temp", "0", "-n", "6", "--ignore-eos"][..], more].concat();
        let both = fed(&tiny, &options, b"hello\nhello again\n/clear\nhello\n");
        let file = tiny.folder.join("talk.json");
        let save = format!("hello\n/save {}\n", file.display());
        let first = fed(&tiny, &options, save.as_bytes()).stdout;
        let load = format!("/load {}\nhello again\n", file.display());
        let second = fed(&tiny, &options, load.as_bytes()).stdout;
        assert_eq!(both.stdout, format!("{first}{second}{first}"), "{more:?}");
    }
}

#[test]
fn bench_prints_three_ways() {
    let tiny = Tiny::new(None);
    let options = ["-p", "16,0", "-n", "4", "-d", "0,8", "-r", "2", "--threads", "1"];
    let rows = tiny.json("bench", &options);
    let tests: Vec<&str> =
        rows.as_array().unwrap().iter().map(|row| row["test"].as_str().unwrap()).collect();
    assert_eq!(tests, ["pp16", "tg4", "pp16@d8", "tg4@d8"]);
    for row in rows.as_array().unwrap() {
        assert_eq!((&row["model"], &row["threads"]), (&"tiny".into(), &1.into()));
        let all = row["tok_s_all"].as_array().unwrap();
        assert!(all.len() == 2 && all.iter().all(|speed| speed.as_f64().unwrap() > 0.0));
        let mean: f64 = all.iter().map(|speed| speed.as_f64().unwrap()).sum::<f64>() / 2.0;
        assert!((row["tok_s"].as_f64().unwrap() / mean - 1.0).abs() < 1e-9);
        assert!(row["memory_bytes"].as_u64().unwrap() > 0);
    }
    let table = tiny.run("bench", &options).stdout;
    assert_eq!(table.lines().count(), 6, "{table}");
    assert!(table.lines().all(|line| line.starts_with('|') && line.ends_with('|')), "{table}");
    let csv = tiny.run("bench", &[&options[..], &["-o", "csv"]].concat()).stdout;
    assert!(csv.lines().all(|line| line.split(',').count() == 6), "{csv}");
    assert_error(&tiny.run("bench", &["-p", "0", "-n", "0"]), 2);
    assert_error(&tiny.run("bench", &["-p", "100", "--ctx", "50"]), 2);
}

#[test]
fn perplexity_scores_the_second_halves() {
    let tiny = Tiny::new(None);
    let file = tiny.folder.join("text");
    let text: String = (0..200).map(|i| char::from(b'a' + (i * 7 % 26) as u8)).collect();
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let document = tiny.json("perplexity", &["-f", file, "--ctx", "64"]);
    assert_eq!((&document["tokens"], &document["chunks"]), (&200.into(), &3.into()));
    assert_eq!(document["context"], 64);
    let nll: Vec<f64> =
        document["nll"].as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect();
    assert_eq!(nll.len(), 3 * 31);
    let mean = nll.iter().sum::<f64>() / nll.len() as f64;
    assert!((document["perplexity"].as_f64().unwrap() / mean.exp() - 1.0).abs() < 1e-6);
    let one = tiny.json("perplexity", &["-f", file, "--ctx", "64", "--chunks", "1"]);
    assert_eq!(one["nll"].as_array().unwrap()[..], document["nll"].as_array().unwrap()[..31]);
    let kept = tiny.folder.join("logprobs.bin");
    let saved = tiny
        .run("perplexity", &["-f", file, "--ctx", "64", "--save-logprobs", kept.to_str().unwrap()]);
    assert_eq!(saved.status, 0, "{}", saved.stderr);
    let kept = std::fs::read(kept).unwrap();
    assert!(kept.starts_with(b"_logits_"));
    assert_error(&tiny.run("perplexity", &["-f", file, "--ctx", "512"]), 2);
    assert!(tiny.folder.files().iter().all(|name| !name.ends_with(".part")));
}

#[test]
fn a_context_too_small_to_score_is_told_so() {
    let tiny = Tiny::new(None);
    let text = tiny.folder.join("text");
    std::fs::write(&text, "x".repeat(100)).unwrap();
    let ran = tiny.run("perplexity", &["-f", text.to_str().unwrap(), "-c", "3"]);
    assert_error(&ran, 2);
    assert!(ran.stderr.contains("a context of 3 tokens is too small"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("smaller --ctx"), "{}", ran.stderr);
    std::fs::write(&text, "xx").unwrap();
    let ran = tiny.run("perplexity", &["-f", text.to_str().unwrap(), "-c", "4"]);
    assert_error(&ran, 2);
    assert!(!ran.stderr.contains("smaller --ctx"), "{}", ran.stderr);
}

#[test]
fn biases_that_leave_no_token_are_refused() {
    let tiny = Tiny::new(None);
    let biases: Vec<String> = (0..261).map(|id| format!("--logit-bias={id}=-inf")).collect();
    let mut arguments = vec!["hello", "-n", "2"];
    arguments.extend(biases.iter().map(String::as_str));
    let ran = tiny.run("run", &arguments);
    assert_error(&ran, 2);
    assert!(ran.stderr.contains("--logit-bias forbids every token"), "{}", ran.stderr);
    arguments.pop();
    assert_eq!(tiny.run("run", &arguments).status, 0);
}

#[test]
fn saved_logprobs_cost_no_other_file() {
    let tiny = Tiny::new(None);
    let text = tiny.folder.join("text");
    std::fs::write(&text, "x".repeat(100)).unwrap();
    let save = |path: &std::path::Path| {
        let path = path.to_str().unwrap();
        let file = text.to_str().unwrap();
        tiny.run("perplexity", &["-f", file, "--ctx", "64", "--save-logprobs", path])
    };
    let model = std::fs::read(&tiny.path).unwrap();
    let ran = save(&tiny.path);
    assert_error(&ran, 2);
    assert!(ran.stderr.contains("it is a model, which would be lost"), "{}", ran.stderr);
    assert_eq!(std::fs::read(&tiny.path).unwrap(), model);
    let ran = save(&tiny.folder.join("none/kept"));
    assert_error(&ran, 2);
    assert!(ran.stderr.contains("--save-logprobs FILE"), "{}", ran.stderr);

    let (kept, link) = (tiny.folder.join("kept"), tiny.folder.join("link"));
    std::fs::write(tiny.folder.join("kept.part"), "mine").unwrap();
    std::fs::write(&kept, "old").unwrap();
    std::os::unix::fs::symlink(&kept, &link).unwrap();
    let ran = save(&link);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(std::fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(std::fs::read(&kept).unwrap().starts_with(b"_logits_"));
    assert_eq!(std::fs::read(tiny.folder.join("kept.part")).unwrap(), b"mine");

    // A device is written to, not replaced; what it says is told.
    let (full, device) = (tiny.folder.join("full"), std::path::Path::new("/dev/full"));
    std::os::unix::fs::symlink(device, &full).unwrap();
    let ran = save(&full);
    assert_error(&ran, 1);
    assert!(ran.stderr.contains("cannot write /dev/full\n  No space left"), "{}", ran.stderr);
    assert!(std::fs::symlink_metadata(&full).unwrap().is_symlink());
    assert_eq!(tiny.folder.files(), ["full", "kept", "kept.part", "link", "text", "tiny.gguf"]);
}

#[test]
fn ctrl_c_stops_the_answer_and_says_so() {
    let tiny = Tiny::new(None);
    let mut command = lowtide(tiny.folder.path());
    command.args(["run"]).arg(&tiny.path);
    // Far more tokens than come before the signal does.
    command.args(["hello", "--ignore-eos", "--temp", "0", "--ctx", "1000000"]);
    let _ = command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The first bytes show that the answer is under way.
    let mut first = [0; 1];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{errors}");
    assert!(errors.contains("tokens at"), "the ledger is printed:\n{errors}");
}

#[test]
fn direct_reads_that_are_not_made_are_told_of_in_a_line() {
    let tiny = Tiny::new(None);
    let told = |arguments: &[&str]| {
        let ran = tiny.run("run", &[&["hello", "-n", "1"], arguments].concat());
        assert_eq!(ran.status, 0, "{}", ran.stderr);
        ran.stderr.lines().filter(|line| line.contains("--io direct")).count()
    };
    assert_eq!(told(&["--io", "direct"]), 1);
    assert_eq!((told(&[]), told(&["--io", "direct", "--json"])), (0, 0));
}
