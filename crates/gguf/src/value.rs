//! Metadata values: borrowed, typed, iterated lazily.

use std::fmt;

use crate::array::ArrayRef;
use crate::cursor::{Cursor, Field};
use crate::error::Error;

/// The type of a metadata value. Ids are the format's (spec, `gguf_metadata_value_type`).
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
#[repr(u32)]
#[expect(missing_docs, reason = "the names say it all")]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    /// The type of this id.
    #[must_use]
    pub fn from_id(id: u32) -> Option<ValueType> {
        use ValueType as T;
        const ALL: [ValueType; 13] = [
            T::U8,
            T::I8,
            T::U16,
            T::I16,
            T::U32,
            T::I32,
            T::F32,
            T::Bool,
            T::String,
            T::Array,
            T::U64,
            T::I64,
            T::F64,
        ];
        ALL.get(usize::try_from(id).ok()?).copied()
    }

    /// The id in the file.
    #[must_use]
    pub fn id(self) -> u32 {
        self as u32
    }

    /// Bytes of one value, `None` for strings and arrays.
    #[must_use]
    pub fn size(self) -> Option<u64> {
        match self {
            ValueType::U8 | ValueType::I8 | ValueType::Bool => Some(1),
            ValueType::U16 | ValueType::I16 => Some(2),
            ValueType::U32 | ValueType::I32 | ValueType::F32 => Some(4),
            ValueType::U64 | ValueType::I64 | ValueType::F64 => Some(8),
            ValueType::String | ValueType::Array => None,
        }
    }

    /// Name as GGUF tools print it (`u32`, `f32`, `str`, `arr`).
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ValueType::U8 => "u8",
            ValueType::I8 => "i8",
            ValueType::U16 => "u16",
            ValueType::I16 => "i16",
            ValueType::U32 => "u32",
            ValueType::I32 => "i32",
            ValueType::F32 => "f32",
            ValueType::Bool => "bool",
            ValueType::String => "str",
            ValueType::Array => "arr",
            ValueType::U64 => "u64",
            ValueType::I64 => "i64",
            ValueType::F64 => "f64",
        }
    }

    /// Fewest bytes that one element of this type takes in an array.
    pub(crate) fn element_bytes_min(self) -> u64 {
        match self {
            ValueType::String => 8,
            ValueType::Array => 4 + 8,
            other => other.size().unwrap_or(1),
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One metadata value. Strings are bytes: the format says UTF-8, files do not always keep to it.
#[derive(Copy, Clone, PartialEq, Debug)]
#[expect(missing_docs, reason = "the names say it all")]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(&'a [u8]),
    Array(ArrayRef<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl<'a> Value<'a> {
    /// The value's type.
    #[must_use]
    pub fn value_type(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::String(_) => ValueType::String,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// The value as an integer if it is one of the integer types (`i128` holds them all).
    #[must_use]
    pub fn as_int(&self) -> Option<i128> {
        match *self {
            Value::U8(v) => Some(v.into()),
            Value::I8(v) => Some(v.into()),
            Value::U16(v) => Some(v.into()),
            Value::I16(v) => Some(v.into()),
            Value::U32(v) => Some(v.into()),
            Value::I32(v) => Some(v.into()),
            Value::U64(v) => Some(v.into()),
            Value::I64(v) => Some(v.into()),
            _ => None,
        }
    }

    /// Reads one value of type `ty`. `depth` is how many arrays enclose it.
    pub(crate) fn read(
        cursor: &mut Cursor<'a>,
        ty: ValueType,
        key: &'a str,
        depth: u32,
    ) -> Result<Value<'a>, Error> {
        let field = Field::Key(key, "value");
        match ty {
            ValueType::String => Ok(Value::String(cursor.value_string(field)?)),
            ValueType::Array => Ok(Value::Array(ArrayRef::read(cursor, key, depth)?)),
            scalar => {
                let offset = cursor.offset();
                let bytes = cursor.take(scalar.size().unwrap_or(0), field)?;
                if scalar == ValueType::Bool && bytes[0] > 1 {
                    return Err(Error::Bool { field: field.to_string(), offset, value: bytes[0] });
                }
                Ok(scalar_value(scalar, bytes))
            }
        }
    }
}

/// `bytes` is one value of the scalar type `ty`, little-endian, of that type's size.
pub(crate) fn scalar_value<'a>(ty: ValueType, bytes: &[u8]) -> Value<'a> {
    let mut wide = [0; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    // Truncation takes the low bytes, which are the value; `as` between signs keeps the bits.
    let bits = u64::from_le_bytes(wide);
    match ty {
        ValueType::U8 => Value::U8(bits as u8),
        ValueType::I8 => Value::I8(bits as i8),
        ValueType::U16 => Value::U16(bits as u16),
        ValueType::I16 => Value::I16(bits as i16),
        ValueType::U32 => Value::U32(bits as u32),
        ValueType::I32 => Value::I32(bits as i32),
        ValueType::F32 => Value::F32(f32::from_bits(bits as u32)),
        ValueType::Bool => Value::Bool(bits != 0),
        ValueType::I64 => Value::I64(bits as i64),
        ValueType::F64 => Value::F64(f64::from_bits(bits)),
        ValueType::U64 | ValueType::String | ValueType::Array => Value::U64(bits),
    }
}

/// One metadata entry: its key, and where its value lies. 48 bytes, decoded when asked.
#[derive(Copy, Clone, PartialEq)]
pub struct KeyValue<'a> {
    key: &'a str,
    offset: u64,
    value_type: ValueType,
    value: &'a [u8],
}

impl<'a> KeyValue<'a> {
    /// Reads the value of `key`, whose entry started at `offset`, and checks all of it.
    pub(crate) fn read(
        cursor: &mut Cursor<'a>,
        key: &'a str,
        offset: u64,
    ) -> Result<KeyValue<'a>, Error> {
        let field = Field::Key(key, "value type");
        let at = cursor.offset();
        let id = cursor.u32(field)?;
        let value_type = ValueType::from_id(id).ok_or_else(|| Error::ValueType {
            field: field.to_string(),
            offset: at,
            id,
        })?;
        let start = cursor.offset() as usize;
        Value::read(cursor, value_type, key, 0)?;
        // Both ends lie inside the prefix: the cursor has been there.
        let value = &cursor.bytes()[start..cursor.offset() as usize];
        Ok(KeyValue { key, offset, value_type, value })
    }

    /// The key (ASCII).
    #[must_use]
    pub fn key(&self) -> &'a str {
        self.key
    }

    /// Where the entry starts in the file, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The value's type.
    #[must_use]
    pub fn value_type(&self) -> ValueType {
        self.value_type
    }

    /// The value.
    #[must_use]
    pub fn value(&self) -> Value<'a> {
        match self.value_type {
            ValueType::String => Value::String(self.value.get(8..).unwrap_or_default()),
            ValueType::Array => {
                Value::Array(ArrayRef::of_checked(self.key, self.offset, self.value))
            }
            scalar => scalar_value(scalar, self.value),
        }
    }
}

impl fmt::Debug for KeyValue<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {:?}", self.key, self.value())
    }
}
