//! Documents: links lead somewhere, named files exist, the README's two commands can be found.

use super::{Finding, Tree, tree::Source};

/// Info strings of the README's code blocks that others rely on: `.ci/run` runs them.
pub const README_BLOCKS: [&str; 2] = ["sh first", "sh test"];

/// First parts of a path in backticks that must exist.
const OWN_FOLDERS: [&str; 8] =
    ["crates/", "xtask/", "bench/", "tests/", "docs/", ".ci/", ".cargo/", "fuzz/"];

/// Dead links, names of files that are gone, missing README blocks.
pub fn links(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.ending(".md") {
        findings.extend(file_links(tree, file));
        findings.extend(file_mentions(tree, file));
    }
    if let Some(readme) = tree.get("README.md") {
        for block in README_BLOCKS {
            let count = readme.text.lines().filter(|line| *line == format!("```{block}")).count();
            if count != 1 {
                let what = format!("{count} code blocks are marked `{block}`, not one");
                findings.push(readme.finding(0, what));
            }
        }
    }
    findings
}

/// Lines outside of code blocks, with their numbers from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut in_block = false;
    text.lines().enumerate().filter_map(move |(number, line)| {
        let fence = line.trim_start().starts_with("```");
        in_block ^= fence;
        (!in_block && !fence).then_some((number + 1, line))
    })
}

fn file_links(tree: &Tree, file: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in prose(&file.text) {
        for (at, _) in line.match_indices("](") {
            let Some(target) = line[at + 2..].split(')').next() else { continue };
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path = if path.is_empty() { file.path.clone() } else { beside(&file.path, path) };
            if !tree.has(&path) {
                findings.push(file.finding(number, format!("the link {target} leads nowhere")));
            } else if !anchor.is_empty()
                && tree.get(&path).is_some_and(|to| !has_heading(&to.text, anchor))
            {
                findings.push(file.finding(number, format!("no heading for {target}")));
            }
        }
    }
    findings
}

/// `path` as a link in `document` means it.
fn beside(document: &str, path: &str) -> String {
    let mut parts: Vec<&str> = document.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// Headings become anchors: lower case, spaces to hyphens, punctuation dropped.
fn has_heading(text: &str, anchor: &str) -> bool {
    prose(text).filter_map(|(_, line)| line.strip_prefix('#')).any(|heading| {
        let slug: String = heading
            .trim_start_matches('#')
            .trim()
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        slug == anchor
    })
}

/// Paths of this repository in backticks.
fn file_mentions(tree: &Tree, file: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in prose(&file.text) {
        for path in line.split('`').skip(1).step_by(2) {
            let is_path = OWN_FOLDERS.iter().any(|folder| path.starts_with(folder))
                && !path.contains(['*', ' ', '<', '{', '$'])
                && !path.contains("...");
            let path = path.split("::").next().unwrap_or(path);
            if is_path && !tree.has(path) {
                findings.push(file.finding(number, format!("`{path}` is not there")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dead_links_and_names_are_found() {
        let document = "[a](../README.md) [b](gone.md) [c](#a-heading) [d](#none)\n\
                        # A heading\n`crates/x/src/lib.rs` `crates/y` `cargo run`\n\
                        ```\n[e](in-a-block.md)\n```\n";
        let readme = "```sh first\nx\n```\n```sh test\ny\n```\n";
        let tree = Tree::of(&[
            ("README.md", readme),
            ("docs/a.md", document),
            ("crates/x/src/lib.rs", "\n"),
        ]);
        let found: Vec<_> = links(&tree).into_iter().map(|f| (f.line, f.what)).collect();
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found[0].1.contains("gone.md"));
        assert!(found[1].1.contains("#none"));
        assert_eq!(found[2], (3, "`crates/y` is not there".to_owned()));
    }

    #[test]
    fn a_readme_without_its_commands_is_found() {
        let found = links(&Tree::of(&[("README.md", "```sh first\nx\n```\n")]));
        assert_eq!(found.len(), 1);
        assert!(found[0].what.contains("sh test"));
    }
}
