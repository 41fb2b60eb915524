//! The table of families. A row chooses among the variants of [`crate::arch`]; it holds no code. Sources: the families'
//! reference implementations as llama.cpp's `src/models/` and Hugging Face transformers describe them.

use crate::arch::{
    Activation, AttentionKind, ExpertWidth, Family, FfnNorm, Mixture, Multipliers, Pairs, QkNorm,
    RopeStyle, Score, Shared, Sliding, SlidingRope,
};

const NEIGHBOURS: Pairs = Pairs::Always(RopeStyle::Norm);

const DENSE: Family = Family {
    name: "",
    rope: Pairs::Always(RopeStyle::Neox),
    activation: Activation::Silu,
    qk_norm: QkNorm::None,
    attention: AttentionKind::Heads,
    sinks: false,
    post_norm: false,
    pre_norm: true,
    ffn_norm: FfnNorm::Own,
    gate_in_up: false,
    unrotated_every: None,
    multipliers: Multipliers::None,
    sliding: Sliding::Never,
    sliding_rope: SlidingRope::Own,
    wide_query_scale_at_layers: None,
    needed_keys: &[],
    mixture: None,
};

const EXPERTS: Mixture = Mixture {
    always: true,
    width: ExpertWidth::FeedForward,
    shared: Shared::None,
    score: Score::Softmax,
    normalised: false,
    biases: false,
    selection_bias: false,
};

/// Every family lowtide runs.
pub const FAMILIES: &[Family] = &[
    // With experts: Mixtral.
    Family {
        name: "llama",
        rope: NEIGHBOURS,
        mixture: Some(Mixture {
            always: false,
            normalised: true,
            shared: Shared::Length,
            ..EXPERTS
        }),
        ..DENSE
    },
    Family { name: "qwen2", ..DENSE },
    // The three of these that see images are run for text: then all parts of a position are one number, and M-RoPE is RoPE.
    Family { name: "qwen2vl", ..DENSE },
    Family { name: "qwen3", qk_norm: QkNorm::Head, ..DENSE },
    Family { name: "qwen3vl", qk_norm: QkNorm::Head, ..DENSE },
    Family { name: "seed_oss", ffn_norm: FfnNorm::PostAttention, ..DENSE },
    Family { name: "internlm2", rope: NEIGHBOURS, ..DENSE },
    Family { name: "ernie4_5", rope: NEIGHBOURS, ..DENSE },
    Family { name: "mistral3", rope: NEIGHBOURS, ..DENSE },
    Family { name: "granite", rope: NEIGHBOURS, multipliers: Multipliers::Keys, ..DENSE },
    Family { name: "smollm3", rope: NEIGHBOURS, unrotated_every: Some(4), ..DENSE },
    Family { name: "phi3", sliding: Sliding::Unused, gate_in_up: true, ..DENSE },
    Family {
        name: "glm4",
        rope: Pairs::NormUnlessSections,
        post_norm: true,
        gate_in_up: true,
        ..DENSE
    },
    Family {
        name: "olmo2",
        qk_norm: QkNorm::Whole,
        pre_norm: false,
        post_norm: true,
        sliding: Sliding::AllButEvery(4),
        sliding_rope: SlidingRope::Unstretched,
        ..DENSE
    },
    Family { name: "hunyuan-dense", qk_norm: QkNorm::HeadRotated, ..DENSE },
    Family {
        name: "gemma",
        activation: Activation::GeluTanh,
        multipliers: Multipliers::SqrtLength,
        ..DENSE
    },
    Family {
        name: "gemma2",
        activation: Activation::GeluTanh,
        post_norm: true,
        multipliers: Multipliers::SqrtLength,
        sliding: Sliding::AllButEvery(2),
        sliding_rope: SlidingRope::AsGlobal,
        wide_query_scale_at_layers: Some(46),
        needed_keys: &[
            "attention.sliding_window",
            "attn_logit_softcapping",
            "final_logit_softcapping",
        ],
        ..DENSE
    },
    Family {
        name: "gemma3",
        activation: Activation::GeluTanh,
        qk_norm: QkNorm::Head,
        post_norm: true,
        multipliers: Multipliers::SqrtLength,
        sliding: Sliding::AllButEvery(6),
        wide_query_scale_at_layers: Some(62),
        ..DENSE
    },
    Family {
        name: "qwen3moe",
        qk_norm: QkNorm::Head,
        mixture: Some(Mixture { width: ExpertWidth::OwnOrShare, normalised: true, ..EXPERTS }),
        ..DENSE
    },
    Family {
        name: "qwen3vlmoe",
        qk_norm: QkNorm::Head,
        mixture: Some(Mixture { width: ExpertWidth::OwnOrShare, normalised: true, ..EXPERTS }),
        ..DENSE
    },
    Family {
        name: "minimax-m2",
        qk_norm: QkNorm::Whole,
        mixture: Some(Mixture {
            score: Score::Sigmoid,
            normalised: true,
            selection_bias: true,
            ..EXPERTS
        }),
        ..DENSE
    },
    Family {
        name: "hunyuan-moe",
        qk_norm: QkNorm::HeadRotated,
        mixture: Some(Mixture { shared: Shared::LengthOrDense, normalised: true, ..EXPERTS }),
        ..DENSE
    },
    Family {
        name: "ernie4_5-moe",
        rope: NEIGHBOURS,
        mixture: Some(Mixture {
            width: ExpertWidth::Own,
            shared: Shared::Length,
            normalised: true,
            selection_bias: true,
            ..EXPERTS
        }),
        ..DENSE
    },
    Family {
        name: "deepseek",
        rope: NEIGHBOURS,
        mixture: Some(Mixture { width: ExpertWidth::Own, shared: Shared::Count, ..EXPERTS }),
        ..DENSE
    },
    Family {
        name: "dots1",
        qk_norm: QkNorm::Head,
        mixture: Some(Mixture {
            width: ExpertWidth::Own,
            shared: Shared::Count,
            score: Score::Sigmoid,
            selection_bias: true,
            ..EXPERTS
        }),
        ..DENSE
    },
    // Ling and Ring 2.
    Family {
        name: "bailingmoe2",
        qk_norm: QkNorm::Head,
        mixture: Some(Mixture {
            width: ExpertWidth::Own,
            shared: Shared::CountOfLength,
            score: Score::Sigmoid,
            selection_bias: true,
            ..EXPERTS
        }),
        ..DENSE
    },
    Family { name: "olmoe", qk_norm: QkNorm::Whole, mixture: Some(EXPERTS), ..DENSE },
    Family {
        name: "qwen2moe",
        mixture: Some(Mixture { width: ExpertWidth::OwnOrShare, shared: Shared::Gated, ..EXPERTS }),
        ..DENSE
    },
    Family {
        name: "gpt-oss",
        activation: Activation::SwigluClamped,
        sinks: true,
        ffn_norm: FfnNorm::PostAttention,
        sliding: Sliding::AllButEvery(2),
        sliding_rope: SlidingRope::AsGlobal,
        mixture: Some(Mixture {
            width: ExpertWidth::Own,
            score: Score::SoftmaxOfChosen,
            biases: true,
            ..EXPERTS
        }),
        ..DENSE
    },
    Family {
        name: "granitemoe",
        rope: NEIGHBOURS,
        multipliers: Multipliers::Keys,
        mixture: Some(Mixture { normalised: true, shared: Shared::Length, ..EXPERTS }),
        ..DENSE
    },
    // Also Kimi-K2 and GLM-4.7-Flash.
    Family {
        name: "deepseek2",
        rope: NEIGHBOURS,
        attention: AttentionKind::Latent,
        mixture: Some(Mixture {
            width: ExpertWidth::Own,
            shared: Shared::Count,
            selection_bias: true,
            ..EXPERTS
        }),
        ..DENSE
    },
    Family {
        name: "glm4moe",
        qk_norm: QkNorm::HeadIfPresent,
        ffn_norm: FfnNorm::PostAttention,
        mixture: Some(Mixture {
            width: ExpertWidth::OwnOrShare,
            shared: Shared::Count,
            score: Score::Sigmoid,
            selection_bias: true,
            ..EXPERTS
        }),
        ..DENSE
    },
];
