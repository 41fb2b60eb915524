//! The budget holds for what clients make the server do: bodies of every kind at the length that is just taken,
//! one after the other and together, grow the process by no more than what was set aside for them.

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use common::serving::Server;
use lowtide_bench::synth::{self, Mix, Shape, Spec};
use serde_json::{Value, json};

/// What all work and all bodies may take in a budget of 105 MB, as `crates/server/src/limits.rs` has it; buffers
/// of 28 connections; and 6 MB for threads and for pages of the program that come in by and by.
const GROWTH_BYTES_MAX: u64 = (10 << 20) + (2 << 20) + 28 * (128 << 10) + 6_000_000;

fn peak(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// Bytes a body may have, as the server says itself.
fn body_bytes(server: &Server) -> usize {
    let request = "POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                   Content-Length: 1000000000\r\n\r\n{}";
    let (status, text) = server.raw(request.as_bytes());
    assert_eq!(status, 413, "{text}");
    let (_, after) = text.split_once("at most ").unwrap();
    after.split_whitespace().next().unwrap().parse().unwrap()
}

/// A body of this length around as many of `one` as fit.
fn filled(length: usize, before: &str, one: &str, after: &str) -> Vec<u8> {
    let count = (length - before.len() - after.len()) / one.len();
    let list = one.repeat(count);
    format!("{before}{}{after}", list.strip_suffix(',').unwrap_or(&list)).into_bytes()
}

fn bodies(length: usize) -> Vec<(&'static str, Vec<u8>)> {
    let message = r#"{"role":"user","content":"Say hi"},"#;
    let tool = r#"{"type":"function","function":{"name":"NAME","parameters":{"type":"object","properties":"#;
    let tools = format!(r#"{{"messages":[{{"role":"user","content":"a"}}],"tools":[{tool}{{"#);
    let property = r#""a":{"type":"string"},"#;
    vec![
        ("/tokenize", filled(length, r#"{"content":""#, "a", r#""}"#)),
        ("/tokenize", filled(length, r#"{"content":""#, " ", r#""}"#)),
        ("/tokenize", filled(length, r#"{"content":""#, "the tide ", r#""}"#)),
        ("/tokenize", filled(length, r#"{"with_pieces":true,"content":""#, "a", r#""}"#)),
        ("/detokenize", filled(length, r#"{"tokens":["#, "1,", "]}")),
        ("/v1/completions", filled(length, r#"{"prompt":""#, "a", r#""}"#)),
        ("/v1/completions", filled(length, r#"{"prompt":["#, "1,", "]}")),
        ("/v1/embeddings", filled(length, r#"{"input":""#, "a", r#""}"#)),
        ("/v1/chat/completions", filled(length, r#"{"messages":["#, message, "]}")),
        ("/v1/chat/completions", filled(length / 3, r#"{"messages":["#, message, "]}")),
        ("/v1/chat/completions", filled(length, r#"{"messages":["#, "[[1],[1]],", "]}")),
        (
            "/v1/chat/completions",
            filled(length, r#"{"messages":[{"role":"user","content":""#, "a ", r#""}]}"#),
        ),
        (
            "/apply-template",
            filled(length, r#"{"messages":[{"role":"user","content":""#, "a ", r#""}]}"#),
        ),
        ("/v1/chat/completions", filled(length / 4, &tools, property, r#""b":{}}}}}]}"#)),
    ]
}

#[test]
fn the_largest_bodies_take_no_more_than_was_set_aside() {
    let server = Server::start(&["--memory", "105MB", "--ctx", "512", "--parallel", "2"]);
    let ask = |path: &str, body: &[u8]| {
        let (status, text) = server.post_bytes(path, body, "");
        assert!(matches!(status, 200 | 400 | 413 | 429 | 503), "{path}: {status} {text:.300}");
        (status, text)
    };
    server.assert_well();
    // What comes with the first grammar is counted for itself, with the vocabulary.
    let shaped = json!({
        "messages": [{ "role": "user", "content": "hello" }],
        "max_tokens": 4, "response_format": { "type": "json_object" },
    });
    assert_eq!(server.post("/v1/chat/completions", &shaped).0, 200);
    let (before, length) = (peak(&server), body_bytes(&server));
    let bodies = bodies(length);
    let mut most = before;
    for (path, body) in &bodies {
        let (status, text) = ask(path, body);
        let now = peak(&server);
        println!(
            "{path} {:.40}: {status}, {} kB more",
            String::from_utf8_lossy(body),
            (now - most) >> 10
        );
        if *path == "/tokenize" {
            assert_eq!(status, 200, "{text:.300}");
            let answer: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(answer["count"], answer["tokens"].as_array().unwrap().len());
        }
        most = now;
    }
    let grown = most - before;
    assert!(grown <= GROWTH_BYTES_MAX, "{grown} bytes for one request after the other");
    let own = &server;
    std::thread::scope(|scope| {
        for (path, body) in bodies.iter().chain(&bodies) {
            scope.spawn(move || {
                // Refused while it was still writing: the answer may be lost.
                let (status, text) = own.post_bytes(path, body, "");
                let known = matches!(status, 0 | 200 | 400 | 413 | 429 | 503);
                assert!(known, "{path}: {status} {text:.300}");
            });
        }
    });
    let grown = peak(&server) - before;
    println!("together: {} kB more", grown >> 10);
    assert!(grown <= GROWTH_BYTES_MAX, "{grown} bytes for all of them together");
    assert!(peak(&server) <= 105_000_000);
    server.assert_well();
}

#[test]
fn answers_with_log_probabilities_are_counted_and_written_piece_by_piece() {
    let server = Server::start(&["--memory", "105MB", "--ctx", "512", "--parallel", "2"]);
    server.assert_well();
    let before = peak(&server);
    let ask = |path: &str, more: Value| {
        let mut body = json!({ "n": 16, "max_tokens": 480, "ignore_eos": true, "temperature": 1 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.post(path, &body)
    };
    let chat = || {
        let messages = json!([{ "role": "user", "content": "hello" }]);
        let more = json!({ "messages": messages, "logprobs": true, "top_logprobs": 20 });
        ask("/v1/chat/completions", more)
    };
    let (status, answer) = chat();
    assert_eq!((status, answer["choices"].as_array().unwrap().len()), (200, 16));
    for choice in answer["choices"].as_array().unwrap() {
        let tokens = choice["logprobs"]["content"].as_array().unwrap();
        assert_eq!((tokens.len(), choice["index"].is_u64()), (480, true));
        assert!(tokens.iter().all(|token| token["top_logprobs"].as_array().unwrap().len() == 20));
    }
    let (status, answer) = ask("/v1/completions", json!({ "prompt": "hello", "logprobs": 20 }));
    assert_eq!(status, 200);
    for choice in answer["choices"].as_array().unwrap() {
        let lists = ["tokens", "token_logprobs", "top_logprobs", "text_offset"];
        let lists = lists.map(|name| choice["logprobs"][name].as_array().unwrap());
        assert!(lists.iter().all(|list| list.len() == 480));
        let text: String = lists[0].iter().map(|token| token.as_str().unwrap()).collect();
        let last = lists[0][479].as_str().unwrap().chars().count();
        assert_eq!(lists[3][479], text.chars().count() - last);
    }
    let grown = peak(&server) - before;
    println!("one after the other: {} kB more", grown >> 10);
    assert!(grown <= GROWTH_BYTES_MAX, "{grown} bytes for one request after the other");
    // 3.7 MB each: there is room for two of them.
    std::thread::scope(|scope| {
        for _ in 0..5 {
            scope.spawn(|| {
                let (status, answer) = chat();
                assert!(matches!(status, 200 | 503), "{status} {answer}");
            });
        }
    });
    let grown = peak(&server) - before;
    println!("together: {} kB more", grown >> 10);
    assert!(grown <= GROWTH_BYTES_MAX, "{grown} bytes for all of them together");
    server.assert_well();
}

fn tiny_shape() -> Shape {
    Shape::named("llama-tiny").unwrap()
}

/// A server with the least that there is of everything, of a model that is written for it.
fn serve(folder: common::Folder, path: &Path, shape: Shape, format: &str) -> Server {
    let spec = Spec::new(shape, Mix::named(format).unwrap());
    synth::write_file(&spec, path, &mut |_| ()).unwrap();
    let mut command = common::lowtide(folder.path());
    command.arg("serve").arg(path).args(["--port", "0", "--threads", "1", "--ctx", "64"]);
    command.args(["--memory", "105MB", "--parallel", "1"]);
    Server::run(command, folder)
}

#[test]
fn a_model_that_is_cut_while_it_is_served_shows_in_the_health_until_it_is_whole() {
    // Too large for the budget: each pass reads from the file.
    let folder = common::Folder::new();
    let path = folder.join("cut.gguf");
    let server = serve(folder, &path, Shape { layers: 30, ..tiny_shape() }, "f32");
    let body = json!({ "prompt": "hello", "max_tokens": 2, "ignore_eos": true });
    assert_eq!(server.post("/v1/completions", &body).0, 200);
    let whole = std::fs::read(&path).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.set_len(1 << 20).unwrap();
    let (status, answer) = server.post("/v1/completions", &body);
    assert_eq!((status, &answer["error"]["code"]), (500, &json!("model_fault")), "{answer}");
    let (status, text) = server.get("/health");
    let health: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &health["status"]), (503, &json!("model_fault")), "{text}");
    // The same file again, to its time. Nobody asks anything of it meanwhile.
    std::fs::write(&path, whole).unwrap();
    file.set_modified(modified).unwrap();
    let begun = Instant::now();
    while server.get("/health").0 != 200 {
        assert!(begun.elapsed() < Duration::from_secs(60), "it stays lost");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(server.post("/v1/completions", &body).0, 200);
}

#[test]
fn vectors_are_counted_until_their_client_has_them() {
    // A body of a few hundred bytes; 256 of its vectors are 12.6 MB, all requests together have 10 MiB.
    let folder = common::Folder::new();
    let path = folder.join("wide.gguf");
    let server =
        serve(folder, &path, Shape { layers: 1, embedding: 12_288, ..tiny_shape() }, "q8_0");
    let ask = |texts: usize| server.post("/v1/embeddings", &json!({ "input": vec!["a"; texts] }));
    let (status, answer) = ask(256);
    assert_eq!(status, 413, "{answer}");
    let (status, answer) = ask(2);
    assert_eq!((status, answer["data"][1]["embedding"].as_array().unwrap().len()), (200, 12_288));
    // 7.4 MB of them for a client that reads no further: another waits until it is gone.
    let begin = || {
        let body = json!({ "input": vec!["a"; 150] }).to_string();
        let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
        let head =
            "POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json";
        write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        stream
    };
    let status = |stream: &mut TcpStream, seconds: u64| {
        stream.set_read_timeout(Some(Duration::from_secs(seconds))).unwrap();
        let mut status = [0; 12];
        stream.read_exact(&mut status).ok()?;
        Some(String::from_utf8_lossy(&status[9..]).into_owned())
    };
    let mut first = begin();
    assert_eq!(status(&mut first, 60).as_deref(), Some("200"));
    let mut second = begin();
    assert_eq!(status(&mut second, 3), None, "there was room for both");
    drop(first);
    assert_eq!(status(&mut second, 60).as_deref(), Some("200"));
}
