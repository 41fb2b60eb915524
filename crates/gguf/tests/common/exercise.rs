//! Everything a reader can ask of a file, asked: shared by the short fuzz of the test suite and the long one in `fuzz/`.

use lowtide_gguf::split::{SplitInfo, TensorTable};
use lowtide_gguf::{Error, Gguf, Value};

/// Parses `file` and reads all that it holds. Panics only if an invariant of the crate is broken.
pub fn exercise(file: &[u8]) {
    let whole = Gguf::parse(file);
    let half = Gguf::parse_header(&file[..file.len() / 2], file.len() as u64);
    match (&whole, &half) {
        (Ok(whole), Ok(half)) => assert_eq!(whole.tensors(), half.tensors()),
        (Err(Error::NeedMore { .. }), _) => panic!("more than the whole file is asked for"),
        (_, Err(Error::NeedMore { at_least, have })) => {
            assert!(have < at_least && *at_least <= file.len() as u64);
        }
        (Err(error), Err(other)) => assert_eq!(error.to_string(), other.to_string()),
        // A fault that the half does not reach is `NeedMore` there; a half that parses has the whole header.
        (Err(error), Ok(_)) => panic!("the half parses, the whole does not: {error}"),
        (Ok(_), Err(error)) => panic!("the whole parses, the half does not: {error}"),
    }
    match whole {
        Ok(gguf) => read_all(&gguf, file),
        Err(error) => check_message(&error),
    }
}

fn read_all(gguf: &Gguf<'_>, file: &[u8]) {
    assert!(gguf.header_bytes() <= file.len() as u64);
    for entry in gguf.keys() {
        let key = entry.key();
        assert_eq!(gguf.key_value(key).map(|found| found.offset()), Some(entry.offset()));
        read_value(&entry.value(), 0);
        let _ = (gguf.get_u32(key).map_err(checked), gguf.get_u64(key), gguf.get_i32(key));
        let _ = (gguf.get_f32(key).map_err(checked), gguf.get_bool(key), gguf.get_bytes(key));
        let _ = (gguf.get_str(key).map_err(checked), gguf.get_array(key));
        let _ = gguf.get_u32_of_layer(key, 1).map_err(checked);
    }
    for tensor in gguf.tensors() {
        assert_eq!(gguf.tensor(tensor.name()), Some(tensor));
        assert_eq!(tensor.elements(), tensor.row_len() * tensor.rows());
        match gguf.tensor_data(tensor) {
            Ok(data) => assert_eq!(data.len() as u64, tensor.byte_len().expect("has data")),
            Err(error) => assert!(matches!(error, Error::TensorType { .. }), "{error}"),
        }
    }
    let _ = SplitInfo::read(gguf).map_err(checked);
    let _ = TensorTable::merge(std::slice::from_ref(gguf)).map_err(checked);
}

fn read_value(value: &Value<'_>, depth: u32) {
    assert!(depth <= lowtide_gguf::limits::ARRAY_DEPTH_MAX);
    let Value::Array(array) = value else { return };
    assert_eq!(array.values().count() as u64, array.len());
    array.values().for_each(|inner| read_value(&inner, depth + 1));
    if let Ok(strings) = array.strings() {
        assert_eq!(strings.count() as u64, array.len());
    }
    if let Ok(ints) = array.ints() {
        assert_eq!(ints.count() as u64, array.len());
    }
    if let Ok(floats) = array.f32s() {
        assert_eq!(floats.count() as u64, array.len());
    }
    let _ = array.get(array.len() / 2);
}

fn checked(error: Error) -> Error {
    check_message(&error);
    error
}

fn check_message(error: &Error) {
    let text = error.to_string();
    assert!(!text.is_empty() && text.lines().count() <= 3 && text.len() < 1000, "{text}");
    assert!(!text.contains(|c: char| c.is_control() && c != '\n'), "{text:?}");
}
