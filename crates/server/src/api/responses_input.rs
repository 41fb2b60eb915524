//! The `input` of `/v1/responses` as messages.

use lowtide_tokenizer::Message;
use serde_json::{Value, json};

use crate::error::ApiError;
use crate::json::{Fields, expected};
use crate::prompt::text_of;

/// A text, or a list of messages, calls and their results.
///
/// # Errors
/// 400 for everything else.
pub fn read(fields: &mut Fields, out: &mut Vec<Message>) -> Result<(), ApiError> {
    let list = match fields.take("input") {
        None => return Err(fields.error("input", "is missing")),
        Some(Value::String(text)) => {
            out.push(Message::new("user", text));
            return Ok(());
        }
        Some(Value::Array(list)) if !list.is_empty() => list,
        Some(Value::Array(_)) => return Err(fields.error("input", "is empty")),
        Some(other) => return Err(fields.error("input", expected("a string or a list", &other))),
    };
    for (index, value) in list.into_iter().enumerate() {
        let mut item = Fields::of(value, &format!("input[{index}]"))?;
        let kind = item.string("type")?.unwrap_or_else(|| "message".to_owned());
        match kind.as_str() {
            "message" => out.push(said(&mut item)?),
            "function_call" => {
                let name = item.string("name")?.ok_or_else(|| item.error("name", "is missing"))?;
                let text = item.string("arguments")?.unwrap_or_else(|| "{}".to_owned());
                let arguments: Value = serde_json::from_str(&text)
                    .map_err(|error| item.error("arguments", format!("is no JSON: {error}")))?;
                let id = item.string("call_id")?;
                let mut message = Message::new("assistant", "");
                let call = json!({
                    "id": id, "type": "function",
                    "function": { "name": name, "arguments": arguments },
                });
                message.fields.insert("tool_calls".into(), json!([call]));
                out.push(message);
            }
            "function_call_output" => {
                let content = item.take("output").unwrap_or_default();
                let mut message = Message::new("tool", text_of(content, &item, "output")?);
                let id = item.string("call_id")?;
                message.fields.insert("tool_call_id".into(), json!(id));
                out.push(message);
            }
            "reasoning" => {}
            _ => {
                let kind: String = kind.chars().take(40).collect();
                return Err(item.error("type", format!("{kind:?} is not supported")));
            }
        }
    }
    Ok(())
}

fn said(item: &mut Fields) -> Result<Message, ApiError> {
    let role = item.string("role")?.unwrap_or_default();
    let role = match role.as_str() {
        "developer" => "system",
        "user" | "assistant" | "system" => role.as_str(),
        _ => return Err(item.error("role", "must be user, assistant, system or developer")),
    };
    let content = item.take("content").ok_or_else(|| item.error("content", "is missing"))?;
    Ok(Message::new(role, text_of(content, item, "content")?))
}
