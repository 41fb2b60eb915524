//! Keys that would change every answer and are not computed: refused, not passed over.

use std::path::Path;

use lowtide_bench::synth::{self, Mix, Shape, Spec};
use lowtide_engine::Model;

/// The types of a key's value, as the format numbers them.
const U32: u32 = 4;
const F32: u32 = 6;
const BOOL: u32 = 7;
const STRING: u32 = 8;

fn key(name: &str, ty: u32, value: &[u8]) -> Vec<u8> {
    [&(name.len() as u64).to_le_bytes(), name.as_bytes(), &ty.to_le_bytes(), value].concat()
}

/// A small model's bytes with one more key, and a text that keeps the tensors' data aligned.
fn with_key(shape: &str, name: &str, ty: u32, value: &[u8]) -> Vec<u8> {
    let mut shape = Shape::named(shape).unwrap();
    shape.layers = shape.layers.min(2);
    let mut bytes = synth::to_bytes(&Spec::new(shape, Mix::named("f32").unwrap())).unwrap();
    let mut keys = key(name, ty, value);
    let text = |length: usize| {
        let value = [&(length as u64).to_le_bytes()[..], &vec![b'.'; length]].concat();
        key("test.text", STRING, &value)
    };
    let length = (0..32).find(|&n| (keys.len() + text(n).len()).is_multiple_of(32)).unwrap();
    keys.extend(text(length));
    // Magic, version and the number of tensors come before the number of keys, and the keys behind it.
    let count = u64::from_le_bytes(bytes[16..24].try_into().unwrap());
    bytes[16..24].copy_from_slice(&(count + 2).to_le_bytes());
    bytes.splice(24..24, keys);
    bytes
}

fn opened(name: &str, bytes: &[u8]) -> Result<Model, String> {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("unread-{name}.gguf"));
    std::fs::write(&path, bytes).unwrap();
    let model = Model::open(&path).map_err(|error| error.to_string());
    std::fs::remove_file(&path).unwrap();
    model
}

#[test]
fn keys_that_change_answers_are_refused() {
    let (factor, one) = (0.8_f32.to_le_bytes(), 1.0_f32.to_le_bytes());
    let six = 6_u32.to_le_bytes();
    refused("qwen2-tiny", "qwen2.attention.causal", BOOL, &[0], Some(&[1]));
    refused("granite-tiny", "granite.rope.scaling.finetuned", BOOL, &[0], Some(&[1]));
    refused("qwen3-tiny", "qwen3.rope.scaling.attn_factor", F32, &factor, Some(&one));
    let (alpha, none) = (50.0_f32.to_le_bytes(), 0.0_f32.to_le_bytes());
    refused("hunyuan-dense-tiny", "hunyuan-dense.rope.scaling.alpha", F32, &alpha, Some(&none));
    refused("gemma3-tiny", "gemma3.rope.dimension_count_swa", U32, &six, None);
    refused("gemma3-tiny", "gemma3.attention.key_length_swa", U32, &six, None);
}

/// `other` is refused as the key's value, and `usual` is not.
fn refused(shape: &str, name: &str, ty: u32, other: &[u8], usual: Option<&[u8]>) {
    let text = opened(name, &with_key(shape, name, ty, other)).err().unwrap_or_default();
    assert!(text.contains(&format!("\"{name}\" of ")), "{name}: {text:?}");
    assert!(text.contains("is not supported") && text.lines().count() <= 3, "{text}");
    if let Some(usual) = usual {
        opened(name, &with_key(shape, name, ty, usual)).unwrap();
    }
}

#[test]
fn one_expert_is_none() {
    let key = "hunyuan-dense.expert_count";
    let with = |count: u32| with_key("hunyuan-dense-tiny", key, U32, &count.to_le_bytes());
    opened("one-expert", &with(1)).unwrap();
    let text = opened("two-experts", &with(2)).err().unwrap_or_default();
    assert!(text.contains("a mixture of 2 experts in family \"hunyuan-dense\""), "{text:?}");
}

#[test]
fn keys_that_early_conversions_lack_are_asked_for() {
    let name = "gemma2.attn_logit_softcapping";
    let mut bytes = synth::to_bytes(&Spec::named("gemma2-tiny", "f32").unwrap()).unwrap();
    opened("gemma2", &bytes).unwrap();
    let at = bytes.windows(name.len()).position(|w| w == name.as_bytes()).unwrap();
    bytes[at + name.len() - 1] = b'G';
    let text = opened("gemma2-early", &bytes).err().unwrap_or_default();
    assert!(text.contains(&format!("\"{name}\"")) && text.contains("early"), "{text:?}");
}
