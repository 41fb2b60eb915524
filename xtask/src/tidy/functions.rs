//! Lengths of functions and files.

use super::{Finding, Tree, lexer, tree::Source};

/// Lines of code in a body, blank lines and comments not counted, as clippy counts.
const FUNCTION_LINES_MAX: usize = 70;
/// Lines of a file that needs no reason.
const FILE_LINES_MAX: usize = 600;
/// How a longer file gives its reason, within its first lines.
const REASON: &str = "Long because:";
const REASON_WITHIN_LINES: usize = 40;

/// A function with a body.
pub struct Function<'a> {
    /// Its name.
    pub name: &'a str,
    /// Byte of its `fn`.
    pub start: usize,
    /// Bytes between its braces.
    pub body: std::ops::Range<usize>,
}

/// Functions with bodies in blanked code, inner ones after outer ones. Those that macros write are
/// found too, where clippy does not look.
pub fn functions(code: &str) -> Vec<Function<'_>> {
    let mut found = Vec::new();
    let mut words = lexer::words(code).peekable();
    while let Some((start, word)) = words.next() {
        if word != "fn" {
            continue;
        }
        // `fn(u8) -> u8` is a type: what follows `fn` is not a name.
        let Some(&(name_at, name)) = words.peek() else { break };
        if !code[start + 2..name_at].chars().all(|c| c.is_whitespace() || c == '$') {
            continue;
        }
        if let Some(body) = body(code, name_at + name.len()) {
            found.push(Function { name, start, body });
        }
    }
    found
}

/// The body that opens after `from`, if a `;` at the outer level does not come first.
fn body(code: &str, from: usize) -> Option<std::ops::Range<usize>> {
    let mut depth = 0_usize;
    let mut open = None;
    for (i, byte) in code.bytes().enumerate().skip(from) {
        match (byte, open) {
            (b'(' | b'[', None) => depth += 1,
            (b')' | b']', None) => depth = depth.saturating_sub(1),
            (b';', None) if depth == 0 => return None,
            (b'{', None) if depth == 0 => {
                open = Some(i);
                depth = 1;
            }
            (b'{', Some(_)) => depth += 1,
            (b'}', Some(start)) => {
                depth -= 1;
                if depth == 0 {
                    return Some(start + 1..i);
                }
            }
            _ => {}
        }
    }
    None
}

/// Functions that are too long to be read at once.
pub fn lengths(tree: &Tree) -> Vec<Finding> {
    tree.ending(".rs").flat_map(file_functions).collect()
}

fn file_functions(file: &Source) -> Vec<Finding> {
    let code = &file.split.code;
    let mut findings = Vec::new();
    for function in functions(code) {
        let body = &code[function.body.clone()];
        let lines = body.lines().filter(|line| !line.trim().is_empty()).count();
        if lines > FUNCTION_LINES_MAX {
            let what = format!(
                "`{}` has {lines} lines of code, {FUNCTION_LINES_MAX} are the most",
                function.name
            );
            findings.push(file.finding(lexer::line_of(code, function.start), what));
        }
    }
    findings
}

/// Files that are long without saying why.
pub fn file_lengths(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.ending(".rs") {
        let lines = file.text.lines().count();
        let reason = file.text.lines().take(REASON_WITHIN_LINES).any(has_reason);
        if lines > FILE_LINES_MAX && !reason {
            let what = format!(
                "{lines} lines; above {FILE_LINES_MAX} a file says `{REASON} ...` at its top"
            );
            findings.push(file.finding(lines, what));
        }
    }
    findings
}

fn has_reason(line: &str) -> bool {
    let after = line.trim_start().strip_prefix("//").and_then(|comment| comment.split_once(REASON));
    after.is_some_and(|(_, reason)| reason.trim().len() >= 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_function_is_found_and_comments_do_not_count() {
        let body = |line: &str| format!("fn long() {{\n{}}}\n", line.repeat(71));
        let tree = Tree::of(&[("a.rs", &body("    f();\n")), ("b.rs", &body("    // why\n"))]);
        let found = lengths(&tree);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!((found[0].path.as_str(), found[0].line), ("a.rs", 1));
        assert!(found[0].what.contains("`long` has 71"));
        let at_limit = body("    f();\n").replacen("    f();\n", "", 1);
        assert!(lengths(&Tree::of(&[("a.rs", &at_limit)])).is_empty());
    }

    #[test]
    fn functions_in_macros_and_after_array_types_are_found() {
        let code = "macro_rules! m { ($n:ident) => { fn $n(x: [u8; 4]) -> [u8; 2] { a } } }
            trait T { fn none(&self) -> [u8; 3]; fn some(&self) where u8: Copy { b } }
            type F = fn(u8) -> u8; fn last() { c }";
        let bodies: Vec<_> =
            functions(code).iter().map(|f| (f.name, code[f.body.clone()].trim())).collect();
        assert_eq!(bodies, [("n", "a"), ("some", "b"), ("last", "c")]);
    }

    #[test]
    fn a_long_file_needs_a_reason() {
        let long = "// line\n".repeat(601);
        let empty = format!("//! Long because: x\n{long}");
        let good = format!("//! Long because: one table, and half of it is tests.\n{long}");
        let tree = Tree::of(&[("a.rs", &long), ("b.rs", &empty), ("c.rs", &good)]);
        let paths: Vec<_> = file_lengths(&tree).into_iter().map(|finding| finding.path).collect();
        assert_eq!(paths, ["a.rs", "b.rs"]);
    }
}
