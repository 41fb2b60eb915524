//! What a client is told when something is wrong, in OpenAI's shape or Anthropic's.

use std::fmt;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use crate::limits::RETRY_AFTER_S;

/// A refused or failed request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiError {
    /// The status.
    pub status: StatusCode,
    /// OpenAI's `type`.
    pub kind: &'static str,
    /// What is wrong, for people.
    pub message: String,
    /// The field it is about.
    pub param: Option<String>,
    /// What is wrong, for programs.
    pub code: Option<&'static str>,
    /// Nothing more is read from the connection.
    pub closes: bool,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, message: message.into(), param: None, code: None, closes: false }
    }

    /// 400: the request makes no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// 400 about a field.
    pub fn field(param: &str, message: impl fmt::Display) -> Self {
        Self { param: Some(param.to_owned()), ..Self::invalid(format!("{param}: {message}")) }
    }

    /// 401.
    pub fn unauthorized() -> Self {
        let message = "this server wants its API key: Authorization: Bearer KEY";
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message).code("invalid_api_key")
    }

    /// 403.
    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "permission_error", message)
    }

    /// 404 for a path.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message)
    }

    /// 404 for a model.
    pub fn no_model(name: &str, known: &[String]) -> Self {
        let shown: String = name.chars().take(100).collect();
        let message = format!("there is no model {shown:?} here; there is {}", known.join(", "));
        Self { param: Some("model".into()), ..Self::not_found(message).code("model_not_found") }
    }

    /// 413.
    pub fn too_large(bytes: Option<u64>, max: usize) -> Self {
        let message = match bytes {
            Some(bytes) => format!("the body has {bytes} bytes, at most {max} are taken"),
            None => format!("the body has more than {max} bytes, which is what is taken at most"),
        };
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message)
    }

    /// 413: not the body's length, but what it would take.
    pub fn too_much(message: impl Into<String>) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", message)
    }

    /// 415.
    pub fn media_type(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", message)
    }

    /// 408.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", message)
    }

    /// 429: the queue is full.
    pub fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message).code("queue_full")
    }

    /// 503: on the way up or down.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message)
    }

    /// 500: not the client's doing.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// With a code for programs.
    #[must_use]
    pub fn code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    /// With the end of the connection: what follows on it may not be what it seems.
    #[must_use]
    pub fn closing(mut self) -> Self {
        self.closes = true;
        self
    }

    /// OpenAI's body.
    pub fn openai(&self) -> Value {
        json!({ "error": {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.code,
        }})
    }

    /// Anthropic's body.
    pub fn anthropic(&self) -> Value {
        let kind = match self.status.as_u16() {
            401 => "authentication_error",
            403 => "permission_error",
            404 => "not_found_error",
            413 => "request_too_large",
            429 => "rate_limit_error",
            503 => "overloaded_error",
            500 => "api_error",
            _ => "invalid_request_error",
        };
        json!({ "type": "error", "error": { "type": kind, "message": self.message } })
    }

    /// The response with Anthropic's body.
    pub fn into_anthropic(self) -> Response {
        let body = self.anthropic();
        self.respond(&body)
    }

    fn respond(&self, body: &Value) -> Response {
        let mut response = (self.status, axum::body::Body::from(body.to_string())).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if matches!(self.status.as_u16(), 429 | 503) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_S));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // The rest of a body that is not wanted is not waited for.
        if self.closes || matches!(self.status.as_u16(), 408 | 413) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = self.openai();
        self.respond(&body)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address could not be had.
    #[error("cannot listen on {address}\n  {source}\n  give another --port, or --port 0 for any")]
    Bind {
        /// The address.
        address: String,
        /// The system's reason.
        source: std::io::Error,
    },
    /// Settings that would open the machine to others.
    #[error("{0}")]
    Unsafe(String),
    /// The API key's file.
    #[error("{0}")]
    Key(String),
    /// Certificate or key of TLS.
    #[error("{0}")]
    Tls(String),
    /// The system refused something the server cannot do without.
    #[error("cannot {what}\n  {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// The engine stopped for good.
    #[error("the model stopped answering\n  {0}")]
    Engine(String),
}
