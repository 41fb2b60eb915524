//! Any bytes as a GGUF file: no panic, and everything readable is read.
#![no_main]

#[path = "../../crates/gguf/tests/common/exercise.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|file: &[u8]| exercise::exercise(file));
