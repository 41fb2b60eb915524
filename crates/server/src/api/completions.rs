//! `POST /v1/completions`: a text, or tokens, to go on from.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use lowtide_tokenizer::EncodeOptions;
use serde_json::{Value, json};

use super::Caller;
use super::chat::{axum_json, now, stream_usage};
use super::wire::{finish_reason, finite, timings, usage};
use crate::api::wire;
use crate::error::ApiError;
use crate::job::{Figures, Finish, Generate, TokenLogprob, Work};
use crate::json::{Fields, expected};
use crate::limits::{CHOICES_MAX, TOP_LOGPROBS_MAX};
use crate::model::ModelFace;
use crate::prompt::check_length;
use crate::reader::{Delta, Reader};
use crate::request;
use crate::stream::{Frames, Protocol, collect, respond};

/// OpenAI's default where a request gives no bound.
const TOKENS_DEFAULT: usize = 16;

/// Goes on.
///
/// # Errors
/// 400, 404, 429, 503.
pub async fn complete(caller: &Caller, mut fields: Fields) -> Result<Response, ApiError> {
    let name = caller.shared.model_name(fields.string("model")?.as_deref())?;
    let face = caller.shared.face_of(caller.client, &name).await?;
    let stream = fields.flag("stream")?.unwrap_or(false);
    let with_usage = stream_usage(&mut fields)?;
    refuse(&mut fields)?;
    let echo = fields.flag("echo")?.unwrap_or(false);
    let prompt = fields.take("prompt");
    let shape = request::shape(&mut fields)?;
    let choices = fields.integer("n", 1, CHOICES_MAX as u64)?.unwrap_or(1) as usize;
    let logprobs = fields.integer("logprobs", 0, TOP_LOGPROBS_MAX as u64)?;
    let mut generate = Generate {
        prompt: Vec::new(),
        choices,
        max_tokens: request::max_tokens(&mut fields, &["max_tokens", "max_completion_tokens"])?
            .unwrap_or(TOKENS_DEFAULT),
        stop: request::stops(&mut fields, "stop")?,
        end: None,
        sampling: request::sampling(&mut fields, &face.defaults, face.vocabulary)?,
        logprobs: logprobs.map(|top| top as usize),
        ignore_eos: fields.flag("ignore_eos")?.unwrap_or(false),
        show_control: false,
        constraint: None,
    };
    let own = Arc::clone(&face);
    let prepared = caller.work(move || {
        let (ids, text) = prompt_ids(prompt, &own)?;
        check_length(ids.len(), own.context, "prompt")?;
        let compile = |shape| own.grammars()?.compile(&shape);
        Ok((ids, text, shape.map(compile).transpose()?))
    });
    let (ids, text, constraint) = prepared.await?;
    generate.max_tokens = generate.max_tokens.min(face.context - ids.len());
    (generate.prompt, generate.constraint) = (ids, constraint);
    let ticket = caller.submit(&face, Work::Generate(Box::new(generate)))?;
    caller.work.done();
    let readers: Vec<Reader> = (0..choices).map(|_| Reader::plain()).collect();
    let wire = Wire {
        id: caller.shared.answer_id("cmpl-"),
        created: now(),
        model: Arc::clone(&face.id),
        echo: echo.then_some(text),
        with_usage,
        offsets: vec![0; choices],
        finished: None,
        logprobs: logprobs.is_some(),
    };
    if stream {
        return Ok(respond(ticket, readers, Box::new(wire)));
    }
    let collected = collect(ticket, readers).await?;
    let mut list = Vec::new();
    for (index, answer) in collected.answers.iter().enumerate() {
        let text = format!("{}{}", wire.echo.as_deref().unwrap_or(""), answer.text);
        let logprobs = match logprobs {
            Some(_) => logprobs_json(&answer.logprobs, &mut 0),
            None => Value::Null,
        };
        let reason = finish_reason(answer.finish.as_ref(), false);
        list.push(json!({
            "index": index, "text": text, "logprobs": logprobs, "finish_reason": reason,
        }));
    }
    let mut body = wire.body(Value::Array(list));
    body["usage"] = usage(&collected.figures);
    body["timings"] = timings(&collected.figures);
    Ok(axum_json(&body).into_response())
}

/// What OpenAI has and this server has not.
fn refuse(fields: &mut Fields) -> Result<(), ApiError> {
    for unsupported in ["suffix", "best_of"] {
        let given = fields.take(unsupported).filter(|value| *value != json!(1));
        if given.is_some_and(|value| value != json!("")) {
            return Err(fields.error(unsupported, "is not supported"));
        }
    }
    Ok(())
}

/// A text with the special tokens the model wants around it, or tokens as they are.
fn prompt_ids(prompt: Option<Value>, face: &ModelFace) -> Result<(Vec<u32>, String), ApiError> {
    let wrong = |why: &str| ApiError::field("prompt", why);
    match prompt {
        None => Err(wrong("is missing")),
        Some(Value::String(text)) if text.is_empty() => Err(wrong("is empty")),
        Some(Value::String(text)) => {
            let options = EncodeOptions { add_special: true, parse_special: false };
            Ok((face.tokenizer.encode(&text, options), text))
        }
        Some(Value::Array(list)) if list.len() == 1 && !list[0].is_number() => {
            prompt_ids(list.into_iter().next(), face)
        }
        Some(Value::Array(list)) => {
            let vocabulary = face.tokenizer.vocab_size() as u64;
            let id = |value: &Value| {
                let id = value.as_u64().filter(|id| *id < vocabulary);
                id.map(|id| id as u32).ok_or_else(|| {
                    ApiError::field(
                        "prompt",
                        format!("a list holds token ids below {vocabulary}; one text at a time"),
                    )
                })
            };
            let ids = list.iter().map(id).collect::<Result<Vec<u32>, _>>()?;
            let text = face.tokenizer.decode(&ids, lowtide_tokenizer::DecodeOptions::default());
            Ok((ids, text))
        }
        Some(other) => Err(wrong(&expected("a string or a list of token ids", &other))),
    }
}

fn logprobs_json(tokens: &[TokenLogprob], offset: &mut usize) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut offsets = Vec::new();
    for token in tokens {
        offsets.push(*offset);
        *offset += text(&token.bytes).chars().count();
    }
    let top = |token: &TokenLogprob| -> Value {
        let pairs = token.top.iter().map(|(bytes, p)| (text(bytes), json!(finite(*p))));
        Value::Object(pairs.collect())
    };
    json!({
        "tokens": tokens.iter().map(|token| text(&token.bytes)).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|token| finite(token.logprob)).collect::<Vec<_>>(),
        "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}

struct Wire {
    id: String,
    created: u64,
    model: Arc<str>,
    echo: Option<String>,
    with_usage: bool,
    offsets: Vec<usize>,
    logprobs: bool,
    /// The last answer's end, which waits for the figures.
    finished: Option<Value>,
}

impl Wire {
    fn body(&self, choices: Value) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": &*self.model,
            "choices": choices,
        })
    }

    fn chunk(&self, index: usize, text: &str, logprobs: Value, finish: Value) -> Value {
        let mut body = self.body(json!([{
            "index": index, "text": text, "logprobs": logprobs, "finish_reason": finish,
        }]));
        if self.with_usage {
            body["usage"] = Value::Null;
        }
        body
    }
}

impl Protocol for Wire {
    fn begin(&mut self, out: &mut Frames) {
        if let Some(echo) = &self.echo {
            for index in 0..self.offsets.len() {
                out.data(&self.chunk(index, echo, Value::Null, Value::Null));
            }
        }
    }

    fn piece(
        &mut self,
        choice: usize,
        deltas: Vec<Delta>,
        logprob: Option<Box<TokenLogprob>>,
        out: &mut Frames,
    ) {
        let text: String = deltas
            .into_iter()
            .map(|delta| match delta {
                Delta::Text(text) | Delta::Thought(text) | Delta::Arguments(text) => text,
                Delta::Call(name) => name,
            })
            .collect();
        let logprobs = match logprob.filter(|_| self.logprobs) {
            Some(of) => logprobs_json(&[*of], &mut self.offsets[choice]),
            None => Value::Null,
        };
        out.data(&self.chunk(choice, &text, logprobs, Value::Null));
    }

    fn ended(&mut self, choice: usize, finish: &Finish, out: &mut Frames) {
        let reason = json!(finish_reason(Some(finish), false));
        let chunk = self.chunk(choice, "", Value::Null, reason);
        if choice + 1 < self.offsets.len() {
            out.data(&chunk);
        } else {
            self.finished = Some(chunk);
        }
    }

    fn done(&mut self, figures: &Figures, out: &mut Frames) {
        let of_usage = self.with_usage.then(|| self.body(json!([])));
        wire::end(self.finished.take(), of_usage, figures, out);
    }

    fn failed(&mut self, error: &ApiError, out: &mut Frames) {
        out.data(&error.openai());
        out.raw("data: [DONE]\n\n");
    }
}
