//! One layer's tensors, put together.

use lowtide_model::arch::FfnNorm;
use lowtide_model::{Error as ModelError, Role};

use super::locate::{Binder, tensor_error};
use super::{
    Attention, Experts, FeedForward, Gated, HeadProjections, LatentProjections, LatentQuery, Layer,
    Matrix, Slices, Vector,
};
use crate::forward::usize_of;

/// The roles of a gated block's matrices.
struct GatedRoles {
    gate: Role,
    up: Role,
    down: Role,
}

const DENSE: GatedRoles = GatedRoles { gate: Role::FfnGate, up: Role::FfnUp, down: Role::FfnDown };
const SHARED: GatedRoles =
    GatedRoles { gate: Role::SharedGate, up: Role::SharedUp, down: Role::SharedDown };

impl Binder<'_, '_> {
    pub(super) fn layer(&mut self, index: u32) -> Result<Layer, ModelError> {
        let layer = Some(index);
        // Families without a norm behind attention may store the next one under its name.
        let (post_attn_norm, ffn_norm) = match self.config.family.ffn_norm {
            FfnNorm::Own => {
                (self.optional(Role::PostAttnNorm, layer)?, self.optional(Role::FfnNorm, layer)?)
            }
            FfnNorm::PostAttention => (None, self.optional(Role::PostAttnNorm, layer)?),
        };
        let experts = self.config.experts.as_ref();
        let is_mixture = experts.is_some_and(|e| index >= e.leading_dense_layers);
        let mut bound = Layer {
            attn_norm: self.optional(Role::AttnNorm, layer)?,
            attention: self.attention(layer)?,
            sinks: self.optional(Role::AttnSinks, layer)?,
            attn_out: self.matrix(Role::AttnOut, layer)?,
            attn_out_bias: self.optional(Role::AttnOutBias, layer)?,
            post_attn_norm,
            ffn_norm,
            ffn: match is_mixture {
                true => FeedForward::Experts(Box::new(self.experts(layer)?)),
                false => FeedForward::Dense(Box::new(self.gated(&DENSE, layer)?)),
            },
            post_ffn_norm: self.optional(Role::PostFfnNorm, layer)?,
            vectors: Vec::new(),
        };
        bound.vectors = bound.collect_vectors();
        Ok(bound)
    }

    fn attention(&mut self, layer: Option<u32>) -> Result<Attention, ModelError> {
        if self.config.latent.is_some() {
            return Ok(Attention::Latent(self.latent(layer)?));
        }
        let [q, k, v] = self.queries_keys_values(layer)?;
        let [q_bias, k_bias, v_bias] = self.their_biases(layer)?;
        Ok(Attention::Heads(HeadProjections {
            q,
            k,
            v,
            q_bias,
            k_bias,
            v_bias,
            q_norm: self.optional(Role::AttnQNorm, layer)?,
            k_norm: self.optional(Role::AttnKNorm, layer)?,
        }))
    }

    /// Rows of queries, of keys and of values where one tensor has them all, in that order.
    fn fused_rows(&self) -> [usize; 3] {
        let config = self.config;
        [config.query_length(), config.key_length_all(), config.value_length_all()].map(usize_of)
    }

    /// Three tensors, or one whose first rows are the queries', then the keys' and the values'.
    fn queries_keys_values(&mut self, layer: Option<u32>) -> Result<[Matrix; 3], ModelError> {
        if !self.present(Role::AttnQkv, layer) {
            return Ok([
                self.matrix(Role::AttnQ, layer)?,
                self.matrix(Role::AttnK, layer)?,
                self.matrix(Role::AttnV, layer)?,
            ]);
        }
        let all = self.matrix(Role::AttnQkv, layer)?;
        let [q, k, v] = self.fused_rows();
        Ok([all.rows_of(0, q), all.rows_of(q, k), all.rows_of(q + k, v)])
    }

    /// The same of their biases, which a file need not have.
    fn their_biases(&mut self, layer: Option<u32>) -> Result<[Option<Vector>; 3], ModelError> {
        let Some(all) = self.optional(Role::AttnQkvBias, layer)? else {
            return Ok([
                self.optional(Role::AttnQBias, layer)?,
                self.optional(Role::AttnKBias, layer)?,
                self.optional(Role::AttnVBias, layer)?,
            ]);
        };
        let [q, k, v] = self.fused_rows();
        let odd = || {
            let why = "a bias begins within a block of it".to_owned();
            tensor_error(&Role::AttnQkvBias.name(layer), "is odd", why)
        };
        let part = |first, len| all.part(first, len).map(Some).ok_or_else(odd);
        Ok([part(0, q)?, part(q, k)?, part(q + k, v)?])
    }

    fn latent(&mut self, layer: Option<u32>) -> Result<LatentProjections, ModelError> {
        let low_rank = self.config.latent.is_some_and(|latent| latent.query_rank.is_some());
        let query = match low_rank {
            false => LatentQuery::Direct(self.matrix(Role::AttnQ, layer)?),
            true => LatentQuery::LowRank {
                low: self.matrix(Role::AttnQLow, layer)?,
                norm: self.vector(Role::AttnQLowNorm, layer)?,
                high: self.matrix(Role::AttnQHigh, layer)?,
            },
        };
        Ok(LatentProjections {
            query,
            kept: self.matrix(Role::AttnKept, layer)?,
            norm: self.vector(Role::AttnKeptNorm, layer)?,
            key_heads: self.of_heads(Role::AttnKeyHeads, layer)?,
            value_heads: self.of_heads(Role::AttnValueHeads, layer)?,
        })
    }

    fn gated(&mut self, roles: &GatedRoles, layer: Option<u32>) -> Result<Gated, ModelError> {
        let is_dense = roles.gate == DENSE.gate;
        let mut bias = |role| if is_dense { self.optional(role, layer) } else { Ok(None) };
        let (gate_bias, up_bias) = (bias(Role::FfnGateBias)?, bias(Role::FfnUpBias)?);
        let down_bias = bias(Role::FfnDownBias)?;
        let up = self.matrix(roles.up, layer)?;
        let (gate, up) = match is_dense && self.config.family.gate_in_up {
            true => (up.rows_of(0, up.rows / 2), up.rows_of(up.rows / 2, up.rows / 2)),
            false => (self.matrix(roles.gate, layer)?, up),
        };
        let down = self.matrix(roles.down, layer)?;
        Ok(Gated { gate, up, gate_bias, up_bias, down, down_bias })
    }

    fn experts(&mut self, layer: Option<u32>) -> Result<Experts, ModelError> {
        let config = self.config.experts.as_ref();
        let has_shared = config.is_some_and(|e| e.shared_feed_forward_length > 0);
        let is_gated = config.is_some_and(|e| e.shared_is_gated);
        let shared = match has_shared {
            true => Some(self.gated(&SHARED, layer)?),
            false => None,
        };
        let (gate, up) = self.gate_and_up(layer)?;
        Ok(Experts {
            router: self.matrix(Role::Router, layer)?,
            router_bias: self.optional(Role::RouterBias, layer)?,
            selection_bias: self.optional(Role::SelectionBias, layer)?,
            shared,
            shared_router: match is_gated {
                true => Some(self.matrix(Role::SharedRouter, layer)?),
                false => None,
            },
            gate,
            up,
            down: self.slices(Role::ExpertsDown, layer)?,
            gate_bias: self.optional(Role::ExpertsGateBias, layer)?,
            up_bias: self.optional(Role::ExpertsUpBias, layer)?,
            down_bias: self.optional(Role::ExpertsDownBias, layer)?,
            units: Vec::new(),
        })
    }

    /// Two tensors, or one in which each expert's gate is followed by its up.
    fn gate_and_up(&mut self, layer: Option<u32>) -> Result<(Slices, Slices), ModelError> {
        if !self.present(Role::ExpertsGateUp, layer) {
            return Ok((
                self.slices(Role::ExpertsGate, layer)?,
                self.slices(Role::ExpertsUp, layer)?,
            ));
        }
        let both = self.slices(Role::ExpertsGateUp, layer)?;
        let half = both.bytes / 2;
        let gate = Slices { rows: both.rows / 2, bytes: half, ..both };
        Ok((gate, Slices { offset: both.offset + half, ..gate }))
    }
}

impl Layer {
    fn collect_vectors(&self) -> Vec<Vector> {
        let mut all = Vec::new();
        let mut add = |vectors: &[Option<Vector>]| all.extend(vectors.iter().flatten());
        add(&[self.attn_norm, self.ffn_norm]);
        add(&[self.sinks, self.attn_out_bias, self.post_attn_norm, self.post_ffn_norm]);
        match &self.attention {
            Attention::Heads(p) => {
                add(&[p.q_bias, p.k_bias, p.v_bias, p.q_norm, p.k_norm]);
            }
            Attention::Latent(p) => {
                add(&[Some(p.norm)]);
                if let LatentQuery::LowRank { norm, .. } = p.query {
                    add(&[Some(norm)]);
                }
            }
        }
        match &self.ffn {
            FeedForward::Dense(gated) => add(&[gated.gate_bias, gated.up_bias, gated.down_bias]),
            FeedForward::Experts(e) => {
                add(&[e.router_bias, e.selection_bias, e.gate_bias, e.up_bias, e.down_bias]);
            }
        }
        all
    }
}
