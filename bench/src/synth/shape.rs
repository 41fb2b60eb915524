//! Shapes: the numbers that make a model's size, as the models' own configurations state them.

use super::skew::{Skew, TOPICS_MAX};
use super::{Error, Mix, tensors};

/// Architectures that can be written, each named in `general.architecture` as llama.cpp knows it.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are the architectures'")]
pub enum Family {
    /// Also Mixtral, which is `llama` with experts.
    Llama,
    Qwen2,
    Qwen3,
    Gemma3,
    Qwen3Moe,
    Olmoe,
    GptOss,
    Deepseek2,
    Qwen2Moe,
    GraniteMoe,
    Glm4Moe,
    Granite,
    Gemma,
    Gemma2,
    MinimaxM2,
    Dots1,
    Deepseek,
    Ernie45,
    Ernie45Moe,
    Qwen2Vl,
    Qwen3Vl,
    Qwen3VlMoe,
    SeedOss,
    Internlm2,
    Mistral3,
    BailingMoe2,
    Glm4,
    Phi3,
    SmolLm3,
    HunyuanMoe,
    HunyuanDense,
    Olmo2,
}

impl Family {
    /// Value of `general.architecture`, and prefix of the model's keys.
    #[must_use]
    pub fn architecture(self) -> &'static str {
        match self {
            Family::Llama => "llama",
            Family::Qwen2 => "qwen2",
            Family::Qwen3 => "qwen3",
            Family::Gemma3 => "gemma3",
            Family::Qwen3Moe => "qwen3moe",
            Family::Olmoe => "olmoe",
            Family::GptOss => "gpt-oss",
            Family::Deepseek2 => "deepseek2",
            Family::Qwen2Moe => "qwen2moe",
            Family::GraniteMoe => "granitemoe",
            Family::Glm4Moe => "glm4moe",
            Family::Granite => "granite",
            Family::Gemma => "gemma",
            Family::Gemma2 => "gemma2",
            Family::MinimaxM2 => "minimax-m2",
            Family::Dots1 => "dots1",
            Family::Deepseek => "deepseek",
            Family::Ernie45 => "ernie4_5",
            Family::Ernie45Moe => "ernie4_5-moe",
            Family::Qwen2Vl => "qwen2vl",
            Family::Qwen3Vl => "qwen3vl",
            Family::Qwen3VlMoe => "qwen3vlmoe",
            Family::SeedOss => "seed_oss",
            Family::Internlm2 => "internlm2",
            Family::Mistral3 => "mistral3",
            Family::BailingMoe2 => "bailingmoe2",
            Family::Glm4 => "glm4",
            Family::Phi3 => "phi3",
            Family::SmolLm3 => "smollm3",
            Family::HunyuanMoe => "hunyuan-moe",
            Family::HunyuanDense => "hunyuan-dense",
            Family::Olmo2 => "olmo2",
        }
    }
}

/// Experts of a mixture.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct Experts {
    /// Experts per layer.
    pub count: u64,
    /// Experts that a token uses.
    pub used: u64,
    /// Width of one expert's hidden layer.
    pub feed_forward: u64,
    /// Experts that every token uses besides (one tensor of their joint width).
    pub shared: u64,
    /// Layers at the front that have a dense feed-forward instead.
    pub dense_lead: u64,
    /// An expert's gate and up are one tensor, the gate's rows first.
    pub fused: bool,
    /// How scores become weights, where the family leaves it to the file.
    pub routing: Routing,
}

/// From a router's scores to experts' weights.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct Routing {
    /// `expert_gating_func`: 1 softmax, 2 sigmoid.
    pub gating: u32,
    /// Weights are divided by their sum.
    pub normalised: bool,
    /// Weights are multiplied by this.
    pub scale: f32,
    /// Groups of experts, 1 if there are none.
    pub groups: u64,
    /// Groups that a token's experts come from.
    pub groups_used: u64,
    /// A bias takes part in choosing.
    pub biased: bool,
}

impl Routing {
    /// Softmax over all experts.
    pub const SOFTMAX: Routing = Routing {
        gating: 1,
        normalised: false,
        scale: 1.0,
        groups: 1,
        groups_used: 1,
        biased: false,
    };
}

/// Latent attention (DeepSeek-V2): keys and values are kept as one low-rank vector.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Latent {
    /// Rank through which queries are made, 0 if they are not.
    pub query_rank: u64,
    /// Rank of the vector that is kept.
    pub kv_rank: u64,
    /// Part of a head that is not rotated.
    pub head_nope: u64,
    /// Part of a head that is rotated.
    pub head_rope: u64,
    /// Size of a head's value.
    pub head_value: u64,
}

/// Scaling of the rotary embedding beyond the trained context.
#[derive(Copy, Clone, PartialEq, Debug)]
pub enum Rope {
    /// None.
    Plain,
    /// Positions divided by a factor.
    Linear(f32),
    /// YaRN: factor and original context.
    Yarn(f32, u32),
    /// Llama 3.1's per-frequency factors, in the tensor `rope_freqs.weight`: factor and original context.
    Llama3(f32, u32),
}

/// What a model is, but for its weights.
#[derive(Clone, PartialEq, Debug)]
pub struct Shape {
    /// Name, also written as `general.name`.
    pub name: String,
    /// Architecture.
    pub family: Family,
    /// Layers.
    pub layers: u64,
    /// Width of the residual stream.
    pub embedding: u64,
    /// Width of the dense feed-forward.
    pub feed_forward: u64,
    /// Query heads.
    pub heads: u64,
    /// Key and value heads; divides `heads`.
    pub kv_heads: u64,
    /// Size of one head.
    pub head: u64,
    /// Tokens in the vocabulary.
    pub vocabulary: u64,
    /// Trained context.
    pub context: u32,
    /// Base of the rotary embedding.
    pub rope_base: f32,
    /// Its scaling.
    pub rope: Rope,
    /// Epsilon of the norms.
    pub rms_epsilon: f32,
    /// Sliding window, where the family has one.
    pub window: Option<u32>,
    /// Whether the output matrix is the embedding.
    pub tied: bool,
    /// Parts of a position, how many pairs of a head each turns (M-RoPE).
    pub sections: Option<[i32; 4]>,
    /// Biases of query, key and value.
    pub qkv_bias: bool,
    /// Query, key and value are one tensor.
    pub fused_qkv: bool,
    /// Experts.
    pub experts: Option<Experts>,
    /// Latent attention.
    pub latent: Option<Latent>,
    /// Routers that prefer some experts.
    pub skew: Option<Skew>,
}

/// Layers over which a layer's size is averaged.
const AVERAGED_LAYERS: u64 = 48;

/// As many layers as the reference engine loads (`LLAMA_MAX_LAYERS`).
const LAYERS_MAX: u64 = 512;

impl Shape {
    /// A dense llama of these numbers: head size 128 where the width allows, rope base 10000, untied.
    #[must_use]
    pub fn llama(name: &str, layers: u64, embedding: u64, feed_forward: u64, heads: u64) -> Shape {
        Shape {
            name: name.to_owned(),
            family: Family::Llama,
            layers,
            embedding,
            feed_forward,
            heads,
            kv_heads: heads,
            head: embedding / heads.max(1),
            vocabulary: 32_000,
            context: 4096,
            rope_base: 10_000.0,
            rope: Rope::Plain,
            rms_epsilon: 1e-5,
            window: None,
            tied: false,
            sections: None,
            qkv_bias: false,
            fused_qkv: false,
            experts: None,
            latent: None,
            skew: None,
        }
    }

    /// A dense llama whose file, stored as `mix`, comes as near to `bytes` as whole layers allow: widths are multiples of 256, the
    /// ratio of width to layers stays near that of the original llamas (about 110).
    ///
    /// # Errors
    /// [`Error::Shape`] if `bytes` is too little for one layer and the vocabulary, or beyond any model.
    pub fn of_bytes(bytes: u64, mix: &Mix) -> Result<Shape, Error> {
        let name = format!("llama-{}mb", bytes / 1_000_000);
        let mut best: Option<(f64, Shape)> = None;
        for width in (256..=32_768u64).step_by(256) {
            let feed_forward = (width * 8).div_ceil(3 * 256) * 256;
            let head = if width >= 1024 { 128 } else { 64 };
            let one = Shape::llama(&name, 1, width, feed_forward, width / head);
            // Mixes give more bits to some layers: one more layer on average, then the size as it comes out.
            let of_layers = |layers| tensors::bytes(&Shape { layers, ..one.clone() }, mix);
            let (first, many) = (of_layers(1)?, of_layers(1 + AVERAGED_LAYERS)?);
            let per_layer = ((many - first) / AVERAGED_LAYERS).max(1);
            let layers = (bytes.saturating_sub(first) + per_layer / 2) / per_layer + 1;
            if layers > LAYERS_MAX {
                continue;
            }
            let size = of_layers(layers)?;
            let miss = (size as f64 / bytes.max(1) as f64).ln().abs();
            let aspect = (width as f64 / layers as f64 / 110.0).ln().abs();
            let score = miss * 30.0 + aspect;
            if miss < 0.2 && best.as_ref().is_none_or(|(least, _)| score < *least) {
                best = Some((score, Shape { layers, ..one }));
            }
        }
        best.map(|(_, shape)| shape).ok_or_else(|| Error::Shape {
            name,
            why: format!("no dense llama has a file of about {bytes} bytes in this format"),
        })
    }

    pub(super) fn check(&self) -> Result<(), Error> {
        let wrong = |why: String| Err(Error::Shape { name: self.name.clone(), why });
        let parts = [self.layers, self.embedding, self.heads, self.kv_heads, self.head];
        if parts.contains(&0) {
            return wrong("layers, width, heads and head size are at least 1".into());
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return wrong(format!(
                "{} heads do not share {} kv heads evenly",
                self.heads, self.kv_heads
            ));
        }
        if self.vocabulary < 300 || self.vocabulary > 1 << 24 {
            return wrong(format!(
                "a vocabulary of {} is not between 300 and 2^24",
                self.vocabulary
            ));
        }
        if let Some(skew) = self.skew {
            if self.experts.is_none() || self.tied {
                return wrong("a skew needs experts, and an output matrix of its own".into());
            }
            if !(1..=TOPICS_MAX).contains(&skew.topics) || !(0.0..=4.0).contains(&skew.exponent) {
                return wrong(format!(
                    "a skew has 1 to {TOPICS_MAX} topics and an exponent of 0 to 4"
                ));
            }
        }
        match self.experts {
            Some(e) if e.used == 0 || e.used > e.count => {
                wrong(format!("{} of {} experts cannot be used", e.used, e.count))
            }
            _ => Ok(()),
        }
    }
}
