//! A session: one sequence of tokens, its KV cache and the memory its passes work in.

use std::ops::Range;

use crate::engine::{Engine, Passed};
use crate::error::Error;
use crate::forward::Batch;
use crate::head;
use crate::scratch::Scratch;
use crate::sequence::{Part, Sequence};

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
    sequence: Sequence,
    scratch: Scratch,
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
        let sequence = Sequence::new(engine)?;
        Ok(Self { sequence, scratch: Scratch::new(engine)?, last_row: 0..0 })
    }

    /// Forgets all tokens; memory stays claimed.
    pub fn reset(&mut self) {
        self.sequence.reset();
    }

    /// Goes back to the first `tokens` tokens, if that can be done, and says how many are kept: all
    /// of them, or none. Layers with a sliding window keep their window and one batch, so after a
    /// long way forward the way back is closed.
    pub fn truncate(&mut self, tokens: usize) -> usize {
        self.sequence.truncate(tokens, self.scratch.batch)
    }

    /// The logits of the last token that [`Session::forward`] gave logits of.
    #[must_use]
    pub fn last_logits(&self) -> &[f32] {
        &self.scratch.logits[self.last_row.clone()]
    }

    /// Tokens so far.
    #[must_use]
    pub fn position(&self) -> usize {
        self.sequence.position
    }

    /// Tokens there is room for in all.
    #[must_use]
    pub fn context(&self) -> usize {
        self.sequence.kv.context
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
        self.sequence.check(engine, tokens)?;
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
            self.sequence.advance(ids.len());
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
        hidden_states(engine, &mut self.scratch, &mut self.sequence, tokens, sink)
    }

    fn batch_forward(
        &mut self,
        engine: &mut Engine,
        ids: &[u32],
        wanted: Range<usize>,
        sink: &mut LogitsSink<'_>,
    ) -> Result<(), Error> {
        let parts = [self.sequence.part(0, ids.len())];
        let sequences = std::slice::from_mut(&mut self.sequence);
        pass(engine, &mut self.scratch, sequences, &parts, ids, wanted.clone())?;
        if !wanted.is_empty() {
            let rows = wanted.len();
            head::logits(engine, &mut self.scratch, wanted, sink)?;
            let vocabulary = engine.vocabulary_length();
            self.last_row = (rows - 1) * vocabulary..rows * vocabulary;
        }
        engine.end_pass()
    }
}

/// The layers of one batch: `ids` are the tokens of all `parts`, in order.
pub(crate) fn pass(
    engine: &mut Engine,
    scratch: &mut Scratch,
    sequences: &mut [Sequence],
    parts: &[Part],
    ids: &[u32],
    wanted: Range<usize>,
) -> Result<(), Error> {
    let needs_output = !wanted.is_empty();
    let tokens = ids.len();
    let mut batch = Batch { engine, sequences, scratch, parts, tokens, wanted, needs_output };
    batch.run(ids)
}

/// [`Session::hidden_states`] of a sequence that is empty.
pub(crate) fn hidden_states(
    engine: &mut Engine,
    scratch: &mut Scratch,
    sequence: &mut Sequence,
    tokens: &[u32],
    sink: &mut LogitsSink<'_>,
) -> Result<(), Error> {
    sequence.check(engine, tokens)?;
    let mut done = 0;
    for ids in tokens.chunks(scratch.batch) {
        engine.passed = Passed { done, all: tokens.len() };
        let parts = [sequence.part(0, ids.len())];
        let mut batch = Batch {
            engine,
            sequences: std::slice::from_mut(sequence),
            scratch,
            parts: &parts,
            tokens: ids.len(),
            wanted: 0..ids.len(),
            needs_output: false,
        };
        batch.run(ids)?;
        head::hidden(engine, scratch, ids.len(), &mut |token, row| sink(done + token, row))?;
        engine.end_pass()?;
        done += ids.len();
        sequence.advance(ids.len());
    }
    Ok(())
}
