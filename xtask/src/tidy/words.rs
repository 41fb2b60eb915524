//! Words that do not belong into the tree: unfinished work, and places of one machine.

use super::{Finding, Tree, tree::Source};

/// Markers of unfinished work, put together here so that this file does not find itself.
const MARKERS: [&str; 4] =
    [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK")];
/// An explanation shorter than this explains nothing.
const EXPLANATION_CHARS_MIN: usize = 20;

/// Parts of paths and hosts that exist on one machine, or name one registry.
const PLACES: [&str; 11] = [
    concat!("/wo", "rk/"),
    concat!("/ho", "me/"),
    concat!("/ro", "ot/"),
    concat!("/tm", "p/"),
    concat!("/Us", "ers/"),
    concat!("C:", "\\"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("static.crates", ".io"),
    concat!("index.crates", ".io"),
    concat!("registry.npm", "js"),
];

fn is_source(path: &str) -> bool {
    [".rs", ".c", ".toml", ".sh", ".py", ".yml", ".yaml", ".js", ".html", ".ci/run"]
        .iter()
        .any(|end| path.ends_with(end))
}

/// Markers of unfinished work without `(#issue): explanation`.
pub fn unfinished(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.files().filter(|file| is_source(&file.path)) {
        // In Rust only comments are looked at: a vocabulary may well hold such a token.
        let text = if file.path.ends_with(".rs") { &file.split.comments } else { &file.text };
        for (number, line) in text.lines().enumerate() {
            for marker in MARKERS {
                if standing_alone(line, marker).is_some_and(|rest| !is_explained(rest)) {
                    let what = format!("{marker} without `(#issue): explanation`");
                    findings.push(file.finding(number + 1, what));
                }
            }
        }
    }
    findings
}

/// What follows `word` where it is no part of a longer word.
fn standing_alone<'a>(line: &'a str, word: &str) -> Option<&'a str> {
    line.match_indices(word).find_map(|(at, _)| {
        let rest = &line[at + word.len()..];
        let before = line[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric());
        let after = rest.chars().next().is_none_or(|c| !c.is_alphanumeric());
        (before && after).then_some(rest)
    })
}

fn is_explained(rest: &str) -> bool {
    rest.strip_prefix("(#").and_then(|rest| rest.split_once("): ")).is_some_and(|(issue, why)| {
        issue.parse::<u32>().is_ok() && why.trim().chars().count() >= EXPLANATION_CHARS_MIN
    })
}

/// Paths of somebody's machine, and hosts of registries: the tools' own settings choose those.
pub fn machine_places(tree: &Tree) -> Vec<Finding> {
    tree.files().filter(|file| file.path != "Cargo.lock").flat_map(file_places).collect()
}

fn file_places(file: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        for place in PLACES {
            let found = line.match_indices(place).any(|(at, _)| {
                // `https://example/home/x` and `crates/work/` are no such paths.
                let before = line[..at].chars().next_back();
                !place.starts_with('/') || before.is_none_or(|c| !c.is_alphanumeric() && c != '.')
            });
            if found {
                findings.push(file.finding(number + 1, format!("names `{place}`")));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unexplained_markers_are_found() {
        let line = |rest: &str| format!("// {}{rest}\n", MARKERS[0]);
        let bare = line(": later");
        let short = line("(#12): later");
        let good = line("(#12): the kernel before 5.14 has no such call, see mapping/populate");
        let text = format!("const S: &str = \"{}\"; // METHODOLOGY {}S\n", MARKERS[0], MARKERS[0]);
        let tree = Tree::of(&[("a.rs", &bare), ("b.rs", &short), ("c.rs", &good), ("d.rs", &text)]);
        let paths: Vec<_> = unfinished(&tree).into_iter().map(|finding| finding.path).collect();
        assert_eq!(paths, ["a.rs", "b.rs"]);
    }

    #[test]
    fn places_of_a_machine_are_found() {
        let paths = [PLACES[1], PLACES[3]].map(|place| format!("see `{place}models/x`\n"));
        let host = format!("https://{}/simple\n", PLACES[6]);
        let fine = "a crates/work/x, a https://example.net/home/x, ../tmp/x\n";
        let tree = Tree::of(&[
            ("a.md", &paths[0]),
            ("b.rs", &paths[1]),
            ("c.toml", &host),
            ("d.md", fine),
            ("Cargo.lock", &host),
        ]);
        let found: Vec<_> = machine_places(&tree).into_iter().map(|finding| finding.path).collect();
        assert_eq!(found, ["a.md", "b.rs", "c.toml"]);
    }
}
