//! A model small enough to be made by a test: one layer, a byte-level vocabulary, noise for
//! weights. What it says is nonsense; that it says the same each time is not.

use std::path::PathBuf;

use lowtide_gguf::GgmlType;
use lowtide_gguf::write::HeaderWriter;

use serde_json::Value;

use super::{Folder, Ran, lowtide, run};

const WIDTH: u64 = 32;
const FEED_FORWARD: u64 = 64;
const VOCABULARY: u64 = 261;
/// The id of the control token that ends a turn.
pub const END: u32 = 260;

/// Writes each message between marks.
pub const TEMPLATE: &str = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|end|>{% endfor %}\
                        {% if add_generation_prompt %}[assistant]{% endif %}";

/// The model in a folder of its own, and the program run on it.
pub struct Tiny {
    pub folder: Folder,
    pub path: PathBuf,
}

impl Tiny {
    pub fn new(template: Option<&str>) -> Self {
        let folder = Folder::new();
        let path = write(&folder, template);
        Self { folder, path }
    }

    pub fn run(&self, command: &str, arguments: &[&str]) -> Ran {
        run(lowtide(self.folder.path()).arg(command).arg(&self.path).args(arguments))
    }

    pub fn json(&self, command: &str, arguments: &[&str]) -> Value {
        let ran = self.run(command, &[arguments, &["--json"]].concat());
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
        serde_json::from_str(&ran.stdout).unwrap()
    }
}

/// GPT-2's table: printable bytes stand for themselves, others for characters from U+0100 on.
pub fn byte_tokens() -> Vec<String> {
    let printable = |b: u8| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 0x100;
    let mut code = |b: u8| {
        if printable(b) {
            return u32::from(b);
        }
        next += 1;
        next - 1
    };
    (0..=255).map(|b| char::from_u32(code(b)).unwrap().to_string()).collect()
}

/// The vocabulary's keys: 256 bytes, four joined pairs, one control token.
pub fn vocabulary(writer: &mut HeaderWriter) {
    let merges = ["h e", "l l", "he ll", "hell o"];
    let mut tokens = byte_tokens();
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    tokens.push("<|end|>".to_owned());
    let mut types = vec![1; VOCABULARY as usize - 1];
    types.push(3);
    writer
        .str("general.architecture", "llama")
        .str("tokenizer.ggml.model", "gpt2")
        .str("tokenizer.ggml.pre", "gpt-2")
        .strings("tokenizer.ggml.tokens", &tokens)
        .i32s("tokenizer.ggml.token_type", &types)
        .strings("tokenizer.ggml.merges", &merges)
        .u32("tokenizer.ggml.eos_token_id", END);
}

/// Writes the model into the folder. `template`: its chat template, if any.
pub fn write(folder: &Folder, template: Option<&str>) -> PathBuf {
    let mut writer = HeaderWriter::new();
    vocabulary(&mut writer);
    writer
        .u32("llama.context_length", 512)
        .u32("llama.embedding_length", WIDTH as u32)
        .u32("llama.block_count", 1)
        .u32("llama.feed_forward_length", FEED_FORWARD as u32)
        .u32("llama.attention.head_count", 2)
        .u32("llama.attention.head_count_kv", 1)
        .f32("llama.attention.layer_norm_rms_epsilon", 1e-5);
    if let Some(template) = template {
        writer.str("tokenizer.chat_template", template);
    }
    let f32s: [(&str, &[u64]); 11] = [
        ("token_embd.weight", &[WIDTH, VOCABULARY]),
        ("output_norm.weight", &[WIDTH]),
        ("blk.0.attn_norm.weight", &[WIDTH]),
        ("blk.0.attn_q.weight", &[WIDTH, WIDTH]),
        ("blk.0.attn_k.weight", &[WIDTH, WIDTH / 2]),
        ("blk.0.attn_v.weight", &[WIDTH, WIDTH / 2]),
        ("blk.0.attn_output.weight", &[WIDTH, WIDTH]),
        ("blk.0.ffn_norm.weight", &[WIDTH]),
        ("blk.0.ffn_gate.weight", &[WIDTH, FEED_FORWARD]),
        ("blk.0.ffn_up.weight", &[WIDTH, FEED_FORWARD]),
        ("blk.0.ffn_down.weight", &[FEED_FORWARD, WIDTH]),
    ];
    for (name, dims) in f32s {
        writer.tensor(name, dims, GgmlType::F32);
    }
    let layout = writer.finish().unwrap();
    let mut file = layout.header.clone();
    file.resize(layout.file_bytes as usize, 0);
    let mut state = 1_u32;
    for place in &layout.tensors {
        let data = &mut file[place.offset as usize..(place.offset + place.bytes) as usize];
        for value in data.chunks_exact_mut(4) {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let noise = (state >> 8) as f32 / (1 << 24) as f32 - 0.5;
            value.copy_from_slice(&noise.to_le_bytes());
        }
    }
    let path = folder.join("tiny.gguf");
    std::fs::write(&path, file).unwrap();
    path
}
