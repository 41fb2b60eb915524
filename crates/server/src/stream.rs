//! From the engine's events to what clients read: whole, or as server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::body::Frame;
use serde_json::Value;
use tokio::time::{Instant, Sleep, sleep};

use crate::api::Caller;
use crate::error::ApiError;
use crate::format::Call;
use crate::job::{Event, Figures, Finish, TokenLogprob};
use crate::limits::{ANSWER_PER_TEXT_BYTE, PING_INTERVAL, WORK_LEAST_BYTES};
use crate::reader::{Delta, Reader};
use crate::state::{Ticket, stopping};

/// An answer, whole.
#[derive(Debug, Default)]
pub struct Answer {
    /// Text.
    pub text: String,
    /// Thought.
    pub thought: String,
    /// Calls.
    pub calls: Vec<Call>,
    /// Of each token, where asked for. In boxes, as they came: nothing large is moved when the list grows.
    #[expect(clippy::vec_box, reason = "a list that grows holds what is in it twice")]
    pub logprobs: Vec<Box<TokenLogprob>>,
    /// Why it ended.
    pub finish: Option<Finish>,
}

/// All answers, whole.
pub struct Collected {
    /// In order.
    pub answers: Vec<Answer>,
    /// What took how long.
    pub figures: Figures,
}

/// Waits for the end. What the answers take is counted by the caller's work, which holds what was expected of them.
///
/// # Errors
/// Whatever went wrong; 503 where there is no room for answers with more text than was expected.
pub async fn collect(
    caller: &Caller,
    mut ticket: Ticket,
    mut readers: Vec<Reader>,
) -> Result<Collected, ApiError> {
    let mut answers: Vec<Answer> = readers.iter().map(|_| Answer::default()).collect();
    let mut deltas = Vec::new();
    let mut bytes = WORK_LEAST_BYTES;
    while let Some(event) = ticket.events.next().await {
        match event {
            Event::Piece { choice, text, logprob } => {
                readers[choice].push(&text, &mut deltas);
                answers[choice].take(&mut deltas);
                bytes += text.len() * ANSWER_PER_TEXT_BYTE;
                bytes += logprob.as_deref().map_or(0, TokenLogprob::bytes);
                answers[choice].logprobs.extend(logprob);
                caller.shared.work.grow(&caller.work, bytes)?;
            }
            Event::Ended { choice, finish } => {
                readers[choice].finish(&mut deltas);
                answers[choice].take(&mut deltas);
                answers[choice].finish = Some(finish);
            }
            Event::Done(figures) => {
                caller.work.keep(bytes);
                return Ok(Collected { answers, figures });
            }
            Event::Failed(error) => return Err(error),
            Event::Progress { .. } | Event::Loaded(_) | Event::Embedded(_) => {}
        }
    }
    Err(broken_off(&ticket))
}

/// Why an answer ended without its end.
fn broken_off(ticket: &Ticket) -> ApiError {
    if ticket.events.is_given_up() {
        return ApiError::timeout(
            "the answer was given up: its client takes it more slowly than it is made",
        );
    }
    stopping()
}

impl Answer {
    fn take(&mut self, deltas: &mut Vec<Delta>) {
        for delta in deltas.drain(..) {
            match delta {
                Delta::Text(text) => self.text.push_str(&text),
                Delta::Thought(text) => self.thought.push_str(&text),
                Delta::Call(name) => self.calls.push(Call { name, arguments: String::new() }),
                Delta::Arguments(piece) => {
                    if let Some(call) = self.calls.last_mut() {
                        call.arguments.push_str(&piece);
                    }
                }
            }
        }
    }
}

/// How far a prompt is.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    /// Tokens done, those held before included.
    pub done: usize,
    /// All tokens.
    pub total: usize,
    /// Held before.
    pub cached: usize,
    /// Seconds since the start.
    pub seconds: f64,
}

/// Events on their way out.
#[derive(Default)]
pub struct Frames(VecDeque<Bytes>);

impl Frames {
    /// An event of data.
    pub fn data(&mut self, data: &Value) {
        self.raw(format!("data: {data}\n\n"));
    }

    /// A named event.
    pub fn named(&mut self, name: &str, data: &Value) {
        self.raw(format!("event: {name}\ndata: {data}\n\n"));
    }

    /// Text as it is.
    pub fn raw(&mut self, text: impl Into<String>) {
        self.0.push_back(Bytes::from(text.into()));
    }
}

/// A protocol's way to write a stream.
pub trait Protocol: Send {
    /// Before anything else.
    fn begin(&mut self, out: &mut Frames);
    /// While the prompt is read.
    fn progress(&mut self, _progress: Progress, _out: &mut Frames) {}
    /// A piece of an answer.
    fn piece(
        &mut self,
        choice: usize,
        deltas: Vec<Delta>,
        logprob: Option<Box<TokenLogprob>>,
        out: &mut Frames,
    );
    /// An answer's end.
    fn ended(&mut self, choice: usize, finish: &Finish, out: &mut Frames);
    /// The end.
    fn done(&mut self, figures: &Figures, out: &mut Frames);
    /// Something went wrong.
    fn failed(&mut self, error: &ApiError, out: &mut Frames);
    /// A sign of life.
    fn ping(&self) -> &'static str {
        ": still here\n\n"
    }
}

/// A stream of events as a body. Dropping it, as hyper does when the client leaves, stops the work.
struct EventBody {
    ticket: Option<Ticket>,
    readers: Vec<Reader>,
    protocol: Box<dyn Protocol>,
    frames: Frames,
    ping: Pin<Box<Sleep>>,
}

/// The response that streams what comes of a job.
pub fn respond(ticket: Ticket, readers: Vec<Reader>, mut protocol: Box<dyn Protocol>) -> Response {
    let mut frames = Frames::default();
    protocol.begin(&mut frames);
    let ping = Box::pin(sleep(PING_INTERVAL));
    event_stream(EventBody { ticket: Some(ticket), readers, protocol, frames, ping })
}

/// A response of server-sent events.
pub fn event_stream<B>(body: B) -> Response
where
    B: hyper::body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let mut response = Body::new(body.boxed_unsync()).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would otherwise collect a stream before it passes it on.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

impl EventBody {
    fn take(&mut self, event: Event) {
        let out = &mut self.frames;
        let mut deltas = Vec::new();
        match event {
            Event::Progress { done, total, cached, seconds } => {
                self.protocol.progress(Progress { done, total, cached, seconds }, out);
            }
            Event::Piece { choice, text, logprob } => {
                self.readers[choice].push(&text, &mut deltas);
                if !deltas.is_empty() || logprob.is_some() {
                    self.protocol.piece(choice, deltas, logprob, out);
                }
            }
            Event::Ended { choice, finish } => {
                self.readers[choice].finish(&mut deltas);
                if !deltas.is_empty() {
                    self.protocol.piece(choice, deltas, None, out);
                }
                self.protocol.ended(choice, &finish, out);
            }
            Event::Done(figures) => {
                self.protocol.done(&figures, out);
                self.ticket = None;
            }
            Event::Failed(error) => {
                self.protocol.failed(&error, out);
                self.ticket = None;
            }
            Event::Loaded(_) | Event::Embedded(_) => {}
        }
    }
}

impl hyper::body::Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            if let Some(frame) = self.frames.0.pop_front() {
                self.ping.as_mut().reset(Instant::now() + PING_INTERVAL);
                return Poll::Ready(Some(Ok(Frame::data(frame))));
            }
            let Some(ticket) = &mut self.ticket else { return Poll::Ready(None) };
            match ticket.events.poll(cx) {
                Poll::Ready(Some(event)) => self.take(event),
                Poll::Ready(None) => {
                    let error = broken_off(ticket);
                    let this = &mut *self;
                    this.protocol.failed(&error, &mut this.frames);
                    this.ticket = None;
                }
                Poll::Pending => {
                    if self.ping.as_mut().as_mut().poll(cx).is_pending() {
                        return Poll::Pending;
                    }
                    let ping = self.protocol.ping();
                    self.frames.raw(ping);
                }
            }
        }
    }
}
