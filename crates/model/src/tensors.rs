//! Tensor names and shapes of a configured model, in the order in which one pass uses them.

use crate::arch::{FfnNorm, QkNorm};
use crate::config::ModelConfig;
use crate::experts::Experts;
use crate::latent::Latent;

/// What a tensor is for. With the layer it identifies a tensor inside lowtide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are GGUF's own, spelt out in `Role::stem`")]
pub enum Role {
    TokenEmbedding,
    RopeFactors,
    AttnNorm,
    AttnQkv,
    AttnQkvBias,
    AttnQ,
    AttnK,
    AttnV,
    AttnQBias,
    AttnKBias,
    AttnVBias,
    AttnQNorm,
    AttnKNorm,
    AttnSinks,
    AttnQLow,
    AttnQLowNorm,
    AttnQHigh,
    AttnKept,
    AttnKeptNorm,
    AttnKeyHeads,
    AttnValueHeads,
    AttnOut,
    AttnOutBias,
    PostAttnNorm,
    FfnNorm,
    FfnGate,
    FfnUp,
    FfnGateBias,
    FfnUpBias,
    FfnDown,
    FfnDownBias,
    Router,
    RouterBias,
    SelectionBias,
    SharedGate,
    SharedUp,
    SharedDown,
    SharedRouter,
    ExpertsGateUp,
    ExpertsGate,
    ExpertsUp,
    ExpertsDown,
    ExpertsGateBias,
    ExpertsUpBias,
    ExpertsDownBias,
    PostFfnNorm,
    OutputNorm,
    Output,
}

impl Role {
    /// The tensor's name after `blk.N.` (or the whole name where it belongs to no layer).
    #[must_use]
    pub fn stem(self) -> &'static str {
        match self {
            Self::TokenEmbedding => "token_embd.weight",
            Self::RopeFactors => "rope_freqs.weight",
            Self::AttnNorm => "attn_norm.weight",
            Self::AttnQkv => "attn_qkv.weight",
            Self::AttnQkvBias => "attn_qkv.bias",
            Self::AttnQ => "attn_q.weight",
            Self::AttnK => "attn_k.weight",
            Self::AttnV => "attn_v.weight",
            Self::AttnQBias => "attn_q.bias",
            Self::AttnKBias => "attn_k.bias",
            Self::AttnVBias => "attn_v.bias",
            Self::AttnQNorm => "attn_q_norm.weight",
            Self::AttnKNorm => "attn_k_norm.weight",
            Self::AttnSinks => "attn_sinks.weight",
            Self::AttnQLow => "attn_q_a.weight",
            Self::AttnQLowNorm => "attn_q_a_norm.weight",
            Self::AttnQHigh => "attn_q_b.weight",
            Self::AttnKept => "attn_kv_a_mqa.weight",
            Self::AttnKeptNorm => "attn_kv_a_norm.weight",
            Self::AttnKeyHeads => "attn_k_b.weight",
            Self::AttnValueHeads => "attn_v_b.weight",
            Self::AttnOut => "attn_output.weight",
            Self::AttnOutBias => "attn_output.bias",
            Self::PostAttnNorm => "post_attention_norm.weight",
            Self::FfnNorm => "ffn_norm.weight",
            Self::FfnGate => "ffn_gate.weight",
            Self::FfnUp => "ffn_up.weight",
            Self::FfnGateBias => "ffn_gate.bias",
            Self::FfnUpBias => "ffn_up.bias",
            Self::FfnDown => "ffn_down.weight",
            Self::FfnDownBias => "ffn_down.bias",
            Self::Router => "ffn_gate_inp.weight",
            Self::RouterBias => "ffn_gate_inp.bias",
            Self::SelectionBias => "exp_probs_b.bias",
            Self::SharedGate => "ffn_gate_shexp.weight",
            Self::SharedUp => "ffn_up_shexp.weight",
            Self::SharedDown => "ffn_down_shexp.weight",
            Self::SharedRouter => "ffn_gate_inp_shexp.weight",
            Self::ExpertsGateUp => "ffn_gate_up_exps.weight",
            Self::ExpertsGate => "ffn_gate_exps.weight",
            Self::ExpertsUp => "ffn_up_exps.weight",
            Self::ExpertsDown => "ffn_down_exps.weight",
            Self::ExpertsGateBias => "ffn_gate_exps.bias",
            Self::ExpertsUpBias => "ffn_up_exps.bias",
            Self::ExpertsDownBias => "ffn_down_exps.bias",
            Self::PostFfnNorm => "post_ffw_norm.weight",
            Self::OutputNorm => "output_norm.weight",
            Self::Output => "output.weight",
        }
    }

    /// The tensor's full name.
    #[must_use]
    pub fn name(self, layer: Option<u32>) -> String {
        match layer {
            Some(layer) => format!("blk.{layer}.{}", self.stem()),
            None => self.stem().to_owned(),
        }
    }
}

/// One tensor the family uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorSpec {
    /// What it is for.
    pub role: Role,
    /// Its layer; `None` outside the layers.
    pub layer: Option<u32>,
    /// Elements of a row (GGUF's first dimension).
    pub columns: u64,
    /// Rows (GGUF's second dimension); 1 for a vector.
    pub rows: u64,
    /// Matrices (GGUF's third dimension), one behind the other: of experts, of heads; else 1.
    pub planes: u64,
    /// The file must have it.
    pub required: bool,
}

impl TensorSpec {
    /// The tensor's full name.
    #[must_use]
    pub fn name(&self) -> String {
        self.role.name(self.layer)
    }
}

struct Specs(Vec<TensorSpec>);

impl Specs {
    fn push(&mut self, role: Role, layer: Option<u32>, dims: [u64; 3], required: bool) {
        let [columns, rows, planes] = dims;
        self.0.push(TensorSpec { role, layer, columns, rows, planes, required });
    }
    fn matrix(&mut self, role: Role, layer: Option<u32>, columns: u64, rows: u64, required: bool) {
        self.push(role, layer, [columns, rows, 1], required);
    }
    fn vector(&mut self, role: Role, layer: Option<u32>, columns: u64, required: bool) {
        self.push(role, layer, [columns, 1, 1], required);
    }
}

/// Every tensor of the model, required and optional, in order of use. `output.weight` is optional:
/// where it is absent the token embedding serves (tied).
#[must_use]
pub fn tensors(config: &ModelConfig) -> Vec<TensorSpec> {
    let width = config.embedding_length;
    let mut specs = Specs(Vec::new());
    specs.matrix(Role::TokenEmbedding, None, width, config.vocabulary, true);
    specs.vector(Role::RopeFactors, None, config.rope_dimensions / 2, false);
    for layer in 0..config.layers {
        layer_tensors(config, layer, &mut specs);
    }
    specs.vector(Role::OutputNorm, None, width, true);
    specs.matrix(Role::Output, None, width, config.vocabulary, false);
    specs.0
}

/// The name belongs to a block that only drafts tokens, which no pass here uses.
#[must_use]
pub fn is_draft_tensor(config: &ModelConfig, name: &str) -> bool {
    let block = name.strip_prefix("blk.").and_then(|rest| rest.split_once('.'));
    let draft = config.layers..config.layers + config.draft_layers;
    block.and_then(|(index, _)| index.parse().ok()).is_some_and(|index| draft.contains(&index))
}

fn layer_tensors(config: &ModelConfig, index: u32, specs: &mut Specs) {
    let layer = Some(index);
    let width = config.embedding_length;
    if config.family.pre_norm {
        specs.vector(Role::AttnNorm, layer, width, true);
    }
    match &config.latent {
        None => head_tensors(config, layer, specs),
        Some(latent) => latent_tensors(config, latent, layer, specs),
    }
    if config.family.sinks {
        specs.vector(Role::AttnSinks, layer, config.heads, true);
    }
    specs.matrix(Role::AttnOut, layer, config.attention_output_length(), width, true);
    specs.vector(Role::AttnOutBias, layer, width, false);
    if config.family.post_norm {
        specs.vector(Role::PostAttnNorm, layer, width, true);
    }
    if config.family.pre_norm {
        let ffn_norm = match config.family.ffn_norm {
            FfnNorm::Own => Role::FfnNorm,
            FfnNorm::PostAttention => Role::PostAttnNorm,
        };
        specs.vector(ffn_norm, layer, width, true);
    }
    match &config.experts {
        Some(experts) if index >= experts.leading_dense_layers => {
            expert_tensors(config, experts, layer, specs);
        }
        _ => dense_tensors(config, config.feed_forward_length[index as usize], layer, specs),
    }
    if config.family.post_norm {
        specs.vector(Role::PostFfnNorm, layer, width, true);
    }
}

fn head_tensors(config: &ModelConfig, layer: Option<u32>, specs: &mut Specs) {
    let width = config.embedding_length;
    let (q, k, v) = (config.query_length(), config.key_length_all(), config.value_length_all());
    // A file has the first of these or the next three, of weights as of biases.
    specs.matrix(Role::AttnQkv, layer, width, q + k + v, false);
    specs.matrix(Role::AttnQ, layer, width, q, false);
    specs.matrix(Role::AttnK, layer, width, k, false);
    specs.matrix(Role::AttnV, layer, width, v, false);
    specs.vector(Role::AttnQkvBias, layer, q + k + v, false);
    specs.vector(Role::AttnQBias, layer, q, false);
    specs.vector(Role::AttnKBias, layer, k, false);
    specs.vector(Role::AttnVBias, layer, v, false);
    let (q_norm, k_norm) = match config.family.qk_norm {
        QkNorm::None => return,
        QkNorm::Head | QkNorm::HeadIfPresent | QkNorm::HeadRotated => {
            (config.key_length, config.key_length)
        }
        QkNorm::Whole => (q, k),
    };
    let required = config.family.qk_norm != QkNorm::HeadIfPresent;
    specs.vector(Role::AttnQNorm, layer, q_norm, required);
    specs.vector(Role::AttnKNorm, layer, k_norm, required);
}

fn latent_tensors(config: &ModelConfig, latent: &Latent, layer: Option<u32>, specs: &mut Specs) {
    let (width, heads) = (config.embedding_length, config.heads);
    let query = heads * latent.query_length();
    match latent.query_rank {
        None => specs.matrix(Role::AttnQ, layer, width, query, true),
        Some(rank) => {
            specs.matrix(Role::AttnQLow, layer, width, rank, true);
            specs.vector(Role::AttnQLowNorm, layer, rank, true);
            specs.matrix(Role::AttnQHigh, layer, rank, query, true);
        }
    }
    specs.matrix(Role::AttnKept, layer, width, latent.kept_length(), true);
    specs.vector(Role::AttnKeptNorm, layer, latent.rank, true);
    specs.push(Role::AttnKeyHeads, layer, [latent.plain_length, latent.rank, heads], true);
    specs.push(Role::AttnValueHeads, layer, [latent.rank, latent.value_length, heads], true);
}

fn dense_tensors(config: &ModelConfig, ff: u64, layer: Option<u32>, specs: &mut Specs) {
    let width = config.embedding_length;
    if config.family.gate_in_up {
        specs.matrix(Role::FfnUp, layer, width, 2 * ff, true);
    } else {
        specs.matrix(Role::FfnGate, layer, width, ff, true);
        specs.matrix(Role::FfnUp, layer, width, ff, true);
        specs.vector(Role::FfnGateBias, layer, ff, false);
        specs.vector(Role::FfnUpBias, layer, ff, false);
    }
    specs.matrix(Role::FfnDown, layer, ff, width, true);
    specs.vector(Role::FfnDownBias, layer, width, false);
}

fn expert_tensors(config: &ModelConfig, experts: &Experts, layer: Option<u32>, specs: &mut Specs) {
    let Some(mixture) = &config.family.mixture else { return };
    let (width, count, ff) = (config.embedding_length, experts.count, experts.feed_forward_length);
    specs.matrix(Role::Router, layer, width, count, true);
    if mixture.selection_bias {
        specs.vector(Role::SelectionBias, layer, count, false);
    }
    let shared = experts.shared_feed_forward_length;
    if shared > 0 {
        specs.matrix(Role::SharedGate, layer, width, shared, true);
        specs.matrix(Role::SharedUp, layer, width, shared, true);
        specs.matrix(Role::SharedDown, layer, shared, width, true);
        if experts.shared_is_gated {
            specs.matrix(Role::SharedRouter, layer, width, 1, true);
        }
    }
    // A file has the first of these or the next two.
    specs.push(Role::ExpertsGateUp, layer, [width, 2 * ff, count], false);
    specs.push(Role::ExpertsGate, layer, [width, ff, count], false);
    specs.push(Role::ExpertsUp, layer, [width, ff, count], false);
    specs.push(Role::ExpertsDown, layer, [ff, width, count], true);
    if mixture.biases {
        specs.vector(Role::RouterBias, layer, count, true);
        specs.matrix(Role::ExpertsGateBias, layer, ff, count, true);
        specs.matrix(Role::ExpertsUpBias, layer, ff, count, true);
        specs.matrix(Role::ExpertsDownBias, layer, width, count, true);
    }
}
