//! Routers that prefer some experts: what a live run needs to show skewed traffic.
//!
//! Random weights route almost uniformly. Here each token carries a mark: a column of its embedding, one for
//! each topic, holds a value as large as all the others together, as the massive activations of trained models
//! do. It stays in the residual stream through all layers, and so works in each router as a bias of its experts:
//! the one of rank `r` gets `-exponent * ln(r)`. The rest of the input gives scores with the spread of a Gumbel
//! distribution, and the largest of those sums are draws from Zipf's law without putting back. With more than
//! one topic, each has its own order of experts, and the output matrix prefers tokens of the topic at hand, so
//! that a text stays with it.
//!
//! It holds to within some tens of percent: how much layers add to the stream is estimated. What a run did is
//! in its trace.

use super::blocks::put_f16;
use super::rng::Rng;
use super::shape::Shape;
use super::tensors::TensorSpec;

/// How unevenly experts are used.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct Skew {
    /// Exponent of Zipf's law.
    pub exponent: f32,
    /// Topics, each with its own favourites: token ids are divided among them in equal runs.
    pub topics: u64,
}

/// As many topics as one block of the embedding has columns to spare.
pub(super) const TOPICS_MAX: u64 = 16;

/// What is written over a tensor's first columns.
#[derive(Copy, Clone, PartialEq, Debug)]
pub enum Mark {
    /// Rows are tokens: this value in the column of their topic, nothing in those of the others.
    Tokens {
        /// Topics.
        topics: u64,
        /// The value.
        value: f32,
    },
    /// Rows are experts: what makes the mark a bias.
    Experts {
        /// The skew.
        skew: Skew,
        /// What the mark is in the router's input.
        signal: f32,
        /// The layer.
        layer: u64,
    },
}

/// Standard deviation of a Gumbel distribution.
const GUMBEL_STD: f32 = 1.282_55;
/// A token of the topic at hand is likelier by a factor of about `exp` of this.
const TOPIC_LOGITS: f32 = 7.0;
/// What a layer adds to the stream's variance, where embeddings have 1.
const LAYER_VARIANCE: f32 = 0.4;

/// The mark in the embedding: its square is all others' sum.
pub(super) fn token_value(shape: &Shape) -> f32 {
    (shape.embedding as f32).sqrt()
}

/// The mark in the normed input of a layer, and the share of that input's power that is not the mark.
pub(super) fn signal(shape: &Shape, layer: u64) -> (f32, f32) {
    let variance = 2.0 + LAYER_VARIANCE * layer as f32;
    (token_value(shape) / variance.sqrt(), 1.0 - 1.0 / variance)
}

/// The gain of a router's random part.
pub(super) fn router_gain(shape: &Shape, layer: u64) -> f32 {
    GUMBEL_STD / signal(shape, layer).1.sqrt()
}

/// The mark in the output matrix.
pub(super) fn head_value(shape: &Shape) -> f32 {
    TOPIC_LOGITS / signal(shape, shape.layers).0
}

/// Writes the marks that lie in `data`, which is the tensor's from byte `start` on, in whole blocks. `std` is
/// that of the other columns.
pub(super) fn write(
    mark: Mark,
    tensor: &TensorSpec,
    std: f32,
    (seed, start): (u64, u64),
    data: &mut [u8],
) {
    let Some(layout) = tensor.ty.layout() else { return };
    let row_bytes = tensor.dims[0] / layout.len * layout.bytes;
    let rows = tensor.dims[1];
    let end = start + data.len() as u64;
    // The piece has a few megabytes.
    let place = |at: u64| {
        let at = usize::try_from(at.checked_sub(start)?).ok()?;
        Some(at..at + layout.bytes as usize)
    };
    for row in start / row_bytes..rows.min(end.div_ceil(row_bytes)) {
        match mark {
            Mark::Tokens { topics, value } => {
                let mut rng = Rng::of(&[seed, 0x746f_6b65, row]);
                if let Some(block) = place(row * row_bytes).and_then(|at| data.get_mut(at)) {
                    mark_token(row * topics / rows, topics, value, std, &mut rng, block);
                }
            }
            Mark::Experts { skew, signal, layer } => {
                for topic in 0..skew.topics {
                    let bias = bias(skew.exponent, rank(seed, layer, topic, row, rows), rows);
                    let at = place(row * row_bytes + topic * layout.bytes);
                    if let Some(value) = at.and_then(|at| data.get_mut(at)) {
                        value.copy_from_slice(&(bias / signal).to_le_bytes());
                    }
                }
            }
        }
    }
}

/// The first block of a row of `Q8_0`.
fn mark_token(own: u64, topics: u64, value: f32, std: f32, rng: &mut Rng, block: &mut [u8]) {
    let mut values = [0.0; 32];
    for (column, v) in (0..).zip(&mut values) {
        *v = match column {
            c if c == own => value,
            c if c < topics => 0.0,
            _ => std * rng.normal(),
        };
    }
    let largest = values.iter().fold(0.0f32, |most, v| most.max(v.abs()));
    let d = (largest / 126.0).max(f32::MIN_POSITIVE);
    put_f16(&mut block[..2], d);
    for (code, v) in block[2..].iter_mut().zip(values) {
        *code = (v / d).round_ties_even().clamp(-126.0, 126.0) as i8 as u8;
    }
}

/// The logarithm of Zipf's weight, less its mean over all ranks.
fn bias(exponent: f32, rank: u64, experts: u64) -> f32 {
    let log = |rank: u64| ((rank + 1) as f32).ln();
    let mean = (0..experts).map(log).sum::<f32>() / experts as f32;
    exponent * (mean - log(rank))
}

/// An expert's place among its layer's favourites of a topic: a permutation of all experts.
fn rank(seed: u64, layer: u64, topic: u64, expert: u64, experts: u64) -> u64 {
    let key = |expert: u64| (Rng::of(&[seed, 0x736b_6577, layer, topic, expert]).next(), expert);
    let own = key(expert);
    (0..experts).filter(|&other| key(other) < own).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_permutations_that_differ() {
        let order =
            |layer, topic| (0..64).map(|e| rank(3, layer, topic, e, 64)).collect::<Vec<_>>();
        let mut sorted = order(0, 0);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..64).collect::<Vec<_>>());
        assert!(order(0, 0) != order(1, 0) && order(0, 0) != order(0, 1));
    }

    #[test]
    fn biases_are_zipfs_logarithms_around_0() {
        let all: Vec<f32> = (0..128).map(|rank| bias(1.0, rank, 128)).collect();
        assert!(all.iter().sum::<f32>().abs() < 1e-3);
        assert!((all[0] - all[9] - 10f32.ln()).abs() < 1e-5, "{all:?}");
    }
}
