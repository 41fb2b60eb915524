//! What `lowtide serve` answers to OpenAI's clients, chunk by chunk and field by field.

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use common::serving::Server;
use serde_json::{Value, json};

/// The chunks of a stream, without the mark at its end.
fn stream(server: &Server, path: &str, more: &Value) -> Vec<Value> {
    let mut body = json!({
        "stream": true, "max_tokens": 4, "ignore_eos": true, "prompt": "hello",
        "messages": [{ "role": "user", "content": "hello" }],
    });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let unused = if path.ends_with("/chat/completions") { "prompt" } else { "messages" };
    body.as_object_mut().unwrap().remove(unused);
    let (status, text) = server.post_bytes(path, body.to_string().as_bytes(), "");
    assert_eq!(status, 200, "{text}");
    let mut events: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("data: ")).collect();
    assert_eq!(events.pop(), Some("[DONE]"), "{text}");
    events.iter().map(|event| serde_json::from_str(event).unwrap()).collect()
}

/// All that is answered to these bytes until the server ends the connection.
fn heads(server: &Server, bytes: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.write_all(bytes.as_bytes()).unwrap();
    let mut answer = String::new();
    // What was sent behind the last answer may reset the connection.
    let _ = stream.read_to_string(&mut answer);
    answer
}

#[test]
fn a_request_without_one_host_ends_its_connection() {
    let server = Server::start(&[]);
    for hosts in ["", "Host: localhost\r\nHost: localhost\r\n"] {
        let bad = format!("GET /health HTTP/1.1\r\n{hosts}\r\n");
        let next = "GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let said = heads(&server, &format!("{bad}{next}"));
        assert!(said.starts_with("HTTP/1.1 400 "), "{said}");
        assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "the connection stayed open: {said}");
    }
}

#[test]
fn methods_that_a_path_has_not_are_told_those_it_has() {
    let server = Server::start(&[]);
    for (request, status, allowed) in [
        ("GET /v1/completions", 405, "POST, OPTIONS"),
        ("POST /health", 405, "GET, HEAD, OPTIONS"),
        ("POST /none", 404, ""),
        ("PUT /health", 405, "GET, HEAD, OPTIONS"),
        ("DELETE /tokenize", 405, "POST, OPTIONS"),
        ("OPTIONS /tokenize", 204, "POST, OPTIONS"),
        ("OPTIONS /health", 204, "GET, HEAD, OPTIONS"),
    ] {
        let head = "HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let said = heads(&server, &format!("{request} {head}"));
        assert!(said.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {said}");
        let line = said.lines().find_map(|line| line.strip_prefix("allow: "));
        assert_eq!(line.unwrap_or_default(), allowed, "{request}: {said}");
    }
}

#[test]
fn a_client_that_is_too_slow_is_told_so() {
    let server = Server::start(&[]);
    let body = json!({
        "messages": [{ "role": "user", "content": "hello" }], "stream": true, "n": 16,
        "max_tokens": 400, "ignore_eos": true, "logprobs": true, "top_logprobs": 20,
    });
    let body = body.to_string();
    let mut stream = TcpStream::connect(("127.0.0.1", server.port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                Content-Type: application/json";
    write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    let begun = Instant::now();
    // It takes the beginning, and the rest when it was given up.
    stream.read_exact(&mut [0; 1000]).unwrap();
    while server.metric("lowtide_requests_running") != 0.0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "it is never given up");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut said = String::new();
    stream.read_to_string(&mut said).unwrap();
    let error = said.lines().find(|line| line.contains("\"error\"")).expect("an error");
    assert!(error.contains("more slowly than it is made"), "{error}");
}

#[test]
fn a_grammar_that_allows_nothing_is_told_so() {
    let server = Server::start(&[]);
    let body = json!({ "prompt": "hello", "regex": "[^\\s\\S]" });
    let (status, answer) = server.post("/v1/completions", &body);
    let message = answer["error"]["message"].as_str().unwrap();
    assert_eq!(status, 400);
    assert!(message.contains("allows no token") && !message.contains("verbose"), "{message}");
}

#[test]
fn a_ban_of_all_that_a_shape_allows_is_told_as_that() {
    let server = Server::start(&[]);
    let ask = |more: Value| {
        let mut body = json!({ "prompt": "hello", "logit_bias": { "97": -100, "100": 1 } });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, answer) = server.post("/v1/completions", &body);
        assert_eq!((status, &answer["error"]["param"]), (400, &json!("logit_bias")), "{answer}");
        answer["error"]["message"].as_str().unwrap().to_owned()
    };
    // Token 97 is "a".
    let message = ask(json!({ "regex": "a" }));
    assert!(message.contains("the shape of the answer allows"), "{message}");
    let all: serde_json::Map<String, Value> =
        (0..261).map(|id| (id.to_string(), json!(-100))).collect();
    let message = ask(json!({ "logit_bias": all }));
    assert_eq!(message, "logit_bias: bans every token");
}

#[test]
fn answers_keep_to_the_words_of_vllms_fields() {
    let server = Server::start(&[]);
    for more in [
        json!({ "guided_choice": ["x\"(é", "x\\b"] }),
        json!({ "structured_outputs": { "choice": ["x\"(é", "x\\b"] } }),
    ] {
        let mut body = json!({ "prompt": "hello", "max_tokens": 20 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, answer) = server.post("/v1/completions", &body);
        assert_eq!(status, 200, "{answer}");
        let text = answer["choices"][0]["text"].as_str().unwrap();
        assert!(["x\"(é", "x\\b"].contains(&text), "{text}");
    }
}

#[test]
fn anthropics_output_config_is_kept_to() {
    let server = Server::start(&[]);
    let schema = json!({ "enum": ["x", "y"] });
    let format = json!({ "type": "json_schema", "schema": schema });
    let ask = |name: &str, value: Value| {
        let messages = json!([{ "role": "user", "content": "hello" }]);
        server.post("/v1/messages", &json!({ "max_tokens": 20, "messages": messages, name: value }))
    };
    for (name, value) in
        [("output_config", json!({ "format": format })), ("output_format", format.clone())]
    {
        let (status, answer) = ask(name, value);
        assert_eq!(status, 200, "{answer}");
        let text = answer["content"][0]["text"].as_str().unwrap();
        assert!(matches!(text, "\"x\"" | "\"y\""), "{name}: {text}");
    }
    assert_eq!(ask("output_config", json!({ "effort": "low", "format": null })).0, 200);
    assert_eq!(ask("output_config", json!({ "format": { "type": "json_schema" } })).0, 400);
    assert_eq!(ask("mcp_servers", json!([{ "type": "url", "url": "http://localhost" }])).0, 400);
    assert_eq!(ask("mcp_servers", json!([])).0, 200);
}

#[test]
fn calls_stand_in_a_whole_answer() {
    let server = Server::start(&[]);
    let properties = json!({ "a": { "enum": ["x"] } });
    let parameters = json!({
        "type": "object", "properties": properties, "required": ["a"], "additionalProperties": false,
    });
    let body = json!({
        "messages": [{ "role": "user", "content": "hello" }], "n": 2, "tool_choice": "required",
        "tools": [{ "type": "function", "function": { "name": "f", "parameters": parameters } }],
        "max_tokens": 200, "logprobs": true,
    });
    let (status, answer) = server.post("/v1/chat/completions", &body);
    assert_eq!(status, 200, "{answer}");
    for choice in answer["choices"].as_array().unwrap() {
        // A model that knows nothing may fill its tokens with the call's white space.
        let reason = choice["finish_reason"].as_str().unwrap();
        assert!(["tool_calls", "length"].contains(&reason), "{answer}");
        let message = &choice["message"];
        let call = &message["tool_calls"][0];
        assert_eq!((&message["content"], &call["function"]["name"]), (&Value::Null, &json!("f")));
        assert!(call["id"].as_str().unwrap().starts_with("call_"), "{answer}");
        assert!(!choice["logprobs"]["content"].as_array().unwrap().is_empty(), "{answer}");
    }
}

#[test]
fn a_prompt_that_is_repeated_has_no_log_probabilities() {
    let server = Server::start(&[]);
    let ask = |more: Value| {
        let mut body = json!({ "prompt": "hello", "max_tokens": 4, "ignore_eos": true, "n": 2 });
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        server.post("/v1/completions", &body)
    };
    for more in [json!({ "logprobs": 0 }), json!({ "logprobs": 2, "stream": true })] {
        let mut both = more.clone();
        both["echo"] = json!(true);
        let (status, answer) = ask(both);
        assert_eq!((status, &answer["error"]["param"]), (400, &json!("echo")), "{answer}");
    }
    let (_, answer) = ask(json!({ "echo": true }));
    let texts = answer["choices"].as_array().unwrap().iter();
    assert!(texts.clone().all(|c| c["text"].as_str().unwrap().starts_with("hello")), "{answer}");
    assert!(texts.clone().all(|choice| choice["logprobs"].is_null()), "{answer}");
}

#[test]
fn chunks_without_choices_come_only_with_a_usage_that_was_asked_for() {
    let server = Server::start(&[]);
    for path in ["/v1/chat/completions", "/v1/completions"] {
        for more in [json!({}), json!({ "n": 3, "return_progress": true })] {
            let chunks = stream(&server, path, &more);
            for chunk in &chunks {
                assert_eq!(chunk["choices"].as_array().unwrap().len(), 1, "{path}: {chunk}");
                assert!(chunk.get("usage").is_none(), "{path}: {chunk}");
            }
            let last = chunks.last().unwrap();
            assert_eq!(last["choices"][0]["finish_reason"], "length", "{path}: {last}");
            assert!(last["timings"]["predicted_n"].as_u64().unwrap() >= 4, "{path}: {last}");
            let ends = chunks.iter().filter(|c| !c["choices"][0]["finish_reason"].is_null());
            assert_eq!(ends.count() as u64, more["n"].as_u64().unwrap_or(1), "{path}");
        }
        let mut chunks =
            stream(&server, path, &json!({ "stream_options": { "include_usage": true } }));
        let last = chunks.pop().unwrap();
        assert_eq!(
            (&last["choices"], &last["usage"]["completion_tokens"]),
            (&json!([]), &json!(4))
        );
        for chunk in &chunks {
            assert_eq!(chunk["choices"].as_array().unwrap().len(), 1, "{path}: {chunk}");
            assert_eq!(chunk.get("usage"), Some(&Value::Null), "{path}: {chunk}");
        }
        assert!(chunks.last().unwrap()["timings"].is_object(), "{path}");
    }
}
