//! JSON as it comes from clients: no key twice, no more values than a request can need, and fields
//! read with errors that name them.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::limits::JSON_VALUES_MAX;
use crate::work::too_many_values;

/// Parses a body that must be an object.
///
/// # Errors
/// 400 with the place: no JSON, nested over 128 levels (serde_json's bound), a key twice, a lone
/// surrogate, a number no double can hold, more than [`JSON_VALUES_MAX`] values. 413 where they would take
/// more than `bytes_max`. With the fields comes what they take.
pub fn object(bytes: &[u8], bytes_max: usize) -> Result<(Fields, usize), ApiError> {
    let mut parser = serde_json::Deserializer::from_slice(bytes);
    let meter = Meter { values: Cell::new(0), bytes: Cell::new(0), bytes_max };
    let value = Strict(&meter).deserialize(&mut parser).map_err(not_json)?;
    parser.end().map_err(not_json)?;
    if meter.values.get() > JSON_VALUES_MAX {
        let (values, max) = (meter.values.get(), JSON_VALUES_MAX);
        return Err(ApiError::invalid(format!(
            "the body has {values} values, at most {max} are taken; shorten its lists"
        )));
    }
    let taken = meter.bytes.get();
    if taken > bytes_max {
        return Err(too_many_values(bytes_max));
    }
    match value {
        Value::Object(map) => Ok((Fields { map, path: String::new() }, taken)),
        _ => Err(ApiError::invalid("the body is JSON, but not an object")),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "map_err gives it")]
fn not_json(error: serde_json::Error) -> ApiError {
    ApiError::invalid(format!("the body is not acceptable JSON: {error}"))
}

/// What a value takes in a list, or beside its key.
const VALUE_BYTES: usize = size_of::<Value>();
/// What a key takes: its place among the entries and in the table, its text's place on the heap.
const KEY_BYTES: usize = size_of::<String>() + 3 * size_of::<usize>() + BLOCK_BYTES;
/// What the allocator takes around a block.
const BLOCK_BYTES: usize = 16;
/// Places that a list or an object has room for with its first one.
const PLACES_MIN: usize = 4;

/// Counts values and the memory they take.
struct Meter {
    values: Cell<usize>,
    bytes: Cell<usize>,
    bytes_max: usize,
}

impl Meter {
    fn take(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes);
    }
}

/// Builds a [`Value`], counting. Beyond the bounds it goes on counting, to say how many there are, and
/// builds nothing more.
#[derive(Clone, Copy)]
struct Strict<'c>(&'c Meter);

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Strict<'_> {
    /// Counts a value that takes `bytes` where it stands; whether it is still to be kept.
    fn keeps(self, bytes: usize) -> bool {
        let Meter { values, bytes: taken, bytes_max } = self.0;
        self.0.take(bytes);
        values.set(values.get() + 1);
        values.get() <= JSON_VALUES_MAX && taken.get() <= *bytes_max
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        self.0.take(value.len() + BLOCK_BYTES);
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        self.0.take(value.len() + BLOCK_BYTES);
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = items.next_element_seed(self)? {
            let places = if list.is_empty() { PLACES_MIN } else { 1 };
            if self.keeps(places * VALUE_BYTES) {
                list.push(value);
            }
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let places = if map.is_empty() { PLACES_MIN } else { 1 };
            let keeps = self.keeps(places * (VALUE_BYTES + KEY_BYTES) + key.len());
            if map.contains_key(&key) {
                let key: String = key.chars().take(100).collect();
                return Err(A::Error::custom(format!("the key {key:?} stands there twice")));
            }
            let value = entries.next_value_seed(self)?;
            if keeps {
                map.insert(key, value);
            }
        }
        Ok(Value::Object(map))
    }
}

/// The fields of an object. A field that is null counts as absent.
#[derive(Debug, Clone, Default)]
pub struct Fields {
    map: Map<String, Value>,
    /// Where the object stands, with a dot at its end; empty for the body.
    path: String,
}

impl Fields {
    /// The fields of `value`, which stands at `path`.
    ///
    /// # Errors
    /// It is no object.
    pub fn of(value: Value, path: &str) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => Ok(Self { map, path: format!("{path}.") }),
            other => Err(ApiError::field(path, expected("an object", &other))),
        }
    }

    /// An error about a field.
    pub fn error(&self, name: &str, message: impl fmt::Display) -> ApiError {
        ApiError::field(&format!("{}{name}", self.path), message)
    }

    /// Whether the field is there and not null.
    pub fn has(&self, name: &str) -> bool {
        self.map.get(name).is_some_and(|value| !value.is_null())
    }

    /// A field as it was sent.
    pub fn peek(&self, name: &str) -> Option<&Value> {
        self.map.get(name)
    }

    /// Takes a field, null as absent.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.map.get_mut(name).map(Value::take).filter(|value| !value.is_null())
    }

    /// All fields.
    pub fn into_map(self) -> Map<String, Value> {
        self.map
    }

    /// Text.
    ///
    /// # Errors
    /// It is something else.
    pub fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.error(name, expected("a string", &other))),
        }
    }

    /// True or false.
    ///
    /// # Errors
    /// It is something else.
    pub fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(self.error(name, expected("true or false", &other))),
        }
    }

    /// A number.
    ///
    /// # Errors
    /// It is something else, or outside `min..=max`.
    pub fn number(&mut self, name: &str, min: f64, max: f64) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if (min..=max).contains(&number) => Ok(Some(number)),
            Some(number) => {
                Err(self.error(name, format!("is {number}, it must be from {min} to {max}")))
            }
            None => Err(self.error(name, expected("a number", &value))),
        }
    }

    /// A whole number.
    ///
    /// # Errors
    /// It is something else, or outside `min..=max`.
    pub fn integer(&mut self, name: &str, min: u64, max: u64) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let whole = value.as_u64().or_else(|| {
            let float = value.as_f64()?;
            ((0.0..=9e15).contains(&float) && float.fract() == 0.0).then_some(float as u64)
        });
        match whole {
            Some(number) if (min..=max).contains(&number) => Ok(Some(number)),
            _ if value.is_number() => Err(self
                .error(name, format!("is {value}, it must be a whole number from {min} to {max}"))),
            _ => Err(self.error(name, expected("a whole number", &value))),
        }
    }

    /// A list.
    ///
    /// # Errors
    /// It is something else, or longer than `max`.
    pub fn list(&mut self, name: &str, max: usize) -> Result<Option<Vec<Value>>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Array(list)) if list.len() <= max => Ok(Some(list)),
            Some(Value::Array(list)) => {
                Err(self
                    .error(name, format!("has {} entries, at most {max} are taken", list.len())))
            }
            Some(other) => Err(self.error(name, expected("a list", &other))),
        }
    }

    /// An object.
    ///
    /// # Errors
    /// It is something else.
    pub fn object(&mut self, name: &str) -> Result<Option<Fields>, ApiError> {
        let path = format!("{}{name}", self.path);
        self.take(name).map(|value| Fields::of(value, &path)).transpose()
    }
}

/// "expected X, got Y".
pub fn expected(what: &str, got: &Value) -> String {
    let kind = match got {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    format!("must be {what}, not {kind}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{TREE_PER_BODY_BYTE, WORK_LEAST_BYTES};

    fn read(text: &[u8]) -> Result<Fields, ApiError> {
        object(text, usize::MAX).map(|(fields, _)| fields)
    }

    #[test]
    fn hostile_json_is_refused_with_a_reason() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
        let many = format!("{{\"a\":[{}1]}}", "1,".repeat(JSON_VALUES_MAX));
        for (text, reason) in [
            ("", "EOF"),
            ("[1]", "not an object"),
            ("{\"a\":1} x", "trailing"),
            (deep.as_str(), "recursion"),
            (many.as_str(), "200002 values, at most 200000"),
            ("{\"a\":1,\"a\":2}", "twice"),
            ("{\"a\":{\"b\":1,\"b\":2}}", "twice"),
            ("{\"a\":1e999}", "out of range"),
            ("{\"a\":\"\\ud800\"}", "hex escape"),
            ("{\"a\":NaN}", "expected"),
        ] {
            let error = read(text.as_bytes()).unwrap_err();
            assert_eq!(error.status, 400);
            assert!(error.message.contains(reason), "{text:.40}: {}", error.message);
        }
        assert!(read(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn values_are_counted_with_what_they_take() {
        let (_, empty) = object(b"{}", 0).unwrap();
        assert_eq!(empty, 0);
        let body = |count: usize, one: &str| format!("{{\"a\":[{}]}}", vec![one; count].join(","));
        let taken =
            |count: usize, one: &str| object(body(count, one).as_bytes(), usize::MAX).unwrap().1;
        // As serde_json's `Value` and `Map` take them: a number is a place in its list; an object has a list of
        // entries and a table.
        assert!(taken(1000, "1") >= 1000 * VALUE_BYTES);
        assert!(taken(1000, "[1]") >= 1000 * 5 * VALUE_BYTES);
        assert!(taken(1000, r#"{"a":1}"#) >= 1000 * (VALUE_BYTES + 4 * VALUE_BYTES + 64));
        let text = format!("\"{}\"", "x".repeat(5000));
        assert!((5000..7000).contains(&taken(1, &text)), "{}", taken(1, &text));
        // No body has more of it than it is let in with.
        for one in ["1", "[1]", "[[[]]]", r#"{"a":1}"#, r#"{"":[1]}"#] {
            let length = body(1000, one).len();
            let taken = taken(1000, one);
            assert!(
                taken <= TREE_PER_BODY_BYTE * length + WORK_LEAST_BYTES,
                "{one}: {taken} of {length}"
            );
        }
        let error = object(body(1000, "[1]").as_bytes(), 100_000).unwrap_err();
        assert_eq!(error.status, 413);
    }

    #[test]
    fn fields_name_what_is_wrong() {
        let mut fields =
            read(br#"{"n": -1, "t": 3.5, "s": 1, "x": null, "o": {"k": []}, "m": 4.0}"#).unwrap();
        let error = fields.integer("n", 1, 16).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("n"));
        assert!(error.message.contains("-1") && error.message.contains("16"), "{error}");
        assert!(fields.integer("t", 0, 9).is_err());
        assert_eq!(fields.integer("m", 0, 9).unwrap(), Some(4));
        assert!(fields.string("s").is_err());
        assert_eq!(fields.string("x").unwrap(), None);
        let mut inner = fields.object("o").unwrap().unwrap();
        assert_eq!(inner.flag("k").unwrap_err().param.as_deref(), Some("o.k"));
    }
}
