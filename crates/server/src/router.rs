//! From a request to an endpoint.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::{HeaderValue, Method, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Frame, Incoming};
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep, timeout};

use crate::api::chat::axum_json;
use crate::api::{Caller, chat, completions, embeddings, messages, responses, small};
use crate::error::ApiError;
use crate::gate;
use crate::json::{self, Fields};
use crate::limits::BODY_TIMEOUT;
use crate::page;
use crate::state::{Phase, Shared, stopping};
use crate::stream::event_stream;
use crate::tide::{LIVELY, QUIET, Tide};

/// Answers one request. Never fails: what goes wrong is a response.
pub async fn handle(
    shared: Arc<Shared>,
    peer: Option<IpAddr>,
    request: Request<Incoming>,
) -> Result<Response, Infallible> {
    let anthropic = request.uri().path().starts_with("/v1/messages");
    let head = request.method() == Method::HEAD;
    let allowed = allowed(request.uri().path());
    let mut foreign = None;
    let result = admitted(&shared, peer, request, &mut foreign).await;
    let mut response = result.unwrap_or_else(|error| {
        if anthropic { error.into_anthropic() } else { error.into_response() }
    });
    let status = response.status();
    let headers = response.headers_mut();
    for (name, value) in page::SAFETY {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    if matches!(status, StatusCode::METHOD_NOT_ALLOWED | StatusCode::NO_CONTENT) {
        headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Some(origin) = foreign {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
    }
    if shared.phase() == Phase::Stopping {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if head {
        *response.body_mut() = Body::empty();
    }
    Ok(response)
}

async fn admitted(
    shared: &Arc<Shared>,
    peer: Option<IpAddr>,
    request: Request<Incoming>,
    foreign: &mut Option<HeaderValue>,
) -> Result<Response, ApiError> {
    let admitted = gate::admit(&shared.config, request.headers())?;
    foreign.clone_from(&admitted.foreign);
    if request.method() == Method::OPTIONS {
        return Ok(preflight(admitted.foreign.is_some()));
    }
    let path = request.uri().path().to_owned();
    gate::check_key(&shared.config, &path, request.headers())?;
    let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
    match *method {
        Method::GET => get(shared, &path),
        Method::POST if is_post(&path) => post(shared, peer, &path, request).await,
        _ => Err(no_path(&path, is_post(&path) || get(shared, &path).is_ok())),
    }
}

/// The methods of a path, for `Allow`.
fn allowed(path: &str) -> &'static str {
    match path {
        "*" => "GET, HEAD, POST, OPTIONS",
        _ if is_post(path) => "POST, OPTIONS",
        _ => "GET, HEAD, OPTIONS",
    }
}

/// The answer to `OPTIONS`.
fn preflight(foreign: bool) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    if foreign {
        let headers = response.headers_mut();
        let set = HeaderValue::from_static;
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, set("GET, POST, OPTIONS"));
        let allowed = "authorization, content-type, x-api-key, anthropic-version, anthropic-beta";
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, set(allowed));
        headers.insert(header::ACCESS_CONTROL_MAX_AGE, set("600"));
    }
    response
}

/// 405 where the path is there for another method, else 404.
fn no_path(path: &str, has_other: bool) -> ApiError {
    if has_other || is_post(path) {
        let mut error = ApiError::invalid("this path does not take this method");
        error.status = StatusCode::METHOD_NOT_ALLOWED;
        return error;
    }
    ApiError::not_found("there is no such path; /openapi.json lists those there are")
}

fn get(shared: &Arc<Shared>, path: &str) -> Result<Response, ApiError> {
    let json = |value: &Value| axum_json(value).into_response();
    let face = || shared.face().ok_or_else(|| ApiError::unavailable("no model is loaded yet"));
    match path {
        "/" => Ok(page::file("")),
        "/favicon.ico" => Ok(page::file("favicon.ico")),
        "/health" | "/v1/health" => Ok(small::health(shared)),
        "/v1/models" | "/models" => Ok(json(&small::models(shared))),
        "/metrics" => {
            let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
            Ok((kind, shared.metrics.text(shared)).into_response())
        }
        "/openapi.json" => {
            let kind = [(header::CONTENT_TYPE, "application/json")];
            Ok((kind, include_str!("openapi.json")).into_response())
        }
        "/props" => Ok(json(&face()?.props(shared.config.version))),
        "/tide/layout" => Ok(json(&face()?.layout.json())),
        "/tide" => Ok(event_stream(TideBody::new(shared))),
        _ => {
            if let Some(name) = path.strip_prefix("/v1/models/") {
                return Ok(json(&small::one_model(shared, name)?));
            }
            match path.strip_prefix("/assets/") {
                Some(name) => Ok(page::file(name)),
                None => Err(no_path(path, false)),
            }
        }
    }
}

const POSTS: [&str; 10] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/embeddings",
    "/tokenize",
    "/detokenize",
    "/apply-template",
    "/chat/completions",
];

fn is_post(path: &str) -> bool {
    POSTS.contains(&path)
}

async fn post(
    shared: &Arc<Shared>,
    peer: Option<IpAddr>,
    path: &str,
    request: Request<Incoming>,
) -> Result<Response, ApiError> {
    gate::check_body(request.method(), request.headers())?;
    if shared.phase() == Phase::Stopping {
        return Err(stopping());
    }
    let (bytes, body) = read(shared, request.into_body()).await?;
    let length = bytes.len();
    let work = Arc::new(shared.work.begin(length).await?);
    let parse = {
        let work = Arc::clone(&work);
        // What a client that leaves had begun goes on to its end, and is counted until then.
        move || {
            let parsed = json::object(&bytes, work.bytes());
            drop((bytes, work));
            parsed
        }
    };
    // A large body takes milliseconds to parse: other connections go on meanwhile.
    let parsed = tokio::task::spawn_blocking(parse).await;
    let (mut fields, taken) =
        parsed.map_err(|_| ApiError::internal("the body could not be parsed"))??;
    shared.work.parsed(&work, length, taken)?;
    let client = client(peer, &mut fields);
    let caller = Caller { shared: Arc::clone(shared), client, work, body: Arc::new(body) };
    dispatch(&caller, path, fields).await
}

async fn dispatch(caller: &Caller, path: &str, fields: Fields) -> Result<Response, ApiError> {
    let json = |value: Value| axum_json(&value).into_response();
    match path {
        "/v1/chat/completions" | "/chat/completions" => chat::complete(caller, fields).await,
        "/v1/completions" => completions::complete(caller, fields).await,
        "/v1/responses" => responses::answer(caller, fields).await,
        "/v1/messages" => messages::answer(caller, fields).await,
        "/v1/messages/count_tokens" => messages::count(caller, fields).await.map(json),
        "/v1/embeddings" => embeddings::embed(caller, fields).await,
        "/tokenize" => small::tokenize(caller, fields).await,
        "/detokenize" => small::detokenize(caller, fields).await,
        _ => small::apply_template(caller, fields).await,
    }
}

/// The queue's lane: the address, and within it whom the request names.
fn client(peer: Option<IpAddr>, fields: &mut Fields) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    peer.hash(&mut hasher);
    for name in ["user", "safety_identifier"] {
        if let Ok(Some(user)) = fields.string(name) {
            user.hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// Reads a body within its bounds. The bytes are counted against what all bodies may have together
/// as they come, so that a promise of many costs nobody anything.
async fn read(
    shared: &Arc<Shared>,
    body: Incoming,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), ApiError> {
    let max = shared.limits.body_bytes;
    let promised = body.size_hint().exact();
    if let Some(bytes) = promised.filter(|bytes| *bytes > max as u64) {
        return Err(ApiError::too_large(Some(bytes), max));
    }
    let slow = |_| ApiError::timeout("the body took too long to come");
    timeout(BODY_TIMEOUT, gather(shared, body, max)).await.map_err(slow)?
}

async fn gather(
    shared: &Arc<Shared>,
    mut body: Incoming,
    max: usize,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), ApiError> {
    let mut bytes = BytesMut::new();
    let mut permit: Option<OwnedSemaphorePermit> = None;
    while let Some(frame) = body.frame().await {
        let frame =
            frame.map_err(|error| ApiError::invalid(format!("the body broke off: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > max {
            return Err(ApiError::too_large(None, max));
        }
        let more = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let full = |_| ApiError::busy("other requests' bodies fill the memory set aside for them");
        let taken = Arc::clone(&shared.bodies).try_acquire_many_owned(more).map_err(full)?;
        match &mut permit {
            Some(permit) => permit.merge(taken),
            None => permit = Some(taken),
        }
        bytes.extend_from_slice(&data);
    }
    Ok((bytes.freeze(), permit))
}

/// The tide's events.
struct TideBody {
    tide: Tide,
    shared: Arc<Shared>,
    next: Pin<Box<Sleep>>,
    quiet_since: Instant,
}

impl TideBody {
    fn new(shared: &Arc<Shared>) -> Self {
        let next = Box::pin(sleep(std::time::Duration::ZERO));
        let tide = Tide::new(shared);
        Self { tide, shared: Arc::clone(shared), next, quiet_since: Instant::now() }
    }
}

impl hyper::body::Body for TideBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            std::task::ready!(self.next.as_mut().poll(cx));
            if self.shared.phase() == Phase::Stopping {
                return Poll::Ready(None);
            }
            let now = Instant::now();
            let (event, moved) = self.tide.event();
            self.next.as_mut().reset(now + LIVELY);
            // Looked at often, told rarely while nothing moves: the first movement is seen at once.
            if !moved && now - self.quiet_since < QUIET {
                continue;
            }
            self.quiet_since = now;
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from(format!("data: {event}\n\n"))))));
        }
    }
}
