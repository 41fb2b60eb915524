//! Who may import whom, and why each foreign crate is here.

use super::{Finding, Tree, tree::Source};

/// A package and the packages of this workspace that it may use.
const LAYERS: [(&str, &[&str]); 8] = [
    ("mapping", &[]),
    ("gguf", &[]),
    ("kernels", &[]),
    ("tokenizer", &["gguf"]),
    ("model", &["gguf"]),
    ("residency", &["mapping"]),
    ("engine", &["gguf", "kernels", "mapping", "model", "residency", "tokenizer"]),
    ("server", &["engine", "mapping", "residency", "tokenizer"]),
];

/// Tests and examples of any layer may use these: the lowest layer, and the writer of synthetic models.
const TEST_ONLY: [&str; 4] = ["bench", "gguf", "kernels", "mapping"];

/// A line of a manifest that names a dependency.
struct Dependency<'a> {
    line: usize,
    name: &'a str,
    dev: bool,
    explained: bool,
}

fn dependencies(manifest: &str) -> Vec<Dependency<'_>> {
    let mut found = Vec::new();
    let (mut section, mut comment_above) = ("", false);
    for (index, line) in manifest.lines().enumerate() {
        let text = line.trim();
        if let Some(name) = text.strip_prefix('[').and_then(|t| t.split(']').next()) {
            section = name;
        } else if section.ends_with("dependencies")
            && !section.starts_with("workspace")
            && !text.starts_with('#')
            && let Some((name, value)) = text.split_once('=')
        {
            let name = name.trim().split('.').next().unwrap_or_default().trim_matches('"');
            let explained = comment_above || value.contains('#');
            let dev = section.ends_with("dev-dependencies");
            found.push(Dependency { line: index + 1, name, dev, explained });
        }
        comment_above = text.starts_with('#');
    }
    found
}

fn crate_of(path: &str) -> Option<&str> {
    path.strip_prefix("crates/")?.strip_suffix("/Cargo.toml").filter(|name| !name.contains('/'))
}

/// Imports against the layers of ARCHITECTURE.md.
pub fn imports(tree: &Tree) -> Vec<Finding> {
    tree.ending("Cargo.toml").flat_map(manifest_imports).collect()
}

fn manifest_imports(file: &Source) -> Vec<Finding> {
    let Some(own) = crate_of(&file.path) else { return Vec::new() };
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == own) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for dependency in dependencies(&file.text) {
        let name = match dependency.name {
            "lowtide" => "cli",
            name => match name.strip_prefix("lowtide-") {
                Some(name) => name,
                None => continue,
            },
        };
        let in_test = dependency.dev && TEST_ONLY.contains(&name);
        if !allowed.contains(&name) && !in_test {
            let what = format!("{own} may import {allowed:?} of this workspace, not {name}");
            findings.push(file.finding(dependency.line, what));
        }
    }
    findings
}

/// Foreign crates without a reason in a comment beside or above them.
pub fn reasons(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.ending("Cargo.toml") {
        for dependency in dependencies(&file.text) {
            let ours = dependency.name == "lowtide" || dependency.name.starts_with("lowtide-");
            if !ours && !dependency.explained {
                let what = format!("`{}` has no comment that says what for", dependency.name);
                findings.push(file.finding(dependency.line, what));
            }
        }
        let member = file.path != "Cargo.toml" && !file.path.starts_with("fuzz/");
        if member && !file.text.contains("[lints]\nworkspace = true") {
            findings.push(file.finding(0, "a member inherits the workspace's lints"));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINTS: &str = "[lints]\nworkspace = true\n";

    #[test]
    fn an_import_against_the_layers_is_found() {
        let up = format!("{LINTS}[dependencies]\nlowtide-engine.workspace = true\n");
        let down = format!("{LINTS}[dependencies]\nlowtide-gguf = {{ path = \"../gguf\" }}\n");
        let dev = format!("{LINTS}[dev-dependencies]\nlowtide-bench = {{ path = \"x\" }}\n");
        let dev_up = format!("{LINTS}[dev-dependencies]\nlowtide-engine = {{ path = \"x\" }}\n");
        let tree = Tree::of(&[
            ("crates/gguf/Cargo.toml", &up),
            ("crates/kernels/Cargo.toml", &down),
            ("crates/model/Cargo.toml", &down),
            ("crates/engine/Cargo.toml", &dev),
            ("crates/residency/Cargo.toml", &dev_up),
            ("crates/cli/Cargo.toml", &up),
        ]);
        let paths: Vec<_> = imports(&tree).into_iter().map(|finding| finding.path).collect();
        let expected = ["crates/gguf/Cargo.toml", "crates/kernels/Cargo.toml"];
        assert_eq!(paths[..2], expected);
        assert_eq!(paths[2..], ["crates/residency/Cargo.toml"]);
    }

    #[test]
    fn an_unexplained_dependency_is_found() {
        let good = format!(
            "{LINTS}[dependencies]\nlibc = \"0.2\" # system calls\n# JSON in and out\nserde_json = \
             \"1\"\nlowtide-gguf.workspace = true\n"
        );
        let bad = format!("{LINTS}[dependencies]\nlibc = \"0.2\"\n");
        let tree = Tree::of(&[
            ("crates/a/Cargo.toml", &good),
            ("crates/b/Cargo.toml", &bad),
            ("crates/c/Cargo.toml", "[dependencies]\n"),
        ]);
        let found: Vec<_> = reasons(&tree).into_iter().map(|f| (f.path, f.line)).collect();
        let expected = [("crates/b/Cargo.toml", 4), ("crates/c/Cargo.toml", 0)];
        assert_eq!(found, expected.map(|(path, line)| (path.to_owned(), line)));
    }
}
