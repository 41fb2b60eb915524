//! Who may ask: hosts, origins, keys.
//!
//! A page anywhere in the web can make a browser send requests to a server on the same machine. What it cannot do is
//! lie in `Host` and `Origin`: a name that was rebound to this address is in `Host`, the page's own origin in
//! `Origin`. Both are checked before anything else is looked at.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderValue, Method, header};

use crate::config::Config;
use crate::error::ApiError;

/// Who is let in, with which origin, if it is another than the server's own.
#[derive(Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The origin that may read the answer.
    pub foreign: Option<HeaderValue>,
}

/// Checks `Host` and `Origin`.
///
/// # Errors
/// 400 for no `Host`, or two, and the connection ends; 403 for foreign ones.
pub fn admit(config: &Config, headers: &HeaderMap) -> Result<Admitted, ApiError> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) => host,
        (None, _) => return Err(ApiError::invalid("the request has no Host").closing()),
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid("the request has two Hosts").closing());
        }
    };
    let host = host.to_str().map_err(|_| ApiError::invalid("Host is no text"))?;
    if !is_own_host(config, host) {
        return Err(ApiError::forbidden(
            "this server does not answer to that Host; --allow-host NAME lets it",
        ));
    }
    let Some(origin) = headers.get(header::ORIGIN) else {
        // Pictures and scripts of foreign pages are fetched without an origin.
        let says = |name: &str, what: &str| headers.get(name).is_some_and(|value| value == what);
        if says("sec-fetch-site", "cross-site") && !says("sec-fetch-mode", "navigate") {
            return Err(foreign_origin());
        }
        return Ok(Admitted { foreign: None });
    };
    let text = origin.to_str().map_err(|_| foreign_origin())?;
    let own = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    if own.is_some_and(|authority| authority.eq_ignore_ascii_case(host)) {
        return Ok(Admitted { foreign: None });
    }
    if config.origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(text)) {
        return Ok(Admitted { foreign: Some(origin.clone()) });
    }
    Err(foreign_origin())
}

fn foreign_origin() -> ApiError {
    ApiError::forbidden(
        "pages of another origin may not use this server; --allow-origin URL lets them",
    )
}

/// An address, `localhost`, or a name that is allowed. An address cannot be rebound.
fn is_own_host(config: &Config, host: &str) -> bool {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, rest)) => (name, rest.strip_prefix(':')),
        None => match host.rsplit_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    if port.is_some_and(|port| port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit())) {
        return false;
    }
    let is_name = |allowed: &str| name.eq_ignore_ascii_case(allowed);
    name.parse::<IpAddr>().is_ok()
        || is_name("localhost")
        || config.hosts.iter().any(|allowed| is_name(allowed))
}

/// Whether a path may be had without a key: health, and the page, which asks for one.
fn is_open(path: &str) -> bool {
    path == "/" || path == "/health" || path == "/favicon.ico" || path.starts_with("/assets/")
}

/// Checks the key: `Authorization: Bearer`, or Anthropic's `x-api-key`.
///
/// # Errors
/// 401.
pub fn check_key(config: &Config, path: &str, headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(key) = &config.api_key else { return Ok(()) };
    if is_open(path) {
        return Ok(());
    }
    let bearer = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes).and_then(|value| {
        let (scheme, given) = value.split_at_checked(7)?;
        scheme.eq_ignore_ascii_case(b"bearer ").then_some(given)
    });
    let given = bearer.or_else(|| headers.get("x-api-key").map(HeaderValue::as_bytes));
    match given {
        Some(given) if key.matches(given) => Ok(()),
        _ => Err(ApiError::unauthorized()),
    }
}

/// Checks what a body says it is: JSON, and not compressed.
///
/// # Errors
/// 415.
pub fn check_body(method: &Method, headers: &HeaderMap) -> Result<(), ApiError> {
    if method != Method::POST {
        return Ok(());
    }
    let encodings = headers.get_all(header::CONTENT_ENCODING);
    if encodings.iter().any(|encoding| encoding != "identity") {
        return Err(ApiError::media_type("compressed bodies are not taken"));
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(ApiError::media_type("the body must be application/json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ApiKey;

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            let name: axum::http::HeaderName = name.parse().unwrap();
            headers.append(name, value.parse().unwrap());
        }
        headers
    }

    fn status(list: &[(&str, &str)]) -> u16 {
        let config = Config {
            hosts: vec!["box.lan".into()],
            origins: vec!["https://ui.example".into()],
            ..Config::default()
        };
        admit(&config, &headers(list)).map_or_else(|error| error.status.as_u16(), |_| 200)
    }

    #[test]
    fn foreign_hosts_and_origins_stay_out() {
        for (list, expected) in [
            (&[("host", "127.0.0.1:80")][..], 200),
            (&[("host", "[::1]:80")], 200),
            (&[("host", "LOCALHOST:1")], 200),
            (&[("host", "box.lan")], 200),
            (&[("host", "192.168.1.2:80")], 200),
            (&[("host", "evil.example")], 403),
            (&[("host", "localhost.evil.example")], 403),
            (&[("host", "localhost:x")], 403),
            (&[("host", "127.0.0.1@evil.example")], 403),
            (&[], 400),
            (&[("host", "localhost"), ("host", "localhost")], 400),
            (&[("host", "localhost:1"), ("origin", "http://localhost:1")], 200),
            (&[("host", "localhost:1"), ("origin", "http://localhost:2")], 403),
            (&[("host", "localhost:1"), ("origin", "https://evil.example")], 403),
            (&[("host", "localhost:1"), ("origin", "null")], 403),
            (&[("host", "localhost:1"), ("origin", "https://ui.example")], 200),
            (&[("host", "localhost"), ("sec-fetch-site", "cross-site")], 403),
            (
                &[
                    ("host", "localhost"),
                    ("sec-fetch-site", "cross-site"),
                    ("sec-fetch-mode", "navigate"),
                ],
                200,
            ),
        ] {
            assert_eq!(status(list), expected, "{list:?}");
        }
    }

    #[test]
    fn keys_are_taken_in_both_ways() {
        let config = Config { api_key: Some(ApiKey::new("k3y").unwrap()), ..Config::default() };
        let check = |path: &str, list: &[(&str, &str)]| check_key(&config, path, &headers(list));
        assert!(check("/v1/models", &[("authorization", "Bearer k3y")]).is_ok());
        assert!(check("/v1/models", &[("authorization", "bearer k3y")]).is_ok());
        assert!(check("/v1/models", &[("x-api-key", "k3y")]).is_ok());
        assert!(check("/health", &[]).is_ok() && check("/assets/a.js", &[]).is_ok());
        for bad in ["Bearer k3", "Bearer k3y ", "Basic k3y", "k3y", "", "Bearer"] {
            assert!(check("/v1/models", &[("authorization", bad)]).is_err(), "{bad}");
        }
        assert!(check("/metrics", &[]).is_err());
    }
}
