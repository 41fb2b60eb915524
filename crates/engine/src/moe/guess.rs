//! The next layer's experts, guessed by its own router from this layer's input: what this layer's experts
//! will add is not known yet, and mostly changes little. Only what is read early depends on it, no result.

use crate::bind::{Experts, FeedForward, Layer, Vector};
use crate::error::Error;
use crate::forward::{floats, norm_rows};
use crate::linear::{Means, Target, linear};
use crate::scratch::Scratch;

/// The layer whose experts come next.
#[derive(Clone, Copy)]
pub(crate) struct Next<'l> {
    norm: Option<Vector>,
    experts: &'l Experts,
    /// The token's row of the residual stream.
    row: usize,
}

impl<'l> Next<'l> {
    /// `None` for a layer without experts.
    pub(crate) fn of(layer: &'l Layer, row: usize) -> Option<Self> {
        match &layer.ffn {
            FeedForward::Experts(experts) => Some(Self { norm: layer.ffn_norm, experts, row }),
            FeedForward::Dense(_) => None,
        }
    }

    /// Has the store read what the router would choose now. `s.normed` is free for it: this layer's router
    /// has read it, and the layer's result is not there yet.
    pub(super) fn guess(self, means: &mut Means<'_>, s: &mut Scratch) -> Result<(), Error> {
        let (Some(moe), Some(config)) = (&mut s.moe, &means.config.experts) else { return Ok(()) };
        let router = &self.experts.router;
        let tiles = means.tiles[router.tiles.clone()].iter().map(|tile| tile.extent);
        // Where everything stays there is nothing to read; where the trunk is streamed, in order only.
        if means.store.plan().experts.slots == 0 || !means.store.are_resident(tiles) {
            return Ok(());
        }
        let width = router.columns;
        let x = &s.x[self.row * width..(self.row + 1) * width];
        let normed = &mut s.normed[..width];
        norm_rows(means, self.norm, x, normed)?;
        moe.router_x.set(means.compute, normed, width, 1)?;
        let scores = &mut moe.scores[..router.rows];
        linear(means, &moe.router_x, &mut [Target { matrix: router, out: scores }])?;
        crate::ffn::add_bias(means.vectors, self.experts.router_bias, scores);
        let bias = self.experts.selection_bias.map(|bias| floats(means.vectors, bias));
        if let Some(chosen) = moe.routes.guess(means.compute, &config.routing, scores, bias) {
            moe.guesses.clear();
            moe.guesses.extend(chosen.iter().map(|expert| self.experts.units[*expert as usize]));
            means.store.guess_experts(&moe.guesses);
        }
        Ok(())
    }
}
