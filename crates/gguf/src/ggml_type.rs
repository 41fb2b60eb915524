//! Tensor element types: ids, names and block layouts, including the ids that were withdrawn.
//!
//! Ids are `enum ggml_type` of ggml's `include/ggml.h`; block sizes follow from the block structs in `src/ggml-common.h`.

use std::fmt;

/// A tensor's element type as the file states it: any 32-bit number. Known ids have a name and a [`BlockLayout`].
#[derive(Copy, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GgmlType(pub u32);

/// How a type packs elements: `len` consecutive elements of a row take `bytes` bytes.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct BlockLayout {
    /// Elements per block.
    pub len: u64,
    /// Bytes per block.
    pub bytes: u64,
}

/// Elements of a super-block of the k-quants (`QK_K`).
const K: u64 = 256;

/// One row of the table of types. `layout` is absent for ids that ggml withdrew.
struct Row {
    id: u32,
    name: &'static str,
    layout: Option<BlockLayout>,
}

const fn live(id: u32, name: &'static str, len: u64, bytes: u64) -> Row {
    Row { id, name, layout: Some(BlockLayout { len, bytes }) }
}

const fn retired(id: u32, name: &'static str) -> Row {
    Row { id, name, layout: None }
}

/// Declares the constants of [`GgmlType`] and checks at compile time that each stands at its own index in [`TABLE`].
macro_rules! types {
    ($($name:ident = $row:expr;)*) => {
        impl GgmlType {
            $(#[doc = concat!("`", stringify!($name), "`.")]
            pub const $name: GgmlType = GgmlType($row.id);)*
        }
        const TABLE: &[Row] = &[$($row),*];
        const _: () = {
            let mut i = 0;
            while i < TABLE.len() {
                assert!(TABLE[i].id as usize == i, "TABLE is indexed by id");
                i += 1;
            }
        };
    };
}

types! {
    F32 = live(0, "F32", 1, 4);
    F16 = live(1, "F16", 1, 2);
    Q4_0 = live(2, "Q4_0", 32, 2 + 16);
    Q4_1 = live(3, "Q4_1", 32, 2 + 2 + 16);
    Q4_2 = retired(4, "Q4_2");
    Q4_3 = retired(5, "Q4_3");
    Q5_0 = live(6, "Q5_0", 32, 2 + 4 + 16);
    Q5_1 = live(7, "Q5_1", 32, 2 + 2 + 4 + 16);
    Q8_0 = live(8, "Q8_0", 32, 2 + 32);
    Q8_1 = live(9, "Q8_1", 32, 2 + 2 + 32);
    Q2_K = live(10, "Q2_K", K, K / 16 + K / 4 + 2 + 2);
    Q3_K = live(11, "Q3_K", K, K / 8 + K / 4 + 12 + 2);
    Q4_K = live(12, "Q4_K", K, 2 + 2 + 12 + K / 2);
    Q5_K = live(13, "Q5_K", K, 2 + 2 + 12 + K / 8 + K / 2);
    Q6_K = live(14, "Q6_K", K, K / 2 + K / 4 + K / 16 + 2);
    Q8_K = live(15, "Q8_K", K, 4 + K + K / 16 * 2);
    IQ2_XXS = live(16, "IQ2_XXS", K, 2 + K / 4);
    IQ2_XS = live(17, "IQ2_XS", K, 2 + K / 4 + K / 32);
    IQ3_XXS = live(18, "IQ3_XXS", K, 2 + 3 * (K / 8));
    IQ1_S = live(19, "IQ1_S", K, 2 + K / 8 + K / 16);
    IQ4_NL = live(20, "IQ4_NL", 32, 2 + 16);
    IQ3_S = live(21, "IQ3_S", K, 2 + 13 * (K / 32) + K / 64);
    IQ2_S = live(22, "IQ2_S", K, 2 + K / 4 + K / 16);
    IQ4_XS = live(23, "IQ4_XS", K, 2 + 2 + K / 64 + K / 2);
    I8 = live(24, "I8", 1, 1);
    I16 = live(25, "I16", 1, 2);
    I32 = live(26, "I32", 1, 4);
    I64 = live(27, "I64", 1, 8);
    F64 = live(28, "F64", 1, 8);
    IQ1_M = live(29, "IQ1_M", K, K / 8 + K / 16 + K / 32);
    BF16 = live(30, "BF16", 1, 2);
    Q4_0_4_4 = retired(31, "Q4_0_4_4");
    Q4_0_4_8 = retired(32, "Q4_0_4_8");
    Q4_0_8_8 = retired(33, "Q4_0_8_8");
    TQ1_0 = live(34, "TQ1_0", K, 2 + K / 64 + (K - 4 * K / 64) / 5);
    TQ2_0 = live(35, "TQ2_0", K, 2 + K / 4);
    IQ4_NL_4_4 = retired(36, "IQ4_NL_4_4");
    IQ4_NL_4_8 = retired(37, "IQ4_NL_4_8");
    IQ4_NL_8_8 = retired(38, "IQ4_NL_8_8");
    MXFP4 = live(39, "MXFP4", 32, 1 + 16);
    NVFP4 = live(40, "NVFP4", 64, 4 + 32);
    Q1_0 = live(41, "Q1_0", 128, 2 + 16);
    Q2_0 = live(42, "Q2_0", 64, 2 + 16);
}

impl GgmlType {
    fn row(self) -> Option<&'static Row> {
        TABLE.get(usize::try_from(self.0).ok()?)
    }

    /// Name as ggml writes it, `None` for an id that no version of ggml has used.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        self.row().map(|row| row.name)
    }

    /// The type of this name (upper or lower case: `Q4_K`, `q4_k`).
    #[must_use]
    pub fn from_name(name: &str) -> Option<GgmlType> {
        TABLE.iter().find(|row| row.name.eq_ignore_ascii_case(name)).map(|row| GgmlType(row.id))
    }

    /// Block layout, `None` for unknown ids and for those that ggml withdrew.
    #[must_use]
    pub fn layout(self) -> Option<BlockLayout> {
        self.row().and_then(|row| row.layout)
    }

    /// Whether this id once was a type and has been withdrawn (files with it cannot be read by current ggml either).
    #[must_use]
    pub fn is_retired(self) -> bool {
        self.row().is_some_and(|row| row.layout.is_none())
    }

    /// All ids that ggml has ever used, in order.
    pub fn all() -> impl Iterator<Item = GgmlType> {
        TABLE.iter().map(|row| GgmlType(row.id))
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.pad(name),
            None => f.pad(&format!("type {}", self.0)),
        }
    }
}

impl fmt::Debug for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Block sizes as ggml's own tables give them (python package `gguf` 0.19, `GGML_QUANT_SIZES`, except `Q2_0`: `ggml-common.h`).
    #[test]
    fn block_sizes_match_ggml() {
        let expected: &[(u32, u64, u64)] = &[
            (0, 1, 4),
            (1, 1, 2),
            (2, 32, 18),
            (3, 32, 20),
            (6, 32, 22),
            (7, 32, 24),
            (8, 32, 34),
            (9, 32, 36),
            (10, 256, 84),
            (11, 256, 110),
            (12, 256, 144),
            (13, 256, 176),
            (14, 256, 210),
            (15, 256, 292),
            (16, 256, 66),
            (17, 256, 74),
            (18, 256, 98),
            (19, 256, 50),
            (20, 32, 18),
            (21, 256, 110),
            (22, 256, 82),
            (23, 256, 136),
            (24, 1, 1),
            (25, 1, 2),
            (26, 1, 4),
            (27, 1, 8),
            (28, 1, 8),
            (29, 256, 56),
            (30, 1, 2),
            (34, 256, 54),
            (35, 256, 66),
            (39, 32, 17),
            (40, 64, 36),
            (41, 128, 18),
            (42, 64, 18),
        ];
        let live: Vec<_> = GgmlType::all()
            .filter_map(|t| t.layout().map(|layout| (t.0, layout.len, layout.bytes)))
            .collect();
        assert_eq!(live, expected);
    }

    #[test]
    fn retired_and_unknown_types_have_no_layout() {
        let retired: Vec<u32> = GgmlType::all().filter(|t| t.is_retired()).map(|t| t.0).collect();
        assert_eq!(retired, [4, 5, 31, 32, 33, 36, 37, 38]);
        assert_eq!(GgmlType(31).to_string(), "Q4_0_4_4");
        assert_eq!(GgmlType(43).layout(), None);
        assert!(!GgmlType(43).is_retired());
        assert_eq!(GgmlType(u32::MAX).to_string(), "type 4294967295");
        assert_eq!(GgmlType::from_name("q4_k"), Some(GgmlType::Q4_K));
        assert_eq!(GgmlType::from_name("q4_x"), None);
    }
}
