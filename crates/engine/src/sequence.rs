//! One sequence of tokens: its KV cache and where it stands.

use crate::engine::Engine;
use crate::error::Error;
use crate::kv::KvCache;

/// A sequence. Which memory its passes work in is the caller's business: several may share one.
pub(crate) struct Sequence {
    pub kv: KvCache,
    pub position: usize,
    /// The furthest position since the last reset that a pass has written, be it only in some layers: one
    /// that was stopped half-way has overwritten what its ring held before, as any other.
    furthest: usize,
    /// Some layers keep a window only.
    slides: bool,
}

/// A sequence's share of a batch: consecutive tokens.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    /// Which of the batch's sequences.
    pub lane: usize,
    /// Position of the first token.
    pub start: usize,
    /// How many.
    pub tokens: usize,
}

impl Sequence {
    /// An empty sequence with the engine's context.
    pub(crate) fn new(engine: &Engine) -> Result<Self, Error> {
        let batch = engine.batch();
        Ok(Self {
            kv: KvCache::new(engine.config(), engine.kv_format(), engine.context(), batch)?,
            position: 0,
            furthest: 0,
            slides: engine.config().sliding_window.is_some(),
        })
    }

    pub(crate) fn reset(&mut self) {
        self.position = 0;
        self.furthest = 0;
    }

    /// Goes back to the first `tokens` tokens, if that can be done, and says how many are kept: all
    /// of them, or none. Layers with a sliding window keep their window and one batch, so after a
    /// long way forward the way back is closed.
    pub(crate) fn truncate(&mut self, tokens: usize, batch: usize) -> usize {
        let tokens = tokens.min(self.position);
        if self.slides && self.furthest > tokens + batch {
            self.reset();
        }
        self.position = self.position.min(tokens);
        self.position
    }

    /// The part that `tokens` more tokens are, of a pass that is about to begin.
    pub(crate) fn part(&mut self, lane: usize, tokens: usize) -> Part {
        self.furthest = self.furthest.max(self.position + tokens);
        Part { lane, start: self.position, tokens }
    }

    /// They went through.
    pub(crate) fn advance(&mut self, tokens: usize) {
        self.position += tokens;
    }

    /// Whether these tokens can be appended.
    pub(crate) fn check(&self, engine: &Engine, tokens: &[u32]) -> Result<(), Error> {
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
