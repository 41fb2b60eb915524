//! Cuts matrices into tiles, in the order in which a pass uses them.

use std::ops::Range;

use lowtide_kernels::quantize::Keep;
use lowtide_residency::{ExtentId, Extents, PlanError, Use, tile_rows};

use super::locate::length;
use super::{Attention, Bound, Experts, FeedForward, Gated, LatentQuery, Layer, Matrix, Slices};

/// Rows of one matrix that come in together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tile {
    pub extent: ExtentId,
    pub first_row: usize,
    pub rows: usize,
}

/// All matrices of a model cut into tiles.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tiling {
    pub extents: Extents,
    pub tiles: Vec<Tile>,
}

impl Bound {
    /// Cuts every matrix that a pass reads whole into tiles of about `tile_bytes`, in order of use;
    /// a layer's experts, of which a token uses `used`, follow what all of its tokens use. An embedding that is
    /// not the output matrix too is only looked up.
    ///
    /// # Errors
    /// A range that no file can hold; the parser has excluded that.
    pub(crate) fn cut(&mut self, tile_bytes: u64, used: u32) -> Result<Tiling, PlanError> {
        let mut tiling = Tiling::default();
        let embedding = &self.embedding;
        if (embedding.source, embedding.offset) != (self.output.source, self.output.offset) {
            let bytes = (embedding.rows * embedding.row_bytes) as u64;
            tiling.extents.push(embedding.source, embedding.offset, bytes, Use::Lookup)?;
        }
        let mut expert_layers = 0;
        for layer in &mut self.layers {
            for (matrix, _) in layer.trunk() {
                tiling.cut(matrix, tile_bytes)?;
            }
            if let FeedForward::Experts(experts) = &mut layer.ffn {
                tiling.push_experts(experts, expert_layers, used)?;
                expert_layers += 1;
            }
        }
        tiling.cut(&mut self.output, tile_bytes)?;
        Ok(tiling)
    }
}

impl Tiling {
    fn cut(&mut self, matrix: &mut Matrix, tile_bytes: u64) -> Result<(), PlanError> {
        let first = self.tiles.len();
        let row_bytes = matrix.row_bytes as u64;
        let unit = matrix.unit_rows as u64;
        if unit == 1 {
            for rows in tile_rows(matrix.rows as u64, row_bytes, tile_bytes) {
                self.push(matrix, rows)?;
            }
        } else {
            let units_per_tile = (tile_bytes / (unit * row_bytes)).max(1);
            let mut start = 0;
            while start < matrix.rows as u64 {
                let end = (start + units_per_tile * unit).min(matrix.rows as u64);
                self.push(matrix, start..end)?;
                start = end;
            }
        }
        matrix.tiles = first..self.tiles.len();
        Ok(())
    }

    fn push(&mut self, matrix: &Matrix, rows: Range<u64>) -> Result<(), PlanError> {
        let row_bytes = matrix.row_bytes as u64;
        let offset = matrix.offset + rows.start * row_bytes;
        let bytes = (rows.end - rows.start) * row_bytes;
        let extent = self.extents.push(matrix.source, offset, bytes, Use::Tile)?;
        let (first_row, end) = (length(rows.start), length(rows.end));
        self.tiles.push(Tile { extent, first_row, rows: end - first_row });
        Ok(())
    }

    fn push_experts(
        &mut self,
        experts: &mut Experts,
        layer: u32,
        used: u32,
    ) -> Result<(), PlanError> {
        let count = experts.router.rows as u64;
        let slices = [experts.gate, experts.up, experts.down];
        let slice = |slices: Slices, expert: u64| {
            (slices.source, slices.offset + expert * slices.stride, slices.bytes)
        };
        let mut push = |expert| {
            self.extents.push_unit(layer, used, slices.map(|slices| slice(slices, expert)))
        };
        experts.units = (0..count).map(&mut push).collect::<Result<_, _>>()?;
        Ok(())
    }
}

/// What products with some matrices need of activations.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keeps {
    /// The matrices of the trunk and of the experts.
    pub weights: Keep,
    /// The routers: mostly floats where all else is blocks, so they have activations of their own.
    pub routers: Keep,
}

impl Keeps {
    pub(super) fn of(layers: &mut [Layer], output: &Matrix) -> Self {
        let (mut weights, mut routers) = (vec![output.format], Vec::new());
        for layer in layers {
            if let FeedForward::Experts(e) = &layer.ffn {
                weights.extend([e.gate.format, e.up.format, e.down.format]);
            }
            for (matrix, reads) in layer.trunk() {
                match reads {
                    Reads::Activations => weights.push(matrix.format),
                    Reads::RouterInput => routers.push(matrix.format),
                }
            }
        }
        Self { weights: Keep::for_formats(weights), routers: Keep::for_formats(routers) }
    }
}

/// Which activations a matrix is multiplied with.
enum Reads {
    Activations,
    RouterInput,
}

impl Layer {
    /// The matrices that all tokens use, in order of use.
    fn trunk(&mut self) -> Vec<(&mut Matrix, Reads)> {
        let mut all = match &mut self.attention {
            Attention::Heads(p) => vec![&mut p.q, &mut p.k, &mut p.v],
            Attention::Latent(p) => {
                let (first, high) = match &mut p.query {
                    LatentQuery::Direct(q) => (q, None),
                    LatentQuery::LowRank { low, high, .. } => (low, Some(high)),
                };
                let mut all = vec![first, &mut p.kept];
                all.extend(high);
                all.extend([&mut p.key_heads, &mut p.value_heads]);
                all
            }
        };
        all.push(&mut self.attn_out);
        let mut trunk: Vec<_> = all.into_iter().map(|m| (m, Reads::Activations)).collect();
        let gated = match &mut self.ffn {
            FeedForward::Dense(gated) => Some(&mut **gated),
            FeedForward::Experts(experts) => {
                let Experts { router, shared_router, shared, .. } = &mut **experts;
                trunk.push((router, Reads::RouterInput));
                trunk.extend(shared_router.iter_mut().map(|m| (m, Reads::RouterInput)));
                shared.as_mut()
            }
        };
        if let Some(Gated { gate, up, down, .. }) = gated {
            trunk.extend([gate, up, down].map(|m| (m, Reads::Activations)));
        }
        trunk
    }
}
