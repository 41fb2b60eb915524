//! Writing GGUF headers: metadata and tensor table become bytes, tensor data is streamed by the caller to the offsets given.

use std::collections::HashSet;

use crate::array::ArrayRef;
use crate::error::{Error, quote};
use crate::ggml_type::GgmlType;
use crate::limits;
use crate::value::{Value, ValueType};

/// Collects metadata and tensor entries; [`HeaderWriter::finish`] lays them out.
///
/// A key or tensor that the reader would refuse is refused by `finish`, with the first such fault.
#[derive(Clone, Debug)]
pub struct HeaderWriter {
    version: u32,
    alignment: u32,
    keys: Vec<u8>,
    key_count: u64,
    tensors: Vec<TensorEntry>,
    names: HashSet<String>,
    fault: Option<Error>,
}

#[derive(Clone, Debug)]
struct TensorEntry {
    name: String,
    dims: Vec<u64>,
    ty: GgmlType,
    bytes: u64,
}

/// A finished header and where each tensor's data belongs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    /// The header's bytes, padded to the alignment: what stands before the data section.
    pub header: Vec<u8>,
    /// Absolute offset and length of each tensor's data, in the order in which the tensors were added.
    pub tensors: Vec<Placement>,
    /// Length of the whole file: the last tensor's data, padded to the alignment.
    pub file_bytes: u64,
}

/// Where one tensor's data belongs.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Placement {
    /// Bytes from the start of the file.
    pub offset: u64,
    /// Length in bytes; the gap to the next tensor is zeros.
    pub bytes: u64,
}

impl Default for HeaderWriter {
    fn default() -> Self {
        HeaderWriter::new()
    }
}

impl HeaderWriter {
    /// An empty header of version 3, alignment 32.
    #[must_use]
    pub fn new() -> HeaderWriter {
        HeaderWriter {
            version: limits::VERSION_MAX,
            alignment: limits::ALIGNMENT_DEFAULT,
            keys: Vec::new(),
            key_count: 0,
            tensors: Vec::new(),
            names: HashSet::new(),
            fault: None,
        }
    }

    /// Sets the version (2 or 3; they are laid out alike).
    pub fn version(&mut self, version: u32) -> &mut Self {
        if !(limits::VERSION_MIN..=limits::VERSION_MAX).contains(&version) {
            self.fail("version", "only versions 2 and 3 are written");
        }
        self.version = version;
        self
    }

    /// Sets the alignment of tensor data and adds the key that states it.
    pub fn alignment(&mut self, alignment: u32) -> &mut Self {
        if !alignment.is_power_of_two() || alignment > limits::ALIGNMENT_MAX {
            self.fail("general.alignment", "not a power of two up to 2 MiB");
            return self;
        }
        self.alignment = alignment;
        self.u32("general.alignment", alignment)
    }

    /// Adds a key with a value of any type, such as one read from another file.
    pub fn value(&mut self, key: &str, value: &Value<'_>) -> &mut Self {
        self.start(key, value.value_type());
        put_value(&mut self.keys, value);
        self
    }

    /// Adds a `u32`.
    pub fn u32(&mut self, key: &str, value: u32) -> &mut Self {
        self.value(key, &Value::U32(value))
    }

    /// Adds a `u16`.
    pub fn u16(&mut self, key: &str, value: u16) -> &mut Self {
        self.value(key, &Value::U16(value))
    }

    /// Adds an `i32`.
    pub fn i32(&mut self, key: &str, value: i32) -> &mut Self {
        self.value(key, &Value::I32(value))
    }

    /// Adds an `f32`.
    pub fn f32(&mut self, key: &str, value: f32) -> &mut Self {
        self.value(key, &Value::F32(value))
    }

    /// Adds a `bool`.
    pub fn bool(&mut self, key: &str, value: bool) -> &mut Self {
        self.value(key, &Value::Bool(value))
    }

    /// Adds a string.
    pub fn str(&mut self, key: &str, value: &str) -> &mut Self {
        self.value(key, &Value::String(value.as_bytes()))
    }

    /// Adds an array of strings.
    pub fn strings<S: AsRef<[u8]>>(&mut self, key: &str, values: &[S]) -> &mut Self {
        self.start_array(key, ValueType::String, values.len());
        for value in values {
            put_string(&mut self.keys, value.as_ref());
        }
        self
    }

    /// Adds an array of `u32`.
    pub fn u32s(&mut self, key: &str, values: &[u32]) -> &mut Self {
        self.start_array(key, ValueType::U32, values.len());
        self.keys.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        self
    }

    /// Adds an array of `i32`.
    pub fn i32s(&mut self, key: &str, values: &[i32]) -> &mut Self {
        self.start_array(key, ValueType::I32, values.len());
        self.keys.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        self
    }

    /// Adds an array of `f32`.
    pub fn f32s(&mut self, key: &str, values: &[f32]) -> &mut Self {
        self.start_array(key, ValueType::F32, values.len());
        self.keys.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        self
    }

    /// Adds an array of `bool`.
    pub fn bools(&mut self, key: &str, values: &[bool]) -> &mut Self {
        self.start_array(key, ValueType::Bool, values.len());
        self.keys.extend(values.iter().map(|&v| u8::from(v)));
        self
    }

    /// Adds a tensor. `dims` in ggml's order: the row first.
    pub fn tensor(&mut self, name: &str, dims: &[u64], ty: GgmlType) -> &mut Self {
        let bytes = match tensor_bytes(dims, ty) {
            Ok(bytes) => bytes,
            Err(why) => {
                self.fail(name, why);
                0
            }
        };
        if name.is_empty() || name.len() as u64 > limits::TENSOR_NAME_BYTES_MAX {
            self.fail(name, "tensor names have 1 to 64 bytes");
        }
        if name.contains(char::is_control) {
            self.fail(name, "tensor names hold no control characters");
        }
        if self.tensors.len() as u64 >= limits::TENSORS_MAX {
            self.fail(name, "too many tensors");
        }
        if !self.names.insert(format!("tensor {name}")) {
            self.fail(name, "the tensor stands twice");
        }
        self.tensors.push(TensorEntry { name: name.to_owned(), dims: dims.to_vec(), ty, bytes });
        self
    }

    /// Lays the file out.
    ///
    /// # Errors
    /// [`Error::Write`] with the first thing added that the format cannot express.
    pub fn finish(&self) -> Result<Layout, Error> {
        if let Some(fault) = &self.fault {
            return Err(fault.clone());
        }
        let align = u64::from(self.alignment);
        let too_large = || write_error("the file", "its length does not fit 64 bits");
        let mut header = Vec::with_capacity(self.keys.len() + self.tensors.len() * 96 + 64);
        header.extend(limits::MAGIC);
        header.extend(self.version.to_le_bytes());
        header.extend((self.tensors.len() as u64).to_le_bytes());
        header.extend(self.key_count.to_le_bytes());
        header.extend(&self.keys);
        let mut data_bytes = 0u64;
        let mut placements = Vec::with_capacity(self.tensors.len());
        for tensor in &self.tensors {
            put_string(&mut header, tensor.name.as_bytes());
            header.extend((tensor.dims.len() as u32).to_le_bytes());
            header.extend(tensor.dims.iter().flat_map(|dim| dim.to_le_bytes()));
            header.extend(tensor.ty.0.to_le_bytes());
            header.extend(data_bytes.to_le_bytes());
            placements.push(Placement { offset: data_bytes, bytes: tensor.bytes });
            let end = data_bytes.checked_add(tensor.bytes);
            data_bytes =
                end.and_then(|end| end.checked_next_multiple_of(align)).ok_or_else(too_large)?;
        }
        header.resize(header.len().next_multiple_of(self.alignment as usize), 0);
        let data_offset = header.len() as u64;
        let file_bytes = data_offset.checked_add(data_bytes).ok_or_else(too_large)?;
        for placement in &mut placements {
            placement.offset += data_offset;
        }
        Ok(Layout { header, tensors: placements, file_bytes })
    }

    fn start(&mut self, key: &str, ty: ValueType) {
        if key.is_empty() || key.len() as u64 > limits::KEY_BYTES_MAX || !key.is_ascii() {
            self.fail(key, "keys are 1 to 65535 bytes of ASCII");
        }
        if !self.names.insert(format!("key {key}")) {
            self.fail(key, "the key stands twice");
        }
        put_string(&mut self.keys, key.as_bytes());
        self.keys.extend(ty.id().to_le_bytes());
        self.key_count += 1;
    }

    fn start_array(&mut self, key: &str, element: ValueType, len: usize) {
        self.start(key, ValueType::Array);
        if len as u64 > limits::ARRAY_ELEMENTS_MAX {
            self.fail(key, "arrays have at most 2^30 elements");
        }
        self.keys.extend(element.id().to_le_bytes());
        self.keys.extend((len as u64).to_le_bytes());
    }

    fn fail(&mut self, what: &str, why: &str) {
        if self.fault.is_none() {
            self.fault = Some(write_error(&quote(what.as_bytes()), why));
        }
    }
}

fn write_error(what: &str, why: &str) -> Error {
    Error::Write { what: what.to_owned(), why: why.to_owned() }
}

/// Bytes of a tensor's data.
fn tensor_bytes(dims: &[u64], ty: GgmlType) -> Result<u64, &'static str> {
    let layout = ty.layout().ok_or("its type has no layout")?;
    if dims.len() > limits::DIMS_MAX as usize || dims.contains(&0) {
        return Err("tensors have up to four dimensions, none of them zero");
    }
    if !dims.first().unwrap_or(&1).is_multiple_of(layout.len) {
        return Err("its rows are not whole blocks of its type");
    }
    let elements = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
    let bytes = elements.and_then(|n| (n / layout.len).checked_mul(layout.bytes));
    bytes.filter(|&n| i64::try_from(n).is_ok()).ok_or("its size does not fit 63 bits")
}

fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}

fn put_array(out: &mut Vec<u8>, array: &ArrayRef<'_>) {
    out.extend(array.element_type().id().to_le_bytes());
    out.extend(array.len().to_le_bytes());
    out.extend(array.bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value<'_>) {
    match *value {
        Value::U8(v) => out.push(v),
        Value::I8(v) => out.extend(v.to_le_bytes()),
        Value::U16(v) => out.extend(v.to_le_bytes()),
        Value::I16(v) => out.extend(v.to_le_bytes()),
        Value::U32(v) => out.extend(v.to_le_bytes()),
        Value::I32(v) => out.extend(v.to_le_bytes()),
        Value::F32(v) => out.extend(v.to_le_bytes()),
        Value::Bool(v) => out.push(u8::from(v)),
        Value::String(v) => put_string(out, v),
        Value::Array(ref v) => put_array(out, v),
        Value::U64(v) => out.extend(v.to_le_bytes()),
        Value::I64(v) => out.extend(v.to_le_bytes()),
        Value::F64(v) => out.extend(v.to_le_bytes()),
    }
}
