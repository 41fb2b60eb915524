//! Anthropic's `POST /v1/messages` and `POST /v1/messages/count_tokens`.

use std::sync::Arc;

use axum::response::Response;
use lowtide_tokenizer::Message;
use serde_json::{Map, Value, json};

use super::{Begun, Caller, Talk};
use crate::constraint::Shape;
use crate::error::ApiError;
use crate::format::{Call, Tool};
use crate::job::{Figures, Finish, TokenLogprob};
use crate::json::{Fields, expected};
use crate::limits::{JSON_VALUES_MAX, TOOLS_MAX};
use crate::pieces;
use crate::prompt::{Conversation, text_of};
use crate::reader::Delta;
use crate::request::{self, Choice};
use crate::stream::{Collected, Frames, Protocol, collect, respond};

/// Answers.
///
/// # Errors
/// 400, 404, 429, 503.
pub async fn answer(caller: &Caller, mut fields: Fields) -> Result<Response, ApiError> {
    let name = caller.shared.model_name(fields.string("model")?.as_deref())?;
    let face = caller.shared.face_of(caller.client, &name).await?;
    let stream = fields.flag("stream")?.unwrap_or(false);
    let max_tokens = request::max_tokens(&mut fields, &["max_tokens"])?;
    let max_tokens = max_tokens.ok_or_else(|| fields.error("max_tokens", "is missing"))?;
    let (conversation, choice, parallel) = conversation(&mut fields)?;
    let talk = Talk {
        conversation,
        choice,
        parallel,
        shape: shape(&mut fields)?,
        stop: request::stops(&mut fields, "stop_sequences")?,
        sampling: request::sampling(&mut fields, &face.defaults, face.vocabulary)?,
        max_tokens: Some(max_tokens),
        choices: 1,
        logprobs: None,
        ignore_eos: false,
    };
    let id = caller.shared.answer_id("msg_");
    let Begun { ticket, readers } = caller.begin(&face, talk, stream).await?;
    let head = Head { id, model: Arc::clone(&face.id) };
    if stream {
        let wire = Wire { head, open: None, index: 0, calls: 0, stop: None };
        return Ok(respond(ticket, readers, Box::new(wire)));
    }
    let collected = collect(caller, ticket, readers).await?;
    Ok(pieces::whole(whole(&head, &collected), Arc::clone(&caller.work)))
}

/// Counts a prompt's tokens.
///
/// # Errors
/// 400, 404.
pub async fn count(caller: &Caller, mut fields: Fields) -> Result<Value, ApiError> {
    let name = caller.shared.model_name(fields.string("model")?.as_deref())?;
    let face = caller.shared.face_of(caller.client, &name).await?;
    let (conversation, ..) = conversation(&mut fields)?;
    let rendered = caller.render(conversation, face).await?;
    Ok(json!({ "input_tokens": rendered.ids.len() }))
}

/// The schema in `output_config`, or in `output_format`, as it was called at first.
fn shape(fields: &mut Fields) -> Result<Option<Shape>, ApiError> {
    let format = match fields.object("output_config")? {
        Some(mut config) => config.object("format")?,
        None => None,
    };
    let format =
        format.map_or_else(|| fields.object("output_format"), |format| Ok(Some(format)))?;
    format.map_or(Ok(None), request::response_format)
}

fn conversation(fields: &mut Fields) -> Result<(Conversation, Choice, bool), ApiError> {
    let mut conversation = Conversation::default();
    if fields.list("mcp_servers", TOOLS_MAX)?.is_some_and(|servers| !servers.is_empty()) {
        return Err(fields.error("mcp_servers", "is not supported: nothing is ever fetched"));
    }
    if let Some(system) = fields.take("system") {
        let text = text_of(system, fields, "system")?;
        conversation.messages.push(Message::new("system", text));
    }
    let list = fields.list("messages", JSON_VALUES_MAX)?;
    let list = list.ok_or_else(|| fields.error("messages", "is missing"))?;
    if list.is_empty() {
        return Err(fields.error("messages", "is empty"));
    }
    for (index, value) in list.into_iter().enumerate() {
        message(value, index, &mut conversation.messages)?;
    }
    let last_is_plain = |m: &Message| m.role == "assistant" && m.fields.is_empty();
    if conversation.messages.last().is_some_and(last_is_plain)
        && let Some(last) = conversation.messages.pop()
    {
        conversation.prefill = last.content.as_str().unwrap_or_default().to_owned();
    }
    for (index, value) in
        fields.list("tools", TOOLS_MAX)?.unwrap_or_default().into_iter().enumerate()
    {
        let mut tool = Fields::of(value, &format!("tools[{index}]"))?;
        if tool.string("type")?.is_some_and(|kind| kind != "custom") {
            return Err(tool.error("type", "only tools of your own can be called"));
        }
        conversation.tools.push(request::tool(&mut tool, "input_schema")?);
    }
    request::distinct(&conversation.tools)?;
    if let Some(mut thinking) = fields.object("thinking")? {
        let on = thinking.string("type")?.is_some_and(|kind| kind != "disabled");
        conversation.variables.insert("enable_thinking".into(), json!(on));
    }
    let (choice, parallel) = choice(fields, &conversation.tools)?;
    Ok((conversation, choice, parallel))
}

fn choice(fields: &mut Fields, tools: &[Tool]) -> Result<(Choice, bool), ApiError> {
    let Some(mut object) = fields.object("tool_choice")? else { return Ok((Choice::Auto, true)) };
    let parallel = !object.flag("disable_parallel_tool_use")?.unwrap_or(false);
    let choice = match object.string("type")?.as_deref() {
        Some("auto") => Choice::Auto,
        Some("any") => Choice::Any,
        Some("none") => Choice::None,
        Some("tool") => {
            let name = object.string("name")?;
            Choice::Named(name.ok_or_else(|| object.error("name", "is missing"))?)
        }
        _ => return Err(object.error("type", "must be auto, any, tool or none")),
    };
    request::check_choice(&choice, tools)?;
    Ok((choice, parallel))
}

/// One of Anthropic's messages, as one or more of the templates'.
fn message(value: Value, index: usize, out: &mut Vec<Message>) -> Result<(), ApiError> {
    let mut fields = Fields::of(value, &format!("messages[{index}]"))?;
    let role = fields.string("role")?.unwrap_or_default();
    if role != "user" && role != "assistant" {
        return Err(fields.error("role", "must be user or assistant"));
    }
    let content = fields.take("content").ok_or_else(|| fields.error("content", "is missing"))?;
    let blocks = match content {
        Value::String(text) => {
            out.push(Message::new(role, text));
            return Ok(());
        }
        Value::Array(blocks) => blocks,
        other => return Err(fields.error("content", expected("a string or a list", &other))),
    };
    let mut texts: Vec<String> = Vec::new();
    let (mut calls, mut thought) = (Vec::new(), String::new());
    for block in blocks {
        let kind = block.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
        match kind.as_str() {
            "tool_use" => calls.push(used(&block, &fields)?),
            "tool_result" => out.push(result(block, &fields)?),
            "thinking" => thought.push_str(block["thinking"].as_str().unwrap_or_default()),
            "redacted_thinking" => {}
            _ => texts.push(text_of(Value::Array(vec![block]), &fields, "content")?),
        }
    }
    if texts.is_empty() && calls.is_empty() {
        return Ok(());
    }
    let mut message = Message::new(role, texts.join("\n"));
    if !calls.is_empty() {
        message.fields.insert("tool_calls".into(), Value::Array(calls));
    }
    if !thought.is_empty() {
        message.fields.insert("reasoning_content".into(), Value::String(thought));
    }
    out.push(message);
    Ok(())
}

fn used(block: &Value, fields: &Fields) -> Result<Value, ApiError> {
    let name =
        block["name"].as_str().ok_or_else(|| fields.error("content", "a call has no name"))?;
    let input = block.get("input").cloned().unwrap_or_else(|| json!({}));
    Ok(json!({
        "id": block["id"], "type": "function", "function": { "name": name, "arguments": input },
    }))
}

fn result(mut block: Value, fields: &Fields) -> Result<Message, ApiError> {
    let text = match block.get_mut("content").map(Value::take) {
        None | Some(Value::Null) => String::new(),
        Some(content) => text_of(content, fields, "content")?,
    };
    let mut message = Message::new("tool", text);
    message.fields.insert("tool_call_id".into(), block["tool_use_id"].take());
    Ok(message)
}

struct Head {
    id: String,
    model: Arc<str>,
}

impl Head {
    fn body(&self, content: Value, stop: (Value, Value), usage: Value) -> Value {
        json!({
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": &*self.model,
            "content": content,
            "stop_reason": stop.0,
            "stop_sequence": stop.1,
            "usage": usage,
        })
    }

    fn call(&self, call: &Call, at: usize, input: Value) -> Value {
        let id = format!("toolu_{}_{at}", &self.id[4..20]);
        json!({ "type": "tool_use", "id": id, "name": call.name, "input": input })
    }
}

fn usage(figures: &Figures) -> Value {
    json!({
        "input_tokens": figures.prompt_tokens - figures.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": figures.cached_tokens,
        "output_tokens": figures.completion_tokens,
    })
}

fn stop(finish: Option<&Finish>, has_calls: bool) -> (Value, Value) {
    match finish {
        Some(Finish::Length) => (json!("max_tokens"), Value::Null),
        Some(Finish::StopText(text)) => (json!("stop_sequence"), json!(text)),
        _ if has_calls => (json!("tool_use"), Value::Null),
        _ => (json!("end_turn"), Value::Null),
    }
}

fn whole(head: &Head, collected: &Collected) -> Value {
    let mut content = Vec::new();
    let mut finish = (Value::Null, Value::Null);
    for answer in &collected.answers {
        if !answer.thought.is_empty() {
            content
                .push(json!({ "type": "thinking", "thinking": answer.thought, "signature": "" }));
        }
        if !answer.text.is_empty() {
            content.push(json!({ "type": "text", "text": answer.text }));
        }
        for (at, call) in answer.calls.iter().enumerate() {
            let empty = || Value::Object(Map::new());
            let input = serde_json::from_str(&call.arguments).unwrap_or_else(|_| empty());
            content.push(head.call(call, at, input));
        }
        finish = stop(answer.finish.as_ref(), !answer.calls.is_empty());
    }
    head.body(Value::Array(content), finish, usage(&collected.figures))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Block {
    Text,
    Thought,
    Call,
}

struct Wire {
    head: Head,
    /// The block that is being written.
    open: Option<Block>,
    index: usize,
    calls: usize,
    stop: Option<(Value, Value)>,
}

impl Wire {
    fn event(out: &mut Frames, data: &Value) {
        out.named(data["type"].as_str().unwrap_or_default(), data);
    }

    fn start(&mut self, block: &Value, out: &mut Frames) {
        let index = self.index;
        Self::event(
            out,
            &json!({ "type": "content_block_start", "index": index, "content_block": block }),
        );
    }

    fn delta(&self, delta: &Value, out: &mut Frames) {
        let index = self.index;
        Self::event(out, &json!({ "type": "content_block_delta", "index": index, "delta": delta }));
    }

    fn stop_block(&mut self, out: &mut Frames) {
        Self::event(out, &json!({ "type": "content_block_stop", "index": self.index }));
        self.index += 1;
        self.open = None;
    }

    fn text(&mut self, kind: Block, text: &str, out: &mut Frames) {
        if self.open.is_some_and(|open| open != kind) {
            self.stop_block(out);
        }
        let (name, field, delta) = match kind {
            Block::Text | Block::Call => ("text", "text", "text_delta"),
            Block::Thought => ("thinking", "thinking", "thinking_delta"),
        };
        if self.open.is_none() {
            let mut block = json!({ "type": name, field: "" });
            if kind == Block::Thought {
                block["signature"] = json!("");
            }
            self.start(&block, out);
            self.open = Some(kind);
        }
        self.delta(&json!({ "type": delta, field: text }), out);
    }
}

impl Protocol for Wire {
    fn begin(&mut self, out: &mut Frames) {
        let usage = usage(&Figures::default());
        let message = self.head.body(json!([]), (Value::Null, Value::Null), usage);
        Self::event(out, &json!({ "type": "message_start", "message": message }));
    }

    fn piece(
        &mut self,
        _choice: usize,
        deltas: Vec<Delta>,
        _logprob: Option<Box<TokenLogprob>>,
        out: &mut Frames,
    ) {
        for delta in deltas {
            match delta {
                Delta::Text(text) => self.text(Block::Text, &text, out),
                Delta::Thought(text) => self.text(Block::Thought, &text, out),
                Delta::Call(name) => {
                    if self.open.is_some() {
                        self.stop_block(out);
                    }
                    let call = Call { name, arguments: String::new() };
                    let block = self.head.call(&call, self.calls, json!({}));
                    self.calls += 1;
                    self.start(&block, out);
                    self.open = Some(Block::Call);
                }
                Delta::Arguments(piece) => {
                    self.delta(&json!({ "type": "input_json_delta", "partial_json": piece }), out);
                }
            }
        }
    }

    fn ended(&mut self, _choice: usize, finish: &Finish, out: &mut Frames) {
        if self.open.is_some() {
            self.stop_block(out);
        }
        self.stop = Some(stop(Some(finish), self.calls > 0));
    }

    fn done(&mut self, figures: &Figures, out: &mut Frames) {
        let (reason, sequence) = self.stop.take().unwrap_or_default();
        Self::event(
            out,
            &json!({
                "type": "message_delta",
                "delta": { "stop_reason": reason, "stop_sequence": sequence },
                "usage": usage(figures),
            }),
        );
        Self::event(out, &json!({ "type": "message_stop" }));
    }

    fn failed(&mut self, error: &ApiError, out: &mut Frames) {
        Self::event(out, &error.anthropic());
    }

    fn ping(&self) -> &'static str {
        "event: ping\ndata: {\"type\": \"ping\"}\n\n"
    }
}
