//! `--logprobs N`: of each token its log-probability, and those of the likeliest. They are kept until the answer
//! has ended, in lists that are claimed before it begins: a thousand for each of two thousand tokens are 16 MB.

use lowtide_engine::sampler::log_probs;
use lowtide_tokenizer::Tokenizer;
use serde::{Serialize, Serializer};

/// A token, and where those of its likeliest end in the list of all.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Token {
    id: u32,
    logprob: f32,
    end: usize,
}

/// Of all tokens of an answer. Serialised as `[{"id", "logprob", "top": [[id, logprob], ..]}, ..]`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Logprobs {
    tokens: Vec<Token>,
    top: Vec<(u32, f32)>,
}

#[derive(Serialize)]
struct Entry<'t> {
    id: u32,
    logprob: f32,
    top: &'t [(u32, f32)],
}

impl Logprobs {
    /// Bytes that one token takes.
    pub fn token_bytes(top: usize, tokenizer: &Tokenizer) -> usize {
        let top = top.min(tokenizer.vocab_size());
        size_of::<Token>() + top * size_of::<(u32, f32)>()
    }

    /// Room for `tokens` tokens.
    pub fn with_capacity(tokens: usize, top: usize, tokenizer: &Tokenizer) -> Self {
        let top = tokens.saturating_mul(top.min(tokenizer.vocab_size()));
        Self { tokens: Vec::with_capacity(tokens), top: Vec::with_capacity(top) }
    }

    /// The chosen token's log-probability, and those of the `top` likeliest.
    pub fn push(&mut self, logits: &[f32], id: u32, top: usize) {
        let found = log_probs(logits, id, top);
        // Digits past those of an f32 are noise.
        self.top.extend(found.top.into_iter().map(|(id, logprob)| (id, logprob as f32)));
        self.tokens.push(Token { id, logprob: found.chosen as f32, end: self.top.len() });
    }
}

impl Serialize for Logprobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut start = 0;
        serializer.collect_seq(self.tokens.iter().map(|token| {
            let top = &self.top[start..token.end];
            start = token.end;
            Entry { id: token.id, logprob: token.logprob, top }
        }))
    }
}
