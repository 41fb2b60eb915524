//! OpenAI's `POST /v1/responses`, without state: every request brings its whole conversation.

use std::sync::Arc;

use axum::response::Response;
use lowtide_tokenizer::Message;
use serde_json::{Map, Value, json};

use super::chat::now;
use super::{Begun, Caller, Talk, responses_input};
use crate::error::ApiError;
use crate::format::Call;
use crate::job::{Figures, Finish, TokenLogprob};
use crate::json::Fields;
use crate::pieces;
use crate::prompt::Conversation;
use crate::reader::Delta;
use crate::request;
use crate::stream::{Answer, Frames, Protocol, collect, respond};

/// Answers.
///
/// # Errors
/// 400, 404, 429, 503.
pub async fn answer(caller: &Caller, mut fields: Fields) -> Result<Response, ApiError> {
    let name = caller.shared.model_name(fields.string("model")?.as_deref())?;
    let face = caller.shared.face_of(caller.client, &name).await?;
    for name in ["previous_response_id", "conversation", "prompt"] {
        if fields.has(name) {
            return Err(fields.error(name, "this server keeps no state: send the conversation"));
        }
    }
    if fields.flag("background")?.unwrap_or(false) {
        return Err(fields.error("background", "this server keeps no state"));
    }
    let stream = fields.flag("stream")?.unwrap_or(false);
    let asked = asked(&fields);
    let mut conversation = Conversation::default();
    if let Some(text) = fields.string("instructions")? {
        conversation.messages.push(Message::new("system", text));
    }
    responses_input::read(&mut fields, &mut conversation.messages)?;
    conversation.tools = request::tools(&mut fields)?;
    if let Some(effort) = reasoning_effort(&mut fields)? {
        conversation.variables.insert("reasoning_effort".into(), Value::String(effort));
    }
    let shape = match fields.object("text")? {
        Some(mut text) => match text.object("format")? {
            Some(format) => request::response_format(format)?,
            None => None,
        },
        None => None,
    };
    let talk = Talk {
        choice: request::choice(&mut fields, &mut conversation.tools)?,
        conversation,
        parallel: fields.flag("parallel_tool_calls")?.unwrap_or(true),
        shape,
        stop: Vec::new(),
        sampling: request::sampling(&mut fields, &face.defaults, face.vocabulary)?,
        max_tokens: request::max_tokens(&mut fields, &["max_output_tokens"])?,
        choices: 1,
        logprobs: None,
        ignore_eos: false,
    };
    let head = Head {
        id: caller.shared.answer_id("resp_"),
        created: now(),
        model: Arc::clone(&face.id),
        asked,
        temperature: f64::from(talk.sampling.temperature),
        top_p: f64::from(talk.sampling.top_p),
    };
    let Begun { ticket, readers } = caller.begin(&face, talk, stream).await?;
    if stream {
        let wire = Wire {
            head,
            sequence: 0,
            answer: Answer::default(),
            open: None,
            call: None,
            output: vec![],
        };
        return Ok(respond(ticket, readers, Box::new(wire)));
    }
    let mut collected = collect(caller, ticket, readers).await?;
    let answer = collected.answers.pop().unwrap_or_default();
    let body = head.body(&answer, head.items(&answer), Some(&collected.figures));
    Ok(pieces::whole(body, Arc::clone(&caller.work)))
}

/// What an answer repeats of its request, and what holds where the request does not say.
fn asked(fields: &Fields) -> Map<String, Value> {
    let usual = [
        ("instructions", Value::Null),
        ("max_output_tokens", Value::Null),
        ("metadata", json!({})),
        ("parallel_tool_calls", json!(true)),
        ("tool_choice", json!("auto")),
        ("tools", json!([])),
    ];
    let sent = |name| fields.peek(name).filter(|value| !value.is_null()).cloned();
    usual.into_iter().map(|(name, usual)| (name.to_owned(), sent(name).unwrap_or(usual))).collect()
}

fn reasoning_effort(fields: &mut Fields) -> Result<Option<String>, ApiError> {
    match fields.object("reasoning")? {
        Some(mut reasoning) => reasoning.string("effort"),
        None => Ok(None),
    }
}

struct Head {
    id: String,
    created: u64,
    model: Arc<str>,
    /// What is repeated of the request.
    asked: Map<String, Value>,
    temperature: f64,
    top_p: f64,
}

impl Head {
    fn item_id(&self, prefix: &str, at: usize) -> String {
        format!("{prefix}_{}_{at}", &self.id[5..21])
    }

    fn message(&self, text: &str, at: usize, status: &str) -> Value {
        let content = match text {
            "" if status == "in_progress" => json!([]),
            text => json!([{ "type": "output_text", "text": text, "annotations": [] }]),
        };
        json!({
            "type": "message", "id": self.item_id("msg", at), "role": "assistant",
            "status": status, "content": content,
        })
    }

    fn thought(&self, text: &str, at: usize) -> Value {
        json!({
            "type": "reasoning", "id": self.item_id("rs", at), "summary": [],
            "content": [{ "type": "reasoning_text", "text": text }],
        })
    }

    fn call(&self, call: &Call, at: usize, status: &str) -> Value {
        json!({
            "type": "function_call", "id": self.item_id("fc", at), "call_id": self.item_id("call", at),
            "name": call.name, "arguments": call.arguments, "status": status,
        })
    }

    fn items(&self, answer: &Answer) -> Vec<Value> {
        let mut items = Vec::new();
        if !answer.thought.is_empty() {
            items.push(self.thought(&answer.thought, 0));
        }
        if !answer.text.is_empty() || answer.calls.is_empty() {
            items.push(self.message(&answer.text, items.len(), "completed"));
        }
        for call in &answer.calls {
            items.push(self.call(call, items.len(), "completed"));
        }
        items
    }

    fn body(&self, answer: &Answer, output: Vec<Value>, figures: Option<&Figures>) -> Value {
        let cut = answer.finish == Some(Finish::Length);
        let status = match figures {
            None => "in_progress",
            Some(_) if cut => "incomplete",
            Some(_) => "completed",
        };
        let usage = figures.map(|figures| {
            json!({
                "input_tokens": figures.prompt_tokens,
                "input_tokens_details": { "cached_tokens": figures.cached_tokens },
                "output_tokens": figures.completion_tokens,
                "output_tokens_details": { "reasoning_tokens": 0 },
                "total_tokens": figures.prompt_tokens + figures.completion_tokens,
            })
        });
        let mut body = json!({
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "status": status,
            "error": null,
            "incomplete_details": cut.then(|| json!({ "reason": "max_output_tokens" })),
            "model": &*self.model,
            "output": output,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "store": false,
            "usage": usage,
        });
        if let Value::Object(body) = &mut body {
            body.extend(self.asked.clone());
        }
        body
    }
}

struct Wire {
    head: Head,
    sequence: u64,
    answer: Answer,
    /// Text of the message that is being written.
    open: Option<String>,
    /// The call that is being written.
    call: Option<Call>,
    /// Items that are complete.
    output: Vec<Value>,
}

impl Wire {
    fn event(&mut self, kind: &str, mut data: Value, out: &mut Frames) {
        data["type"] = json!(kind);
        data["sequence_number"] = json!(self.sequence);
        self.sequence += 1;
        out.named(kind, &data);
    }

    fn text(&mut self, text: &str, out: &mut Frames) {
        let index = self.output.len();
        let id = self.head.item_id("msg", index);
        if self.open.is_none() {
            let item = self.head.message("", index, "in_progress");
            let data = json!({ "output_index": index, "item": item });
            self.event("response.output_item.added", data, out);
            let part = json!({ "type": "output_text", "text": "", "annotations": [] });
            let data =
                json!({ "item_id": id, "output_index": index, "content_index": 0, "part": part });
            self.event("response.content_part.added", data, out);
        }
        self.open.get_or_insert_default().push_str(text);
        let data = json!({
            "item_id": id, "output_index": index, "content_index": 0, "delta": text, "logprobs": [],
        });
        self.event("response.output_text.delta", data, out);
    }

    fn close(&mut self, out: &mut Frames) {
        let Some(text) = self.open.take() else { return };
        let index = self.output.len();
        let id = self.head.item_id("msg", index);
        let place = json!({ "item_id": id, "output_index": index, "content_index": 0 });
        let mut data = place.clone();
        data["text"] = json!(text);
        data["logprobs"] = json!([]);
        self.event("response.output_text.done", data, out);
        let mut data = place;
        data["part"] = json!({ "type": "output_text", "text": text, "annotations": [] });
        self.event("response.content_part.done", data, out);
        let item = self.head.message(&text, index, "completed");
        self.item_done(item, out);
    }

    fn item_done(&mut self, item: Value, out: &mut Frames) {
        let data = json!({ "output_index": self.output.len(), "item": item });
        self.output.push(item);
        self.event("response.output_item.done", data, out);
    }

    /// Thought is written as one item when it is complete.
    fn close_thought(&mut self, out: &mut Frames) {
        if self.answer.thought.is_empty() {
            return;
        }
        let thought = std::mem::take(&mut self.answer.thought);
        let item = self.head.thought(&thought, self.output.len());
        let data = json!({ "output_index": self.output.len(), "item": item });
        self.event("response.output_item.added", data, out);
        self.item_done(item, out);
    }

    fn begin_call(&mut self, name: String, out: &mut Frames) {
        let call = Call { name, arguments: String::new() };
        let index = self.output.len();
        let item = self.head.call(&call, index, "in_progress");
        let data = json!({ "output_index": index, "item": item });
        self.event("response.output_item.added", data, out);
        self.call = Some(call);
    }

    fn arguments(&mut self, piece: &str, out: &mut Frames) {
        let Some(call) = &mut self.call else { return };
        call.arguments.push_str(piece);
        let index = self.output.len();
        let id = self.head.item_id("fc", index);
        let data = json!({ "item_id": id, "output_index": index, "delta": piece });
        self.event("response.function_call_arguments.delta", data, out);
    }

    fn close_call(&mut self, out: &mut Frames) {
        let Some(call) = self.call.take() else { return };
        let index = self.output.len();
        let id = self.head.item_id("fc", index);
        let data = json!({
            "item_id": id, "output_index": index, "name": call.name, "arguments": call.arguments,
        });
        self.event("response.function_call_arguments.done", data, out);
        let item = self.head.call(&call, index, "completed");
        self.item_done(item, out);
    }
}

impl Protocol for Wire {
    fn begin(&mut self, out: &mut Frames) {
        for kind in ["response.created", "response.in_progress"] {
            let body = self.head.body(&Answer::default(), Vec::new(), None);
            self.event(kind, json!({ "response": body }), out);
        }
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
                Delta::Thought(text) => self.answer.thought.push_str(&text),
                Delta::Text(text) => {
                    self.close_thought(out);
                    self.close_call(out);
                    self.text(&text, out);
                }
                Delta::Call(name) => {
                    self.close_thought(out);
                    self.close_call(out);
                    self.close(out);
                    self.begin_call(name, out);
                }
                Delta::Arguments(piece) => self.arguments(&piece, out),
            }
        }
    }

    fn ended(&mut self, _choice: usize, finish: &Finish, out: &mut Frames) {
        self.close_thought(out);
        self.close_call(out);
        self.close(out);
        self.answer.finish = Some(finish.clone());
    }

    fn done(&mut self, figures: &Figures, out: &mut Frames) {
        let output = std::mem::take(&mut self.output);
        let body = self.head.body(&self.answer, output, Some(figures));
        let cut = self.answer.finish == Some(Finish::Length);
        let kind = if cut { "response.incomplete" } else { "response.completed" };
        self.event(kind, json!({ "response": body }), out);
    }

    fn failed(&mut self, error: &ApiError, out: &mut Frames) {
        let data = json!({ "code": error.code, "message": error.message, "param": error.param });
        self.event("error", data, out);
    }
}
