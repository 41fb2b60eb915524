//! Every cap of the reader in one place, each with its source.
//!
//! "Spec" is ggml's `docs/gguf.md`; "reference reader" is ggml's `src/gguf.cpp` (2026).

/// The first four bytes of every GGUF file (spec).
pub const MAGIC: [u8; 4] = *b"GGUF";

/// Oldest version read: version 1 had 32-bit counts and has not been written since 2023 (spec, version history).
pub const VERSION_MIN: u32 = 2;

/// Newest version known (spec).
pub const VERSION_MAX: u32 = 3;

/// Magic, version, tensor count, key count: the fixed part of the header (spec).
pub const FIXED_HEADER_BYTES: u64 = 4 + 4 + 8 + 8;

/// A key is at most 2^16 - 1 bytes of ASCII (spec).
pub const KEY_BYTES_MAX: u64 = 65_535;

/// A tensor name is at most 64 bytes (spec; the reference reader allows 63 and a terminator).
pub const TENSOR_NAME_BYTES_MAX: u64 = 64;

/// A string is at most 1 GiB (reference reader, `GGUF_MAX_STRING_LENGTH`).
pub const STRING_BYTES_MAX: u64 = 1 << 30;

/// An array has at most 2^30 elements (reference reader, `GGUF_MAX_ARRAY_ELEMENTS`).
pub const ARRAY_ELEMENTS_MAX: u64 = 1 << 30;

/// Arrays may contain arrays (spec), but no known writer nests them at all and the reference reader refuses it. Four levels
/// are read, so that the walk over a value is recursion of a small, fixed depth.
pub const ARRAY_DEPTH_MAX: u32 = 4;

/// A tensor has at most four dimensions (`GGML_MAX_DIMS`).
pub const DIMS_MAX: u32 = 4;

/// Keys are indexed by 32-bit slots; 2^24 keys are 16 times the largest count that a hostile file of the test suite has, and
/// 10^5 times what models have (at most a few hundred).
pub const KEYS_MAX: u64 = 1 << 24;

/// As [`KEYS_MAX`]. The largest models published have below 10^5 tensors.
pub const TENSORS_MAX: u64 = 1 << 24;

/// Fewest bytes of one metadata entry: key length (8), a key of one byte, value type (4), a value of one byte (spec).
pub const KEY_VALUE_BYTES_MIN: u64 = 8 + 1 + 4 + 1;

/// Fewest bytes of one tensor entry: name length (8), a name of one byte, dimension count (4), type (4), offset (8) (spec).
pub const TENSOR_BYTES_MIN: u64 = 8 + 1 + 4 + 4 + 8;

/// Alignment of tensor data where `general.alignment` is absent (spec).
pub const ALIGNMENT_DEFAULT: u32 = 32;

/// Largest alignment accepted: a 2 MiB huge page. Writers use 32, some 4096; beyond a huge page padding serves nobody.
pub const ALIGNMENT_MAX: u32 = 2 << 20;

/// A split set has at most as many shards as its keys can count (`split.count` is a 16-bit integer in the reference writer).
pub const SHARDS_MAX: u32 = u16::MAX as u32;

/// How much of a name from the file an error message repeats, in bytes: enough to recognise it, never a screenful.
pub const QUOTED_BYTES_MAX: usize = 80;
