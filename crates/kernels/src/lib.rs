//! Slices in, slices out: block formats, matrix products, attention and the small operations
//! between them, in scalar Rust and SIMD. This crate knows no file, no tensor name, no model word.
//!
//! **One order of summation.** Every function here gives the same bits for any number of columns,
//! any number of threads, any tiling *and any instruction set*: the scalar reference is not close
//! to the SIMD code, it is equal to it.

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[macro_use]
mod unrolled;

pub mod attention;
pub mod compute;
mod disjoint;
pub mod elementwise;
pub mod format;
pub mod half;
pub mod isa;
pub mod math;
pub mod matmul;
#[cfg(target_arch = "aarch64")]
mod neon;
pub mod norm;
pub mod pool;
pub mod quantize;
pub mod rope;
pub mod rope_scaling;
pub mod rows;
pub mod shape;
mod simd;
#[cfg(test)]
mod testing;
