//! One answer, as it comes: token after token from the engine, whole characters out.

use std::time::Instant;

use anyhow::Result;
use lowtide_engine::{Engine, Error, Logits, Session, TextStream};
use lowtide_tokenizer::Tokenizer;

use crate::chooser::Chooser;
use crate::failure::Failure;
use crate::live::Live;
use crate::load::{Phase, failure};
use crate::logprobs::Logprobs;
use crate::observe::{Observers, Pass};
use crate::progress::Waiting;
use crate::report::{Timed, Times};
use crate::signals::Interruptible;
use crate::watch::Watch;

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model said so (an end-of-generation token).
    EndOfGeneration,
    /// As many tokens as were asked for.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// A stop text came, or Ctrl-C.
    Stopped,
}

/// Bounds of an answer.
#[derive(Debug, Clone, Default)]
pub struct Bounds {
    /// Tokens at most; `None`: what the context holds.
    pub max_tokens: Option<usize>,
    /// The model's own end is a token like any other.
    pub ignore_eos: bool,
    /// Texts before which the answer ends.
    pub stop: Vec<String>,
    /// Log-probabilities are kept, with so many of the likeliest tokens.
    pub logprobs: Option<usize>,
    /// The text is kept until the answer has ended.
    pub keeps_text: bool,
    /// Tokens that memory was claimed for: an answer has no more.
    pub tokens_claimed: usize,
}

impl Bounds {
    /// Bytes that an answer keeps until it has ended, at most.
    pub fn claim_bytes(&self, tokenizer: &Tokenizer) -> u64 {
        let text = if self.keeps_text { tokenizer.token_bytes_max() } else { 0 };
        let logprobs = self.logprobs.map_or(0, |top| Logprobs::token_bytes(top, tokenizer));
        let token = size_of::<u32>() + text + logprobs;
        (self.tokens_claimed as u64).saturating_mul(token as u64)
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The text, without a stop text; empty where it is not kept.
    pub text: String,
    /// The tokens, without an end token.
    pub ids: Vec<u32>,
    /// Why it ended.
    pub finish: Finish,
    /// Whether the text ends with a line end.
    pub ends_line: bool,
    /// Of each token, where asked for.
    pub logprobs: Logprobs,
    /// What took how long.
    pub times: Times,
}

/// Where the text goes, piece by piece.
pub type Emit<'e> = dyn FnMut(&str) -> Result<()> + 'e;

/// One answer in the making.
pub struct Answering<'a> {
    /// The model.
    pub engine: &'a mut Engine,
    /// Its session: after an answer it holds the prompt and all tokens of the answer but the last.
    pub session: &'a mut Session,
    /// Bounds.
    pub bounds: &'a Bounds,
    /// Chooses tokens.
    pub chooser: &'a mut Chooser,
    /// Ctrl-C.
    pub stop: &'a Interruptible,
    /// Those who keep books.
    pub observers: &'a mut Observers,
    /// What memory is used, for them.
    pub watch: &'a Watch,
    /// What the fastest token took beside waiting for bytes; `None` before the first.
    pub token_compute_s: Option<f64>,
}

impl Answering<'_> {
    /// Runs `prompt` through the model and answers. A Ctrl-C ends the answer, wherever it is.
    pub fn answer(&mut self, prompt: &[u32], emit: &mut Emit<'_>) -> Result<Answer> {
        if prompt.is_empty() {
            return Err(failure(&Error::EmptyPrompt, Phase::Running));
        }
        let mut text = TextStream::new(&self.bounds.stop)
            .map_err(|error| Failure::input(format!("--stop: {error}")))?;
        let mut out = Answer {
            text: String::new(),
            ids: Vec::with_capacity(self.bounds.tokens_claimed),
            finish: Finish::Stopped,
            ends_line: false,
            logprobs: Logprobs::with_capacity(
                self.bounds.logprobs.map_or(0, |_| self.bounds.tokens_claimed),
                self.bounds.logprobs.unwrap_or(0),
                self.engine.tokenizer(),
            ),
            times: Times::default(),
        };
        let begun = Instant::now();
        let prefilled = self.prefill(prompt)?;
        let prefill_s = begun.elapsed().as_secs_f64();
        if prefilled {
            out.times.prefill = Timed { tokens: prompt.len(), seconds: prefill_s };
            out.times.first_token_s = prefill_s;
            let before = self.engine.store().stats().total;
            self.observers.live = Live::begin(self.engine, self.stop.flag());
            let begun = Instant::now();
            out.finish = self.decode(&mut out, &mut text, emit)?;
            out.times.decode.seconds = begun.elapsed().as_secs_f64();
            let after = self.engine.store().stats().total;
            out.times.decode_read_bytes = after.read_bytes() - before.read_bytes();
            out.times.decode_disk_s = after.disk_busy_s - before.disk_busy_s;
            out.times.decode_missed_bytes = after.expert_bytes - before.expert_bytes;
            out.times.token_compute_s = self.token_compute_s;
            self.observers.end()?;
        }
        self.say(&mut out, &text.finish(), emit)?;
        Ok(out)
    }

    /// A piece of the text, for those who read it now and those who read it at the end.
    fn say(&self, out: &mut Answer, piece: &str, emit: &mut Emit<'_>) -> Result<()> {
        if !piece.is_empty() {
            out.ends_line = piece.ends_with('\n');
        }
        if self.bounds.keeps_text {
            out.text.push_str(piece);
        }
        emit(piece)
    }

    /// The prompt through the model, telling how far it is; `false` if Ctrl-C stopped it.
    fn prefill(&mut self, prompt: &[u32]) -> Result<bool> {
        let waiting = Waiting::begin("reading the model");
        let mut tell = waiting.prompt_progress();
        let mut goes_on = self.stop.goes_on();
        self.engine.set_progress(Some(Box::new(move |done, all| {
            tell(done, all);
            goes_on()
        })));
        self.pass(prompt, true)
    }

    /// Token after token until something ends the answer.
    fn decode(
        &mut self,
        out: &mut Answer,
        text: &mut TextStream,
        emit: &mut Emit<'_>,
    ) -> Result<Finish> {
        let mut goes_on = self.stop.goes_on();
        self.engine.set_progress(Some(Box::new(move |_, _| goes_on())));
        let max_tokens = self.bounds.max_tokens.unwrap_or(usize::MAX);
        if max_tokens == 0 {
            return Ok(Finish::MaxTokens);
        }
        loop {
            let id = self.chooser.choose(self.session.last_logits())?;
            if self.engine.tokenizer().is_eog(id) && !self.bounds.ignore_eos {
                return Ok(Finish::EndOfGeneration);
            }
            if let Some(top) = self.bounds.logprobs {
                out.logprobs.push(self.session.last_logits(), id, top);
            }
            out.ids.push(id);
            self.observers.chosen(id)?;
            if !self.engine.tokenizer().is_control(id) {
                let piece = text.push(&self.engine.tokenizer().token_bytes(id));
                self.say(out, &piece, emit)?;
            }
            if text.is_stopped() || self.stop.is_raised() {
                return Ok(Finish::Stopped);
            }
            if out.ids.len() >= max_tokens {
                return Ok(Finish::MaxTokens);
            }
            if self.session.position() >= self.session.context() {
                return Ok(Finish::ContextFull);
            }
            if !self.pass(&[id], false)? {
                return Ok(Finish::Stopped);
            }
            out.times.decode.tokens += 1;
        }
    }

    /// `false` if Ctrl-C stopped it.
    fn pass(&mut self, ids: &[u32], is_prompt: bool) -> Result<bool> {
        self.observers.before(is_prompt);
        let before = self.engine.store().stats().total;
        let begun = Instant::now();
        match self.session.forward(self.engine, ids, Logits::Last, &mut |_, _| {}) {
            Ok(()) => {
                let (tokens, position) = (ids.len(), self.session.position());
                let seconds = begun.elapsed().as_secs_f64();
                let store = self.engine.store().stats().total.since(&before);
                if !is_prompt {
                    let compute_s = (seconds - store.wait_s).max(0.0);
                    let least =
                        self.token_compute_s.map_or(compute_s, |least| least.min(compute_s));
                    self.token_compute_s = Some(least);
                }
                let pass = Pass { is_prompt, tokens, position, seconds, store };
                self.observers.after(self.engine, &pass, self.watch)?;
                Ok(true)
            }
            Err(Error::Stopped) => Ok(false),
            Err(error) => Err(failure(&error, Phase::Running)),
        }
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        self.engine.set_progress(None);
        // Whatever ended the answer: the terminal is as it was.
        self.observers.live = None;
    }
}
