//! Typed access to metadata by key. `get_*` gives `None` where the key is absent, `require_*` an error; a value of the wrong type
//! or range is always an error, never a default.

use crate::array::ArrayRef;
use crate::error::Error;
use crate::parse::Gguf;
use crate::value::{KeyValue, Value};

impl<'a> Gguf<'a> {
    /// The value of `key`, whatever its type.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<Value<'a>> {
        self.key_value(key).map(KeyValue::value)
    }

    /// An integer of any type that fits `u32`.
    ///
    /// # Errors
    /// [`Error::WrongType`], [`Error::OutOfRange`].
    pub fn get_u32(&self, key: &str) -> Result<Option<u32>, Error> {
        self.key_value(key)
            .map(|entry| int(entry, &entry.value(), "an integer from 0 to 2^32 - 1"))
            .transpose()
    }

    /// An integer of any type that fits `u64`.
    ///
    /// # Errors
    /// [`Error::WrongType`], [`Error::OutOfRange`].
    pub fn get_u64(&self, key: &str) -> Result<Option<u64>, Error> {
        self.key_value(key)
            .map(|entry| int(entry, &entry.value(), "an integer from 0 to 2^64 - 1"))
            .transpose()
    }

    /// An integer of any type that fits `i32`.
    ///
    /// # Errors
    /// [`Error::WrongType`], [`Error::OutOfRange`].
    pub fn get_i32(&self, key: &str) -> Result<Option<i32>, Error> {
        self.key_value(key)
            .map(|entry| int(entry, &entry.value(), "an integer from -2^31 to 2^31 - 1"))
            .transpose()
    }

    /// An `f32` or `f64` (rounded to `f32`). NaN and infinities pass: what is sensible, the caller knows.
    ///
    /// # Errors
    /// [`Error::WrongType`].
    pub fn get_f32(&self, key: &str) -> Result<Option<f32>, Error> {
        self.key_value(key)
            .map(|entry| match entry.value() {
                Value::F32(v) => Ok(v),
                Value::F64(v) => Ok(v as f32),
                _ => Err(wrong_type(entry, "a float")),
            })
            .transpose()
    }

    /// A bool.
    ///
    /// # Errors
    /// [`Error::WrongType`].
    pub fn get_bool(&self, key: &str) -> Result<Option<bool>, Error> {
        self.key_value(key)
            .map(|entry| match entry.value() {
                Value::Bool(v) => Ok(v),
                _ => Err(wrong_type(entry, "a bool")),
            })
            .transpose()
    }

    /// A string's bytes, UTF-8 or not.
    ///
    /// # Errors
    /// [`Error::WrongType`].
    pub fn get_bytes(&self, key: &str) -> Result<Option<&'a [u8]>, Error> {
        self.key_value(key)
            .map(|entry| match entry.value() {
                Value::String(v) => Ok(v),
                _ => Err(wrong_type(entry, "a string")),
            })
            .transpose()
    }

    /// A string that is valid UTF-8.
    ///
    /// # Errors
    /// [`Error::WrongType`], [`Error::NotUtf8`].
    pub fn get_str(&self, key: &str) -> Result<Option<&'a str>, Error> {
        let Some(entry) = self.key_value(key) else {
            return Ok(None);
        };
        let Value::String(bytes) = entry.value() else {
            return Err(wrong_type(entry, "a string"));
        };
        str::from_utf8(bytes).map(Some).map_err(|e| Error::NotUtf8 {
            key: key.to_owned(),
            offset: entry.offset(),
            valid: e.valid_up_to() as u64,
        })
    }

    /// An array of any element type.
    ///
    /// # Errors
    /// [`Error::WrongType`].
    pub fn get_array(&self, key: &str) -> Result<Option<ArrayRef<'a>>, Error> {
        self.key_value(key)
            .map(|entry| match entry.value() {
                Value::Array(v) => Ok(v),
                _ => Err(wrong_type(entry, "an array")),
            })
            .transpose()
    }

    /// The integer for layer `layer` of a key that is one integer for all layers or an array with one per layer, such as
    /// `llama.attention.head_count_kv`.
    ///
    /// # Errors
    /// [`Error::WrongType`], [`Error::OutOfRange`]; [`Error::ArrayLength`] if the array has no element for this layer.
    pub fn get_u32_of_layer(&self, key: &str, layer: u32) -> Result<Option<u32>, Error> {
        let Some(entry) = self.key_value(key) else {
            return Ok(None);
        };
        let expected = "an integer from 0 to 2^32 - 1, or an array of them";
        match entry.value() {
            Value::Array(array) => match array.get(layer.into()) {
                Some(value) => int(entry, &value, expected).map(Some),
                None if array.element_type().size().is_none() => Err(wrong_type(entry, expected)),
                None => Err(Error::ArrayLength {
                    key: key.to_owned(),
                    offset: entry.offset(),
                    len: array.len(),
                    expected: u64::from(layer) + 1,
                }),
            },
            value => int(entry, &value, expected).map(Some),
        }
    }

    /// [`Gguf::get_u32`] of a key that must be there.
    ///
    /// # Errors
    /// Those, and [`Error::MissingKey`].
    pub fn require_u32(&self, key: &str) -> Result<u32, Error> {
        self.get_u32(key)?.ok_or_else(|| missing(key))
    }

    /// [`Gguf::get_f32`] of a key that must be there.
    ///
    /// # Errors
    /// Those, and [`Error::MissingKey`].
    pub fn require_f32(&self, key: &str) -> Result<f32, Error> {
        self.get_f32(key)?.ok_or_else(|| missing(key))
    }

    /// [`Gguf::get_str`] of a key that must be there.
    ///
    /// # Errors
    /// Those, and [`Error::MissingKey`].
    pub fn require_str(&self, key: &str) -> Result<&'a str, Error> {
        self.get_str(key)?.ok_or_else(|| missing(key))
    }

    /// [`Gguf::get_array`] of a key that must be there.
    ///
    /// # Errors
    /// Those, and [`Error::MissingKey`].
    pub fn require_array(&self, key: &str) -> Result<ArrayRef<'a>, Error> {
        self.get_array(key)?.ok_or_else(|| missing(key))
    }
}

fn missing(key: &str) -> Error {
    Error::MissingKey { key: key.to_owned() }
}

fn wrong_type(entry: &KeyValue<'_>, expected: &'static str) -> Error {
    let found = match entry.value() {
        Value::Array(array) => format!("an array of {}", array.element_type()),
        other => format!("a {}", other.value_type()),
    };
    Error::WrongType { key: entry.key().to_owned(), offset: entry.offset(), found, expected }
}

/// `value` (of `entry`, or an element of it) as an integer type.
fn int<T: TryFrom<i128>>(
    entry: &KeyValue<'_>,
    value: &Value<'_>,
    expected: &'static str,
) -> Result<T, Error> {
    let number = value.as_int().ok_or_else(|| wrong_type(entry, expected))?;
    T::try_from(number).map_err(|_| Error::OutOfRange {
        key: entry.key().to_owned(),
        offset: entry.offset(),
        value: number.to_string(),
        expected,
    })
}
