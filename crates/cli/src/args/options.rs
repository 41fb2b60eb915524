//! Options that several commands share.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::values::{
    Memory, fraction, logit_bias, memory, non_negative, not_empty, positive, token_id,
};

/// How bytes of the model come in.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Io {
    /// Whatever suits this machine and model
    #[default]
    Auto,
    /// Through the mapping and the page cache
    Mapped,
    /// By O_DIRECT, past the page cache
    Direct,
}

/// Format of the KV cache.
#[derive(ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Kv {
    /// 16-bit floats
    #[default]
    F16,
    /// 8-bit blocks: half the memory
    #[value(name = "q8_0")]
    Q8_0,
}

/// Memory and machine.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Memory and machine")]
pub struct BudgetOptions {
    /// Memory for everything: 6.8GB, 6.8GiB, or auto (what limits and other programs leave)
    #[arg(long, value_name = "SIZE", value_parser = memory, default_value = "auto")]
    #[arg(allow_hyphen_values = true)]
    pub memory: Memory,
    /// Threads that compute [default: the physical cores this process may use]
    #[arg(long, short = 't', value_name = "N", allow_hyphen_values = true)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// Tokens of context [default: the model's, at most 4096]
    #[arg(long, short = 'c', value_name = "N", allow_hyphen_values = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    pub ctx: Option<u32>,
    /// How bytes of the model come in
    #[arg(long, value_enum, value_name = "WAY", default_value_t, hide_possible_values = true)]
    #[arg(help = "How bytes of the model come in: auto, mapped, direct")]
    pub io: Io,
    /// Read no expert before a router has asked for it
    #[arg(long)]
    pub no_guess: bool,
    /// What is so anyway; for commands that say it.
    #[arg(long, hide = true, overrides_with = "no_guess")]
    pub guess: bool,
    /// Format of the KV cache
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t, hide_possible_values = true)]
    #[arg(help = "Format of the KV cache: f16, or q8_0 in half the memory")]
    pub kv: Kv,
}

/// How the next token is chosen. What is not given is taken from the model's own recommendation,
/// and where it has none, from common practice.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Sampling")]
pub struct SamplingOptions {
    /// Temperature; 0 takes the likeliest token every time
    #[arg(long, value_name = "X", value_parser = non_negative, allow_hyphen_values = true)]
    pub temp: Option<f32>,
    /// Keep the N likeliest tokens; 0 keeps all
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub top_k: Option<u32>,
    /// Keep the likeliest tokens that make up this share
    #[arg(long, value_name = "P", value_parser = fraction, allow_hyphen_values = true)]
    pub top_p: Option<f32>,
    /// Keep tokens at least this likely, measured against the likeliest
    #[arg(long, value_name = "P", value_parser = fraction, allow_hyphen_values = true)]
    pub min_p: Option<f32>,
    /// Keep tokens that surprise about as much as expected, up to this share
    #[arg(long, value_name = "P", value_parser = fraction, allow_hyphen_values = true)]
    pub typical: Option<f32>,
    /// Keep tokens within N standard deviations of the greatest logit
    #[arg(long, value_name = "N", value_parser = non_negative, allow_hyphen_values = true)]
    pub top_n_sigma: Option<f32>,
    /// Divide the logits of recent tokens by this; 1 is off
    #[arg(long, value_name = "X", value_parser = positive, allow_hyphen_values = true)]
    pub repeat_penalty: Option<f32>,
    /// How many recent tokens the three penalties look at
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub repeat_last_n: Option<u32>,
    /// Subtract this from the logits of recent tokens
    #[arg(long, value_name = "X", value_parser = non_negative, allow_hyphen_values = true)]
    pub presence_penalty: Option<f32>,
    /// Subtract this times their count from the logits of recent tokens
    #[arg(long, value_name = "X", value_parser = non_negative, allow_hyphen_values = true)]
    pub frequency_penalty: Option<f32>,
    /// Add to a token's logit; -inf forbids the token. May be repeated
    #[arg(long, value_name = "ID=BIAS", value_parser = logit_bias, allow_hyphen_values = true)]
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed; the same seed gives the same answer [default: another each time]
    #[arg(long, short, value_name = "N", allow_hyphen_values = true)]
    pub seed: Option<u64>,
}

/// What goes in.
#[derive(Args, Debug, Clone)]
pub struct PromptOptions {
    /// Read the prompt from a file
    #[arg(short, long, value_name = "FILE", conflicts_with = "prompt")]
    pub file: Option<PathBuf>,
    /// The prompt as token ids, taken as they are
    #[arg(long, value_name = "ID,ID,...", value_delimiter = ',', allow_hyphen_values = true)]
    #[arg(value_parser = token_id, conflicts_with_all = ["prompt", "file", "raw", "system"])]
    pub ids: Option<Vec<u32>>,
    /// No chat template: the model goes on with the prompt as it is
    #[arg(long)]
    pub raw: bool,
    /// A message that says how to answer
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub system: Option<String>,
}

/// When an answer ends.
#[derive(Args, Debug, Clone)]
pub struct EndOptions {
    /// Tokens of an answer at most [default: what the context holds]
    #[arg(long, short = 'n', value_name = "N", allow_hyphen_values = true)]
    pub max_tokens: Option<u32>,
    /// End before this text. May be repeated
    #[arg(long, value_name = "TEXT", value_parser = not_empty, allow_hyphen_values = true)]
    pub stop: Vec<String>,
    /// Go on past the model's own end
    #[arg(long)]
    pub ignore_eos: bool,
}
