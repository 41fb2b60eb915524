//! Writes the list of the page's files, so that all of `web/` is inside the binary.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Endings of what the page is made of; tests and notes beside it stay outside.
const SERVED: [&str; 11] =
    ["html", "css", "js", "mjs", "svg", "png", "ico", "woff2", "json", "webmanifest", "txt"];

fn main() -> std::io::Result<()> {
    let root = PathBuf::from(env("CARGO_MANIFEST_DIR")).join("web");
    println!("cargo::rerun-if-changed=web");
    let mut files = Vec::new();
    collect(&root, &root, &mut files)?;
    files.sort();
    let mut list = String::from("static FILES: &[(&str, &[u8])] = &[\n");
    for (name, path) in &files {
        println!("cargo::rerun-if-changed={}", path.display());
        let _ = writeln!(list, "    ({name:?}, include_bytes!({:?})),", path.display().to_string());
    }
    list.push_str("];\n");
    std::fs::write(PathBuf::from(env("OUT_DIR")).join("page.rs"), list)
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

fn collect(root: &Path, dir: &Path, files: &mut Vec<(String, PathBuf)>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') || name == "tests" || name == "node_modules" {
            continue;
        }
        if path.is_dir() {
            collect(root, &path, files)?;
        } else if path.extension().is_some_and(|end| SERVED.iter().any(|served| end == *served)) {
            let relative = path.strip_prefix(root).unwrap_or(&path);
            let relative = relative.to_string_lossy().replace('\\', "/");
            files.push((relative, path));
        }
    }
    Ok(())
}
