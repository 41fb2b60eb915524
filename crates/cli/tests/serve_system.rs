//! `lowtide serve` and the system around it: TLS, a folder of models, sockets and messages of systemd,
//! the kernel's walls.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::serving::{Server, TEMPLATE};
use common::{Folder, assert_error, lowtide, run, tiny};
use lowtide_bench::synth::{self, Mix, Shape, Spec};
use serde_json::{Value, json};

fn ask(server: &Server, model: &str) -> (u16, Value) {
    let messages = json!([{ "role": "user", "content": "hello" }]);
    let body = json!({ "model": model, "messages": messages, "max_tokens": 3, "ignore_eos": true });
    server.post("/v1/chat/completions", &body)
}

/// A copy of the small model under another name.
fn named(folder: &Folder, name: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::rename(tiny::write(folder, Some(TEMPLATE)), &path).unwrap();
    path
}

fn folder_server(folder: Folder, args: &[&str]) -> Server {
    let store = Folder::new();
    let mut command = lowtide(store.path());
    command.arg("serve").args(["--port", "0", "--threads", "1", "--models"]).arg(folder.path());
    command.args(args);
    Server::run(command, folder)
}

#[test]
fn tls_is_spoken_with_a_certificate_that_lies_elsewhere() {
    let (folder, secrets) = (Folder::new(), Folder::new());
    let model = tiny::write(&folder, Some(TEMPLATE));
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let (chain, key) = (secrets.join("chain.pem"), secrets.join("key.pem"));
    std::fs::write(&chain, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let with = |chain: &Path, key: &Path| {
        let mut command = lowtide(folder.path());
        command.arg("serve").arg(&model).args(["--port", "0", "--memory", "400MB"]);
        command.arg("--tls-cert").arg(chain).arg("--tls-key").arg(key);
        command
    };
    // The key is no certificate, and the other way round.
    assert_error(&run(&mut with(&key, &key)), 2);
    assert_error(&run(&mut with(&chain, &chain)), 2);
    assert_error(&run(&mut with(&secrets.join("none"), &key)), 2);

    let mut child =
        with(&chain, &key).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = lines.nth(1).unwrap().unwrap();
    let url = line.split_whitespace().next().unwrap().to_owned();
    assert!(url.starts_with("https://127.0.0.1:"), "{line}");
    let root = ureq::tls::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let tls = ureq::tls::TlsConfig::builder()
        .root_certs(ureq::tls::RootCerts::new_with_certs(&[root]))
        .build();
    let config = ureq::Agent::config_builder().tls_config(tls).proxy(None).build();
    let client = ureq::Agent::new_with_config(config);
    let body = json!({ "prompt": "hello", "max_tokens": 3, "ignore_eos": true }).to_string();
    let sent = client.post(format!("{url}/v1/completions"));
    let mut answer = sent.header("content-type", "application/json").send(&body).unwrap();
    let answer: Value = serde_json::from_str(&answer.body_mut().read_to_string().unwrap()).unwrap();
    assert_eq!(answer["usage"]["completion_tokens"], 3, "{answer}");
    // Whoever does not know the certificate gets nothing, nor does plain HTTP.
    let stranger = ureq::Agent::new_with_config(ureq::Agent::config_builder().proxy(None).build());
    assert!(stranger.get(format!("{url}/health")).call().is_err());
    let port = url.rsplit(':').next().unwrap().parse::<u16>().unwrap();
    let mut plain = TcpStream::connect(("127.0.0.1", port)).unwrap();
    plain.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut said = Vec::new();
    let _ = plain.read_to_end(&mut said);
    assert!(!said.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&said));
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn models_of_a_folder_are_loaded_when_they_are_asked_for() {
    let folder = Folder::new();
    named(&folder, "a.gguf");
    named(&folder, "b.gguf");
    std::fs::write(folder.join("broken.gguf"), b"GGUF").unwrap();
    std::fs::write(folder.join("notes.txt"), b"no model").unwrap();
    let server = folder_server(folder, &["--memory", "400MB"]);
    let list: Value = serde_json::from_str(&server.get("/v1/models").1).unwrap();
    let names: Vec<&str> =
        list["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b", "broken"]);
    assert_eq!(server.metric("lowtide_models_loaded_total"), 0.0);
    for (model, loads) in [("b", 1.0), ("a", 2.0), ("a.gguf", 2.0), ("b", 3.0)] {
        let (status, answer) = ask(&server, model);
        assert_eq!((status, &answer["usage"]["completion_tokens"]), (200, &json!(3)), "{answer}");
        assert_eq!(answer["model"], model.trim_end_matches(".gguf"));
        assert_eq!(server.metric("lowtide_models_loaded_total"), loads);
    }
    for name in
        ["c", "../a", "/etc/passwd", "./a", "a/../b", "%2e%2e/a", "notes", "notes.txt", "a\u{0}"]
    {
        let (status, answer) = ask(&server, name);
        assert_eq!((status, &answer["error"]["code"]), (404, &json!("model_not_found")), "{name}");
    }
    let (status, answer) = ask(&server, "broken");
    assert_eq!(status, 503, "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("broken"), "{answer}");
    // What could not be loaded has not cost the others anything.
    assert_eq!(ask(&server, "a").0, 200);
}

#[test]
fn two_models_that_do_not_fit_together_take_turns_in_one_budget() {
    const BUDGET: u64 = 210_000_000;
    let folder = Folder::new();
    for (name, seed) in [("one", 1), ("two", 2)] {
        let shape = Shape { layers: 30, ..Shape::named("llama-tiny").unwrap() };
        let spec = Spec { seed, ..Spec::new(shape, Mix::named("f32").unwrap()) };
        synth::write_file(&spec, &folder.join(&format!("{name}.gguf")), &mut |_| ()).unwrap();
    }
    let server = folder_server(folder, &["--memory", &BUDGET.to_string()]);
    for round in 0..3 {
        for name in ["one", "two"] {
            let (status, answer) = ask(&server, name);
            assert_eq!(status, 200, "{answer}");
            let props: Value = serde_json::from_str(&server.get("/props").1).unwrap();
            let budget = &props["budget"];
            let part = |name: &str| budget[name].as_u64().unwrap();
            let fixed: u64 = ["kv_bytes", "scratch_bytes", "vocab_bytes", "reserve_bytes"]
                .iter()
                .map(|name| part(name))
                .sum();
            let file = props["file_bytes"].as_u64().unwrap();
            assert!(fixed + 2 * file > BUDGET, "{fixed} + 2 * {file}: they fit together");
            assert!(part("pinned_bytes") > file / 2, "{round} {name}: {budget}");
            let sum = fixed + part("pinned_bytes") + part("ring_bytes");
            assert!(sum <= BUDGET, "{round} {name}: {sum}");
        }
    }
    // Asked for at the same time, each in its turn.
    std::thread::scope(|scope| {
        for number in 0..8 {
            let server = &server;
            scope.spawn(move || {
                let (status, answer) = ask(server, ["one", "two"][number % 2]);
                assert_eq!(status, 200, "{answer}");
            });
        }
    });
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: u64 = peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024;
    assert!(peak <= BUDGET, "{peak} bytes were resident, the budget is {BUDGET}");
}

#[test]
fn a_model_below_its_floor_is_refused_with_the_arithmetic_and_the_server_lives() {
    let folder = Folder::new();
    named(&folder, "a.gguf");
    let server = folder_server(folder, &["--memory", "30MB"]);
    let (status, answer) = ask(&server, "a");
    let message = answer["error"]["message"].as_str().unwrap();
    assert_eq!(status, 503, "{answer}");
    assert!(message.contains("floor") && message.contains("--memory"), "{message}");
    assert_eq!(server.get("/health").0, 200);
}

/// Starts a server as systemd does: a socket as descriptor 3, and where to send messages.
fn by_systemd(folder: &Folder, listener: TcpListener, notify: &Path, more: &str) -> Command {
    let binary = env!("CARGO_BIN_EXE_lowtide");
    let model = folder.join("tiny.gguf");
    let script = format!(
        "exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec {binary} serve {} --memory 400MB {more}",
        model.display()
    );
    let mut command = Command::new("sh");
    command.arg("-c").arg(script).env("NOTIFY_SOCKET", notify).env("LOWTIDE_MODELS", folder.path());
    command.stdin(std::os::fd::OwnedFd::from(listener)).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

#[test]
fn systemds_socket_is_served_and_systemd_is_told() {
    let folder = Folder::new();
    tiny::write(&folder, Some(TEMPLATE));
    let messages = UnixDatagram::bind(folder.join("notify")).unwrap();
    messages.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // A client that came before there was a server: it waits in the socket.
    let mut early = TcpStream::connect(address).unwrap();
    early
        .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut child = by_systemd(&folder, listener, &folder.join("notify"), "").spawn().unwrap();
    let told = || {
        let mut text = [0; 256];
        let length = messages.recv(&mut text).expect("a message for systemd");
        String::from_utf8_lossy(&text[..length]).into_owned()
    };
    assert!(told().contains("READY=1"));
    let mut answer = String::new();
    early.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
    let stopped = Command::new("kill").arg(child.id().to_string()).status().unwrap();
    assert!(stopped.success());
    assert!(told().contains("STOPPING=1"));
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_socket_that_is_open_to_others_wants_a_key_too() {
    let folder = Folder::new();
    tiny::write(&folder, Some(TEMPLATE));
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    let mut child = by_systemd(&folder, listener, &folder.join("none"), "").spawn().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(2));
}

/// Whether this kernel can keep a process to some folders.
fn has_landlock() -> bool {
    let list = std::fs::read_to_string("/sys/kernel/security/lsm").unwrap_or_default();
    list.contains("landlock")
}

#[test]
fn behind_the_walls_nothing_but_the_models_folders_is_read() {
    let (folder, elsewhere) = (Folder::new(), Folder::new());
    named(&folder, "a.gguf");
    let outside = named(&elsewhere, "outside.gguf");
    std::fs::copy(folder.join("a.gguf"), folder.join("b.gguf")).unwrap();
    let inside = folder.join("b.gguf");
    let server = folder_server(folder, &["--memory", "400MB"]);
    assert_eq!(ask(&server, "a").0, 200);
    // Somebody who can write to the folder makes a model's name lead out of it.
    std::fs::remove_file(&inside).unwrap();
    std::os::unix::fs::symlink(&outside, &inside).unwrap();
    let (status, answer) = ask(&server, "b");
    let walls = std::fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    assert!(walls.contains("NoNewPrivs:\t1"), "{walls}");
    match status {
        503 => {
            let message = answer["error"]["message"].as_str().unwrap();
            assert!(!message.contains('/'), "clients are not told where models lie: {message}");
            assert!(message.contains("no permission to read it"), "{message}");
        }
        200 => assert!(!has_landlock(), "the kernel has Landlock, and it was not used"),
        other => panic!("{other}: {answer}"),
    }
    assert_eq!(ask(&server, "a").0, 200);
}

/// What the server takes grows with the budget, so the smallest budget is not the sum of what it takes with the one
/// that is refused.
#[test]
fn the_budget_that_a_refusal_names_is_enough() {
    let folder = Folder::new();
    let model = tiny::write(&folder, Some(TEMPLATE));
    let serve = |memory: &str| {
        let mut command = lowtide(folder.path());
        command.arg("serve").arg(&model).args([
            "--port",
            "0",
            "--ctx",
            "3000000",
            "--parallel",
            "4",
        ]);
        command.args(["--threads", "1", "--memory", memory]);
        command
    };
    let refused = run(&mut serve("1MB"));
    assert_error(&refused, 2);
    let named = refused.stderr.split("--memory ").nth(1).and_then(|rest| rest.split(',').next());
    let named = named.unwrap();
    let megabytes: u64 = named.trim_end_matches("MB").parse().unwrap();
    assert!(megabytes > 600, "large enough for the server's part to grow: {named}");
    Server::run(serve(named), Folder::new()).assert_well();
}
