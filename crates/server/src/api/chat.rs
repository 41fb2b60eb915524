//! `POST /v1/chat/completions`.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use lowtide_tokenizer::Tokenizer;
use serde_json::{Value, json};

use super::whole::{Column, Field};
use super::wire::{chat_logprob, finish_reason};
use super::{Begun, Caller, Talk, whole};
use crate::api::wire;
use crate::error::ApiError;
use crate::format::Call;
use crate::job::{Figures, Finish, TokenLogprob};
use crate::json::Fields;
use crate::limits::{CHOICES_MAX, JSON_VALUES_MAX, TOP_LOGPROBS_MAX};
use crate::model::ModelFace;
use crate::prompt::{Conversation, messages};
use crate::reader::Delta;
use crate::request;
use crate::stream::{Frames, Progress, Protocol, collect, respond};

/// How the answer is wanted.
struct Manner {
    stream: bool,
    usage: bool,
    progress: bool,
}

/// Answers.
///
/// # Errors
/// 400, 404, 429, 503.
pub async fn complete(caller: &Caller, mut fields: Fields) -> Result<Response, ApiError> {
    let name = caller.shared.model_name(fields.string("model")?.as_deref())?;
    let face = caller.shared.face_of(caller.client, &name).await?;
    let manner = Manner {
        stream: fields.flag("stream")?.unwrap_or(false),
        usage: stream_usage(&mut fields)?,
        progress: fields.flag("return_progress")?.unwrap_or(false),
    };
    let templates = caller.shared.config.allow_templates;
    let talk = talk(&mut fields, &face, templates)?;
    let id = caller.shared.answer_id("chatcmpl-");
    let head = Head { id, created: now(), model: Arc::clone(&face.id) };
    let (choices, has_logprobs) = (talk.choices, talk.logprobs.is_some());
    let tokenizer = Arc::clone(&face.tokenizer);
    let Begun { ticket, readers } = caller.begin(&face, talk, manner.stream).await?;
    if manner.stream {
        let state = vec![ChoiceState::default(); choices];
        let stream = Stream { head, tokenizer, manner, state, finished: None };
        return Ok(respond(ticket, readers, Box::new(stream)));
    }
    let collected = collect(caller, ticket, readers).await?;
    let body = whole::Body::new(collected, tokenizer, None);
    let id = head.call_id();
    let choice = move |body: &mut whole::Body, index| write_choice(body, index, &id, has_logprobs);
    body.respond(caller, head.body("chat.completion"), choice).await
}

/// A JSON body.
pub fn axum_json(value: &Value) -> impl IntoResponse + use<> {
    ([(axum::http::header::CONTENT_TYPE, "application/json")], value.to_string())
}

/// Unix seconds.
pub fn now() -> u64 {
    let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    unix.map_or(0, |time| time.as_secs())
}

/// `stream_options.include_usage`.
pub fn stream_usage(fields: &mut Fields) -> Result<bool, ApiError> {
    match fields.object("stream_options")? {
        Some(mut options) => Ok(options.flag("include_usage")?.unwrap_or(false)),
        None => Ok(false),
    }
}

/// The conversation of a body, checked.
///
/// # Errors
/// 400.
pub fn talk(fields: &mut Fields, face: &ModelFace, templates: bool) -> Result<Talk, ApiError> {
    for name in ["functions", "function_call", "audio", "web_search_options", "prediction"] {
        if fields.has(name) {
            return Err(fields.error(name, "is not supported"));
        }
    }
    if fields.list("modalities", 8)?.is_some_and(|list| list.iter().any(|kind| kind != "text")) {
        return Err(fields.error("modalities", "this model answers in text"));
    }
    let mut conversation = conversation(fields, templates)?;
    let choice = request::choice(fields, &mut conversation.tools)?;
    let top = fields.integer("top_logprobs", 0, TOP_LOGPROBS_MAX as u64)?;
    let logprobs = fields.flag("logprobs")?.unwrap_or(false);
    if top.is_some_and(|top| top > 0) && !logprobs {
        return Err(fields.error("top_logprobs", "needs logprobs: true"));
    }
    Ok(Talk {
        conversation,
        choice,
        parallel: fields.flag("parallel_tool_calls")?.unwrap_or(true),
        shape: request::shape(fields)?,
        sampling: request::sampling(fields, &face.defaults, face.vocabulary)?,
        max_tokens: request::max_tokens(fields, &["max_tokens", "max_completion_tokens"])?,
        stop: request::stops(fields, "stop")?,
        choices: fields.integer("n", 1, CHOICES_MAX as u64)?.unwrap_or(1) as usize,
        logprobs: logprobs.then_some(top.unwrap_or(0) as usize),
        ignore_eos: fields.flag("ignore_eos")?.unwrap_or(false),
    })
}

/// Messages, tools and the template's variables.
///
/// # Errors
/// 400.
pub fn conversation(fields: &mut Fields, templates: bool) -> Result<Conversation, ApiError> {
    let list = fields.list("messages", JSON_VALUES_MAX)?;
    let list = list.ok_or_else(|| fields.error("messages", "is missing"))?;
    let template = fields.string("chat_template")?;
    if template.is_some() && !templates {
        return Err(
            fields.error("chat_template", "this server does not take templates from clients")
        );
    }
    let mut variables = match fields.object("chat_template_kwargs")? {
        Some(variables) => variables.into_map(),
        None => serde_json::Map::new(),
    };
    if let Some(effort) = fields.string("reasoning_effort")? {
        variables.entry("reasoning_effort").or_insert(Value::String(effort));
    }
    Ok(Conversation {
        messages: messages(list)?,
        tools: request::tools(fields)?,
        variables,
        prefill: String::new(),
        template,
    })
}

/// What all bodies of an answer begin with.
struct Head {
    id: String,
    created: u64,
    model: Arc<str>,
}

impl Head {
    fn body(&self, object: &str) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": &*self.model,
            "system_fingerprint": concat!("lowtide-", env!("CARGO_PKG_VERSION")),
        })
    }

    /// What the ids of calls begin with.
    fn call_id(&self) -> String {
        format!("call_{}", &self.id[9..25])
    }
}

fn call_json(call: &Call, id: String) -> Value {
    json!({
        "id": id,
        "type": "function",
        "function": { "name": call.name, "arguments": call.arguments },
    })
}

fn write_choice(body: &mut whole::Body, index: usize, call_id: &str, has_logprobs: bool) {
    let answer = body.answer(index);
    let (has_calls, has_thought) = (!answer.calls.is_empty(), !answer.thought.is_empty());
    let has_text = !answer.text.is_empty() || !has_calls;
    let reason = finish_reason(answer.finish.as_ref(), has_calls);
    let id = |at: usize| format!("{call_id}_{index}_{at}");
    let calls = answer.calls.iter().enumerate().map(|(at, call)| call_json(call, id(at)));
    let calls: Value = calls.collect();
    body.fixed(&format!("{{\"index\":{index},\"message\":{{\"role\":\"assistant\",\"content\":"));
    if has_text {
        body.text(index, Field::Text);
    } else {
        body.fixed("null");
    }
    body.fixed(",\"refusal\":null");
    if has_thought {
        body.fixed(",\"reasoning_content\":");
        body.text(index, Field::Thought);
    }
    if has_calls {
        body.fixed(&format!(",\"tool_calls\":{calls}"));
    }
    body.fixed("},\"logprobs\":");
    if has_logprobs {
        body.fixed("{\"content\":");
        body.tokens(index, Column::Entries);
        body.fixed(",\"refusal\":null}");
    } else {
        body.fixed("null");
    }
    body.fixed(&format!(",\"finish_reason\":\"{reason}\"}}"));
}

#[derive(Debug, Clone, Default)]
struct ChoiceState {
    calls: usize,
}

struct Stream {
    head: Head,
    tokenizer: Arc<Tokenizer>,
    manner: Manner,
    state: Vec<ChoiceState>,
    /// The last answer's end, which waits for the figures.
    finished: Option<Value>,
}

impl Stream {
    fn chunk(&self, choices: Value) -> Value {
        let mut body = self.head.body("chat.completion.chunk");
        body["choices"] = choices;
        if self.manner.usage {
            body["usage"] = Value::Null;
        }
        body
    }

    fn choice(&self, index: usize, delta: Value, finish: Value, logprobs: Value) -> Value {
        self.chunk(json!([{
            "index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish,
        }]))
    }
}

impl Protocol for Stream {
    fn begin(&mut self, out: &mut Frames) {
        for index in 0..self.state.len() {
            let delta = json!({ "role": "assistant", "content": "" });
            out.data(&self.choice(index, delta, Value::Null, Value::Null));
        }
    }

    fn progress(&mut self, progress: Progress, out: &mut Frames) {
        if !self.manner.progress {
            return;
        }
        // With a choice that says nothing: clients look at the first of each chunk.
        let mut chunk = self.choice(0, json!({}), Value::Null, Value::Null);
        chunk["prompt_progress"] = json!({
            "total": progress.total,
            "cache": progress.cached,
            "processed": progress.done,
            "time_ms": progress.seconds * 1e3,
        });
        out.data(&chunk);
    }

    fn piece(
        &mut self,
        choice: usize,
        deltas: Vec<Delta>,
        logprob: Option<Box<TokenLogprob>>,
        out: &mut Frames,
    ) {
        let mut logprobs = match logprob {
            Some(of) => {
                json!({ "content": [chat_logprob(&of, &self.tokenizer)], "refusal": null })
            }
            None => Value::Null,
        };
        if deltas.is_empty() {
            out.data(&self.choice(choice, json!({}), Value::Null, logprobs.take()));
        }
        for delta in deltas {
            let delta = match delta {
                Delta::Text(text) => json!({ "content": text }),
                Delta::Thought(text) => json!({ "reasoning_content": text }),
                Delta::Call(name) => {
                    let at = self.state[choice].calls;
                    self.state[choice].calls += 1;
                    let id = format!("{}_{choice}_{at}", self.head.call_id());
                    let mut call = call_json(&Call { name, arguments: String::new() }, id);
                    call["index"] = json!(at);
                    json!({ "tool_calls": [call] })
                }
                Delta::Arguments(piece) => {
                    let at = self.state[choice].calls.saturating_sub(1);
                    let call = json!({ "index": at, "function": { "arguments": piece } });
                    json!({ "tool_calls": [call] })
                }
            };
            out.data(&self.choice(choice, delta, Value::Null, logprobs.take()));
        }
    }

    fn ended(&mut self, choice: usize, finish: &Finish, out: &mut Frames) {
        let reason = finish_reason(Some(finish), self.state[choice].calls > 0);
        let chunk = self.choice(choice, json!({}), json!(reason), Value::Null);
        if choice + 1 < self.state.len() {
            out.data(&chunk);
        } else {
            self.finished = Some(chunk);
        }
    }

    fn done(&mut self, figures: &Figures, out: &mut Frames) {
        let of_usage = self.manner.usage.then(|| self.chunk(json!([])));
        wire::end(self.finished.take(), of_usage, figures, out);
    }

    fn failed(&mut self, error: &ApiError, out: &mut Frames) {
        out.data(&error.openai());
        out.raw("data: [DONE]\n\n");
    }
}
