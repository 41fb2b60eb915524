//! Intrinsics stand in functions that name their instruction set.
//!
//! Without `#[target_feature]` an intrinsic is not inlined: the code is right and many times
//! slower, so neither the compiler nor a test complains. `#[inline(always)]` takes the features of
//! its caller and is as good.

use super::{Finding, Tree, functions, lexer, tree::Source};

/// Attributes that let an intrinsic be inlined.
const GOOD: [&str; 2] = ["target_feature", "inline(always)"];

/// Functions that use x86 intrinsics without such an attribute, and intrinsics outside kernels.
pub fn target_features(tree: &Tree) -> Vec<Finding> {
    tree.ending(".rs").flat_map(file_intrinsics).collect()
}

fn file_intrinsics(file: &Source) -> Vec<Finding> {
    let code = &file.split.code;
    let all: Vec<usize> =
        lexer::words(code).filter(|(_, word)| is_intrinsic(word)).map(|(at, _)| at).collect();
    if let Some(&first) = all.first().filter(|_| !file.path.starts_with("crates/kernels/")) {
        let line = lexer::line_of(code, first);
        return vec![file.finding(line, "intrinsics stand in kernels only")];
    }
    let functions = functions::functions(code);
    let mut findings = Vec::new();
    for (index, function) in functions.iter().enumerate() {
        let inner = |at: usize| {
            functions[index + 1..]
                .iter()
                .any(|other| other.body.end < function.body.end && other.body.contains(&at))
        };
        let own = all.iter().any(|&at| function.body.contains(&at) && !inner(at));
        let attributes = attributes(code, function.start);
        if own && !GOOD.iter().any(|good| attributes.contains(good)) {
            let what = format!("`{}` uses intrinsics without one of {GOOD:?}", function.name);
            findings.push(file.finding(lexer::line_of(code, function.start), what));
        }
    }
    findings
}

/// `_mm_...`, `_mm256_...`, `_mm512_...`; not the prefetch hint, which any x86-64 CPU has.
fn is_intrinsic(word: &str) -> bool {
    ["_mm_", "_mm256_", "_mm512_"].iter().any(|prefix| word.starts_with(prefix))
        && word != "_mm_prefetch"
}

/// What stands between the end of the item before and the `fn`.
fn attributes(code: &str, function: usize) -> &str {
    let before = &code[..function];
    let start = before.rfind(['{', '}', ';']).map_or(0, |i| i + 1);
    &before[start..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_intrinsic_is_found() {
        let code = "
            #[target_feature(enable = \"avx2\")]
            fn good() { _mm256_add_ps(a, b); }
            #[inline]
            fn bad() { _mm256_add_ps(a, b); }
            #[inline(always)]
            fn taken_in() { _mm256_add_ps(a, b); }
            fn prefetch() { _mm_prefetch(p, 0); }
            fn outer() { #[target_feature(enable = \"avx2\")] fn inner() { _mm_add_ps(a, b); } }
        ";
        let tree = Tree::of(&[("crates/kernels/src/avx2.rs", code)]);
        let found = target_features(&tree);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].what.contains("`bad`"));
    }

    #[test]
    fn intrinsics_elsewhere_are_found() {
        let code = "#[target_feature(enable = \"avx2\")]\nfn f() { _mm256_add_ps(a, b); }";
        let found = target_features(&Tree::of(&[("crates/engine/src/norm.rs", code)]));
        assert_eq!(found.len(), 1);
    }
}
