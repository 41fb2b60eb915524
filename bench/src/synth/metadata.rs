//! The model's keys: those that llama.cpp asks for when it loads each family, with the names of its `llama-arch.cpp`.

use lowtide_gguf::write::HeaderWriter;

use super::Spec;
use super::shape::{Experts, Family, Rope, Shape};

/// Version of the block formats (`GGML_QNT_VERSION`).
const QUANTIZATION_VERSION: u32 = 2;

pub(super) fn put(writer: &mut HeaderWriter, spec: &Spec) {
    let shape = &spec.shape;
    let architecture = shape.family.architecture();
    let key = |name: &str| format!("{architecture}.{name}");
    writer
        .str("general.architecture", architecture)
        .str("general.type", "model")
        .str("general.name", &format!("{} {} (synthetic)", shape.name, spec.mix.name))
        .str("general.description", &format!("random weights, seed {}", spec.seed))
        .u32("general.quantization_version", QUANTIZATION_VERSION)
        // Sizes below are u64 here and u32 in the format; shapes stay far below 2^32.
        .u32(&key("block_count"), shape.layers as u32)
        .u32(&key("context_length"), shape.context)
        .u32(&key("embedding_length"), shape.embedding as u32)
        .u32(&key("feed_forward_length"), shape.feed_forward as u32)
        .u32(&key("attention.head_count"), shape.heads as u32)
        .f32(&key("attention.layer_norm_rms_epsilon"), shape.rms_epsilon)
        .u32(&key("vocab_size"), shape.vocabulary as u32)
        .f32(&key("rope.freq_base"), shape.rope_base);
    put_attention(writer, shape, &key);
    put_rope_scaling(writer, shape.rope, &key);
    put_experts(writer, shape, &key);
    put_others(writer, shape.family, &key);
}

/// Keys that only some families have.
fn put_others(writer: &mut HeaderWriter, family: Family, key: &dyn Fn(&str) -> String) {
    match family {
        // Of the size that its models have.
        Family::Granite | Family::GraniteMoe => {
            writer
                .f32(&key("embedding_scale"), 12.0)
                .f32(&key("residual_scale"), 0.22)
                .f32(&key("logit_scale"), 6.0)
                .f32(&key("attention.scale"), 0.1);
        }
        // Small, so that they show.
        Family::Gemma2 => {
            writer
                .f32(&key("attn_logit_softcapping"), 4.0)
                .f32(&key("final_logit_softcapping"), 5.0);
        }
        // From position 16 on attention is sharper.
        Family::Mistral3 => {
            writer.f32(&key("attention.temperature_scale"), 0.5);
        }
        _ => {}
    }
}

fn put_attention(writer: &mut HeaderWriter, shape: &Shape, key: &dyn Fn(&str) -> String) {
    if let Some(window) = shape.window {
        writer.u32(&key("attention.sliding_window"), window);
    }
    if let Some(sections) = shape.sections {
        writer.i32s(&key("rope.dimension_sections"), &sections);
    }
    let Some(latent) = shape.latent else {
        writer
            .u32(&key("attention.head_count_kv"), shape.kv_heads as u32)
            .u32(&key("attention.key_length"), shape.head as u32)
            .u32(&key("attention.value_length"), shape.head as u32)
            .u32(&key("rope.dimension_count"), rotated(shape) as u32);
        return;
    };
    if latent.query_rank > 0 {
        writer.u32(&key("attention.q_lora_rank"), latent.query_rank as u32);
    }
    // What is kept is one head: the latent vector and the rotated part of the key.
    let kept = latent.kv_rank + latent.head_rope;
    writer
        .u32(&key("attention.head_count_kv"), 1)
        .u32(&key("attention.kv_lora_rank"), latent.kv_rank as u32)
        .u32(&key("attention.key_length"), kept as u32)
        .u32(&key("attention.value_length"), latent.kv_rank as u32)
        .u32(&key("attention.key_length_mla"), (latent.head_nope + latent.head_rope) as u32)
        .u32(&key("attention.value_length_mla"), latent.head_value as u32)
        .u32(&key("rope.dimension_count"), latent.head_rope as u32);
}

fn put_rope_scaling(writer: &mut HeaderWriter, rope: Rope, key: &dyn Fn(&str) -> String) {
    match rope {
        // Llama 3.1's scaling is a tensor, not a key.
        Rope::Plain | Rope::Llama3(..) => {}
        Rope::Linear(factor) => {
            writer
                .str(&key("rope.scaling.type"), "linear")
                .f32(&key("rope.scaling.factor"), factor);
        }
        Rope::Yarn(factor, context) => {
            writer
                .str(&key("rope.scaling.type"), "yarn")
                .f32(&key("rope.scaling.factor"), factor)
                .u32(&key("rope.scaling.original_context_length"), context);
        }
    }
}

fn put_experts(writer: &mut HeaderWriter, shape: &Shape, key: &dyn Fn(&str) -> String) {
    let Some(experts) = shape.experts else { return };
    writer
        .u32(&key("expert_count"), experts.count as u32)
        .u32(&key("expert_used_count"), experts.used as u32);
    // In these an expert is as wide as `feed_forward_length` says.
    let dense_width = [Family::Llama, Family::Olmoe, Family::GraniteMoe];
    if !dense_width.contains(&shape.family) {
        writer.u32(&key("expert_feed_forward_length"), experts.feed_forward as u32);
    }
    let joint_width =
        [Family::Qwen2Moe, Family::GraniteMoe, Family::HunyuanMoe, Family::Ernie45Moe];
    if joint_width.contains(&shape.family) && experts.shared > 0 {
        let joint = experts.shared * experts.feed_forward;
        writer.u32(&key("expert_shared_feed_forward_length"), joint as u32);
    }
    let routing = experts.routing;
    if routing.groups > 1 {
        writer
            .u32(&key("expert_group_count"), routing.groups as u32)
            .u32(&key("expert_group_used_count"), routing.groups_used as u32);
    }
    put_routing(writer, shape.family, experts, key);
    if shape.family == Family::Deepseek2 {
        writer.f32(&key("rope.scaling.yarn_log_multiplier"), 0.0707);
    }
}

fn put_routing(
    writer: &mut HeaderWriter,
    family: Family,
    experts: Experts,
    key: &dyn Fn(&str) -> String,
) {
    let routing = experts.routing;
    match family {
        Family::Ernie45Moe => {
            writer
                .u32(&key("leading_dense_block_count"), experts.dense_lead as u32)
                .u32(&key("interleave_moe_layer_step"), 1);
        }
        Family::MinimaxM2 => {
            writer.u32(&key("expert_gating_func"), routing.gating);
        }
        Family::Deepseek => {
            writer
                .u32(&key("leading_dense_block_count"), experts.dense_lead as u32)
                .u32(&key("expert_shared_count"), experts.shared as u32);
        }
        Family::Deepseek2 | Family::Glm4Moe | Family::Dots1 | Family::BailingMoe2 => {
            writer
                .u32(&key("leading_dense_block_count"), experts.dense_lead as u32)
                .u32(&key("expert_shared_count"), experts.shared as u32)
                .f32(&key("expert_weights_scale"), routing.scale)
                .bool(&key("expert_weights_norm"), routing.normalised)
                .u32(&key("expert_gating_func"), routing.gating);
        }
        _ => {}
    }
}

/// Dimensions of a head that are rotated: some families rotate half.
fn rotated(shape: &Shape) -> u64 {
    match shape.family {
        Family::Glm4Moe | Family::Glm4 | Family::MinimaxM2 | Family::BailingMoe2 => shape.head / 2,
        _ => shape.head,
    }
}
