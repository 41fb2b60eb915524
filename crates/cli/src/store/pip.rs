//! Asking pip where a wheel is. The index, mirror, proxy and certificates are the user's own
//! configuration; lowtide names no index.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::catalogue::Wheel;

/// How pip is started here.
#[derive(Debug, Clone)]
pub struct Pip {
    program: &'static str,
    before: &'static [&'static str],
    version: (u32, u32),
}

/// `python3 -m pip` first: it is the one that belongs to the interpreter people mean.
const CANDIDATES: &[(&str, &[&str])] =
    &[("python3", &["-m", "pip"]), ("python", &["-m", "pip"]), ("pip3", &[]), ("pip", &[])];

/// `pip install --dry-run --report` came with pip 22.2.
const REPORT_SINCE: (u32, u32) = (22, 2);

/// Where a wheel can be had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// `https:`, `http:` or `file:`; may hold a password, is never printed.
    pub url: String,
    /// The wheel's file name.
    pub file: String,
    /// The wheel's SHA-256, where the index tells.
    pub sha256: Option<String>,
}

impl Pip {
    /// The first pip that answers.
    pub fn find() -> Option<Self> {
        CANDIDATES.iter().find_map(|&(program, before)| {
            let output = Command::new(program)
                .args(before)
                .arg("--version")
                .stdin(Stdio::null())
                .stderr(Stdio::null())
                .output()
                .ok()?;
            let version = parse_version(&String::from_utf8_lossy(&output.stdout))?;
            output.status.success().then_some(Self { program, before, version })
        })
    }

    /// The commands that [`Pip::find`] tries, for an error message.
    pub fn candidates() -> String {
        let command = |(program, before): &(&str, &[&str])| {
            std::iter::once(*program).chain(before.iter().copied()).collect::<Vec<_>>().join(" ")
        };
        CANDIDATES.iter().map(command).collect::<Vec<_>>().join(", ")
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        command
            .args(self.before)
            .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
            .env("PIP_NO_INPUT", "1")
            // Some distributions forbid `pip install` even where it installs nothing (--dry-run).
            .env("PIP_BREAK_SYSTEM_PACKAGES", "1")
            .env_remove("PIP_REQUIREMENT")
            .stdin(Stdio::null());
        command
    }

    /// Asks for a wheel's address without fetching it.
    pub fn locate(&self, wheel: &Wheel) -> Result<Located> {
        if self.version < REPORT_SINCE {
            bail!("pip {}.{} cannot tell addresses (22.2 can)", self.version.0, self.version.1);
        }
        let output = self
            .command()
            .args(["install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"])
            .args(["--only-binary", ":all:", "--report", "-"])
            .arg(format!("{}=={}", wheel.package, wheel.version))
            .output()
            .context("cannot start pip")?;
        if !output.status.success() {
            bail!("pip: {}", last_error(&String::from_utf8_lossy(&output.stderr)));
        }
        parse_report(&output.stdout)
    }

    /// Lets pip itself fetch a wheel into `dir`; its progress goes to standard error.
    pub fn download(&self, wheel: &Wheel, dir: &Path) -> Result<PathBuf> {
        let mut child = self
            .command()
            .args(["download", "--no-deps", "--only-binary", ":all:", "--dest"])
            .arg(dir)
            .arg(format!("{}=={}", wheel.package, wheel.version))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start pip")?;
        let errors = child.stderr.take().map(|mut stderr| {
            std::thread::spawn(move || {
                let mut text = Vec::new();
                // What cannot be read is missing in the message, no more.
                let _ = std::io::Read::read_to_end(&mut stderr, &mut text);
                String::from_utf8_lossy(&text).into_owned()
            })
        });
        if let Some(mut stdout) = child.stdout.take() {
            // Standard output is for answers.
            let _ = std::io::copy(&mut stdout, &mut std::io::stderr());
            let _ = std::io::stderr().flush();
        }
        let status = child.wait().context("cannot wait for pip")?;
        let errors = errors.and_then(|reader| reader.join().ok()).unwrap_or_default();
        if !status.success() {
            bail!("pip: {}", last_error(&errors));
        }
        find_wheel(dir, wheel)
            .with_context(|| format!("pip left no wheel of {} in {}", wheel.package, dir.display()))
    }
}

/// The wheel of this package and version in a folder.
pub fn find_wheel(dir: &Path, wheel: &Wheel) -> Option<PathBuf> {
    // The wheel format: in file names, runs of `-`, `_` and `.` of the package name become `_`.
    let normal = |name: &str| name.replace(['-', '.'], "_").to_ascii_lowercase();
    let prefix = format!("{}-{}-", normal(wheel.package), wheel.version);
    std::fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).find(|path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        name.ends_with(".whl") && name.to_ascii_lowercase().starts_with(&prefix)
    })
}

/// `pip 23.2.1 from ...` -> (23, 2).
fn parse_version(line: &str) -> Option<(u32, u32)> {
    let mut numbers = line.strip_prefix("pip ")?.split([' ', '.']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// The installation report: <https://pip.pypa.io/en/stable/reference/installation-report/>.
fn parse_report(json: &[u8]) -> Result<Located> {
    let report: serde_json::Value =
        serde_json::from_slice(json).context("pip's report is not JSON")?;
    let info = &report["install"][0]["download_info"];
    let url = info["url"].as_str().context("pip's report names no address")?.to_owned();
    let sha256 = info["archive_info"]["hashes"]["sha256"].as_str().map(str::to_ascii_lowercase);
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let file = path.rsplit('/').next().unwrap_or_default().to_owned();
    if !file.ends_with(".whl") || file.contains(['%', '\\']) {
        bail!("pip's report names no wheel but {file:?}");
    }
    Ok(Located { url, file, sha256 })
}

/// The line of pip's messages that says what is wrong.
fn last_error(stderr: &str) -> String {
    let lines = || stderr.lines().rev().map(str::trim).filter(|line| !line.is_empty());
    lines()
        .find(|line| line.starts_with("ERROR:"))
        .or_else(|| lines().next())
        .unwrap_or("failed without a message")
        .trim_start_matches("ERROR:")
        .trim()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_version("pip 23.2.1 from /x (python 3.11)"), Some((23, 2)));
        assert_eq!(parse_version("pip 9.0 from x"), Some((9, 0)));
        assert_eq!(parse_version("Python 3.11"), None);
    }

    #[test]
    fn the_report_gives_the_address_and_a_harmless_file_name() {
        let report = |url: &str| {
            format!(
                r#"{{"install": [{{"download_info": {{"url": "{url}",
                "archive_info": {{"hashes": {{"sha256": "0A"}}}}}}}}]}}"#
            )
            .into_bytes()
        };
        assert_eq!(
            parse_report(&report("https://h/a/b-1.0-py3-none-any.whl#sha256=00")).unwrap(),
            Located {
                url: "https://h/a/b-1.0-py3-none-any.whl#sha256=00".into(),
                file: "b-1.0-py3-none-any.whl".into(),
                sha256: Some("0a".into())
            }
        );
        for bad in ["https://h/b-1.0.tar.gz", "https://h/..%2f..%2fx.whl", ""] {
            assert!(parse_report(&report(bad)).is_err(), "{bad}");
        }
        assert!(parse_report(b"{\"install\": []}").is_err());
        assert!(parse_report(b"WARNING").is_err());
    }

    #[test]
    fn the_last_error_is_the_one_that_counts() {
        let text = "WARNING: Retrying\nERROR: no version\nERROR: No matching distribution\n\n";
        assert_eq!(last_error(text), "No matching distribution");
        assert_eq!(last_error("No module named pip\n"), "No module named pip");
        assert_eq!(last_error(""), "failed without a message");
    }
}
