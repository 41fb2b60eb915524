//! The small endpoints: models, tokens, templates, health.

use std::sync::Arc;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use lowtide_tokenizer::{DecodeOptions, EncodeOptions};
use serde_json::{Value, json};

use super::chat::{axum_json, conversation};
use super::{Caller, panicked};
use crate::error::ApiError;
use crate::json::{Fields, expected};
use crate::limits::WORK_LEAST_BYTES;
use crate::model::ModelFace;
use crate::pieces;
use crate::prompt::Rendered;
use crate::state::{Phase, Shared};

/// `GET /health`.
pub fn health(shared: &Shared) -> Response {
    let (status, word) = match shared.phase() {
        Phase::Ready if shared.is_model_lost() => (StatusCode::SERVICE_UNAVAILABLE, "model_fault"),
        Phase::Ready => (StatusCode::OK, "ok"),
        Phase::Loading => (StatusCode::SERVICE_UNAVAILABLE, "loading"),
        Phase::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
    };
    (status, axum_json(&json!({ "status": word }))).into_response()
}

fn model(shared: &Shared, id: &str) -> Value {
    let face = shared.face().filter(|face| &*face.id == id);
    let mut model = json!({
        "id": id,
        "object": "model",
        "created": shared.created,
        "owned_by": "lowtide",
        "loaded": face.is_some(),
    });
    if let Some(face) = face {
        model["max_model_len"] = json!(face.context);
        model["meta"] = json!({
            "architecture": face.architecture,
            "n_ctx": face.context,
            "n_vocab": face.tokenizer.vocab_size(),
            "size": face.file_bytes,
        });
    }
    model
}

/// `GET /v1/models`.
pub fn models(shared: &Shared) -> Value {
    let data: Vec<Value> = shared.models.iter().map(|id| model(shared, id)).collect();
    json!({ "object": "list", "data": data })
}

/// `GET /v1/models/NAME`.
///
/// # Errors
/// 404.
pub fn one_model(shared: &Shared, name: &str) -> Result<Value, ApiError> {
    let known = shared.models.iter().any(|model| model == name);
    if known { Ok(model(shared, name)) } else { Err(ApiError::no_model(name, &shared.models)) }
}

/// Tokens of one piece of an answer.
const PIECE_TOKENS: usize = 512;

/// `POST /tokenize`.
///
/// # Errors
/// 400.
pub async fn tokenize(caller: &Caller, mut fields: Fields) -> Result<Response, ApiError> {
    let name = caller.shared.model_name(fields.string("model")?.as_deref())?;
    let face = caller.shared.face_of(caller.client, &name).await?;
    let key = if fields.has("content") { "content" } else { "prompt" };
    let text = fields.string(key)?.ok_or_else(|| fields.error("content", "is missing"))?;
    let options = EncodeOptions {
        add_special: fields.flag("add_special")?.unwrap_or(false),
        parse_special: fields.flag("parse_special")?.unwrap_or(false),
    };
    let with_pieces = fields.flag("with_pieces")?.unwrap_or(false);
    drop(fields);
    let work = Arc::clone(&caller.work);
    let prepared = tokio::task::spawn_blocking(move || {
        let mut ids = face.tokenizer.encode(&text, options);
        drop(text);
        ids.shrink_to_fit();
        work.keep(WORK_LEAST_BYTES + size_of_val(ids.as_slice()));
        pieces::respond(move |number| tokens_piece(&face, &ids, with_pieces, number), work)
    });
    prepared.await.map_err(|_| panicked())
}

/// A piece of the answer to `/tokenize`.
fn tokens_piece(face: &ModelFace, ids: &[u32], with_pieces: bool, number: usize) -> Option<String> {
    let pieces = ids.len().div_ceil(PIECE_TOKENS).max(1);
    if number >= pieces {
        return None;
    }
    let one = |id: &u32| {
        if !with_pieces {
            return id.to_string();
        }
        let piece = match String::from_utf8(face.tokenizer.token_bytes(*id)) {
            Ok(text) => json!(text),
            Err(error) => json!(error.into_bytes()),
        };
        json!({ "id": id, "piece": piece }).to_string()
    };
    let list: Vec<String> =
        ids.iter().skip(number * PIECE_TOKENS).take(PIECE_TOKENS).map(one).collect();
    let begin = if number == 0 { "{\"tokens\":[" } else { "," };
    let mut text = format!("{begin}{}", list.join(","));
    if number + 1 == pieces {
        let (count, context) = (ids.len(), face.context);
        text.push_str(&format!("],\"count\":{count},\"max_model_len\":{context}}}"));
    }
    Some(text)
}

/// `POST /detokenize`.
///
/// # Errors
/// 400; 413 where the tokens' text takes more memory than the work on a request may.
pub async fn detokenize(caller: &Caller, mut fields: Fields) -> Result<Response, ApiError> {
    let name = caller.shared.model_name(fields.string("model")?.as_deref())?;
    let face = caller.shared.face_of(caller.client, &name).await?;
    let list = fields.list("tokens", crate::limits::JSON_VALUES_MAX)?;
    let list = list.ok_or_else(|| fields.error("tokens", "is missing"))?;
    let work = Arc::clone(&caller.work);
    let prepared = tokio::task::spawn_blocking(move || {
        let ids = token_ids(&list, &face)?;
        drop(list);
        let bytes: usize = ids.iter().map(|id| face.tokenizer.token_bytes(*id).len()).sum();
        // The text, and the bytes it is made of.
        if 2 * bytes > work.bytes() {
            return Err(ApiError::too_much(format!(
                "the text of these tokens has {bytes} bytes, more than a request of this length may take; send them in parts"
            )));
        }
        let options = DecodeOptions { special: true, ..DecodeOptions::default() };
        let text = face.tokenizer.decode(&ids, options);
        drop(ids);
        work.keep(WORK_LEAST_BYTES + text.len());
        Ok(pieces::respond(move |number| text_piece(&text, number), work))
    });
    prepared.await.map_err(|_| panicked())?
}

fn token_ids(list: &[Value], face: &ModelFace) -> Result<Vec<u32>, ApiError> {
    let vocabulary = face.tokenizer.vocab_size() as u64;
    let id = |value: &Value| match value.as_u64().filter(|id| *id < vocabulary) {
        Some(id) => Ok(id as u32),
        None if value.is_number() => Err(ApiError::field(
            "tokens",
            format!("{value} is no token; ids are below {vocabulary}"),
        )),
        None => Err(ApiError::field("tokens", expected("a list of token ids", value))),
    };
    list.iter().map(id).collect()
}

/// A piece of the answer to `/detokenize`: the text under both of its names.
fn text_piece(text: &str, number: usize) -> Option<String> {
    let pieces = pieces::of_text(text);
    let piece = || pieces::text(text, number % pieces);
    match number {
        0 => Some(format!("{{\"content\":\"{}", piece())),
        _ if number == pieces => Some(format!("\",\"prompt\":\"{}", piece())),
        _ if number < 2 * pieces => Some(piece()),
        _ if number == 2 * pieces => Some("\"}".to_owned()),
        _ => None,
    }
}

/// `POST /apply-template`.
///
/// # Errors
/// 400.
pub async fn apply_template(caller: &Caller, mut fields: Fields) -> Result<Response, ApiError> {
    let name = caller.shared.model_name(fields.string("model")?.as_deref())?;
    let face = caller.shared.face_of(caller.client, &name).await?;
    let conversation = conversation(&mut fields, caller.shared.config.allow_templates)?;
    let Rendered { text, ids, .. } = caller.render(conversation, face).await?;
    let work = Arc::clone(&caller.work);
    let prepared = tokio::task::spawn_blocking(move || {
        let tokens = ids.len();
        drop(ids);
        work.keep(WORK_LEAST_BYTES + text.len());
        pieces::respond(move |number| prompt_piece(&text, tokens, number), work)
    });
    prepared.await.map_err(|_| panicked())
}

/// A piece of the answer to `/apply-template`.
fn prompt_piece(text: &str, tokens: usize, number: usize) -> Option<String> {
    let pieces = pieces::of_text(text);
    match number {
        0 => Some(format!("{{\"prompt\":\"{}", pieces::text(text, 0))),
        _ if number < pieces => Some(pieces::text(text, number)),
        _ if number == pieces => Some(format!("\",\"tokens\":{tokens}}}")),
        _ => None,
    }
}
