//! What passes between a request and the engine's thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use lowtide_engine::sampler::SamplerParams;
use tokio::sync::mpsc;

use crate::constraint::Constraint;
use crate::error::ApiError;
use crate::limits::{
    ANSWER_PER_TOKEN, LOGPROB_BYTES, PENDING_BYTES_MAX, TOP_LOGPROB_BYTES, WORK_LEAST_BYTES,
};
use crate::model::ModelFace;

/// Something for the engine's thread to do.
pub struct Job {
    /// Of the model that is to do it.
    pub model: Arc<str>,
    /// What.
    pub work: Work,
    /// Where what comes of it goes.
    pub events: EventSender,
    /// When it was accepted.
    pub accepted: Instant,
}

/// Kinds of work.
pub enum Work {
    /// Have the model ready and say what it is like.
    Load,
    /// Answer.
    Generate(Box<Generate>),
    /// Hidden states of texts, as unit vectors.
    Embed {
        /// The texts' tokens.
        inputs: Vec<Vec<u32>>,
        /// How a text's states become one.
        pooling: Pooling,
    },
}

/// How the states of a text's tokens become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// The last one.
    Last,
}

/// An answer that is wanted.
pub struct Generate {
    /// The prompt's tokens, at least one.
    pub prompt: Vec<u32>,
    /// How many answers.
    pub choices: usize,
    /// Tokens of each at most.
    pub max_tokens: usize,
    /// Texts before which an answer ends.
    pub stop: Vec<String>,
    /// Another, which is the format's own: whoever asked is not told of it.
    pub end: Option<&'static str>,
    /// How tokens are chosen.
    pub sampling: SamplerParams,
    /// Log probabilities are wanted, with so many of the likeliest tokens.
    pub logprobs: Option<usize>,
    /// The model's own end is a token like any other.
    pub ignore_eos: bool,
    /// Control tokens become text, for formats that are written with them.
    pub show_control: bool,
    /// What the answer may look like.
    pub constraint: Option<Constraint>,
    /// The answers are gathered before they are sent: there is memory for all of it.
    pub gathered: bool,
}

impl Work {
    /// Bytes that may wait for whoever asked.
    pub fn pending_bytes_max(&self) -> usize {
        match self {
            // Whoever gathers waits for no client; where other threads keep it from running, its answer goes on.
            Self::Generate(wanted) if wanted.gathered => {
                PENDING_BYTES_MAX.saturating_add(wanted.answer_bytes())
            }
            _ => PENDING_BYTES_MAX,
        }
    }
}

/// Why an answer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finish {
    /// By the model's own end, or by the end of what a grammar allows.
    Stop,
    /// Before this text, which was asked for.
    StopText(String),
    /// As long as it may be.
    Length,
}

/// A token's log probability with those of others in its place. Their texts are looked up when they are written:
/// an answer may have many.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub id: u32,
    /// Natural logarithm.
    pub logprob: f64,
    /// The likeliest.
    pub top: Vec<(u32, f64)>,
}

impl TokenLogprob {
    /// Memory it takes in an answer.
    pub fn bytes(&self) -> usize {
        LOGPROB_BYTES + size_of_val(self.top.as_slice())
    }
}

impl Generate {
    /// Memory that the answers take at most, as far as it is known before, where they are gathered.
    pub fn answer_bytes(&self) -> usize {
        let of = |top: usize| LOGPROB_BYTES + top * TOP_LOGPROB_BYTES;
        let token = ANSWER_PER_TOKEN + self.logprobs.map_or(0, of);
        WORK_LEAST_BYTES + self.choices.saturating_mul(self.max_tokens).saturating_mul(token)
    }
}

/// What took how long, in seconds; and how much of what.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Figures {
    /// Waited for its turn.
    pub queue_s: f64,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Of which the session still held.
    pub cached_tokens: usize,
    /// For the others.
    pub prefill_s: f64,
    /// Tokens of all answers, end tokens included.
    pub completion_tokens: usize,
    /// For those.
    pub decode_s: f64,
    /// Waited for the disk.
    pub disk_wait_s: f64,
    /// Read.
    pub read_bytes: u64,
}

/// What the engine's thread tells.
pub enum Event {
    /// Tokens of the prompt that are done, and all of them, and those that were there before.
    Progress {
        /// Done.
        done: usize,
        /// In all.
        total: usize,
        /// Held before.
        cached: usize,
        /// Seconds since the start.
        seconds: f64,
    },
    /// A piece of an answer; empty text where half a character came.
    Piece {
        /// Which answer.
        choice: usize,
        /// Its text.
        text: String,
        /// Of the token, where asked for.
        logprob: Option<Box<TokenLogprob>>,
    },
    /// An answer has ended.
    Ended {
        /// Which answer.
        choice: usize,
        /// Why.
        finish: Finish,
    },
    /// Everything is done.
    Done(Figures),
    /// The model is ready.
    Loaded(Arc<ModelFace>),
    /// Vectors, one for each input.
    Embedded(Vec<Vec<f32>>),
    /// Nothing more comes.
    Failed(ApiError),
}

impl Event {
    /// Memory it takes while it waits.
    fn bytes(&self) -> usize {
        let own = size_of::<Self>();
        match self {
            Self::Piece { text, logprob, .. } => {
                own + text.len() + logprob.as_deref().map_or(0, TokenLogprob::bytes)
            }
            Self::Embedded(_) => 0,
            _ => own,
        }
    }
}

/// The engine's end.
#[derive(Clone)]
pub struct EventSender {
    channel: mpsc::UnboundedSender<Event>,
    cancelled: Arc<AtomicBool>,
    pending_bytes: Arc<AtomicUsize>,
    pending_bytes_max: usize,
}

/// The request's end. Dropping it stops the work.
pub struct Events {
    channel: mpsc::UnboundedReceiver<Event>,
    cancelled: Arc<AtomicBool>,
    pending_bytes: Arc<AtomicUsize>,
}

/// Both ends, for so many bytes between them.
pub fn channel(pending_bytes_max: usize) -> (EventSender, Events) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let cancelled = Arc::new(AtomicBool::new(false));
    let pending_bytes = Arc::new(AtomicUsize::new(0));
    let events = Events {
        channel: receiver,
        cancelled: Arc::clone(&cancelled),
        pending_bytes: Arc::clone(&pending_bytes),
    };
    (EventSender { channel: sender, cancelled, pending_bytes, pending_bytes_max }, events)
}

impl EventSender {
    /// Sends; never waits. A client that takes nothing while its answer grows past the bound is
    /// given up rather than waited for: others want the engine.
    pub fn send(&self, event: Event) {
        let bytes = event.bytes();
        let pending = self.pending_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if pending > self.pending_bytes_max || self.channel.send(event).is_err() {
            self.cancelled.store(true, Ordering::Relaxed);
        }
    }

    /// Whether nobody waits for the work any more.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }
}

impl Events {
    /// The next event. `None` after the last, or where the engine gave the answer up.
    pub fn poll(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<Event>> {
        let polled = self.channel.poll_recv(cx);
        if let std::task::Poll::Ready(Some(event)) = &polled {
            self.pending_bytes.fetch_sub(event.bytes(), Ordering::Relaxed);
        }
        polled
    }

    /// Whether the engine gave the answer up, as nobody took what there was of it.
    pub fn is_given_up(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// The next event.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_takes_nothing_is_given_up_and_memory_is_bounded() {
        let (sender, events) = channel(PENDING_BYTES_MAX);
        let piece = || Event::Piece { choice: 0, text: "x".repeat(1000), logprob: None };
        let mut sent = 0;
        while !sender.is_cancelled() {
            sender.send(piece());
            sent += 1;
            assert!(sent < 1000, "never given up");
        }
        assert!(sent * 1000 <= PENDING_BYTES_MAX + 2000 && events.is_given_up());
        drop(events);
    }

    #[test]
    fn whoever_leaves_stops_the_work() {
        let (sender, events) = channel(PENDING_BYTES_MAX);
        assert!(!sender.is_cancelled());
        drop(events);
        assert!(sender.is_cancelled());
    }
}
