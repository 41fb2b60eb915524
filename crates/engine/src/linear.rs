//! Matrix products over tiles: bring a tile in, multiply, let it go.

use arrayvec::ArrayVec;
use lowtide_kernels::compute::Compute;
use lowtide_kernels::matmul::{MatmulJob, matmul};
use lowtide_kernels::quantize::Activations;
use lowtide_model::ModelConfig;
use lowtide_residency::{Store, Tile as Bytes};

use crate::bind::{Bound, Matrix, Tile};
use crate::engine::Engine;
use crate::error::Error;
use crate::moe::RouteWatcher;

/// Products of one group at most: query, key and value.
pub(crate) const TARGETS_MAX: usize = 3;

/// One product: where the weights are and where the result goes, `out[token * rows + row]`.
pub(crate) struct Target<'t> {
    pub matrix: &'t Matrix,
    pub out: &'t mut [f32],
}

/// What a block of the pass needs besides its operands.
pub(crate) struct Means<'m> {
    pub compute: &'m mut Compute,
    pub store: &'m Store,
    pub tiles: &'m [Tile],
    /// Norms and biases of the layers that were loaded.
    pub vectors: &'m [f32],
    pub config: &'m ModelConfig,
    /// Who is told what routers chose.
    pub routed: &'m mut Option<Box<RouteWatcher>>,
}

impl<'m> Means<'m> {
    /// The engine's tensors, and all else of it that blocks need.
    pub(crate) fn of(engine: &'m mut Engine) -> (&'m Bound, Self) {
        let Engine { bound, compute, store, tiles, vectors, config, routed, .. } = engine;
        (bound, Self { compute, store, tiles, vectors, config, routed })
    }
}

/// Computes all targets from the same activations. Tiles are used strictly in order of use; the
/// last tile of one matrix shares a barrier with the next matrix's tile, so that small matrices
/// (a query, key and value of one tile each) cost one barrier together.
pub(crate) fn linear(
    means: &mut Means<'_>,
    x: &Activations,
    targets: &mut [Target<'_>],
) -> Result<(), Error> {
    let store = means.store;
    let mut held: ArrayVec<Option<(Tile, Bytes<'_>)>, TARGETS_MAX> = ArrayVec::new();
    for index in 0..targets.len() {
        held.push(None);
        let range = targets[index].matrix.tiles.clone();
        for at in range.clone() {
            let tile = means.tiles[at];
            let guard = store.acquire(tile.extent)?;
            held[index] = Some((tile, guard));
            if at + 1 < range.end {
                flush(means, x, targets, &mut held)?;
            }
        }
    }
    flush(means, x, targets, &mut held)
}

fn flush(
    means: &mut Means<'_>,
    x: &Activations,
    targets: &mut [Target<'_>],
    held: &mut [Option<(Tile, Bytes<'_>)>],
) -> Result<(), Error> {
    let mut jobs: ArrayVec<MatmulJob<'_>, TARGETS_MAX> = ArrayVec::new();
    for (target, held) in targets.iter_mut().zip(held.iter()) {
        if let Some((tile, guard)) = held {
            jobs.push(MatmulJob {
                format: target.matrix.format,
                weights: guard,
                rows: tile.rows,
                k: target.matrix.columns,
                x,
                out: &mut *target.out,
                out_stride: target.matrix.rows,
                out_row0: tile.first_row,
            });
        }
    }
    matmul(means.compute, &mut jobs)?;
    drop(jobs);
    for slot in held {
        *slot = None;
    }
    Ok(())
}
