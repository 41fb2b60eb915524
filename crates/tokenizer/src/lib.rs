//! Text to token ids and back, and chat templates: vocabularies as GGUF files carry them.
//!
//! - [`Tokenizer`]: byte-level BPE (`gpt2`) with every pre-tokenizer that llama.cpp names, SentencePiece
//!   (`llama`), and BPE over raw UTF-8 (`gemma4`). It encodes and decodes as llama.cpp does; where that is known to
//!   differ, it is said below.
//! - [`StreamDecoder`]: text from tokens as they come, whole characters only.
//! - [`ChatTemplate`]: the file's Jinja template; [`Tokenizer::encode_prompt`] keeps special tokens that a user
//!   wrote plain text.
//!
//! # Own or library
//!
//! Both were built and measured on the 151,936 tokens of Qwen2 (`examples/measure.rs`; CPU time on a machine
//! that was busy with other things, so compare the columns, not the figures with yours):
//!
//! | | load | memory | a text | a megabyte of one letter |
//! |---|---|---|---|---|
//! | this crate | 57 ms | 7.5 MB (12.6 MB while loading) | 28 MB/s | 1.9 MB/s |
//! | `tokenizers` 0.22 | 195 ms | 46 MB (52 MB while loading) | 2.5 MB/s | 3.3 MB/s (128 KB) |
//!
//! The limits were 150 ms and 60 MB, and memory counts: it is taken from what weights could have. So this is our own. Splitting is
//! by hand-written scanners, not by a regex engine: the expressions have look-ahead, which linear-time engines
//! lack, and the ones that have it are quadratic on a megabyte of spaces.
//!
//! The 262,144 tokens of gemma 3 take 35 ms and 7.4 MB; those of gemma 4, with 514,906 merges, 24 MB.
//!
//! # Where this differs from llama.cpp
//!
//! - Text does not become a control token by spelling its name, even where merges or scores lead there.
//! - An unknown `tokenizer.ggml.pre` is an error in both. So are vocabularies of other kinds, which llama.cpp has.
//! - Of several tokens that could end a turn, `eot` is the first of a fixed list, not of a hash table's order.
#![forbid(unsafe_code)]

mod bpe;
mod bytelevel;
mod chat_template;
mod clock;
mod decode;
mod error;
mod guard;
mod jinja;
mod load;
mod parts;
mod pre;
mod pymethods;
mod pytext;
mod roles;
mod special;
mod split;
mod spm;
mod tokenizer;
mod unicode;
mod unicode_data;
mod vocab;

pub use chat_template::{ChatTemplate, Message, Prompt, RenderOptions, TEMPLATE_BYTES_MAX};
pub use decode::{DecodeOptions, StreamDecoder};
pub use error::Error;
pub use load::LoadOptions;
pub use parts::{NamedIds, TOKEN_BYTES_MAX, TOKENS_MAX, VocabParts};
pub use roles::SpecialIds;
pub use tokenizer::{EncodeOptions, Tokenizer};

/// The number of a token in its vocabulary.
pub type TokenId = u32;
