//! A model's configuration, read from metadata and checked before anything is built on it.

use lowtide_gguf::Gguf;
use lowtide_gguf::split::TensorTable;

use crate::arch::{self, Family, Multipliers, Pairs, RopeStyle, Sliding, SlidingRope};
use crate::experts::Experts;
use crate::heads::Heads;
use crate::keys::Keys;
use crate::latent::Latent;
use crate::limits::narrow;
use crate::positions::{RopeScaling, Temperature, stretching, temperature};
use crate::{Error, limits};

/// Everything about a model that is not its weights. Lengths count elements.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The row of the table that runs it.
    pub family: &'static Family,
    /// `general.name`, if any.
    pub name: Option<String>,
    /// Transformer blocks.
    pub layers: u32,
    /// Blocks after those, which the file may hold and lowtide does not use: they draft tokens
    /// (`nextn_predict_layers`).
    pub draft_layers: u32,
    /// Width of the residual stream (`n_embd`).
    pub embedding_length: u64,
    /// Tokens in the vocabulary: rows of the embedding.
    pub vocabulary: u64,
    /// Context the model was trained for, tokens.
    pub context_length: u32,
    /// Width of each layer's dense feed-forward; 0 where the layer has experts instead.
    pub feed_forward_length: Vec<u64>,
    /// The experts of the layers that have them.
    pub experts: Option<Experts>,
    /// Lengths of latent attention. The keys and values that are cached are then of one head.
    pub latent: Option<Latent>,
    /// Query heads.
    pub heads: u64,
    /// Key/value heads; divides `heads`.
    pub kv_heads: u64,
    /// Elements of one query or key head.
    pub key_length: u64,
    /// Elements of one value head.
    pub value_length: u64,
    /// Leading elements of a head that are rotated; even.
    pub rope_dimensions: u64,
    /// How they make pairs.
    pub rope_style: RopeStyle,
    /// Base of the rotary frequencies.
    pub rope_base: f32,
    /// Base in sliding-window layers.
    pub rope_base_sliding: f32,
    /// Stretching of the frequencies.
    pub rope_scaling: RopeScaling,
    /// The same in sliding-window layers.
    pub rope_scaling_sliding: RopeScaling,
    /// Added to the mean square in RMS norms.
    pub norm_epsilon: f32,
    /// Queries are multiplied by this before attention.
    pub query_scale: f32,
    /// Embeddings are multiplied by this.
    pub embedding_scale: f32,
    /// What a block adds to the residual stream is multiplied by this.
    pub residual_scale: f32,
    /// Logits are multiplied by this.
    pub logit_scale: f32,
    /// Soft cap of the final logits: `cap * tanh(x / cap)`.
    pub logit_softcap: Option<f32>,
    /// Soft cap of attention scores.
    pub attention_softcap: Option<f32>,
    /// Sharper attention far into a text.
    pub temperature: Option<Temperature>,
    /// Sliding window, tokens (the query's own included), in the layers of `sliding_layers`.
    pub sliding_window: Option<u32>,
    /// One entry a layer: it attends through the window.
    pub sliding_layers: Vec<bool>,
}

impl ModelConfig {
    /// Reads and checks the configuration; `gguf` is the first shard, `table` has the tensors of
    /// all of them.
    ///
    /// # Errors
    /// A key is missing, senseless, or asks for something no family here has.
    pub fn from_gguf(gguf: &Gguf<'_>, table: &TensorTable<'_>) -> Result<Self, Error> {
        let keys = Keys::new(gguf)?;
        let family = arch::family(keys.architecture())?;
        let (layers, draft_layers) = blocks(&keys)?;
        let embedding_length =
            keys.required("embedding_length", 1, limits::EMBEDDING_LENGTH_MAX)?;
        let feed_forward = feed_forward(&keys, family, layers)?;
        let heads = Heads::read(&keys, family, layers, embedding_length)?;
        let (sliding_window, sliding_layers) = sliding(&keys, family, layers)?;
        let rope_base = keys.positive("rope.freq_base")?.unwrap_or(10_000.0);
        let (rope_scaling, latent_scale) = stretching(&keys, heads.latent.is_some())?;
        let (rope_base_sliding, rope_scaling_sliding) = match family.sliding_rope {
            SlidingRope::Own => (10_000.0, RopeScaling::None),
            SlidingRope::AsGlobal => (rope_base, rope_scaling),
            SlidingRope::Unstretched => (rope_base, RopeScaling::None),
        };
        let multipliers = multipliers(&keys, family, embedding_length)?;
        let config = Self {
            family,
            name: keys.general_name(),
            layers,
            draft_layers,
            embedding_length,
            vocabulary: keys.vocabulary(table)?,
            context_length: narrow(keys.required("context_length", 1, limits::CONTEXT_MAX)?),
            feed_forward_length: feed_forward.lengths,
            experts: feed_forward.experts,
            latent: heads.latent,
            heads: heads.count,
            kv_heads: heads.kv_count,
            key_length: heads.key_length,
            value_length: heads.value_length,
            rope_dimensions: heads.rotated,
            rope_style: rope_style(&keys, family)?,
            rope_base,
            rope_base_sliding: keys.positive("rope.freq_base_swa")?.unwrap_or(rope_base_sliding),
            rope_scaling,
            rope_scaling_sliding,
            norm_epsilon: keys.positive("attention.layer_norm_rms_epsilon")?.ok_or_else(|| {
                keys.missing("attention.layer_norm_rms_epsilon", "RMS norms add it")
            })?,
            query_scale: keys
                .positive("attention.scale")?
                .unwrap_or(latent_scale * heads.query_scale),
            embedding_scale: multipliers.embedding,
            residual_scale: multipliers.residual,
            logit_scale: multipliers.logit,
            logit_softcap: keys.positive_or_zero("final_logit_softcapping")?,
            attention_softcap: keys.positive_or_zero("attn_logit_softcapping")?,
            temperature: temperature(&keys)?,
            sliding_window,
            sliding_layers,
        };
        config.check(&keys)?;
        config.check_unread(&keys)?;
        Ok(config)
    }

    fn check(&self, keys: &Keys<'_, '_>) -> Result<(), Error> {
        if !self.heads.is_multiple_of(self.kv_heads) {
            let why = format!("it must divide the {} query heads", self.heads);
            return Err(keys.invalid("attention.head_count_kv", self.kv_heads, why));
        }
        if self.rope_dimensions > self.key_length || !self.rope_dimensions.is_multiple_of(2) {
            let why = format!("it must be even and at most the head size {}", self.key_length);
            return Err(keys.invalid("rope.dimension_count", self.rope_dimensions, why));
        }
        Ok(())
    }

    /// What would change every answer and is not computed here is refused, not passed over.
    fn check_unread(&self, keys: &Keys<'_, '_>) -> Result<(), Error> {
        let refused = |key: &str, value: &dyn std::fmt::Display, why: &str| {
            let what = format!("\"{}.{key}\" of {value}", keys.architecture());
            Err(Error::Unsupported { what, why: why.to_owned() })
        };
        if keys.flag("attention.causal")? == Some(false) {
            return refused("attention.causal", &false, "here a token sees only what is before it");
        }
        if keys.flag("rope.scaling.finetuned")? == Some(false)
            && self.family.multipliers == Multipliers::Keys
        {
            let why = "in this family it means that no layer knows positions";
            return refused("rope.scaling.finetuned", &false, why);
        }
        if let Some(alpha) = keys.positive_or_zero("rope.scaling.alpha")? {
            let why = "the base of the rotary frequencies would have to grow by it";
            return refused("rope.scaling.alpha", &alpha, why);
        }
        for key in self.family.needed_keys {
            if !keys.has(key) {
                let why =
                    "early conversions of this family lack it; newer ones of the model have it";
                return Err(keys.missing(key, why));
            }
        }
        let is_yarn = matches!(self.rope_scaling, RopeScaling::Yarn { .. });
        let factor = keys.positive_or_zero("rope.scaling.attn_factor")?;
        #[expect(clippy::float_cmp, reason = "exactly 1 means unscaled")]
        if let Some(factor) = factor.filter(|factor| !is_yarn && *factor != 1.0) {
            let why = "it is known with YaRN only: attention would have the wrong sharpness";
            return refused("rope.scaling.attn_factor", &factor, why);
        }
        let sliding = [
            ("rope.dimension_count_swa", self.rope_dimensions),
            ("attention.key_length_swa", self.key_length),
            ("attention.value_length_swa", self.value_length),
        ];
        for (key, length) in sliding {
            if let Some(other) = keys.optional(key, 0, u64::MAX)?.filter(|other| *other != length) {
                let why = format!("layers with a window have {length} here, as the others");
                return refused(key, &other, &why);
            }
        }
        Ok(())
    }

    /// Queries and keys of the layer are rotated.
    #[must_use]
    pub fn is_rotated(&self, layer: usize) -> bool {
        self.family.unrotated_every.is_none_or(|n| !(layer + 1).is_multiple_of(n as usize))
    }

    /// Elements of all query heads together.
    #[must_use]
    pub fn query_length(&self) -> u64 {
        self.heads * self.key_length
    }

    /// Elements of all key heads together: one position's keys.
    #[must_use]
    pub fn key_length_all(&self) -> u64 {
        self.kv_heads * self.key_length
    }

    /// Elements of all value heads together: one position's values.
    #[must_use]
    pub fn value_length_all(&self) -> u64 {
        self.kv_heads * self.value_length
    }

    /// Elements of the attention's output: of the mean of cached values, for all query heads.
    #[must_use]
    pub fn attention_length(&self) -> u64 {
        self.heads * self.value_length
    }

    /// Elements of what the output projection of attention reads. Differs from
    /// [`attention_length`](Self::attention_length) where values are latent.
    #[must_use]
    pub fn attention_output_length(&self) -> u64 {
        self.latent.map_or(self.attention_length(), |latent| self.heads * latent.value_length)
    }

    /// Width of the widest gated block that all tokens of a batch pass: a dense feed-forward, or the
    /// block beside the experts. 0 if there is none.
    #[must_use]
    pub fn dense_length_max(&self) -> u64 {
        let dense = self.feed_forward_length.iter().max().copied().unwrap_or(0);
        let shared = self.experts.as_ref().map_or(0, |e| e.shared_feed_forward_length);
        dense.max(shared)
    }
}

fn rope_style(keys: &Keys<'_, '_>, family: &Family) -> Result<RopeStyle, Error> {
    Ok(match family.rope {
        Pairs::Always(style) => style,
        // Of a text, all sections have the same position.
        Pairs::NormUnlessSections => match keys.have_sections()? {
            true => RopeStyle::Neox,
            false => RopeStyle::Norm,
        },
    })
}

/// Blocks of the model, and those after them that only draft tokens.
fn blocks(keys: &Keys<'_, '_>) -> Result<(u32, u32), Error> {
    let all = keys.required("block_count", 1, limits::LAYERS_MAX)?;
    let draft = keys.optional("nextn_predict_layers", 0, all - 1)?.unwrap_or(0);
    Ok((narrow(all - draft), narrow(draft)))
}

/// What the layers have after attention.
struct FeedForward {
    lengths: Vec<u64>,
    experts: Option<Experts>,
}

fn feed_forward(keys: &Keys<'_, '_>, family: &Family, layers: u32) -> Result<FeedForward, Error> {
    const KEY: &str = "feed_forward_length";
    let stated = keys.per_layer_optional(KEY, layers, limits::FEED_FORWARD_LENGTH_MAX)?;
    let uniform = stated
        .as_ref()
        .and_then(|lengths| lengths.first().copied().filter(|f| lengths.iter().all(|l| l == f)));
    let experts = Experts::read(keys, family, layers, uniform)?;
    let dense_layers = experts.as_ref().map_or(layers, |e| e.leading_dense_layers);
    let mut lengths = match stated {
        Some(lengths) => lengths,
        None if dense_layers == 0 => vec![0; layers as usize],
        None => return Err(keys.missing(KEY, "every model of this family has it")),
    };
    lengths[dense_layers as usize..].fill(0);
    Ok(FeedForward { lengths, experts })
}

/// Factors of the embedding, the residual stream and the logits.
struct Factors {
    embedding: f32,
    residual: f32,
    logit: f32,
}

fn multipliers(keys: &Keys<'_, '_>, family: &Family, width: u64) -> Result<Factors, Error> {
    let one = Factors { embedding: 1.0, residual: 1.0, logit: 1.0 };
    Ok(match family.multipliers {
        Multipliers::None => one,
        #[expect(clippy::cast_precision_loss, reason = "lengths are capped at 2^17")]
        Multipliers::SqrtLength => Factors { embedding: (width as f32).sqrt(), ..one },
        Multipliers::Keys => Factors {
            embedding: keys.positive_or_zero("embedding_scale")?.unwrap_or(1.0),
            residual: keys.positive_or_zero("residual_scale")?.unwrap_or(1.0),
            logit: 1.0
                / keys.positive("logit_scale")?.ok_or_else(|| {
                    keys.missing("logit_scale", "logits are divided by it in this family")
                })?,
        },
    })
}

fn sliding(
    keys: &Keys<'_, '_>,
    family: &Family,
    layers: u32,
) -> Result<(Option<u32>, Vec<bool>), Error> {
    const KEY: &str = "attention.sliding_window";
    let window = keys.optional(KEY, 0, limits::CONTEXT_MAX)?.filter(|w| *w > 0);
    let none = vec![false; layers as usize];
    match (window, family.sliding) {
        (None, _) | (_, Sliding::Unused) => Ok((None, none)),
        (Some(w), Sliding::Never) => {
            let why = format!("family {:?} has no sliding windows here", family.name);
            Err(keys.invalid(KEY, w, why))
        }
        (Some(w), Sliding::AllButEvery(n)) => {
            let pattern = keys.sliding_pattern(layers, n)?;
            Ok((Some(narrow(w)), pattern))
        }
    }
}
