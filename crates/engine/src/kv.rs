//! The KV cache: keys and values of every position so far, one buffer a layer. Claimed in full up
//! front and touched as positions fill, so that a long `--ctx` is charged when it is used (the
//! budget counts all of it). A layer with a sliding window keeps a ring of the window and a batch:
//! older positions are never looked at again.

use lowtide_kernels::attention::{KvFormat, KvLayout, TILE_POSITIONS};
use lowtide_model::ModelConfig;

use crate::error::Error;
use crate::forward::usize_of;

/// The layout of every layer's cache.
pub(crate) fn layout(config: &ModelConfig, format: KvFormat) -> Result<KvLayout, Error> {
    let (heads, key, value) = (config.kv_heads, config.key_length, config.value_length);
    Ok(KvLayout::new(format, usize_of(heads), usize_of(key), usize_of(value))?)
}

/// Positions that layer `index` keeps: all, or its window and one batch, in whole tiles (one more,
/// for both ends may lie inside a tile).
fn positions(config: &ModelConfig, index: usize, context: usize, batch: usize) -> usize {
    match config.sliding_window {
        Some(window) if config.sliding_layers[index] => {
            let ring = (window as usize + batch).next_multiple_of(TILE_POSITIONS) + TILE_POSITIONS;
            ring.min(context)
        }
        _ => context,
    }
}

/// Bytes all layers' caches take.
pub(crate) fn bytes(
    config: &ModelConfig,
    format: KvFormat,
    context: usize,
    batch: usize,
) -> Result<u64, Error> {
    let layout = layout(config, format)?;
    let layer =
        |index| layout.bytes(positions(config, index, context, batch)).unwrap_or(usize::MAX);
    Ok((0..config.layers as usize).fold(0u64, |sum, i| sum.saturating_add(layer(i) as u64)))
}

/// All layers' keys and values.
#[derive(Debug)]
pub(crate) struct KvCache {
    pub layout: KvLayout,
    pub context: usize,
    pub layers: Vec<Vec<u8>>,
}

impl KvCache {
    pub(crate) fn new(
        config: &ModelConfig,
        format: KvFormat,
        context: usize,
        batch: usize,
    ) -> Result<Self, Error> {
        let layout = layout(config, format)?;
        let layers = (0..config.layers as usize)
            .map(|index| {
                let bytes = layout.bytes(positions(config, index, context, batch));
                // `vec![0; n]` asks the allocator for zeroed pages: none is touched here. The plan
                // has counted them all, so the figure is below the budget.
                vec![0; bytes.unwrap_or(0)]
            })
            .collect();
        Ok(Self { layout, context, layers })
    }
}
