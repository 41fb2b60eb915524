//! Synthetic models: GGUF files of real shapes and random weights, for tests and for measurements of models that nobody here can
//! download.
#![forbid(unsafe_code)]

pub mod fit_check;
pub mod synth;
pub mod traffic;
