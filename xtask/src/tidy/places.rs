//! What may stand in some places only.

use super::{Finding, Tree, lexer, tree::Source};

/// Crates that may hold `unsafe`.
const UNSAFE_CRATES: [&str; 2] = ["crates/mapping/", "crates/kernels/"];
/// Where the CPU is asked what it can do.
const DETECTION: &str = "crates/kernels/src/isa.rs";

fn findings_of(file: &Source, word: &str, what: &str) -> Vec<Finding> {
    let code = &file.split.code;
    lexer::words(code)
        .filter(|&(_, found)| found == word)
        .map(|(at, _)| file.finding(lexer::line_of(code, at), what))
        .collect()
}

/// `unsafe` outside of its crates, and crate roots that do not forbid it.
pub fn unsafe_code(tree: &Tree) -> Vec<Finding> {
    let allowed = |path: &str| UNSAFE_CRATES.iter().any(|folder| path.starts_with(folder));
    let mut findings = Vec::new();
    for file in tree.ending(".rs").filter(|file| !allowed(&file.path)) {
        findings.extend(findings_of(file, "unsafe", "`unsafe` stands in mapping and kernels only"));
        let is_root = file.path.ends_with("src/lib.rs") || file.path.ends_with("src/main.rs");
        let forbids = file.split.code.contains("#![forbid(unsafe_code)]");
        if is_root && !forbids {
            findings.push(file.finding(1, "a crate root says #![forbid(unsafe_code)]"));
        }
    }
    findings
}

/// The CPU's features are asked for once, in one file.
pub fn cpu_detection(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for file in tree.ending(".rs").filter(|file| file.path != DETECTION) {
        for word in ["is_x86_feature_detected", "is_aarch64_feature_detected"] {
            let what = format!("`{word}!` stands in {DETECTION} only");
            findings.extend(findings_of(file, word, &what));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_outside_its_crates_is_found() {
        let forbid = "#![forbid(unsafe_code)]\n";
        let bad = format!("{forbid}fn f() {{ unsafe {{ g() }} }}\n");
        let text = format!("{forbid}// unsafe\nconst S: &str = \"unsafe\";\n");
        let tree = Tree::of(&[
            ("crates/engine/src/lib.rs", &bad),
            ("crates/gguf/src/lib.rs", &text),
            ("crates/model/src/lib.rs", "fn f() {}\n"),
            ("crates/kernels/src/lib.rs", "fn f() { unsafe { g() } }\n"),
        ]);
        let found: Vec<_> = unsafe_code(&tree).into_iter().map(|f| (f.path, f.line)).collect();
        let expected = [("crates/engine/src/lib.rs", 2), ("crates/model/src/lib.rs", 1)];
        assert_eq!(found, expected.map(|(path, line)| (path.to_owned(), line)));
    }

    #[test]
    fn detection_elsewhere_is_found() {
        let code = "fn f() { if is_x86_feature_detected!(\"avx2\") {} }\n";
        let tree = Tree::of(&[(DETECTION, code), ("crates/kernels/src/matmul.rs", code)]);
        let found = cpu_detection(&tree);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, "crates/kernels/src/matmul.rs");
    }
}
