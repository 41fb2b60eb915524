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
use crate::state::{Phase, Shared};

/// `GET /health`.
pub fn health(shared: &Shared) -> Response {
    let (status, word) = match shared.phase() {
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

/// `POST /tokenize`.
///
/// # Errors
/// 400.
pub async fn tokenize(caller: &Caller, mut fields: Fields) -> Result<Value, ApiError> {
    let name = caller.shared.model_name(fields.string("model")?.as_deref())?;
    let face = caller.shared.face_of(caller.client, &name).await?;
    let key = if fields.has("content") { "content" } else { "prompt" };
    let text = fields.string(key)?.ok_or_else(|| fields.error("content", "is missing"))?;
    let options = EncodeOptions {
        add_special: fields.flag("add_special")?.unwrap_or(false),
        parse_special: fields.flag("parse_special")?.unwrap_or(false),
    };
    let pieces = fields.flag("with_pieces")?.unwrap_or(false);
    let own = Arc::clone(&face);
    let encode = move || own.tokenizer.encode(&text, options);
    let ids = tokio::task::spawn_blocking(encode).await.map_err(|_| panicked())?;
    let count = ids.len();
    let tokens: Value = if pieces {
        let piece = |id: &u32| {
            let bytes = face.tokenizer.token_bytes(*id);
            let piece = match String::from_utf8(bytes) {
                Ok(text) => json!(text),
                Err(error) => json!(error.into_bytes()),
            };
            json!({ "id": id, "piece": piece })
        };
        ids.iter().map(piece).collect()
    } else {
        json!(ids)
    };
    Ok(json!({ "tokens": tokens, "count": count, "max_model_len": face.context }))
}

/// `POST /detokenize`.
///
/// # Errors
/// 400.
pub async fn detokenize(caller: &Caller, mut fields: Fields) -> Result<Value, ApiError> {
    let name = caller.shared.model_name(fields.string("model")?.as_deref())?;
    let face = caller.shared.face_of(caller.client, &name).await?;
    let list = fields.list("tokens", crate::limits::JSON_VALUES_MAX)?;
    let list = list.ok_or_else(|| fields.error("tokens", "is missing"))?;
    let vocabulary = face.tokenizer.vocab_size() as u64;
    let id = |value: &Value| match value.as_u64().filter(|id| *id < vocabulary) {
        Some(id) => Ok(id as u32),
        None if value.is_number() => Err(ApiError::field(
            "tokens",
            format!("{value} is no token; ids are below {vocabulary}"),
        )),
        None => Err(ApiError::field("tokens", expected("a list of token ids", value))),
    };
    let ids = list.iter().map(id).collect::<Result<Vec<u32>, _>>()?;
    let options = DecodeOptions { special: true, ..DecodeOptions::default() };
    let text = face.tokenizer.decode(&ids, options);
    Ok(json!({ "content": text, "prompt": text }))
}

/// `POST /apply-template`.
///
/// # Errors
/// 400.
pub async fn apply_template(caller: &Caller, mut fields: Fields) -> Result<Value, ApiError> {
    let name = caller.shared.model_name(fields.string("model")?.as_deref())?;
    let face = caller.shared.face_of(caller.client, &name).await?;
    let conversation = conversation(&mut fields, caller.shared.config.allow_templates)?;
    let render = tokio::task::spawn_blocking(move || conversation.render(&face));
    let rendered = render.await.map_err(|_| panicked())??;
    Ok(json!({ "prompt": rendered.text, "tokens": rendered.ids.len() }))
}
