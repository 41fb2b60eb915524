//! Small shapes for tests, one or more of each family.

use super::catalogue::EXPERTS;
use super::shape::{Experts, Family, Latent, Rope, Routing, Shape};

/// One expert that all tokens use, and a dense layer first.
const SHARED: Experts = Experts { shared: 1, dense_lead: 1, ..EXPERTS };

/// Scores of their own, of experts in groups.
const SIGMOID: Routing =
    Routing { gating: 2, normalised: true, scale: 2.5, groups: 4, groups_used: 2, biased: true };

const ONE_GROUP: Routing = Routing { groups: 1, groups_used: 1, ..SIGMOID };

const LATENT: Latent =
    Latent { query_rank: 0, kv_rank: 256, head_nope: 64, head_rope: 32, head_value: 64 };

/// Pairs of a head of 128 take turns: as many for each part as all of them have.
const INTERLEAVED: Option<[i32; 4]> = Some([22, 21, 21, 0]);

impl Shape {
    /// Shapes of a few layers that a test runs in milliseconds: every dimension differs from every other where the family lets it,
    /// so that a mix-up of two of them cannot pass, and rows are whole super-blocks of 256.
    pub(super) fn tiny(name: &str) -> Option<Shape> {
        let base = Shape {
            kv_heads: 2,
            vocabulary: 384,
            context: 512,
            ..Shape::llama(name, 3, 256, 512, 4)
        };
        let experts = EXPERTS;
        let wide = Shape { head: 128, rope_base: 1e6, rms_epsilon: 1e-6, ..base.clone() };
        Some(match name {
            "llama-tiny" => base,
            "llama3-tiny" => {
                Shape { rope: Rope::Llama3(8.0, 128), rope_base: 5e5, tied: true, ..base }
            }
            "qwen2-tiny" => Shape { family: Family::Qwen2, qkv_bias: true, rope_base: 1e6, ..base },
            "qwen3-tiny" => Shape { family: Family::Qwen3, tied: true, ..wide },
            // Seven layers: one of full attention among six of the window.
            "gemma3-tiny" => Shape {
                family: Family::Gemma3,
                tied: true,
                window: Some(16),
                layers: 7,
                kv_heads: 1,
                ..wide
            },
            "mixtral-tiny" => {
                let experts = Experts { feed_forward: 512, ..experts };
                Shape { experts: Some(experts), ..base }
            }
            "qwen3moe-tiny" => Shape {
                family: Family::Qwen3Moe,
                experts: Some(Experts { used: 3, ..experts }),
                ..wide
            },
            "olmoe-tiny" => Shape {
                family: Family::Olmoe,
                kv_heads: 4,
                feed_forward: 256,
                experts: Some(experts),
                ..base
            },
            "gpt-oss-tiny" => Shape {
                family: Family::GptOss,
                layers: 4,
                qkv_bias: true,
                window: Some(16),
                rope: Rope::Yarn(4.0, 128),
                experts: Some(experts),
                ..base
            },
            _ => return Shape::tiny_dense(name, &base).or_else(|| Shape::tiny_mixture(name, base)),
        })
    }

    /// Of dense families that differ from the llamas in little.
    fn tiny_dense(name: &str, base: &Shape) -> Option<Shape> {
        let base = base.clone();
        let wide = Shape { head: 128, rope_base: 1e6, rms_epsilon: 1e-6, ..base.clone() };
        Some(match name {
            "llama-fused-tiny" => Shape { fused_qkv: true, ..base },
            "qwen2-fused-tiny" => {
                Shape { family: Family::Qwen2, qkv_bias: true, fused_qkv: true, ..base }
            }
            "granite-tiny" => Shape { family: Family::Granite, tied: true, ..base },
            "internlm2-tiny" => Shape { family: Family::Internlm2, ..base },
            "ernie4_5-tiny" => Shape { family: Family::Ernie45, tied: true, ..base },
            "qwen2vl-tiny" => Shape {
                family: Family::Qwen2Vl,
                sections: Some([8, 12, 12, 0]),
                qkv_bias: true,
                ..base
            },
            "qwen3vl-tiny" => {
                Shape { family: Family::Qwen3Vl, sections: INTERLEAVED, tied: true, ..wide }
            }
            "seed_oss-tiny" => Shape { family: Family::SeedOss, qkv_bias: true, ..wide },
            "mistral3-tiny" => {
                Shape { family: Family::Mistral3, rope: Rope::Yarn(4.0, 16), ..wide }
            }
            // Four layers: in one of them positions are not known.
            "smollm3-tiny" => Shape { family: Family::SmolLm3, layers: 4, tied: true, ..base },
            "hunyuan-dense-tiny" => Shape { family: Family::HunyuanDense, tied: true, ..wide },
            // The window is not used.
            "phi-tiny" => Shape { family: Family::Phi3, fused_qkv: true, window: Some(16), ..base },
            "glm4-tiny" => Shape { family: Family::Glm4, qkv_bias: true, ..base },
            "glm4v-tiny" => {
                Shape { sections: Some([6, 5, 5, 0]), ..Shape::tiny_dense("glm4-tiny", &base)? }
            }
            "olmo2-tiny" => Shape {
                family: Family::Olmo2,
                layers: 4,
                window: Some(16),
                rope: Rope::Yarn(4.0, 16),
                ..base
            },
            "gemma-tiny" => Shape { family: Family::Gemma, tied: true, kv_heads: 1, ..wide },
            "gemma2-tiny" => {
                Shape { family: Family::Gemma2, tied: true, window: Some(16), layers: 4, ..wide }
            }
            _ => return None,
        })
    }

    /// Of families that share experts, group them, or score them otherwise.
    fn tiny_mixture(name: &str, base: Shape) -> Option<Shape> {
        Some(match name {
            "deepseek3-fused-tiny" => {
                let experts = Experts { fused: true, dense_lead: 0, ..SHARED };
                Shape { experts: Some(experts), ..Shape::tiny_mixture("deepseek3-tiny", base)? }
            }
            "deepseek3-tiny" => Shape {
                family: Family::Deepseek2,
                kv_heads: 4,
                head: 96,
                rope: Rope::Yarn(4.0, 16),
                experts: Some(Experts { count: 16, used: 3, routing: SIGMOID, ..SHARED }),
                latent: Some(Latent { query_rank: 256, ..LATENT }),
                ..base
            },
            "qwen2moe-tiny" => Shape {
                family: Family::Qwen2Moe,
                qkv_bias: true,
                rope_base: 1e6,
                experts: Some(Experts { shared: 2, dense_lead: 0, ..SHARED }),
                ..base
            },
            "granitemoe-tiny" => Shape {
                family: Family::GraniteMoe,
                tied: true,
                experts: Some(Experts { feed_forward: 512, shared: 1, dense_lead: 0, ..SHARED }),
                ..base
            },
            "glm4moe-tiny" => Shape {
                family: Family::Glm4Moe,
                head: 128,
                qkv_bias: true,
                experts: Some(Experts { routing: ONE_GROUP, ..SHARED }),
                ..base
            },
            "deepseek2-tiny" => Shape {
                family: Family::Deepseek2,
                // Below 26 layers the reference engine expects a low-rank query: this number says "lite".
                layers: 26,
                kv_heads: 4,
                head: 96,
                experts: Some(SHARED),
                latent: Some(LATENT),
                ..base
            },
            _ => return Shape::tiny_other_mixture(name, base),
        })
    }

    /// Of families whose experts differ from those in little.
    fn tiny_other_mixture(name: &str, base: Shape) -> Option<Shape> {
        Some(match name {
            "qwen3vlmoe-tiny" => {
                let base = Shape::named("qwen3moe-tiny").ok()?;
                Shape { family: Family::Qwen3VlMoe, sections: INTERLEAVED, ..base }
            }
            "minimax-m2-tiny" => Shape {
                family: Family::MinimaxM2,
                head: 128,
                feed_forward: 256,
                experts: Some(Experts { used: 3, routing: ONE_GROUP, ..EXPERTS }),
                ..base
            },
            "hunyuan-moe-tiny" => Shape {
                family: Family::HunyuanMoe,
                head: 128,
                experts: Some(Experts { feed_forward: 512, dense_lead: 0, ..SHARED }),
                ..base
            },
            "ernie4_5-moe-tiny" => {
                let routing = Routing { biased: true, ..Routing::SOFTMAX };
                let experts = Experts { used: 3, shared: 2, routing, ..SHARED };
                Shape { family: Family::Ernie45Moe, experts: Some(experts), ..base }
            }
            "deepseek-tiny" => Shape { family: Family::Deepseek, experts: Some(SHARED), ..base },
            "dots1-tiny" => Shape {
                family: Family::Dots1,
                kv_heads: 4,
                experts: Some(Experts { used: 3, shared: 2, routing: ONE_GROUP, ..SHARED }),
                ..base
            },
            "bailingmoe2-tiny" => Shape {
                family: Family::BailingMoe2,
                fused_qkv: true,
                experts: Some(Experts { count: 16, used: 3, routing: SIGMOID, ..SHARED }),
                ..base
            },
            _ => return None,
        })
    }
}
