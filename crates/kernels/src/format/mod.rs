//! Weight formats: how a row of a matrix lies in memory, and what its bytes mean.
//!
//! A row is a sequence of blocks. [`blocks`] describes the bytes of each block, [`dequantize()`] gives
//! the values exactly as the format's authors define them, and [`canonical`] gives the integers that
//! matrix products work on. Names and numbers are those of the GGUF specification's `ggml_type`.

pub mod blocks;
pub mod canonical;
pub mod dequantize;
pub(crate) mod grids;
pub(crate) mod quants;

pub use dequantize::dequantize;

/// Why bytes cannot be read as rows of a format.
#[derive(Copy, Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FormatError {
    /// The number of values is no multiple of the block length.
    #[error("{values} values are no whole number of {} blocks of {block_len}", format.name())]
    Ragged {
        /// The format.
        format: Format,
        /// How many values were asked for.
        values: usize,
        /// How many values a block of the format holds.
        block_len: usize,
    },
    /// There are more or fewer bytes than the values take.
    #[error("{values} values of {} do not take {bytes} bytes", format.name())]
    Length {
        /// The format.
        format: Format,
        /// How many values were asked for.
        values: usize,
        /// How many bytes were given.
        bytes: usize,
    },
}

macro_rules! formats {
    ($($variant:ident $name:literal $type_id:literal $len:literal $block:ty, $doc:literal;)+) => {
        /// A format of weights.
        #[allow(non_camel_case_types, reason = "these are the names everyone knows the formats by")]
        #[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
        pub enum Format {
            $(#[doc = $doc] $variant,)+
        }

        impl Format {
            /// Every format, in the order of the `ggml_type` numbers of the families.
            pub const ALL: &[Format] = &[$(Format::$variant),+];

            /// How many consecutive values of a row one block holds.
            #[must_use]
            pub const fn block_len(self) -> usize {
                match self { $(Format::$variant => $len,)+ }
            }

            /// How many bytes one block takes.
            #[must_use]
            pub const fn block_bytes(self) -> usize {
                match self { $(Format::$variant => size_of::<$block>(),)+ }
            }

            /// The name as GGUF files and tools write it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Format::$variant => $name,)+ }
            }

            /// The number of this format in a GGUF file (`ggml_type`).
            #[must_use]
            pub const fn ggml_type(self) -> u32 {
                match self { $(Format::$variant => $type_id,)+ }
            }

            /// The format with this number in a GGUF file, `None` if there are no kernels for it.
            #[must_use]
            pub const fn from_ggml_type(number: u32) -> Option<Format> {
                match number { $($type_id => Some(Format::$variant),)+ _ => None }
            }
        }
    };
}

formats! {
    F32 "F32" 0 1 [u8; 4], "IEEE single precision.";
    F16 "F16" 1 1 [u8; 2], "IEEE half precision.";
    BF16 "BF16" 30 1 [u8; 2], "The upper half of a single.";
    Q4_0 "Q4_0" 2 32 blocks::Q4_0, "4 bits, one scale per 32.";
    Q4_1 "Q4_1" 3 32 blocks::Q4_1, "4 bits, scale and minimum per 32.";
    Q5_0 "Q5_0" 6 32 blocks::Q5_0, "5 bits, one scale per 32.";
    Q5_1 "Q5_1" 7 32 blocks::Q5_1, "5 bits, scale and minimum per 32.";
    Q8_0 "Q8_0" 8 32 blocks::Q8_0, "8 bits, one scale per 32.";
    Q4_K "Q4_K" 12 256 blocks::Q4K, "4 bits, 6-bit scale and minimum per 32, super-blocks of 256.";
    Q5_K "Q5_K" 13 256 blocks::Q5K, "5 bits, 6-bit scale and minimum per 32, super-blocks of 256.";
    Q6_K "Q6_K" 14 256 blocks::Q6K, "6 bits, 8-bit scale per 16, super-blocks of 256.";
    Q2_K "Q2_K" 10 256 blocks::Q2K, "2 bits, 4-bit scale and minimum per 16, super-blocks of 256.";
    Q3_K "Q3_K" 11 256 blocks::Q3K, "3 bits, 6-bit scale per 16, super-blocks of 256.";
    IQ4_NL "IQ4_NL" 20 32 blocks::IQ4NL, "4-bit codes of uneven values, one scale per 32.";
    IQ4_XS "IQ4_XS" 23 256 blocks::IQ4XS, "As IQ4_NL, with a 6-bit scale per 32, super-blocks of 256.";
    MXFP4 "MXFP4" 39 32 blocks::MXFP4, "4-bit floats, a power of two per 32.";
    NVFP4 "NVFP4" 40 64 blocks::NVFP4, "4-bit floats, an 8-bit float scale per 16.";
    IQ2_XXS "IQ2_XXS" 16 256 blocks::IQ2XXS, "2.06 bits: codebook of 8 values, 7 bits of signs.";
    IQ2_XS "IQ2_XS" 17 256 blocks::IQ2XS, "2.31 bits: codebook of 8 values, 7 bits of signs.";
    IQ2_S "IQ2_S" 22 256 blocks::IQ2S, "2.56 bits: codebook of 8 values, 8 bits of signs.";
    IQ3_XXS "IQ3_XXS" 18 256 blocks::IQ3XXS, "3.06 bits: codebook of 4 values, 7 bits of signs.";
    IQ3_S "IQ3_S" 21 256 blocks::IQ3S, "3.44 bits: codebook of 4 values, 8 bits of signs.";
    IQ1_S "IQ1_S" 19 256 blocks::IQ1S, "1.56 bits: codebook of 8 ternary values.";
    IQ1_M "IQ1_M" 29 256 blocks::IQ1M, "1.75 bits: codebook of 8 ternary values.";
    TQ1_0 "TQ1_0" 34 256 blocks::TQ1_0, "Ternary values, five to a byte.";
    TQ2_0 "TQ2_0" 35 256 blocks::TQ2_0, "Ternary values, four to a byte.";
    Q1_0 "Q1_0" 41 128 blocks::Q1_0, "Signs, one scale per 128.";
    Q2_0 "Q2_0" 42 64 blocks::Q2_0, "2 bits, one scale per 64.";
}

/// Evaluates `$call` with `$block` as the block struct of a format that is made of blocks.
macro_rules! with_block {
    ($format:expr, $block:ident => $call:expr, float => $float:expr) => {{
        use $crate::format::{Format, blocks};
        macro_rules! call {
            ($type:ty) => {{
                type $block = $type;
                $call
            }};
        }
        match $format {
            Format::F32 | Format::F16 | Format::BF16 => $float,
            Format::Q4_0 => call!(blocks::Q4_0),
            Format::Q4_1 => call!(blocks::Q4_1),
            Format::Q5_0 => call!(blocks::Q5_0),
            Format::Q5_1 => call!(blocks::Q5_1),
            Format::Q8_0 => call!(blocks::Q8_0),
            Format::Q4_K => call!(blocks::Q4K),
            Format::Q5_K => call!(blocks::Q5K),
            Format::Q6_K => call!(blocks::Q6K),
            Format::Q2_K => call!(blocks::Q2K),
            Format::Q3_K => call!(blocks::Q3K),
            Format::IQ4_NL => call!(blocks::IQ4NL),
            Format::IQ4_XS => call!(blocks::IQ4XS),
            Format::MXFP4 => call!(blocks::MXFP4),
            Format::NVFP4 => call!(blocks::NVFP4),
            Format::IQ2_XXS => call!(blocks::IQ2XXS),
            Format::IQ2_XS => call!(blocks::IQ2XS),
            Format::IQ2_S => call!(blocks::IQ2S),
            Format::IQ3_XXS => call!(blocks::IQ3XXS),
            Format::IQ3_S => call!(blocks::IQ3S),
            Format::IQ1_S => call!(blocks::IQ1S),
            Format::IQ1_M => call!(blocks::IQ1M),
            Format::TQ1_0 => call!(blocks::TQ1_0),
            Format::TQ2_0 => call!(blocks::TQ2_0),
            Format::Q1_0 => call!(blocks::Q1_0),
            Format::Q2_0 => call!(blocks::Q2_0),
        }
    }};
}
pub(crate) use with_block;

impl Format {
    /// The bytes of a row of `k` values; `None` if `k` is no multiple of the block length or the
    /// product overflows.
    #[must_use]
    pub const fn row_bytes(self, k: usize) -> Option<usize> {
        if !k.is_multiple_of(self.block_len()) {
            return None;
        }
        (k / self.block_len()).checked_mul(self.block_bytes())
    }

    /// Whether the values are floats as they are: products then use the activations as `f32`, not
    /// as 8-bit codes.
    #[must_use]
    pub const fn is_float(self) -> bool {
        matches!(self, Format::F32 | Format::F16 | Format::BF16)
    }
}

impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip_and_retired_ones_are_unknown() {
        for &format in Format::ALL {
            assert_eq!(Format::from_ggml_type(format.ggml_type()), Some(format));
        }
        for number in [4, 5, 9, 15, 24, 31, 36, 43, u32::MAX] {
            assert_eq!(Format::from_ggml_type(number), None, "{number}");
        }
    }

    #[test]
    fn row_bytes_refuses_ragged_rows_and_overflow() {
        assert_eq!(Format::Q4_1.row_bytes(576), Some(360));
        assert_eq!(Format::Q4_1.row_bytes(577), None);
        assert_eq!(Format::Q4_K.row_bytes(32), None);
        assert_eq!(Format::F32.row_bytes(usize::MAX), None);
        assert_eq!(Format::Q6_K.row_bytes(0), Some(0));
    }
}
