//! Fetching files over HTTP: resumed, retried, with the certificates of this machine.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::{Response, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use crate::progress::Transfer;

/// A server that takes longer to say who it is is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// A silent connection is given up, and the fetch is resumed on a new one.
const READ_TIMEOUT: Duration = Duration::from_secs(45);
/// Attempts in a row that bring no byte, where some earlier one did.
const ATTEMPTS_MAX: u32 = 5;
/// The same where the server has never answered.
const ATTEMPTS_MAX_UNHEARD: u32 = 2;
/// Answers that are not files (a hub's list) are small.
const DOCUMENT_BYTES_MAX: u64 = 64 << 20;

/// Why a fetch failed.
#[derive(Debug)]
pub enum HttpError {
    /// The server answered with this status.
    Status(u16),
    /// It could not be reached, or went away for good.
    Unreachable(String),
    /// The answer makes no sense.
    Protocol(String),
    /// The disk, not the network.
    Disk(PathBuf, io::Error),
    /// Another lowtide is fetching the same file.
    Busy(PathBuf),
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "the server answered with HTTP status {status}"),
            Self::Unreachable(why) | Self::Protocol(why) => f.write_str(why),
            Self::Disk(path, error) => write!(f, "cannot write {}: {error}", path.display()),
            Self::Busy(path) => write!(f, "another lowtide is writing {}", path.display()),
        }
    }
}

impl std::error::Error for HttpError {}

/// What to fetch.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// `http:` or `https:`.
    pub url: &'a str,
    /// A bearer token; not sent on to other hosts.
    pub token: Option<&'a str>,
    /// The file's length, where it is known beforehand.
    pub bytes: Option<u64>,
}

/// An HTTP client; proxies are taken from the environment.
pub struct Client {
    agent: Agent,
    /// The wait before the second attempt in a row; doubled for each further one.
    retry_wait: Duration,
}

/// How one attempt ended.
enum Attempt {
    Complete(u64),
    /// Bytes gained, and why there are no more.
    Cut(u64, HttpError),
}

impl Client {
    /// A client with the machine's root certificates (`SSL_CERT_FILE`, `SSL_CERT_DIR` honoured),
    /// Mozilla's where the machine has none.
    pub fn new() -> Self {
        let native = rustls_native_certs::load_native_certs().certs;
        let roots = if native.is_empty() {
            RootCerts::WebPki
        } else {
            native.iter().map(|der| Certificate::from_der(der.as_ref()).to_owned()).into()
        };
        let agent = Agent::config_builder()
            .tls_config(TlsConfig::builder().root_certs(roots).build())
            .http_status_as_error(false)
            .user_agent(concat!("lowtide/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(READ_TIMEOUT))
            .timeout_per_read(Some(READ_TIMEOUT))
            .build()
            .new_agent();
        Self { agent, retry_wait: Duration::from_secs(1) }
    }

    /// The same with hardly any waits, for tests against a local server.
    #[cfg(test)]
    pub fn impatient() -> Self {
        Self { retry_wait: Duration::from_millis(1), ..Self::new() }
    }

    /// Asks for the bytes from `from` on, up to `to` where that is given.
    pub(super) fn get(
        &self,
        source: &Source<'_>,
        from: u64,
        to: Option<u64>,
    ) -> Result<Response<Body>, HttpError> {
        let mut request = self.agent.get(source.url);
        if let Some(token) = source.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        match to {
            // The last byte of a range is part of it (RFC 9110, 14.1.2).
            Some(to) => {
                let range = format!("bytes={from}-{}", to.saturating_sub(1));
                request = request.header(header::RANGE, range);
            }
            None if from > 0 => {
                request = request.header(header::RANGE, format!("bytes={from}-"));
            }
            None => {}
        }
        request.call().map_err(|error| match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::InvalidProxyUrl => {
                HttpError::Protocol(error.to_string())
            }
            error => HttpError::Unreachable(error.to_string()),
        })
    }

    /// Waits before the next attempt; gives up after so many in a row that brought nothing.
    pub(super) fn wait_or_give_up(
        &self,
        failures: u32,
        heard: bool,
        why: HttpError,
    ) -> Result<(), HttpError> {
        if failures >= if heard { ATTEMPTS_MAX } else { ATTEMPTS_MAX_UNHEARD } {
            return Err(why);
        }
        std::thread::sleep(self.retry_wait * 2_u32.pow(failures.saturating_sub(1)));
        Ok(())
    }

    /// A small answer as text.
    pub fn document(&self, source: &Source<'_>) -> Result<String, HttpError> {
        let mut response = self.get(source, 0, None)?;
        match response.status().as_u16() {
            200 => response
                .body_mut()
                .with_config()
                .limit(DOCUMENT_BYTES_MAX)
                .read_to_string()
                .map_err(|error| HttpError::Unreachable(error.to_string())),
            status => Err(HttpError::Status(status)),
        }
    }

    /// Fetches into `part`, going on where an earlier fetch stopped. Returns the file's length.
    /// Whether its bytes are the right ones is for the caller to check.
    pub fn download(
        &self,
        source: &Source<'_>,
        part: &Path,
        progress: &Transfer,
    ) -> Result<u64, HttpError> {
        let disk = |error| HttpError::Disk(part.to_owned(), error);
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(part)
            .map_err(disk)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(HttpError::Busy(part.to_owned())),
            // A file system without locks: then nobody is kept out, as with any other program.
            Err(TryLockError::Error(_)) => {}
        }
        let mut heard = false;
        let mut failures = 0;
        loop {
            match self.attempt(source, &mut file, part, progress)? {
                Attempt::Complete(bytes) => {
                    file.sync_all().map_err(disk)?;
                    return Ok(bytes);
                }
                Attempt::Cut(gained, why) => {
                    heard |= gained > 0;
                    failures = if gained > 0 { 1 } else { failures + 1 };
                    self.wait_or_give_up(failures, heard, why)?;
                }
            }
        }
    }

    fn attempt(
        &self,
        source: &Source<'_>,
        file: &mut File,
        part: &Path,
        progress: &Transfer,
    ) -> Result<Attempt, HttpError> {
        let disk = |error| HttpError::Disk(part.to_owned(), error);
        let mut have = file.seek(SeekFrom::End(0)).map_err(disk)?;
        match source.bytes {
            Some(bytes) if have == bytes => return Ok(Attempt::Complete(have)),
            // Longer than the whole: not a piece of it.
            Some(bytes) if have > bytes => have = 0,
            _ => {}
        }
        let response = match self.get(source, have, None) {
            Ok(response) => response,
            Err(why @ HttpError::Unreachable(_)) => return Ok(Attempt::Cut(0, why)),
            Err(other) => return Err(other),
        };
        let total = match response.status().as_u16() {
            200 => {
                have = 0;
                content_length(&response)
            }
            206 => match content_range(&response) {
                Some((start, total)) if start == have => total,
                _ => return Err(HttpError::Protocol("the server sent another range".to_owned())),
            },
            // Nothing comes after what is here: it is the whole, or a piece of something else.
            416 if have > 0 => {
                if content_range_total(&response) == Some(have) && source.bytes.is_none() {
                    return Ok(Attempt::Complete(have));
                }
                file.set_len(0).map_err(disk)?;
                progress.set_done(0);
                let why = HttpError::Protocol("the server has no such range".to_owned());
                return Ok(Attempt::Cut(0, why));
            }
            status if is_passing(status) => {
                return Ok(Attempt::Cut(0, HttpError::Status(status)));
            }
            status => return Err(HttpError::Status(status)),
        };
        let total = total.or(source.bytes);
        if let Some((claimed, known)) = total.zip(source.bytes).filter(|(a, b)| a != b) {
            let why = format!("the server's file has {claimed} bytes, {known} were expected");
            return Err(HttpError::Protocol(why));
        }
        file.set_len(have).map_err(disk)?;
        file.seek(SeekFrom::Start(have)).map_err(disk)?;
        progress.set_done(have);
        if let Some(total) = total {
            progress.set_total(total);
        }
        copy_body(response, file, have, total, part, progress)
    }
}

/// Whether it may be another answer in a moment.
pub(super) fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..=599)
}

fn copy_body(
    response: Response<Body>,
    file: &mut File,
    have: u64,
    total: Option<u64>,
    part: &Path,
    progress: &Transfer,
) -> Result<Attempt, HttpError> {
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; 256 << 10];
    let mut gained: u64 = 0;
    let cut = |gained, why: String| Ok(Attempt::Cut(gained, HttpError::Unreachable(why)));
    loop {
        let n = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return cut(gained, format!("the connection broke: {error}")),
        };
        if total.is_some_and(|total| have + gained + n as u64 > total) {
            return Err(HttpError::Protocol("the server sent more than the file".to_owned()));
        }
        file.write_all(&buffer[..n]).map_err(|error| HttpError::Disk(part.to_owned(), error))?;
        gained += n as u64;
        progress.add(n as u64);
    }
    match total {
        Some(total) if have + gained < total => {
            cut(gained, format!("the connection ended at {} of {total} bytes", have + gained))
        }
        _ => Ok(Attempt::Complete(have + gained)),
    }
}

fn header_text<'r>(response: &'r Response<Body>, name: &header::HeaderName) -> Option<&'r str> {
    response.headers().get(name)?.to_str().ok()
}

pub(super) fn content_length(response: &Response<Body>) -> Option<u64> {
    header_text(response, &header::CONTENT_LENGTH)?.parse().ok()
}

/// `bytes 100-199/200` -> (100, Some(200)).
pub(super) fn content_range(response: &Response<Body>) -> Option<(u64, Option<u64>)> {
    let range = header_text(response, &header::CONTENT_RANGE)?.strip_prefix("bytes ")?;
    let (range, total) = range.split_once('/')?;
    Some((range.split_once('-')?.0.trim().parse().ok()?, total.trim().parse().ok()))
}

/// `bytes */200` -> 200.
fn content_range_total(response: &Response<Body>) -> Option<u64> {
    header_text(response, &header::CONTENT_RANGE)?.rsplit_once('/')?.1.trim().parse().ok()
}
