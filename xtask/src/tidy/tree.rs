//! The files that git knows or would take.

use std::path::Path;

use anyhow::{Context, Result};

use super::{Finding, lexer};
use crate::command::{command, output};

/// Largest file that belongs into git; goldens are made to fit.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Endings of what is built or fetched, never kept.
const FOREIGN: [&str; 9] =
    [".gguf", ".safetensors", ".so", ".o", ".a", ".whl", ".dat", ".profraw", ".tar.gz"];

/// One file.
pub struct Source {
    /// Relative to the root, with `/`.
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
    /// The text; empty for a file that is not UTF-8.
    pub text: String,
    /// For a `.rs` file its code and its comments, else empty.
    pub split: lexer::Split,
}

/// All files to check.
pub struct Tree {
    files: Vec<Source>,
}

impl Tree {
    /// Asks git in `root` for tracked files and for untracked ones that are not ignored.
    ///
    /// # Errors
    /// If git cannot be run there, or a file cannot be read.
    pub fn load(root: &Path) -> Result<Self> {
        let args = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
        let list = output(command("git", &args).current_dir(root))?;
        let list = String::from_utf8(list).context("a file name is not UTF-8")?;
        let mut files = Vec::new();
        for path in list.split_terminator('\0') {
            let full = root.join(path);
            // A deleted file is still listed until the deletion is added; a link is its own text.
            let Ok(metadata) = full.symlink_metadata() else { continue };
            if !metadata.is_file() {
                continue;
            }
            let text = if metadata.len() > 4 * FILE_BYTES_MAX {
                String::new()
            } else {
                let bytes = std::fs::read(&full).with_context(|| path.to_owned())?;
                String::from_utf8(bytes).unwrap_or_default()
            };
            files.push(Source::new(path, metadata.len(), text));
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup_by(|a, b| a.path == b.path);
        Ok(Self { files })
    }

    /// A tree of given texts, for tests.
    #[cfg(test)]
    pub fn of(files: &[(&str, &str)]) -> Self {
        let source =
            |&(path, text): &(&str, &str)| Source::new(path, text.len() as u64, text.into());
        Self { files: files.iter().map(source).collect() }
    }

    /// How many files.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// All of them.
    pub fn files(&self) -> impl Iterator<Item = &Source> {
        self.files.iter()
    }

    /// Those whose path ends so.
    pub fn ending(&self, end: &str) -> impl Iterator<Item = &Source> {
        self.files.iter().filter(move |file| file.path.ends_with(end))
    }

    /// Is this a file, or a folder with a file in it?
    pub fn has(&self, path: &str) -> bool {
        let folder = format!("{}/", path.trim_end_matches('/'));
        self.files.iter().any(|file| file.path == path || file.path.starts_with(&folder))
    }

    /// The file at `path`.
    pub fn get(&self, path: &str) -> Option<&Source> {
        self.files.iter().find(|file| file.path == path)
    }
}

impl Source {
    fn new(path: &str, bytes: u64, text: String) -> Self {
        let rust = if path.ends_with(".rs") { text.as_str() } else { "" };
        Self { path: path.to_owned(), bytes, split: lexer::split(rust), text }
    }

    /// A finding at a line, from 1, of this file.
    pub(super) fn finding(&self, line: usize, what: impl Into<String>) -> Finding {
        Finding { path: self.path.clone(), line, what: what.into() }
    }
}

/// Nothing large, nothing built or fetched, no stray white space.
pub fn files(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files() {
        if file.bytes > FILE_BYTES_MAX {
            findings.push(file.finding(0, format!("{} bytes; 1 MiB is the most", file.bytes)));
        }
        if FOREIGN.iter().any(|end| file.path.ends_with(end)) {
            findings.push(file.finding(0, "built or fetched files stay out of git"));
        }
        if ["utils.rs", "helpers.rs", "misc.rs"].iter().any(|bad| file.path.ends_with(bad)) {
            findings.push(file.finding(0, "a file is named for what it does"));
        }
        // Golden files are test vectors: their white space is content.
        if file.path.contains("/golden/") {
            continue;
        }
        if !file.text.is_empty() && !file.text.ends_with('\n') {
            findings.push(file.finding(0, "does not end with a newline"));
        }
        for (number, line) in file.text.lines().enumerate() {
            if line.ends_with([' ', '\t', '\r']) {
                findings.push(file.finding(number + 1, "white space at the end of the line"));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_foreign_and_ragged_files_are_found() {
        let large = "x\n".repeat(600_000);
        let tree = Tree::of(&[
            ("big.txt", &large),
            ("model.gguf", "\n"),
            ("src/utils.rs", "fn a() {}\n"),
            ("a.md", "no newline"),
            ("b.md", "trailing \n"),
            ("good.md", "fine\n"),
        ]);
        let found = files(&tree);
        let paths: Vec<_> = found.iter().map(|finding| finding.path.as_str()).collect();
        assert_eq!(paths, ["big.txt", "model.gguf", "src/utils.rs", "a.md", "b.md"]);
    }
}
