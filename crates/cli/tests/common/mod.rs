//! What the integration tests share: running the binary, folders, a server, small models.
#![allow(dead_code, reason = "each test file is its own crate and uses a part of this")]

pub mod server;
pub mod serving;
pub mod tiny;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use lowtide_gguf::GgmlType;
use lowtide_gguf::write::HeaderWriter;

/// A folder that goes away with the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("lowtide-cli-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Every file below, relative, sorted.
    pub fn files(&self) -> Vec<String> {
        fn walk(dir: &Path, base: &Path, files: &mut Vec<String>) {
            for entry in std::fs::read_dir(dir).unwrap().flatten() {
                match entry.path() {
                    path if path.is_dir() => walk(&path, base, files),
                    path => {
                        let relative = path.strip_prefix(base).unwrap();
                        files.push(relative.to_string_lossy().into_owned());
                    }
                }
            }
        }
        let mut files = Vec::new();
        walk(&self.0, &self.0, &mut files);
        files.sort();
        files
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The binary, away from the user's models, standard input closed.
pub fn lowtide(models: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lowtide"));
    command
        .env("LOWTIDE_MODELS", models)
        .env_remove("HF_ENDPOINT")
        .env_remove("HF_TOKEN")
        .env("NO_PROXY", "127.0.0.1")
        .stdin(Stdio::null());
    command
}

pub struct Ran {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

pub fn ran(output: Output) -> Ran {
    Ran {
        status: output.status.code().expect("an exit status, not a signal"),
        stdout: String::from_utf8(output.stdout).expect("UTF-8 on standard output"),
        stderr: String::from_utf8(output.stderr).expect("UTF-8 on standard error"),
    }
}

pub fn run(command: &mut Command) -> Ran {
    ran(command.output().expect("the binary starts"))
}

/// Asserts an error as all errors are: this status, nothing on standard output, one to three
/// lines, no escape sequences.
#[track_caller]
pub fn assert_error(ran: &Ran, status: i32) {
    assert_eq!(ran.status, status, "{}", ran.stderr);
    assert_eq!(ran.stdout, "");
    let errors: Vec<&str> = ran.stderr.lines().skip_while(|l| !l.starts_with("error: ")).collect();
    assert!((1..=3).contains(&errors.len()), "not one to three lines:\n{}", ran.stderr);
    assert!(errors[1..].iter().all(|line| line.starts_with("  ")), "{}", ran.stderr);
    assert!(!ran.stderr.contains('\x1b'), "colour in a pipe: {:?}", ran.stderr);
}

/// A small, valid GGUF file: a few keys, a few tensors of zeros.
pub fn small_model() -> Vec<u8> {
    let mut writer = HeaderWriter::new();
    writer.str("general.architecture", "llama").str("general.name", "small\u{1b}[31m\nthing");
    let tokens: Vec<String> = (0..100).map(|i| format!("token{i}")).collect();
    writer.strings("tokenizer.ggml.tokens", &tokens);
    writer.f32("llama.rope.freq_base", 10_000.0);
    writer.tensor("token_embd.weight", &[32, 100], GgmlType::Q4_0);
    writer.tensor("output_norm.weight", &[32], GgmlType::F32);
    let layout = writer.finish().unwrap();
    let mut file = layout.header;
    file.resize(layout.file_bytes as usize, 0);
    file
}
