//! Values as Python prints them: `str()`, `repr()` and `json.dumps()`. Chat templates are written for
//! Python's Jinja, and models were trained on what it prints.

use std::fmt::Write;

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// Values are nested no deeper than this; requests are parsed with the same limit.
const DEPTH_MAX: usize = 128;

fn too_deep() -> Error {
    Error::new(ErrorKind::InvalidOperation, "a value is nested too deep")
}

/// Pays for one value and the text it made. A list may hold another one twice, and that one yet another: a
/// few lines of template make a value that takes for ever to print.
pub(crate) type Charge<'c> = &'c dyn Fn(u64) -> Result<(), Error>;

fn pay(charge: Charge<'_>, text: Option<&str>) -> Result<(), Error> {
    charge(1 + text.map_or(0, str::len) as u64 / 64)
}

/// How `json.dumps` lays out.
#[derive(Clone, Debug)]
pub(crate) struct Json {
    pub(crate) indent: Option<String>,
    pub(crate) item_separator: String,
    pub(crate) key_separator: String,
    pub(crate) sort_keys: bool,
    pub(crate) ensure_ascii: bool,
}

/// A float as Python's `repr` gives it: shortest digits, exponents from 1e16 up and below 1e-4.
fn float(value: f64) -> String {
    let size = value.abs();
    if value.is_finite() && size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    if value.is_finite() { format!("{value:?}") } else { format!("{value}").to_lowercase() }
}

fn number(value: &Value) -> String {
    if value.is_integer() {
        return value.to_string();
    }
    f64::try_from(value.clone()).map_or_else(|_| value.to_string(), float)
}

fn name(value: bool) -> &'static str {
    if value { "True" } else { "False" }
}

/// Python's `str(value)`. Undefined prints nothing.
pub(crate) fn str_of(value: &Value, charge: Charge<'_>) -> Result<String, Error> {
    match value.kind() {
        ValueKind::String => Ok(value.as_str().unwrap_or_default().to_owned()),
        ValueKind::Undefined => Ok(String::new()),
        _ => {
            let mut out = String::new();
            repr(value, 0, charge, &mut out)?;
            Ok(out)
        }
    }
}

fn repr_str(text: &str, out: &mut String) {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\\' => out.push_str("\\\\"),
            c if c == quote => out.extend(['\\', c]),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

fn repr(value: &Value, depth: usize, charge: Charge<'_>, out: &mut String) -> Result<(), Error> {
    pay(charge, value.as_str())?;
    if depth > DEPTH_MAX {
        return Err(too_deep());
    }
    match value.kind() {
        ValueKind::None => out.push_str("None"),
        ValueKind::Undefined => out.push_str("Undefined"),
        ValueKind::Bool => out.push_str(name(value.is_true())),
        ValueKind::Number => out.push_str(&number(value)),
        ValueKind::String => repr_str(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = if value.is_tuple() { ("(", ")") } else { ("[", "]") };
            out.push_str(open);
            let mut items = 0;
            for item in value.try_iter()?.checked() {
                if items > 0 {
                    out.push_str(", ");
                }
                repr(&item?, depth + 1, charge, out)?;
                items += 1;
            }
            out.push_str(if value.is_tuple() && items == 1 { ",)" } else { close });
        }
        ValueKind::Map => {
            out.push('{');
            for (i, key) in value.try_iter()?.checked().enumerate() {
                let key = key?;
                if i > 0 {
                    out.push_str(", ");
                }
                repr(&key, depth + 1, charge, out)?;
                out.push_str(": ");
                repr(&value.get_item(&key)?, depth + 1, charge, out)?;
            }
            out.push('}');
        }
        _ => out.push_str(&value.to_string()),
    }
    Ok(())
}

impl Default for Json {
    fn default() -> Json {
        Json {
            indent: None,
            item_separator: ", ".to_owned(),
            key_separator: ": ".to_owned(),
            sort_keys: false,
            ensure_ascii: false,
        }
    }
}

impl Json {
    /// Python's `json.dumps(value)`.
    pub(crate) fn dumps(&self, value: &Value, charge: Charge<'_>) -> Result<String, Error> {
        let mut out = String::new();
        self.write(value, 0, charge, &mut out)?;
        Ok(out)
    }

    fn write(
        &self,
        value: &Value,
        depth: usize,
        charge: Charge<'_>,
        out: &mut String,
    ) -> Result<(), Error> {
        pay(charge, value.as_str())?;
        if depth > DEPTH_MAX {
            return Err(too_deep());
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&match number(value).as_str() {
                "inf" => "Infinity".to_owned(),
                "-inf" => "-Infinity".to_owned(),
                "nan" => "NaN".to_owned(),
                number => number.to_owned(),
            }),
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.checked().collect::<Result<_, _>>()?;
                self.block(['[', ']'], &items, depth, out, |item, out| {
                    self.write(item, depth + 1, charge, out)
                })?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.checked().collect::<Result<_, _>>()?;
                if self.sort_keys {
                    keys.sort();
                }
                self.block(['{', '}'], &keys, depth, out, |key, out| {
                    match key.kind() {
                        ValueKind::String => self.string(key.as_str().unwrap_or_default(), out),
                        _ => {
                            let mut text = String::new();
                            self.write(key, depth + 1, charge, &mut text)?;
                            self.string(&text, out);
                        }
                    }
                    out.push_str(&self.key_separator);
                    self.write(&value.get_item(key)?, depth + 1, charge, out)
                })?;
            }
            kind => {
                let message = format!("a value of type {kind} is not JSON");
                return Err(Error::new(ErrorKind::BadSerialization, message));
            }
        }
        Ok(())
    }

    fn block(
        &self,
        [open, close]: [char; 2],
        items: &[Value],
        depth: usize,
        out: &mut String,
        write: impl Fn(&Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let line = |depth: usize, out: &mut String| {
            if let Some(indent) = &self.indent {
                out.push('\n');
                out.extend(std::iter::repeat_n(indent.as_str(), depth));
            }
        };
        out.push(open);
        for (i, item) in items.iter().enumerate() {
            if i > 0 {
                out.push_str(&self.item_separator);
            }
            line(depth + 1, out);
            write(item, out)?;
        }
        if !items.is_empty() {
            line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if (c as u32) < 0x20 => {
                    let _ = write!(out, "\\u{:04x}", c as u32);
                }
                // Marks are taken out again after rendering and must stay what they are.
                c if self.ensure_ascii && !c.is_ascii() && !crate::guard::is_mark(c) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(json: &str) -> Value {
        Value::from(minijinja::value::Serde(
            serde_json::from_str::<serde_json::Value>(json).unwrap(),
        ))
    }

    #[test]
    fn numbers_as_python_prints_them() {
        // Checked with Python 3.11: repr() of each.
        let expect = [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (123456789012345680.0, "1.2345678901234568e+17"),
            (1e15, "1000000000000000.0"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (-2.5e-7, "-2.5e-07"),
            (f64::INFINITY, "inf"),
        ];
        for (number, text) in expect {
            assert_eq!(float(number), text);
        }
    }

    const FREE: Charge<'static> = &|_| Ok(());

    #[test]
    fn str_and_json_as_python_prints_them() {
        let v = value(r#"{"a": [1, 2.0, null, true], "b": "it's \"é\"\n", "c": {}, "d": []}"#);
        assert_eq!(
            str_of(&v, FREE).unwrap(),
            r#"{'a': [1, 2.0, None, True], 'b': 'it\'s "é"\n', 'c': {}, 'd': []}"#
        );
        assert_eq!(str_of(&value(r#""it's""#), FREE).unwrap(), "it's");
        assert_eq!(str_of(&value(r#"["it's"]"#), FREE).unwrap(), r#"["it's"]"#);
        assert_eq!(
            Json::default().dumps(&v, FREE).unwrap(),
            r#"{"a": [1, 2.0, null, true], "b": "it's \"é\"\n", "c": {}, "d": []}"#
        );
        let json = Json {
            indent: Some("  ".to_owned()),
            item_separator: ",".to_owned(),
            ensure_ascii: true,
            sort_keys: true,
            ..Json::default()
        };
        let v = value(r#"{"b": ["é😀"], "a": []}"#);
        let expect = "{\n  \"a\": [],\n  \"b\": [\n    \"\\u00e9\\ud83d\\ude00\"\n  ]\n}";
        assert_eq!(json.dumps(&v, FREE).unwrap(), expect);
    }
}
