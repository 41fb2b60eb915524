//! Writing keys and values into a cache, and reading them back one position at a time.

use crate::compute::Compute;
use crate::disjoint::Disjoint;
use crate::half::{f16_to_f32, f32_to_f16, f32_to_f16_slice};
use crate::isa::Isa;
use crate::shape::ShapeError;
use crate::simd::{LANES, Scalar};

use super::layout::{HEAD_DIM_MAX, KvFormat, KvLayout, SCALE_DIMS, TILE_PANELS, TILE_POSITIONS};

/// Stores the keys and values of consecutive tokens, the first at `first_position`.
///
/// `keys` is `[token][kv head * key_dim]`, `values` `[token][kv head * value_dim]`; `cache` is one
/// layer's, [`KvLayout::bytes`] long. Positions beyond its end go round (see
/// [`layout`](super::KvLayout)): it is the caller's business not to overwrite what is still visible.
///
/// # Errors
/// [`ShapeError`] if the slices do not fit each other, or the tokens are more than the cache holds.
pub fn kv_store(
    compute: &Compute,
    layout: &KvLayout,
    cache: &mut [u8],
    first_position: usize,
    keys: &[f32],
    values: &[f32],
) -> Result<(), ShapeError> {
    let tiles = layout.tiles(cache.len())?;
    let key_row = layout.kv_heads() * layout.key_dim();
    let value_row = layout.kv_heads() * layout.value_dim();
    let tokens = ShapeError::rows("keys", keys.len(), key_row)?;
    ShapeError::length("values", tokens.saturating_mul(value_row), values.len())?;
    let end = first_position.saturating_add(tokens);
    let (first_tile, end_tile) = (first_position / TILE_POSITIONS, end.div_ceil(TILE_POSITIONS));
    if end_tile - first_tile > tiles {
        let capacity = tiles * TILE_POSITIONS;
        return Err(ShapeError::Capacity { first: first_position, end, capacity });
    }
    let isa = compute.isa();
    let tile_bytes = layout.tile_bytes();
    let cache = Disjoint::new(cache);
    compute.pool().run(end_tile - first_tile, &|chunk, _| {
        let index = first_tile + chunk;
        let start = index % tiles * tile_bytes;
        // SAFETY: the tiles are at most as many as the cache has, so each is one chunk's.
        let tile = unsafe { cache.part(start..start + tile_bytes) };
        let from = first_position.max(index * TILE_POSITIONS);
        let to = end.min((index + 1) * TILE_POSITIONS);
        for position in from..to {
            let token = position - first_position;
            let keys = &keys[token * key_row..][..key_row];
            let values = &values[token * value_row..][..value_row];
            store_position(isa, layout, tile, position % TILE_POSITIONS, keys, values);
        }
    });
    Ok(())
}

fn store_position(
    isa: Isa,
    layout: &KvLayout,
    tile: &mut [u8],
    slot: usize,
    keys: &[f32],
    values: &[f32],
) {
    let keys = keys.chunks_exact(layout.key_dim());
    let values = values.chunks_exact(layout.value_dim());
    for ((head, key), value) in tile.chunks_exact_mut(layout.head_bytes()).zip(keys).zip(values) {
        let (key_bytes, value_bytes) = head.split_at_mut(layout.key_bytes());
        let panel_bytes = layout.key_panel_bytes();
        let panel = &mut key_bytes[slot / LANES * panel_bytes..][..panel_bytes];
        match layout.format() {
            KvFormat::F16 => {
                let mut bits = [0_u16; HEAD_DIM_MAX];
                f32_to_f16_slice(isa, key, &mut bits[..key.len()]);
                store_key_f16(panel, slot % LANES, &bits[..key.len()]);
                let padded = layout.value_panels() * LANES;
                f32_to_f16_slice(isa, value, &mut bits[..value.len()]);
                bits[value.len()..padded].fill(0);
                store_value_f16(value_bytes, slot, &bits[..padded]);
            }
            KvFormat::Q8_0 => {
                store_key_q8(panel, slot % LANES, key);
                store_value_q8(value_bytes, slot, value);
            }
        }
    }
}

fn store_key_f16(panel: &mut [u8], lane: usize, bits: &[u16]) {
    let rows = panel.as_chunks_mut::<{ 2 * LANES }>().0;
    for (row, bits) in rows.iter_mut().zip(bits) {
        row[2 * lane..2 * lane + 2].copy_from_slice(&bits.to_le_bytes());
    }
}

fn store_value_f16(bytes: &mut [u8], slot: usize, bits: &[u16]) {
    let panels = bytes.chunks_exact_mut(2 * LANES * TILE_POSITIONS);
    for (panel, bits) in panels.zip(bits.as_chunks::<LANES>().0) {
        let row = &mut panel[slot * 2 * LANES..][..2 * LANES];
        for (to, bits) in row.as_chunks_mut::<2>().0.iter_mut().zip(bits) {
            *to = bits.to_le_bytes();
        }
    }
}

/// The scale (f16 bits) and codes of up to 32 numbers.
///
/// Codes are relative to the scale as it is stored, so rounding the scale costs nothing. A block
/// with an infinity or NaN gets an infinite or NaN scale and so reads back as NaN: broken
/// activations stay visible.
fn quantise(x: &[f32]) -> (u16, [i8; SCALE_DIMS]) {
    let mut largest = 0.0_f32;
    for x in x {
        // `max` would drop a NaN.
        largest = if largest >= x.abs() { largest } else { x.abs() };
    }
    if x.iter().any(|x| x.is_nan()) {
        largest = f32::NAN;
    }
    let bits = f32_to_f16(largest / 127.0);
    let scale = f16_to_f32(bits);
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    let mut codes = [0; SCALE_DIMS];
    for (code, x) in codes.iter_mut().zip(x) {
        *code = (x * inverse).round_ties_even().clamp(-127.0, 127.0) as i8;
    }
    (bits, codes)
}

fn store_key_q8(panel: &mut [u8], lane: usize, key: &[f32]) {
    let scale_bytes = key.len().div_ceil(SCALE_DIMS) * 2 * LANES;
    let (codes, scales) = panel.split_at_mut(panel.len() - scale_bytes);
    let codes = codes.as_chunks_mut::<{ SCALE_DIMS * LANES }>().0;
    let scales = scales.as_chunks_mut::<{ 2 * LANES }>().0;
    for ((codes, scales), x) in codes.iter_mut().zip(scales).zip(key.chunks(SCALE_DIMS)) {
        let (scale, block) = quantise(x);
        scales[2 * lane..2 * lane + 2].copy_from_slice(&scale.to_le_bytes());
        for (row, code) in codes.as_chunks_mut::<LANES>().0.iter_mut().zip(block) {
            row[lane] = code.cast_unsigned();
        }
    }
}

fn store_value_q8(bytes: &mut [u8], slot: usize, value: &[f32]) {
    let blocks = bytes.chunks_exact_mut((SCALE_DIMS + 2) * TILE_POSITIONS);
    for (block, x) in blocks.zip(value.chunks(SCALE_DIMS)) {
        let (scale, codes) = quantise(x);
        let (scales, panels) = block.split_at_mut(2 * TILE_POSITIONS);
        scales[2 * slot..2 * slot + 2].copy_from_slice(&scale.to_le_bytes());
        let panels = panels.chunks_exact_mut(LANES * TILE_POSITIONS);
        for (panel, codes) in panels.zip(codes.as_chunks::<LANES>().0) {
            let row = &mut panel[slot * LANES..][..LANES];
            for (to, code) in row.iter_mut().zip(codes) {
                *to = code.cast_unsigned();
            }
        }
    }
}

/// Reads one position back as f32, as attention sees it: `keys` is `[kv head * key_dim]`, `values`
/// `[kv head * value_dim]`. For tests and for copying sessions; slow.
///
/// # Errors
/// [`ShapeError`] if the slices do not fit the layout.
pub fn kv_load(
    layout: &KvLayout,
    cache: &[u8],
    position: usize,
    keys: &mut [f32],
    values: &mut [f32],
) -> Result<(), ShapeError> {
    let tiles = layout.tiles(cache.len())?;
    ShapeError::length("keys", layout.kv_heads() * layout.key_dim(), keys.len())?;
    ShapeError::length("values", layout.kv_heads() * layout.value_dim(), values.len())?;
    let (tile, slot) = (position / TILE_POSITIONS % tiles, position % TILE_POSITIONS);
    let zero = [0.0; LANES];
    let mut tile_keys = vec![zero; TILE_PANELS * layout.key_dim()];
    let mut tile_values = vec![zero; layout.value_panels() * TILE_POSITIONS];
    let heads = keys.chunks_exact_mut(layout.key_dim());
    let heads = heads.zip(values.chunks_exact_mut(layout.value_dim()));
    for (head, (key, value)) in heads.enumerate() {
        let (key_bytes, value_bytes) = layout.head(cache, tile, head);
        super::tile::widen_keys(Scalar, layout, key_bytes, 0..TILE_PANELS, 0, &mut tile_keys);
        super::tile::widen_values(
            Scalar,
            layout,
            value_bytes,
            0..TILE_POSITIONS,
            0,
            &mut tile_values,
        );
        let panel = slot / LANES * layout.key_dim();
        for (dim, x) in key.iter_mut().enumerate() {
            *x = tile_keys[panel + dim][slot % LANES];
        }
        for (dim, x) in value.iter_mut().enumerate() {
            *x = tile_values[dim / LANES * TILE_POSITIONS + slot][dim % LANES];
        }
    }
    Ok(())
}
