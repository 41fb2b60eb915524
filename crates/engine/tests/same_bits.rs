//! Contract 3: the same logits, bit for bit, at any budget, thread count, batch size and backend.

mod common;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use lowtide_bench::synth::{self, Spec};
use lowtide_engine::{Engine, Io, LoadOptions, Logits, MemoryLimit, Model, Session};

/// Tokens of the prompt: more than one batch of the small budgets, and an odd number.
const PROMPT: usize = 37;
/// Tokens after it, one pass each.
const DECODED: usize = 6;
const CONTEXT: usize = 64;
/// What a measured heap may differ by from one engine to the next.
const ROOM_BYTES: u64 = 3_000_000;

/// One way to run the same tokens.
#[derive(Debug, Clone, Copy)]
struct Way {
    memory: MemoryLimit,
    threads: usize,
    io: Io,
    /// Tokens given to one call.
    step: usize,
    /// Whether experts are guessed a layer early.
    guess: bool,
}

const PLAIN: Way =
    Way { memory: MemoryLimit::Auto, threads: 2, io: Io::Auto, step: PROMPT, guess: false };

/// The bits of all logits of the prompt's last token and of every decoded one (greedy), and whether
/// weights were streamed; the last says how many experts were read on a guess.
fn run(path: &Path, way: Way) -> (Vec<Vec<u32>>, Vec<u32>, bool, u64) {
    let options = LoadOptions {
        memory: way.memory,
        threads: Some(way.threads),
        context: Some(CONTEXT),
        io: way.io,
        prompt_tokens: PROMPT,
        guess_experts: way.guess,
        ..LoadOptions::default()
    };
    let mut engine = Engine::new(Model::open(path).unwrap(), &options)
        .unwrap_or_else(|e| panic!("{way:?}: {e}"));
    let mut session = Session::new(&engine).unwrap();
    let vocabulary = u32::try_from(engine.vocabulary_length()).unwrap();
    let prompt: Vec<u32> = (0..PROMPT as u32).map(|i| (i * 7919 + 13) % vocabulary).collect();
    let mut bits = Vec::new();
    let mut ids = Vec::new();
    let (head, last) = prompt.split_at(PROMPT - 1);
    for part in head.chunks(way.step) {
        session.forward(&mut engine, part, Logits::None, &mut |_, _| {}).unwrap();
    }
    let mut next = last.to_vec();
    for _ in 0..=DECODED {
        session.forward(&mut engine, &next, Logits::Last, &mut |_, _| {}).unwrap();
        let logits = session.last_logits();
        bits.push(logits.iter().map(|l| l.to_bits()).collect::<Vec<u32>>());
        let best = (0..logits.len()).fold(0, |b, i| if logits[i] > logits[b] { i } else { b });
        ids.push(best as u32);
        next = vec![best as u32];
    }
    let budget = engine.budget();
    let streamed = budget.streamed_bytes > 0 || budget.expert_cache_bytes > 0;
    (bits, ids, streamed, engine.store().stats().total.expert_guesses)
}

fn floor(path: &Path) -> u64 {
    let context = Some(CONTEXT);
    common::floor(path, &LoadOptions { context, prompt_tokens: PROMPT, ..LoadOptions::default() })
}

/// The budget is the process's: engines under test must not see each other's memory.
static ALONE: Mutex<()> = Mutex::new(());

/// Gives the experts that were read on a guess, all ways together.
fn check(path: &Path) -> u64 {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (expected, ids, streamed, _) = run(path, PLAIN);
    assert!(!streamed, "the machine that runs the tests holds the whole model");
    let file = std::fs::metadata(path).unwrap().len();
    let (mut streamed_ways, mut all_guesses) = (0, 0);
    for io in [Io::Direct, Io::Mapped] {
        for (share, threads, step) in
            [(0, 1, 5), (20, 2, 3), (40, 2, PROMPT), (60, 2, 1), (90, 1, PROMPT)]
        {
            let guess = threads == 2;
            // The floor anew each time, and some room: the allocator keeps some of what the last
            // engine used, more or less of it as it pleases.
            let memory = MemoryLimit::Bytes(floor(path) + ROOM_BYTES + (file * share) / 100);
            let way = Way { memory, threads, io, step, guess };
            let (bits, got, streamed, guesses) = run(path, way);
            all_guesses += guesses;
            streamed_ways += usize::from(streamed);
            assert_eq!(got, ids, "{way:?}");
            assert!(bits == expected, "{way:?}: logits differ in their bits");
        }
    }
    assert!(streamed_ways >= 6, "only {streamed_ways} ways streamed: budgets too large to test");
    for (threads, step) in [(1, PROMPT), (2, 1), (3, 8)] {
        let way = Way { threads, step, ..PLAIN };
        assert!(run(path, way).0 == expected, "{way:?}");
    }
    all_guesses
}

fn synthetic(name: &str, mix: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bits-{name}-{mix}.gguf"));
    let mut shape = synth::Shape::named(name).unwrap();
    // Wide enough that the file is many tiles of the smallest size.
    shape.layers = shape.layers.max(6);
    let spec = Spec::new(shape, synth::Mix::named(mix).unwrap());
    synth::write_file(&spec, &path, &mut |_| {}).unwrap();
    path
}

#[test]
fn a_synthetic_llama_gives_the_same_bits_every_way() {
    let shape = synth::Shape::of_bytes(96_000_000, &synth::Mix::named("q4_0").unwrap()).unwrap();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bits-96mb.gguf");
    let spec = Spec::new(shape, synth::Mix::named("q4_0").unwrap());
    synth::write_file(&spec, &path, &mut |_| {}).unwrap();
    check(&path);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_mixture_of_experts_gives_the_same_bits_every_way() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bits-experts.gguf");
    let mut spec = Spec::named("qwen3moe-tiny", "f32").unwrap();
    // 96 MB: most of it cannot stay.
    spec.shape.layers = 12;
    synth::write_file(&spec, &path, &mut |_| {}).unwrap();
    assert!(check(&path) > 0, "nothing was guessed");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn parts_of_fused_matrices_give_the_same_bits_every_way() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("bits-fused.gguf");
    let mut spec = Spec::named("phi-tiny", "f32").unwrap();
    // Most of it cannot stay.
    spec.shape.layers = 36;
    synth::write_file(&spec, &path, &mut |_| {}).unwrap();
    check(&path);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn small_families_give_the_same_bits_with_any_batch_and_threads() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let dense = |name: &&&str| {
        name.ends_with("-tiny") && synth::Shape::named(name).unwrap().experts.is_none()
    };
    for name in synth::Shape::NAMES.iter().filter(dense) {
        for mix in ["f32", "q8_0"] {
            let path = synthetic(name, mix);
            let (expected, ..) = run(&path, PLAIN);
            for (threads, step) in [(1, PROMPT), (2, 1), (3, 8)] {
                let way = Way { threads, step, ..PLAIN };
                assert!(run(&path, way).0 == expected, "{name} {mix} {way:?}");
            }
            std::fs::remove_file(path).unwrap();
        }
    }
}

fn real(file: &str) {
    let Some(dir) = std::env::var_os("LOWTIDE_TEST_MODELS") else {
        println!("LOWTIDE_TEST_MODELS is not set: {file} not tested");
        return;
    };
    check(&Path::new(&dir).join(file));
}

#[test]
fn smollm2_gives_the_same_bits_every_way() {
    real("SmolLM2-135M-Instruct.Q4_1.gguf");
}

#[test]
fn gemma3_gives_the_same_bits_every_way() {
    real("gemma-3-270m-q4_k_m.gguf");
}
