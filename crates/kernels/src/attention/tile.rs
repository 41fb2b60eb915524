//! A tile of cached keys or values as f32 panels, for when several blocks of queries use it.
//!
//! f16 to f32 is exact, and so is q8_0: code (8 bits) times scale (11 bits) fits f32's 24 bits. So
//! what the widened tile holds is what the direct path computes in registers.
//!
//! `ahead` says how many bytes after each row the cache is asked for more: what will be read next.

use std::ops::Range;

use crate::half::f16_to_f32;
use crate::simd::{Array, LANES, Simd};

use super::layout::{KvFormat, KvLayout, SCALE_DIMS, TILE_POSITIONS};

/// Widens panels of one head's keys: `out[panel][dim]`.
#[inline(always)]
pub(super) fn widen_keys<S: Simd>(
    s: S,
    layout: &KvLayout,
    bytes: &[u8],
    panels: Range<usize>,
    ahead: usize,
    out: &mut [Array],
) {
    let (dims, panel_bytes) = (layout.key_dim(), layout.key_panel_bytes());
    let chosen = panels.start * panel_bytes..panels.end * panel_bytes;
    let out = &mut out[panels.start * dims..panels.end * dims];
    for (out, bytes) in out.chunks_exact_mut(dims).zip(bytes[chosen].chunks_exact(panel_bytes)) {
        match layout.format() {
            KvFormat::F16 => widen_rows(s, bytes, ahead, out),
            KvFormat::Q8_0 => widen_key_panel_q8(s, layout.key_scales(), bytes, ahead, out),
        }
    }
}

/// Widens the positions of one head's values: `out[panel][position]`.
#[inline(always)]
pub(super) fn widen_values<S: Simd>(
    s: S,
    layout: &KvLayout,
    bytes: &[u8],
    positions: Range<usize>,
    ahead: usize,
    out: &mut [Array],
) {
    let out = out[..layout.value_panels() * TILE_POSITIONS].chunks_exact_mut(TILE_POSITIONS);
    match layout.format() {
        KvFormat::F16 => {
            for (out, panel) in out.zip(bytes.chunks_exact(2 * LANES * TILE_POSITIONS)) {
                let rows = &panel[2 * LANES * positions.start..2 * LANES * positions.end];
                widen_rows(s, rows, ahead, &mut out[positions.clone()]);
            }
        }
        KvFormat::Q8_0 => {
            let block_bytes = (SCALE_DIMS + 2) * TILE_POSITIONS;
            for (index, out) in out.enumerate() {
                let block = &bytes[index / 2 * block_bytes..][..block_bytes];
                let (scales, panels) = block.split_at(2 * TILE_POSITIONS);
                let panel = &panels[index % 2 * LANES * TILE_POSITIONS..];
                let scales = &scales.as_chunks::<2>().0[positions.clone()];
                let rows = &panel.as_chunks::<LANES>().0[positions.clone()];
                for ((out, row), scale) in out[positions.clone()].iter_mut().zip(rows).zip(scales) {
                    s.prefetch(row.as_ptr().wrapping_add(ahead));
                    let scale = s.splat(f16_to_f32(u16::from_le_bytes(*scale)));
                    s.store(s.mul(s.load_i8(row), scale), out);
                }
            }
        }
    }
}

#[inline(always)]
fn widen_rows<S: Simd>(s: S, bytes: &[u8], ahead: usize, out: &mut [Array]) {
    for (out, row) in out.iter_mut().zip(bytes.as_chunks::<{ 2 * LANES }>().0) {
        s.prefetch(row.as_ptr().wrapping_add(ahead));
        s.store(s.load_f16(row), out);
    }
}

#[inline(always)]
fn widen_key_panel_q8<S: Simd>(s: S, scales: usize, bytes: &[u8], ahead: usize, out: &mut [Array]) {
    let (codes, scales) = bytes.split_at(bytes.len() - scales * 2 * LANES);
    let codes = codes.chunks_exact(SCALE_DIMS * LANES);
    let blocks = codes.zip(scales.as_chunks::<{ 2 * LANES }>().0);
    for (out, (codes, scales)) in out.chunks_mut(SCALE_DIMS).zip(blocks) {
        let scales = s.load_f16(scales);
        for (out, codes) in out.iter_mut().zip(codes.as_chunks::<LANES>().0) {
            s.prefetch(codes.as_ptr().wrapping_add(ahead));
            s.store(s.mul(s.load_i8(codes), scales), out);
        }
    }
}
