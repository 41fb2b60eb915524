//! Model families as data: which metadata keys, which tensors of which shapes, which variants of
//! attention and feed-forward. Nothing here reads a file or computes a logit; a new family is a
//! row in [`families`], not a new forward pass.
//!
//! Data flow: `Gguf -> ModelConfig -> Vec<TensorSpec>`; the engine binds the specs to bytes.
#![forbid(unsafe_code)]

pub mod arch;
pub mod config;
pub mod experts;
pub mod families;
mod heads;
mod keys;
pub mod latent;
pub mod limits;
pub mod positions;
pub mod tensors;

pub use arch::{Activation, Family, QkNorm, RopeStyle, Score};
pub use config::ModelConfig;
pub use experts::{Experts, Routing};
pub use latent::Latent;
pub use positions::{RopeScaling, Temperature};
pub use tensors::{Role, TensorSpec};

/// What is wrong with a model's metadata. Every variant names the key.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// The file does not say what model it is.
    #[error(
        "metadata key \"{key}\" is missing\n  {why}\n  run `lowtide inspect MODEL` to see what the file holds"
    )]
    Missing {
        /// The absent key.
        key: String,
        /// What it is needed for.
        why: &'static str,
    },
    /// A value that cannot be right, or that lowtide cannot use.
    #[error(
        "metadata key \"{key}\" is {value}: {why}\n  run `lowtide inspect MODEL` to see what the file holds"
    )]
    Invalid {
        /// The key.
        key: String,
        /// Its value, printed.
        value: String,
        /// The rule it breaks.
        why: String,
    },
    /// A family (or a feature of one) that has no row in the table.
    #[error("{what} is not supported\n  {why}\n  supported families: {}", arch::names())]
    Unsupported {
        /// The family or feature, as the file names it.
        what: String,
        /// Why going on would give wrong answers.
        why: String,
    },
    /// A tensor the family needs is absent or has another shape.
    #[error(
        "tensor \"{name}\" {problem}\n  {why}\n  the file may be damaged or made for another engine; `lowtide inspect MODEL` lists its tensors"
    )]
    Tensor {
        /// The tensor's name.
        name: String,
        /// "is missing", "has shape [..]", ...
        problem: String,
        /// What was expected.
        why: String,
    },
}
