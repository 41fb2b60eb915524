//! `cargo xtask licences`: the part of cargo-deny that must hold on any machine.
//!
//! cargo-deny takes minutes to build where it is not installed. `.ci/run` uses it where it is; this
//! check reads the same `deny.toml` and covers licences and sources, not advisories.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command::{cargo, output};

/// Checks all dependencies, of tests and builds too.
///
/// # Errors
/// If a package's licence is not allowed by deny.toml, or a package comes from elsewhere.
pub fn run(root: &Path) -> Result<()> {
    let deny = std::fs::read_to_string(root.join("deny.toml")).context("deny.toml")?;
    let allowed = allowed(&deny);
    let args = ["metadata", "--format-version", "1", "--locked"];
    let metadata = output(cargo(&args).current_dir(root))?;
    let metadata: Value = serde_json::from_slice(&metadata)?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let findings: Vec<String> =
        packages.iter().filter_map(|package| finding(package, &allowed)).collect();
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} packages against deny.toml", findings.len());
    }
    println!("licences: {} packages, all allowed by deny.toml", packages.len());
    Ok(())
}

/// The strings of `allow = [...]` under `[licenses]`.
fn allowed(deny: &str) -> Vec<&str> {
    let section = deny.split("[licenses]").nth(1).unwrap_or_default();
    let list = section.split("allow = [").nth(1).and_then(|rest| rest.split(']').next());
    list.unwrap_or_default().split('"').skip(1).step_by(2).collect()
}

fn finding(package: &Value, allowed: &[&str]) -> Option<String> {
    let name = format!("{} {}", text(&package["name"]), text(&package["version"]));
    let source = text(&package["source"]);
    // A path dependency has no source: it is ours.
    if !source.is_empty() && !source.starts_with("registry+") && !source.starts_with("sparse+") {
        return Some(format!("{name}: comes from {source}, not from a registry"));
    }
    let licence = text(&package["license"]);
    (!holds(licence, allowed)).then(|| format!("{name}: licence `{licence}` is not allowed"))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Does some choice within the SPDX expression consist of allowed licences only?
fn holds(expression: &str, allowed: &[&str]) -> bool {
    // `MIT/Apache-2.0` is the old way to write OR.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let result = any_of(&words, &mut at, allowed);
    result && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let mut result = all_of(words, at, allowed);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        result |= all_of(words, at, allowed);
    }
    result
}

fn all_of(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let mut result = one(words, at, allowed);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        result &= one(words, at, allowed);
    }
    result
}

fn one(words: &[&str], at: &mut usize, allowed: &[&str]) -> bool {
    let Some(&word) = words.get(*at) else { return false };
    *at += 1;
    if word == "(" {
        let result = any_of(words, at, allowed);
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return result && closed;
    }
    let mut name = word.to_owned();
    if words.get(*at) == Some(&"WITH") {
        name = format!("{word} WITH {}", words.get(*at + 1).unwrap_or(&""));
        *at += 2;
    }
    allowed.contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_evaluated() {
        let allowed = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"];
        for good in [
            "MIT",
            "MIT/GPL-3.0",
            "GPL-3.0 OR MIT",
            "(GPL-3.0 OR MIT) AND Apache-2.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
        ] {
            assert!(holds(good, &allowed), "{good}");
        }
        for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "MIT WITH GCC-exception", "(MIT", "MIT )"] {
            assert!(!holds(bad, &allowed), "{bad}");
        }
    }

    #[test]
    fn the_list_is_read_and_a_foreign_source_is_found() {
        let deny =
            "[bans]\nallow = [\"x\"]\n[licenses]\nallow = [\n  \"MIT\",\n  \"ISC\", # why\n]\n";
        assert_eq!(allowed(deny), ["MIT", "ISC"]);
        let package = |source: &str, licence: &str| serde_json::json!({"name": "a", "version": "1", "source": source, "license": licence});
        assert!(finding(&package("git+https://example.net/a", "MIT"), &["MIT"]).is_some());
        assert!(finding(&package("registry+x", "GPL-3.0"), &["MIT"]).is_some());
        assert!(finding(&package("registry+x", "MIT"), &["MIT"]).is_none());
    }
}
