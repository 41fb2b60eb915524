//! The memory a pass works in, claimed once for the largest batch.

use lowtide_kernels::attention::AttentionScratch;
use lowtide_kernels::quantize::{Activations, Keep};
use lowtide_kernels::rope::Rotation;
use lowtide_model::ModelConfig;

use crate::attend;
use crate::engine::Engine;
use crate::error::Error;
use crate::forward::usize_of;
use crate::latent::LatentScratch;
use crate::moe::MoeScratch;
use crate::slots::Slots;

/// Buffers of one session. Lengths are `tokens * width` unless stated; all token-major.
pub(crate) struct Scratch {
    /// Tokens that go through the model together at most.
    pub batch: usize,
    /// Rows of logits there is room for.
    pub logit_rows: usize,
    /// The residual stream.
    pub x: Vec<f32>,
    /// A norm's or a projection's output, of the residual stream's width.
    pub normed: Vec<f32>,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub attended: Vec<f32>,
    pub gate: Vec<f32>,
    pub up: Vec<f32>,
    pub logits: Vec<f32>,
    /// The left operand of products, quantised once for all matrices that read it.
    pub activations: Activations,
    pub attention: AttentionScratch,
    pub rope: Rotation,
    /// Rows of the embedding as stored.
    pub rows: EmbeddingRows,
    /// Activations of products that run together; there if experts or latent attention are.
    pub slots: Option<Slots>,
    pub moe: Option<MoeScratch>,
    pub latent: Option<LatentScratch>,
}

/// Rows of the embedding on their way in: as many as one call reads at a time.
pub(crate) struct EmbeddingRows {
    pub offsets: Vec<u64>,
    pub bytes: Vec<u8>,
}

impl EmbeddingRows {
    /// Rows read together: enough to keep a disk's queue full, little memory.
    const COUNT: usize = 64;

    fn new(row_bytes: usize) -> Self {
        Self { offsets: Vec::with_capacity(Self::COUNT), bytes: vec![0; row_bytes * Self::COUNT] }
    }

    /// Rows there is room for.
    pub(crate) fn count(&self) -> usize {
        Self::COUNT
    }
}

/// Widest operand of any product but experts': the embedding, the attention's output, low-rank queries,
/// the feed-forward.
fn widest(config: &ModelConfig) -> usize {
    let low_rank = config.latent.and_then(|latent| latent.query_rank).unwrap_or(0);
    let attention = config.attention_output_length().max(low_rank);
    usize_of(config.embedding_length.max(attention).max(config.dense_length_max()))
}

/// Widest operand of products that run together: experts', the block's beside them, heads'.
fn widest_slot(config: &ModelConfig) -> Option<usize> {
    let experts = config.experts.as_ref().map(|e| {
        let hidden = e.feed_forward_length.max(e.shared_feed_forward_length);
        hidden.max(config.embedding_length)
    });
    let latent = config.latent.map(|latent| latent.plain_length.max(latent.rank));
    experts.max(latent).map(usize_of)
}

/// Floats a token needs in all buffers that every model has.
fn floats_per_token(config: &ModelConfig) -> usize {
    usize_of(
        2 * config.embedding_length
            + config.query_length()
            + config.key_length_all()
            + config.value_length_all()
            + config.attention_length()
            + 2 * config.dense_length_max(),
    )
}

/// Bytes the scratch of a batch takes, without logits and attention's own.
pub(crate) fn bytes(config: &ModelConfig, keep: Keep, batch: usize) -> u64 {
    let codes = Activations::bytes_for(widest(config), 1, keep);
    let token = 4 * floats_per_token(config) + codes + 8 * usize_of(config.rope_dimensions / 2);
    let slots = widest_slot(config).map_or(0, |k| Slots::bytes_for(k, batch, keep));
    let moe = config.experts.as_ref().map_or(0, |e| MoeScratch::bytes_for(config, e, batch));
    let latent = config.latent.map_or(0, |l| LatentScratch::bytes_for(config, &l, batch));
    (token * batch + slots + moe + latent) as u64
}

/// Bytes one more token in a large batch costs.
pub(crate) fn bytes_per_token(config: &ModelConfig, keep: Keep) -> u64 {
    // Beyond this size nothing grows but by whole tokens.
    const LARGE: usize = 4096;
    bytes(config, keep, LARGE + 1) - bytes(config, keep, LARGE)
}

impl Scratch {
    pub(crate) fn new(engine: &Engine) -> Result<Self, Error> {
        let config = engine.config();
        let batch = engine.batch();
        let logit_rows = engine.logit_rows();
        let ff = usize_of(config.dense_length_max());
        let routers = engine.bound.keeps.routers;
        let experts = config.experts.as_ref();
        let zeros = |length: usize| vec![0.0f32; length * batch];
        let width = usize_of(config.embedding_length);
        Ok(Self {
            batch,
            logit_rows,
            x: zeros(width),
            normed: zeros(width),
            q: zeros(usize_of(config.query_length())),
            k: zeros(usize_of(config.key_length_all())),
            v: zeros(usize_of(config.value_length_all())),
            attended: zeros(usize_of(config.attention_length())),
            gate: zeros(ff),
            up: zeros(ff),
            logits: vec![0.0; logit_rows * engine.vocabulary_length()],
            activations: Activations::new(widest(config), batch, engine.keep()),
            attention: AttentionScratch::new(
                engine.threads(),
                attend::sizes(config, engine.context()),
            )?,
            rope: Rotation::new(batch, usize_of(config.rope_dimensions)),
            rows: EmbeddingRows::new(engine.embedding_row_bytes()),
            slots: widest_slot(config).map(|k| Slots::new(k, batch, engine.keep())),
            moe: experts.map(|experts| MoeScratch::new(config, experts, routers, batch)),
            latent: config.latent.map(|latent| LatentScratch::new(config, &latent, batch)),
        })
    }
}
