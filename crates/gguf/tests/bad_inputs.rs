//! Rows 1 to 17 of the project's list of bad inputs, and the structural parts of 18 to 24: one typed error each, three lines at
//! most, that name what and where.

mod common;

use common::{Raw, small_file};
use lowtide_gguf::{Error, Gguf, limits};

/// Parses `file`, which must fail; checks the message's form and that it says `expected`. Gives the error.
fn refused(file: &[u8], expected: &[&str]) -> Error {
    let error = Gguf::parse(file).map(|_| ()).expect_err(expected[0]);
    assert_message(&error, expected);
    error
}

fn assert_message(error: &Error, expected: &[&str]) {
    let text = error.to_string();
    assert!((2..=3).contains(&text.lines().count()), "{text}");
    assert!(text.len() < 800 && !text.contains('\0'), "{text}");
    for part in expected {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

macro_rules! assert_error {
    ($file:expr, $pattern:pat, $($expected:expr),+) => {
        let error = refused(&$file, &[$($expected),+]);
        assert!(matches!(error, $pattern), "{error:?}");
    };
}

const U8: u32 = 0;
const U32: u32 = 4;
const BOOL: u32 = 7;
const STRING: u32 = 8;
const ARRAY: u32 = 9;

#[test]
fn row_01_empty_short_wrong_magic() {
    assert_error!([], Error::Empty, "empty", "24 bytes");
    let header = Raw::default().done();
    assert_eq!(header.len(), 24);
    for len in 1..24 {
        assert_error!(header[..len], Error::Truncated { .. }, "cut short", "header field");
    }
    for magic in [b"GGUX", b"gguf", b"ggjt", b"PK\x03\x04", b"<!DO", b"vers", &[0; 4], &[0xff; 4]] {
        let mut file = small_file();
        file[..4].copy_from_slice(magic);
        assert_error!(file, Error::Magic { .. }, "not a GGUF file", "offset 0");
        assert_error!(
            file[..1 + usize::from(magic[0] == b'G')].repeat(2),
            Error::Magic { .. },
            "magic"
        );
    }
}

#[test]
fn row_02_versions() {
    for version in [0, 1, 4, 0xffff, u32::MAX] {
        let file = Raw { version: Some(version), ..Raw::default() }.done();
        assert_error!(file, Error::Version { .. }, "version", "offset 4", &version.to_string());
    }
    for version in [2u32, 3] {
        let swapped = Raw { version: Some(version.swap_bytes()), ..Raw::default() }.done();
        assert_error!(swapped, Error::BigEndian { .. }, "big-endian", "offset 4", "little");
    }
}

#[test]
fn row_03_counts() {
    for count in [1, 1 << 20, u64::from(u32::MAX), i64::MAX as u64, u64::MAX] {
        let file = Raw { tensor_count: Some(count), ..Raw::default() }.done();
        assert_error!(file, Error::Count { .. }, "tensor count at offset 8", &count.to_string());
        let file = Raw { key_count: Some(count), ..Raw::default() }.done();
        assert_error!(file, Error::Count { .. }, "key count at offset 16", &count.to_string());
    }
    // A huge file makes a huge count possible: the cap holds, and nothing is allocated for it.
    let file = Raw { key_count: Some(1 << 40), ..Raw::default() }.done();
    let error = Gguf::parse_header(&file, 1 << 60).map(|_| ()).unwrap_err();
    assert_eq!(
        error,
        Error::Count {
            field: "header field key count".into(),
            offset: 16,
            count: 1 << 40,
            most: limits::KEYS_MAX
        }
    );
    let file = Raw { key_count: Some(limits::KEYS_MAX), ..Raw::default() }.done();
    let error = Gguf::parse_header(&file, 1 << 60).map(|_| ()).unwrap_err();
    assert_eq!(error, Error::NeedMore { at_least: 32, have: 24 });
    // One key too many for the bytes that are there.
    let file = Raw { key_count: Some(3), ..Raw::default() }.key(b"a", U8).bytes(&[1]);
    assert_error!(file.key(b"b", U8).bytes(&[1]).done(), Error::Count { .. }, "at most 2");
}

#[test]
fn row_04_string_lengths() {
    for len in [101, 1 << 30, u64::MAX] {
        let file = Raw::default().key(b"general.name", STRING).u64(len).bytes(&[b'x'; 100]).done();
        assert!(file.len() <= 160, "as in the list: a gigabyte inside 160 bytes");
        assert_error!(
            file,
            Error::StringLength { .. },
            "string length",
            "\"general.name\"",
            "offset 48"
        );
        let mut raw = Raw { tensor_count: Some(1), ..Raw::default() };
        raw = raw.u64(len).bytes(&[b'x'; 100]);
        assert_error!(raw.done(), Error::StringLength { .. }, "name of tensor 0", "offset 24");
    }
    // Over the cap in a file that could hold it.
    let file = Raw::default().key(b"general.name", STRING).u64((1 << 30) + 1).done();
    let error = Gguf::parse_header(&file, 1 << 40).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::StringLength { most: limits::STRING_BYTES_MAX, .. }));
}

#[test]
fn row_05_keys() {
    assert_error!(
        Raw::default().key(b"", U8).bytes(&[1; 9]).done(),
        Error::KeyName { .. },
        "key 0",
        "is empty"
    );
    let long = vec![b'k'; 65_536];
    assert_error!(
        Raw::default().key(&long, U8).bytes(&[1]).done(),
        Error::StringLength { .. },
        "65536",
        "65535"
    );
    assert!(Gguf::parse(&Raw::default().key(&long[1..], U8).bytes(&[1]).done()).is_ok());
    for key in ["caf\u{e9}".as_bytes(), b"a\xff"] {
        let file = Raw::default().key(key, U8).bytes(&[1]).done();
        assert_error!(file, Error::KeyName { .. }, "not ASCII", "offset 24");
    }
    let file = Raw::default().key(b"a", U8).bytes(&[1]).key(b"b", U8).bytes(&[1]);
    let file = file.key(b"a", BOOL).bytes(&[1]).done();
    assert_error!(file, Error::DuplicateKey { .. }, "\"a\" stands twice", "offset 24", "offset 52");
}

/// A million of each in well under the seconds that a quadratic check would take (10^12 steps: hours).
#[test]
fn row_06_a_million_keys_and_tensors() {
    let mut raw = Raw::default();
    for i in 0..1_000_000u32 {
        raw = raw.key(format!("{i:x}").as_bytes(), U8).bytes(&[1]);
    }
    for i in 0..1_000_000u32 {
        raw = raw.tensor(format!("{i:x}").as_bytes(), &[], 24, u64::from(i) * 32);
    }
    let file = raw.done();
    let start = std::time::Instant::now();
    let error = Gguf::parse(&file).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::PastEnd { .. }), "{error}");
    let gguf = Gguf::parse_header(&file, file.len() as u64 + 32_000_000).unwrap();
    assert_eq!((gguf.keys().len(), gguf.tensors().len()), (1_000_000, 1_000_000));
    assert_eq!(gguf.get_u32("f423f"), Ok(Some(1)));
    assert_eq!(gguf.tensor("f423f").unwrap().name(), "f423f");
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

#[test]
fn row_07_value_types() {
    for id in [13, 255, 1 << 31, u32::MAX] {
        let file = Raw::default().key(b"k", id).bytes(&[0; 16]).done();
        assert_error!(
            file,
            Error::ValueType { .. },
            "value type",
            "\"k\"",
            &id.to_string(),
            "offset 33"
        );
        let file = Raw::default().key(b"k", ARRAY).u32(id).u64(1).bytes(&[0; 16]).done();
        assert_error!(file, Error::ValueType { .. }, "array element type", "offset 37");
    }
    for value in [2, 0x80, 0xff] {
        let file = Raw::default().key(b"k", BOOL).bytes(&[value]).done();
        assert_error!(file, Error::Bool { .. }, "neither 0 nor 1", "offset 37", &value.to_string());
        let file = Raw::default().key(b"k", ARRAY).u32(BOOL).u64(3).bytes(&[1, 0, value]).done();
        assert_error!(file, Error::Bool { .. }, "neither 0 nor 1", "offset 51");
    }
}

#[test]
fn row_08_nesting() {
    let nested = |depth: usize| {
        let mut raw = Raw::default().key(b"deep", ARRAY);
        for _ in 1..depth {
            raw = raw.u32(ARRAY).u64(1);
        }
        raw.u32(U8).u64(1).bytes(&[7]).done()
    };
    assert!(Gguf::parse(&nested(limits::ARRAY_DEPTH_MAX as usize)).is_ok());
    for depth in [limits::ARRAY_DEPTH_MAX as usize + 1, 1000, 100_000] {
        assert_error!(nested(depth), Error::ArrayDepth { .. }, "nested", "\"deep\"");
    }
}

#[test]
fn row_09_array_sizes() {
    for element in [0, 2, 4, 6, 7, 8, 9, 10, 12] {
        for len in [200, 1 << 29, 1 << 61, 1 << 63, u64::MAX / 8 + 2, u64::MAX] {
            let file =
                Raw::default().key(b"k", ARRAY).u32(element).u64(len).bytes(&[0; 100]).done();
            assert_error!(file, Error::Count { .. }, "array length of key \"k\"", "offset 41");
        }
    }
    let file = Raw::default().key(b"k", ARRAY).u32(U8).u64((1 << 30) + 1).done();
    let error = Gguf::parse_header(&file, 1 << 40).map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Count { most: limits::ARRAY_ELEMENTS_MAX, .. }));
    // Strings whose lengths lie, inside an array whose count does not.
    let file = Raw::default().key(b"k", ARRAY).u32(STRING).u64(2).string(b"ok").u64(1 << 40);
    assert_error!(file.done(), Error::StringLength { .. }, "string length", "\"k\"");
}

#[test]
fn row_10_alignment() {
    for value in [0, 3, 33, 1 << 31, u32::MAX] {
        let file = Raw::default().key(b"general.alignment", U32).u32(value).done();
        assert_error!(file, Error::Alignment { .. }, "alignment", &value.to_string(), "offset 24");
    }
    for (ty, bytes) in [(5, 4), (10, 8), (6, 4), (STRING, 8), (BOOL, 1)] {
        let file = Raw::default().key(b"general.alignment", ty).bytes(&vec![0; bytes]).done();
        assert_error!(file, Error::Alignment { .. }, "of type", "power of two of type u32");
    }
}

#[test]
fn row_11_dimensions() {
    for count in [5, 1 << 31, u32::MAX] {
        let file = Raw::default().tensor_name(b"t").u32(count).bytes(&[1; 64]).done();
        assert_error!(file, Error::DimensionCount { .. }, "\"t\"", "dimensions", "offset 33");
    }
    for dim in [0, 1 << 63, u64::MAX] {
        let file = Raw::default().tensor(b"t", &[32, dim], 0, 0).with_data(256);
        assert_error!(file, Error::Dimension { .. }, "\"t\"", "dimension 1", "offset 45");
    }
    let file = Raw::default().tensor(b"t", &[i64::MAX as u64], 24, 0).with_data(256);
    assert_error!(file, Error::PastEnd { .. }, "\"t\"", "ends at");
    let file = Raw::default().tensor(b"t", &[i64::MAX as u64], 1, 0).with_data(256);
    assert_error!(file, Error::TensorSize { .. }, "\"t\"", "impossibly large");
}

#[test]
fn row_12_products_that_wrap_for_every_block_size() {
    for ty in lowtide_gguf::GgmlType::all() {
        let Some(layout) = ty.layout() else { continue };
        // 2^32 * 2^32, 2^64 in four steps, and bytes (not elements) that overflow 63 bits.
        let row = 256 * layout.len;
        let almost = (i64::MAX as u64 / layout.len) * layout.len;
        let shapes: [&[u64]; 4] = [
            &[1 << 32, 1 << 32],
            &[1 << 16, 1 << 16, 1 << 16, 1 << 16],
            &[row, 1 << 62],
            &[almost, if layout.bytes > layout.len { 1 } else { 1 << 20 }],
        ];
        for dims in shapes {
            let file = Raw::default().tensor(b"t", dims, ty.0, 0).with_data(256);
            assert_error!(file, Error::TensorSize { .. }, "\"t\"", "63 bits", &ty.to_string());
        }
    }
}

#[test]
fn row_13_rows_and_types() {
    for ty in lowtide_gguf::GgmlType::all() {
        let Some(layout) = ty.layout() else { continue };
        if layout.len > 1 {
            let file = Raw::default().tensor(b"t", &[layout.len + 1], ty.0, 0).with_data(8192);
            assert_error!(file, Error::RowBlock { .. }, "\"t\"", "whole blocks", &ty.to_string());
        }
        let file = Raw::default().tensor(b"t", &[layout.len * 2, 3], ty.0, 0).with_data(8192);
        let gguf = Gguf::parse(&file).unwrap();
        assert_eq!(gguf.tensors()[0].byte_len(), Ok(layout.bytes * 6));
    }
    // The header is read whatever the types (`inspect`); the tensor is refused when its bytes are asked for.
    for (id, words) in [(4, "retired"), (31, "Q4_0_4_4"), (43, "unknown"), (u32::MAX, "4294967295")]
    {
        let file = Raw::default().tensor(b"t", &[32], id, 0).with_data(256);
        let gguf = Gguf::parse(&file).unwrap();
        let error = gguf.tensor_data(&gguf.tensors()[0]).unwrap_err();
        assert_message(&error, &["\"t\"", "type", words]);
        assert!(matches!(error, Error::TensorType { .. }));
        assert_eq!(gguf.tensors()[0].range(), Err(error));
    }
}

#[test]
fn row_14_offsets() {
    let one = |offset| Raw::default().tensor(b"t", &[8], 0, offset).with_data(64);
    assert!(Gguf::parse(&one(0)).is_ok());
    assert!(Gguf::parse(&one(32)).is_ok());
    for offset in [1, 31, 33] {
        assert_error!(one(offset), Error::Misaligned { .. }, "\"t\"", "misaligned", "alignment 32");
    }
    for offset in [64, 1 << 40, 1 << 63, u64::MAX - 31, u64::MAX - 63] {
        assert_error!(one(offset), Error::PastEnd { .. }, "\"t\"", "ends at", "cut short");
    }
    let two = |first, second| {
        let raw = Raw::default().tensor(b"a", &[16], 0, first).tensor(b"b", &[16], 0, second);
        raw.with_data(256)
    };
    assert!(Gguf::parse(&two(64, 0)).is_ok());
    for (first, second) in [(0, 0), (0, 32), (32, 0), (64, 96)] {
        assert_error!(two(first, second), Error::Overlap { .. }, "overlap", "\"a\"", "\"b\"");
    }
    // An unknown type's length is unknown, but its start may not lie inside another tensor.
    let raw = Raw::default().tensor(b"a", &[16], 0, 0).tensor(b"b", &[16], 99, 32);
    assert_error!(raw.with_data(256), Error::Overlap { .. }, "overlap");
}

#[test]
fn row_15_truncation_at_every_byte() {
    let file = small_file();
    let end = Gguf::parse(&file).unwrap().tensors().iter().map(|t| t.range().unwrap().end).max();
    let end = end.unwrap() as usize;
    for len in 0..end {
        let error = Gguf::parse(&file[..len]).map(|_| ()).unwrap_err();
        assert_message(&error, &[""]);
        assert!(!matches!(error, Error::NeedMore { .. }), "{len}: {error}");
        // Told that the file is longer, the same bytes are a prefix: more is asked for, or the header is complete.
        match Gguf::parse_header(&file[..len], file.len() as u64) {
            Ok(gguf) => assert!(gguf.header_bytes() <= len as u64),
            Err(error) => assert!(matches!(error, Error::NeedMore { .. }), "{len}: {error}"),
        }
    }
    // Only padding may be missing.
    assert!(Gguf::parse(&file[..end]).is_ok());
}

#[test]
fn row_16_tensor_names() {
    let named = |name: &[u8]| Raw::default().tensor(name, &[8], 0, 0).with_data(64);
    assert_error!(named(b""), Error::TensorName { .. }, "tensor 0", "no name");
    assert_error!(named(b"a\0b"), Error::TensorName { .. }, "NUL", "a\\0b");
    assert_error!(named(b"a\x1b[31mb"), Error::TensorName { .. }, "control", "\\u{1b}");
    assert_error!(named(b"a\xffb"), Error::TensorName { .. }, "UTF-8", "\\xff");
    assert_error!(named(&[b'x'; 65]), Error::StringLength { .. }, "65", "at most 64");
    assert!(Gguf::parse(&named(&[b'x'; 64])).is_ok());
    let raw = Raw::default().tensor(b"same", &[8], 0, 0).tensor(b"same", &[8], 0, 32);
    assert_error!(
        raw.with_data(64),
        Error::DuplicateTensor { .. },
        "\"same\"",
        "twice",
        "offset 24"
    );
    let file = named(b"other");
    let error = Gguf::parse(&file).unwrap().require_tensor("token_embd.weight").unwrap_err();
    assert_message(&error, &["token_embd.weight", "missing", "1 tensors"]);
}

/// Rows 17 to 22 concern what the numbers mean and are refused where they are used; here, that access to them is typed.
#[test]
fn rows_17_to_22_typed_access() {
    let mut writer = lowtide_gguf::write::HeaderWriter::new();
    writer
        .i32("llama.block_count", -1)
        .str("llama.context_length", "2048")
        .f32("llama.attention.head_count", 32.0)
        .i32s("tokenizer.ggml.scores", &[1, 2])
        .f32s("tokenizer.ggml.token_type", &[1.0])
        .strings("tokenizer.ggml.tokens", &["a", "b", "c"])
        .value("tokenizer.chat_template", &lowtide_gguf::Value::String(b"\xf0\x28"));
    let file = writer.finish().unwrap().header;
    let gguf = Gguf::parse(&file).unwrap();
    let message = |error: Option<Error>, expected: &[&str]| {
        assert_message(&error.expect("refused"), expected);
    };
    message(gguf.require_u32("llama.block_count").err(), &["block_count", "range", "-1"]);
    message(gguf.require_u32("llama.context_length").err(), &["context_length", "str", "integer"]);
    message(gguf.require_u32("llama.attention.head_count").err(), &["head_count", "f32"]);
    message(gguf.require_u32("llama.rope.dimension_count").err(), &["missing"]);
    let scores = gguf.require_array("tokenizer.ggml.scores").unwrap();
    message(scores.f32s().err(), &["tokenizer.ggml.scores", "array of i32", "floats"]);
    message(scores.expect_len(3).err(), &["2 elements", "should have 3"]);
    let types = gguf.require_array("tokenizer.ggml.token_type").unwrap();
    message(types.ints().err(), &["token_type", "array of f32", "integers"]);
    message(gguf.get_str("tokenizer.chat_template").err(), &["chat_template", "UTF-8"]);
}
