//! The rules of CONTRIBUTING.md that rustc, clippy and rustfmt do not check.
//!
//! A check is a function from the [`Tree`] to findings. The tests of each check show a bad sample
//! that it finds: a check that cannot fail is no check.

mod documents;
mod functions;
mod intrinsics;
mod layers;
mod lexer;
mod places;
mod tree;
mod words;

use std::fmt;
use std::path::Path;

use anyhow::{Result, bail};
pub use tree::Tree;

/// Something against the rules.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    /// From 1; 0 where the whole file is meant.
    line: usize,
    what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

type Check = fn(&Tree) -> Vec<Finding>;

const CHECKS: [(&str, Check); 11] = [
    ("functions", functions::lengths),
    ("files", functions::file_lengths),
    ("unsafe", places::unsafe_code),
    ("cpu-detection", places::cpu_detection),
    ("intrinsics", intrinsics::target_features),
    ("layers", layers::imports),
    ("dependencies", layers::reasons),
    ("words", words::unfinished),
    ("places", words::machine_places),
    ("links", documents::links),
    ("tree", tree::files),
];

/// `cargo xtask tidy`.
///
/// # Errors
/// If there is any finding; they are printed first.
pub fn run(root: &Path) -> Result<()> {
    let tree = Tree::load(root)?;
    let mut found = 0;
    for (name, check) in CHECKS {
        let mut findings = check(&tree);
        findings.sort();
        found += findings.len();
        for finding in findings {
            println!("{finding} [{name}]");
        }
    }
    if found > 0 {
        bail!("{found} findings; CONTRIBUTING.md gives the rules and their reasons");
    }
    println!("tidy: {} checks, {} files, nothing to find", CHECKS.len(), tree.len());
    Ok(())
}
