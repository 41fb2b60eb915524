//! Asking over HTTP: retried, with the certificates of this machine.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use ureq::http::{Response, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use crate::progress;

/// A server that takes longer to say who it is is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// A silent connection is given up, and the fetch is resumed on a new one.
const READ_TIMEOUT: Duration = Duration::from_secs(45);
/// Attempts in a row that get no further, with a server that has answered.
const ATTEMPTS_MAX: u32 = 5;
/// The same where the server has never answered.
const ATTEMPTS_MAX_UNHEARD: u32 = 2;
/// A server that asks for more patience (`Retry-After`) is asked again after this.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(120);
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
#[derive(Debug, Clone, Copy, Default)]
pub struct Source<'a> {
    /// `http:` or `https:`.
    pub url: &'a str,
    /// A bearer token; not sent on to other hosts.
    pub token: Option<&'a str>,
    /// The file's length, where it is known beforehand.
    pub bytes: Option<u64>,
    /// Its SHA-256, where it is known beforehand.
    pub sha256: Option<&'a str>,
    /// The hub's revision that the address names, if it names one: its bytes never change.
    pub revision: Option<&'a str>,
}

impl Source<'_> {
    /// The last word of the address, for people; an address may hold a password.
    fn name(&self) -> &str {
        let path = self.url.split(['?', '#']).next().unwrap_or_default();
        path.rsplit('/').next().unwrap_or_default()
    }
}

/// Which bytes of a source are wanted.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ask<'a> {
    /// The first one.
    pub from: u64,
    /// The one after the last, where not all are wanted.
    pub to: Option<u64>,
    /// All bytes instead, where the file is no longer the one with this ETag.
    pub if_range: Option<&'a str>,
}

/// Why an attempt brought no more.
pub(super) struct Cut {
    why: HttpError,
    /// When the server wants to be asked again.
    retry_after: Option<Duration>,
}

impl From<HttpError> for Cut {
    fn from(why: HttpError) -> Self {
        Self { why, retry_after: None }
    }
}

impl Cut {
    /// The server is busy.
    pub fn of_status(response: &Response<Body>) -> Self {
        let seconds =
            header_text(response, &header::RETRY_AFTER).and_then(|s| s.trim().parse().ok());
        let why = HttpError::Status(response.status().as_u16());
        Self { why, retry_after: seconds.map(Duration::from_secs) }
    }
}

/// What is left of the patience with a server.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// The length reached so far.
    reached: u64,
    /// Attempts in a row that got no further.
    failures: u32,
    /// It has answered.
    heard: bool,
}

impl Patience {
    /// With so many bytes to begin with.
    pub fn from(reached: u64) -> Self {
        Self { reached, ..Self::default() }
    }

    /// One more attempt ended at this length; whether there is to be another.
    fn goes_on(&mut self, reached: u64, why: &HttpError) -> bool {
        let is_further = reached > self.reached;
        self.reached = self.reached.max(reached);
        self.heard |= is_further || !matches!(why, HttpError::Unreachable(_));
        self.failures = if is_further { 1 } else { self.failures + 1 };
        self.failures < if self.heard { ATTEMPTS_MAX } else { ATTEMPTS_MAX_UNHEARD }
    }
}

/// An HTTP client; proxies are taken from the environment.
pub struct Client {
    agent: Agent,
    /// The wait before the second attempt in a row; doubled for each further one.
    retry_wait: Duration,
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

    /// Asks for a file, or bytes of it.
    pub(super) fn get(
        &self,
        source: &Source<'_>,
        ask: &Ask<'_>,
    ) -> Result<Response<Body>, HttpError> {
        let from = ask.from;
        let mut request = self.agent.get(source.url);
        if let Some(token) = source.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        match ask.to {
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
        if let Some(etag) = ask.if_range {
            request = request.header(header::IF_RANGE, etag);
        }
        request.call().map_err(|error| match error {
            ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::InvalidProxyUrl => {
                HttpError::Protocol(error.to_string())
            }
            error => HttpError::Unreachable(error.to_string()),
        })
    }

    /// Waits before the next attempt, which the server may have a say in; gives up after so many
    /// in a row that got no further.
    pub(super) fn pause(
        &self,
        patience: &mut Patience,
        reached: u64,
        cut: Cut,
        source: &Source<'_>,
    ) -> Result<(), HttpError> {
        if !patience.goes_on(reached, &cut.why) {
            return Err(cut.why);
        }
        let doubled = self.retry_wait * 2_u32.pow(patience.failures - 1);
        let wait = cut.retry_after.map_or(doubled, |asked| asked.min(RETRY_AFTER_MAX));
        progress::pausing(&format!("{}: {}", source.name(), cut.why), wait);
        std::thread::sleep(wait);
        Ok(())
    }

    /// A small answer as text.
    pub fn document(&self, source: &Source<'_>) -> Result<String, HttpError> {
        let mut patience = Patience::default();
        loop {
            let mut response = self.get(source, &Ask::default())?;
            match response.status().as_u16() {
                200 => {
                    let body = response.body_mut().with_config().limit(DOCUMENT_BYTES_MAX);
                    let text = body.read_to_string();
                    return text.map_err(|error| HttpError::Unreachable(error.to_string()));
                }
                status if is_passing(status) => {
                    self.pause(&mut patience, 0, Cut::of_status(&response), source)?;
                }
                status => return Err(HttpError::Status(status)),
            }
        }
    }
}

/// Whether it may be another answer in a moment.
pub(super) fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 429 | 500..=599)
}

pub(super) fn header_text<'r>(
    response: &'r Response<Body>,
    name: &header::HeaderName,
) -> Option<&'r str> {
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
pub(super) fn content_range_total(response: &Response<Body>) -> Option<u64> {
    header_text(response, &header::CONTENT_RANGE)?.rsplit_once('/')?.1.trim().parse().ok()
}
