//! The shapes of attention, read from metadata.

use crate::arch::Family;
use crate::keys::Keys;
use crate::latent::Latent;
use crate::{Error, limits};

/// The shapes of attention.
pub(crate) struct Heads {
    pub(crate) count: u64,
    pub(crate) kv_count: u64,
    pub(crate) key_length: u64,
    pub(crate) value_length: u64,
    pub(crate) rotated: u64,
    pub(crate) query_scale: f32,
    pub(crate) latent: Option<Latent>,
}

impl Heads {
    pub(crate) fn read(
        keys: &Keys<'_, '_>,
        family: &Family,
        layers: u32,
        embedding_length: u64,
    ) -> Result<Self, Error> {
        let count = keys
            .uniform("attention.head_count", layers, limits::HEADS_MAX)?
            .ok_or_else(|| keys.missing("attention.head_count", "attention is split into heads"))?;
        let kv_count =
            keys.uniform("attention.head_count_kv", layers, limits::HEADS_MAX)?.unwrap_or(count);
        let stated = keys.optional("rope.dimension_count", 2, limits::HEAD_LENGTH_MAX)?;
        let rotated_of = |length: u64| stated.unwrap_or(length);
        if let Some(latent) = Latent::read(keys, family, rotated_of(0))? {
            return Ok(Self {
                count,
                kv_count: 1,
                key_length: latent.kept_length(),
                value_length: latent.rank,
                rotated: latent.rotated_length,
                query_scale: inverse_root(latent.query_length()),
                latent: Some(latent),
            });
        }
        let key_length = head_length(keys, "attention.key_length", embedding_length, count)?;
        let value_length = head_length(keys, "attention.value_length", embedding_length, count)?;
        let wide = family.wide_query_scale_at_layers == Some(layers);
        Ok(Self {
            count,
            kv_count,
            key_length,
            value_length,
            rotated: rotated_of(key_length),
            query_scale: inverse_root(if wide { embedding_length / count } else { key_length }),
            latent: None,
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "lengths are capped at 2^17")]
fn inverse_root(length: u64) -> f32 {
    1.0 / (length as f32).sqrt()
}

fn head_length(keys: &Keys<'_, '_>, key: &str, width: u64, heads: u64) -> Result<u64, Error> {
    if let Some(length) = keys.optional(key, 1, limits::HEAD_LENGTH_MAX)? {
        return Ok(length);
    }
    if !width.is_multiple_of(heads) {
        let why = format!("it must divide the embedding length {width} where \"{key}\" is absent");
        return Err(keys.invalid("attention.head_count", heads, why));
    }
    Ok(width / heads)
}
