//! What happens to a run whose file fails, shrinks or changes under it: an error and exit status 1 within
//! a second, never a signal, never a wrong word.

#[path = "../common/mod.rs"]
mod common;
mod failing_fs;

use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use common::serving::Server;
use common::{Folder, Ran, assert_error, lowtide, ran};
use failing_fs::FailingFs;
use lowtide_bench::synth::{self, Mix, Shape, Spec};
use serde_json::json;

/// Well below the file's size, so that most of it is read again for every token.
const STREAMED: &str = "72MB";
const FILE_BYTES: u64 = 160_000_000;
/// The synthetic vocabulary's token of byte 0.
const BYTE_TOKENS: u32 = 3;
/// What a user is promised.
const ERROR_MAX: Duration = Duration::from_secs(1);

/// Three models of 160 MB at once would make these tests about memory.
static ALONE: Mutex<()> = Mutex::new(());

/// A dense model. Making one takes seconds, so there is one for all tests, of which each harms a copy.
fn model(folder: &Folder) -> PathBuf {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    let made = MADE.get_or_init(|| {
        let at = Path::new(env!("CARGO_TARGET_TMPDIR"));
        // A runner may give each test a process of its own.
        let (own, path) =
            (at.join(format!("faults-{}", std::process::id())), at.join("faults.gguf"));
        let mix = Mix::named("q4_0").unwrap();
        let spec = Spec::new(Shape::of_bytes(FILE_BYTES, &mix).unwrap(), mix);
        synth::write_file(&spec, &own, &mut |_| {}).unwrap();
        std::fs::rename(own, &path).unwrap();
        path
    });
    let path = folder.join("model.gguf");
    std::fs::copy(made, &path).unwrap();
    path
}

/// A mixture of about the same size. A token uses 60 MB of its experts, so that every token reads some.
fn mixture(folder: &Folder) -> PathBuf {
    let path = folder.join("model.gguf");
    let mut spec = Spec::named("qwen3moe-tiny", "f32").unwrap();
    spec.shape.layers = 20;
    synth::write_file(&spec, &path, &mut |_| {}).unwrap();
    path
}

/// A run that goes on for longer than any test, seen to have begun its answer.
fn begun(model: &Path, options: &[&str]) -> Child {
    let mut command = lowtide(model.parent().unwrap());
    command.arg("run").arg(model).args(["--ids", "1,2,3", "--ignore-eos"]);
    command.args(["--temp", "0", "--ctx", "400", "--threads", "1"]).args(options);
    // Letters only: most of such a model's tokens have no text, and its first letter was token 80.
    for letter in b'a'..=b'z' {
        command.arg("--logit-bias").arg(format!("{}=1000", u32::from(letter) + BYTE_TOKENS));
    }
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut first = [0; 1];
    if child.stdout.as_mut().unwrap().read_exact(&mut first).is_err() {
        let ran = ran(child.wait_with_output().unwrap());
        panic!("{options:?}: no answer began: {}", ran.stderr);
    }
    child
}

/// Waits for the end, and says how long that took.
fn ended(child: Child) -> (Ran, Duration) {
    let begin = Instant::now();
    let mut output = child.wait_with_output().unwrap();
    // The answer before the fault is not at issue, and may begin in the middle of a character.
    output.stdout.clear();
    (ran(output), begin.elapsed())
}

/// Does harm to a run under way and expects the error for it; says how long that took.
#[track_caller]
fn fails(model: &Path, options: &[&str], harm: impl FnOnce()) -> Duration {
    let child = begun(model, options);
    harm();
    let (ran, took) = ended(child);
    assert_error(&ran, 1);
    println!("{options:?}: the error took {took:?}");
    took
}

/// The error of a try comes in time in one of three: a busy machine may delay one, a run that waits
/// for something else delays all.
#[track_caller]
fn fails_in_time(mut attempt: impl FnMut() -> Duration) {
    let took: Vec<_> = (0..3).map(|_| attempt()).take_while(|&took| took >= ERROR_MAX).collect();
    assert!(took.len() < 3, "the errors took {took:?}");
}

#[test]
fn a_disk_that_fails_in_the_middle_is_an_error() {
    failing_disk_is_an_error(model);
}

#[test]
fn a_disk_that_fails_under_experts_is_an_error() {
    failing_disk_is_an_error(mixture);
}

fn failing_disk_is_an_error(model: impl Fn(&Folder) -> PathBuf) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = Folder::new();
    let file = model(&folder);
    for io in ["direct", "mapped"] {
        let at = folder.join("mounted");
        std::fs::create_dir_all(&at).unwrap();
        let options = ["--io", io, "--memory", STREAMED];
        fails_in_time(|| {
            let Some(fs) = FailingFs::mount(&file, &at) else { return Duration::ZERO };
            fails(&at.join(failing_fs::NAME), &options, || fs.fail())
        });
    }
}

/// A server whose disk was ill for a moment answers as before: no request pays for the failure of another.
#[test]
fn a_disk_that_is_well_again_fails_no_more() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for (model, io) in [model, mixture].into_iter().flat_map(|m| [(m, "direct"), (m, "mapped")]) {
        let folder = Folder::new();
        let file = model(&folder);
        let at = folder.join("mounted");
        std::fs::create_dir_all(&at).unwrap();
        let Some(fs) = FailingFs::mount(&file, &at) else { return };
        let mut command = lowtide(folder.path());
        command.arg("serve").arg(at.join(failing_fs::NAME)).args(["--port", "0", "--threads", "1"]);
        command.args(["--io", io, "--memory", "90MB", "--ctx", "400"]);
        let server = Server::run(command, Folder::new());
        let body = json!({ "prompt": [5, 6, 7, 8], "max_tokens": 3, "ignore_eos": true, "temperature": 0 });
        let ask = || server.post("/v1/completions", &body);
        let (status, before) = ask();
        assert_eq!(status, 200, "{io}: {before}");
        for _ in 0..3 {
            fs.fail();
            let (status, answer) = ask();
            assert!(status >= 500, "{io}: {status} {answer}");
            fs.heal();
            for _ in 0..3 {
                let (status, answer) = ask();
                assert_eq!(status, 200, "{io}: {answer}");
                assert_eq!(answer["choices"], before["choices"], "{io}");
            }
        }
        drop(server);
        drop(fs);
    }
}

/// How long a read may take, and how long until the error is told.
const READ_MAX: Duration = Duration::from_secs(30);
const TOLD_MAX: Duration = Duration::from_secs(15);

/// The error is told in time. The process then ends as soon as the kernel lets go of its reads.
#[test]
fn a_disk_that_stops_answering_is_an_error_in_time() {
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let folders = [Folder::new(), Folder::new()];
    let files = [model(&folders[0]), mixture(&folders[1])];
    let mut runs = Vec::new();
    for (folder, file) in folders.iter().zip(&files) {
        for io in ["direct", "mapped"] {
            let at = folder.join(io);
            std::fs::create_dir_all(&at).unwrap();
            let Some(fs) = FailingFs::mount(file, &at) else { return };
            let options = ["--io", io, "--memory", STREAMED];
            let mut child = begun(&at.join(failing_fs::NAME), &options);
            fs.hang();
            let begin = Instant::now();
            let lines = BufReader::new(child.stderr.take().unwrap()).lines();
            let (tell, told) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                let mut lines = lines.map_while(Result::ok);
                let error = lines.find(|line| line.starts_with("error: "));
                let _ = tell.send((error, begin.elapsed()));
                lines.for_each(drop);
            });
            runs.push((child, fs, told, options));
        }
    }
    // From now on they only wait: others may run beside them.
    drop(alone);
    for (mut child, fs, told, options) in runs {
        let told = told.recv_timeout(READ_MAX + TOLD_MAX);
        fs.fail();
        let status = child.wait().unwrap();
        println!("{options:?}: {told:?}, then {status}");
        let (error, took) = told.expect("an error in time");
        let error = error.unwrap_or_default();
        assert!(error.contains("has not returned for 30"), "{options:?}: {error}");
        assert!(took > READ_MAX - Duration::from_secs(1), "{options:?}: an error after {took:?}");
        assert_eq!(status.code(), Some(1), "{options:?}");
    }
}

/// Streamed either way, or all in memory.
const WAYS: [&[&str]; 3] = [
    &["--io", "direct", "--memory", STREAMED],
    &["--io", "mapped", "--memory", STREAMED],
    &["--memory", "auto"],
];

/// Does harm to the file of a run under way, in each way of residency, and expects the error for it.
fn harmed_file_fails(harm: impl Fn(&std::fs::File)) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for way in WAYS {
        fails_in_time(|| {
            let folder = Folder::new();
            let file = model(&folder);
            fails(&file, way, || {
                harm(&std::fs::OpenOptions::new().write(true).open(&file).unwrap());
            })
        });
    }
}

#[test]
fn a_file_cut_short_is_an_error() {
    harmed_file_fails(|file| file.set_len(1_000_000).unwrap());
}

#[test]
fn a_file_overwritten_in_place_is_an_error() {
    harmed_file_fails(|file| file.write_all_at(&[0x55; 8192], FILE_BYTES / 2).unwrap());
}

#[test]
fn a_file_replaced_by_rename_is_none_of_the_runs_business() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for way in WAYS {
        let folder = Folder::new();
        let file = model(&folder);
        let options = [way, &["--max-tokens", "40"]].concat();
        let undisturbed = begun(&file, &options).wait_with_output().unwrap();
        let other = folder.join("other.gguf");
        std::fs::write(&other, b"something else").unwrap();
        let child = begun(&file, &options);
        std::fs::rename(&other, &file).unwrap();
        let disturbed = child.wait_with_output().unwrap();
        let errors = String::from_utf8_lossy(&disturbed.stderr);
        assert_eq!(disturbed.status.code(), Some(0), "{errors}");
        assert_eq!(disturbed.stdout, undisturbed.stdout, "{way:?}");
    }
}
