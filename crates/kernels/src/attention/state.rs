//! What a query has gathered so far: the largest score, the sum of weights, the weighted values.
//!
//! # The order of every sum
//! Time is cut at fixed positions into tiles (64) and chunks of tiles (256). For one query row:
//! 1. within a tile, scores are dot products in the order of dimensions; weights are
//!    `2^(score - largest so far)`, scores having been multiplied by log2 e beforehand;
//! 2. within a chunk, tiles follow one another: what was gathered is multiplied by
//!    `2^(old largest - new largest)`, weights are added to 16 partial sums (lane j takes positions
//!    j mod 16), values to the outputs in the order of positions;
//! 3. chunks are gathered from nothing each, and merged in their order.
//!
//! Positions that a query does not see take no part at all. None of this depends on how many
//! queries, threads or chunks are worked on at a time, so neither do the bits.

use std::ops::Range;

use crate::math::{exp2_nonpositive, exp2_nonpositive_one, tanh};
use crate::simd::{Array, LANES, Simd, sum_lanes};

use super::layout::{TILE_PANELS, TILE_POSITIONS};

/// Arrays of a row's state before its outputs: the largest score (in all lanes), partial sums.
pub(super) const HEADER: usize = 2;

/// Makes a row's state empty.
#[inline(always)]
pub(super) fn clear(row: &mut [Array]) {
    row.fill([0.0; LANES]);
    row[0] = [f32::NEG_INFINITY; LANES];
}

/// Whether nothing has been gathered since [`clear`]. The sum of weights is positive (or NaN)
/// otherwise: the largest score's weight is 1.
#[inline(always)]
fn is_empty(row: &[Array]) -> bool {
    row[1] == [0.0; LANES]
}

/// Turns a row's scores of one tile into weights, in place, and returns the factor by which its
/// gathered outputs must be multiplied. `seen` are the positions (of the tile) that the query sees;
/// the weights of others are 0.
#[inline(always)]
pub(super) fn weigh<S: Simd>(
    s: S,
    scores: &mut [Array; TILE_PANELS],
    seen: Range<usize>,
    cap: Option<f32>,
    header: &mut [Array; HEADER],
) -> f32 {
    if let Some(cap) = cap {
        for scores in scores.iter_mut() {
            let capped = s.mul(tanh(s, s.load(scores)), s.splat(cap));
            s.store(capped, scores);
        }
    }
    let partial = seen != (0..TILE_POSITIONS);
    if partial {
        let flat = scores.as_flattened_mut();
        flat[..seen.start].fill(f32::NEG_INFINITY);
        flat[seen.end..].fill(f32::NEG_INFINITY);
    }
    let mut x = [s.zero(); TILE_PANELS];
    for (x, scores) in x.iter_mut().zip(scores.iter()) {
        *x = s.load(scores);
    }
    let pairs = s.max(s.max(x[0], x[1]), s.max(x[2], x[3]));
    let old = header[0][0];
    let largest = max_lanes(&s.to_array(pairs));
    let largest = if old > largest { old } else { largest };
    let factor = exp2_nonpositive_one(old - largest);
    let largest = s.splat(largest);
    let mut weights = x;
    for weight in &mut weights {
        *weight = exp2_nonpositive(s, s.sub(*weight, largest));
    }
    if partial {
        let lowest = s.splat(f32::MIN);
        for (weight, x) in weights.iter_mut().zip(x) {
            *weight = s.select_less(x, lowest, s.zero(), *weight);
        }
    }
    let sum = s.add(s.add(weights[0], weights[1]), s.add(weights[2], weights[3]));
    let sums = s.fma(s.load(&header[1]), s.splat(factor), sum);
    s.store(largest, &mut header[0]);
    s.store(sums, &mut header[1]);
    for (to, weights) in scores.iter_mut().zip(weights) {
        s.store(weights, to);
    }
    factor
}

/// The largest lane. A NaN may be lost here; its weight is NaN all the same.
#[inline(always)]
fn max_lanes(x: &Array) -> f32 {
    let mut x = *x;
    let mut half = LANES / 2;
    while half != 0 {
        for j in 0..half {
            x[j] = if x[j] > x[j + half] { x[j] } else { x[j + half] };
        }
        half /= 2;
    }
    x[0]
}

/// Adds a chunk's state to what earlier chunks have gathered.
#[inline(always)]
pub(super) fn merge<S: Simd>(s: S, total: &mut [Array], chunk: &[Array]) {
    if is_empty(chunk) {
        return;
    }
    if is_empty(total) {
        total.copy_from_slice(chunk);
        return;
    }
    let (old, new) = (total[0][0], chunk[0][0]);
    let largest = if old > new { old } else { new };
    let old_factor = s.splat(exp2_nonpositive_one(old - largest));
    let new_factor = s.splat(exp2_nonpositive_one(new - largest));
    for (total, chunk) in total[1..].iter_mut().zip(&chunk[1..]) {
        let kept = s.mul(s.load(total), old_factor);
        s.store(s.fma(s.load(chunk), new_factor, kept), total);
    }
    total[0] = [largest; LANES];
}

/// Writes a row's output: gathered values divided by the sum of weights. `sink` is the score
/// (times log2 e) of a place that takes weight and gives nothing.
#[inline(always)]
pub(super) fn finish<S: Simd>(s: S, total: &[Array], sink: Option<f32>, out: &mut [f32]) {
    let sum = sum_lanes(&total[1]);
    let factor = match sink {
        None => 1.0 / sum,
        Some(sink) => {
            let old = total[0][0];
            let largest = if old > sink { old } else { sink };
            let kept = exp2_nonpositive_one(old - largest);
            kept / sum.mul_add(kept, exp2_nonpositive_one(sink - largest))
        }
    };
    let (chunks, rest) = out.as_chunks_mut::<LANES>();
    let values = &total[HEADER..];
    for (out, value) in chunks.iter_mut().zip(values) {
        s.store(s.mul(s.load(value), s.splat(factor)), out);
    }
    if let Some(value) = values.get(chunks.len()) {
        for (out, value) in rest.iter_mut().zip(value) {
            *out = value * factor;
        }
    }
}
