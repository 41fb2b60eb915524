//! The attention of one layer: what the configuration says of it, handed to the kernel.

use lowtide_kernels::attention::{
    AttentionJob, AttentionScratch, AttentionSizes, attention, kv_store,
};
use lowtide_kernels::compute::Compute;
use lowtide_model::ModelConfig;

use crate::error::Error;
use crate::forward::usize_of;
use crate::kv::KvCache;

/// The largest attention of a model.
pub(crate) fn sizes(config: &ModelConfig, context: usize) -> AttentionSizes {
    AttentionSizes {
        heads: usize_of(config.heads),
        kv_heads: usize_of(config.kv_heads),
        key_dim: usize_of(config.key_length),
        value_dim: usize_of(config.value_length),
        context,
    }
}

/// Stores the keys and values (`[token][kv head * size]`) of tokens from position `start` on.
pub(crate) fn store(
    compute: &Compute,
    kv: &mut KvCache,
    layer: usize,
    start: usize,
    keys: &[f32],
    values: &[f32],
) -> Result<(), Error> {
    Ok(kv_store(compute, &kv.layout, &mut kv.layers[layer], start, keys, values)?)
}

/// The queries of consecutive tokens and where they stand.
pub(crate) struct Queries<'q> {
    pub config: &'q ModelConfig,
    pub layer: usize,
    /// Position of the first token.
    pub first_position: usize,
    /// `[token][head * key size]`.
    pub queries: &'q [f32],
    /// A score for each head that takes weight and has no value.
    pub sinks: Option<&'q [f32]>,
}

/// Lets the queries attend to everything stored before and at their positions.
pub(crate) fn attend(
    compute: &Compute,
    scratch: &mut AttentionScratch,
    kv: &KvCache,
    of: &Queries<'_>,
    out: &mut [f32],
) -> Result<(), Error> {
    let config = of.config;
    let window = config.sliding_window.filter(|_| config.sliding_layers[of.layer]);
    let job = AttentionJob {
        layout: &kv.layout,
        cache: &kv.layers[of.layer],
        queries: of.queries,
        heads: usize_of(config.heads),
        first_position: of.first_position,
        window: window.map(|w| w as usize),
        scale: config.query_scale,
        softcap: config.attention_softcap,
        sinks: of.sinks,
        out,
    };
    Ok(attention(compute, scratch, job)?)
}
