//! `POST /v1/completions`: a text, or tokens, to go on from.

use std::sync::Arc;

use axum::response::Response;
use lowtide_tokenizer::{EncodeOptions, Tokenizer};
use serde_json::{Value, json};

use super::Caller;
use super::chat::{now, stream_usage};
use super::whole::{self, Column, Field, top_json};
use super::wire::{self, finish_reason, finite, token_text};
use crate::error::ApiError;
use crate::job::{Figures, Finish, Generate, TokenLogprob};
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
    if echo && logprobs.is_some() {
        let why =
            "the prompt's tokens have no log probabilities here: ask for echo or for logprobs";
        return Err(fields.error("echo", why));
    }
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
        gathered: false,
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
    let ticket = caller.generate(&face, generate, stream).await?;
    let readers: Vec<Reader> = (0..choices).map(|_| Reader::plain()).collect();
    let mut wire = Wire {
        id: caller.shared.answer_id("cmpl-"),
        created: now(),
        model: Arc::clone(&face.id),
        tokenizer: Arc::clone(&face.tokenizer),
        echo: echo.then_some(text),
        with_usage,
        offsets: vec![0; choices],
        finished: None,
        logprobs: logprobs.is_some(),
    };
    if stream {
        return Ok(respond(ticket, readers, Box::new(wire)));
    }
    let collected = collect(caller, ticket, readers).await?;
    let body = whole::Body::new(collected, Arc::clone(&wire.tokenizer), wire.echo.take());
    let has_logprobs = wire.logprobs;
    let choice = move |body: &mut whole::Body, index| write_choice(body, index, has_logprobs);
    body.respond(caller, wire.head(), choice).await
}

fn write_choice(body: &mut whole::Body, index: usize, has_logprobs: bool) {
    let reason = finish_reason(body.answer(index).finish.as_ref(), false);
    body.fixed(&format!("{{\"index\":{index},\"text\":"));
    body.text(index, Field::Text);
    body.fixed(",\"logprobs\":");
    if has_logprobs {
        let columns = [
            ("{\"tokens\":", Column::Tokens),
            (",\"token_logprobs\":", Column::Logprobs),
            (",\"top_logprobs\":", Column::Top),
            (",\"text_offset\":", Column::Offsets),
        ];
        for (name, column) in columns {
            body.fixed(name);
            body.tokens(index, column);
        }
        body.fixed("}");
    } else {
        body.fixed("null");
    }
    body.fixed(&format!(",\"finish_reason\":\"{reason}\"}}"));
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

/// The log probabilities of one token, before which `offset` letters stand.
fn logprobs_json(token: &TokenLogprob, tokenizer: &Tokenizer, offset: &mut usize) -> Value {
    let text = token_text(tokenizer, token.id);
    let at = *offset;
    *offset += text.chars().count();
    json!({
        "tokens": [text],
        "token_logprobs": [finite(token.logprob)],
        "top_logprobs": [top_json(token, tokenizer)],
        "text_offset": [at],
    })
}

struct Wire {
    id: String,
    created: u64,
    model: Arc<str>,
    tokenizer: Arc<Tokenizer>,
    echo: Option<String>,
    with_usage: bool,
    offsets: Vec<usize>,
    logprobs: bool,
    /// The last answer's end, which waits for the figures.
    finished: Option<Value>,
}

impl Wire {
    fn head(&self) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": &*self.model,
        })
    }

    fn body(&self, choices: Value) -> Value {
        let mut body = self.head();
        body["choices"] = choices;
        body
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
            Some(of) => logprobs_json(&of, &self.tokenizer, &mut self.offsets[choice]),
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
