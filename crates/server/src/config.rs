//! Settings of a server.

use std::net::{IpAddr, SocketAddr};

use crate::error::ServeError;
use crate::tls::Tls;

/// What a server is told.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The key that requests must bring.
    pub api_key: Option<ApiKey>,
    /// Names by which browsers may call the server, besides addresses and `localhost`.
    pub hosts: Vec<String>,
    /// Origins of pages that may use the server, besides its own.
    pub origins: Vec<String>,
    /// Requests that wait at most.
    pub queue: usize,
    /// TLS, where it is wanted.
    pub tls: Option<Tls>,
    /// Whether a request may bring its own chat template.
    pub allow_templates: bool,
    /// The program's version.
    pub version: &'static str,
}

/// An API key. Its text is in no log.
#[derive(Clone)]
pub struct ApiKey(String);

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ApiKey(..)")
    }
}

impl ApiKey {
    /// The key in the text of a file: one line.
    ///
    /// # Errors
    /// It is empty, or holds what no header can hold.
    pub fn new(text: &str) -> Result<Self, ServeError> {
        let bad = |why: &str| ServeError::Key(format!("the API key cannot be used\n  {why}"));
        let key = text.strip_suffix('\n').unwrap_or(text);
        let key = key.strip_suffix('\r').unwrap_or(key);
        if key.trim().is_empty() {
            return Err(bad(
                "the file is empty; write a key into it, such as: openssl rand -hex 32",
            ));
        }
        if key.contains(['\n', '\r']) {
            return Err(bad("the file has more than one line"));
        }
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(bad("it holds spaces or bytes that no header can hold"));
        }
        Ok(Self(key.to_owned()))
    }

    /// Whether `given` is the key, in a time that does not depend on where they differ.
    pub fn matches(&self, given: &[u8]) -> bool {
        subtle::ConstantTimeEq::ct_eq(self.0.as_bytes(), given).into()
    }
}

/// Refuses to open a machine to its network without a key.
///
/// # Errors
/// The address is not loopback, there is no key, and it is not forced.
pub fn check_exposure(address: SocketAddr, has_key: bool, forced: bool) -> Result<(), ServeError> {
    let loopback = match address.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => {
            ip.is_loopback() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_loopback())
        }
    };
    if loopback || has_key || forced {
        return Ok(());
    }
    Err(ServeError::Unsafe(format!(
        "{} is reachable by others, and there is no API key\n  anyone who reaches it could use this machine\n  try: --api-key-file FILE, or --host 127.0.0.1 (or --no-key if you are sure)",
        address.ip()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senseless_keys_are_refused() {
        for bad in ["", "\n", " \n", "a\nb\n", "a b", "k\u{e9}y", "\r\n"] {
            assert!(ApiKey::new(bad).is_err(), "{bad:?}");
        }
        let key = ApiKey::new("s3cret\r\n").unwrap();
        assert!(key.matches(b"s3cret") && !key.matches(b"s3cre") && !key.matches(b"s3cret\n"));
        assert_eq!(format!("{key:?}"), "ApiKey(..)");
    }

    #[test]
    fn beyond_loopback_a_key_is_wanted() {
        let open: SocketAddr = "0.0.0.0:80".parse().unwrap();
        assert!(check_exposure(open, false, false).is_err());
        assert!(
            check_exposure(open, true, false).is_ok() && check_exposure(open, false, true).is_ok()
        );
        for local in ["127.0.0.1:80", "127.3.4.5:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
            assert!(check_exposure(local.parse().unwrap(), false, false).is_ok());
        }
    }
}
