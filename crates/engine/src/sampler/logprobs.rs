//! Log probabilities for people: `--logprobs N`, perplexity.

use super::candidates::Candidates;
use super::exponential::exp_nonpositive;

/// The logarithm of the sum of `e^logit`: subtract it from a logit to get a log probability.
#[must_use]
pub fn log_sum_exp(logits: &[f32]) -> f64 {
    let (largest, rest) = parts(logits);
    largest + rest
}

/// The largest logit, and what the logarithm of the sum is more than that. Apart, they keep their
/// precision where logits are huge.
fn parts(logits: &[f32]) -> (f64, f64) {
    let largest = logits.iter().fold(f32::NEG_INFINITY, |largest, logit| largest.max(*logit));
    if largest == f32::NEG_INFINITY {
        return (f64::NEG_INFINITY, 0.0);
    }
    let largest = f64::from(largest);
    let sum: f64 = logits.iter().map(|logit| exp_nonpositive(f64::from(*logit) - largest)).sum();
    (largest, sum.ln())
}

/// Log probabilities of one position.
#[derive(Clone, Debug, PartialEq)]
pub struct LogProbs {
    /// Of the token asked about; minus infinity if there is no such token.
    pub chosen: f64,
    /// Of the most probable tokens, best first, lower ids first among equals.
    pub top: Vec<(u32, f64)>,
}

/// Log probabilities (natural, of the plain softmax, before any sampling parameter) of `chosen` and of
/// the `top` most probable tokens.
#[must_use]
pub fn log_probs(logits: &[f32], chosen: u32, top: usize) -> LogProbs {
    let (largest, rest) = parts(logits);
    let of = |logit: f32| f64::from(logit) - largest - rest;
    let chosen = usize::try_from(chosen).ok().and_then(|index| logits.get(index));
    let mut best = Candidates::new(0);
    if top != 0 {
        best.fill_top_k(logits, top.min(logits.len().max(1)), f32::NEG_INFINITY);
    }
    LogProbs {
        chosen: chosen.map_or(f64::NEG_INFINITY, |logit| of(*logit)),
        top: best.items().iter().map(|item| (item.id, of(item.logit))).collect(),
    }
}
