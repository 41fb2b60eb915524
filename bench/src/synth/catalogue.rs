//! The shapes that have names. Sources: the models' `config.json`; for the first llamas table 2 of their paper.

use super::Error;
use super::shape::{Experts, Family, Latent, Rope, Routing, Shape};

/// What most tiny mixtures have.
pub(super) const EXPERTS: Experts = Experts {
    count: 8,
    used: 2,
    feed_forward: 256,
    shared: 0,
    dense_lead: 0,
    fused: false,
    routing: Routing::SOFTMAX,
};

impl Shape {
    /// Names that [`Shape::named`] knows.
    pub const NAMES: &[&str] = &[
        "llama-7b",
        "llama-13b",
        "llama-30b",
        "llama-70b",
        "llama-405b",
        "llama-1b",
        "llama-8b",
        "mistral-7b",
        "llama-tiny",
        "llama3-tiny",
        "qwen2-tiny",
        "qwen3-tiny",
        "gemma3-tiny",
        "mixtral-tiny",
        "qwen3moe-tiny",
        "olmoe-tiny",
        "gpt-oss-tiny",
        "deepseek2-tiny",
        "deepseek3-tiny",
        "deepseek3-fused-tiny",
        "qwen2moe-tiny",
        "granitemoe-tiny",
        "glm4moe-tiny",
        "granite-tiny",
        "gemma-tiny",
        "gemma2-tiny",
        "minimax-m2-tiny",
        "dots1-tiny",
        "deepseek-tiny",
        "ernie4_5-tiny",
        "ernie4_5-moe-tiny",
        "qwen2vl-tiny",
        "qwen3vl-tiny",
        "qwen3vlmoe-tiny",
        "seed_oss-tiny",
        "internlm2-tiny",
        "mistral3-tiny",
        "bailingmoe2-tiny",
        "glm4-tiny",
        "glm4v-tiny",
        "phi-tiny",
        "smollm3-tiny",
        "hunyuan-moe-tiny",
        "hunyuan-dense-tiny",
        "olmo2-tiny",
        "llama-fused-tiny",
        "qwen2-fused-tiny",
        "qwen3-30b-a3b",
        "gpt-oss-20b",
        "gpt-oss-120b",
        "olmoe-1b-7b",
        "mixtral-8x7b",
        "deepseek-v2-lite",
    ];

    /// The shape of this name.
    ///
    /// # Errors
    /// [`Error::Name`] if there is none.
    pub fn named(name: &str) -> Result<Shape, Error> {
        let found =
            Shape::dense(name).or_else(|| Shape::tiny(name)).or_else(|| Shape::mixture(name));
        found.ok_or_else(|| Error::Name {
            kind: "shape",
            name: name.to_owned(),
            known: Shape::NAMES.join(" "),
        })
    }

    fn dense(name: &str) -> Option<Shape> {
        let llama = |layers, embedding, feed_forward, heads| {
            Shape::llama(name, layers, embedding, feed_forward, heads)
        };
        Some(match name {
            "llama-7b" => Shape { context: 2048, ..llama(32, 4096, 11_008, 32) },
            "llama-13b" => Shape { context: 2048, ..llama(40, 5120, 13_824, 40) },
            "llama-30b" => Shape { context: 2048, ..llama(60, 6656, 17_920, 52) },
            "llama-70b" => Shape { kv_heads: 8, ..llama(80, 8192, 28_672, 64) },
            "llama-405b" => Shape {
                kv_heads: 8,
                vocabulary: 128_256,
                context: 131_072,
                rope_base: 500_000.0,
                rope: Rope::Llama3(8.0, 8192),
                ..llama(126, 16_384, 53_248, 128)
            },
            // The shape of TinyLlama and of Llama 3.2 1B's layers, with the small vocabulary.
            "llama-1b" => Shape { kv_heads: 8, head: 64, ..llama(16, 2048, 8192, 32) },
            "llama-8b" => Shape {
                kv_heads: 8,
                vocabulary: 128_256,
                context: 131_072,
                rope_base: 500_000.0,
                rope: Rope::Llama3(8.0, 8192),
                ..llama(32, 4096, 14_336, 32)
            },
            "mistral-7b" => Shape {
                kv_heads: 8,
                context: 32_768,
                rope_base: 1e6,
                ..llama(32, 4096, 14_336, 32)
            },
            _ => return None,
        })
    }

    fn mixture(name: &str) -> Option<Shape> {
        let experts =
            |count, used, feed_forward| Some(Experts { count, used, feed_forward, ..EXPERTS });
        let gpt_oss = |layers, count| Shape {
            family: Family::GptOss,
            kv_heads: 8,
            head: 64,
            vocabulary: 201_088,
            context: 131_072,
            rope_base: 150_000.0,
            rope: Rope::Yarn(32.0, 4096),
            window: Some(128),
            qkv_bias: true,
            experts: experts(count, 4, 2880),
            ..Shape::llama(name, layers, 2880, 2880, 64)
        };
        Some(match name {
            "qwen3-30b-a3b" => Shape {
                family: Family::Qwen3Moe,
                kv_heads: 4,
                head: 128,
                vocabulary: 151_936,
                context: 40_960,
                rope_base: 1e6,
                rms_epsilon: 1e-6,
                experts: experts(128, 8, 768),
                ..Shape::llama(name, 48, 2048, 6144, 32)
            },
            "gpt-oss-20b" => gpt_oss(24, 32),
            "gpt-oss-120b" => gpt_oss(36, 128),
            "olmoe-1b-7b" => Shape {
                family: Family::Olmoe,
                vocabulary: 50_304,
                experts: experts(64, 8, 1024),
                ..Shape::llama(name, 16, 2048, 1024, 16)
            },
            "mixtral-8x7b" => Shape {
                kv_heads: 8,
                context: 32_768,
                rope_base: 1e6,
                experts: experts(8, 2, 14_336),
                ..Shape::llama(name, 32, 4096, 14_336, 32)
            },
            "deepseek-v2-lite" => Shape {
                family: Family::Deepseek2,
                head: 192,
                vocabulary: 102_400,
                context: 163_840,
                rope: Rope::Yarn(40.0, 4096),
                rms_epsilon: 1e-6,
                experts: Some(Experts {
                    count: 64,
                    used: 6,
                    feed_forward: 1408,
                    shared: 2,
                    dense_lead: 1,
                    ..EXPERTS
                }),
                latent: Some(Latent {
                    query_rank: 0,
                    kv_rank: 512,
                    head_nope: 128,
                    head_rope: 64,
                    head_value: 128,
                }),
                ..Shape::llama(name, 27, 2048, 10_944, 16)
            },
            _ => return None,
        })
    }
}
