//! Caps on what metadata may ask for. They bound memory and loops before anything is allocated;
//! each is far above every published model.

/// Layers. The deepest published dense model (Llama 3.1 405B) has 126; llama.cpp caps at 512.
pub const LAYERS_MAX: u64 = 512;
/// Width of the residual stream. Llama 3.1 405B: 16,384.
pub const EMBEDDING_LENGTH_MAX: u64 = 1 << 17;
/// Width of a feed-forward block. Llama 3.1 405B: 53,248.
pub const FEED_FORWARD_LENGTH_MAX: u64 = 1 << 19;
/// Attention heads. DeepSeek-V3: 128.
pub const HEADS_MAX: u64 = 4096;
/// Size of one head. Gemma 3: 256; DeepSeek's latent attention: 576.
pub const HEAD_LENGTH_MAX: u64 = 4096;
/// Context a file may claim to be trained for. Llama 4 Scout claims 10,485,760.
pub const CONTEXT_MAX: u64 = 1 << 27;
/// Tokens in a vocabulary. Gemma 3: 262,144.
pub const VOCABULARY_MAX: u64 = 1 << 22;
/// Experts of a layer. Kimi-K2: 384; llama.cpp caps at 512.
pub const EXPERTS_MAX: u64 = 1024;
/// Tokens of GLM-4.7-Flash, by which its first conversions are known.
pub(crate) const GLM_FLASH_VOCABULARY: u64 = 154_880;

/// A value below one of the caps, all of which are below 2^32.
#[expect(clippy::cast_possible_truncation, reason = "callers pass values capped below 2^32")]
pub(crate) fn narrow(value: u64) -> u32 {
    value as u32
}
