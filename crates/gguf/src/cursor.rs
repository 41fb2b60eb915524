//! Reading the header's little-endian fields in order, each with its place named for errors.

use std::fmt;

use crate::error::{Error, quote};
use crate::limits;

/// What is being read: the "where" of an error, turned into text only if there is an error.
#[derive(Copy, Clone)]
pub(crate) enum Field<'x> {
    /// A field of the fixed header.
    Header(&'static str),
    /// The name of the key with this index.
    KeyName(u64),
    /// A part of the entry of this key.
    Key(&'x str, &'static str),
    /// The name of the tensor with this index.
    TensorName(u64),
    /// A part of the entry of this tensor.
    Tensor(&'x str, &'static str),
}

impl fmt::Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Field::Header(part) => write!(f, "header field {part}"),
            Field::KeyName(index) => write!(f, "name of metadata key {index}"),
            Field::Key(key, part) => write!(f, "{part} of key {}", quote(key.as_bytes())),
            Field::TensorName(index) => write!(f, "name of tensor {index}"),
            Field::Tensor(name, part) => write!(f, "{part} of tensor {}", quote(name.as_bytes())),
        }
    }
}

/// A position in the header. `bytes` is what the caller brought, `file_len` how long the file is; `bytes` may be a prefix.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    pos: usize,
    file_len: u64,
}

impl<'a> Cursor<'a> {
    /// `bytes` is cut to `file_len`, so that a position inside `bytes` is always inside the file.
    pub(crate) fn new(bytes: &'a [u8], file_len: u64) -> Self {
        let bytes = usize::try_from(file_len).ok().and_then(|n| bytes.get(..n)).unwrap_or(bytes);
        Cursor { bytes, pos: 0, file_len }
    }

    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub(crate) fn file_len(&self) -> u64 {
        self.file_len
    }

    pub(crate) fn offset(&self) -> u64 {
        self.pos as u64
    }

    /// Bytes from here to the end of the file, brought or not.
    pub(crate) fn remaining(&self) -> u64 {
        self.file_len - self.offset()
    }

    /// The next `n` bytes.
    ///
    /// # Errors
    /// [`Error::Truncated`] if the file ends before, [`Error::NeedMore`] if only the prefix does.
    pub(crate) fn take(&mut self, n: u64, field: Field<'_>) -> Result<&'a [u8], Error> {
        if n > self.remaining() {
            return Err(Error::Truncated {
                field: field.to_string(),
                offset: self.offset(),
                bytes: n,
                file_bytes: self.file_len,
            });
        }
        let at_least = self.offset() + n;
        let taken = usize::try_from(at_least).ok().and_then(|end| self.bytes.get(self.pos..end));
        let Some(taken) = taken else {
            return Err(Error::NeedMore { at_least, have: self.bytes.len() as u64 });
        };
        self.pos += taken.len();
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, field: Field<'_>) -> Result<[u8; N], Error> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, field)?);
        Ok(out)
    }

    pub(crate) fn u32(&mut self, field: Field<'_>) -> Result<u32, Error> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    pub(crate) fn u64(&mut self, field: Field<'_>) -> Result<u64, Error> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// A length-prefixed string's bytes.
    ///
    /// # Errors
    /// [`Error::StringLength`] if the stated length is over `max` or over what the file has left.
    pub(crate) fn string(&mut self, max: u64, field: Field<'_>) -> Result<&'a [u8], Error> {
        let offset = self.offset();
        let len = self.u64(field)?;
        let most = max.min(self.remaining());
        if len > most {
            return Err(Error::StringLength { field: field.to_string(), offset, len, most });
        }
        self.take(len, field)
    }

    /// A length-prefixed string value.
    pub(crate) fn value_string(&mut self, field: Field<'_>) -> Result<&'a [u8], Error> {
        self.string(limits::STRING_BYTES_MAX, field)
    }
}
