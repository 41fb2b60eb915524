//! The memory that mixing experts works in, claimed once for the largest batch.

use lowtide_kernels::quantize::{Activations, Keep};
use lowtide_model::{Experts, ModelConfig};
use lowtide_residency::{ExpertUse, UnitId};

use super::routing::Routes;
use crate::forward::usize_of;
use crate::slots::{Slots, rows_together};

/// Buffers for the layers that have experts.
pub(crate) struct MoeScratch {
    /// The routers' input.
    pub router_x: Activations,
    /// `[token][expert]`.
    pub scores: Vec<f32>,
    /// What each token's shared expert is multiplied by.
    pub shared_gate: Vec<f32>,
    pub routes: Routes,
    /// What a layer asks the store for.
    pub uses: Vec<ExpertUse>,
    /// What the next layer may ask for.
    pub guesses: Vec<UnitId>,
    /// Experts still to be computed.
    left: Vec<u32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    results: Vec<f32>,
}

/// What waves of experts work in.
pub(super) struct WaveBuffers<'b> {
    pub gate: &'b mut [f32],
    pub up: &'b mut [f32],
    /// Rows of the residual stream's width: what experts gave, pair by pair.
    pub results: &'b mut [f32],
    pub slots: &'b mut Slots,
}

impl MoeScratch {
    pub(crate) fn new(
        config: &ModelConfig,
        experts: &Experts,
        routers: Keep,
        batch: usize,
    ) -> Self {
        let (count, used) = (usize_of(experts.count), usize_of(experts.used));
        let width = usize_of(config.embedding_length);
        let rows = rows_together(batch);
        let hidden = || vec![0.0; rows * usize_of(experts.feed_forward_length)];
        Self {
            router_x: Activations::new(width, batch, routers),
            scores: vec![0.0; batch * count],
            shared_gate: vec![0.0; batch],
            routes: Routes::new(batch, count, used),
            uses: Vec::with_capacity(count),
            guesses: Vec::with_capacity(used),
            left: Vec::with_capacity(count),
            gate: hidden(),
            up: hidden(),
            results: vec![0.0; rows * width],
        }
    }

    /// Bytes [`MoeScratch::new`] allocates, with a router's activations counted as floats and codes.
    pub(crate) fn bytes_for(config: &ModelConfig, experts: &Experts, batch: usize) -> usize {
        let (count, used) = (usize_of(experts.count), usize_of(experts.used));
        let width = usize_of(config.embedding_length);
        let row = 2 * usize_of(experts.feed_forward_length) + width;
        Activations::bytes_for(width, batch, Keep::Both)
            + size_of::<f32>() * (batch * (count + 1) + rows_together(batch) * row)
            + Routes::bytes_per_token(used) * batch
            + size_of::<u32>() * 6 * (count + 1)
    }

    /// Rows of results there is room for.
    pub(super) fn result_rows(&self, width: usize) -> usize {
        self.results.len() / width
    }

    /// The routes, the experts still to be computed, and what waves work in.
    pub(super) fn parts<'b>(
        &'b mut self,
        slots: &'b mut Slots,
    ) -> (&'b Routes, &'b mut Vec<u32>, WaveBuffers<'b>) {
        let Self { routes, left, gate, up, results, .. } = self;
        (routes, left, WaveBuffers { gate, up, results, slots })
    }
}
