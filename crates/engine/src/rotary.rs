//! The rotary tables a configuration asks for.

use lowtide_kernels::rope::{RopeScaling as Stretch, RopeTable, inverse_frequencies};
use lowtide_model::{ModelConfig, RopeScaling};

use crate::forward::usize_of;

/// The table of layers that attend to everything. `factors` divide the frequencies, one for each
/// pair (Llama 3 ships them as `rope_freqs.weight`).
pub(crate) fn global(config: &ModelConfig, factors: Option<&[f32]>) -> RopeTable {
    let (stretch, magnitude) = stretch(config.rope_scaling);
    table(config, config.rope_base, stretch, factors, magnitude)
}

/// The table of sliding-window layers.
pub(crate) fn sliding(config: &ModelConfig) -> RopeTable {
    let (stretch, magnitude) = stretch(config.rope_scaling_sliding);
    table(config, config.rope_base_sliding, stretch, None, magnitude)
}

/// How frequencies are stretched, and what cosine and sine are multiplied by.
fn stretch(scaling: RopeScaling) -> (Stretch, f32) {
    match scaling {
        RopeScaling::None => (Stretch::None, 1.0),
        RopeScaling::Linear { factor } => (Stretch::Linear { factor: f64::from(factor) }, 1.0),
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, mscale } => (
            Stretch::Yarn {
                factor: f64::from(factor),
                original_context: f64::from(original_context),
                beta_fast: f64::from(beta_fast),
                beta_slow: f64::from(beta_slow),
                extrapolation: 1.0,
            },
            mscale,
        ),
    }
}

fn table(
    config: &ModelConfig,
    base: f32,
    stretch: Stretch,
    factors: Option<&[f32]>,
    magnitude: f32,
) -> RopeTable {
    let dims = usize_of(config.rope_dimensions);
    RopeTable::new(inverse_frequencies(dims, f64::from(base), stretch, factors), magnitude)
}
