//! One request's answers on the engine's thread.

use std::time::Instant;

use lowtide_engine::sampler::{Sampler, log_probs};
use lowtide_engine::{Error, Logits, TextStream};

use crate::constraint::Constraint;
use crate::error::ApiError;
use crate::job::{Event, EventSender, Figures, Finish, Generate, TokenLogprob};
use crate::limits::PROGRESS_INTERVAL;
use crate::metrics::Metrics;
use crate::worker::{Active, Failure};

/// The answers to one prompt in the making.
pub struct Generation<'a> {
    active: &'a mut Active,
    events: &'a EventSender,
    metrics: &'a Metrics,
    /// What took how long.
    pub figures: Figures,
}

impl<'a> Generation<'a> {
    /// Nothing done yet.
    pub fn new(active: &'a mut Active, events: &'a EventSender, metrics: &'a Metrics) -> Self {
        Self { active, events, metrics, figures: Figures::default() }
    }

    /// Answers as often as wanted.
    pub fn run(&mut self, wanted: Generate) -> Result<(), Failure> {
        let before = self.active.engine.store().stats().total;
        let accepted = Instant::now();
        self.figures.prompt_tokens = wanted.prompt.len();
        for choice in 0..wanted.choices {
            let began = Instant::now();
            let cached = self.prefill(&wanted.prompt, choice == 0)?;
            if choice == 0 {
                self.figures.cached_tokens = cached;
                self.metrics.prompt(wanted.prompt.len(), cached);
            }
            self.figures.prefill_s += began.elapsed().as_secs_f64();
            self.choice(&wanted, choice)?;
        }
        let after = self.active.engine.store().stats().total;
        self.figures.disk_wait_s = after.wait_s - before.wait_s;
        self.figures.read_bytes = after.read_bytes().saturating_sub(before.read_bytes());
        self.metrics.answered(&self.figures, accepted.elapsed().as_secs_f64());
        self.events.send(Event::Done(self.figures));
        Ok(())
    }

    /// The prompt through the model but for what the session still holds of it; says how much that
    /// was. At least the last token is run: its logits are wanted.
    fn prefill(&mut self, prompt: &[u32], tell: bool) -> Result<usize, Error> {
        let Active { engine, session, held, .. } = &mut *self.active;
        let common = held.iter().zip(prompt).take_while(|(a, b)| a == b).count();
        let kept = session.truncate(common.min(prompt.len() - 1));
        held.truncate(kept);
        let (events, began) = (self.events.clone(), Instant::now());
        let mut told = began;
        let total = prompt.len();
        engine.set_progress(Some(Box::new(move |done, _| {
            if tell && told.elapsed() >= PROGRESS_INTERVAL {
                told = Instant::now();
                let seconds = began.elapsed().as_secs_f64();
                events.send(Event::Progress { done: kept + done, total, cached: kept, seconds });
            }
            !events.is_cancelled()
        })));
        let result = session.forward(engine, &prompt[kept..], Logits::Last, &mut |_, _| {});
        // A pass that was stopped leaves the batches before it.
        held.extend_from_slice(&prompt[kept..session.position().max(kept)]);
        result.map(|()| kept)
    }

    /// Token after token until something ends the answer.
    fn choice(&mut self, wanted: &Generate, choice: usize) -> Result<(), Failure> {
        let began = Instant::now();
        let mut writing = Writing::new(self.active, wanted, choice)?;
        let events = self.events.clone();
        self.active.engine.set_progress(Some(Box::new(move |_, _| !events.is_cancelled())));
        let finish = loop {
            if writing.tokens >= wanted.max_tokens {
                break Finish::Length;
            }
            match self.step(&mut writing, wanted)? {
                Step::More => {}
                Step::End(finish) => break finish,
            }
        };
        let rest = writing.text.finish();
        if !rest.is_empty() {
            self.events.send(Event::Piece { choice, text: rest, logprob: None });
        }
        self.events.send(Event::Ended { choice, finish });
        self.figures.completion_tokens += writing.tokens;
        self.figures.decode_s += began.elapsed().as_secs_f64();
        Ok(())
    }

    /// Chooses a token, tells it, and runs it through the model.
    fn step(&mut self, writing: &mut Writing, wanted: &Generate) -> Result<Step, Failure> {
        if self.events.is_cancelled() {
            return Err(Error::Stopped.into());
        }
        let Active { engine, session, held, face } = &mut *self.active;
        let id = writing.choose(session.last_logits())?;
        self.metrics.token(&mut writing.last_token);
        writing.tokens += 1;
        if face.tokenizer.is_eog(id) && !wanted.ignore_eos {
            return Ok(Step::End(Finish::Stop));
        }
        let logprob = wanted.logprobs.map(|top| {
            let of = log_probs(session.last_logits(), id, top);
            let bytes = |id| face.tokenizer.token_bytes(id);
            let top = of.top.iter().map(|(id, logprob)| (bytes(*id), *logprob)).collect();
            Box::new(TokenLogprob { bytes: bytes(id), logprob: of.chosen, top })
        });
        let shown = wanted.show_control || !face.tokenizer.is_control(id);
        let bytes = if shown { face.tokenizer.token_bytes(id) } else { Vec::new() };
        let text = writing.text.push(&bytes);
        if !text.is_empty() || logprob.is_some() {
            self.events.send(Event::Piece { choice: writing.choice, text, logprob });
        }
        if let Some(at) = writing.text.stopped() {
            return Ok(Step::End(Finish::StopText(wanted.stop[at].clone())));
        }
        if writing.constraint.as_ref().is_some_and(Constraint::is_finished) {
            return Ok(Step::End(Finish::Stop));
        }
        if writing.tokens >= wanted.max_tokens || session.position() >= session.context() {
            return Ok(Step::End(Finish::Length));
        }
        session.forward(engine, &[id], Logits::Last, &mut |_, _| {})?;
        held.push(id);
        Ok(Step::More)
    }
}

enum Step {
    More,
    End(Finish),
}

/// The state of one answer.
struct Writing {
    choice: usize,
    tokens: usize,
    sampler: Sampler,
    constraint: Option<Constraint>,
    text: TextStream,
    last_token: Option<Instant>,
}

impl Writing {
    fn new(active: &Active, wanted: &Generate, choice: usize) -> Result<Self, Failure> {
        let request = |error: String| Failure::Request(ApiError::invalid(error));
        let mut params = wanted.sampling.clone();
        params.seed = params.seed.map(|seed| seed.wrapping_add(choice as u64));
        let mut sampler = Sampler::new(params, active.engine.vocabulary_length())
            .map_err(|error| request(error.to_string()))?;
        wanted.prompt.iter().for_each(|id| sampler.accept(*id));
        Ok(Self {
            choice,
            tokens: 0,
            sampler,
            constraint: wanted.constraint.as_ref().map(Constraint::begin),
            text: TextStream::new(&wanted.stop).map_err(|error| request(error.to_string()))?,
            last_token: None,
        })
    }

    /// Chooses among what the constraint allows.
    fn choose(&mut self, logits: &[f32]) -> Result<u32, Failure> {
        let mask = match &mut self.constraint {
            Some(constraint) => Some(constraint.mask().map_err(Failure::Request)?),
            None => None,
        };
        let allowed = mask.as_ref().map(crate::constraint::Mask::words);
        let id = self.sampler.sample_within(logits, allowed).map_err(|error| match error {
            lowtide_engine::sampler::SamplerError::NonFiniteLogits { index } => {
                Failure::Engine(Error::NonFiniteLogits { index })
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
