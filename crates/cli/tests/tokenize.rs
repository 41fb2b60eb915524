//! `lowtide tokenize` on a vocabulary-only file, and on the real model where it is at hand.

mod common;

use std::io::Write;
use std::process::Stdio;

use common::{Folder, Ran, assert_error, lowtide, ran, run};
use lowtide_gguf::write::HeaderWriter;

fn vocabulary() -> Vec<u8> {
    let mut writer = HeaderWriter::new();
    common::tiny::vocabulary(&mut writer);
    writer.finish().unwrap().header
}

fn tokenize(folder: &Folder, arguments: &[&str], stdin: Option<&[u8]>) -> Ran {
    let path = folder.join("vocabulary.gguf");
    std::fs::write(&path, vocabulary()).unwrap();
    let mut command = lowtide(folder.path());
    command.arg("tokenize").arg(path).args(arguments);
    let Some(text) = stdin else { return run(&mut command) };
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(text).unwrap();
    ran(child.wait_with_output().unwrap())
}

fn ids(ran: &Ran) -> Vec<u32> {
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    let document: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    document["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

#[test]
fn text_is_taken_as_it_is() {
    let folder = Folder::new();
    assert_eq!(ids(&tokenize(&folder, &["--json", "hello"], None)), [259]);
    assert_eq!(ids(&tokenize(&folder, &["--json"], Some(b"hello"))), [259]);
    // No line end is added, none is taken away.
    assert_eq!(ids(&tokenize(&folder, &["--json"], Some(b"hello\n"))), [259, 10]);
    assert_eq!(ids(&tokenize(&folder, &["--json"], Some(b""))), [0_u32; 0]);
    let file = folder.join("text");
    std::fs::write(&file, "hello\n").unwrap();
    assert_eq!(ids(&tokenize(&folder, &["--json", "-f", file.to_str().unwrap()], None)), [259, 10]);
    let lines = tokenize(&folder, &["hello\n"], None).stdout;
    assert_eq!(lines, "    259  \"hello\"\n     10  \"\\n\"\n");
}

#[test]
fn special_tokens_are_recognised_only_when_asked_for() {
    let folder = Folder::new();
    let plain = ids(&tokenize(&folder, &["--json", "<|end|>"], None));
    assert!(plain.len() > 1 && !plain.contains(&260), "{plain:?}");
    assert_eq!(ids(&tokenize(&folder, &["--json", "--special", "<|end|>"], None)), [260]);
}

#[test]
fn what_is_no_text_or_no_vocabulary_is_refused() {
    let folder = Folder::new();
    let ran = tokenize(&folder, &["--json"], Some(b"abc\xff"));
    assert_error(&ran, 2);
    assert!(ran.stderr.contains("UTF-8") && ran.stderr.contains("at 3"), "{}", ran.stderr);
    let model = folder.join("small.gguf");
    std::fs::write(&model, common::small_model()).unwrap();
    let ran = run(lowtide(folder.path()).arg("tokenize").arg(&model).arg("x"));
    assert_error(&ran, 2);
    assert!(ran.stderr.contains("small.gguf"), "{}", ran.stderr);
}
