//! The experts of a configured model: how many, how wide, and how a router's scores become weights.

use crate::arch::{ExpertWidth, Family, Mixture, Score, Shared};
use crate::keys::Keys;
use crate::{Error, limits};

/// A mixture of experts. Lengths count elements.
#[derive(Debug, Clone, PartialEq)]
pub struct Experts {
    /// Experts of a layer.
    pub count: u64,
    /// Experts that a token uses, at most `count`.
    pub used: u64,
    /// Width of one expert.
    pub feed_forward_length: u64,
    /// Width of the block every token passes besides; 0 where there is none.
    pub shared_feed_forward_length: u64,
    /// That block's output is multiplied by the sigmoid of a gate.
    pub shared_is_gated: bool,
    /// Layers at the front that have no experts but a dense feed-forward.
    pub leading_dense_layers: u32,
    /// How experts are chosen and weighted.
    pub routing: Routing,
}

/// From a router's scores to the chosen experts and their weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Routing {
    /// From scores to weights.
    pub score: Score,
    /// Weights are divided by their sum.
    pub normalised: bool,
    /// Weights are multiplied by this.
    pub scale: f32,
    /// Groups into which experts are divided in order; 1 if they are not.
    pub groups: u64,
    /// Groups from which a token's experts may come: those with the largest sums of their two best
    /// scores (DeepSeek-V3).
    pub groups_used: u64,
}

impl Experts {
    /// What the metadata says; `None` for a model without experts. `feed_forward_length` is the
    /// dense one, where all layers agree on it.
    pub(crate) fn read(
        keys: &Keys<'_, '_>,
        family: &Family,
        layers: u32,
        feed_forward_length: Option<u64>,
    ) -> Result<Option<Self>, Error> {
        let count = keys.optional("expert_count", 0, limits::EXPERTS_MAX)?.unwrap_or(0);
        let used = keys.optional("expert_used_count", 0, limits::EXPERTS_MAX)?.unwrap_or(0);
        let Some(mixture) = &family.mixture else {
            return match count {
                // Of one expert is what is dense (Hunyuan's first conversions); tensors of experts would be refused.
                0 | 1 => Ok(None),
                n => Err(Error::Unsupported {
                    what: format!("a mixture of {n} experts in family {:?}", family.name),
                    why: "its router and experts would be ignored".to_owned(),
                }),
            };
        };
        if count == 0 && used == 0 && !mixture.always {
            return Ok(None);
        }
        if count == 0 {
            let why = format!(
                "it must be above 0: every token uses {used} experts, and family {:?} has no dense \
                 feed-forward for all layers",
                family.name
            );
            return Err(keys.invalid("expert_count", count, why));
        }
        if used == 0 || used > count {
            let why = format!("it must be between 1 and expert_count, which is {count}");
            return Err(keys.invalid("expert_used_count", used, why));
        }
        let step = keys.optional("interleave_moe_layer_step", 0, u64::from(layers))?.unwrap_or(1);
        if step > 1 {
            return Err(Error::Unsupported {
                what: format!("experts in one layer of {step} only"),
                why: "the other layers' feed-forward would be looked for among the experts"
                    .to_owned(),
            });
        }
        let lead = keys.optional("leading_dense_block_count", 0, u64::from(layers))?.unwrap_or(0);
        let width = width(keys, mixture, used, feed_forward_length)?;
        Ok(Some(Self {
            count,
            used,
            feed_forward_length: width,
            shared_feed_forward_length: shared(keys, mixture, width, feed_forward_length)?,
            shared_is_gated: mixture.shared == Shared::Gated,
            leading_dense_layers: u32::try_from(lead).unwrap_or(layers),
            routing: Routing::read(keys, mixture, count, used)?,
        }))
    }
}

impl Routing {
    fn read(keys: &Keys<'_, '_>, mixture: &Mixture, count: u64, used: u64) -> Result<Self, Error> {
        // Numbers of `llama_expert_gating_func_type`; 0 leaves it to the family.
        let score = match keys.optional("expert_gating_func", 0, u64::MAX)?.unwrap_or(0) {
            0 => default_score(keys, mixture)?,
            1 => Score::Softmax,
            2 => Score::Sigmoid,
            3 => Score::SoftmaxOfChosen,
            other => {
                return Err(Error::Unsupported {
                    what: format!("expert_gating_func {other}"),
                    why: "the experts' weights would be wrong".to_owned(),
                });
            }
        };
        let (groups, groups_used) = groups(keys, count, used)?;
        Ok(Self {
            score,
            normalised: keys.flag("expert_weights_norm")?.unwrap_or(mixture.normalised),
            scale: keys.positive_or_zero("expert_weights_scale")?.unwrap_or(1.0),
            groups,
            groups_used,
        })
    }
}

/// The family's, but for GLM-4.7-Flash: its first conversions say nothing and are told from
/// DeepSeek-V2 by their size.
fn default_score(keys: &Keys<'_, '_>, mixture: &Mixture) -> Result<Score, Error> {
    let layers = keys.required("block_count", 1, limits::LAYERS_MAX)?;
    let flash = mixture.selection_bias
        && matches!(layers, 47 | 48)
        && keys.tokens() == limits::GLM_FLASH_VOCABULARY;
    Ok(if flash { Score::Sigmoid } else { mixture.score })
}

fn groups(keys: &Keys<'_, '_>, count: u64, used: u64) -> Result<(u64, u64), Error> {
    let groups = keys.optional("expert_group_count", 0, limits::EXPERTS_MAX)?.unwrap_or(1).max(1);
    if groups == 1 {
        return Ok((1, 1));
    }
    if !count.is_multiple_of(groups) || count / groups < 2 {
        let why = format!("it must divide the {count} experts into groups of at least 2");
        return Err(keys.invalid("expert_group_count", groups, why));
    }
    let key = "expert_group_used_count";
    let groups_used = keys.required(key, 1, groups)?;
    if used > groups_used * (count / groups) {
        let why = format!("so many groups of {} do not hold {used} experts", count / groups);
        return Err(keys.invalid(key, groups_used, why));
    }
    Ok((groups, groups_used))
}

fn width(
    keys: &Keys<'_, '_>,
    mixture: &Mixture,
    used: u64,
    feed_forward_length: Option<u64>,
) -> Result<u64, Error> {
    const OWN: &str = "expert_feed_forward_length";
    const FEED_FORWARD: &str = "feed_forward_length";
    let dense = || {
        feed_forward_length
            .ok_or_else(|| keys.missing(FEED_FORWARD, "it says how wide an expert is"))
    };
    let own = keys.optional(OWN, 0, limits::FEED_FORWARD_LENGTH_MAX)?.filter(|width| *width > 0);
    match (mixture.width, own) {
        (ExpertWidth::FeedForward, _) => dense(),
        (ExpertWidth::Own | ExpertWidth::OwnOrShare, Some(own)) => Ok(own),
        (ExpertWidth::Own, None) => Err(keys.missing(OWN, "it says how wide an expert is")),
        (ExpertWidth::OwnOrShare, None) => match dense()? / used {
            0 => Err(keys.invalid(FEED_FORWARD, dense()?, format!("{used} experts share it"))),
            share => Ok(share),
        },
    }
}

fn shared(
    keys: &Keys<'_, '_>,
    mixture: &Mixture,
    expert: u64,
    feed_forward_length: Option<u64>,
) -> Result<u64, Error> {
    const LENGTH: &str = "expert_shared_feed_forward_length";
    let max = limits::FEED_FORWARD_LENGTH_MAX;
    let length = || Ok(keys.optional(LENGTH, 0, max)?.filter(|length| *length > 0));
    match mixture.shared {
        Shared::None => Ok(0),
        Shared::Count => counted(keys, expert),
        Shared::CountOfLength => counted(keys, length()?.unwrap_or(expert)),
        Shared::Length => Ok(length()?.unwrap_or(0)),
        Shared::Gated | Shared::LengthOrDense => length()?
            .or(feed_forward_length)
            .ok_or_else(|| keys.missing(LENGTH, "it says how wide the shared expert is")),
    }
}

/// Width of all shared experts together, each of which has `width`.
fn counted(keys: &Keys<'_, '_>, width: u64) -> Result<u64, Error> {
    const COUNT: &str = "expert_shared_count";
    let max = limits::FEED_FORWARD_LENGTH_MAX;
    let count = keys.optional(COUNT, 0, limits::EXPERTS_MAX)?.unwrap_or(0);
    // Both factors are capped, far below 2^32.
    let joint = count * width;
    if joint > max {
        let why = format!("so many experts of {width} are wider than {max}");
        return Err(keys.invalid(COUNT, count, why));
    }
    Ok(joint)
}
