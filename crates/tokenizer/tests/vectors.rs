//! The test vectors of llama.cpp's `models` folder: `LOWTIDE_TEST_VOCABS` names it.

mod common;

use lowtide_gguf::Gguf;
use lowtide_tokenizer::{DecodeOptions, EncodeOptions, Error, StreamDecoder, Tokenizer};

/// All vocabularies with vectors whose kind is supported: each must be there and pass.
const NAMES: [&str; 15] = [
    "command-r",
    "deepseek-coder",
    "deepseek-llm",
    "falcon",
    "gemma-4",
    "gpt-2",
    "llama-bpe",
    "llama-spm",
    "mpt",
    "phi-3",
    "qwen2",
    "qwen35",
    "refact",
    "starcoder",
    // Not supported, and it must say so.
    "bert-bge",
];

fn stream(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    let mut decoder = StreamDecoder::new(tokenizer, true).at_start();
    let mut out: String = ids.iter().map(|&id| decoder.push(id)).collect();
    out.push_str(&decoder.finish());
    out
}

#[test]
fn every_vector_passes_both_ways() {
    let Some(dir) = common::dir("LOWTIDE_TEST_VOCABS") else {
        return;
    };
    for name in NAMES {
        let path = dir.join(format!("ggml-vocab-{name}.gguf"));
        if name == "bert-bge" {
            let file = std::fs::read(&path).unwrap();
            let error = Tokenizer::from_gguf(&Gguf::parse(&file).unwrap()).unwrap_err();
            assert!(matches!(error, Error::UnsupportedModel { model } if model == "bert"));
            continue;
        }
        let tokenizer = common::tokenizer(&path);
        let inputs = std::fs::read_to_string(path.with_extension("gguf.inp")).unwrap();
        let outputs = std::fs::read_to_string(path.with_extension("gguf.out")).unwrap();
        let inputs: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
        let outputs: Vec<&str> = outputs.lines().collect();
        // Most files end with a separator: no input follows it.
        let inputs = inputs.strip_suffix(&[""]).unwrap_or(&inputs);
        assert!(outputs.len() >= 40 && inputs.len() == outputs.len(), "{name}");
        for (input, output) in inputs.iter().zip(&outputs) {
            let expect: Vec<u32> =
                output.split_whitespace().map(|id| id.parse().unwrap()).collect();
            let ids = tokenizer.encode(input, EncodeOptions::default());
            assert_eq!(ids, expect, "{name}: {input:?}");
            let text = tokenizer.decode(&ids, DecodeOptions::default());
            assert_eq!(text, *input, "{name}");
            assert_eq!(stream(&tokenizer, &ids), *input, "{name}");
        }
    }
}

#[test]
fn a_large_vocabulary_is_small_in_memory() {
    let Some(dir) = common::dir("LOWTIDE_TEST_VOCABS") else {
        return;
    };
    let tokenizer = common::tokenizer(&dir.join("ggml-vocab-qwen2.gguf"));
    assert_eq!(tokenizer.vocab_size(), 151_936);
    assert!(tokenizer.heap_bytes() < 10_000_000, "{}", tokenizer.heap_bytes());
}

#[test]
fn ends_of_generation_are_those_of_the_chat_format() {
    let Some(dir) = common::dir("LOWTIDE_TEST_VOCABS") else {
        return;
    };
    // (vocabulary, some of its end tokens, what must not be one)
    let expect = [
        ("qwen2", vec!["<|im_end|>", "<|endoftext|>"], "<|im_start|>"),
        ("llama-bpe", vec!["<|eot_id|>", "<|end_of_text|>"], "<|begin_of_text|>"),
        ("gemma-4", vec!["<eos>", "<turn|>"], "</s>"),
        ("phi-3", vec!["<|end|>", "<|endoftext|>", "</s>"], "<|user|>"),
    ];
    for (name, ends, other) in expect {
        let tokenizer = common::tokenizer(&dir.join(format!("ggml-vocab-{name}.gguf")));
        for end in ends {
            let id = tokenizer.token_id(end.as_bytes()).unwrap_or_else(|| panic!("{name} {end}"));
            assert!(tokenizer.is_eog(id), "{name} {end}");
        }
        let other = tokenizer.token_id(other.as_bytes()).unwrap();
        assert!(!tokenizer.is_eog(other), "{name}");
    }
}

#[test]
fn a_megabyte_of_one_word_is_encoded_in_one_go() {
    let Some(dir) = common::dir("LOWTIDE_TEST_VOCABS") else {
        return;
    };
    for name in ["qwen2", "llama-spm", "deepseek-llm"] {
        let tokenizer = common::tokenizer(&dir.join(format!("ggml-vocab-{name}.gguf")));
        for unit in ["a", " ", "\n", "a'"] {
            let text = unit.repeat((1 << 20) / unit.len());
            // Quadratic time would be hours: the test would not end.
            let ids = tokenizer.encode(&text, EncodeOptions::default());
            assert_eq!(tokenizer.decode(&ids, DecodeOptions::default()), text, "{name} {unit:?}");
        }
    }
}
