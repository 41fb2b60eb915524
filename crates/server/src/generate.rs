//! One request's answers, token by token. What a pass is and who shares it is the worker's business;
//! here is what a sequence's logits become.

use std::time::Instant;

use lowtide_engine::sampler::{Sampler, SamplerError, log_probs};
use lowtide_engine::{Error, TextStream};
use lowtide_residency::PassStats;

use crate::constraint::{Constraint, Mask};
use crate::error::ApiError;
use crate::job::{Event, EventSender, Figures, Finish, Generate, TokenLogprob};
use crate::metrics::Metrics;
use crate::model::ModelFace;

/// The answers to one prompt in the making.
pub struct Generation {
    /// Where they go.
    pub events: EventSender,
    /// What took how long.
    pub figures: Figures,
    wanted: Generate,
    choice: usize,
    stage: Stage,
    accepted: Instant,
    /// When the prompt, or this answer, was begun.
    began: Instant,
    before: PassStats,
}

enum Stage {
    /// So many of the prompt's tokens are through.
    Reading(usize),
    Writing(Box<Writing>),
}

/// What an answer needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The prompt from this token on.
    Prompt(usize),
    /// This token run.
    Token(u32),
}

/// What became of a sequence's logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The answer goes on.
    More,
    /// The next answer to the same prompt is to be begun.
    Again,
    /// Everything was told.
    Done,
}

impl Generation {
    /// Nothing done yet; `before` is what the store had done by now.
    pub fn new(wanted: Generate, events: EventSender, queue_s: f64, before: PassStats) -> Self {
        let now = Instant::now();
        let figures = Figures { queue_s, prompt_tokens: wanted.prompt.len(), ..Figures::default() };
        let stage = Stage::Reading(0);
        Self { events, figures, wanted, choice: 0, stage, accepted: now, began: now, before }
    }

    /// The prompt.
    pub fn prompt(&self) -> &[u32] {
        &self.wanted.prompt
    }

    /// Begins an answer whose sequence still holds `kept` of the prompt's tokens.
    pub fn begin(&mut self, kept: usize, metrics: &Metrics) {
        self.stage = Stage::Reading(kept);
        self.began = Instant::now();
        if self.choice == 0 {
            self.figures.cached_tokens = kept;
            metrics.prompt(self.wanted.prompt.len(), kept);
        }
    }

    /// What is needed next.
    pub fn next(&self) -> Next {
        match &self.stage {
            Stage::Reading(done) => Next::Prompt(*done),
            Stage::Writing(writing) => Next::Token(writing.last),
        }
    }

    /// `tokens` more of the prompt are through.
    pub fn read(&mut self, tokens: usize) {
        if let Stage::Reading(done) = &mut self.stage {
            *done += tokens;
        }
    }

    /// Whether the reader of the prompt is to be told of progress.
    pub fn tells_progress(&self) -> bool {
        self.choice == 0
    }

    /// When the prompt was begun.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Chooses a token from logits and tells it.
    ///
    /// # Errors
    /// What was asked for, or the logits, make no sense.
    pub fn take(
        &mut self,
        logits: &[f32],
        room: bool,
        face: &ModelFace,
        metrics: &Metrics,
    ) -> Result<Step, Failure> {
        if let Stage::Reading(_) = self.stage {
            self.figures.prefill_s += self.began.elapsed().as_secs_f64();
            self.began = Instant::now();
            let writing = Writing::new(face, &self.wanted, self.choice)?;
            self.stage = Stage::Writing(Box::new(writing));
        }
        let Stage::Writing(writing) = &mut self.stage else { return Ok(Step::More) };
        match writing.step(&self.wanted, (logits, room), face, &self.events, metrics)? {
            None => Ok(Step::More),
            Some(finish) => Ok(self.finish(finish)),
        }
    }

    /// An answer is at its end.
    fn finish(&mut self, finish: Finish) -> Step {
        let choice = self.choice;
        if let Stage::Writing(writing) = std::mem::replace(&mut self.stage, Stage::Reading(0)) {
            self.figures.completion_tokens += writing.tokens;
            let rest = writing.text.finish();
            if !rest.is_empty() {
                self.events.send(Event::Piece { choice, text: rest, logprob: None });
            }
        }
        self.figures.decode_s += self.began.elapsed().as_secs_f64();
        self.events.send(Event::Ended { choice, finish });
        self.choice += 1;
        if self.choice < self.wanted.choices { Step::Again } else { Step::Done }
    }

    /// All answers are at their end; `after` is what the store has done by now.
    pub fn end(mut self, after: PassStats, metrics: &Metrics) {
        self.figures.disk_wait_s = after.wait_s - self.before.wait_s;
        self.figures.read_bytes = after.read_bytes().saturating_sub(self.before.read_bytes());
        metrics.answered(&self.figures, self.accepted.elapsed().as_secs_f64());
        self.events.send(Event::Done(self.figures));
    }
}

/// Why an answer failed.
pub enum Failure {
    /// In the engine.
    Engine(Error),
    /// By what was asked for.
    Request(ApiError),
}

/// The state of one answer.
struct Writing {
    choice: usize,
    tokens: usize,
    /// The token that was chosen last.
    last: u32,
    sampler: Sampler,
    constraint: Option<Constraint>,
    text: TextStream,
    last_token: Option<Instant>,
}

impl Writing {
    fn new(face: &ModelFace, wanted: &Generate, choice: usize) -> Result<Self, Failure> {
        let request = |error: String| Failure::Request(ApiError::invalid(error));
        let mut params = wanted.sampling.clone();
        params.seed = params.seed.map(|seed| seed.wrapping_add(choice as u64));
        let mut sampler =
            Sampler::new(params, face.vocabulary).map_err(|error| request(error.to_string()))?;
        wanted.prompt.iter().for_each(|id| sampler.accept(*id));
        let mut stop = wanted.stop.clone();
        stop.extend(wanted.end.map(str::to_owned));
        Ok(Self {
            choice,
            tokens: 0,
            last: 0,
            sampler,
            constraint: wanted.constraint.as_ref().map(Constraint::begin),
            text: TextStream::new(&stop).map_err(|error| request(error.to_string()))?,
            last_token: None,
        })
    }

    /// Chooses a token and tells it; why the answer ends, if it does. `room`: the sequence can take
    /// the token.
    fn step(
        &mut self,
        wanted: &Generate,
        (logits, room): (&[f32], bool),
        face: &ModelFace,
        events: &EventSender,
        metrics: &Metrics,
    ) -> Result<Option<Finish>, Failure> {
        let id = self.choose(logits)?;
        metrics.token(&mut self.last_token);
        self.tokens += 1;
        self.last = id;
        if face.tokenizer.is_eog(id) && !wanted.ignore_eos {
            return Ok(Some(Finish::Stop));
        }
        let logprob = wanted.logprobs.map(|top| {
            let of = log_probs(logits, id, top);
            Box::new(TokenLogprob { id, logprob: of.chosen, top: of.top })
        });
        let shown = wanted.show_control || !face.tokenizer.is_control(id);
        let bytes = if shown { face.tokenizer.token_bytes(id) } else { Vec::new() };
        let text = self.text.push(&bytes);
        if !text.is_empty() || logprob.is_some() {
            events.send(Event::Piece { choice: self.choice, text, logprob });
        }
        if let Some(at) = self.text.stopped() {
            return Ok(Some(wanted.stop.get(at).cloned().map_or(Finish::Stop, Finish::StopText)));
        }
        if self.constraint.as_ref().is_some_and(Constraint::is_finished) {
            return Ok(Some(Finish::Stop));
        }
        let ended = self.tokens >= wanted.max_tokens || !room;
        Ok(ended.then_some(Finish::Length))
    }

    /// Chooses among what the constraint allows.
    fn choose(&mut self, logits: &[f32]) -> Result<u32, Failure> {
        let mask = match &mut self.constraint {
            Some(constraint) => Some(constraint.mask().map_err(Failure::Request)?),
            None => None,
        };
        let allowed = mask.as_ref().map(Mask::words);
        let id = self.sampler.sample_within(logits, allowed).map_err(|error| match error {
            SamplerError::NonFiniteLogits { index } => {
                Failure::Engine(Error::NonFiniteLogits { index })
            }
            SamplerError::NoCandidate if mask.is_some() => Failure::Request(ApiError::field(
                "logit_bias",
                "bans every token that the shape of the answer allows next",
            )),
            SamplerError::NoCandidate => {
                Failure::Request(ApiError::field("logit_bias", "bans every token"))
            }
            other => Failure::Request(ApiError::invalid(other.to_string())),
        })?;
        if let Some(constraint) = &mut self.constraint {
            constraint.accept(id).map_err(Failure::Request)?;
        }
        self.sampler.accept(id);
        Ok(id)
    }
}
