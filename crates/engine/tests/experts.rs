//! Mixtures of experts: the same bits with any batch and any number of threads, and what a broken
//! file gets.

use std::path::{Path, PathBuf};

use lowtide_bench::synth::{self, Mix, Shape, Spec};
use lowtide_engine::{Engine, Error, LoadOptions, Logits, Model, Session};
use lowtide_gguf::Gguf;

/// Tokens of the prompt. With two experts each they are more pairs than wait for each other, and more
/// than eight for most experts: a batch takes other ways than a single token.
const PROMPT: u32 = 100;
const CONTEXT: usize = 128;

fn spec(name: &str, mix: &str) -> Spec {
    let mut shape = Shape::named(name).unwrap();
    shape.layers = shape.layers.min(4);
    Spec::new(shape, Mix::named(mix).unwrap())
}

fn write(name: &str, bytes: &[u8]) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("experts-{name}.gguf"));
    std::fs::write(&path, bytes).unwrap();
    path
}

fn load(path: &Path, threads: usize) -> Result<Engine, Error> {
    let options =
        LoadOptions { context: Some(CONTEXT), threads: Some(threads), ..LoadOptions::default() };
    Engine::new(Model::open(path)?, &options)
}

/// The bits of the logits of the prompt's last token, and of the three that were best after it.
fn run(path: &Path, threads: usize, step: usize) -> Vec<Vec<u32>> {
    let mut engine = load(path, threads).unwrap();
    let mut session = Session::new(&engine).unwrap();
    let vocabulary = u32::try_from(engine.vocabulary_length()).unwrap();
    let prompt: Vec<u32> = (0..PROMPT).map(|i| (i * 7919 + 13) % vocabulary).collect();
    for part in prompt.chunks(step) {
        session.forward(&mut engine, part, Logits::Last, &mut |_, _| {}).unwrap();
    }
    let mut all = Vec::new();
    for _ in 0..4 {
        let logits = session.last_logits();
        let best = (0..logits.len()).fold(0, |b, i| if logits[i] > logits[b] { i } else { b });
        all.push(logits.iter().map(|l| l.to_bits()).collect());
        session.forward(&mut engine, &[best as u32], Logits::Last, &mut |_, _| {}).unwrap();
    }
    all
}

#[test]
fn every_mixture_gives_the_same_bits_with_any_batch_and_threads() {
    for name in Shape::NAMES.iter().filter(|name| name.ends_with("-tiny")) {
        for mix in ["f32", "q8_0"] {
            let spec = spec(name, mix);
            if spec.shape.experts.is_none() {
                continue;
            }
            let path = write(&format!("{name}-{mix}"), &synth::to_bytes(&spec).unwrap());
            let expected = run(&path, 2, PROMPT as usize);
            assert!(expected[0] != expected[1], "{name}: the model says nothing");
            for (threads, step) in [(1, 1), (3, 7), (1, 33)] {
                assert!(run(&path, threads, step) == expected, "{name} {mix}: {threads} {step}");
            }
            std::fs::remove_file(path).unwrap();
        }
    }
}

fn refusal(name: &str, bytes: &[u8]) -> String {
    let path = write(name, bytes);
    let error = Model::open(&path).err().unwrap_or_else(|| panic!("{name} is not refused"));
    std::fs::remove_file(&path).unwrap();
    let text = error.to_string();
    assert!(text.lines().count() <= 3, "{text}");
    text
}

/// Where in the file the number of `key`, a u32, is.
fn number_at(bytes: &[u8], key: &str) -> usize {
    let at = bytes.windows(key.len()).position(|w| w == key.as_bytes()).unwrap();
    let value = at + key.len() + 4;
    assert_eq!(bytes[at + key.len()..value], 4_u32.to_le_bytes(), "{key} is no u32");
    value
}

fn with_number(bytes: &[u8], key: &str, number: u32) -> Vec<u8> {
    let at = number_at(bytes, key);
    let mut bytes = bytes.to_vec();
    bytes[at..at + 4].copy_from_slice(&number.to_le_bytes());
    bytes
}

#[test]
fn numbers_of_experts_that_cannot_be_are_refused() {
    let moe = synth::to_bytes(&spec("qwen3moe-tiny", "f32")).unwrap();
    let (count, used) = ("qwen3moe.expert_count", "qwen3moe.expert_used_count");
    let text = refusal("used-above", &with_number(&moe, used, 9));
    assert!(text.contains("\"qwen3moe.expert_used_count\" is 9"), "{text}");
    assert!(text.contains("between 1 and expert_count, which is 8"), "{text}");
    let text = refusal("none-used", &with_number(&moe, used, 0));
    assert!(text.contains("\"qwen3moe.expert_used_count\" is 0"), "{text}");
    let text = refusal("both-zero", &with_number(&with_number(&moe, used, 0), count, 0));
    assert!(text.contains("\"qwen3moe.expert_count\" is 0"), "{text}");
    let text = refusal("no-experts", &with_number(&moe, count, 0));
    assert!(text.contains("\"qwen3moe.expert_count\" is 0"), "{text}");
    let text = refusal("too-many", &with_number(&moe, count, u32::MAX));
    assert!(text.contains("between 0 and 1024"), "{text}");
    // In a family whose members need no experts: some are used, and there are none.
    let mixtral = synth::to_bytes(&spec("mixtral-tiny", "f32")).unwrap();
    let text = refusal("llama-none", &with_number(&mixtral, "llama.expert_count", 0));
    assert!(text.contains("\"llama.expert_count\" is 0"), "{text}");
    let grouped = synth::to_bytes(&spec("deepseek3-tiny", "f32")).unwrap();
    let text = refusal("groups", &with_number(&grouped, "deepseek2.expert_group_count", 5));
    assert!(text.contains("must divide the 16 experts"), "{text}");
    let text = refusal("no-group", &with_number(&grouped, "deepseek2.expert_group_used_count", 0));
    assert!(text.contains("expert_group_used_count"), "{text}");
    let text = refusal("gating", &with_number(&grouped, "deepseek2.expert_gating_func", 4));
    assert!(text.contains("expert_gating_func 4 is not supported"), "{text}");
    let ernie = synth::to_bytes(&spec("ernie4_5-moe-tiny", "f32")).unwrap();
    let step = "ernie4_5-moe.interleave_moe_layer_step";
    let text = refusal("step", &with_number(&ernie, step, 2));
    assert!(text.contains("one layer of 2 only is not supported"), "{text}");
}

/// Renames a tensor to a shorter name and makes a text that nobody reads longer by as much.
fn renamed(bytes: &[u8], from: &str, to: &str) -> Vec<u8> {
    let string = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let replace = |bytes: &[u8], from: &[u8], to: &[u8]| {
        let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
        [&bytes[..at], to, &bytes[at + from.len()..]].concat()
    };
    let bytes = replace(bytes, &string(from), &string(to));
    let text = "random weights, seed 0";
    let longer = text.to_owned() + &"!".repeat(from.len() - to.len());
    replace(&bytes, &string(text), &string(&longer))
}

#[test]
fn experts_that_are_missing_or_misshapen_are_named() {
    let mut tied = spec("qwen3moe-tiny", "f32");
    tied.shape.tied = true;
    let moe = synth::to_bytes(&tied).unwrap();
    for missing in
        ["blk.2.ffn_up_exps.weight", "blk.2.ffn_down_exps.weight", "blk.2.ffn_gate_inp.weight"]
    {
        let text = refusal("missing", &renamed(&moe, missing, "output.weight"));
        assert!(text.contains(&format!("tensor \"{missing}\" is missing")), "{text}");
    }
    let name = "blk.1.ffn_down_exps.weight";
    let at = moe.windows(name.len()).position(|w| w == name.as_bytes()).unwrap() + name.len();
    assert_eq!(moe[at..at + 4], 3_u32.to_le_bytes());
    let mut misshapen = moe.clone();
    for (dim, value) in [256_u64, 128, 16].into_iter().enumerate() {
        misshapen[at + 4 + 8 * dim..][..8].copy_from_slice(&value.to_le_bytes());
    }
    let text = refusal("misshapen", &misshapen);
    assert!(
        text.contains("tensor \"blk.1.ffn_down_exps.weight\" has shape [256, 128, 16]"),
        "{text}"
    );
    assert!(text.contains("it should be [256, 256, 8]"), "{text}");
}

#[test]
fn a_router_that_gives_no_number_is_named_with_its_layer() {
    let mut moe = synth::to_bytes(&spec("qwen3moe-tiny", "f32")).unwrap();
    let gguf = Gguf::parse(&moe).unwrap();
    let router = gguf.require_tensor("blk.1.ffn_gate_inp.weight").unwrap();
    let row = usize::try_from(router.offset() + 5 * 4 * router.row_len()).unwrap();
    moe[row..row + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let path = write("nan", &moe);
    let mut engine = load(&path, 2).unwrap();
    let mut session = Session::new(&engine).unwrap();
    let error = session.forward(&mut engine, &[1, 2, 3], Logits::Last, &mut |_, _| {}).unwrap_err();
    assert!(matches!(error, Error::NonFiniteRouter { layer: 1, expert: 5 }), "{error}");
    assert!(error.to_string().starts_with("the router of layer 1 gives expert 5"), "{error}");
    std::fs::remove_file(path).unwrap();
}
