//! Gated feed-forward blocks: `down(activation(gate(x), up(x)))`.

use lowtide_kernels::compute::Compute;
use lowtide_kernels::elementwise;
use lowtide_kernels::quantize::Activations;
use lowtide_model::Activation;

use crate::bind::{Gated, Vector};
use crate::error::Error;
use crate::forward::floats;
use crate::linear::{Means, Target, linear};

/// `gate = activation(gate(x), up(x))`, both `[token][width of the block]`.
pub(crate) fn gate_and_up(
    means: &mut Means<'_>,
    block: &Gated,
    x: &Activations,
    gate: &mut [f32],
    up: &mut [f32],
) -> Result<(), Error> {
    linear(
        means,
        x,
        &mut [Target { matrix: &block.gate, out: gate }, Target { matrix: &block.up, out: up }],
    )?;
    add_bias(means.vectors, block.gate_bias, gate);
    add_bias(means.vectors, block.up_bias, up);
    activate(means.compute, means.config.family.activation, gate, up)
}

/// The last product of the block.
pub(crate) fn down(
    means: &mut Means<'_>,
    block: &Gated,
    x: &Activations,
    out: &mut [f32],
) -> Result<(), Error> {
    linear(means, x, &mut [Target { matrix: &block.down, out }])?;
    add_bias(means.vectors, block.down_bias, out);
    Ok(())
}

/// `gate = activation(gate, up)`, item by item.
pub(crate) fn activate(
    compute: &Compute,
    activation: Activation,
    gate: &mut [f32],
    up: &[f32],
) -> Result<(), Error> {
    match activation {
        Activation::Silu => elementwise::silu_mul(compute, gate, up)?,
        Activation::GeluTanh => elementwise::gelu_tanh_mul(compute, gate, up)?,
        Activation::SwigluClamped => elementwise::swiglu_clamped(compute, gate, up)?,
    }
    Ok(())
}

/// Adds a bias, where there is one, to each token's row.
pub(crate) fn add_bias(vectors: &[f32], bias: Option<Vector>, out: &mut [f32]) {
    if let Some(bias) = bias {
        add_row(floats(vectors, bias), out);
    }
}

/// Adds `row` to each row of `out`.
pub(crate) fn add_row(row: &[f32], out: &mut [f32]) {
    for out in out.chunks_exact_mut(row.len()) {
        out.iter_mut().zip(row).for_each(|(value, b)| *value += b);
    }
}
