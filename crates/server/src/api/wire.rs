//! Pieces of bodies that several protocols share.

use crate::stream::Frames;
use lowtide_tokenizer::Tokenizer;
use serde_json::{Value, json};

use crate::job::{Figures, Finish, TokenLogprob};

/// OpenAI's `usage`.
pub fn usage(figures: &Figures) -> Value {
    json!({
        "prompt_tokens": figures.prompt_tokens,
        "completion_tokens": figures.completion_tokens,
        "total_tokens": figures.prompt_tokens + figures.completion_tokens,
        "prompt_tokens_details": { "cached_tokens": figures.cached_tokens },
    })
}

/// llama.cpp's `timings`, with what waiting for the disk took.
pub fn timings(figures: &Figures) -> Value {
    let read = figures.prompt_tokens - figures.cached_tokens;
    let rate = |tokens: usize, seconds: f64| {
        if seconds > 0.0 { tokens as f64 / seconds } else { 0.0 }
    };
    let each = |tokens: usize, seconds: f64| {
        if tokens > 0 { seconds * 1e3 / tokens as f64 } else { 0.0 }
    };
    json!({
        "cache_n": figures.cached_tokens,
        "prompt_n": read,
        "prompt_ms": figures.prefill_s * 1e3,
        "prompt_per_token_ms": each(read, figures.prefill_s),
        "prompt_per_second": rate(read, figures.prefill_s),
        "predicted_n": figures.completion_tokens,
        "predicted_ms": figures.decode_s * 1e3,
        "predicted_per_token_ms": each(figures.completion_tokens, figures.decode_s),
        "predicted_per_second": rate(figures.completion_tokens, figures.decode_s),
        "queue_ms": figures.queue_s * 1e3,
        "disk_wait_ms": figures.disk_wait_s * 1e3,
        "read_bytes": figures.read_bytes,
    })
}

/// OpenAI's `finish_reason`.
pub fn finish_reason(finish: Option<&Finish>, has_calls: bool) -> &'static str {
    match finish {
        Some(Finish::Length) => "length",
        _ if has_calls => "tool_calls",
        _ => "stop",
    }
}

/// An entry of chat's `logprobs.content`.
pub fn chat_logprob(of: &TokenLogprob, tokenizer: &Tokenizer) -> Value {
    let entry = |id: u32, logprob: f64| {
        let bytes = tokenizer.token_bytes(id);
        let token = String::from_utf8_lossy(&bytes);
        json!({ "token": token, "logprob": finite(logprob), "bytes": &bytes })
    };
    let mut own = entry(of.id, of.logprob);
    own["top_logprobs"] = of.top.iter().map(|(id, logprob)| entry(*id, *logprob)).collect();
    own
}

/// A token as text; where it is a part of a character, with a mark in its place.
pub fn token_text(tokenizer: &Tokenizer, id: u32) -> String {
    String::from_utf8_lossy(&tokenizer.token_bytes(id)).into_owned()
}

/// JSON knows no infinity; clients take -9999 for it, as OpenAI's own server says.
pub fn finite(logprob: f64) -> f64 {
    logprob.max(-9999.0)
}

/// The end of an OpenAI stream: `finished`, which says why the last answer ended, and where it is asked for a chunk
/// of no choices with the usage; then the mark. Both have the timings.
pub fn end(finished: Option<Value>, of_usage: Option<Value>, figures: &Figures, out: &mut Frames) {
    let of_usage = of_usage.map(|mut chunk| {
        chunk["usage"] = usage(figures);
        chunk
    });
    for mut chunk in finished.into_iter().chain(of_usage) {
        chunk["timings"] = timings(figures);
        out.data(&chunk);
    }
    out.raw("data: [DONE]\n\n");
}
