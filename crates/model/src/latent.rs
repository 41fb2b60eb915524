//! Latent attention: what is kept of a token is one vector of a small rank and one rotated key
//! (DeepSeek-V2, arXiv:2405.04434, section 2.1).

use crate::arch::{AttentionKind, Family};
use crate::keys::Keys;
use crate::positions::RopeScaling;
use crate::{Error, limits};

/// Lengths of latent attention, in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latent {
    /// Rank through which queries are made; `None` if they are projected directly.
    pub query_rank: Option<u64>,
    /// Rank of the vector that is kept.
    pub rank: u64,
    /// The part of a head's query that is not rotated.
    pub plain_length: u64,
    /// The part of a head's query that is; also the key that all heads share.
    pub rotated_length: u64,
    /// One head's value.
    pub value_length: u64,
}

impl Latent {
    /// What the metadata says; `None` for a family that has none.
    pub(crate) fn read(
        keys: &Keys<'_, '_>,
        family: &Family,
        rotated_length: u64,
    ) -> Result<Option<Self>, Error> {
        if family.attention == AttentionKind::Heads {
            return Ok(None);
        }
        let max = limits::HEAD_LENGTH_MAX;
        let key = "attention.key_length_mla";
        let why = "files from before April 2025 lack it; convert the model anew";
        let whole = keys.optional(key, 1, max)?.ok_or_else(|| keys.missing(key, why))?;
        if whole <= rotated_length {
            let why = format!("it must be above the {rotated_length} rotated dimensions");
            return Err(keys.invalid(key, whole, why));
        }
        let query_rank = keys.optional("attention.q_lora_rank", 0, limits::EMBEDDING_LENGTH_MAX)?;
        Ok(Some(Self {
            query_rank: query_rank.filter(|rank| *rank > 0),
            rank: keys.required("attention.kv_lora_rank", 1, max)?,
            plain_length: whole - rotated_length,
            rotated_length,
            value_length: keys.required("attention.value_length_mla", 1, max)?,
        }))
    }

    /// One head's query as it is projected: both parts.
    #[must_use]
    pub fn query_length(&self) -> u64 {
        self.plain_length + self.rotated_length
    }

    /// What is kept of a token.
    #[must_use]
    pub fn kept_length(&self) -> u64 {
        self.rank + self.rotated_length
    }
}

/// YaRN's scale of queries and its multiplier of cosine and sine, under latent attention. Unlike the
/// other families' it puts `0.1 m ln f + 1` on the queries, squared, and leaves the rotation alone (`m`:
/// `mscale_all_dim` in the reference configuration; the file has `0.1 m` as `yarn_log_multiplier`).
pub(crate) fn yarn_scales(keys: &Keys<'_, '_>, scaling: &RopeScaling) -> Result<(f32, f32), Error> {
    let RopeScaling::Yarn { factor, .. } = *scaling else { return Ok((1.0, 1.0)) };
    let attention_factor = keys.positive_or_zero("rope.scaling.attn_factor")?.unwrap_or(1.0);
    let grow = |multiplier: f32| if factor <= 1.0 { 1.0 } else { multiplier * factor.ln() + 1.0 };
    let (query, rotation) = match keys.positive_or_zero("rope.scaling.yarn_log_multiplier")? {
        Some(multiplier) => (grow(multiplier), 1.0),
        None => (grow(0.1), grow(0.1)),
    };
    Ok(((query * attention_factor).powi(2), rotation * attention_factor))
}
