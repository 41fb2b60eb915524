//! Several sequences that share passes: each weight that comes in is used for a token of every one of
//! them, and for a piece of a prompt besides. A sequence's bits do not depend on who else is there:
//! an element of a product is summed in one order whatever the number of columns.

use crate::engine::{Engine, Passed};
use crate::error::Error;
use crate::head;
use crate::scratch::Scratch;
use crate::sequence::{Part, Sequence};
use crate::session::{self, LogitsSink};

/// A piece of a prompt in a pass.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'t> {
    /// Whose.
    pub lane: usize,
    /// Its tokens.
    pub tokens: &'t [u32],
    /// Whether it ends the prompt, so that the last token's logits are wanted.
    pub last: bool,
}

/// As many sequences as the engine was planned for, and one memory for their passes.
pub struct SharedSession {
    lanes: Vec<Sequence>,
    scratch: Scratch,
    /// Parts and tokens of a pass, kept so that passes allocate nothing.
    parts: Vec<Part>,
    ids: Vec<u32>,
}

impl SharedSession {
    /// Sequences with the engine's context, all empty.
    ///
    /// # Errors
    /// A shape that the kernels refuse.
    pub fn new(engine: &Engine) -> Result<Self, Error> {
        let lanes = (0..engine.sequences()).map(|_| Sequence::new(engine));
        let lanes = lanes.collect::<Result<Vec<_>, _>>()?;
        let scratch = Scratch::new(engine)?;
        let parts = Vec::with_capacity(lanes.len());
        let ids = Vec::with_capacity(scratch.batch);
        Ok(Self { lanes, scratch, parts, ids })
    }

    /// Sequences.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Tokens a pass takes at most.
    #[must_use]
    pub fn batch(&self) -> usize {
        self.scratch.batch
    }

    /// Tokens a sequence has room for.
    #[must_use]
    pub fn context(&self) -> usize {
        self.lanes.first().map_or(0, |lane| lane.kv.context)
    }

    /// Tokens of a sequence so far.
    #[must_use]
    pub fn position(&self, lane: usize) -> usize {
        self.lanes[lane].position
    }

    /// Forgets a sequence's tokens.
    pub fn reset(&mut self, lane: usize) {
        self.lanes[lane].reset();
    }

    /// As [`Session::truncate`](crate::Session::truncate), of one sequence.
    pub fn truncate(&mut self, lane: usize, tokens: usize) -> usize {
        self.lanes[lane].truncate(tokens, self.scratch.batch)
    }

    /// One pass: a piece of a prompt, if there is one, and a token each of `steps` (sequence, token).
    /// Afterwards [`SharedSession::logits`] has a row for the prompt, if it ended, and then one for
    /// each step.
    ///
    /// # Errors
    /// As [`Session::forward`](crate::Session::forward); [`Error::PassTooWide`] for more tokens than
    /// a pass takes. After an error every sequence stands where it stood.
    pub fn pass(
        &mut self,
        engine: &mut Engine,
        piece: Option<Piece<'_>>,
        steps: &[(usize, u32)],
    ) -> Result<(), Error> {
        self.gather(engine, piece, steps)?;
        if self.ids.is_empty() {
            return Ok(());
        }
        let tokens = self.ids.len();
        engine.passed = Passed { done: 0, all: tokens };
        let rows = steps.len() + usize::from(piece.is_some_and(|piece| piece.last));
        let wanted = tokens - rows..tokens;
        let Self { lanes, scratch, parts, ids } = self;
        session::pass(engine, scratch, lanes, parts, ids, wanted.clone())?;
        if rows > 0 {
            head::logits(engine, scratch, wanted, &mut |_, _| {})?;
        }
        engine.end_pass()?;
        for part in parts {
            lanes[part.lane].advance(part.tokens);
        }
        Ok(())
    }

    /// The pass's parts and tokens, checked.
    fn gather(
        &mut self,
        engine: &Engine,
        piece: Option<Piece<'_>>,
        steps: &[(usize, u32)],
    ) -> Result<(), Error> {
        self.parts.clear();
        self.ids.clear();
        let tokens = piece.map_or(0, |piece| piece.tokens.len()) + steps.len();
        let rows = steps.len() + usize::from(piece.is_some_and(|piece| piece.last));
        if tokens > self.scratch.batch || rows > self.scratch.logit_rows {
            let (batch, rows_max) = (self.scratch.batch, self.scratch.logit_rows);
            return Err(Error::PassTooWide { tokens, batch, rows, rows_max });
        }
        if let Some(piece) = piece {
            let lane = &mut self.lanes[piece.lane];
            lane.check(engine, piece.tokens)?;
            self.parts.push(lane.part(piece.lane, piece.tokens.len()));
            self.ids.extend_from_slice(piece.tokens);
        }
        for (lane, id) in steps {
            let sequence = &mut self.lanes[*lane];
            sequence.check(engine, std::slice::from_ref(id))?;
            self.parts.push(sequence.part(*lane, 1));
            self.ids.push(*id);
        }
        Ok(())
    }

    /// A row of the last pass's logits.
    #[must_use]
    pub fn logits(&self, engine: &Engine, row: usize) -> &[f32] {
        let vocabulary = engine.vocabulary_length();
        &self.scratch.logits[row * vocabulary..(row + 1) * vocabulary]
    }

    /// As [`Session::hidden_states`](crate::Session::hidden_states), with one of the sequences, which
    /// is empty afterwards.
    ///
    /// # Errors
    /// As there.
    pub fn hidden_states(
        &mut self,
        engine: &mut Engine,
        lane: usize,
        tokens: &[u32],
        sink: &mut LogitsSink<'_>,
    ) -> Result<(), Error> {
        let sequence = &mut self.lanes[lane];
        sequence.reset();
        let result = session::hidden_states(engine, &mut self.scratch, sequence, tokens, sink);
        sequence.reset();
        result
    }
}
