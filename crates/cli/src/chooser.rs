//! From sampling options to a sampler: what the user gives wins over what the model's file
//! recommends, that wins over common practice.

use anyhow::Result;
use lowtide_engine::sampler::{Sampler, SamplerError, SamplerParams};
use lowtide_engine::{Error, SamplerDefaults};

use crate::args::SamplingOptions;
use crate::failure::Failure;
use crate::load::{self, Phase};

/// Chooses tokens.
pub struct Chooser {
    sampler: Sampler,
}

impl Chooser {
    /// A sampler for logits of `vocabulary` tokens.
    pub fn new(
        options: &SamplingOptions,
        defaults: &SamplerDefaults,
        vocabulary: usize,
    ) -> Result<Self> {
        let params = params(options, defaults);
        let leaves_none = leaves_none(&params.logit_bias, vocabulary);
        let sampler =
            Sampler::new(params, vocabulary).map_err(|error| Failure::input(error.to_string()))?;
        if leaves_none {
            return Err(no_candidate().into());
        }
        Ok(Self { sampler })
    }

    /// An answer begins: all of the prompt's tokens count for the penalties, and none of another answer's.
    pub fn begin(&mut self, prompt: &[u32]) {
        self.sampler.forget();
        for id in prompt {
            self.sampler.accept(*id);
        }
    }

    /// A token.
    pub fn choose(&mut self, logits: &[f32]) -> Result<u32> {
        let id = self.sampler.sample(logits).map_err(|error| match error {
            SamplerError::NonFiniteLogits { index } => {
                load::failure(&Error::NonFiniteLogits { index }, Phase::Running)
            }
            SamplerError::NoCandidate => no_candidate().into(),
            other => Failure::running(other.to_string()).into(),
        })?;
        self.sampler.accept(id);
        Ok(id)
    }

    /// The seed in use.
    pub fn seed(&self) -> u64 {
        self.sampler.seed()
    }
}

/// Whether every token of the vocabulary is forbidden.
fn leaves_none(biases: &[(u32, f32)], vocabulary: usize) -> bool {
    if biases.len() < vocabulary {
        return false;
    }
    let forbidden = biases.iter().filter(|(_, bias)| *bias == f32::NEG_INFINITY);
    let mut ids: Vec<u32> = forbidden.map(|(id, _)| *id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids.len() >= vocabulary
}

fn no_candidate() -> Failure {
    Failure::input("--logit-bias forbids every token of the vocabulary")
        .why("an answer needs one that may come")
}

fn params(options: &SamplingOptions, file: &SamplerDefaults) -> SamplerParams {
    let usual = SamplerParams::default();
    SamplerParams {
        temperature: options.temp.or(file.temperature).unwrap_or(usual.temperature),
        top_k: options.top_k.or(file.top_k).unwrap_or(usual.top_k),
        top_p: options.top_p.or(file.top_p).unwrap_or(usual.top_p),
        min_p: options.min_p.or(file.min_p).unwrap_or(usual.min_p),
        typical_p: options.typical.unwrap_or(usual.typical_p),
        top_n_sigma: options.top_n_sigma.unwrap_or(usual.top_n_sigma),
        repeat_penalty: options
            .repeat_penalty
            .or(file.penalty_repeat)
            .unwrap_or(usual.repeat_penalty),
        presence_penalty: options.presence_penalty.unwrap_or(usual.presence_penalty),
        frequency_penalty: options.frequency_penalty.unwrap_or(usual.frequency_penalty),
        penalty_last_n: options
            .repeat_last_n
            .or(file.penalty_last_n)
            .unwrap_or(usual.penalty_last_n),
        logit_bias: options.logit_bias.clone(),
        seed: options.seed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_wins_over_the_file_and_the_file_over_custom() {
        let file = SamplerDefaults { top_k: Some(7), temperature: Some(0.3), ..Default::default() };
        let options = SamplingOptions { temp: Some(0.0), ..Default::default() };
        let params = params(&options, &file);
        assert_eq!((params.temperature, params.top_k), (0.0, 7));
        assert_eq!(params.top_p, SamplerParams::default().top_p);
    }

    #[test]
    fn a_bias_beyond_the_vocabulary_is_refused() {
        let options = SamplingOptions { logit_bias: vec![(10, 1.0)], ..Default::default() };
        assert!(Chooser::new(&options, &SamplerDefaults::default(), 10).is_err());
        assert!(Chooser::new(&options, &SamplerDefaults::default(), 11).is_ok());
    }
}
