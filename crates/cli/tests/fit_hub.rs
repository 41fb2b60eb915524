//! `fit` of a model that is on a hub and stays there.

mod common;

use common::server::{Route, Server};
use common::{Folder, Ran, assert_error, lowtide, run};
use lowtide_bench::synth::{self, Plan, Spec};
use serde_json::{Value, json};

const CDN: &str = "/cdn/weights";

/// 18.6 GB of which only the header exists.
fn experts() -> Plan {
    synth::plan(&Spec::named("qwen3-30b-a3b", "q4_k_m").unwrap()).unwrap()
}

fn served(plan: &Plan) -> Route {
    let header = plan.layout.header.clone();
    Route { zeros: plan.layout.file_bytes - header.len() as u64, ..Route::file(header) }
}

fn list(files: &[(&str, &Plan)]) -> Route {
    let sibling = |(name, plan): &(&str, &Plan)| {
        let size = plan.layout.file_bytes;
        json!({ "rfilename": name, "size": size, "lfs": { "sha256": "00", "size": size } })
    };
    let siblings: Vec<Value> = files.iter().map(sibling).collect();
    Route::file(json!({ "sha": "0123abcd", "siblings": siblings }).to_string())
}

/// A hub whose one file lies behind a redirection, as large files do.
fn hub(plan: &Plan, file: Route) -> Server {
    let server = Server::start();
    server.route("/api/models/org/repo?blobs=true", list(&[("m-Q4_K_M.gguf", plan)]));
    let redirect = Some(server.url(CDN));
    let path = "/org/repo/resolve/0123abcd/m-Q4_K_M.gguf";
    server.route(path, Route { redirect, ..Route::default() });
    server.route(CDN, file);
    server
}

fn fit(folder: &Folder, server: &Server, arguments: &[&str]) -> Ran {
    let mut command = lowtide(folder.path());
    run(command.arg("fit").args(arguments).env("HF_ENDPOINT", server.url("")))
}

fn document(ran: &Ran) -> Value {
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn eighteen_gigabytes_are_judged_by_their_header() {
    let (folder, plan) = (Folder::new(), experts());
    let server = hub(&plan, served(&plan));
    let arguments = ["hf:org/repo:Q4_K_M", "--json", "--memory", "6.8GB", "--ctx", "512"];
    let fit_json = document(&fit(&folder, &server, &arguments));
    assert_eq!(fit_json["file_bytes"], plan.layout.file_bytes);
    assert_eq!(fit_json["model"], "hf:org/repo:Q4_K_M");
    let floor = fit_json["floor_bytes"].as_u64().unwrap();
    assert!((80_000_000..3_000_000_000).contains(&floor), "{floor}");
    assert!(fit_json["read_bytes_per_token"].as_u64().unwrap() > 100_000_000);
    // Only the header was asked for, each byte of it once, and no byte went out beyond that.
    let header = plan.layout.header.len() as u64;
    let asked: Vec<_> = server.log().into_iter().filter(|r| r.path == CDN).collect();
    let mut at = 0;
    for request in &asked {
        assert_eq!(request.from, Some(at), "{asked:?}");
        at = request.to.unwrap() + 1;
    }
    assert!((header..2 * header + (1 << 20)).contains(&at), "{at} for a header of {header}");
    assert_eq!(fit_json["fetched_bytes"], at);
    assert!(server.sent() < at + 1000, "{} sent", server.sent());
    assert!(at < plan.layout.file_bytes / 1000);
    assert_eq!(folder.files(), [""; 0], "nothing stays behind");
    // As text it says so.
    let ran = fit(&folder, &server, &["hf:org/repo", "--memory", "6.8GB"]);
    assert!(ran.stdout.contains("header fetched"), "{}", ran.stdout);
}

#[test]
fn it_says_the_same_as_of_the_file_itself() {
    let (folder, plan) = (Folder::new(), experts());
    let server = hub(&plan, served(&plan));
    let local = folder.join("local.gguf");
    std::fs::write(&local, &plan.layout.header).unwrap();
    std::fs::File::options()
        .write(true)
        .open(&local)
        .and_then(|file| file.set_len(plan.layout.file_bytes))
        .unwrap();
    let common = ["--json", "--memory", "6.8GB", "--ctx", "512"];
    let of = |model: &str| document(&fit(&folder, &server, &[&[model][..], &common].concat()));
    let (here, there) = (of(local.to_str().unwrap()), of("hf:org/repo"));
    for key in ["fits", "file_bytes", "context", "context_max"] {
        assert_eq!(here[key], there[key], "{key}");
    }
    // What the process holds beside the model differs: by pages, and by the HTTP client (measured: 2.5 MB).
    for key in ["floor_bytes", "resident_bytes", "read_bytes_per_token"] {
        let [a, b] = [&here, &there].map(|document| document[key].as_f64().unwrap());
        assert!((a - b).abs() < 5e6, "{key}: {a} {b}");
    }
}

#[test]
fn every_file_of_a_split_set_gives_its_header() {
    let folder = Folder::new();
    let spec = Spec::named("llama-30b", "q4_0").unwrap();
    let (plans, whole) = (synth::plan_shards(&spec, 3).unwrap(), synth::plan(&spec).unwrap());
    let server = Server::start();
    let names: Vec<String> = (1..=3).map(|n| format!("q/m-Q4_0-0000{n}-of-00003.gguf")).collect();
    let files: Vec<_> = names.iter().map(String::as_str).zip(&plans).collect();
    server.route("/api/models/org/split?blobs=true", list(&files));
    for (name, plan) in &files {
        server.route(&format!("/org/split/resolve/0123abcd/{name}"), served(plan));
    }
    for name in ["hf:org/split", "hf:org/split:q/m-Q4_0-00001-of-00003.gguf"] {
        let fit_json = document(&fit(&folder, &server, &[name, "--json", "--memory", "6.8GB"]));
        let bytes: u64 = plans.iter().map(|plan| plan.layout.file_bytes).sum();
        assert_eq!(fit_json["file_bytes"], bytes);
        assert!(bytes >= whole.layout.file_bytes);
    }
    assert!(server.sent() < 20 << 20, "{} sent of {}", server.sent(), whole.layout.file_bytes);
}

#[test]
fn servers_that_know_no_ranges_or_break_off_are_put_up_with() {
    let (folder, plan) = (Folder::new(), experts());
    let header = plan.layout.header.len() as u64;
    let arguments = ["hf:org/repo", "--json", "--memory", "6.8GB", "--ctx", "512"];
    let whole = Route { no_ranges: true, ..served(&plan) };
    let server = hub(&plan, whole);
    assert_eq!(document(&fit(&folder, &server, &arguments))["fits"], true);
    // What was on its way when enough had come lies in sockets: some megabytes.
    assert!(server.sent() < 4 * header + (64 << 20), "{} sent", server.sent());
    let broken = Route { cut_first: Some(1000), ..served(&plan) };
    let server = hub(&plan, broken);
    assert_eq!(document(&fit(&folder, &server, &arguments))["fits"], true);
    let asked: Vec<_> = server.log().into_iter().filter(|r| r.path == CDN).collect();
    assert_eq!(asked[1].from, Some(1000), "it goes on where it broke off");
}

#[test]
fn what_cannot_be_had_is_an_error_of_three_lines() {
    let (folder, plan) = (Folder::new(), experts());
    let not_gguf = Route { zeros: plan.layout.file_bytes - 4, ..Route::file("text") };
    let shorter = Route { zeros: 1000, ..Route::file(plan.layout.header.clone()) };
    let gone = Route { status: Some(404), ..Route::default() };
    let down = Route { status: Some(503), ..Route::default() };
    for (file, status, wanted) in
        [(not_gguf, 2, "magic"), (shorter, 1, "were expected"), (gone, 1, "404"), (down, 1, "503")]
    {
        let ran = fit(&folder, &hub(&plan, file), &["hf:org/repo"]);
        assert_error(&ran, status);
        assert!(ran.stderr.contains(wanted), "{}", ran.stderr);
    }
    let server = hub(&plan, served(&plan));
    for (name, status, wanted) in [
        ("hf:org/none", 1, "HF_TOKEN=... lowtide fit hf:org/none"),
        ("hf:org/repo:Q2_K", 2, "m-Q4_K_M.gguf"),
        ("hf:org", 2, "ORGANISATION/REPOSITORY"),
    ] {
        let ran = fit(&folder, &server, &[name]);
        assert_error(&ran, status);
        assert!(ran.stderr.contains(wanted), "{}", ran.stderr);
    }
    assert_eq!(folder.files(), [""; 0], "nothing stays behind");
}

/// The token is the hub's business: the server that it sends us to for the bytes does not get it.
#[test]
fn the_token_goes_to_the_hub_and_no_further() {
    let (folder, plan) = (Folder::new(), experts());
    let (server, elsewhere) = (Server::start(), Server::start());
    let needs_header = Some("Authorization: Bearer secret".to_owned());
    let gated = |route: Route| Route { needs_header: needs_header.clone(), ..route };
    server.route("/api/models/org/gated?blobs=true", gated(list(&[("m.gguf", &plan)])));
    // By another name of this machine: another host.
    let redirect = Some(elsewhere.url(CDN).replace("127.0.0.1", "localhost"));
    let path = "/org/gated/resolve/0123abcd/m.gguf";
    server.route(path, gated(Route { redirect, ..Route::default() }));
    elsewhere.route(CDN, served(&plan));
    let with = |token: &str| {
        let mut command = lowtide(folder.path());
        command.args(["fit", "hf:org/gated", "--json", "--memory", "6.8GB"]);
        command.env("NO_PROXY", "127.0.0.1,localhost");
        run(command.env("HF_ENDPOINT", server.url("")).env("HF_TOKEN", token))
    };
    let refused = with("wrong");
    assert_error(&refused, 1);
    assert!(refused.stderr.contains("401"), "{}", refused.stderr);
    assert_eq!(document(&with("secret"))["fits"], true);
    assert!(server.log().iter().all(|request| request.has_token));
    assert!(!elsewhere.log().is_empty());
    assert!(elsewhere.log().iter().all(|request| !request.has_token));
}
