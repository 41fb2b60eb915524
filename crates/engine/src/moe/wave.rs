//! Some experts of a layer, computed together: three barriers, however many they are.

use arrayvec::ArrayVec;
use lowtide_kernels::matmul::{MatmulJob, matmul};
use lowtide_kernels::quantize::Activations;
use lowtide_residency::Expert;

use super::routing::Routes;
use super::scratch::WaveBuffers;
use crate::bind::{Experts, Slices, Vector};
use crate::error::Error;
use crate::ffn;
use crate::forward::floats;
use crate::linear::Means;
use crate::slots::TOGETHER_MAX;

/// What a wave computes from.
pub(super) struct Inputs<'i> {
    pub experts: &'i Experts,
    pub routes: &'i Routes,
    /// The batch's activations.
    pub x: &'i Activations,
}

/// Places of an expert's matrices among its slices.
const GATE: usize = 0;
const UP: usize = 1;
const DOWN: usize = 2;

impl Inputs<'_> {
    /// Computes the experts `wave` for their tokens, unweighted. The row of pair `p` goes to
    /// `buffers.results` at row `p - first_pair`.
    pub(super) fn compute(
        &self,
        means: &mut Means<'_>,
        buffers: &mut WaveBuffers<'_>,
        wave: &[u32],
        first_pair: usize,
    ) -> Result<(), Error> {
        let store = means.store;
        let mut held: ArrayVec<Expert<'_>, TOGETHER_MAX> = ArrayVec::new();
        for expert in wave {
            held.push(store.acquire_expert(self.experts.units[*expert as usize])?);
        }
        self.gather(buffers, wave)?;
        self.gate_and_up(means, buffers, wave, &held)?;
        self.down(means, buffers, wave, &held, first_pair)
    }

    /// The activations of each expert's tokens; those of all tokens are there already.
    fn gather(&self, buffers: &mut WaveBuffers<'_>, wave: &[u32]) -> Result<(), Error> {
        let sets = buffers.slots.holding(self.columns_max(wave));
        for (set, expert) in sets.iter_mut().zip(wave) {
            let tokens = self.routes.tokens_of(*expert);
            if tokens.len() < self.x.cols() {
                set.gather(self.x, tokens)?;
            }
        }
        Ok(())
    }

    fn gate_and_up(
        &self,
        means: &mut Means<'_>,
        buffers: &mut WaveBuffers<'_>,
        wave: &[u32],
        held: &[Expert<'_>],
    ) -> Result<(), Error> {
        let sets = buffers.slots.holding(self.columns_max(wave));
        let mut jobs: ArrayVec<MatmulJob<'_>, { 2 * TOGETHER_MAX }> = ArrayVec::new();
        let (mut gate, mut up) = (&mut *buffers.gate, &mut *buffers.up);
        for ((expert, held), set) in wave.iter().zip(held).zip(sets.iter()) {
            let columns = self.routes.pairs_of(*expert).len();
            let x = if columns < self.x.cols() { set } else { self.x };
            let len = columns * self.experts.gate.rows;
            let (out, rest) = gate.split_at_mut(len);
            gate = rest;
            jobs.push(job(&self.experts.gate, held.slice(GATE), x, out));
            let (out, rest) = up.split_at_mut(len);
            up = rest;
            jobs.push(job(&self.experts.up, held.slice(UP), x, out));
        }
        matmul(means.compute, &mut jobs)?;
        drop(jobs);
        self.add_biases(means.vectors, self.experts.gate_bias, wave, buffers.gate);
        self.add_biases(means.vectors, self.experts.up_bias, wave, buffers.up);
        let rows: usize = wave.iter().map(|e| self.routes.pairs_of(*e).len()).sum();
        let len = rows * self.experts.gate.rows;
        let (gate, up) = (&mut buffers.gate[..len], &buffers.up[..len]);
        ffn::activate(means.compute, means.config.family.activation, gate, up)
    }

    fn down(
        &self,
        means: &mut Means<'_>,
        buffers: &mut WaveBuffers<'_>,
        wave: &[u32],
        held: &[Expert<'_>],
        first_pair: usize,
    ) -> Result<(), Error> {
        let down = &self.experts.down;
        let sets = buffers.slots.holding(self.columns_max(wave));
        let mut hidden = &buffers.gate[..];
        for (set, expert) in sets.iter_mut().zip(wave) {
            let columns = self.routes.pairs_of(*expert).len();
            let (own, rest) = hidden.split_at(columns * down.columns);
            hidden = rest;
            set.set(means.compute, own, down.columns, columns)?;
        }
        let mut jobs: ArrayVec<MatmulJob<'_>, TOGETHER_MAX> = ArrayVec::new();
        let (mut results, mut done) = (&mut *buffers.results, first_pair);
        for ((expert, held), set) in wave.iter().zip(held).zip(sets.iter()) {
            let pairs = self.routes.pairs_of(*expert);
            let (_, rest) = results.split_at_mut((pairs.start - done) * down.rows);
            let (out, rest) = rest.split_at_mut(pairs.len() * down.rows);
            (results, done) = (rest, pairs.end);
            jobs.push(job(down, held.slice(DOWN), set, out));
        }
        matmul(means.compute, &mut jobs)?;
        drop(jobs);
        if let Some(bias) = self.experts.down_bias {
            for expert in wave {
                let pairs = self.routes.pairs_of(*expert);
                let at = (pairs.start - first_pair) * down.rows;
                let out = &mut buffers.results[at..at + pairs.len() * down.rows];
                ffn::add_row(self.bias_of(means.vectors, bias, *expert), out);
            }
        }
        Ok(())
    }

    /// Adds each expert's bias to its rows of `out`, which lie in the order of the wave.
    fn add_biases(&self, vectors: &[f32], bias: Option<Vector>, wave: &[u32], out: &mut [f32]) {
        let Some(bias) = bias else { return };
        let mut out = out;
        for expert in wave {
            let own = self.bias_of(vectors, bias, *expert);
            let (rows, rest) = out.split_at_mut(self.routes.pairs_of(*expert).len() * own.len());
            ffn::add_row(own, rows);
            out = rest;
        }
    }

    fn bias_of<'v>(&self, vectors: &'v [f32], bias: Vector, expert: u32) -> &'v [f32] {
        let all = floats(vectors, bias);
        let len = all.len() / self.experts.router.rows;
        &all[expert as usize * len..(expert as usize + 1) * len]
    }

    fn columns_max(&self, wave: &[u32]) -> usize {
        wave.iter().map(|e| self.routes.pairs_of(*e).len()).max().unwrap_or(0)
    }
}

fn job<'j>(
    slices: &Slices,
    weights: &'j [u8],
    x: &'j Activations,
    out: &'j mut [f32],
) -> MatmulJob<'j> {
    MatmulJob {
        format: slices.format,
        weights,
        rows: slices.rows,
        k: slices.columns,
        x,
        out,
        out_stride: slices.rows,
        out_row0: 0,
    }
}
