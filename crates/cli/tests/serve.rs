//! `lowtide serve` as a client without manners meets it: what is hostile or senseless is refused with
//! the right status, and the server goes on answering.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::serving::Server;
use common::{Folder, assert_error, lowtide, run, tiny};
use serde_json::{Value, json};

fn chat(more: Value) -> Value {
    let mut body = json!({ "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 4 });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn senseless_requests_are_400_in_openais_shape() {
    let server = Server::start(&[]);
    let tools: Vec<Value> =
        (0..1_000).map(|i| json!({ "function": { "name": format!("f{i}") } })).collect();
    let cases = [
        json!({ "max_tokens": -1 }),
        json!({ "max_tokens": 0 }),
        json!({ "max_tokens": 1e18 }),
        json!({ "n": 0 }),
        json!({ "n": 1u64 << 31 }),
        json!({ "logprobs": true, "top_logprobs": -1 }),
        json!({ "logprobs": true, "top_logprobs": 1e18 }),
        json!({ "temperature": -0.5 }),
        json!({ "presence_penalty": -1 }),
        json!({ "logit_bias": { "261": 1 } }),
        json!({ "stop": vec!["x"; 10_000] }),
        json!({ "tools": tools }),
        json!({ "messages": [] }),
        json!({ "messages": [{ "role": "wizard", "content": "x" }] }),
        json!({ "messages": [{ "role": "user", "content": "word ".repeat(400) }] }),
        json!({ "messages": [{ "role": "user", "content": [
            { "type": "image_url", "image_url": { "url": "http://127.0.0.1:1/x.png" } }] }] }),
        json!({ "chat_template": "{{ 1 }}" }),
        json!({ "regex": "(a+)+$" }),
        json!({ "regex": "a{1,1000000000}" }),
        json!({ "grammar": "(".repeat(60_000) }),
        json!({ "grammar": "start: missing" }),
        json!({ "response_format": { "type": "json_schema", "json_schema": { "schema": {
            "$ref": "#/$defs/a",
            "$defs": { "a": { "$ref": "#/$defs/b" }, "b": { "$ref": "#/$defs/a" } } } } } }),
        json!({ "response_format": { "type": "json_schema", "json_schema": { "schema": {
            "$ref": "http://127.0.0.1:1/schema.json" } } } }),
    ];
    for case in cases {
        let (status, answer) = server.post("/v1/chat/completions", &chat(case.clone()));
        let case = case.to_string();
        assert_eq!(status, 400, "{case:.80}: {answer}");
        let error = answer["error"].as_object().expect("an OpenAI error");
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()));
        assert!(["type", "param", "code"].iter().all(|key| error.contains_key(*key)));
    }
    let (_, long) = server.post(
        "/v1/chat/completions",
        &chat(json!({ "messages": [{ "role": "user", "content": "word ".repeat(400) }] })),
    );
    let message = long["error"]["message"].as_str().unwrap();
    assert!(message.contains("2007") && message.contains("512"), "both numbers: {message}");
    server.assert_well();
}

#[test]
fn hostile_bodies_are_refused() {
    let server = Server::start(&[]);
    let deep = format!("{{\"messages\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let chat = "/v1/chat/completions";
    for body in [
        deep.as_bytes(),
        br#"{"max_tokens": 1, "max_tokens": 2}"#,
        b"{\"messages\": \"\xff\xfe\"}",
        br#"{"temperature": 1e999}"#,
        br#"{"messages": [{"role": "user", "content": "\ud800"}]}"#,
        b"",
        b"[]",
        b"not json",
    ] {
        assert_eq!(
            server.post_bytes(chat, body, "").0,
            400,
            "{:.60}",
            String::from_utf8_lossy(body)
        );
    }
    let gzip = server.post_bytes(chat, b"\x1f\x8b", "Content-Encoding: gzip\r\n");
    assert_eq!(gzip.0, 415);
    let form = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}";
    assert_eq!(server.raw(form.as_bytes()).0, 415);
    let lying = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n\
                 Content-Type: application/json\r\nContent-Length: 1000000000\r\n\r\n{}";
    assert_eq!(server.raw(lying.as_bytes()).0, 413);
    let mut endless = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n\
        Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        .to_vec();
    for _ in 0..64 {
        endless.extend(format!("{:x}\r\n{}\r\n", 65_536, " ".repeat(65_536)).bytes());
    }
    // Closed while we still wrote: the answer may be lost with the connection.
    assert!(matches!(server.raw(&endless).0, 413 | 0));
    server.assert_well();
}

#[test]
fn ambiguous_heads_are_refused_and_closed() {
    let server = Server::start(&[]);
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    for (request, statuses) in [
        (
            "POST /tokenize HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            &[400][..],
        ),
        (
            "POST /tokenize HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
            &[400],
        ),
        (
            "GET /health HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\nConnection: close\r\n\r\n",
            &[400],
        ),
        ("GET /health HTTP/1.1\r\nConnection: close\r\n\r\n", &[400]),
        ("GET /health HTTP/1.1\nHost: localhost\n\n", &[400]),
        (many.as_str(), &[431, 0]),
    ] {
        let (status, body) = server.raw(request.as_bytes());
        assert!(statuses.contains(&status), "{request:.60}: {status} {body}");
    }
    server.assert_well();
}

#[test]
fn only_known_models_hosts_and_origins() {
    let server = Server::start(&[]);
    for name in ["../../etc/passwd", "/etc/passwd", "%2e%2e", "a\u{0}b", "..", "tiny.gguf/../x"] {
        let (status, answer) = server.post("/v1/chat/completions", &chat(json!({ "model": name })));
        assert_eq!((status, &answer["error"]["code"]), (404, &json!("model_not_found")), "{name}");
    }
    for path in
        ["/v1/models/..%2f..%2fetc%2fpasswd", "/assets/..%2fsrc", "/v1/models/../../x", "/x"]
    {
        assert_eq!(server.get(path).0, 404, "{path}");
    }
    assert_eq!(server.get("/v1/models/tiny").0, 200);
    let with = |headers: &str| {
        server
            .raw(
                format!("GET /v1/models HTTP/1.1\r\n{headers}Connection: close\r\n\r\n").as_bytes(),
            )
            .0
    };
    assert_eq!(with("Host: evil.example\r\n"), 403);
    assert_eq!(with("Host: localhost\r\nOrigin: https://evil.example\r\n"), 403);
    assert_eq!(with("Host: localhost\r\nOrigin: http://localhost\r\n"), 200);
    let preflight = "OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n\
                     Origin: https://evil.example\r\nConnection: close\r\n\r\n";
    assert_eq!(server.raw(preflight.as_bytes()).0, 403);
}

#[test]
fn answers_that_are_made_together_are_those_made_alone() {
    let server = Server::start(&["--parallel", "4"]);
    let props: Value = serde_json::from_str(&server.get("/props").1).unwrap();
    assert_eq!(props["parallel"], 4);
    let ask = |number: usize| {
        let text = "hello ".repeat(1 + number * 5);
        let more = json!({
            "messages": [{ "role": "user", "content": text }], "max_tokens": 40, "temperature": 1.0,
            "seed": number, "n": 1 + number % 2, "ignore_eos": true, "user": format!("u{number}"),
        });
        let (status, answer) = server.post("/v1/chat/completions", &chat(more));
        assert_eq!(status, 200, "{answer}");
        let choices = answer["choices"].as_array().unwrap();
        choices.iter().map(|c| c["message"]["content"].to_string()).collect::<Vec<_>>()
    };
    let alone: Vec<_> = (0..8).map(ask).collect();
    let together: Vec<_> = std::thread::scope(|scope| {
        let ask = &ask;
        let threads: Vec<_> = (0..8).map(|n| scope.spawn(move || ask(n))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(together, alone);
}

#[test]
fn a_million_messages_are_refused_with_both_numbers() {
    let many = |count: usize, message: &str| {
        let mut body = String::from("{\"messages\":[");
        (0..count).for_each(|_| body.push_str(message));
        body.truncate(body.len() - 1);
        body + "]}"
    };
    let said = |(status, text): (u16, String)| {
        let answer: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
        (status, answer["error"]["message"].as_str().unwrap().to_owned())
    };
    let chat = "/v1/chat/completions";
    let server = Server::start(&["--memory", "2GB"]);
    // 28 MB: more than a body may have in this budget. Closed while we still wrote, it may be lost.
    let whole = many(1_000_000, r#"{"role":"user","content":""},"#);
    let (status, text) = server.post_bytes(chat, whole.as_bytes(), "");
    if status != 0 {
        let (status, message) = said((status, text));
        assert_eq!(status, 413);
        assert!(
            message.contains(&whole.len().to_string()) && message.contains("at most 1"),
            "{message}"
        );
    }
    // 0.9 MB: read, counted, and never built.
    let begun = Instant::now();
    let (status, message) = said(server.post_bytes(chat, many(300_000, "{},").as_bytes(), ""));
    assert_eq!(status, 400);
    assert!(message.contains("300001 values, at most 200000"), "{message}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    // As many as are taken: more tokens than the context holds.
    let messages = vec![json!({ "role": "user", "content": "hi" }); 10_000];
    let (status, answer) = server.post(chat, &json!({ "messages": messages }));
    let message = answer["error"]["message"].as_str().unwrap();
    assert_eq!(status, 400);
    assert!(message.contains("90000") && message.contains("512"), "{message}");
    server.assert_well();
}

#[test]
fn dimensions_that_a_model_has_not_are_refused() {
    let server = Server::start(&[]);
    let embed = |dimensions: u32| {
        server.post("/v1/embeddings", &json!({ "input": "hello", "dimensions": dimensions }))
    };
    let (status, answer) = embed(32);
    assert_eq!((status, answer["data"][0]["embedding"].as_array().unwrap().len()), (200, 32));
    for wrong in [1, 16, 33] {
        let (status, answer) = embed(wrong);
        let error = &answer["error"];
        assert_eq!((status, &error["param"]), (400, &json!("dimensions")), "{answer}");
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(&wrong.to_string()) && message.contains("32"), "{message}");
    }
}

#[test]
fn special_tokens_in_text_stay_text() {
    let server = Server::start(&[]);
    let (_, answer) = server.post("/tokenize", &json!({ "content": "a<|end|>" }));
    let ids: Vec<u64> =
        answer["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    assert!(!ids.contains(&u64::from(tiny::END)), "{ids:?}");
    let count = |text: &str| {
        let body = json!({ "messages": [{ "role": "user", "content": text }] });
        server.post("/apply-template", &body).1["tokens"].as_u64().unwrap()
    };
    assert_eq!(count("<|end|>") - count(""), 7, "seven letters, no control token");
}

#[test]
fn a_megabyte_of_one_word_takes_no_time_that_grows_with_its_square() {
    let server = Server::start(&["--memory", "2GB"]);
    let once = |length: usize| {
        let begun = Instant::now();
        let body = json!({ "content": "a".repeat(length) });
        let (status, _) = server.post("/tokenize", &body);
        assert_eq!(status, 200);
        begun.elapsed().as_secs_f64()
    };
    // The best of three: a busy machine makes one of them long.
    let seconds = |length| (0..3).map(|_| once(length)).fold(f64::INFINITY, f64::min);
    seconds(1000);
    let (small, large) = (seconds(1 << 17).max(0.01), seconds(1 << 20));
    assert!(large < small * 8.0 * 4.0 && large < 20.0, "{small} s, {large} s");
}

#[test]
fn keys_are_checked_and_senseless_ones_keep_it_from_starting() {
    let folder = Folder::new();
    let model = tiny::write(&folder, None);
    for key in ["", "\n", "two\nlines\n"] {
        std::fs::write(folder.join("key"), key).unwrap();
        let mut command = lowtide(folder.path());
        command.arg("serve").arg(&model).args(["--port", "0", "--api-key-file"]);
        assert_error(&run(command.arg(folder.join("key"))), 2);
    }
    let mut open = lowtide(folder.path());
    assert_error(&run(open.arg("serve").arg(&model).args(["--host", "0.0.0.0", "--port", "0"])), 2);

    std::fs::write(folder.join("key"), "s3cret\n").unwrap();
    let path = folder.join("key");
    let server = Server::start(&["--api-key-file", path.to_str().unwrap()]);
    assert_eq!(
        (server.get("/v1/models").0, server.get("/health").0, server.get("/").0),
        (401, 200, 200)
    );
    let with = |header: &str| {
        let request = format!(
            "GET /v1/models HTTP/1.1\r\nHost: localhost\r\n{header}\r\nConnection: close\r\n\r\n"
        );
        server.raw(request.as_bytes()).0
    };
    assert_eq!(with("Authorization: Bearer s3cret"), 200);
    assert_eq!(with("x-api-key: s3cret"), 200);
    assert_eq!(with("Authorization: Bearer s3crets"), 401);
}

#[test]
fn the_page_and_the_tide_are_served() {
    let server = Server::start(&[]);
    let request = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    assert!(page.contains("content-security-policy: default-src 'none'"), "{page:.500}");
    let props: Value = serde_json::from_str(&server.get("/props").1).unwrap();
    assert_eq!(props["layers"], 1);
    let layout: Value = serde_json::from_str(&server.get("/tide/layout").1).unwrap();
    let rows = layout["rows"].as_array().unwrap();
    assert!(rows.iter().any(|row| row["name"] == "blk.0.ffn_down.weight" && row["layer"] == 0));
    server.assert_well();
    let mut tide = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    tide.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    tide.write_all(b"GET /tide HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let event = BufReader::new(tide)
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("data: ").map(str::to_owned))
        .expect("an event");
    let event: Value = serde_json::from_str(&event).unwrap();
    assert!(
        event["rss_bytes"].as_u64().unwrap() > 0
            && event["resident"].as_str().is_some_and(|b| b != "AA==")
    );
}
