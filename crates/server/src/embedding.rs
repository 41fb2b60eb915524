//! Texts to vectors on the engine's thread, one text a turn.

use std::collections::VecDeque;

use lowtide_engine::{Engine, Error, SharedSession};

use crate::job::{Event, EventSender, Pooling};

/// Texts on their way to vectors.
pub struct Embedding {
    inputs: VecDeque<Vec<u32>>,
    pooling: Pooling,
    vectors: Vec<Vec<f32>>,
    /// Where they go.
    pub events: EventSender,
}

impl Embedding {
    /// None done yet.
    pub fn new(inputs: Vec<Vec<u32>>, pooling: Pooling, events: EventSender) -> Self {
        Self { inputs: inputs.into(), pooling, vectors: Vec::new(), events }
    }

    /// The next text's vector, with a sequence that is empty afterwards; false where it was the last, and
    /// all were told.
    ///
    /// # Errors
    /// The engine's, or nobody waits any more.
    pub fn next(
        &mut self,
        session: &mut SharedSession,
        engine: &mut Engine,
        lane: usize,
    ) -> Result<bool, Error> {
        if let Some(tokens) = self.inputs.pop_front() {
            let events = self.events.clone();
            engine.set_progress(Some(Box::new(move |_, _| !events.is_cancelled())));
            let vector = vector(session, engine, lane, &tokens, self.pooling);
            engine.set_progress(None);
            self.vectors.push(vector?);
        }
        if self.inputs.is_empty() {
            self.events.send(Event::Embedded(std::mem::take(&mut self.vectors)));
        }
        Ok(!self.inputs.is_empty())
    }
}

/// A text's final hidden states as one unit vector.
fn vector(
    session: &mut SharedSession,
    engine: &mut Engine,
    lane: usize,
    tokens: &[u32],
    pooling: Pooling,
) -> Result<Vec<f32>, Error> {
    let width = usize::try_from(engine.config().embedding_length).unwrap_or(0);
    let mut sum = vec![0.0_f64; width];
    session.hidden_states(engine, lane, tokens, &mut |_, row| {
        for (sum, x) in sum.iter_mut().zip(row) {
            match pooling {
                Pooling::Mean => *sum += f64::from(*x),
                Pooling::Last => *sum = f64::from(*x),
            }
        }
    })?;
    // The mean's divisor falls out of the length.
    let length = sum.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
    Ok(sum.iter().map(|x| (x / length) as f32).collect())
}
