//! A sequence's logits are the same bits whoever shares its passes: alone, beside answers that are
//! being written, beside a prompt that is being read, and in a lane that held something else before.

use std::path::{Path, PathBuf};

use lowtide_bench::synth::{self, Spec};
use lowtide_engine::{
    Engine, Error, LoadOptions, Logits, Model, Piece, Sequences, Session, SharedSession,
};

/// Longer than the window of the shapes that have one.
const LENGTHS: [usize; 3] = [37, 5, 21];
const DECODED: usize = 8;
const CONTEXT: usize = 64;

fn model(name: &str) -> PathBuf {
    model_in(&format!("shared-{name}.gguf"), name)
}

fn model_in(file: &str, name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(file);
    synth::write_file(&Spec::named(name, "f32").unwrap(), &path, &mut |_| {}).unwrap();
    path
}

fn engine(path: &Path, lanes: usize) -> Engine {
    let options = LoadOptions {
        threads: Some(2),
        context: Some(CONTEXT),
        sequences: Sequences::Exactly(lanes),
        ..LoadOptions::default()
    };
    Engine::new(Model::open(path).unwrap(), &options).unwrap()
}

fn prompt(which: usize, vocabulary: u32) -> Vec<u32> {
    (0..LENGTHS[which] as u32).map(|i| (i * 7919 + 13 + which as u32 * 101) % vocabulary).collect()
}

fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|x| x.to_bits()).collect()
}

fn best(logits: &[f32]) -> u32 {
    (0..logits.len()).fold(0, |b, i| if logits[i] > logits[b] { i } else { b }) as u32
}

/// Greedy answers, each alone.
fn alone(path: &Path) -> Vec<Vec<Vec<u32>>> {
    let mut engine = engine(path, 1);
    let mut session = Session::new(&engine).unwrap();
    let vocabulary = engine.vocabulary_length() as u32;
    let one = |which| {
        session.reset();
        let mut next = prompt(which, vocabulary);
        let mut rows = Vec::new();
        for _ in 0..DECODED {
            session.forward(&mut engine, &next, Logits::Last, &mut |_, _| {}).unwrap();
            rows.push(bits(session.last_logits()));
            next = vec![best(session.last_logits())];
        }
        rows
    };
    (0..LENGTHS.len()).map(one).collect()
}

struct Answer {
    prompt: Vec<u32>,
    read: usize,
    next: u32,
    rows: Vec<Vec<u32>>,
}

/// The same answers in shared passes: prompts are read one after the other in pieces of `size` tokens
/// while those that are read already are answered.
fn shared(path: &Path, size: usize) -> Vec<Vec<Vec<u32>>> {
    let mut engine = engine(path, LENGTHS.len());
    let mut session = SharedSession::new(&engine).unwrap();
    assert_eq!(session.lanes(), LENGTHS.len());
    let vocabulary = engine.vocabulary_length() as u32;
    // What lanes held before is of no consequence.
    session.pass(&mut engine, None, &[(0, 3), (1, 4), (2, 5)]).unwrap();
    (0..LENGTHS.len()).for_each(|lane| session.reset(lane));
    let answer =
        |which| Answer { prompt: prompt(which, vocabulary), read: 0, next: 0, rows: vec![] };
    let mut answers: Vec<Answer> = (0..LENGTHS.len()).map(answer).collect();
    while answers.iter().any(|answer| answer.rows.len() < DECODED) {
        let reading = answers.iter().position(|answer| answer.read < answer.prompt.len());
        let piece = reading.map(|lane| {
            let Answer { prompt, read, .. } = &answers[lane];
            let to = prompt.len().min(read + size);
            Piece { lane, tokens: &prompt[*read..to], last: to == prompt.len() }
        });
        let writes = |answer: &Answer| (1..DECODED).contains(&answer.rows.len());
        let lanes = (0..answers.len()).filter(|lane| writes(&answers[*lane]));
        let steps: Vec<(usize, u32)> = lanes.map(|lane| (lane, answers[lane].next)).collect();
        session.pass(&mut engine, piece, &steps).unwrap();
        let (read, last) = piece.map_or((0, false), |piece| (piece.tokens.len(), piece.last));
        let ended = reading.filter(|_| last);
        if let Some(lane) = reading {
            answers[lane].read += read;
        }
        for (row, lane) in ended.into_iter().chain(steps.iter().map(|step| step.0)).enumerate() {
            let logits = session.logits(&engine, row);
            answers[lane].rows.push(bits(logits));
            answers[lane].next = best(logits);
        }
    }
    answers.into_iter().map(|answer| answer.rows).collect()
}

#[test]
fn company_changes_no_bit() {
    for name in [
        "llama-tiny",
        "qwen3-tiny",
        "gemma3-tiny",
        "qwen3moe-tiny",
        "gpt-oss-tiny",
        "deepseek2-tiny",
        // Positions matter in other ways here: some layers do not know them, queries grow with them.
        "smollm3-tiny",
        "mistral3-tiny",
        "hunyuan-moe-tiny",
    ] {
        let path = model(name);
        let expected = alone(&path);
        for size in [1, 4, CONTEXT - 2] {
            assert!(shared(&path, size) == expected, "{name}, pieces of {size}");
        }
        std::fs::remove_file(path).unwrap();
    }
}

#[test]
fn what_a_pass_has_no_room_for_is_an_error_and_changes_nothing() {
    let path = model("qwen2-tiny");
    let mut engine = engine(&path, 2);
    let mut session = SharedSession::new(&engine).unwrap();
    let long: Vec<u32> = (0..CONTEXT as u32).collect();
    let piece = |tokens| Some(Piece { lane: 0, tokens, last: true });
    let wide = session.pass(&mut engine, piece(&long), &[(1, 1)]).unwrap_err();
    assert!(matches!(wide, Error::PassTooWide { .. }), "{wide}");
    let foreign = session.pass(&mut engine, piece(&[1 << 30]), &[(1, 1)]).unwrap_err();
    assert!(matches!(foreign, Error::TokenOutOfRange { .. }), "{foreign}");
    session.pass(&mut engine, piece(&long), &[]).unwrap();
    let full = session.pass(&mut engine, None, &[(0, 1), (1, 1)]).unwrap_err();
    assert!(matches!(full, Error::ContextFull { .. }), "{full}");
    assert_eq!((session.position(0), session.position(1)), (CONTEXT, 0));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn free_sequences_take_an_eighth_of_the_budget_and_never_the_weights_place() {
    let path = model("olmoe-tiny");
    let model = || Model::open(&path).unwrap();
    let sequences = |memory, most| {
        let options = LoadOptions {
            memory,
            context: Some(CONTEXT),
            sequences: Sequences::AtMost(most),
            ..LoadOptions::default()
        };
        let engine = Engine::new(model(), &options).unwrap();
        (engine.sequences(), engine.budget().fixed.kv_bytes)
    };
    let auto = lowtide_engine::MemoryLimit::Auto;
    let (one, one_bytes) = sequences(auto, 1);
    let (many, many_bytes) = sequences(auto, 5);
    assert_eq!((one, many, many_bytes), (1, 5, 5 * one_bytes));
    std::fs::remove_file(&path).unwrap();
}

/// A reader that goes away in the middle of a prompt stops the pass after some layers, which have by then
/// overwritten the oldest positions of their window. Whoever goes on from an earlier one starts anew.
#[test]
fn a_stopped_pass_closes_the_way_back_to_what_it_overwrote() {
    const CONTEXT: usize = 2048;
    let path = model_in("stopped.gguf", "gemma3-tiny");
    let options =
        LoadOptions { threads: Some(2), context: Some(CONTEXT), ..LoadOptions::default() };
    let mut engine = Engine::new(Model::open(&path).unwrap(), &options).unwrap();
    let vocabulary = engine.vocabulary_length() as u32;
    let mut session = Session::new(&engine).unwrap();
    let batch = session.batch();
    let tokens: Vec<u32> = (0..2048).map(|i| (i * 7919 + 13) % vocabulary).collect();
    let kept = 2048 - 2 * batch - 1;
    assert!((64..1500).contains(&kept), "a batch of {batch}");
    let (end, next) = (kept + batch, [tokens[kept]]);

    session.forward(&mut engine, &tokens[..kept], Logits::None, &mut |_, _| {}).unwrap();
    session.forward(&mut engine, &next, Logits::Last, &mut |_, _| {}).unwrap();
    let expected = bits(session.last_logits());

    session.reset();
    session.forward(&mut engine, &tokens[..end], Logits::None, &mut |_, _| {}).unwrap();
    assert_eq!(session.truncate(end), end);
    let mut layers = 0;
    engine.set_progress(Some(Box::new(move |_, _| {
        layers += 1;
        layers < 3
    })));
    let stopped =
        session.forward(&mut engine, &tokens[end..end + batch], Logits::None, &mut |_, _| {});
    assert!(matches!(stopped, Err(Error::Stopped)), "{stopped:?}");
    engine.set_progress(None);
    assert_eq!(session.position(), end);

    let there = session.truncate(kept);
    session.forward(&mut engine, &tokens[there..kept], Logits::None, &mut |_, _| {}).unwrap();
    session.forward(&mut engine, &next, Logits::Last, &mut |_, _| {}).unwrap();
    assert!(bits(session.last_logits()) == expected, "kept {there} of {kept}");
    std::fs::remove_file(path).unwrap();
}
