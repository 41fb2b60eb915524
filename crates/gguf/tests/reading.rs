//! What is written is read back; prefixes, versions, typed access.

mod common;

use common::{Raw, small_file};
use lowtide_gguf::{Error, GgmlType, Gguf, Value, ValueType};

#[test]
fn every_value_type_comes_back() {
    let file = small_file();
    let gguf = Gguf::parse(&file).unwrap();
    assert_eq!((gguf.version(), gguf.alignment(), gguf.keys().len()), (3, 64, 20));
    assert_eq!(gguf.get("v.u8"), Some(Value::U8(200)));
    assert_eq!(gguf.get("v.i8"), Some(Value::I8(-100)));
    assert_eq!(gguf.get("v.u16"), Some(Value::U16(60_000)));
    assert_eq!(gguf.get("v.i16"), Some(Value::I16(-30_000)));
    assert_eq!(gguf.get("v.u32"), Some(Value::U32(4_000_000_000)));
    assert_eq!(gguf.get("v.i32"), Some(Value::I32(-2_000_000_000)));
    assert_eq!(gguf.get("v.f32"), Some(Value::F32(1.5)));
    assert_eq!(gguf.get("v.bool"), Some(Value::Bool(true)));
    assert_eq!(gguf.get("v.u64"), Some(Value::U64(u64::MAX)));
    assert_eq!(gguf.get("v.i64"), Some(Value::I64(i64::MIN)));
    assert_eq!(gguf.get("v.f64"), Some(Value::F64(-0.1)));
    assert_eq!(gguf.get("v.bytes"), Some(Value::String(b"a\xffb")));
    let array = |key| gguf.require_array(key).unwrap();
    let strings: Vec<&[u8]> = array("a.str").strings().unwrap().collect();
    assert_eq!(strings, [b"".as_slice(), b"a", "\u{e9}t\u{e9}".as_bytes()]);
    assert_eq!(array("a.str").strings().unwrap().len(), 3);
    assert!(array("a.u32").ints().unwrap().eq([1, 2, i64::from(u32::MAX)]));
    assert!(array("a.i32").ints().unwrap().eq([-1, 0, 1]));
    assert!(array("a.f32").f32s().unwrap().eq([0.25, -2.0]));
    assert!(array("a.bool").bools().unwrap().eq([true, false, true]));
    assert!(array("a.empty").is_empty());
    assert_eq!(array("a.i32").get(2), Some(Value::I32(1)));
    assert_eq!(array("a.i32").get(3), None);
    assert_eq!(array("a.i32").get(u64::MAX), None);
    assert_eq!(array("a.str").get(0), None);
    assert_eq!(array("a.str").values().count(), 3);
    assert_eq!(array("a.str").element_type(), ValueType::String);
    assert_eq!(gguf.get("absent"), None);
}

#[test]
fn tensors_come_back() {
    let file = small_file();
    let gguf = Gguf::parse(&file).unwrap();
    let names: Vec<&str> = gguf.tensors().iter().map(|t| t.name()).collect();
    assert_eq!(names, ["token_embd.weight", "blk.0.ffn_down.weight", "output_norm.weight"]);
    let tensor = gguf.require_tensor("blk.0.ffn_down.weight").unwrap();
    assert_eq!(tensor.dims(), [64, 3]);
    assert_eq!((tensor.row_len(), tensor.rows(), tensor.elements()), (64, 3, 192));
    assert_eq!((tensor.dim(1), tensor.dim(2), tensor.dim(9)), (3, 1, 1));
    assert_eq!((tensor.ggml_type(), tensor.byte_len().unwrap()), (GgmlType::Q4_0, 3 * 2 * 18));
    assert!(tensor.offset().is_multiple_of(64));
    let data = gguf.tensor_data(tensor).unwrap();
    assert_eq!(data.len(), 108);
    assert_eq!(data.as_ptr(), file[tensor.offset() as usize..].as_ptr());
    assert!(gguf.tensor("absent").is_none());
    assert!(matches!(gguf.require_tensor("absent"), Err(Error::MissingTensor { count: 3, .. })));
}

#[test]
fn typed_access_converts_what_fits_and_refuses_the_rest() {
    let file = small_file();
    let gguf = Gguf::parse(&file).unwrap();
    assert_eq!(gguf.get_u32("v.u8"), Ok(Some(200)));
    assert_eq!(gguf.get_u32("v.u32"), Ok(Some(4_000_000_000)));
    assert_eq!(gguf.get_u64("v.u64"), Ok(Some(u64::MAX)));
    assert_eq!(gguf.get_i32("v.i32"), Ok(Some(-2_000_000_000)));
    assert_eq!(gguf.get_f32("v.f64"), Ok(Some(-0.1)));
    assert_eq!(gguf.get_bool("v.bool"), Ok(Some(true)));
    assert_eq!(gguf.require_str("general.architecture"), Ok("llama"));
    assert_eq!(gguf.get_u32_of_layer("v.u8", 9), Ok(Some(200)));
    assert_eq!(gguf.get_u32_of_layer("a.u32", 1), Ok(Some(2)));
    assert_eq!(gguf.get_u32("absent"), Ok(None));
    assert!(matches!(gguf.require_f32("absent"), Err(Error::MissingKey { .. })));
    assert!(matches!(gguf.get_u32("v.i8"), Err(Error::OutOfRange { .. })));
    assert!(matches!(gguf.get_u32("v.u64"), Err(Error::OutOfRange { .. })));
    assert!(matches!(gguf.get_u32("v.f32"), Err(Error::WrongType { .. })));
    assert!(matches!(gguf.get_u32("v.bool"), Err(Error::WrongType { .. })));
    assert!(matches!(gguf.get_f32("v.u8"), Err(Error::WrongType { .. })));
    assert!(matches!(gguf.get_str("v.bytes"), Err(Error::NotUtf8 { valid: 1, .. })));
    assert!(matches!(gguf.get_u32_of_layer("a.u32", 3), Err(Error::ArrayLength { len: 3, .. })));
    assert!(matches!(gguf.get_u32_of_layer("a.str", 0), Err(Error::WrongType { .. })));
    let strings = gguf.require_array("a.str").unwrap();
    assert!(matches!(strings.ints(), Err(Error::WrongType { .. })));
    assert!(matches!(strings.f32s(), Err(Error::WrongType { .. })));
    assert!(matches!(strings.expect_len(4), Err(Error::ArrayLength { expected: 4, .. })));
    assert!(strings.expect_len(3).is_ok());
}

#[test]
fn version_2_reads_like_3() {
    let mut file = small_file();
    file[4] = 2;
    let gguf = Gguf::parse(&file).unwrap();
    assert_eq!((gguf.version(), gguf.tensors().len()), (2, 3));
}

#[test]
fn a_prefix_grows_until_the_header_is_in_it() {
    let file = small_file();
    let whole = Gguf::parse(&file).unwrap();
    let header = whole.header_bytes() as usize;
    for len in 0..header {
        match Gguf::parse_header(&file[..len], file.len() as u64) {
            Err(Error::NeedMore { at_least, have }) => {
                assert_eq!(have, len as u64);
                assert!(at_least > have && at_least <= header as u64, "{at_least} of {header}");
            }
            other => panic!("prefix of {len}: {other:?}"),
        }
    }
    let gguf = Gguf::parse_header(&file[..header], file.len() as u64).unwrap();
    assert_eq!(gguf.tensors(), whole.tensors());
    assert_eq!(gguf.data_offset(), whole.data_offset());
    let data = gguf.tensor_data(&gguf.tensors()[0]);
    assert!(matches!(data, Err(Error::DataNotIncluded { .. })));
}

#[test]
fn bytes_beyond_the_stated_file_length_do_not_exist() {
    let file = small_file();
    let longer = [file.as_slice(), &[0; 100]].concat();
    let cut = file.len() as u64 - 200;
    assert!(matches!(Gguf::parse_header(&longer, cut), Err(Error::PastEnd { .. })));
}

#[test]
fn nested_arrays_are_read() {
    // [[1u8, 2], []] of arrays of u8.
    let raw = Raw::default().key(b"nested", 9).u32(9).u64(2);
    let raw = raw.u32(0).u64(2).bytes(&[1, 2]).u32(0).u64(0);
    let file = raw.key(b"after", 7).bytes(&[1]).done();
    let gguf = Gguf::parse(&file).unwrap();
    assert_eq!(gguf.get_bool("after"), Ok(Some(true)));
    let inner: Vec<Vec<i64>> = gguf
        .require_array("nested")
        .unwrap()
        .values()
        .map(|value| match value {
            Value::Array(array) => array.ints().unwrap().collect(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(inner, [vec![1, 2], vec![]]);
}

#[test]
fn what_the_reader_refuses_the_writer_refuses() {
    use lowtide_gguf::write::HeaderWriter;
    let refused = |fill: &dyn Fn(&mut HeaderWriter)| {
        let mut writer = HeaderWriter::new();
        fill(&mut writer);
        assert!(matches!(writer.finish(), Err(Error::Write { .. })));
    };
    refused(&|w| _ = w.u32("", 1));
    refused(&|w| _ = w.u32("\u{e9}", 1));
    refused(&|w| _ = w.u32("k", 1).bool("k", true));
    refused(&|w| _ = w.alignment(3));
    refused(&|w| _ = w.version(1));
    refused(&|w| _ = w.tensor("t", &[0], GgmlType::F32));
    refused(&|w| _ = w.tensor("t", &[33], GgmlType::Q8_0));
    refused(&|w| _ = w.tensor("t", &[1; 5], GgmlType::F32));
    refused(&|w| _ = w.tensor("t", &[1 << 40, 1 << 40], GgmlType::F32));
    refused(&|w| _ = w.tensor("t", &[32], GgmlType::Q4_2));
    refused(&|w| _ = w.tensor("t", &[32], GgmlType::F32).tensor("t", &[32], GgmlType::F32));
    refused(&|w| _ = w.tensor("a\0b", &[32], GgmlType::F32));
}

/// With `LOWTIDE_TEST_MODELS` set, the real files are read and their tensors fill them to the end.
#[test]
fn real_models_are_read() {
    let Ok(dir) = std::env::var("LOWTIDE_TEST_MODELS") else {
        println!("LOWTIDE_TEST_MODELS is not set: no real model read");
        return;
    };
    let cases = [
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "llama", 49_152, 272),
        ("gemma-3-270m-q4_k_m.gguf", "gemma3", 262_144, 236),
    ];
    for (name, architecture, vocabulary, tensors) in cases {
        let path = std::path::Path::new(&dir).join(name);
        let file = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let gguf = Gguf::parse(&file).unwrap();
        assert_eq!(gguf.require_str("general.architecture"), Ok(architecture));
        let tokens = gguf.require_array("tokenizer.ggml.tokens").unwrap();
        assert_eq!(tokens.strings().unwrap().count(), vocabulary);
        assert_eq!(gguf.tensors().len(), tensors);
        let end = gguf.tensors().iter().map(|t| t.range().unwrap().end).max();
        let padded = end.map(|end| end.next_multiple_of(gguf.alignment().into()));
        assert!(end == Some(file.len() as u64) || padded == Some(file.len() as u64));
    }
}
