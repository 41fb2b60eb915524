//! What positions do to attention: the stretching of rotary frequencies, and a temperature.

use crate::keys::Keys;
use crate::{Error, latent, limits};

/// How rotary frequencies are stretched beyond the context the model was first trained on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// Positions divided by a factor.
    Linear {
        /// The factor, > 0.
        factor: f32,
    },
    /// YaRN (arXiv:2309.00071): low frequencies interpolated, high ones kept.
    Yarn {
        /// Context extension factor, > 0.
        factor: f32,
        /// Context of the first training, tokens.
        original_context: u32,
        /// Rotations at which a dimension counts as high-frequency (32 in the paper).
        beta_fast: f32,
        /// Rotations at which it counts as low-frequency (1 in the paper).
        beta_slow: f32,
        /// Multiplier of cosine and sine.
        mscale: f32,
    },
}

/// Queries are multiplied by `1 + scale ln(1 + floor(position / context))` (Llama 4, Ministral 3).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Temperature {
    /// How fast it grows, > 0.
    pub scale: f32,
    /// Tokens after which it begins to; the context of the first training.
    pub context: u32,
}

impl Temperature {
    /// The factor of the query at `position`.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "positions are capped far below 2^24 contexts")]
    pub fn factor(&self, position: usize) -> f32 {
        let contexts = position / self.context as usize;
        1.0 + self.scale * (contexts as f32).ln_1p()
    }
}

/// The rotation's stretching, and what it multiplies the queries by.
pub(crate) fn stretching(
    keys: &Keys<'_, '_>,
    is_latent: bool,
) -> Result<(RopeScaling, f32), Error> {
    let scaling = rope_scaling(keys)?;
    if !is_latent {
        return Ok((scaling, 1.0));
    }
    let (query, rotation) = latent::yarn_scales(keys, &scaling)?;
    Ok(match scaling {
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, .. } => {
            let mscale = rotation;
            (RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, mscale }, query)
        }
        other => (other, query),
    })
}

fn rope_scaling(keys: &Keys<'_, '_>) -> Result<RopeScaling, Error> {
    let kind = keys.text("rope.scaling.type")?.unwrap_or("linear");
    let factor = match keys.positive_or_zero("rope.scaling.factor")? {
        Some(factor) => factor,
        None => keys.positive_or_zero("rope.scale_linear")?.unwrap_or(1.0),
    };
    #[expect(clippy::float_cmp, reason = "exactly 1 means unscaled")]
    let unscaled = factor == 1.0;
    match kind {
        "none" => Ok(RopeScaling::None),
        "linear" if unscaled => Ok(RopeScaling::None),
        "linear" => Ok(RopeScaling::Linear { factor }),
        "yarn" => yarn(keys, factor),
        other => Err(Error::Unsupported {
            what: format!("rope scaling {other:?}"),
            why: "positions would be wrong".to_owned(),
        }),
    }
}

/// The magnitude scale follows the reference (`yarn_get_mscale` in transformers): `0.1 ln f + 1`,
/// or, where the file carries a log multiplier, the ratio of two such terms.
fn yarn(keys: &Keys<'_, '_>, factor: f32) -> Result<RopeScaling, Error> {
    let mscale_of =
        |multiplier: f32| if factor <= 1.0 { 1.0 } else { 0.1 * multiplier * factor.ln() + 1.0 };
    let log_multiplier = keys.positive_or_zero("rope.scaling.yarn_log_multiplier")?;
    let base = mscale_of(1.0) / log_multiplier.map_or(1.0, mscale_of);
    let attention_factor = keys.positive_or_zero("rope.scaling.attn_factor")?.unwrap_or(1.0);
    Ok(RopeScaling::Yarn {
        factor,
        original_context: limits::narrow(original_context(keys)?),
        beta_fast: keys.positive("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
        beta_slow: keys.positive("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
        mscale: base * attention_factor,
    })
}

/// Tokens of the context that the model was first trained on.
fn original_context(keys: &Keys<'_, '_>) -> Result<u64, Error> {
    let original = keys.optional("rope.scaling.original_context_length", 1, limits::CONTEXT_MAX)?;
    original.map_or_else(|| keys.required("context_length", 1, limits::CONTEXT_MAX), Ok)
}

/// Of the keys that say so, if they do.
pub(crate) fn temperature(keys: &Keys<'_, '_>) -> Result<Option<Temperature>, Error> {
    let Some(scale) = keys.positive_or_zero("attention.temperature_scale")? else {
        return Ok(None);
    };
    let own = keys.optional("attention.temperature_length", 1, limits::CONTEXT_MAX)?;
    let context = own.map_or_else(|| original_context(keys), Ok)?;
    Ok(Some(Temperature { scale, context: limits::narrow(context) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temperature_begins_behind_the_first_context() {
        let temperature = Temperature { scale: 0.1, context: 16_384 };
        assert_eq!(temperature.factor(0), 1.0);
        assert_eq!(temperature.factor(16_383), 1.0);
        assert!((temperature.factor(16_384) - 1.069_314_7).abs() < 1e-6);
        assert!((temperature.factor(5 * 16_384) - 1.179_175_9).abs() < 1e-6);
    }
}
