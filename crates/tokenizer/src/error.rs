//! The one error type of this crate.

/// What is wrong with a vocabulary or a chat template, and where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A metadata key is absent, or its value has the wrong type.
    #[error(transparent)]
    Gguf(#[from] lowtide_gguf::Error),
    /// `tokenizer.ggml.model` names a kind of vocabulary that is not implemented.
    #[error(
        "tokenizer model \"{model}\" is not supported\n\
         key tokenizer.ggml.model; supported are \"gpt2\" (byte-level BPE), \"llama\" (SentencePiece) and \"gemma4\""
    )]
    UnsupportedModel {
        /// The name in the file.
        model: String,
    },
    /// `tokenizer.ggml.pre` names a splitter that is not known. Splitting otherwise would give the model
    /// tokens that it was not trained on, so there is no default; [`LoadOptions::pre`](crate::LoadOptions)
    /// is the caller's way to insist.
    #[error(
        "pre-tokenizer \"{pre}\" is not known\nkey tokenizer.ggml.pre; \
         encoding text by another one would silently give wrong tokens"
    )]
    UnknownPre {
        /// The name in the file.
        pre: String,
    },
    /// The vocabulary has no tokens, or more than ids can count.
    #[error(
        "the vocabulary has {count} tokens\nkey tokenizer.ggml.tokens; 1 to {max} are possible"
    )]
    TokenCount {
        /// How many.
        count: usize,
        /// The most that are accepted.
        max: usize,
    },
    /// An array that goes with the tokens is shorter than they are.
    #[error(
        "{key} has {found} elements\ntokenizer.ggml.tokens has {tokens}, one is needed for each"
    )]
    ArrayTooShort {
        /// The metadata key.
        key: &'static str,
        /// Elements there.
        found: usize,
        /// Tokens there.
        tokens: usize,
    },
    /// A token too long to be one.
    #[error(
        "token {id} is {bytes} bytes long\nkey tokenizer.ggml.tokens; at most {max} are accepted"
    )]
    TokenTooLong {
        /// Its id.
        id: usize,
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// All tokens and merges together are too long for 32-bit offsets.
    #[error(
        "the vocabulary's text is over {max} bytes long\nkeys tokenizer.ggml.tokens and .merges"
    )]
    VocabularyTooLarge {
        /// The limit.
        max: usize,
    },
    /// A byte-pair vocabulary without merges.
    #[error(
        "tokenizer.ggml.merges is missing\na \"{model}\" vocabulary cannot encode text without it"
    )]
    MergesMissing {
        /// The vocabulary's kind.
        model: String,
    },
    /// A special token's id is not in the vocabulary.
    #[error("{key} is {id}\nthe vocabulary has ids 0 to {last}")]
    SpecialId {
        /// The metadata key.
        key: &'static str,
        /// The id there.
        id: u32,
        /// The last id of the vocabulary.
        last: u32,
    },
    /// Encoding a text would take more memory than it may.
    #[error(
        "turning the text into tokens takes {bytes} bytes of memory\nit may take {max}; long words and special tokens take the most"
    )]
    EncodingTooLarge {
        /// Bytes on the heap that it would take, as far as it got.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The file has no chat template.
    #[error(
        "the model has no chat template\nkey tokenizer.chat_template; give one, or use the raw prompt"
    )]
    TemplateMissing,
    /// The chat template is too long.
    #[error(
        "the chat template is {bytes} bytes long\nkey tokenizer.chat_template; at most {max} are accepted"
    )]
    TemplateTooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The chat template is not a Jinja template.
    #[error("the chat template cannot be read\n{message}")]
    TemplateSyntax {
        /// What the engine says, with the line.
        message: String,
    },
    /// The chat template refused these messages (`raise_exception`).
    #[error("the chat template refuses these messages\n{message}")]
    TemplateRefused {
        /// The template's words.
        message: String,
    },
    /// The chat template failed on these messages.
    #[error("the chat template failed\n{message}")]
    TemplateFailed {
        /// What the engine says, with the line.
        message: String,
    },
    /// The chat template ran for too long, recursed too deep or wrote too much.
    #[error("the chat template exceeds a limit: {limit}")]
    TemplateLimit {
        /// Which limit.
        limit: String,
    },
}
