//! How models write thoughts and calls of tools, each family in its own way, and how that is read
//! back while it is being written.

use serde_json::{Map, Value, json};

use crate::constraint::Shape;

/// A family's way. Which one a model has is told by its chat template.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `<tool_call>{"name", "arguments"}</tool_call>`: Qwen, Hermes and many others.
    Hermes,
    /// The same, for models whose template writes calls in no way known here: they are told of them in a message.
    Told,
    /// `{"name", "parameters"}` as the whole answer: Llama 3.
    Llama3,
    /// `[TOOL_CALLS][{"name", "arguments"}]`, or `[TOOL_CALLS]name[ARGS]{..}`.
    Mistral,
    /// `<｜tool▁call▁begin｜>function<｜tool▁sep｜>name` and a fenced block, or the arguments at once.
    DeepSeek,
    /// Channels of gpt-oss: `<|channel|>commentary to=functions.name <|message|>{..}<|call|>`.
    Harmony,
}

/// A call of a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The function.
    pub name: String,
    /// Its arguments, as JSON text.
    pub arguments: String,
}

/// A function that may be called.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The schema of its arguments.
    pub parameters: Value,
}

impl Tool {
    /// As templates want it.
    pub fn template_json(&self) -> Value {
        json!({ "type": "function", "function": {
            "name": self.name,
            "description": self.description.as_deref().unwrap_or(""),
            "parameters": self.parameters,
        }})
    }
}

/// Between a call's kind or name and what follows, in DeepSeek's way.
pub const DEEPSEEK_SEP: &str = "<｜tool▁sep｜>";

impl Format {
    /// The way that a template writes calls.
    pub fn of(template: Option<&str>) -> Self {
        let Some(template) = template else { return Self::Told };
        let has = |text: &str| template.contains(text);
        if has("<|channel|>") && has("<|message|>") {
            Self::Harmony
        } else if has("<｜tool▁calls▁begin｜>") || has("<｜tool▁call▁begin｜>") {
            Self::DeepSeek
        } else if has("[TOOL_CALLS]") {
            Self::Mistral
        } else if has("<tool_call>") {
            Self::Hermes
        } else if has("tools") && (has("<|python_tag|>") || has("<|start_header_id|>")) {
            Self::Llama3
        } else {
            Self::Told
        }
    }

    /// Whether its marks are control tokens, which must become text to be read.
    pub fn shows_control(self) -> bool {
        matches!(self, Self::Mistral | Self::DeepSeek | Self::Harmony | Self::Llama3)
    }

    /// What begins a call, and what ends it (empty: the answer's end).
    pub fn marks(self) -> (&'static str, &'static str) {
        match self {
            Self::Hermes | Self::Told => ("<tool_call>", "</tool_call>"),
            Self::Llama3 => ("<|python_tag|>", ""),
            Self::Mistral => ("[TOOL_CALLS]", ""),
            Self::DeepSeek => ("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"),
            Self::Harmony => ("<|channel|>", "<|call|>"),
        }
    }

    /// The calls between the marks; `None` where it is none.
    pub fn read(self, body: &str) -> Option<Vec<Call>> {
        let body = body.trim();
        match self {
            Self::Hermes | Self::Told if body.starts_with("<function=") => {
                read_tagged(body).map(|call| vec![call])
            }
            Self::Hermes | Self::Told | Self::Llama3 => {
                // A number or a string is JSON too, and no call.
                body.starts_with(['{', '[']).then(|| read_objects(body))?
            }
            Self::Mistral => match body.split_once("[ARGS]") {
                Some((name, arguments)) => {
                    let name = name.split("[CALL_ID]").next().unwrap_or(name);
                    call_of(name, arguments).map(|call| vec![call])
                }
                None => read_objects(body),
            },
            Self::DeepSeek => {
                let (kind, rest) = body.split_once(DEEPSEEK_SEP)?;
                let call = match rest.split_once("```json") {
                    Some((name, fenced)) => {
                        call_of(name, fenced.trim().strip_suffix("```").unwrap_or(fenced))
                    }
                    None => call_of(kind, rest),
                };
                call.map(|call| vec![call])
            }
            Self::Harmony => {
                let (head, arguments) = body.split_once("<|message|>")?;
                let name = head.split("to=functions.").nth(1)?;
                let name = name.split(|c: char| c.is_whitespace() || c == '<').next()?;
                call_of(name, arguments).map(|call| vec![call])
            }
        }
    }

    /// A grammar that lets through one call of one of the tools and nothing else. `control` says which id
    /// a control token has, if the text is one.
    pub fn grammar(self, tools: &[Tool], control: &dyn Fn(&str) -> Option<u32>) -> Shape {
        let mark = |text: &str| match control(text) {
            Some(id) => format!("<[{id}]>"),
            None => json!(text).to_string(),
        };
        let object = |key: &str| {
            let any: Vec<Value> = tools
                .iter()
                .map(|tool| {
                    json!({ "type": "object", "properties": {
                        "name": { "const": tool.name },
                        key: tool.parameters,
                    }, "required": ["name", key], "additionalProperties": false })
                })
                .collect();
            json!({ "anyOf": any })
        };
        let (begin, end) = self.marks();
        let lark = match self {
            Self::Hermes | Self::Told => format!(
                "start: {} \"\\n\" body \"\\n\" {}\nbody: %json {}\n",
                mark(begin),
                mark(end),
                object("arguments")
            ),
            Self::Llama3 => format!("start: body\nbody: %json {}\n", object("parameters")),
            Self::Mistral => {
                let list = json!({ "type": "array", "items": object("arguments"), "minItems": 1, "maxItems": 1 });
                format!("start: {} body\nbody: %json {list}\n", mark(begin))
            }
            Self::DeepSeek | Self::Harmony => {
                let mut rules = String::new();
                for (index, tool) in tools.iter().enumerate() {
                    let name = json!(tool.name);
                    let head = if self == Self::DeepSeek {
                        let (all, sep) = (mark("<｜tool▁calls▁begin｜>"), mark(DEEPSEEK_SEP));
                        format!("{all} {} \"function\" {sep} {name} \"\\n```json\\n\"", mark(begin))
                    } else {
                        let (constrain, message) = (mark("<|constrain|>"), mark("<|message|>"));
                        let to = json!(format!("commentary to=functions.{} ", tool.name));
                        format!("{} {to} {constrain} \"json\" {message}", mark(begin))
                    };
                    let tail = if self == Self::DeepSeek {
                        format!("\"\\n```\" {} {}", mark(end), mark("<｜tool▁calls▁end｜>"))
                    } else {
                        String::new()
                    };
                    rules.push_str(&format!("call{index}: {head} args{index} {tail}\n"));
                    rules.push_str(&format!("args{index}: %json {}\n", tool.parameters));
                }
                let any: Vec<String> = (0..tools.len()).map(|i| format!("call{i}")).collect();
                format!("start: {}\n{rules}", any.join(" | "))
            }
        };
        Shape::Lark(lark)
    }
}

/// A message that tells a model of tools whose template does not.
pub fn told(tools: &[Tool]) -> String {
    let list: Vec<String> = tools.iter().map(|tool| tool.template_json().to_string()).collect();
    format!(
        "You can call functions. They are, one a line:\n<tools>\n{}\n</tools>\nTo call one, answer with its \
         name and arguments as JSON:\n<tool_call>\n{{\"name\": \"NAME\", \"arguments\": {{}}}}\n</tool_call>",
        list.join("\n")
    )
}

fn call_of(name: &str, arguments: &str) -> Option<Call> {
    let arguments = arguments.trim();
    let arguments = if arguments.is_empty() { "{}" } else { arguments };
    serde_json::from_str::<Map<String, Value>>(arguments).ok()?;
    let name = name.trim();
    (!name.is_empty()).then(|| Call { name: name.to_owned(), arguments: arguments.to_owned() })
}

/// One object, a list of them, or several with `;` or white space between.
fn read_objects(body: &str) -> Option<Vec<Call>> {
    let mut calls = Vec::new();
    let mut rest = body.trim();
    while !rest.is_empty() {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        let value = values.next()?.ok()?;
        rest = rest[values.byte_offset()..].trim_start_matches([';', ' ', '\n', '\t', '\r']);
        match value {
            Value::Array(list) => {
                for value in &list {
                    calls.push(object_call(value)?);
                }
            }
            value => calls.push(object_call(&value)?),
        }
    }
    (!calls.is_empty()).then_some(calls)
}

fn object_call(value: &Value) -> Option<Call> {
    let value = value.get("function").filter(|f| f.is_object()).unwrap_or(value);
    let name = value.get("name").or_else(|| value.get("function"))?.as_str()?.to_owned();
    let arguments = match value.get("arguments").or_else(|| value.get("parameters")) {
        Some(Value::String(text)) => text.clone(),
        Some(object @ Value::Object(_)) => object.to_string(),
        None => "{}".to_owned(),
        Some(_) => return None,
    };
    Some(Call { name, arguments })
}

/// `<function=name><parameter=key>value</parameter></function>`: Qwen3-Coder.
fn read_tagged(body: &str) -> Option<Call> {
    let (name, mut rest) = body.strip_prefix("<function=")?.split_once('>')?;
    let mut arguments = Map::new();
    while let Some((_, after)) = rest.split_once("<parameter=") {
        let (key, after) = after.split_once('>')?;
        let (value, after) = after.split_once("</parameter>")?;
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        arguments.insert(key.trim().to_owned(), value);
        rest = after;
    }
    Some(Call { name: name.trim().to_owned(), arguments: Value::Object(arguments).to_string() })
}
