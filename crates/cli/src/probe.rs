//! Short measurements of this machine: how fast memory is read, and how fast products of the kind a
//! model needs are computed.

use std::time::{Duration, Instant};

use anyhow::Result;
use lowtide_kernels::compute::Compute;
use lowtide_kernels::format::Format;
use lowtide_kernels::matmul::{MatmulJob, matmul};
use lowtide_kernels::quantize::{Activations, Keep};
use lowtide_mapping::MemoryLimits;

use crate::failure::{Failure, STATUS_RUNNING};

/// Bytes of the buffers: beyond every cache but those of the largest servers.
const BUFFER_BYTES: usize = 256 << 20;
/// Columns of a product that stands for a prompt: enough that unpacking the weights no longer counts.
const PROMPT_COLUMNS: usize = 128;
/// Values of a row where the model's own width is no whole number of blocks.
const INNER: usize = 4096;
/// A byte that is a sensible weight in every format: no format reads infinities from it.
pub const FILL: u8 = 0x11;

/// What several passes gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// A quarter of the passes were slower: other programs get in the way of some.
    pub low: f64,
    /// The fastest.
    pub high: f64,
}

impl Rate {
    fn of(passes: &[f64]) -> Self {
        let mut passes = passes.to_vec();
        passes.sort_by(f64::total_cmp);
        let at = |index: usize| passes.get(index).copied().unwrap_or(0.0);
        Self { low: at(passes.len() / 4), high: at(passes.len().saturating_sub(1)) }
    }
}

/// As much as may be taken for a moment: less where memory is short.
pub fn buffer_bytes() -> usize {
    let available = MemoryLimits::read().map_or(u64::MAX, |limits| limits.available_bytes());
    BUFFER_BYTES.min(usize::try_from(available / 8).unwrap_or(usize::MAX)).max(1 << 20)
}

/// Bytes per second that `threads` threads read from a memory of `bytes` together, over about `seconds`.
pub fn memory_bandwidth(threads: usize, bytes: usize, seconds: f64) -> Rate {
    let words = vec![1u64; bytes / 8];
    let share = words.len().div_ceil(threads.max(1));
    let budget = Duration::from_secs_f64(seconds);
    let begun = Instant::now();
    let mut passes = Vec::new();
    while passes.len() < 3 || begun.elapsed() < budget {
        let pass = Instant::now();
        std::thread::scope(|scope| {
            for part in words.chunks(share.max(1)) {
                scope.spawn(move || std::hint::black_box(sum(part)));
            }
        });
        passes.push(size_of_val(&words[..]) as f64 / pass.elapsed().as_secs_f64());
    }
    Rate::of(&passes)
}

/// Eight sums side by side, so that the adding never waits for itself.
fn sum(words: &[u64]) -> u64 {
    let mut lanes = [0u64; 8];
    let chunks = words.chunks_exact(lanes.len());
    for chunk in chunks {
        for (lane, word) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(*word);
        }
    }
    lanes.iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
}

/// Weights times columns per second with many columns, as for a prompt: rows of `width` values (a
/// model's own), in about `bytes` of memory and for about `seconds`.
pub fn prompt_products(
    compute: &mut Compute,
    format: Format,
    width: usize,
    bytes: usize,
    seconds: f64,
) -> Result<Rate> {
    let inner = if format.row_bytes(width).is_some_and(|bytes| bytes > 0) { width } else { INNER };
    let senseless = || Failure::running(format!("there are no rows of {inner} values of {format}"));
    let row_bytes = format.row_bytes(inner).ok_or_else(senseless)?;
    let rows = ((bytes / 2 / row_bytes).min(2048) / 16 * 16).max(16);
    // The values of a column are there as f32 and as what products take, and it has a result a row.
    let columns = (bytes / 2 / (2 * 4 * inner + 4 * rows)).clamp(1, PROMPT_COLUMNS);
    let weights = vec![FILL; rows * row_bytes];
    let times = passes(compute, format, (&weights, inner), columns, seconds)?;
    let work = (rows * inner * columns) as f64;
    Ok(Rate::of(&times.iter().map(|seconds| work / seconds).collect::<Vec<_>>()))
}

/// Seconds of each pass over all weights, rows of `inner` values; the first pass warms up and does not count.
fn passes(
    compute: &mut Compute,
    format: Format,
    (weights, inner): (&[u8], usize),
    cols: usize,
    seconds: f64,
) -> Result<Vec<f64>> {
    let broken =
        |error: lowtide_kernels::matmul::MatmulError| Failure::from_lines(&error, STATUS_RUNNING);
    let keep = if format.is_float() { Keep::Floats } else { Keep::Codes };
    let rows = weights.len() / format.row_bytes(inner).unwrap_or(1).max(1);
    let mut x = Activations::new(inner, cols, keep);
    let values: Vec<f32> = (0..inner * cols).map(|i| (i % 17) as f32 - 8.0).collect();
    x.set(compute, &values, inner, cols).map_err(broken)?;
    let mut out = vec![0.0; rows * cols];
    let mut times = Vec::new();
    let budget = Duration::from_secs_f64(seconds);
    let begun = Instant::now();
    while times.len() < 4 || begun.elapsed() < budget {
        let pass = Instant::now();
        let job = MatmulJob {
            format,
            weights,
            rows,
            k: inner,
            x: &x,
            out: &mut out,
            out_stride: rows,
            out_row0: 0,
        };
        matmul(compute, &mut [job]).map_err(broken)?;
        times.push(pass.elapsed().as_secs_f64());
    }
    Ok(times.split_off(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_can_be_measured_and_gives_a_rate() {
        let mut compute = Compute::new(lowtide_kernels::isa::Isa::Scalar, 1).unwrap();
        for format in [Format::Q4_0, Format::Q6_K, Format::F32] {
            let weights = vec![FILL; format.row_bytes(INNER).unwrap() * 16];
            let times = passes(&mut compute, format, (&weights, INNER), 2, 0.0).unwrap();
            assert!(times.len() == 3 && times.iter().all(|t| *t > 0.0), "{times:?}");
        }
        let rate = Rate::of(&[2.0, 1.0, 3.0]);
        assert_eq!((rate.low, rate.high), (1.0, 3.0));
        let rate = Rate::of(&[4.0, 2.0, 3.0, 1.0]);
        assert_eq!((rate.low, rate.high), (2.0, 4.0));
        assert_eq!(sum(&vec![3; 800]), 2400);
    }
}
