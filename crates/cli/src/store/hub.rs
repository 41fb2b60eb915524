//! A model hub's interface: the list of a repository's files, and the files.

use anyhow::Result;
use serde::Deserialize;

use super::http::{Client, HttpError, Source};
use super::hub_name::{HubName, choose};
use crate::failure::Failure;

/// The public hub; `HF_ENDPOINT` names another (a mirror, a company's own).
const PUBLIC_ENDPOINT: &str = "https://huggingface.co";

/// A hub, and who asks.
#[derive(Debug, Clone)]
pub struct Hub {
    endpoint: String,
    token: Option<String>,
    /// The command that asks, for the words of a refusal.
    command: &'static str,
}

/// One file to fetch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFile {
    /// Its path in the repository.
    pub path: String,
    /// Its address.
    pub url: String,
    /// Its length, where the hub tells.
    pub bytes: Option<u64>,
    /// Its SHA-256, where the hub tells (it does for every large file).
    pub sha256: Option<String>,
    /// The revision that its address names, where the hub tells.
    pub revision: Option<String>,
}

/// `GET /api/models/ORG/REPO?blobs=true`, the part that is used.
#[derive(Deserialize)]
struct Repository {
    sha: Option<String>,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    sha256: Option<String>,
    size: Option<u64>,
}

impl Hub {
    /// From `HF_ENDPOINT` and `HF_TOKEN`.
    pub fn from_env() -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        Self::new(
            set("HF_ENDPOINT").as_deref().unwrap_or(PUBLIC_ENDPOINT),
            set("HF_TOKEN").as_deref(),
        )
    }

    /// A hub at this address.
    pub fn new(endpoint: &str, token: Option<&str>) -> Self {
        Self {
            endpoint: endpoint.trim().trim_end_matches('/').to_owned(),
            token: token.map(|token| token.trim().to_owned()),
            command: "pull",
        }
    }

    /// The same for another command than `lowtide pull`.
    pub fn asked_by(self, command: &'static str) -> Self {
        Self { command, ..self }
    }

    /// The token, to be sent along with requests for files.
    pub fn token(&self) -> Option<&str> {
        self.token.as_deref()
    }

    /// Asks for the files that a name means.
    pub fn files(&self, client: &Client, name: &HubName) -> Result<Vec<HubFile>> {
        let (org, repo) = (&name.org, &name.repo);
        let url = format!("{}/api/models/{org}/{repo}?blobs=true", self.endpoint);
        let source = Source { url: &url, token: self.token(), ..Source::default() };
        let text = client.document(&source).map_err(|error| self.refused(name, &error))?;
        let repository: Repository = serde_json::from_str(&text).map_err(|error| {
            Failure::running(format!("{} gave no list of files for {name}", self.endpoint))
                .why(error)
        })?;
        let paths: Vec<&str> = repository.siblings.iter().map(|s| s.rfilename.as_str()).collect();
        let chosen = choose(&paths, name)?;
        let known = repository.sha.as_deref().filter(|sha| is_hex(sha));
        let revision = known.unwrap_or("main");
        let files = chosen.into_iter().filter_map(|path| {
            let sibling = repository.siblings.iter().find(|s| s.rfilename == path)?;
            let lfs = sibling.lfs.as_ref();
            Some(HubFile {
                path: path.to_owned(),
                url: format!(
                    "{}/{org}/{repo}/resolve/{revision}/{}",
                    self.endpoint,
                    encode_path(path)
                ),
                revision: known.map(str::to_owned),
                bytes: lfs.and_then(|lfs| lfs.size).or(sibling.size),
                sha256: lfs
                    .and_then(|lfs| lfs.sha256.clone())
                    .filter(|sha| sha.len() == 64 && is_hex(sha))
                    .map(|sha| sha.to_ascii_lowercase()),
            })
        });
        Ok(files.collect())
    }

    /// The hub's answer as the user is told of it.
    pub fn refused(&self, name: &HubName, error: &HttpError) -> Failure {
        let repo = format!("{}/{}", name.org, name.repo);
        match error {
            HttpError::Status(401 | 403 | 404) => {
                Failure::running(format!("{} has no model {repo} for us", self.endpoint))
                    .why(format!("{error}: the name is wrong, or the model asks for a login"))
                    .mend(format!("HF_TOKEN=... lowtide {} {name}", self.command))
            }
            error => Failure::running(format!("cannot reach {} for {repo}", self.endpoint))
                .why(error)
                .mend("HF_ENDPOINT=https://MIRROR lowtide ..., or bring a .gguf file and give its path"),
        }
    }
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Percent-encodes all but unreserved characters (RFC 3986) and the slashes of a path.
fn encode_path(path: &str) -> String {
    path.bytes().fold(String::with_capacity(path.len()), |mut text, byte| {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                text.push(char::from(byte));
            }
            other => text.push_str(&format!("%{other:02X}")),
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_encoded() {
        assert_eq!(encode_path("a b/c+d#é.gguf"), "a%20b/c%2Bd%23%C3%A9.gguf");
    }
}
