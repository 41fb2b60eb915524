//! A session: one sequence of tokens, its KV cache and the memory its passes work in.

use std::ops::Range;

use crate::engine::{Engine, Passed};
use crate::error::Error;
use crate::forward::Batch;
use crate::head;
use crate::kv::KvCache;
use crate::scratch::Scratch;

/// Which tokens of a call to [`Session::forward`] the caller wants logits of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    /// None: the tokens only fill the KV cache.
    None,
    /// The last one's.
    Last,
    /// All from this index on.
    From(usize),
}

impl Logits {
    fn first(self, tokens: usize) -> usize {
        match self {
            Self::None => tokens,
            Self::Last => tokens.saturating_sub(1),
            Self::From(first) => first.min(tokens),
        }
    }
}

/// Receives the index of a token in the call and its logits, one per token of the vocabulary.
pub type LogitsSink<'s> = dyn FnMut(usize, &[f32]) + 's;

/// One sequence of tokens.
pub struct Session {
    kv: KvCache,
    scratch: Scratch,
    position: usize,
    /// The furthest position since the last reset.
    furthest: usize,
    /// Some layers keep a window only.
    slides: bool,
    /// Where the last token's logits lie in the scratch.
    last_row: Range<usize>,
}

impl Session {
    /// A session with the engine's context, batch and rows of logits. Everything it will ever need
    /// is claimed here.
    ///
    /// # Errors
    /// A shape that the kernels refuse.
    pub fn new(engine: &Engine) -> Result<Self, Error> {
        let batch = engine.batch();
        Ok(Self {
            kv: KvCache::new(engine.config(), engine.kv_format(), engine.context(), batch)?,
            scratch: Scratch::new(engine)?,
            position: 0,
            furthest: 0,
            slides: engine.config().sliding_window.is_some(),
            last_row: 0..0,
        })
    }

    /// Forgets all tokens; memory stays claimed.
    pub fn reset(&mut self) {
        self.position = 0;
        self.furthest = 0;
    }

    /// Goes back to the first `tokens` tokens, if that can be done, and says how many are kept: all
    /// of them, or none. Layers with a sliding window keep their window and one batch, so after a
    /// long way forward the way back is closed.
    pub fn truncate(&mut self, tokens: usize) -> usize {
        let tokens = tokens.min(self.position);
        if self.slides && self.furthest > tokens + self.scratch.batch {
            self.reset();
        }
        self.position = self.position.min(tokens);
        self.position
    }

    /// The logits of the last token that [`Session::forward`] gave logits of.
    #[must_use]
    pub fn last_logits(&self) -> &[f32] {
        &self.scratch.logits[self.last_row.clone()]
    }

    /// Tokens so far.
    #[must_use]
    pub fn position(&self) -> usize {
        self.position
    }

    /// Tokens there is room for in all.
    #[must_use]
    pub fn context(&self) -> usize {
        self.kv.context
    }

    /// Tokens that go through the model together at most: how often a long prompt reads the weights.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.scratch.batch
    }

    /// Appends `tokens` to the sequence and hands the wanted logits to `sink`.
    ///
    /// # Errors
    /// A token outside the vocabulary, a full context, logits that are not finite, or bytes of the
    /// model that could not be brought in. After an error the session stands where it stood before
    /// the batch that failed.
    pub fn forward(
        &mut self,
        engine: &mut Engine,
        tokens: &[u32],
        logits: Logits,
        sink: &mut LogitsSink<'_>,
    ) -> Result<(), Error> {
        self.check(engine, tokens)?;
        let first_wanted = logits.first(tokens.len());
        let mut done = 0;
        while done < tokens.len() {
            let room = first_wanted.saturating_sub(done) + self.scratch.logit_rows;
            let size = room.min(self.scratch.batch).min(tokens.len() - done);
            let ids = &tokens[done..done + size];
            engine.passed = Passed { done, all: tokens.len() };
            let wanted = first_wanted.saturating_sub(done).min(ids.len())..ids.len();
            self.batch_forward(engine, ids, wanted, &mut |token, row| sink(done + token, row))?;
            done += ids.len();
            self.position += ids.len();
            self.furthest = self.furthest.max(self.position);
        }
        Ok(())
    }

    /// Runs `tokens` from an empty sequence on and hands each token's final hidden state, after the
    /// last norm, to `sink`: what the output matrix would be multiplied with. The output matrix is
    /// not read.
    ///
    /// # Errors
    /// As [`Session::forward`].
    pub fn hidden_states(
        &mut self,
        engine: &mut Engine,
        tokens: &[u32],
        sink: &mut LogitsSink<'_>,
    ) -> Result<(), Error> {
        self.reset();
        self.check(engine, tokens)?;
        let mut done = 0;
        for ids in tokens.chunks(self.scratch.batch) {
            engine.passed = Passed { done, all: tokens.len() };
            let mut batch = Batch {
                engine,
                kv: &mut self.kv,
                scratch: &mut self.scratch,
                start: self.position,
                tokens: ids.len(),
                wanted: 0..ids.len(),
                needs_output: false,
            };
            batch.run(ids)?;
            head::hidden(engine, &mut self.scratch, ids.len(), &mut |token, row| {
                sink(done + token, row);
            })?;
            engine.end_pass()?;
            done += ids.len();
            self.position += ids.len();
            self.furthest = self.furthest.max(self.position);
        }
        Ok(())
    }

    fn batch_forward(
        &mut self,
        engine: &mut Engine,
        ids: &[u32],
        wanted: Range<usize>,
        sink: &mut LogitsSink<'_>,
    ) -> Result<(), Error> {
        let mut batch = Batch {
            engine,
            kv: &mut self.kv,
            scratch: &mut self.scratch,
            start: self.position,
            tokens: ids.len(),
            wanted: wanted.clone(),
            needs_output: !wanted.is_empty(),
        };
        batch.run(ids)?;
        if !wanted.is_empty() {
            let rows = wanted.len();
            head::logits(engine, &mut self.scratch, wanted, sink)?;
            let vocabulary = engine.vocabulary_length();
            self.last_row = (rows - 1) * vocabulary..rows * vocabulary;
        }
        engine.end_pass()
    }

    fn check(&self, engine: &Engine, tokens: &[u32]) -> Result<(), Error> {
        let vocabulary = engine.vocabulary_length();
        if let Some(id) = tokens.iter().find(|id| **id as usize >= vocabulary) {
            return Err(Error::TokenOutOfRange { id: *id, vocabulary });
        }
        let needed = self.position + tokens.len();
        if needed > self.kv.context {
            let why = "the context is set by --ctx when the model is loaded";
            return Err(Error::ContextFull { needed, context: self.kv.context, why });
        }
        Ok(())
    }
}
