//! From logits to a token.
//!
//! Deterministic: random numbers, the exponential and the order of all sums are this crate's own, so
//! a seed gives the same tokens on every machine that computes the same logits.

mod candidates;
mod exponential;
mod logprobs;
mod params;
mod random;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};

use candidates::{Candidates, best, sigma_floor};
pub use logprobs::{LogProbs, log_probs, log_sum_exp};
pub use params::{SamplerError, SamplerParams};
use random::Random;

/// Memory for recent tokens is claimed up front up to this many.
const RECENT_RESERVED: usize = 1 << 16;

/// Whether all logits are finite.
///
/// # Errors
/// [`SamplerError::NonFiniteLogits`] with the first that is not.
pub fn check_finite(logits: &[f32]) -> Result<(), SamplerError> {
    const EXPONENT: u32 = 0x7f80_0000;
    // Without a branch for each, so that it runs at the speed of memory.
    let bad = logits.iter().fold(false, |bad, x| bad | (x.to_bits() & EXPONENT == EXPONENT));
    if !bad {
        return Ok(());
    }
    match logits.iter().position(|logit| !logit.is_finite()) {
        Some(index) => Err(SamplerError::NonFiniteLogits { index }),
        None => Ok(()),
    }
}

/// Chooses tokens. Remembers recent tokens (for penalties) and where in its sequence of random
/// numbers it is.
pub struct Sampler {
    params: SamplerParams,
    seed: u64,
    random: Random,
    vocabulary: usize,
    /// Logits after bias and penalties; used if there are any.
    adjusted: Vec<f32>,
    candidates: Candidates,
    recent: VecDeque<u32>,
    counts: HashMap<u32, u32>,
}

impl Sampler {
    /// A sampler for logits of `vocabulary` tokens.
    ///
    /// # Errors
    /// [`SamplerError`] if a parameter is senseless.
    pub fn new(params: SamplerParams, vocabulary: usize) -> Result<Sampler, SamplerError> {
        params.validate(vocabulary)?;
        let seed = params.seed.unwrap_or_else(|| RandomState::new().hash_one(0_u64));
        let adjusts = params.penalises() || !params.logit_bias.is_empty();
        let recent = if params.penalises() {
            (params.penalty_last_n as usize).min(RECENT_RESERVED)
        } else {
            0
        };
        Ok(Sampler {
            seed,
            random: Random::new(seed),
            vocabulary,
            adjusted: Vec::with_capacity(if adjusts { vocabulary } else { 0 }),
            candidates: Candidates::new(0),
            recent: VecDeque::with_capacity(recent),
            counts: HashMap::with_capacity(recent),
            params,
        })
    }

    /// The parameters.
    #[must_use]
    pub fn params(&self) -> &SamplerParams {
        &self.params
    }

    /// The seed in use: the one given, or the one that was drawn.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Remembers a token (of the prompt, or one that [`sample`](Sampler::sample) chose and that was
    /// kept) for the penalties.
    pub fn accept(&mut self, id: u32) {
        if !self.params.penalises() {
            return;
        }
        let most = self.params.penalty_last_n as usize;
        while self.recent.len() >= most {
            let Some(old) = self.recent.pop_front() else { break };
            if let Some(count) = self.counts.get_mut(&old) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&old);
                }
            }
        }
        self.recent.push_back(id);
        *self.counts.entry(id).or_insert(0) += 1;
    }

    /// Forgets all tokens; the random numbers go on.
    pub fn forget(&mut self) {
        self.recent.clear();
        self.counts.clear();
    }

    /// Forgets all tokens and begins the random numbers anew.
    pub fn reset(&mut self) {
        self.forget();
        self.random = Random::new(self.seed);
    }

    /// Chooses a token. It is not [`accept`](Sampler::accept)ed by itself.
    ///
    /// # Errors
    /// [`SamplerError::NonFiniteLogits`] before anything else, [`SamplerError::Length`],
    /// [`SamplerError::NoCandidate`].
    pub fn sample(&mut self, logits: &[f32]) -> Result<u32, SamplerError> {
        self.sample_within(logits, None)
    }

    /// As [`sample`](Sampler::sample), among the tokens whose bit is set in `allowed` (bit `i % 32`
    /// of word `i / 32`; words that are missing allow nothing).
    ///
    /// # Errors
    /// As [`sample`](Sampler::sample); [`SamplerError::NoCandidate`] if nothing is allowed.
    pub fn sample_within(
        &mut self,
        logits: &[f32],
        allowed: Option<&[u32]>,
    ) -> Result<u32, SamplerError> {
        if logits.len() != self.vocabulary {
            let (got, vocabulary) = (logits.len(), self.vocabulary);
            return Err(SamplerError::Length { got, vocabulary });
        }
        check_finite(logits)?;
        let adjusts = !self.params.logit_bias.is_empty() || !self.counts.is_empty();
        let mut adjusted = std::mem::take(&mut self.adjusted);
        if adjusts {
            self.adjust(logits, &mut adjusted);
        } else if allowed.is_some() {
            adjusted.clear();
            adjusted.extend_from_slice(logits);
        }
        if let Some(allowed) = allowed {
            forbid(&mut adjusted, allowed);
        }
        let own = adjusts || allowed.is_some();
        let chosen = self.choose(if own { &adjusted } else { logits });
        self.adjusted = adjusted;
        chosen.ok_or(SamplerError::NoCandidate)
    }

    /// Bias, then penalties.
    fn adjust(&self, logits: &[f32], adjusted: &mut Vec<f32>) {
        let params = &self.params;
        adjusted.clear();
        adjusted.extend_from_slice(logits);
        for &(id, bias) in &params.logit_bias {
            if let Some(logit) = adjusted.get_mut(id as usize) {
                *logit = (*logit + bias).min(f32::MAX);
            }
        }
        for (&id, &count) in &self.counts {
            if let Some(logit) = adjusted.get_mut(id as usize) {
                // Division alone would make negative logits likelier.
                let repeated = if *logit > 0.0 {
                    *logit / params.repeat_penalty
                } else {
                    *logit * params.repeat_penalty
                };
                let subtracted = count as f32 * params.frequency_penalty + params.presence_penalty;
                *logit = (repeated - subtracted).min(f32::MAX);
            }
        }
    }

    fn choose(&mut self, logits: &[f32]) -> Option<u32> {
        let SamplerParams { temperature, top_k, top_p, min_p, typical_p, top_n_sigma, .. } =
            self.params;
        // Of the filters, only the typical one may remove the best token.
        if temperature == 0.0 && typical_p >= 1.0 {
            return best(logits);
        }
        let floor =
            if top_n_sigma > 0.0 { sigma_floor(logits, top_n_sigma) } else { f32::NEG_INFINITY };
        let candidates = &mut self.candidates;
        match usize::try_from(top_k) {
            Ok(k) if k > 0 && k < logits.len() => candidates.fill_top_k(logits, k, floor),
            _ => candidates.fill(logits, floor),
        }
        if typical_p < 1.0 {
            candidates.keep_typical(typical_p);
        }
        if temperature == 0.0 {
            return candidates.first();
        }
        if top_p < 1.0 {
            candidates.keep_top_p(top_p);
        }
        if min_p > 0.0 {
            candidates.keep_min_p(min_p);
        }
        candidates.draw(temperature, self.random.unit())
    }
}

/// Logits of tokens that are not allowed become minus infinity, which no filter keeps.
fn forbid(logits: &mut [f32], allowed: &[u32]) {
    let words = allowed.iter().copied().chain(std::iter::repeat(0));
    for (logits, word) in logits.chunks_mut(32).zip(words) {
        for (bit, logit) in logits.iter_mut().enumerate() {
            if word >> bit & 1 == 0 {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}
