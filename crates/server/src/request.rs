//! Fields that several endpoints share: sampling, ends, shapes, tools.

use lowtide_engine::sampler::SamplerParams;
use serde_json::{Value, json};

use crate::constraint::Shape;
use crate::error::ApiError;
use crate::format::Tool;
use crate::json::{Fields, expected};
use crate::limits::{BIASES_MAX, STOP_BYTES_MAX, STOPS_MAX, TOKENS_MAX, TOOLS_MAX, WORDS_MAX};

/// Sampling parameters: what the request says, else the model's.
///
/// # Errors
/// 400 for what is outside its range.
pub fn sampling(
    fields: &mut Fields,
    defaults: &SamplerParams,
    vocabulary: usize,
) -> Result<SamplerParams, ApiError> {
    let mut params = defaults.clone();
    let mut set = |name: &str, max: f64, to: &mut f32| -> Result<(), ApiError> {
        if let Some(value) = fields.number(name, 0.0, max)? {
            *to = value as f32;
        }
        Ok(())
    };
    set("temperature", 100.0, &mut params.temperature)?;
    set("top_p", 1.0, &mut params.top_p)?;
    set("min_p", 1.0, &mut params.min_p)?;
    set("typical_p", 1.0, &mut params.typical_p)?;
    set("top_n_sigma", 1000.0, &mut params.top_n_sigma)?;
    set("presence_penalty", 100.0, &mut params.presence_penalty)?;
    set("frequency_penalty", 100.0, &mut params.frequency_penalty)?;
    for name in ["repeat_penalty", "repetition_penalty"] {
        if let Some(value) = fields.number(name, 1e-3, 100.0)? {
            params.repeat_penalty = value as f32;
        }
    }
    let most = u64::from(u32::MAX);
    if let Some(top_k) = top_k(fields, most)? {
        params.top_k = top_k as u32;
    }
    if let Some(last) = fields.integer("repeat_last_n", 0, 1 << 20)? {
        params.penalty_last_n = last as u32;
    }
    params.seed = seed(fields)?;
    params.logit_bias = biases(fields, vocabulary)?;
    params.validate(vocabulary).map_err(|error| ApiError::invalid(error.to_string()))?;
    Ok(params)
}

/// vLLM writes "all" as -1, llama.cpp as 0.
fn top_k(fields: &mut Fields, max: u64) -> Result<Option<u64>, ApiError> {
    match fields.take("top_k") {
        None => Ok(None),
        Some(value) if value.as_i64() == Some(-1) => Ok(Some(0)),
        Some(value) => match value.as_u64().filter(|k| *k <= max) {
            Some(k) => Ok(Some(k)),
            None => {
                Err(fields.error("top_k", format!("is {value}, it must be -1 or from 0 to {max}")))
            }
        },
    }
}

/// Any whole number of 64 bits, with or without a sign.
fn seed(fields: &mut Fields) -> Result<Option<u64>, ApiError> {
    let Some(value) = fields.take("seed") else { return Ok(None) };
    match value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned)) {
        // llama.cpp's "another each time".
        Some(u64::MAX) => Ok(None),
        Some(seed) => Ok(Some(seed)),
        None => {
            Err(fields.error("seed", format!("is {value}, it must be a whole number of 64 bits")))
        }
    }
}

fn biases(fields: &mut Fields, vocabulary: usize) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(object) = fields.object("logit_bias")? else { return Ok(Vec::new()) };
    let map = object.into_map();
    let wrong = |message: String| ApiError::field("logit_bias", message);
    if map.len() > BIASES_MAX {
        return Err(wrong(format!("has {} entries, at most {BIASES_MAX} are taken", map.len())));
    }
    map.into_iter()
        .map(|(id, bias)| {
            let number: Option<u32> = id.parse().ok().filter(|id| (*id as usize) < vocabulary);
            let id: String = id.chars().take(40).collect();
            let number = number
                .ok_or_else(|| wrong(format!("{id:?} is no token; ids are below {vocabulary}")))?;
            match bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias)) {
                // OpenAI: -100 bans a token.
                Some(bias) if bias <= -100.0 => Ok((number, f32::NEG_INFINITY)),
                Some(bias) => Ok((number, bias as f32)),
                None => Err(wrong(format!("{bias} for {id}: it must be from -100 to 100"))),
            }
        })
        .collect()
}

/// Texts that end an answer: one, or a list.
///
/// # Errors
/// 400 for anything else, for empty ones, and for too many.
pub fn stops(fields: &mut Fields, name: &str) -> Result<Vec<String>, ApiError> {
    let list = match fields.take(name) {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list,
        Some(one) => vec![one],
    };
    if list.len() > STOPS_MAX {
        let count = list.len();
        return Err(fields.error(name, format!("has {count} texts, at most {STOPS_MAX} are taken")));
    }
    let mut stops = Vec::with_capacity(list.len());
    for value in list {
        match value {
            Value::String(text) if !text.is_empty() => stops.push(text),
            Value::String(_) => {
                return Err(fields.error(name, "an empty text would end everything"));
            }
            other => return Err(fields.error(name, expected("a string", &other))),
        }
    }
    let bytes: usize = stops.iter().map(String::len).sum();
    if bytes > STOP_BYTES_MAX {
        return Err(
            fields.error(name, format!("{bytes} bytes, at most {STOP_BYTES_MAX} are taken"))
        );
    }
    Ok(stops)
}

/// Tokens of the answer at most: what is asked for, within what the context leaves.
///
/// # Errors
/// 400 for 0, and for what no answer can have.
pub fn max_tokens(fields: &mut Fields, names: &[&str]) -> Result<Option<usize>, ApiError> {
    let mut found = None;
    for name in names {
        if let Some(tokens) = fields.integer(name, 1, TOKENS_MAX)? {
            found = Some(tokens as usize);
        }
    }
    Ok(found)
}

/// The shape of an answer: `response_format`, `grammar`, `regex` and vLLM's names for them.
///
/// # Errors
/// 400 for two at a time, and for what is malformed.
pub fn shape(fields: &mut Fields) -> Result<Option<Shape>, ApiError> {
    let mut shapes = Vec::new();
    if let Some(format) = fields.object("response_format")? {
        shapes.extend(response_format(format)?);
    }
    for name in ["grammar", "guided_grammar"] {
        shapes.extend(fields.string(name)?.map(Shape::Lark));
    }
    for name in ["regex", "guided_regex"] {
        shapes.extend(fields.string(name)?.map(Shape::Regex));
    }
    for name in ["json_schema", "guided_json"] {
        shapes.extend(schema(fields, name)?);
    }
    shapes.extend(words(fields, "guided_choice")?);
    if let Some(mut outputs) = fields.object("structured_outputs")? {
        shapes.extend(schema(&mut outputs, "json")?);
        shapes.extend(outputs.string("regex")?.map(Shape::Regex));
        shapes.extend(outputs.string("grammar")?.map(Shape::Lark));
        shapes.extend(words(&mut outputs, "choice")?);
        shapes.extend(outputs.flag("json_object")?.filter(|on| *on).map(|_| Shape::JsonObject));
        if outputs.has("structural_tag") {
            return Err(outputs.error("structural_tag", "is not supported"));
        }
    }
    match shapes.len() {
        0 | 1 => Ok(shapes.pop()),
        _ => {
            Err(ApiError::invalid("the answer can have one shape only, the request gives several"))
        }
    }
}

fn schema(fields: &mut Fields, name: &str) -> Result<Option<Shape>, ApiError> {
    Ok(fields.object(name)?.map(|schema| Shape::Schema(Value::Object(schema.into_map()))))
}

/// One of these texts.
fn words(fields: &mut Fields, name: &str) -> Result<Option<Shape>, ApiError> {
    let Some(list) = fields.list(name, WORDS_MAX)? else { return Ok(None) };
    let is_text = |word: &Value| word.as_str().is_some_and(|word| !word.is_empty());
    if list.is_empty() || !list.iter().all(is_text) {
        return Err(fields.error(name, "must be a list of texts, none of them empty"));
    }
    // A text of JSON is one of Lark.
    let words: Vec<String> = list.iter().map(Value::to_string).collect();
    Ok(Some(Shape::Lark(format!("start: {}", words.join(" | ")))))
}

/// OpenAI's `response_format`, or the `text.format` of its newer API.
///
/// # Errors
/// 400.
pub fn response_format(mut format: Fields) -> Result<Option<Shape>, ApiError> {
    let kind = format.string("type")?.ok_or_else(|| format.error("type", "is missing"))?;
    match kind.as_str() {
        "text" => Ok(None),
        "json_object" => match format.object("schema")? {
            Some(schema) => Ok(Some(Shape::Schema(Value::Object(schema.into_map())))),
            None => Ok(Some(Shape::JsonObject)),
        },
        "json_schema" => {
            let mut holder = match format.object("json_schema")? {
                Some(holder) => holder,
                None => format,
            };
            let schema = holder.object("schema")?;
            let schema = schema.ok_or_else(|| holder.error("schema", "is missing"))?;
            Ok(Some(Shape::Schema(Value::Object(schema.into_map()))))
        }
        "grammar" => Ok(format.string("grammar")?.map(Shape::Lark)),
        "regex" => Ok(format.string("pattern")?.map(Shape::Regex)),
        other => {
            let other: String = other.chars().take(40).collect();
            Err(format.error("type", format!("{other:?} is not known")))
        }
    }
}

/// What the model may do with tools.
#[derive(Debug, Clone, PartialEq)]
pub enum Choice {
    /// As it likes.
    Auto,
    /// Nothing.
    None,
    /// It must call one.
    Any,
    /// It must call this one.
    Named(String),
}

/// The tools of a request, in OpenAI's two ways of writing them.
///
/// # Errors
/// 400 for too many, for names that are none, and for kinds other than functions.
pub fn tools(fields: &mut Fields) -> Result<Vec<Tool>, ApiError> {
    let list = fields.list("tools", TOOLS_MAX)?.unwrap_or_default();
    let mut tools: Vec<Tool> = Vec::with_capacity(list.len());
    for (index, value) in list.into_iter().enumerate() {
        let path = format!("tools[{index}]");
        let mut outer = Fields::of(value, &path)?;
        let kind = outer.string("type")?.unwrap_or_else(|| "function".to_owned());
        if kind != "function" {
            return Err(outer.error("type", "only functions can be called"));
        }
        let mut inner = match outer.object("function")? {
            Some(inner) => inner,
            None => outer,
        };
        tools.push(tool(&mut inner, "parameters")?);
    }
    distinct(&tools)?;
    Ok(tools)
}

/// No name twice.
///
/// # Errors
/// 400.
pub fn distinct(tools: &[Tool]) -> Result<(), ApiError> {
    for (index, tool) in tools.iter().enumerate() {
        if tools[..index].iter().any(|other| other.name == tool.name) {
            return Err(ApiError::field("tools", format!("{} stands there twice", tool.name)));
        }
    }
    Ok(())
}

/// One tool; `schema` is the field that describes its arguments.
///
/// # Errors
/// 400.
pub fn tool(fields: &mut Fields, schema: &str) -> Result<Tool, ApiError> {
    let name = fields.string("name")?.ok_or_else(|| fields.error("name", "is missing"))?;
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if name.is_empty() || name.len() > 64 || !name.chars().all(good) {
        return Err(fields.error("name", "1 to 64 letters, digits, _, - or ."));
    }
    let description = fields.string("description")?;
    let parameters = match fields.object(schema)? {
        Some(object) => Value::Object(object.into_map()),
        None => json!({ "type": "object", "properties": {} }),
    };
    Ok(Tool { name, description, parameters })
}

/// OpenAI's `tool_choice`; `tools` that it does not allow go.
///
/// # Errors
/// 400 for what is not known, and for a tool that is not there.
pub fn choice(fields: &mut Fields, tools: &mut Vec<Tool>) -> Result<Choice, ApiError> {
    let choice = match fields.take("tool_choice") {
        None => Choice::Auto,
        Some(Value::String(word)) => match word.as_str() {
            "auto" => Choice::Auto,
            "none" => Choice::None,
            "required" | "any" => Choice::Any,
            _ => return Err(fields.error("tool_choice", "auto, none, required, or a function")),
        },
        Some(value) => {
            let mut object = Fields::of(value, "tool_choice")?;
            match object.string("type")?.as_deref() {
                None | Some("function") => {}
                Some("allowed_tools") => return allowed(object, tools),
                Some(_) => return Err(object.error("type", "must be function or allowed_tools")),
            }
            let mut inner = match object.object("function")? {
                Some(inner) => inner,
                None => object,
            };
            let name = inner.string("name")?.ok_or_else(|| inner.error("name", "is missing"))?;
            Choice::Named(name)
        }
    };
    check_choice(&choice, tools)?;
    Ok(choice)
}

/// Some of the tools only: `allowed_tools`, as an object (`/v1/chat/completions`) or beside the type (`/v1/responses`).
fn allowed(mut choice: Fields, tools: &mut Vec<Tool>) -> Result<Choice, ApiError> {
    let mut inner = choice.object("allowed_tools")?.unwrap_or(choice);
    let mut names = Vec::new();
    for value in inner.list("tools", TOOLS_MAX)?.unwrap_or_default() {
        let mut tool = Fields::of(value, "tool_choice.tools")?;
        let mut tool = tool.object("function")?.unwrap_or(tool);
        let name = tool.string("name")?.ok_or_else(|| tool.error("name", "is missing"))?;
        check_choice(&Choice::Named(name.clone()), tools)?;
        names.push(name);
    }
    if names.is_empty() {
        return Err(inner.error("tools", "names none"));
    }
    tools.retain(|tool| names.contains(&tool.name));
    match inner.string("mode")?.as_deref() {
        Some("auto") => Ok(Choice::Auto),
        Some("required") => Ok(Choice::Any),
        _ => Err(inner.error("mode", "must be auto or required")),
    }
}

/// What must be called is there.
///
/// # Errors
/// 400.
pub fn check_choice(choice: &Choice, tools: &[Tool]) -> Result<(), ApiError> {
    match choice {
        Choice::Named(name) if !tools.iter().any(|tool| tool.name == *name) => {
            Err(ApiError::field("tool_choice", "the function is not among the tools"))
        }
        Choice::Any if tools.is_empty() => {
            Err(ApiError::field("tool_choice", "there are no tools to choose from"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::object;

    fn refused(body: &str) -> ApiError {
        let mut fields = object(body.as_bytes(), usize::MAX).unwrap().0;
        let defaults = SamplerParams::default();
        let result = sampling(&mut fields, &defaults, 100)
            .map(|_| ())
            .and_then(|()| stops(&mut fields, "stop").map(|_| ()))
            .and_then(|()| max_tokens(&mut fields, &["max_tokens"]).map(|_| ()))
            .and_then(|()| {
                tools(&mut fields).and_then(|mut t| choice(&mut fields, &mut t)).map(|_| ())
            })
            .and_then(|()| shape(&mut fields).map(|_| ()));
        result.expect_err(body)
    }

    #[test]
    fn senseless_values_are_refused() {
        let many_stops = format!("{{\"stop\":[{}\"x\"]}}", "\"x\",".repeat(99_999));
        let many_tools =
            format!("{{\"tools\":[{}{{}}]}}", "{\"function\":{\"name\":\"f\"}},".repeat(9_999));
        for body in [
            r#"{"max_tokens": -1}"#,
            r#"{"max_tokens": 0}"#,
            r#"{"max_tokens": 1e18}"#,
            r#"{"max_tokens": 2147483648}"#,
            r#"{"max_tokens": 1.5}"#,
            r#"{"temperature": -0.1}"#,
            r#"{"temperature": "hot"}"#,
            r#"{"top_p": 1.1}"#,
            r#"{"presence_penalty": -1}"#,
            r#"{"logit_bias": {"100": 1}}"#,
            r#"{"logit_bias": {"-1": 1}}"#,
            r#"{"logit_bias": {"x": 1}}"#,
            r#"{"logit_bias": {"1": 101}}"#,
            r#"{"stop": ""}"#,
            r#"{"stop": [1]}"#,
            r#"{"seed": 1.5}"#,
            r#"{"tools": [{"type": "code"}]}"#,
            r#"{"tools": [{"function": {"name": "../x"}}]}"#,
            r#"{"tool_choice": "required"}"#,
            r#"{"tool_choice": {"type": "custom", "name": "f"}}"#,
            r#"{"guided_choice": []}"#,
            r#"{"guided_choice": ["a", ""]}"#,
            r#"{"structured_outputs": {"structural_tag": "a"}}"#,
            r#"{"structured_outputs": {"regex": "a", "choice": ["a"]}}"#,
            r#"{"response_format": {"type": "xml"}}"#,
            r#"{"response_format": {"type": "json_object"}, "regex": "a"}"#,
            many_stops.as_str(),
            many_tools.as_str(),
        ] {
            assert_eq!(refused(body).status, 400, "{body:.60}");
        }
    }

    #[test]
    fn what_vllm_calls_structured_is_never_passed_by() {
        let of = |body: &str| {
            let mut fields = object(body.as_bytes(), usize::MAX).unwrap().0;
            shape(&mut fields).unwrap()
        };
        let words = Some(Shape::Lark(r#"start: "yes" | "a\"b""#.to_owned()));
        assert_eq!(of(r#"{"guided_choice": ["yes", "a\"b"]}"#), words);
        assert_eq!(of(r#"{"structured_outputs": {"choice": ["yes", "a\"b"]}}"#), words);
        let regex = Some(Shape::Regex("a+".to_owned()));
        assert_eq!(of(r#"{"structured_outputs": {"regex": "a+"}}"#), regex);
        let schema = Some(Shape::Schema(json!({ "type": "boolean" })));
        assert_eq!(of(r#"{"structured_outputs": {"json": {"type": "boolean"}}}"#), schema);
        assert_eq!(of(r#"{"structured_outputs": {"json_object": true}}"#), Some(Shape::JsonObject));
        assert_eq!(of(r#"{"structured_outputs": null, "guided_choice": null}"#), None);
    }

    #[test]
    fn tools_that_are_not_allowed_are_not_shown() {
        let of = |choice_of: &str| {
            let tool =
                |name| format!(r#"{{"type": "function", "function": {{"name": "{name}"}}}}"#);
            let (a, b) = (tool("a"), tool("b"));
            let body = format!(r#"{{"tools": [{a}, {b}], "tool_choice": {choice_of}}}"#);
            let mut fields = object(body.as_bytes(), usize::MAX).unwrap().0;
            let mut tools = tools(&mut fields).unwrap();
            let choice = choice(&mut fields, &mut tools);
            choice
                .map(|choice| (choice, tools.into_iter().map(|tool| tool.name).collect::<Vec<_>>()))
        };
        let chat = r#"{"type": "allowed_tools", "allowed_tools":
            {"mode": "required", "tools": [{"type": "function", "function": {"name": "b"}}]}}"#;
        assert_eq!(of(chat).unwrap(), (Choice::Any, vec!["b".to_owned()]));
        let responses = r#"{"type": "allowed_tools", "mode": "auto",
            "tools": [{"type": "function", "name": "a"}]}"#;
        assert_eq!(of(responses).unwrap(), (Choice::Auto, vec!["a".to_owned()]));
        let none = r#"{"type": "allowed_tools", "mode": "auto", "tools": [{"name": "c"}]}"#;
        assert!(of(none).unwrap_err().message.contains("not among the tools"));
    }
}
