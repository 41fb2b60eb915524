//! A call that is forced, in every format: whatever a model prefers, what the grammar lets through is one
//! call of one of the tools, and the format's reader reads it.

use std::sync::Arc;

use lowtide_tokenizer::{LoadOptions, NamedIds, Tokenizer, VocabParts};
use serde_json::{Value, json};

use crate::constraint::{Constraint, Grammars, Mask};
use crate::format::{Format, Tool};
use crate::reader::{Delta, Reader};

const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const END: u32 = 256;

/// Control tokens of the families, as their vocabularies have them.
const MARKS: [(&str, i32); 13] = [
    ("<|im_end|>", CONTROL),
    ("<tool_call>", USER_DEFINED),
    ("</tool_call>", USER_DEFINED),
    ("[TOOL_CALLS]", CONTROL),
    ("<|python_tag|>", CONTROL),
    ("<｜tool▁calls▁begin｜>", CONTROL),
    ("<｜tool▁calls▁end｜>", CONTROL),
    ("<｜tool▁call▁begin｜>", CONTROL),
    ("<｜tool▁call▁end｜>", CONTROL),
    ("<｜tool▁sep｜>", CONTROL),
    ("<|channel|>", CONTROL),
    ("<|constrain|>", CONTROL),
    ("<|message|>", CONTROL),
];

/// Bytes, and the families' marks; without `marks`, those are spelled in bytes.
fn tokenizer(marks: bool) -> Arc<Tokenizer> {
    let itself = |b: u32| matches!(b, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let shifted = (0..256).filter(|b| !itself(*b)).count() as u32;
    let alphabet = (0..256).filter(|b| itself(*b)).chain(0x100..0x100 + shifted);
    let mut texts: Vec<String> =
        alphabet.filter_map(char::from_u32).map(|letter| letter.to_string()).collect();
    let mut types = vec![NORMAL; 256];
    for (text, kind) in MARKS.into_iter().take(if marks { MARKS.len() } else { 1 }) {
        texts.push(text.to_owned());
        types.push(kind);
    }
    let parts = VocabParts {
        model: "gpt2",
        pre: Some("gpt-2"),
        tokens: texts.iter().map(|text| text.as_bytes()).collect(),
        token_types: types,
        merges: Some(Vec::new()),
        ids: NamedIds { bos: Some(END), eos: Some(END), ..NamedIds::default() },
        ..VocabParts::default()
    };
    Arc::new(Tokenizer::from_parts(&parts, LoadOptions::default()).unwrap())
}

fn tools() -> Vec<Tool> {
    let tool =
        |name: &str, parameters| Tool { name: name.to_owned(), description: None, parameters };
    vec![
        tool(
            "weather",
            json!({ "type": "object", "properties": {
                "city": { "enum": ["Oslo", "Rome \"quoted\""] },
                "days": { "type": "integer", "minimum": 1, "maximum": 7 },
            }, "required": ["city", "days"], "additionalProperties": false }),
        ),
        tool(
            "stop.all",
            json!({ "type": "object", "properties": {}, "additionalProperties": false }),
        ),
    ]
}

fn forced(format: Format, tokenizer: &Arc<Tokenizer>) -> Constraint {
    let control =
        |text: &str| tokenizer.token_id(text.as_bytes()).filter(|id| tokenizer.is_control(*id));
    let grammars = Arc::new(Grammars::new(tokenizer, tokenizer.vocab_size(), 64).unwrap());
    grammars
        .compile(&format.grammar(&tools(), &control))
        .unwrap_or_else(|e| panic!("{format:?}: {e}"))
}

fn allowed(mask: &Mask, vocabulary: usize) -> Vec<u32> {
    let is_set = |id: &u32| mask.words()[*id as usize / 32] >> (id % 32) & 1 == 1;
    (0..vocabulary as u32).filter(is_set).collect()
}

/// What a model without any preference writes.
fn write(format: Format, tokenizer: &Arc<Tokenizer>, seed: u64) -> String {
    let mut constraint = forced(format, tokenizer);
    let mut state = seed * 2 + 1;
    let mut bytes = Vec::new();
    for _ in 0..3000 {
        let ids = allowed(&constraint.mask().unwrap(), tokenizer.vocab_size());
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let id = ids[(state >> 33) as usize % ids.len()];
        constraint.accept(id).unwrap();
        if tokenizer.is_eog(id) {
            break;
        }
        bytes.extend(tokenizer.token_bytes(id));
        if constraint.is_finished() {
            break;
        }
    }
    assert!(constraint.is_finished(), "{format:?}: never ends");
    String::from_utf8(bytes).unwrap()
}

const FORMATS: [Format; 6] = [
    Format::Hermes,
    Format::Told,
    Format::Llama3,
    Format::Mistral,
    Format::DeepSeek,
    Format::Harmony,
];

#[test]
fn what_a_forced_grammar_lets_through_is_read_as_one_call() {
    let mut names = std::collections::BTreeSet::new();
    for marks in [true, false] {
        let tokenizer = tokenizer(marks);
        for (format, seed) in FORMATS.iter().flat_map(|f| (0..6).map(move |seed| (*f, seed))) {
            let answer = write(format, &tokenizer, seed);
            let mut reader = Reader::new(format, true, true, false);
            let mut out = Vec::new();
            answer.chars().for_each(|letter| reader.push(&letter.to_string(), &mut out));
            reader.finish(&mut out);
            let Delta::Call(name) = &out[0] else { panic!("{format:?}: {answer}: {out:?}") };
            let pieces = out[1..].iter().map(|delta| match delta {
                Delta::Arguments(piece) => piece.as_str(),
                other => panic!("{format:?}: {answer}: {other:?}"),
            });
            let arguments: Value = serde_json::from_str(&pieces.collect::<String>()).unwrap();
            let keys: Vec<&String> = arguments.as_object().unwrap().keys().collect();
            match name.as_str() {
                "weather" => {
                    assert_eq!(keys, ["city", "days"], "{answer}");
                    assert!((1..=7).contains(&arguments["days"].as_i64().unwrap()), "{answer}");
                }
                "stop.all" => assert!(keys.is_empty(), "{answer}"),
                other => panic!("{other} was never offered: {answer}"),
            }
            names.insert(name.clone());
        }
    }
    assert_eq!(names.len(), 2, "both tools came");
}

#[test]
fn a_forced_call_cannot_begin_as_text() {
    let tokenizer = tokenizer(true);
    let id = |text: &str| tokenizer.token_id(text.as_bytes()).unwrap();
    for (format, first) in [
        (Format::Hermes, "<"),
        (Format::Llama3, "{"),
        (Format::Mistral, "[TOOL_CALLS]"),
        (Format::DeepSeek, "<｜tool▁calls▁begin｜>"),
        (Format::Harmony, "<|channel|>"),
    ] {
        let ids = allowed(&forced(format, &tokenizer).mask().unwrap(), tokenizer.vocab_size());
        assert!(ids.contains(&id(first)), "{format:?} does not begin with {first}");
        assert!(!ids.contains(&id("H")) && !ids.contains(&END), "{format:?} may begin as text");
    }
}
