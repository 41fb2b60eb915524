//! Arrays of metadata values: a range of the file, checked once, read when iterated.

use std::fmt;

use crate::cursor::{Cursor, Field};
use crate::error::Error;
use crate::limits;
use crate::value::{Value, ValueType, scalar_value};

/// An array of metadata values: a range of the file, checked when the header was parsed and read when iterated.
#[derive(Copy, Clone, PartialEq)]
pub struct ArrayRef<'a> {
    key: &'a str,
    element: ValueType,
    len: u64,
    offset: u64,
    bytes: &'a [u8],
}

impl<'a> ArrayRef<'a> {
    /// Reads an array that `depth` others enclose, checking all of it.
    pub(crate) fn read(
        cursor: &mut Cursor<'a>,
        key: &'a str,
        depth: u32,
    ) -> Result<ArrayRef<'a>, Error> {
        let start = cursor.offset();
        if depth >= limits::ARRAY_DEPTH_MAX {
            let field = Field::Key(key, "value").to_string();
            return Err(Error::ArrayDepth { field, offset: start });
        }
        let field = Field::Key(key, "array element type");
        let id = cursor.u32(field)?;
        let element = ValueType::from_id(id).ok_or_else(|| Error::ValueType {
            field: field.to_string(),
            offset: start,
            id,
        })?;
        let field = Field::Key(key, "array length");
        let offset = cursor.offset();
        let len = cursor.u64(field)?;
        let fits = cursor.remaining() / element.element_bytes_min();
        let most = limits::ARRAY_ELEMENTS_MAX.min(fits);
        if len > most {
            return Err(Error::Count { field: field.to_string(), offset, count: len, most });
        }
        let data_start = cursor.offset();
        match element.size() {
            // Cannot overflow: len * size is at most what the file has left.
            Some(size) => {
                let bytes = cursor.take(len * size, Field::Key(key, "array"))?;
                check_bools(element, bytes, key, data_start)?;
                Ok(ArrayRef { key, element, len, offset: start, bytes })
            }
            None => {
                for _ in 0..len {
                    Value::read(cursor, element, key, depth + 1)?;
                }
                // Both ends lie inside the prefix: the cursor has been there.
                let bytes = &cursor.bytes()[data_start as usize..cursor.offset() as usize];
                Ok(ArrayRef { key, element, len, offset: start, bytes })
            }
        }
    }

    /// The array that `value` holds, checked when the entry of `key` at `offset` was read.
    pub(crate) fn of_checked(key: &'a str, offset: u64, value: &'a [u8]) -> ArrayRef<'a> {
        let (head, bytes) = value.split_at_checked(12).unwrap_or_default();
        let mut cursor = Cursor::new(head, head.len() as u64);
        let field = Field::Key(key, "array");
        let element = cursor.u32(field).ok().and_then(ValueType::from_id).unwrap_or(ValueType::U8);
        let len = cursor.u64(field).unwrap_or(0);
        ArrayRef { key, element, len, offset, bytes }
    }

    /// Type of the elements.
    #[must_use]
    pub fn element_type(&self) -> ValueType {
        self.element
    }

    /// Number of elements.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The elements as they stand in the file: little-endian numbers, or length-prefixed strings.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The elements as values, whatever their type.
    pub fn values(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let array = *self;
        let mut cursor = Cursor::new(array.bytes, array.bytes.len() as u64);
        // The same walk succeeded over the same bytes when the header was parsed (one level less deep now), so that `ok` drops nothing.
        (0..array.len)
            .map_while(move |_| Value::read(&mut cursor, array.element, array.key, 0).ok())
    }

    /// The elements of a string array.
    ///
    /// # Errors
    /// [`Error::WrongType`] if the elements are not strings.
    pub fn strings(&self) -> Result<Strings<'a>, Error> {
        match self.element {
            ValueType::String => Ok(Strings { bytes: self.bytes, left: self.len }),
            _ => Err(self.wrong_type("an array of strings")),
        }
    }

    /// The elements of an array of any integer type.
    ///
    /// # Errors
    /// [`Error::WrongType`] if the elements are not integers, [`Error::OutOfRange`] if one does not fit `i64`.
    pub fn ints(&self) -> Result<Ints<'a>, Error> {
        use ValueType as T;
        let integers = matches!(
            self.element,
            T::U8 | T::I8 | T::U16 | T::I16 | T::U32 | T::I32 | T::U64 | T::I64
        );
        if !integers {
            return Err(self.wrong_type("an array of integers"));
        }
        let chunks = self.bytes.chunks_exact(self.element.size().map_or(1, |n| n as usize));
        if self.element == T::U64 {
            let high = chunks.clone().find(|chunk| chunk[7] & 0x80 != 0);
            if let Some(Value::U64(value)) = high.map(|chunk| scalar_value(T::U64, chunk)) {
                return Err(Error::OutOfRange {
                    key: self.key.to_owned(),
                    offset: self.offset,
                    value: value.to_string(),
                    expected: "integers below 2^63",
                });
            }
        }
        Ok(Ints { element: self.element, chunks })
    }

    /// The elements of an `f32` or `f64` array, as `f32`.
    ///
    /// # Errors
    /// [`Error::WrongType`] if the elements are not floats.
    pub fn f32s(&self) -> Result<F32s<'a>, Error> {
        match self.element {
            ValueType::F32 => Ok(F32s { chunks: self.bytes.chunks_exact(4) }),
            ValueType::F64 => Ok(F32s { chunks: self.bytes.chunks_exact(8) }),
            _ => Err(self.wrong_type("an array of floats")),
        }
    }

    /// The elements of a `bool` array.
    ///
    /// # Errors
    /// [`Error::WrongType`] if the elements are not bools.
    pub fn bools(&self) -> Result<impl ExactSizeIterator<Item = bool> + use<'a>, Error> {
        match self.element {
            ValueType::Bool => Ok(self.bytes.iter().map(|&byte| byte != 0)),
            _ => Err(self.wrong_type("an array of bools")),
        }
    }

    /// This array, if it has `expected` elements.
    ///
    /// # Errors
    /// [`Error::ArrayLength`] otherwise.
    pub fn expect_len(self, expected: u64) -> Result<ArrayRef<'a>, Error> {
        if self.len == expected {
            return Ok(self);
        }
        let key = self.key.to_owned();
        Err(Error::ArrayLength { key, offset: self.offset, len: self.len, expected })
    }

    /// The element at `index` of an array of numbers or bools; strings and arrays have no random access.
    #[must_use]
    pub fn get(&self, index: u64) -> Option<Value<'a>> {
        let size = usize::try_from(self.element.size()?).ok()?;
        let start = usize::try_from(index).ok()?.checked_mul(size)?;
        let bytes = self.bytes.get(start..start.checked_add(size)?)?;
        Some(scalar_value(self.element, bytes))
    }

    fn wrong_type(&self, expected: &'static str) -> Error {
        Error::WrongType {
            key: self.key.to_owned(),
            offset: self.offset,
            found: format!("an array of {}", self.element),
            expected,
        }
    }
}

impl fmt::Debug for ArrayRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}; {}]", self.element, self.len)
    }
}

fn check_bools(element: ValueType, bytes: &[u8], key: &str, start: u64) -> Result<(), Error> {
    if element != ValueType::Bool {
        return Ok(());
    }
    match bytes.iter().position(|&byte| byte > 1) {
        None => Ok(()),
        Some(at) => Err(Error::Bool {
            field: Field::Key(key, "array").to_string(),
            offset: start + at as u64,
            value: bytes[at],
        }),
    }
}

/// Iterator over the strings of an array, as bytes.
#[derive(Clone, Debug)]
pub struct Strings<'a> {
    bytes: &'a [u8],
    left: u64,
}

impl<'a> Iterator for Strings<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        let (len, rest) = self.bytes.split_first_chunk::<8>()?;
        let len = usize::try_from(u64::from_le_bytes(*len)).ok()?;
        let (string, rest) = rest.split_at_checked(len)?;
        self.bytes = rest;
        Some(string)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // At most an eighth of the bytes: the parser checked it, so that collecting allocates no more than the file is long.
        let left = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.bytes.len() / 8);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Strings<'_> {}

/// Iterator over the integers of an array.
#[derive(Clone, Debug)]
pub struct Ints<'a> {
    element: ValueType,
    chunks: std::slice::ChunksExact<'a, u8>,
}

impl Iterator for Ints<'_> {
    type Item = i64;

    fn next(&mut self) -> Option<i64> {
        let value = scalar_value(self.element, self.chunks.next()?).as_int()?;
        // `ArrayRef::ints` refused arrays with a value that does not fit.
        i64::try_from(value).ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.chunks.size_hint()
    }
}

impl ExactSizeIterator for Ints<'_> {}

/// Iterator over the floats of an array.
#[derive(Clone, Debug)]
pub struct F32s<'a> {
    chunks: std::slice::ChunksExact<'a, u8>,
}

impl Iterator for F32s<'_> {
    type Item = f32;

    fn next(&mut self) -> Option<f32> {
        match *self.chunks.next()? {
            [a, b, c, d] => Some(f32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h] => Some(f64::from_le_bytes([a, b, c, d, e, f, g, h]) as f32),
            _ => None,
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.chunks.size_hint()
    }
}

impl ExactSizeIterator for F32s<'_> {}
