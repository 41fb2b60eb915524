//! Renders conversations: `render TEMPLATE.jinja < requests`, one JSON object a line with `messages` and optionally
//! `tools`, `add_generation_prompt`, `variables`, `bos_token`, `eos_token`. Prints one JSON line each: the text, or
//! `{"error": ...}`. The date is 2024-07-26. Made for comparing with other engines.

use std::error::Error;
use std::io::BufRead;
use std::time::{Duration, UNIX_EPOCH};

use lowtide_tokenizer::{ChatTemplate, Message, RenderOptions};
use serde_json::{Map, Value, json};

fn message(value: &Value) -> Message {
    let mut fields = value.as_object().cloned().unwrap_or_default();
    let role = fields.shift_remove("role").unwrap_or_default();
    let content = fields.shift_remove("content").unwrap_or_default();
    Message { role: role.as_str().unwrap_or_default().to_owned(), content, fields }
}

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: render TEMPLATE.jinja")?;
    let source = std::fs::read_to_string(path)?;
    for line in std::io::stdin().lock().lines() {
        let request: Value = serde_json::from_str(&line?)?;
        let text = |key: &str| request[key].as_str().unwrap_or_default();
        let messages: Vec<Message> =
            request["messages"].as_array().into_iter().flatten().map(message).collect();
        let options = RenderOptions {
            add_generation_prompt: request["add_generation_prompt"].as_bool().unwrap_or(false),
            tools: request.get("tools").cloned(),
            variables: request["variables"].as_object().cloned().unwrap_or_else(Map::new),
            now: Some(UNIX_EPOCH + Duration::from_secs(1_721_995_200)),
        };
        let rendered = ChatTemplate::unguarded(&source, text("bos_token"), text("eos_token"))
            .and_then(|template| template.render(&messages, &options));
        match rendered {
            Ok(prompt) => println!("{}", json!(prompt.text)),
            Err(error) => println!("{}", json!({ "error": error.to_string() })),
        }
    }
    Ok(())
}
