//! A mixture of experts: the router chooses, the chosen experts compute, their results are added with
//! their weights.
//!
//! **One order.** A token's result is the shared block's output (or 0), to which its experts' results are
//! added in ascending order of their ids, one fused multiply-add each. Bits therefore depend neither on
//! the batch nor on which experts' bytes arrive first.

mod guess;
mod routing;
mod scratch;
mod wave;

use arrayvec::ArrayVec;
use lowtide_kernels::elementwise;
use lowtide_kernels::rows::add_scaled_rows;
use lowtide_residency::{ExpertUse, Store};

use crate::bind::Experts;
use crate::error::Error;
use crate::ffn;
use crate::forward::floats;
use crate::linear::{Means, Target, linear};
use crate::scratch::Scratch;
use crate::slots::TOGETHER_MAX;

pub(crate) use guess::Next;
use routing::{RouteError, Routes};
pub(crate) use scratch::MoeScratch;
use wave::Inputs;

/// What a layer's router chose.
#[derive(Debug, Clone, Copy)]
pub struct Routed<'r> {
    /// The layer, from 0, those without experts counted.
    pub layer: usize,
    /// Position of the first token.
    pub first_position: usize,
    /// `[token][expert]`: as many as a token uses, ascending.
    pub picks: &'r [u32],
}

/// Told what each router chose.
pub type RouteWatcher = dyn FnMut(&Routed<'_>) + Send;

/// Which tokens of which layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    pub layer: usize,
    /// Position of the first token.
    pub first: usize,
    /// Tokens.
    pub n: usize,
}

/// Computes a layer's mixture for the tokens whose normed inputs are `s.normed` and `s.activations`; the
/// result goes to `s.normed`. While it does, the experts of the `next` layer may be read.
pub(crate) fn mix(
    means: &mut Means<'_>,
    s: &mut Scratch,
    experts: &Experts,
    Place { layer, first, n }: Place,
    next: Option<Next<'_>>,
) -> Result<(), Error> {
    route(means, s, layer, experts, n)?;
    if let (Some(watcher), Some(moe)) = (means.routed.as_mut(), &s.moe) {
        watcher(&Routed { layer, first_position: first, picks: moe.routes.picked(n) });
    }
    if let Some(next) = next {
        next.guess(means, s)?;
    }
    shared(means, s, experts, n)?;
    compute(means, s, experts, n)
}

/// The routers' scores, and from them the experts of each token.
fn route(
    means: &mut Means<'_>,
    s: &mut Scratch,
    index: usize,
    experts: &Experts,
    n: usize,
) -> Result<(), Error> {
    let (Some(moe), Some(config)) = (&mut s.moe, &means.config.experts) else {
        return Err(Error::Unplanned("experts"));
    };
    let width = experts.router.columns;
    moe.router_x.set(means.compute, &s.normed[..n * width], width, n)?;
    let scores = &mut moe.scores[..n * experts.router.rows];
    let router = Target { matrix: &experts.router, out: scores };
    match &experts.shared_router {
        None => linear(means, &moe.router_x, &mut [router])?,
        Some(matrix) => {
            let gate = Target { matrix, out: &mut moe.shared_gate[..n] };
            linear(means, &moe.router_x, &mut [router, gate])?;
        }
    }
    ffn::add_bias(means.vectors, experts.router_bias, scores);
    let bias = experts.selection_bias.map(|bias| floats(means.vectors, bias));
    let chosen = moe.routes.choose(means.compute, &config.routing, scores, bias);
    chosen.map_err(|error| match error {
        RouteError::NotFinite { expert } => Error::NonFiniteRouter { layer: index, expert },
        RouteError::Shape(shape) => shape.into(),
    })?;
    // Asked for at once: what every token passes is computed while they come.
    let routes = &moe.routes;
    let needed = |expert: &u32| ExpertUse {
        unit: experts.units[*expert as usize],
        tokens: routes.tokens_of(*expert).len() as u32,
    };
    moe.uses.clear();
    moe.uses.extend(routes.needed().iter().map(needed));
    means.store.demand_experts(&moe.uses, n > STREAM_TOKENS)?;
    Ok(())
}

/// A batch of more tokens than this reads most experts of a layer, and each of them once: it passes the
/// cache by. Fewer are a step of decoding, speculation included.
const STREAM_TOKENS: usize = 8;

/// The block that every token passes, into `s.normed`; 0 where there is none.
fn shared(
    means: &mut Means<'_>,
    s: &mut Scratch,
    experts: &Experts,
    n: usize,
) -> Result<(), Error> {
    let width = experts.router.columns;
    let out = &mut s.normed[..n * width];
    let (Some(block), Some(slots)) = (&experts.shared, &mut s.slots) else {
        out.fill(0.0);
        return Ok(());
    };
    let len = n * block.gate.rows;
    let (gate, up) = (&mut s.gate[..len], &mut s.up[..len]);
    ffn::gate_and_up(means, block, &s.activations, gate, up)?;
    let hidden = slots.large();
    hidden.set(means.compute, gate, block.gate.rows, n)?;
    ffn::down(means, block, hidden, out)?;
    let Some(moe) = s.moe.as_mut().filter(|_| experts.shared_router.is_some()) else {
        return Ok(());
    };
    let weights = &mut moe.shared_gate[..n];
    elementwise::sigmoid(means.compute, weights);
    for (row, weight) in out.chunks_exact_mut(width).zip(weights) {
        row.iter_mut().for_each(|value| *value *= *weight);
    }
    Ok(())
}

/// Computes the chosen experts in waves and adds their results to `s.normed`.
fn compute(
    means: &mut Means<'_>,
    s: &mut Scratch,
    experts: &Experts,
    n: usize,
) -> Result<(), Error> {
    let width = experts.router.columns;
    let (Some(moe), Some(slots)) = (&mut s.moe, &mut s.slots) else {
        return Err(Error::Unplanned("experts"));
    };
    let result_rows = moe.result_rows(width);
    let small_columns = slots.small_columns();
    let (routes, left, mut buffers) = moe.parts(slots);
    let inputs = Inputs { experts, routes, x: &s.activations };
    let out = &mut s.normed[..n * width];
    // Results that all have room wait for the last one, so that experts may come in any order.
    if routes.pairs() <= result_rows {
        left.clear();
        left.extend_from_slice(routes.needed());
        while !left.is_empty() {
            let wave = next_wave(means.store, experts, routes, left, small_columns);
            inputs.compute(means, &mut buffers, &wave, 0)?;
        }
        return add(means, &inputs, buffers.results, routes.needed(), 0, out);
    }
    let together = experts_held_at_once(means.store);
    let mut rest = routes.needed();
    while !rest.is_empty() {
        let len = wave_len(routes, rest, together, small_columns, result_rows);
        let (wave, others) = rest.split_at(len);
        let first_pair = routes.pairs_of(wave[0]).start;
        inputs.compute(means, &mut buffers, wave, first_pair)?;
        add(means, &inputs, buffers.results, wave, first_pair, out)?;
        rest = others;
    }
    Ok(())
}

/// Takes the experts to be computed next out of `left`: those that are there, and if there are none the
/// first, which is waited for. One with many tokens is computed alone.
fn next_wave(
    store: &Store,
    experts: &Experts,
    routes: &Routes,
    left: &mut Vec<u32>,
    small_columns: usize,
) -> ArrayVec<u32, TOGETHER_MAX> {
    let mut wave = ArrayVec::new();
    let mut is_full = false;
    left.retain(|&expert| {
        let is_large = routes.pairs_of(expert).len() > small_columns;
        let takes = !is_full
            && (!is_large || wave.is_empty())
            && store.is_expert_ready(experts.units[expert as usize]);
        if takes {
            wave.push(expert);
            is_full = is_large || wave.is_full();
        }
        !takes
    });
    if wave.is_empty() {
        wave.push(left.remove(0));
    }
    wave
}

/// Experts whose bytes can be held at once: as many as are computed together where everything stays,
/// else half of the cache's slots, so that others come meanwhile.
fn experts_held_at_once(store: &Store) -> usize {
    let plan = store.plan();
    if plan.is_all_resident() || plan.experts.slots == 0 {
        return TOGETHER_MAX;
    }
    (plan.experts.held_together() as usize / 2).clamp(1, TOGETHER_MAX)
}

/// How many of the experts `rest` to compute together: one alone if it has many tokens, else as many as
/// can be held and have room for their results.
fn wave_len(
    routes: &Routes,
    rest: &[u32],
    together: usize,
    small_columns: usize,
    result_rows: usize,
) -> usize {
    let mut rows = 0;
    let fits = |expert: &&u32| {
        let columns = routes.pairs_of(**expert).len();
        rows += columns;
        columns <= small_columns && rows <= result_rows
    };
    rest.iter().take(together).take_while(fits).count().max(1)
}

/// Adds the results of `wave`'s experts, in order, each token's with its weight.
fn add(
    means: &Means<'_>,
    inputs: &Inputs<'_>,
    results: &[f32],
    wave: &[u32],
    first_pair: usize,
    out: &mut [f32],
) -> Result<(), Error> {
    let (routes, width) = (inputs.routes, inputs.experts.down.rows);
    for expert in wave {
        let pairs = routes.pairs_of(*expert);
        let own = &results[(pairs.start - first_pair) * width..(pairs.end - first_pair) * width];
        add_scaled_rows(means.compute, out, own, width, routes.rows_of(*expert))?;
    }
    Ok(())
}
