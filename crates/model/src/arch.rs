//! What families differ in: the variants that the one forward pass knows. [`crate::families`] chooses among them.

use crate::Error;
use crate::families::FAMILIES;

/// How rotary embeddings pair the elements of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeStyle {
    /// Neighbours: (0,1), (2,3), ... GGUF files of the `llama` family are permuted for this.
    Norm,
    /// Halves: (0, n/2), (1, n/2+1), ... (GPT-NeoX).
    Neox,
}

/// Which of them a family has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    /// Always this one.
    Always(RopeStyle),
    /// Neighbours, or halves where positions have sections (`rope.dimension_sections`: the GLM that sees images).
    NormUnlessSections,
}

/// The gate's non-linearity in a gated feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `silu(gate) * up`.
    Silu,
    /// `gelu(gate) * up`, the tanh form.
    GeluTanh,
    /// `g sigmoid(1.702 g) (u + 1)` with `g = min(gate, 7)` and `u = clamp(up, -7, 7)` (gpt-oss).
    SwigluClamped,
}

/// Which RMS norm queries and keys get before they are rotated (`attn_q_norm`, `attn_k_norm`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// Each head by itself.
    Head,
    /// Each head by itself, where the file has the weights: members of the family differ.
    HeadIfPresent,
    /// All heads of a token together.
    Whole,
    /// Each head by itself, and not before but after it is rotated.
    HeadRotated,
}

/// What attention works on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionKind {
    /// Keys and values of each head, projected from the residual stream.
    Heads,
    /// One latent vector a token, from which all heads' keys and values follow (multi-head latent
    /// attention, DeepSeek-V2).
    Latent,
}

/// Which blocks are normed, and under which name the norm before the feed-forward is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FfnNorm {
    /// `ffn_norm`.
    Own,
    /// `post_attention_norm`, as the reference implementations call it.
    PostAttention,
}

/// Numbers that the embedding, the residual stream and the logits are multiplied by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Multipliers {
    /// None.
    None,
    /// The embedding, by the square root of its length (Gemma).
    SqrtLength,
    /// Keys of the file: `embedding_scale`, `residual_scale` (of what a block adds), `logit_scale` (a
    /// divisor) (Granite).
    Keys,
}

/// Which layers attend through a sliding window when the file does not list them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sliding {
    /// None; a window in the metadata is an error, for ignoring it would change the answers.
    Never,
    /// All but each `n`-th layer (Gemma 3: five local, one global, n = 6).
    AllButEvery(u32),
    /// None; what the metadata says of a window is passed over, as llama.cpp does it (Phi-3: its converters write
    /// windows that the models were not trained with).
    Unused,
}

/// Rotary frequencies of the layers with a sliding window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlidingRope {
    /// A base of their own (10,000 where the file gives none), never stretched.
    Own,
    /// The other layers' base and stretching, where the file gives no base.
    AsGlobal,
    /// The other layers' base, where the file gives none, never stretched (OLMo 3).
    Unstretched,
}

/// From a router's scores to the experts' weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Score {
    /// Softmax over all experts, then the best are taken.
    Softmax,
    /// Each expert's sigmoid.
    Sigmoid,
    /// The best are taken, then softmax over those.
    SoftmaxOfChosen,
}

/// Where the width of an expert is stated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpertWidth {
    /// `feed_forward_length`.
    FeedForward,
    /// `expert_feed_forward_length`.
    Own,
    /// The same, or `feed_forward_length` divided by the experts used.
    OwnOrShare,
}

/// The feed-forward block that every token passes besides its experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shared {
    /// None.
    None,
    /// As wide as `expert_shared_count` experts.
    Count,
    /// As wide as `expert_shared_feed_forward_length` says; none where it is absent.
    Length,
    /// As wide as that key or `feed_forward_length` says, and multiplied by the sigmoid of a gate.
    Gated,
    /// As wide as that key or `feed_forward_length` says.
    LengthOrDense,
    /// `expert_shared_count` times as wide as that key says, or as an expert.
    CountOfLength,
}

/// How a family mixes experts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mixture {
    /// Every member of the family has experts.
    pub always: bool,
    /// An expert's width.
    pub width: ExpertWidth,
    /// The block besides the experts.
    pub shared: Shared,
    /// From scores to weights, where the file does not say (`expert_gating_func`).
    pub score: Score,
    /// Weights are divided by their sum, where the file does not say (`expert_weights_norm`).
    pub normalised: bool,
    /// The router and the experts' matrices have biases.
    pub biases: bool,
    /// The file may have a bias that takes part in choosing experts and not in their weights
    /// (`exp_probs_b.bias`, DeepSeek-V3).
    pub selection_bias: bool,
}

/// One family of models: a row of [`FAMILIES`].
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// `general.architecture` in the file.
    pub name: &'static str,
    /// How rotary embeddings pair elements.
    pub rope: Pairs,
    /// The feed-forward gate.
    pub activation: Activation,
    /// Norms of queries and keys.
    pub qk_norm: QkNorm,
    /// What attention works on.
    pub attention: AttentionKind,
    /// Each head has a score that takes weight and has no value (`attn_sinks`).
    pub sinks: bool,
    /// The attention's and the feed-forward's outputs are normed before they are added
    /// (`post_attention_norm`, `post_ffw_norm`).
    pub post_norm: bool,
    /// Attention's and the feed-forward's inputs are normed; if not, only their outputs are.
    pub pre_norm: bool,
    /// The norm before the feed-forward.
    pub ffn_norm: FfnNorm,
    /// The dense feed-forward's gate has no tensor of its own but the first half of `ffn_up`'s rows.
    pub gate_in_up: bool,
    /// Queries and keys of every n-th layer are not rotated.
    pub unrotated_every: Option<u32>,
    /// Scales of embedding, residual stream and logits.
    pub multipliers: Multipliers,
    /// Sliding windows.
    pub sliding: Sliding,
    /// Frequencies in their layers.
    pub sliding_rope: SlidingRope,
    /// The largest Gemmas alone (62 layers in Gemma 3, 46 in Gemma 2) scale queries by `1/sqrt(embedding / heads)`
    /// instead of `1/sqrt(head size)`: the reference configuration's `query_pre_attn_scalar`.
    pub wide_query_scale_at_layers: Option<u32>,
    /// Keys that early conversions lack and every member of the family needs; what stands for them is not known.
    pub needed_keys: &'static [&'static str],
    /// Experts; `None` if no member of the family has any.
    pub mixture: Option<Mixture>,
}

/// The row for `general.architecture`.
///
/// # Errors
/// [`Error::Unsupported`] names the family and lists those that are supported.
pub fn family(name: &str) -> Result<&'static Family, Error> {
    FAMILIES.iter().find(|f| f.name == name).ok_or_else(|| Error::Unsupported {
        what: format!("model family {name:?}"),
        why: "an unknown family cannot be run as if it were another".to_owned(),
    })
}

/// Names of all families, comma-separated, for messages.
#[must_use]
pub fn names() -> String {
    FAMILIES.iter().map(|f| f.name).collect::<Vec<_>>().join(", ")
}
