//! The header as a whole: counts, metadata, tensor table, and the checks across entries.

use crate::cursor::{Cursor, Field};
use crate::error::{Error, keep};
use crate::index::NameIndex;
use crate::limits;
use crate::tensor::TensorInfo;
use crate::value::{KeyValue, Value};

/// A parsed header. Borrows the bytes it was parsed from and nothing else.
#[derive(Clone, Debug)]
pub struct Gguf<'a> {
    bytes: &'a [u8],
    file_bytes: u64,
    version: u32,
    alignment: u32,
    header_bytes: u64,
    data_offset: u64,
    keys: Vec<KeyValue<'a>>,
    key_index: NameIndex,
    tensors: Vec<TensorInfo<'a>>,
    tensor_index: NameIndex,
}

impl<'a> Gguf<'a> {
    /// Parses a whole file. Only the header's bytes are touched.
    ///
    /// # Errors
    /// Any variant but [`Error::NeedMore`].
    pub fn parse(file: &'a [u8]) -> Result<Gguf<'a>, Error> {
        Gguf::parse_header(file, file.len() as u64)
    }

    /// Parses the header of a file of `file_bytes` bytes that starts with `prefix`. Tensor data need not be part of it.
    ///
    /// # Errors
    /// [`Error::NeedMore`] if the header is not wholly inside `prefix`; grow it (doubling keeps the total work linear) and try
    /// again. Every other variant is a fault of the file.
    pub fn parse_header(prefix: &'a [u8], file_bytes: u64) -> Result<Gguf<'a>, Error> {
        let mut cursor = Cursor::new(prefix, file_bytes);
        let version = read_version(&mut cursor)?;
        let tensor_count =
            read_count(&mut cursor, "tensor count", limits::TENSORS_MAX, limits::TENSOR_BYTES_MIN)?;
        let key_count =
            read_count(&mut cursor, "key count", limits::KEYS_MAX, limits::KEY_VALUE_BYTES_MIN)?;
        let mut gguf = Gguf {
            bytes: cursor.bytes(),
            file_bytes,
            version,
            alignment: limits::ALIGNMENT_DEFAULT,
            header_bytes: 0,
            data_offset: 0,
            keys: Vec::new(),
            key_index: NameIndex::default(),
            tensors: Vec::new(),
            tensor_index: NameIndex::default(),
        };
        gguf.read_keys(&mut cursor, key_count)?;
        gguf.alignment = gguf.read_alignment()?;
        gguf.read_tensors(&mut cursor, tensor_count)?;
        gguf.header_bytes = cursor.offset();
        gguf.data_offset = gguf.header_bytes.next_multiple_of(gguf.alignment.into());
        for tensor in &mut gguf.tensors {
            tensor.place(gguf.data_offset, gguf.alignment, file_bytes)?;
        }
        check_overlap(&gguf.tensors)?;
        Ok(gguf)
    }

    fn read_keys(&mut self, cursor: &mut Cursor<'a>, count: u64) -> Result<(), Error> {
        for index in 0..count {
            let offset = cursor.offset();
            let key = read_key(cursor, index)?;
            let entry = KeyValue::read(cursor, key, offset)?;
            let keys = &self.keys;
            // Counts are below 2^24: positions fit 32 bits.
            let known = self.key_index.insert(key, index as u32, |at| keys[at as usize].key());
            if let Err(first) = known {
                let first = keys[first as usize].offset();
                return Err(Error::DuplicateKey { key: key.to_owned(), first, offset });
            }
            self.keys.push(entry);
        }
        Ok(())
    }

    fn read_alignment(&self) -> Result<u32, Error> {
        let Some(entry) = self.key_value("general.alignment") else {
            return Ok(limits::ALIGNMENT_DEFAULT);
        };
        match entry.value() {
            Value::U32(n) if n.is_power_of_two() && n <= limits::ALIGNMENT_MAX => Ok(n),
            Value::U32(n) => Err(Error::Alignment { value: n.to_string(), offset: entry.offset() }),
            other => Err(Error::Alignment {
                value: format!("of type {}", other.value_type()),
                offset: entry.offset(),
            }),
        }
    }

    fn read_tensors(&mut self, cursor: &mut Cursor<'a>, count: u64) -> Result<(), Error> {
        for index in 0..count {
            let tensor = TensorInfo::read(cursor, index)?;
            let tensors = &self.tensors;
            let name = tensor.name();
            let known =
                self.tensor_index.insert(name, index as u32, |at| tensors[at as usize].name());
            if let Err(first) = known {
                let at = |tensor: &TensorInfo<'_>| format!("at offset {}", tensor.entry_offset());
                return Err(Error::DuplicateTensor {
                    name: name.to_owned(),
                    first: at(&tensors[first as usize]),
                    again: at(&tensor),
                });
            }
            self.tensors.push(tensor);
        }
        Ok(())
    }

    /// The format's version, 2 or 3.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Alignment of tensor data in bytes, a power of two.
    #[must_use]
    pub fn alignment(&self) -> u32 {
        self.alignment
    }

    /// Length of the file as given to the parser.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Length of the header: magic, counts, metadata and tensor table, without padding.
    #[must_use]
    pub fn header_bytes(&self) -> u64 {
        self.header_bytes
    }

    /// Where the data section starts: the header's length, rounded up to the alignment.
    #[must_use]
    pub fn data_offset(&self) -> u64 {
        self.data_offset
    }

    /// The metadata in file order.
    #[must_use]
    pub fn keys(&self) -> &[KeyValue<'a>] {
        &self.keys
    }

    /// The entry of `key`.
    #[must_use]
    pub fn key_value(&self, key: &str) -> Option<&KeyValue<'a>> {
        let at = self.key_index.find(key, |at| self.keys[at as usize].key())?;
        self.keys.get(at as usize)
    }

    /// The tensor table in file order.
    #[must_use]
    pub fn tensors(&self) -> &[TensorInfo<'a>] {
        &self.tensors
    }

    /// The tensor of this name.
    #[must_use]
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo<'a>> {
        let at = self.tensor_index.find(name, |at| self.tensors[at as usize].name())?;
        self.tensors.get(at as usize)
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// [`Error::MissingTensor`] if there is none.
    pub fn require_tensor(&self, name: &str) -> Result<&TensorInfo<'a>, Error> {
        self.tensor(name).ok_or_else(|| Error::MissingTensor {
            name: name.to_owned(),
            count: self.tensors.len() as u64,
        })
    }

    /// A tensor's data, for a parser that was given the whole file.
    ///
    /// # Errors
    /// [`Error::TensorType`] if the type has no known layout, [`Error::DataNotIncluded`] if only a prefix was given.
    pub fn tensor_data(&self, tensor: &TensorInfo<'a>) -> Result<&'a [u8], Error> {
        let range = tensor.range()?;
        let slice = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        slice.and_then(|(start, end)| self.bytes.get(start..end)).ok_or_else(|| {
            Error::DataNotIncluded {
                name: tensor.name().to_owned(),
                end: range.end,
                have: self.bytes.len() as u64,
            }
        })
    }
}

/// Magic and version.
fn read_version(cursor: &mut Cursor<'_>) -> Result<u32, Error> {
    if cursor.file_len() == 0 {
        return Err(Error::Empty);
    }
    let field = Field::Header("magic");
    let magic = cursor.take(cursor.file_len().min(limits::MAGIC.len() as u64), field)?;
    if magic != limits::MAGIC && !limits::MAGIC.starts_with(magic) {
        return Err(Error::Magic { magic: magic.to_vec() });
    }
    let version = cursor.u32(Field::Header("version"))?;
    if version != 0 && version & 0xffff == 0 {
        return Err(Error::BigEndian { version });
    }
    if !(limits::VERSION_MIN..=limits::VERSION_MAX).contains(&version) {
        return Err(Error::Version { version });
    }
    Ok(version)
}

/// A count of entries that take at least `bytes_min` each.
fn read_count(
    cursor: &mut Cursor<'_>,
    name: &'static str,
    cap: u64,
    bytes_min: u64,
) -> Result<u64, Error> {
    let field = Field::Header(name);
    let offset = cursor.offset();
    let count = cursor.u64(field)?;
    let most = cap.min(cursor.remaining() / bytes_min);
    if count > most {
        return Err(Error::Count { field: field.to_string(), offset, count, most });
    }
    Ok(count)
}

fn read_key<'a>(cursor: &mut Cursor<'a>, index: u64) -> Result<&'a str, Error> {
    let offset = cursor.offset();
    let bytes = cursor.string(limits::KEY_BYTES_MAX, Field::KeyName(index))?;
    let wrong = |why| Error::KeyName { index, offset, key: keep(bytes), why };
    if bytes.is_empty() {
        return Err(wrong("is empty"));
    }
    if !bytes.is_ascii() {
        return Err(wrong("is not ASCII"));
    }
    str::from_utf8(bytes).map_err(|_| wrong("is not ASCII"))
}

/// No two tensors share a byte. Linear for files whose data stands in the order of the table, as writers lay it out.
fn check_overlap(tensors: &[TensorInfo<'_>]) -> Result<(), Error> {
    let in_order = tensors.windows(2).all(|pair| pair[0].known_end() <= pair[1].offset());
    if in_order {
        return Ok(());
    }
    let mut order: Vec<u32> = (0..tensors.len() as u32).collect();
    order.sort_unstable_by_key(|&at| tensors[at as usize].offset());
    for pair in order.windows(2) {
        let (first, second) = (&tensors[pair[0] as usize], &tensors[pair[1] as usize]);
        if first.known_end() > second.offset() {
            return Err(Error::Overlap {
                first: first.name().to_owned(),
                second: second.name().to_owned(),
                first_end: first.known_end(),
                second_start: second.offset(),
            });
        }
    }
    Ok(())
}
