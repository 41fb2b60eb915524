//! A GGUF reader that borrows the file's bytes and trusts none of them.
//!
//! A GGUF file is a header (magic, version, counts), metadata (key, type, value), a tensor table (name, dimensions, type,
//! offset) and, after padding to the file's alignment, the tensors' data. Versions 2 and 3 share one little-endian layout.
//!
//! [`Gguf::parse`] takes the whole file as a slice (a mapping of it) and touches the header only: of an 18 GB file it reads
//! the few megabytes that hold the vocabulary. [`Gguf::parse_header`] takes a prefix and the file's length, for callers that
//! bring bytes in by explicit reads; it answers [`Error::NeedMore`] until the header lies inside the prefix.
//!
//! Nothing is copied: strings and arrays are ranges of the input. What is allocated (one record per key and per tensor, one
//! hash slot for each) is proportional to bytes that are really there, never to a count the file merely states. Every cap is
//! a constant in [`limits`].
//!
//! This crate does no I/O and holds no `unsafe`.
#![forbid(unsafe_code)]

mod array;
mod cursor;
mod error;
mod get;
mod ggml_type;
mod index;
pub mod limits;
mod parse;
pub mod split;
mod tensor;
mod value;
pub mod write;

pub use array::{ArrayRef, F32s, Ints, Strings};
pub use error::Error;
pub use ggml_type::{BlockLayout, GgmlType};
pub use parse::Gguf;
pub use tensor::TensorInfo;
pub use value::{KeyValue, Value, ValueType};
