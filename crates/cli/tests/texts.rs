//! Texts and answers within the budget: what cannot fit is refused before it is read, encoded or answered.

mod common;

use std::io::Write;
use std::process::Stdio;

use common::tiny::{TEMPLATE, Tiny};
use common::{Ran, assert_error, lowtide, ran};
use serde_json::Value;

fn file(tiny: &Tiny, text: &str) -> String {
    let path = tiny.folder.join("text");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Feeds a command pieces of 64 KiB while it takes them; how many bytes those were.
fn fed(tiny: &Tiny, arguments: &[&str], bytes_max: usize) -> (Ran, usize) {
    let mut command = lowtide(tiny.folder.path());
    command.arg(arguments[0]).arg(&tiny.path).args(&arguments[1..]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let piece = [b'x'; 64 << 10];
    let mut taken = 0;
    while taken < bytes_max && stdin.write_all(&piece).is_ok() {
        taken += piece.len();
    }
    drop(stdin);
    (ran(child.wait_with_output().unwrap()), taken)
}

#[track_caller]
fn assert_says(ran: &Ran, wanted: &[&str]) {
    assert_error(ran, 2);
    for wanted in wanted {
        assert!(ran.stderr.contains(wanted), "{wanted} is not in\n{}", ran.stderr);
    }
    // No budget helps, so none is asked for.
    assert!(!ran.stderr.contains("floor"), "{}", ran.stderr);
}

/// The tiny model has a context of 512, and its longest token is `<|end|>`: 3,584 bytes are the most.
#[test]
fn a_prompt_over_the_context_is_refused_by_its_size_or_its_tokens_whatever_the_budget() {
    let tiny = Tiny::new(None);
    let small = ["--memory", "1MB"];
    // By its tokens.
    let file = file(&tiny, &"x".repeat(600));
    let of = |arguments: &[&str]| tiny.run("run", &[arguments, &small].concat());
    assert_says(&of(&["-f", &file]), &["600 tokens", "context of 512", "trained for"]);
    assert_says(&of(&["-f", &file, "--ctx", "300"]), &["600 tokens", "context of 300", "--ctx"]);
    let ids = vec!["259"; 513].join(",");
    assert_says(&of(&["--ids", &ids]), &["513 tokens", "context of 512"]);
    // By its size: nothing of these is read. (Sparse: they take no disk.)
    let sparse = tiny.folder.join("sparse");
    std::fs::File::create(&sparse).unwrap().set_len(64 << 20).unwrap();
    let sparse = sparse.to_str().unwrap();
    let wanted = ["67,108,864 bytes", "9,586,981 tokens", "context of 512", "7 bytes"];
    assert_says(&of(&["-f", sparse]), &wanted);
    let argument = "x".repeat(3585);
    assert_says(&of(&[&argument]), &["3,585 bytes", "513 tokens", "context of 512"]);
}

#[test]
fn standard_input_is_read_no_further_than_the_context_goes() {
    for template in [None, Some(TEMPLATE)] {
        let tiny = Tiny::new(template);
        let (ran, taken) = fed(&tiny, &["run", "--memory", "100MB"], 64 << 20);
        assert_says(&ran, &["standard input has more than 3,584 bytes", "context of 512"]);
        assert!(taken < 1 << 20, "{taken} bytes were taken");
    }
}

#[test]
fn a_text_that_cannot_be_encoded_within_the_budget_is_refused_before() {
    let tiny = Tiny::new(None);
    // A word of a megabyte takes up to 48 MB to encode and would fit the context.
    let word = file(&tiny, &"x".repeat(1_000_000));
    let wanted = ["takes 48.0 MB or more", "is what the budget leaves for it", "--memory"];
    let long = ["-f", &word, "--memory", "60MB"];
    assert_says(&tiny.run("run", &[&long[..], &["--ctx", "8000000"]].concat()), &wanted);
    assert_says(&tiny.run("perplexity", &[&long[..], &["--chunks", "1"]].concat()), &wanted);
    // A text that could not even be read is not.
    let sparse = tiny.folder.join("sparse");
    std::fs::File::create(&sparse).unwrap().set_len(64 << 20).unwrap();
    let arguments = ["-f", sparse.to_str().unwrap(), "--memory", "60MB"];
    assert_says(&tiny.run("perplexity", &arguments), &["67,108,864 bytes", "budget leaves"]);
    let (ran, taken) = fed(&tiny, &["perplexity", "--memory", "60MB"], 128 << 20);
    assert_says(&ran, &["standard input has more than", "budget leaves"]);
    assert!(taken < 60_000_000, "{taken} bytes were taken");
}

/// The highest RSS of a command, which goes on long enough after its peak to be seen.
fn peak_bytes(tiny: &Tiny, arguments: &[&str]) -> u64 {
    let mut command = lowtide(tiny.folder.path());
    command.arg(arguments[0]).arg(&tiny.path).args(&arguments[1..]).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let mut peak = 0;
    let status = loop {
        let path = format!("/proc/{}/status", child.id());
        let status = std::fs::read_to_string(path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kb = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        peak = peak.max(1024 * kb.unwrap_or(0));
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    };
    assert!(status.success());
    peak
}

#[test]
fn a_budget_of_bytes_is_refused_as_what_it_is() {
    let tiny = Tiny::new(None);
    for (memory, wanted) in [("1kb", "1.0 kB of memory"), ("99KB", "98.3 kB"), ("700", "700 bytes")]
    {
        let ran = tiny.run("run", &["hello", "--memory", memory]);
        assert_error(&ran, 2);
        assert!(ran.stderr.contains(wanted), "{wanted} is not in\n{}", ran.stderr);
    }
}

#[test]
fn a_text_that_is_accepted_stays_within_the_budget() {
    let tiny = Tiny::new(None);
    // Words of every length up to 99, and numbers: 2 MB.
    let words = (0..40_000).map(|i| format!("{} {i} ", "x".repeat(i * 7 % 100)));
    let file = file(&tiny, &words.collect::<String>());
    let peak = peak_bytes(&tiny, &["perplexity", "-f", &file, "--chunks", "9", "--memory", "60MB"]);
    assert!((1 << 20..60_000_000).contains(&peak), "{peak}");
}

#[test]
fn fit_measures_within_the_budget_it_tells_of() {
    let tiny = Tiny::new(None);
    let peak = peak_bytes(&tiny, &["fit", "--memory", "60MB"]);
    assert!((1 << 20..60_000_000).contains(&peak), "{peak}");
}

#[test]
fn an_answer_is_counted_by_what_it_keeps() {
    let tiny = Tiny::new(None);
    let arguments = ["hello", "--temp", "0", "--ignore-eos", "-n", "2000", "--ctx", "2048"];
    let reserve = |more: &[&str]| {
        let document = tiny.json("run", &[&arguments[..], more].concat());
        assert_eq!(document["ids"].as_array().unwrap().len(), 2000);
        document["budget"]["reserve_bytes"].as_u64().unwrap()
    };
    let (plain, all) = (reserve(&[]), reserve(&["--logprobs", "1000"]));
    // 261 tokens are all there are. What the process holds differs from run to run.
    let logprobs = 2000 * 261 * 8;
    assert!(all > plain + logprobs - 500_000, "{all} {plain}");
    // As many as there is room for are counted, not as many as were asked for.
    let refused = ["hello", "--json", "--logprobs", "1000", "-n", "999999", "--memory", "1MB"];
    let refused = tiny.run("run", &refused);
    assert_error(&refused, 2);
    assert!(refused.stderr.contains("+ texts and answers 1.1 MB"), "{}", refused.stderr);
    // A picture takes the same whatever the answer's length.
    let picture = tiny.folder.join("t.png");
    let touched = reserve(&["--touch", picture.to_str().unwrap()]);
    assert!(touched > plain + 20_000_000, "{touched} {plain}");
}

#[test]
fn a_chat_goes_on_after_a_message_that_is_too_long() {
    let tiny = Tiny::new(Some(TEMPLATE));
    let saved = tiny.folder.join("talk.json");
    let long = "x".repeat(3_000_000);
    let script = format!(
        "hello\n{long}\n\"\"\"\n{long}\nand so on\n\"\"\"\nhello again\n/save {}\n",
        saved.display()
    );
    let mut command = lowtide(tiny.folder.path());
    command.arg("chat").arg(&tiny.path).args(["--temp", "0", "-n", "4", "--ignore-eos"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let chat = ran(child.wait_with_output().unwrap());
    assert_eq!(chat.status, 2, "{}", chat.stderr);
    assert_eq!(chat.stderr.matches("the message has more than 3,584 bytes").count(), 2);
    let talk: Value = serde_json::from_str(&std::fs::read_to_string(saved).unwrap()).unwrap();
    let said = |at: usize| talk["turns"][at]["content"].as_str().unwrap();
    assert_eq!((said(0), said(2)), ("hello", "hello again"));
    assert_eq!(talk["turns"].as_array().unwrap().len(), 4);
}
