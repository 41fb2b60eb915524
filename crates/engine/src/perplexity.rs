//! Perplexity as `llama-perplexity` computes it, so that figures can be compared: the text is cut
//! into chunks of the context's length, each chunk starts cold (its first token replaced by BOS
//! where the vocabulary asks for one), and only the second half of a chunk is scored.

use std::io::Write;

use crate::engine::Engine;
use crate::error::Error;
use crate::session::{Logits, Session};

/// Of a chunk of two tokens the second half has none that is predicted from within it; four is what
/// llama-perplexity takes at least.
pub(crate) const CHUNK_TOKENS_MIN: usize = 4;

/// The result over all chunks.
#[derive(Debug, Clone)]
pub struct Perplexity {
    /// Tokens of the text.
    pub tokens: usize,
    /// Chunks scored.
    pub chunks: usize,
    /// Tokens of a chunk.
    pub context: usize,
    /// Negative log-likelihood of each scored token, nats, in order.
    pub nll: Vec<f32>,
}

impl Perplexity {
    /// `exp(mean nll)`; NaN where nothing was scored.
    #[must_use]
    pub fn value(&self) -> f64 {
        let sum: f64 = self.nll.iter().map(|v| f64::from(*v)).sum();
        #[expect(clippy::cast_precision_loss, reason = "a count of tokens")]
        let mean = sum / self.nll.len() as f64;
        mean.exp()
    }
}

/// What to score.
#[derive(Debug, Clone, Copy)]
pub struct PerplexityOptions {
    /// Tokens of a chunk, at least 4; 512 is the convention.
    pub context: usize,
    /// Chunks at most.
    pub chunks_max: Option<usize>,
}

/// Scores `tokens` (BOS in front where the vocabulary asks for it, as `tokenize --special` gives
/// them) with `session`, which is reset for each chunk. `save` receives the log-probabilities in
/// the format that `llama-perplexity --kl-divergence-base` writes. `progress` is told chunks done,
/// chunks in all, and the running value.
///
/// # Errors
/// Too few tokens, a forward pass that failed, logits that are not finite, or `save` refusing.
pub fn perplexity(
    engine: &mut Engine,
    session: &mut Session,
    tokens: &[u32],
    options: PerplexityOptions,
    mut save: Option<&mut dyn Write>,
    progress: &mut dyn FnMut(usize, usize, f64),
) -> Result<Perplexity, Error> {
    let context = options.context;
    let chunks = (tokens.len() / context.max(1)).min(options.chunks_max.unwrap_or(usize::MAX));
    if context < CHUNK_TOKENS_MIN {
        return Err(Error::ChunkTooSmall { context });
    }
    if chunks == 0 {
        return Err(Error::TextTooShort { tokens: tokens.len(), needed: context });
    }
    if let Some(out) = save.as_deref_mut() {
        write_header(out, context, engine.vocabulary_length(), &tokens[..chunks * context])?;
    }
    let tokenizer = engine.tokenizer();
    let bos = tokenizer.special().bos.filter(|_| tokenizer.adds_bos());
    let mut result = Perplexity {
        tokens: tokens.len(),
        chunks,
        context,
        nll: Vec::with_capacity(chunks * context / 2),
    };
    let mut encoded = Vec::new();
    for chunk in 0..chunks {
        let scored = &tokens[chunk * context..(chunk + 1) * context];
        let mut input = scored.to_vec();
        if let Some(bos) = bos {
            input[0] = bos;
        }
        session.reset();
        let first = context / 2;
        let mut failure = None;
        session.forward(engine, &input, Logits::From(first), &mut |position, logits| {
            if position + 1 >= context || failure.is_some() {
                return;
            }
            match nll_of(logits, scored[position + 1], &mut encoded, save.is_some()) {
                Ok(nll) => result.nll.push(nll),
                Err(error) => failure = Some(error),
            }
            if let Some(out) = save.as_deref_mut()
                && let Err(error) = out.write_all(&encoded)
            {
                failure = Some(error.into());
            }
        })?;
        if let Some(error) = failure {
            return Err(error);
        }
        progress(chunk + 1, chunks, result.value());
    }
    Ok(result)
}

fn write_header(
    out: &mut dyn Write,
    context: usize,
    vocabulary: usize,
    tokens: &[u32],
) -> Result<(), Error> {
    let narrow = |n: usize| i32::try_from(n).unwrap_or(i32::MAX).to_le_bytes();
    out.write_all(b"_logits_")?;
    out.write_all(&narrow(context))?;
    out.write_all(&narrow(vocabulary))?;
    out.write_all(&narrow(tokens.len() / context))?;
    for token in tokens {
        out.write_all(&token.to_le_bytes())?;
    }
    Ok(())
}

/// Negative log-likelihood of `token`, and in `encoded` the row as the file format wants it: scale
/// and minimum as f32, then 16-bit steps from the minimum, which is at most 16 nats below the
/// greatest; padded to an even count.
fn nll_of(logits: &[f32], token: u32, encoded: &mut Vec<u8>, encode: bool) -> Result<f32, Error> {
    encoded.clear();
    let (mut max, mut min) = (f32::NEG_INFINITY, f32::INFINITY);
    for (index, logit) in logits.iter().enumerate() {
        if !logit.is_finite() {
            return Err(Error::NonFiniteLogits { index });
        }
        max = max.max(*logit);
        min = min.min(*logit);
    }
    min = min.max(max - 16.0);
    let sum: f64 = logits.iter().map(|l| f64::from((l - max).exp())).sum();
    #[expect(clippy::cast_possible_truncation, reason = "the format stores f32")]
    let log_sum = sum.ln() as f32;
    if encode {
        let scale = (max - min) / 65535.0;
        encoded.extend_from_slice(&scale.to_le_bytes());
        encoded.extend_from_slice(&(min - max - log_sum).to_le_bytes());
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        for logit in logits {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "`as` saturates to 0..=65535"
            )]
            let step = (inverse * (logit - min)).round_ties_even().max(0.0) as u16;
            encoded.extend_from_slice(&step.to_le_bytes());
        }
        if !logits.len().is_multiple_of(2) {
            encoded.extend_from_slice(&[0, 0]);
        }
    }
    let logit = logits.get(token as usize).copied().unwrap_or(f32::NEG_INFINITY);
    Ok(max + log_sum - logit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nll_of_uniform_logits_is_the_log_of_their_number() {
        let mut encoded = Vec::new();
        let nll = nll_of(&[1.5; 8], 3, &mut encoded, false).unwrap();
        assert!((nll - 8f32.ln()).abs() < 1e-6, "{nll}");
    }

    #[test]
    fn encoded_rows_decode_to_log_probabilities() {
        let logits = [0.0f32, 1.0, 2.0, -30.0, 3.0];
        let mut encoded = Vec::new();
        nll_of(&logits, 0, &mut encoded, true).unwrap();
        assert_eq!(encoded.len(), 8 + 2 * 6, "padded to an even count");
        let f32_at = |at: usize| f32::from_le_bytes(encoded[at..at + 4].try_into().unwrap());
        let log_sum: f32 = logits.iter().map(|l| l.exp()).sum::<f32>().ln();
        for (i, logit) in logits.iter().enumerate() {
            let step = u16::from_le_bytes([encoded[8 + 2 * i], encoded[9 + 2 * i]]);
            let decoded = f32_at(0) * f32::from(step) + f32_at(4);
            let expected = logit.max(3.0 - 16.0) - log_sum;
            assert!((decoded - expected).abs() < 2e-4, "{i}: {decoded} {expected}");
        }
    }

    #[test]
    fn a_nan_is_an_error_that_names_its_place() {
        let error = nll_of(&[0.0, f32::NAN], 0, &mut Vec::new(), false).unwrap_err();
        assert!(matches!(error, Error::NonFiniteLogits { index: 1 }));
    }
}
