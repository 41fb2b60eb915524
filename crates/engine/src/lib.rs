//! The forward pass, the KV cache, sampling and sessions: everything between an opened model file
//! and a token.
//!
//! `Model::open` reads the header; `Engine::new` plans the budget; `Session::forward` runs tokens
//! through the layers; `sampler` chooses. The bytes of weights come from the residency store as
//! tiles, the arithmetic from the kernels.
#![forbid(unsafe_code)]

mod attend;
mod bind;
pub mod budget;
pub mod engine;
mod error;
mod ffn;
mod forecast;
mod forward;
mod head;
mod kv;
mod latent;
mod linear;
mod model_file;
mod moe;
mod open_store;
mod pass_shape;
pub mod perplexity;
mod planner;
mod room;
mod rotary;
pub mod sampler;
mod sampler_defaults;
mod scratch;
mod sequence;
pub mod session;
mod shared;
mod slots;
pub mod stop;
mod text_stream;
mod touched;

pub use budget::{Budget, FixedCosts, MemoryLimit};
pub use engine::{Engine, Io, LoadOptions, Sequences};
pub use error::Error;
pub use forecast::{ExpertReads, Forecast, Forecaster, Traffic, plan};
pub use model_file::{Model, Shard, TensorPlace};
pub use moe::{RouteWatcher, Routed};
pub use pass_shape::{Product, ProductGroup};
pub use room::Room;
pub use sampler_defaults::SamplerDefaults;
pub use session::{Logits, Session};
pub use shared::{Piece, SharedSession};
pub use text_stream::TextStream;

pub use lowtide_kernels::attention::KvFormat;
