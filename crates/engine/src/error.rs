//! What can go wrong between a file name and a token.

use std::path::PathBuf;

use crate::perplexity::CHUNK_TOKENS_MIN;

/// An error of the engine. `Display` gives one to three lines: what, where and why, the mend.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file could not be opened, mapped or read.
    #[error(transparent)]
    Mapping(#[from] lowtide_mapping::Error),
    /// The file is not a sound GGUF file.
    #[error("{}: {source}", path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: lowtide_gguf::Error,
    },
    /// The metadata or the tensors do not make a model lowtide can run.
    #[error("{}: {source}", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: lowtide_model::Error,
    },
    /// The vocabulary is unsound or of an unsupported kind.
    #[error("{}: {source}", path.display())]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: lowtide_tokenizer::Error,
    },
    /// Bytes of the model could not be brought in.
    #[error(transparent)]
    Residency(#[from] lowtide_residency::ResidencyError),
    /// No plan could be made for the weights.
    #[error(transparent)]
    Plan(#[from] lowtide_residency::PlanError),
    /// A product was given slices that do not fit: a mistake in this crate.
    #[error(transparent)]
    Matmul(#[from] lowtide_kernels::matmul::MatmulError),
    /// A kernel was given slices that do not fit: a mistake in this crate.
    #[error(transparent)]
    Shape(#[from] lowtide_kernels::shape::ShapeError),
    /// Bytes that are not whole blocks of their format: a mistake in this crate.
    #[error(transparent)]
    Format(#[from] lowtide_kernels::format::FormatError),
    /// The model does not run in the memory it was given.
    #[error("{0}")]
    Budget(String),
    /// `LOWTIDE_ISA` names something this machine cannot run.
    #[error(transparent)]
    Isa(#[from] lowtide_kernels::isa::IsaError),
    /// Threads could not be started.
    #[error(transparent)]
    Pool(#[from] lowtide_kernels::pool::PoolError),
    /// Writing results failed.
    #[error("writing the results failed: {0}")]
    Io(#[from] std::io::Error),
    /// The prompt and what is to be generated exceed the context.
    #[error(
        "{needed} tokens do not fit the context of {context}\n  {why}\n  give a larger --ctx, or shorten the prompt"
    )]
    ContextFull {
        /// Tokens wanted in all.
        needed: usize,
        /// Tokens there is room for.
        context: usize,
        /// Where the figure comes from.
        why: &'static str,
    },
    /// A shared pass of more tokens, or more rows of logits, than there is room for.
    #[error(
        "a pass of {tokens} tokens and {rows} rows of logits is too wide\n  there is room for {batch} tokens and {rows_max} rows"
    )]
    PassTooWide {
        /// Tokens of the pass.
        tokens: usize,
        /// Tokens there is room for.
        batch: usize,
        /// Rows of logits.
        rows: usize,
        /// Rows there is room for.
        rows_max: usize,
    },
    /// A prompt of no tokens.
    #[error(
        "the prompt is empty\n  a model needs at least one token to go on from\n  give a prompt as an argument, with -f FILE, or on standard input"
    )]
    EmptyPrompt,
    /// A token id outside the vocabulary.
    #[error("token id {id} is outside the vocabulary of {vocabulary} tokens")]
    TokenOutOfRange {
        /// The id.
        id: u32,
        /// The vocabulary's size.
        vocabulary: usize,
    },
    /// A logit that is NaN or infinite: the weights or the activations are broken.
    #[error(
        "the model's logit {index} is not a finite number\n  weights with NaN or infinite scales do that: the file is damaged, or its conversion failed\n  check the file's sha256 against its source"
    )]
    NonFiniteLogits {
        /// The token id whose logit it is.
        index: usize,
    },
    /// A router whose score of an expert is NaN or infinite.
    #[error(
        "the router of layer {layer} gives expert {expert} a score that is not a finite number\n  weights with NaN or infinite scales do that: the file is damaged, or its conversion failed\n  check the file's sha256 against its source"
    )]
    NonFiniteRouter {
        /// The layer, from 0.
        layer: usize,
        /// The expert.
        expert: usize,
    },
    /// A block for which no memory was claimed: a mistake in this crate.
    #[error("no memory was claimed for {0}")]
    Unplanned(&'static str),
    /// Too little text to score.
    #[error(
        "the text has {tokens} tokens, one chunk needs {needed}\n  give a longer text{}",
        if *tokens < CHUNK_TOKENS_MIN { "" } else { " or a smaller --ctx" }
    )]
    TextTooShort {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens of a chunk.
        needed: usize,
    },
    /// A context in which nothing can be scored.
    #[error(
        "a context of {context} tokens is too small: one chunk needs {}\n  the first half of a chunk is read, the second scored\n  try: --ctx 512",
        CHUNK_TOKENS_MIN
    )]
    ChunkTooSmall {
        /// Tokens of the context.
        context: usize,
    },
    /// The caller asked to stop.
    #[error("stopped")]
    Stopped,
}
