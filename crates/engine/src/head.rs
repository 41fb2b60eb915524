//! From the last layer's output to logits: norm, output matrix, soft cap. Rows of logits are large
//! (262,144 tokens: 1 MiB), so a session holds few of them and the batches that want many are cut
//! to that number.

use std::ops::Range;

use lowtide_kernels::{elementwise, norm};

use crate::engine::Engine;
use crate::error::Error;
use crate::forward::{floats, scale};
use crate::linear::{Means, Target, linear};
use crate::scratch::Scratch;
use crate::session::LogitsSink;

/// Computes the logits of the tokens `wanted` of the batch whose output lies in `scratch.x`, at
/// most `scratch.logit_rows` of them, and hands each row to `sink`.
pub(crate) fn logits(
    engine: &mut Engine,
    scratch: &mut Scratch,
    wanted: Range<usize>,
    sink: &mut LogitsSink<'_>,
) -> Result<(), Error> {
    project(engine, scratch, wanted.start * engine.width(), wanted.len())?;
    let vocabulary = engine.vocabulary_length();
    let rows = scratch.logits[..wanted.len() * vocabulary].chunks_exact(vocabulary);
    for (token, row) in wanted.zip(rows) {
        sink(token, row);
    }
    Ok(())
}

fn project(engine: &mut Engine, s: &mut Scratch, at: usize, n: usize) -> Result<(), Error> {
    let width = engine.width();
    engine.load_output_norm()?;
    let (bound, mut means) = Means::of(engine);
    let x = &s.x[at..at + n * width];
    let normed = &mut s.normed[..n * width];
    let weight = floats(means.vectors, bound.output_norm);
    norm::rms_norm(means.compute, x, weight, means.config.norm_epsilon, normed)?;
    s.activations.set(means.compute, normed, width, n)?;
    let out = &mut s.logits[..n * bound.output.rows];
    linear(&mut means, &s.activations, &mut [Target { matrix: &bound.output, out }])?;
    scale(means.compute, out, means.config.logit_scale);
    if let Some(cap) = means.config.logit_softcap {
        elementwise::softcap(means.compute, out, cap);
    }
    Ok(())
}

/// Norms the last layer's output of `n` tokens and hands each row to `sink`.
pub(crate) fn hidden(
    engine: &mut Engine,
    s: &mut Scratch,
    n: usize,
    sink: &mut LogitsSink<'_>,
) -> Result<(), Error> {
    let width = engine.width();
    engine.load_output_norm()?;
    let weight = floats(&engine.vectors, engine.bound.output_norm);
    let normed = &mut s.normed[..n * width];
    let epsilon = engine.config.norm_epsilon;
    norm::rms_norm(&engine.compute, &s.x[..n * width], weight, epsilon, normed)?;
    for (token, row) in normed.chunks_exact(width).enumerate() {
        sink(token, row);
    }
    Ok(())
}
