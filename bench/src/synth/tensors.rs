//! The tensors of each family: names, dimensions and order as llama.cpp's converters write them.

use lowtide_gguf::GgmlType;

use super::mix::{Mix, Role};
use super::shape::{Experts, Family, Rope, Shape};
use super::skew::{self, Mark};
use super::{Error, blocks};

/// What a tensor holds.
#[derive(Copy, Clone, PartialEq, Debug)]
pub enum Fill {
    /// Random values of mean 0 and this standard deviation.
    Normal(f32),
    /// The same, and marks over the first columns.
    Marked(f32, Mark),
    /// `f32` values spread evenly between two bounds.
    Uniform(f32, f32),
    /// Llama 3.1's frequency factors: base, head size, factor, original context.
    RopeFactors(f32, u64, f32, u32),
}

/// One tensor to be written.
#[derive(Clone, PartialEq, Debug)]
pub struct TensorSpec {
    /// Name.
    pub name: String,
    /// Dimensions, row first.
    pub dims: Vec<u64>,
    /// Format.
    pub ty: GgmlType,
    /// Contents.
    pub fill: Fill,
}

impl TensorSpec {
    /// Bytes of the data.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let elements: u64 = self.dims.iter().product();
        self.ty.layout().map_or(0, |l| elements / l.len * l.bytes)
    }
}

/// Logits have about this standard deviation: a distribution neither flat nor one-hot.
const OUTPUT_GAIN: f32 = 3.0;

/// Queries and keys are larger than unit vectors by this: attention looks at some positions more than at others.
const QUERY_KEY_GAIN: f32 = 2.0;

/// Norm weights lie around 1, and differ, so that a norm applied twice, left out or taken from another layer shows.
const NORM: Fill = Fill::Uniform(0.8, 1.2);

/// Norms of what a layer adds (Gemma): above 1, so that the layers outweigh the embedding, whose rows the output compares with.
const POST_NORM: Fill = Fill::Uniform(1.6, 2.4);

/// Biases (all but of norms), and attention sinks.
const BIAS: Fill = Fill::Normal(0.2);
const SINK: Fill = Fill::Normal(1.0);

struct List<'a> {
    shape: &'a Shape,
    mix: &'a Mix,
    layer: u64,
    tensors: Vec<TensorSpec>,
}

/// All tensors in file order.
///
/// # Errors
/// [`Error::Name`] if the mix names a format that weights are not stored in.
pub(super) fn list(shape: &Shape, mix: &Mix) -> Result<Vec<TensorSpec>, Error> {
    let mut list = List { shape, mix, layer: 0, tensors: Vec::new() };
    let (width, vocabulary) = (shape.embedding, shape.vocabulary);
    let gemma = matches!(shape.family, Family::Gemma | Family::Gemma2 | Family::Gemma3);
    // Rows of a tied embedding are the output's; others are scaled so that layers add to them rather than drown them.
    if shape.tied {
        // Gemma multiplies embeddings by the root of the width: rows of unit length, and the gain goes into the last norm.
        let gain = if gemma { 1.0 } else { OUTPUT_GAIN };
        list.matrix("token_embd.weight", Role::Output, &[width, vocabulary], gain);
    } else {
        let gain = (width as f32).sqrt();
        list.matrix("token_embd.weight", Role::Embedding, &[width, vocabulary], gain);
        if let Some(skew) = shape.skew {
            list.mark_tokens(skew.topics, skew::token_value(shape));
        }
    }
    for layer in 0..shape.layers {
        list.layer = layer;
        list.attention();
        list.feed_forward();
    }
    let last = Fill::Uniform(0.8 * OUTPUT_GAIN, 1.2 * OUTPUT_GAIN);
    list.vector("output_norm.weight", width, if gemma { last } else { NORM });
    if !shape.tied {
        list.matrix("output.weight", Role::Output, &[width, vocabulary], OUTPUT_GAIN);
        if let Some(skew) = shape.skew.filter(|skew| skew.topics > 1) {
            list.mark_tokens(skew.topics, skew::head_value(shape));
        }
    }
    if let Rope::Llama3(factor, context) = shape.rope {
        let fill = Fill::RopeFactors(shape.rope_base, shape.head, factor, context);
        list.vector("rope_freqs.weight", shape.head / 2, fill);
    }
    match list.tensors.iter().find(|t| !blocks::storable(t.ty)) {
        None => Ok(list.tensors),
        Some(tensor) => Err(Error::Name {
            kind: "format",
            name: tensor.ty.to_string(),
            known: "the formats that weights are stored in".into(),
        }),
    }
}

/// Lengths of the norms of queries and keys, in families that have them: of a head, or of all.
fn normed(shape: &Shape) -> Option<(u64, u64)> {
    use Family::{
        BailingMoe2, Dots1, Gemma3, Glm4Moe, HunyuanDense, HunyuanMoe, MinimaxM2, Olmo2, Olmoe,
        Qwen3, Qwen3Moe, Qwen3Vl, Qwen3VlMoe,
    };
    match shape.family {
        Qwen3 | Qwen3Moe | Qwen3Vl | Qwen3VlMoe | Gemma3 | Glm4Moe | Dots1 | BailingMoe2
        | HunyuanDense | HunyuanMoe => Some((shape.head, shape.head)),
        Olmoe | Olmo2 | MinimaxM2 => Some((shape.heads * shape.head, shape.kv_heads * shape.head)),
        _ => None,
    }
}

/// Bytes of all tensors' data, without padding.
pub(super) fn bytes(shape: &Shape, mix: &Mix) -> Result<u64, Error> {
    Ok(list(shape, mix)?.iter().map(TensorSpec::bytes).sum())
}

impl List<'_> {
    fn blk(&self, name: &str) -> String {
        format!("blk.{}.{name}", self.layer)
    }

    fn matrix(&mut self, name: &str, role: Role, dims: &[u64], gain: f32) {
        let row = dims[0];
        let ty = self.mix.format(role, self.layer, self.shape.layers, row);
        let fill = Fill::Normal(gain / (row as f32).sqrt());
        self.tensors.push(TensorSpec { name: name.to_owned(), dims: dims.to_vec(), ty, fill });
    }

    fn block_matrix(&mut self, name: &str, role: Role, dims: &[u64], gain: f32) {
        self.matrix(&self.blk(name), role, dims, gain);
    }

    /// Marks the rows of the last matrix, whose format can hold a mark beside other values.
    fn mark_tokens(&mut self, topics: u64, value: f32) {
        let Some(TensorSpec { ty, fill, .. }) = self.tensors.last_mut() else { return };
        if let Fill::Normal(std) = *fill {
            *ty = GgmlType::Q8_0;
            *fill = Fill::Marked(std, Mark::Tokens { topics, value });
        }
    }

    /// Routers and biases of experts stay `f32` in every file.
    fn floats(&mut self, name: &str, dims: &[u64], fill: Fill) {
        let name = self.blk(name);
        self.tensors.push(TensorSpec { name, dims: dims.to_vec(), ty: GgmlType::F32, fill });
    }

    fn vector(&mut self, name: &str, len: u64, fill: Fill) {
        let (name, dims) = (name.to_owned(), vec![len]);
        self.tensors.push(TensorSpec { name, dims, ty: GgmlType::F32, fill });
    }

    fn block_vector(&mut self, name: &str, len: u64, fill: Fill) {
        self.vector(&self.blk(name), len, fill);
    }

    fn attention(&mut self) {
        let shape = self.shape;
        let width = shape.embedding;
        if shape.family != Family::Olmo2 {
            self.block_vector("attn_norm.weight", width, NORM);
        }
        if shape.latent.is_some() {
            return self.latent_attention();
        }
        let (query, key) = (shape.heads * shape.head, shape.kv_heads * shape.head);
        self.queries_keys_values(query, key);
        if let Some((query, key)) = normed(shape) {
            self.block_vector("attn_q_norm.weight", query, Fill::Uniform(1.2, 2.2));
            self.block_vector("attn_k_norm.weight", key, NORM);
        }
        self.block_matrix("attn_output.weight", Role::Attention, &[query, width], 1.0);
        if shape.family == Family::GptOss {
            self.block_vector("attn_output.bias", width, BIAS);
            self.block_vector("attn_sinks.weight", shape.heads, SINK);
        }
    }

    fn queries_keys_values(&mut self, query: u64, key: u64) {
        let (shape, width) = (self.shape, self.shape.embedding);
        if shape.fused_qkv {
            let all = query + 2 * key;
            self.block_matrix("attn_qkv.weight", Role::Attention, &[width, all], QUERY_KEY_GAIN);
            if shape.qkv_bias {
                self.block_vector("attn_qkv.bias", all, BIAS);
            }
            return;
        }
        self.block_matrix("attn_q.weight", Role::Attention, &[width, query], QUERY_KEY_GAIN);
        self.block_matrix("attn_k.weight", Role::Attention, &[width, key], QUERY_KEY_GAIN);
        self.block_matrix("attn_v.weight", Role::Value, &[width, key], 1.0);
        if shape.qkv_bias {
            self.block_vector("attn_q.bias", query, BIAS);
            self.block_vector("attn_k.bias", key, BIAS);
            self.block_vector("attn_v.bias", key, BIAS);
        }
    }

    fn latent_attention(&mut self) {
        let shape = self.shape;
        let Some(latent) = shape.latent else { return };
        let (width, heads) = (shape.embedding, shape.heads);
        let query = heads * (latent.head_nope + latent.head_rope);
        let kept = latent.kv_rank + latent.head_rope;
        match latent.query_rank {
            0 => {
                self.block_matrix("attn_q.weight", Role::Attention, &[width, query], QUERY_KEY_GAIN)
            }
            rank => {
                self.block_matrix("attn_q_a.weight", Role::Attention, &[width, rank], 1.0);
                self.block_vector("attn_q_a_norm.weight", rank, NORM);
                let high = [rank, query];
                self.block_matrix("attn_q_b.weight", Role::Attention, &high, QUERY_KEY_GAIN);
            }
        }
        self.block_matrix("attn_kv_a_mqa.weight", Role::Attention, &[width, kept], 1.0);
        self.block_vector("attn_kv_a_norm.weight", latent.kv_rank, NORM);
        let keys = [latent.head_nope, latent.kv_rank, heads];
        // Stored transposed: the sum runs over the rank, not over the row.
        let gain = QUERY_KEY_GAIN * (latent.head_nope as f32 / latent.kv_rank as f32).sqrt();
        self.block_matrix("attn_k_b.weight", Role::Attention, &keys, gain);
        let values = [latent.kv_rank, latent.head_value, heads];
        self.block_matrix("attn_v_b.weight", Role::Value, &values, 1.0);
        let joined = heads * latent.head_value;
        self.block_matrix("attn_output.weight", Role::Attention, &[joined, width], 1.0);
    }

    fn feed_forward(&mut self) {
        let shape = self.shape;
        let width = shape.embedding;
        match shape.family {
            Family::Gemma3 | Family::Gemma2 | Family::Glm4 => {
                self.block_vector("post_attention_norm.weight", width, POST_NORM);
                self.block_vector("ffn_norm.weight", width, NORM);
                self.block_vector("post_ffw_norm.weight", width, POST_NORM);
            }
            Family::Olmo2 => {
                self.block_vector("post_attention_norm.weight", width, POST_NORM);
                self.block_vector("post_ffw_norm.weight", width, POST_NORM);
            }
            Family::GptOss | Family::Glm4Moe | Family::SeedOss => {
                self.block_vector("post_attention_norm.weight", width, NORM);
            }
            _ => self.block_vector("ffn_norm.weight", width, NORM),
        }
        match shape.experts {
            Some(experts) if self.layer >= experts.dense_lead => self.experts(experts),
            _ => {
                let ff = shape.feed_forward;
                if matches!(shape.family, Family::Glm4 | Family::Phi3) {
                    // The gate's rows come first.
                    self.block_matrix("ffn_up.weight", Role::FeedForward, &[width, 2 * ff], 1.0);
                } else {
                    self.block_matrix("ffn_gate.weight", Role::FeedForward, &[width, ff], 1.0);
                    self.block_matrix("ffn_up.weight", Role::FeedForward, &[width, ff], 1.0);
                }
                self.block_matrix("ffn_down.weight", Role::Down, &[ff, width], 1.0);
            }
        }
    }

    fn experts(&mut self, experts: Experts) {
        let width = self.shape.embedding;
        let Experts { count, feed_forward: ff, .. } = experts;
        let random = |gain: f32| gain / (width as f32).sqrt();
        let router = match self.shape.skew {
            None => Fill::Normal(random(OUTPUT_GAIN)),
            Some(skew) => {
                let (signal, _) = skew::signal(self.shape, self.layer);
                let mark = Mark::Experts { skew, signal, layer: self.layer };
                Fill::Marked(random(skew::router_gain(self.shape, self.layer)), mark)
            }
        };
        self.floats("ffn_gate_inp.weight", &[width, count], router);
        if experts.fused {
            let both = [width, 2 * ff, count];
            self.block_matrix("ffn_gate_up_exps.weight", Role::Expert, &both, 1.0);
        } else {
            self.block_matrix("ffn_gate_exps.weight", Role::Expert, &[width, ff, count], 1.0);
            self.block_matrix("ffn_up_exps.weight", Role::Expert, &[width, ff, count], 1.0);
        }
        self.block_matrix("ffn_down_exps.weight", Role::ExpertDown, &[ff, width, count], 1.0);
        if self.shape.family == Family::GptOss {
            self.floats("ffn_gate_inp.bias", &[count], BIAS);
            self.floats("ffn_gate_exps.bias", &[ff, count], BIAS);
            self.floats("ffn_up_exps.bias", &[ff, count], BIAS);
            self.floats("ffn_down_exps.bias", &[width, count], BIAS);
        }
        if experts.routing.biased {
            self.floats("exp_probs_b.bias", &[count], BIAS);
        }
        if self.shape.family == Family::Qwen2Moe {
            let gate = Fill::Normal(1.0 / (width as f32).sqrt());
            self.floats("ffn_gate_inp_shexp.weight", &[width], gate);
        }
        if experts.shared > 0 {
            let joint = ff * experts.shared;
            self.block_matrix("ffn_gate_shexp.weight", Role::FeedForward, &[width, joint], 1.0);
            self.block_matrix("ffn_up_shexp.weight", Role::FeedForward, &[width, joint], 1.0);
            self.block_matrix("ffn_down_shexp.weight", Role::Down, &[joint, width], 1.0);
        }
    }
}
