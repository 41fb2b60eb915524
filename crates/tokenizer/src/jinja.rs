//! The Jinja environment that chat templates expect: Hugging Face's, which is Python's Jinja with
//! `trim_blocks`, `lstrip_blocks`, loop controls, `{% generation %}`, `raise_exception`,
//! `strftime_now` and its own `tojson`.

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State};

use crate::pymethods::string_method;
use crate::pytext::{self, Json};

/// What `raise_exception` was called with; the source of the engine's error.
#[derive(Debug)]
pub(crate) struct Refusal(pub(crate) String);

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refusal {}

/// Prints as Python does. Strings, safe or not, print as they are: there is no escaping.
fn print(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    match value.kind() {
        ValueKind::String | ValueKind::Undefined => minijinja::escape_formatter(out, state, value),
        _ => {
            let text = pytext::str_of(value, &|fuel| state.consume_fuel(fuel))?;
            out.write_str(&text).map_err(|_| Error::from(ErrorKind::WriteFailure))
        }
    }
}

fn raise_exception(message: String) -> Result<Value, Error> {
    let error = Error::new(ErrorKind::InvalidOperation, message.clone());
    Err(error.with_source(Refusal(message)))
}

/// `tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`, as transformers defines it.
fn tojson(
    state: &State<'_, '_>,
    value: &Value,
    positional: Rest<Value>,
    options: Kwargs,
) -> Result<String, Error> {
    let option = |at: usize, name: &str| -> Result<Option<Value>, Error> {
        let named: Option<Value> = options.get(name)?;
        Ok(named.or_else(|| positional.get(at).cloned()).filter(|v| !v.is_none()))
    };
    let mut json = Json {
        ensure_ascii: option(0, "ensure_ascii")?.is_some_and(|v| v.is_true()),
        sort_keys: option(3, "sort_keys")?.is_some_and(|v| v.is_true()),
        ..Json::default()
    };
    if let Some(indent) = option(1, "indent")? {
        json.indent = Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            // Wider than any screen is a template that wants memory.
            None => " ".repeat(indent.as_usize().unwrap_or(0).min(64)),
        });
        ",".clone_into(&mut json.item_separator);
    }
    if let Some(separators) = option(2, "separators")? {
        let part = |at: i64| -> Result<String, Error> {
            let part = separators.get_item(&Value::from(at))?;
            Ok(part.as_str().unwrap_or_default().to_owned())
        };
        json.item_separator = part(0)?;
        json.key_separator = part(1)?;
    }
    options.assert_all_used()?;
    json.dumps(value, &|fuel| state.consume_fuel(fuel))
}

fn string(state: &State<'_, '_>, value: &Value) -> Result<String, Error> {
    pytext::str_of(value, &|fuel| state.consume_fuel(fuel))
}

/// Jinja2's `iterable` and `sequence`. What is undefined is an empty sequence there, and some templates ask.
fn is_sequence(value: &Value) -> bool {
    matches!(
        value.kind(),
        ValueKind::Seq
            | ValueKind::Iterable
            | ValueKind::String
            | ValueKind::Map
            | ValueKind::Undefined
    )
}

/// Python's methods. `format` pads to any width that its text asks for, before it is paid for; no template needs four
/// digits of it.
fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    if name == "format"
        && let Some(text) = value.as_str()
        && text.split(|c: char| !c.is_ascii_digit()).any(|digits| digits.len() > 3)
        && text.contains('{')
    {
        return Err(Error::new(ErrorKind::InvalidOperation, "format asks for too wide a field"));
    }
    if let Some(result) = value.as_str().and_then(|text| string_method(text, name, args)) {
        return result;
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args)
}

/// An environment without templates.
pub(crate) fn environment() -> Environment<'static> {
    let mut env = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
    if let Ok(syntax) = syntax {
        env.set_syntax(syntax);
    }
    env.set_unknown_method_callback(method);
    env.set_formatter(print);
    env.add_filter("tojson", tojson);
    env.add_filter("string", string);
    env.add_test("sequence", is_sequence);
    env.add_test("iterable", is_sequence);
    env.add_function("raise_exception", raise_exception);
    env
}

/// `{% generation %}` and `{% endgeneration %}` mark what to train on. They print nothing, and become a
/// condition that is always true, so that they trim whitespace as before.
pub(crate) fn without_generation(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let (tag, after) = tag.split_at(end + 2);
        let inner = tag[2..end].trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        match inner {
            "generation" => out.push_str(&tag.replace("generation", "if true")),
            "endgeneration" => out.push_str(&tag.replace("endgeneration", "endif")),
            _ => {
                // Only the opening is passed over: a "%}" within a string does not end the tag.
                out.push_str("{%");
                rest = &rest[at + 2..];
                continue;
            }
        }
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_tags_become_conditions() {
        let source =
            "a{% generation %}b{%- endgeneration -%}c{% if '%}' %}{{ generation }}{% endif %}{%";
        let expect = "a{% if true %}b{%- endif -%}c{% if '%}' %}{{ generation }}{% endif %}{%";
        assert_eq!(without_generation(source), expect);
    }
}
