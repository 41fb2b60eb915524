//! `POST /v1/embeddings`: the final hidden states of a text's tokens, after the last norm, as one unit vector:
//! their mean, or with `"pooling": "last"` the last one.

use std::sync::Arc;

use axum::response::Response;
use base64::Engine as _;
use lowtide_tokenizer::EncodeOptions;
use serde_json::{Value, json};

use super::Caller;
use crate::error::ApiError;
use crate::job::{Event, Pooling, Work};
use crate::json::{Fields, expected};
use crate::limits::{EMBEDDING_INPUTS_MAX, WORK_LEAST_BYTES};
use crate::model::ModelFace;
use crate::pieces;
use crate::prompt::check_length;
use crate::state::stopping;

/// Embeds.
///
/// # Errors
/// 400, 404, 429, 503; 413 where the vectors take more memory than all requests have.
pub async fn embed(caller: &Caller, mut fields: Fields) -> Result<Response, ApiError> {
    let name = caller.shared.model_name(fields.string("model")?.as_deref())?;
    let face = caller.shared.face_of(caller.client, &name).await?;
    let base64 = match fields.string("encoding_format")?.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => return Err(fields.error("encoding_format", "must be float or base64")),
    };
    let pooling = match fields.string("pooling")?.as_deref() {
        None | Some("mean") => Pooling::Mean,
        Some("last") => Pooling::Last,
        Some(_) => return Err(fields.error("pooling", "must be mean or last")),
    };
    let dimensions = fields.integer("dimensions", 1, 1 << 20)?;
    if let Some(wanted) = dimensions.filter(|wanted| *wanted as usize != face.width) {
        // The first so many of a vector mean something only where a model was trained for that.
        let why = format!("is {wanted}, this model's vectors have {} and no fewer", face.width);
        return Err(fields.error("dimensions", why));
    }
    let input = fields.take("input").ok_or_else(|| fields.error("input", "is missing"))?;
    let own = Arc::clone(&face);
    let inputs = caller.work(move || inputs(input, &own)).await?;
    let tokens: usize = inputs.iter().map(Vec::len).sum();
    let vectors_bytes = inputs.len() * face.width * size_of::<f32>();
    // Until the last of them is written: a client may take its time.
    caller.shared.work.hold(&caller.work, WORK_LEAST_BYTES + vectors_bytes).await?;
    let mut ticket = caller.submit(&face, Work::Embed { inputs, pooling })?;
    let vectors = loop {
        match ticket.events.next().await {
            Some(Event::Embedded(vectors)) => break vectors,
            Some(Event::Failed(error)) => return Err(error),
            Some(_) => {}
            None => return Err(stopping()),
        }
    };
    let piece = move |number: usize| match vectors.get(number) {
        Some(vector) => {
            let embedding = if base64 { json!(base64_of(vector)) } else { json!(vector) };
            let one = json!({ "object": "embedding", "index": number, "embedding": embedding });
            let begin = if number == 0 { "{\"object\":\"list\",\"data\":[" } else { "," };
            Some(format!("{begin}{one}"))
        }
        None if number == vectors.len() => {
            let usage = json!({ "prompt_tokens": tokens, "total_tokens": tokens });
            Some(format!("],\"model\":{},\"usage\":{usage}}}", json!(&*face.id)))
        }
        None => None,
    };
    Ok(pieces::respond(piece, Arc::clone(&caller.work)))
}

fn base64_of(vector: &[f32]) -> String {
    let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
    base64::engine::general_purpose::STANDARD.encode(bytes)
}

/// A text, texts, tokens, or lists of tokens.
fn inputs(input: Value, face: &ModelFace) -> Result<Vec<Vec<u32>>, ApiError> {
    let list = match input {
        Value::Array(list) if list.iter().all(Value::is_number) => vec![Value::Array(list)],
        Value::Array(list) => list,
        one => vec![one],
    };
    if list.len() > EMBEDDING_INPUTS_MAX {
        let why = format!("has {} texts, at most {EMBEDDING_INPUTS_MAX} are taken", list.len());
        return Err(ApiError::field("input", why));
    }
    let vocabulary = face.tokenizer.vocab_size() as u64;
    let mut inputs = Vec::with_capacity(list.len());
    for value in list {
        let ids = match value {
            Value::String(text) => {
                let options = EncodeOptions { add_special: true, parse_special: false };
                face.tokenizer.encode(&text, options)
            }
            Value::Array(list) => {
                let id = |value: &Value| value.as_u64().filter(|id| *id < vocabulary);
                let ids: Option<Vec<u32>> =
                    list.iter().map(|v| id(v).map(|id| id as u32)).collect();
                let why = || ApiError::field("input", format!("token ids are below {vocabulary}"));
                ids.ok_or_else(why)?
            }
            other => return Err(ApiError::field("input", expected("a text or tokens", &other))),
        };
        // No token of an answer follows: the context may be full.
        check_length(ids.len(), face.context + 1, "input")?;
        inputs.push(ids);
    }
    if inputs.is_empty() {
        return Err(ApiError::field("input", "is empty"));
    }
    Ok(inputs)
}
