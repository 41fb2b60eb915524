//! From messages to the tokens a model is to go on from. Text from outside never becomes a special
//! token: the tokenizer sees to that.

use lowtide_tokenizer::{ChatTemplate, EncodeOptions, Message, Prompt, RenderOptions};
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::format::{Format, Tool, told};
use crate::json::{Fields, expected};
use crate::model::ModelFace;

/// Plain text.
pub const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };

/// What a conversation is rendered with.
#[derive(Debug, Default)]
pub struct Conversation {
    /// The messages.
    pub messages: Vec<Message>,
    /// The tools that are offered.
    pub tools: Vec<Tool>,
    /// Variables of the template.
    pub variables: Map<String, Value>,
    /// A beginning of the answer that is given.
    pub prefill: String,
    /// A template of the request's own.
    pub template: Option<String>,
}

/// A prompt.
pub struct Rendered {
    /// Its tokens.
    pub ids: Vec<u32>,
    /// Its text.
    pub text: String,
    /// Whether it ends with the mark that begins a thought.
    pub thinks: bool,
}

impl Conversation {
    /// The prompt.
    ///
    /// # Errors
    /// 400 where the model has no template, or its template refuses.
    pub fn render(mut self, face: &ModelFace) -> Result<Rendered, ApiError> {
        let own;
        let template = match (&self.template, &face.template) {
            (Some(source), _) => {
                own = ChatTemplate::new(source, &face.tokenizer)
                    .map_err(|error| ApiError::field("chat_template", error))?;
                &own
            }
            (None, Some(template)) => template,
            (None, None) => return Err(no_template()),
        };
        let mut options = RenderOptions {
            add_generation_prompt: true,
            variables: std::mem::take(&mut self.variables),
            ..RenderOptions::default()
        };
        let rendered = if self.tools.is_empty() {
            template.render(&self.messages, &options)
        } else if face.format == Format::Told {
            self.calls_as_text();
            render_told(template, &self.messages, &options, &told(&self.tools))
        } else {
            let list = self.tools.iter().map(Tool::template_json).collect();
            options.tools = Some(Value::Array(list));
            template.render(&self.messages, &options)
        };
        let prompt: Prompt = rendered
            .map_err(|error| ApiError::field("messages", error.to_string().replace('\n', ": ")))?;
        let mut ids = face.tokenizer.encode_prompt(&prompt);
        ids.extend(face.tokenizer.encode(&self.prefill, PLAIN));
        let thinks = self.prefill.is_empty() && prompt.text.trim_end().ends_with("<think>");
        Ok(Rendered { ids, text: prompt.text + &self.prefill, thinks })
    }

    /// For a template whose calls are not known here: calls and results in the messages become text. What follows a
    /// result in the user's name is one message with it, as some templates want the roles to alternate.
    fn calls_as_text(&mut self) {
        let mut after_result = false;
        for mut message in std::mem::take(&mut self.messages) {
            if let Some(Value::Array(calls)) = message.fields.remove("tool_calls") {
                let mut text = message.content.as_str().unwrap_or_default().to_owned();
                for call in calls {
                    text.push_str(&format!("<tool_call>\n{}\n</tool_call>", call["function"]));
                }
                message.content = Value::String(text);
            }
            let is_result = message.role == "tool";
            if is_result {
                let text = message.content.as_str().unwrap_or_default();
                message.content =
                    Value::String(format!("<tool_response>\n{text}\n</tool_response>"));
                message.role = "user".to_owned();
            }
            match (self.messages.last_mut(), message.content.as_str()) {
                (Some(last), Some(text)) if after_result && message.role == "user" => {
                    let before = last.content.as_str().unwrap_or_default();
                    last.content = Value::String(format!("{before}\n{text}"));
                }
                _ => {
                    after_result = is_result;
                    self.messages.push(message);
                }
            }
        }
    }
}

/// The prompt with `tools`, a text, in the system message. A template that refuses one or passes it by gets the text before
/// the user's first message.
fn render_told(
    template: &ChatTemplate,
    messages: &[Message],
    options: &RenderOptions,
    tools: &str,
) -> Result<Prompt, lowtide_tokenizer::Error> {
    let shows_tools = |prompt: &Result<Prompt, _>| {
        prompt.as_ref().is_ok_and(|prompt| prompt.text.contains(tools.trim()))
    };
    let mut with_system = messages.to_vec();
    match with_system.first_mut().filter(|message| message.role == "system") {
        Some(message) => {
            let before = message.content.as_str().unwrap_or_default();
            message.content = Value::String(format!("{before}\n\n{tools}"));
        }
        None => with_system.insert(0, Message::new("system", tools)),
    }
    let first = template.render(&with_system, options);
    if shows_tools(&first) {
        return first;
    }
    let mut with_user = messages.to_vec();
    if let Some(user) = with_user.iter_mut().find(|message| message.role == "user")
        && let Some(text) = user.content.as_str()
    {
        user.content = Value::String(format!("{tools}\n\n{text}"));
    }
    let second = template.render(&with_user, options);
    if shows_tools(&second) { second } else { first }
}

fn no_template() -> ApiError {
    ApiError::invalid(
        "this model has no chat template: it goes on with a text, it does not hold a conversation; use \
         /v1/completions",
    )
    .code("no_chat_template")
}

/// 400 where a prompt leaves no room for an answer: both numbers, nothing cut.
///
/// # Errors
/// 400.
pub fn check_length(tokens: usize, context: usize, param: &str) -> Result<(), ApiError> {
    if tokens == 0 {
        return Err(ApiError::field(param, "is empty: a model needs a token to go on from"));
    }
    if tokens < context {
        return Ok(());
    }
    Err(ApiError::field(
        param,
        format!("has {tokens} tokens, and the context holds {context} with the answer; shorten it, or start the server with a larger --ctx"),
    )
    .code("context_length_exceeded"))
}

/// OpenAI's messages as templates take them.
///
/// # Errors
/// 400 for unknown roles, images, sounds, files, and whatever is no message.
pub fn messages(list: Vec<Value>) -> Result<Vec<Message>, ApiError> {
    if list.is_empty() {
        return Err(ApiError::field("messages", "is empty"));
    }
    let mut messages: Vec<Message> = Vec::with_capacity(list.len());
    for (index, value) in list.into_iter().enumerate() {
        let mut fields = Fields::of(value, &format!("messages[{index}]"))?;
        let role = fields.string("role")?.ok_or_else(|| fields.error("role", "is missing"))?;
        let role = match role.as_str() {
            "developer" => "system",
            "function" => "tool",
            "system" | "user" | "assistant" | "tool" => role.as_str(),
            _ => {
                return Err(fields.error(
                    "role",
                    "must be system, developer, user, assistant, tool or function",
                ));
            }
        };
        let mut message = Message::new(role, "");
        let calls = fields.list("tool_calls", 128)?;
        message.content = match fields.take("content") {
            Some(content) => Value::String(text_of(content, &fields, "content")?),
            None if role == "assistant" => Value::String(String::new()),
            None => return Err(fields.error("content", "is missing")),
        };
        if let Some(calls) = calls {
            let calls: Result<Vec<_>, _> = calls.into_iter().map(|c| call(c, &fields)).collect();
            message.fields.insert("tool_calls".into(), Value::Array(calls?));
        }
        for name in ["name", "tool_call_id", "reasoning_content"] {
            if let Some(text) = fields.string(name)? {
                message.fields.insert(name.into(), Value::String(text));
            }
        }
        if role == "tool" && !message.fields.contains_key("name") {
            let name = message.fields.get("tool_call_id").and_then(|id| called(&messages, id));
            message.fields.extend(name.map(|name| ("name".to_owned(), name)));
        }
        messages.push(message);
    }
    Ok(messages)
}

/// The name of the function that was called with this id.
fn called(messages: &[Message], id: &Value) -> Option<Value> {
    let calls = messages.iter().rev().filter_map(|m| m.fields.get("tool_calls")?.as_array());
    calls.flatten().find(|call| call["id"] == *id).map(|call| call["function"]["name"].clone())
}

/// A call in a message. Templates want its arguments as an object.
fn call(value: Value, message: &Fields) -> Result<Value, ApiError> {
    let wrong = |why: String| message.error("tool_calls", why);
    let Value::Object(mut call) = value else {
        return Err(wrong(expected("a list of objects", &value)));
    };
    let Some(Value::Object(function)) = call.get_mut("function") else {
        return Err(wrong("a call has no function".to_owned()));
    };
    if !function.get("name").is_some_and(Value::is_string) {
        return Err(wrong("a call has no name".to_owned()));
    }
    if let Some(Value::String(text)) = function.get("arguments") {
        let text = if text.trim().is_empty() { "{}" } else { text };
        let parsed: Value = serde_json::from_str(text)
            .map_err(|error| wrong(format!("arguments are no JSON: {error}")))?;
        function.insert("arguments".into(), parsed);
    }
    Ok(Value::Object(call))
}

/// The text of a content: a string, or parts of text.
///
/// # Errors
/// 400 for everything else.
pub fn text_of(content: Value, fields: &Fields, name: &str) -> Result<String, ApiError> {
    let parts = match content {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        other => return Err(fields.error(name, expected("a string or a list of parts", &other))),
    };
    let mut texts = Vec::with_capacity(parts.len());
    for part in parts {
        let mut part = Fields::of(part, name)?;
        let kind = part.string("type")?.unwrap_or_default();
        match kind.as_str() {
            "text" | "input_text" | "output_text" | "refusal" => {
                let key = if kind == "refusal" { "refusal" } else { "text" };
                let text = part.string(key)?;
                texts.push(text.ok_or_else(|| fields.error(name, "a part has no text"))?);
            }
            _ => {
                let kind: String = kind.chars().take(40).collect();
                let why = format!(
                    "a part is {kind:?}; this model reads text, and nothing is ever fetched"
                );
                return Err(fields.error(name, why));
            }
        }
    }
    Ok(texts.join("\n"))
}

#[cfg(test)]
#[path = "prompt_tests.rs"]
mod tests;
