//! The forward pass, one for every family: tokens in, logits out. Variants are data of the family's
//! row; the arithmetic is the kernels', the bytes are the store's.

use std::ops::Range;

use lowtide_kernels::compute::Compute;
use lowtide_kernels::elementwise;
use lowtide_kernels::norm;
use lowtide_kernels::rope;
use lowtide_model::{QkNorm, RopeStyle, Temperature};

use crate::attend::{self, Queries};
use crate::bind::{Attention, FeedForward, HeadProjections, Vector};
use crate::engine::Engine;
use crate::error::Error;
use crate::linear::{Means, Target, linear};
use crate::scratch::Scratch;
use crate::sequence::{Part, Sequence};
use crate::{ffn, latent, moe};

/// One batch of tokens on its way through the model: of one sequence, or of several that share the
/// pass. Weights see rows; only positions and the KV cache know whose a row is.
pub(crate) struct Batch<'b> {
    pub engine: &'b mut Engine,
    pub sequences: &'b mut [Sequence],
    pub scratch: &'b mut Scratch,
    /// Whose the rows are, in order.
    pub parts: &'b [Part],
    /// Tokens of the batch: of all parts.
    pub tokens: usize,
    /// The tokens whose logits are wanted, as a range of the batch; often only the last.
    pub wanted: Range<usize>,
    /// Whether the output matrix will be used; if not, it is not read.
    pub needs_output: bool,
}

impl Batch<'_> {
    /// Runs the batch. Afterwards the scratch's `x` holds the last layer's output of the wanted
    /// tokens, and the KV cache the batch's keys and values.
    pub(crate) fn run(&mut self, ids: &[u32]) -> Result<(), Error> {
        self.engine.begin_pass(self.tokens, !self.needs_output)?;
        self.embed(ids)?;
        let layers = self.engine.bound.layers.len();
        for index in 0..layers {
            self.engine.load_vectors(index)?;
            // The last layer's output is needed only where logits are wanted; its keys and values
            // are needed everywhere.
            let active = if index + 1 == layers { self.wanted.clone() } else { 0..self.tokens };
            self.attention(index, active.clone())?;
            if !active.is_empty() {
                self.feed_forward(index, active)?;
            }
            self.engine.report_layer(index + 1, self.tokens)?;
        }
        Ok(())
    }

    fn embed(&mut self, ids: &[u32]) -> Result<(), Error> {
        let width = self.engine.width();
        let rows = &mut self.scratch.rows;
        let parts = self.scratch.x.chunks_mut(width * rows.count());
        for (ids, x) in ids.chunks(rows.count()).zip(parts) {
            self.engine.embedding_rows(ids, rows, &mut x[..width * ids.len()])?;
        }
        let x = &mut self.scratch.x[..ids.len() * width];
        scale(&self.engine.compute, x, self.engine.config.embedding_scale);
        Ok(())
    }

    fn attention(&mut self, index: usize, active: Range<usize>) -> Result<(), Error> {
        self.project(index)?;
        self.rotate_and_store(index)?;
        if active.is_empty() {
            return Ok(());
        }
        let (bound, mut means) = Means::of(self.engine);
        let layer = &bound.layers[index];
        let s = &mut *self.scratch;
        let config = means.config;
        let n = active.len();
        let q_len = usize_of(config.query_length());
        let out_len = usize_of(config.attention_length());
        for (part, rows) in rows_of(self.parts) {
            let own = rows.start.max(active.start)..rows.end.min(active.end);
            if own.is_empty() {
                continue;
            }
            let of = Queries {
                config,
                layer: index,
                first_position: part.start + own.start - rows.start,
                queries: &s.q[own.start * q_len..own.end * q_len],
                sinks: layer.sinks.map(|sinks| floats(means.vectors, sinks)),
            };
            let (from, to) = (own.start - active.start, own.end - active.start);
            let out = &mut s.attended[from * out_len..to * out_len];
            let kv = &self.sequences[part.lane].kv;
            attend::attend(means.compute, &mut s.attention, kv, &of, out)?;
        }
        if let Attention::Latent(projections) = &layer.attention {
            latent::values(&mut means, s, projections, n)?;
        }
        let source = s.latent.as_ref().map_or(&s.attended, |latent| &latent.values);
        let columns = layer.attn_out.columns;
        s.activations.set(means.compute, &source[..n * columns], columns, n)?;
        let out = &mut s.normed[..n * layer.attn_out.rows];
        let target = Target { matrix: &layer.attn_out, out };
        linear(&mut means, &s.activations, &mut [target])?;
        ffn::add_bias(means.vectors, layer.attn_out_bias, &mut s.normed[..n * layer.attn_out.rows]);
        add_block(&means, s, layer.post_attn_norm, active)
    }

    /// Queries, keys and values of all tokens, biases added.
    fn project(&mut self, index: usize) -> Result<(), Error> {
        let n = self.tokens;
        let (bound, mut means) = Means::of(self.engine);
        let layer = &bound.layers[index];
        let s = &mut *self.scratch;
        norm_input(&means, s, layer.attn_norm, 0..n)?;
        match &layer.attention {
            Attention::Heads(projections) => project_heads(&mut means, s, projections, n),
            Attention::Latent(projections) => latent::project(&mut means, s, projections, n),
        }
    }

    /// Rotates queries and keys, and stores keys and values.
    fn rotate_and_store(&mut self, index: usize) -> Result<(), Error> {
        let engine = &*self.engine;
        let (config, compute) = (&engine.config, &engine.compute);
        let s = &mut *self.scratch;
        let key_length = usize_of(config.key_length);
        let (q_len, k_len) = (usize_of(config.query_length()), usize_of(config.key_length_all()));
        let v_len = usize_of(config.value_length_all());
        let sliding = config.sliding_layers[index];
        let table = if sliding { &engine.rope_sliding } else { &engine.rope_global };
        let style = match config.rope_style {
            RopeStyle::Norm => rope::RopeStyle::Norm,
            RopeStyle::Neox => rope::RopeStyle::Neox,
        };
        for (part, rows) in rows_of(self.parts) {
            let q = &mut s.q[rows.start * q_len..rows.end * q_len];
            let k = &mut s.k[rows.start * k_len..rows.end * k_len];
            let v = &s.v[rows.start * v_len..rows.end * v_len];
            if config.is_rotated(index) {
                s.rope.prepare(compute, table, part.start, rows.len())?;
                s.rope.apply(compute, q, q_len / key_length, key_length, style)?;
                s.rope.apply(compute, k, k_len / key_length, key_length, style)?;
            }
            if let (QkNorm::HeadRotated, Attention::Heads(p)) =
                (config.family.qk_norm, &engine.bound.layers[index].attention)
            {
                norm_heads(compute, &engine.vectors, p, config.norm_epsilon, q, k)?;
            }
            if let Some(temperature) = config.temperature {
                sharpen(compute, temperature, part.start, q, q_len);
            }
            attend::store(compute, &mut self.sequences[part.lane].kv, index, part.start, k, v)?;
        }
        Ok(())
    }

    fn feed_forward(&mut self, index: usize, active: Range<usize>) -> Result<(), Error> {
        let n = active.len();
        let guesses = self.engine.guess_experts && self.engine.are_vectors_loaded(index + 1);
        let (bound, mut means) = Means::of(self.engine);
        let layer = &bound.layers[index];
        let s = &mut *self.scratch;
        norm_input(&means, s, layer.ffn_norm, active.clone())?;
        match &layer.ffn {
            FeedForward::Experts(experts) => {
                // Several sequences have no common positions: the first one's are told.
                let first = self.parts.first().map_or(0, |part| part.start) + active.start;
                let next = bound.layers.get(index + 1).filter(|_| guesses && n == 1);
                let next = next.and_then(|next| moe::Next::of(next, active.start));
                let place = moe::Place { layer: index, first, n };
                moe::mix(&mut means, s, experts, place, next)?;
            }
            FeedForward::Dense(block) => {
                let len = n * block.gate.rows;
                let (gate, up) = (&mut s.gate[..len], &mut s.up[..len]);
                ffn::gate_and_up(&mut means, block, &s.activations, gate, up)?;
                s.activations.set(means.compute, gate, block.gate.rows, n)?;
                let out = &mut s.normed[..n * block.down.rows];
                ffn::down(&mut means, block, &s.activations, out)?;
            }
        }
        add_block(&means, s, layer.post_ffn_norm, active)
    }
}

/// Each part with its rows of the batch.
fn rows_of(parts: &[Part]) -> impl Iterator<Item = (&Part, Range<usize>)> {
    let mut next = 0;
    parts.iter().map(move |part| {
        let first = next;
        next += part.tokens;
        (part, first..next)
    })
}

/// The input of a block, of the tokens `active`, normed where the family does so, into `s.normed` and `s.activations`.
fn norm_input(
    means: &Means<'_>,
    s: &mut Scratch,
    weight: Option<Vector>,
    active: Range<usize>,
) -> Result<(), Error> {
    let (n, width) = (active.len(), usize_of(means.config.embedding_length));
    let x = &s.x[active.start * width..active.end * width];
    let normed = &mut s.normed[..n * width];
    norm_rows(means, weight, x, normed)?;
    s.activations.set(means.compute, normed, width, n)?;
    Ok(())
}

/// The rows of `x`, normed where there is a weight for it.
pub(crate) fn norm_rows(
    means: &Means<'_>,
    weight: Option<Vector>,
    x: &[f32],
    normed: &mut [f32],
) -> Result<(), Error> {
    match weight {
        Some(weight) => {
            let weight = floats(means.vectors, weight);
            norm::rms_norm(means.compute, x, weight, means.config.norm_epsilon, normed)?;
        }
        None => normed.copy_from_slice(x),
    }
    Ok(())
}

/// Queries, keys and values of each head, normed where the family does so.
fn project_heads(
    means: &mut Means<'_>,
    s: &mut Scratch,
    p: &HeadProjections,
    n: usize,
) -> Result<(), Error> {
    let (q, k, v) = (&mut s.q[..n * p.q.rows], &mut s.k[..n * p.k.rows], &mut s.v[..n * p.v.rows]);
    linear(
        means,
        &s.activations,
        &mut [
            Target { matrix: &p.q, out: q },
            Target { matrix: &p.k, out: k },
            Target { matrix: &p.v, out: v },
        ],
    )?;
    ffn::add_bias(means.vectors, p.q_bias, q);
    ffn::add_bias(means.vectors, p.k_bias, k);
    ffn::add_bias(means.vectors, p.v_bias, v);
    match means.config.family.qk_norm {
        // Later.
        QkNorm::HeadRotated => Ok(()),
        _ => norm_heads(means.compute, means.vectors, p, means.config.norm_epsilon, q, k),
    }
}

/// Norms queries and keys by the weights there are.
fn norm_heads(
    compute: &Compute,
    vectors: &[f32],
    p: &HeadProjections,
    epsilon: f32,
    q: &mut [f32],
    k: &mut [f32],
) -> Result<(), Error> {
    for (norm, rows) in [(p.q_norm, q), (p.k_norm, k)] {
        if let Some(norm) = norm {
            norm::rms_norm_in_place(compute, rows, floats(vectors, norm), epsilon)?;
        }
    }
    Ok(())
}

/// Multiplies each token's queries by what its position asks for.
fn sharpen(compute: &Compute, temperature: Temperature, first: usize, q: &mut [f32], len: usize) {
    for (row, q) in q.chunks_exact_mut(len).enumerate() {
        scale(compute, q, temperature.factor(first + row));
    }
}

/// `x += scale * norm(block's output)` for the tokens `active`, where norm and scale are the family's;
/// the output is in `s.normed`.
fn add_block(
    means: &Means<'_>,
    s: &mut Scratch,
    post_norm: Option<Vector>,
    active: Range<usize>,
) -> Result<(), Error> {
    let width = usize_of(means.config.embedding_length);
    let out = &mut s.normed[..active.len() * width];
    if let Some(norm) = post_norm {
        let weight = floats(means.vectors, norm);
        norm::rms_norm_in_place(means.compute, out, weight, means.config.norm_epsilon)?;
    }
    scale(means.compute, out, means.config.residual_scale);
    elementwise::add(means.compute, &mut s.x[active.start * width..active.end * width], out)?;
    Ok(())
}

/// `x *= factor`, and nothing where that is 1.
pub(crate) fn scale(compute: &Compute, x: &mut [f32], factor: f32) {
    #[expect(clippy::float_cmp, reason = "exactly 1 means unscaled")]
    if factor != 1.0 {
        elementwise::scale(compute, x, factor);
    }
}

/// A vector's floats in the model's arena.
pub(crate) fn floats(arena: &[f32], vector: Vector) -> &[f32] {
    &arena[vector.start..vector.start + vector.len]
}

/// Lengths of the configuration are capped far below `usize::MAX`.
pub(crate) fn usize_of(length: u64) -> usize {
    usize::try_from(length).unwrap_or(usize::MAX)
}
