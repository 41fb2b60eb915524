//! `lowtide tokenize`: text in, token ids out.

use std::io::Write;

use anyhow::Result;
use lowtide_tokenizer::{EncodeOptions, Tokenizer};
use serde::Serialize;

use crate::args::TokenizeArgs;
use crate::failure::{Failure, STATUS_INPUT};
use crate::header::Header;
use crate::input;
use crate::output::Stdout;
use crate::store::{Store, resolve};

#[derive(Serialize)]
struct Document {
    ids: Vec<u32>,
}

/// Prints the ids of a text: one line each with the token's bytes, or the ids alone as JSON.
pub fn tokenize(args: &TokenizeArgs) -> Result<()> {
    let path = resolve::model(&Store::locate(), &args.model)?;
    let header = Header::read(&path)?;
    let tokenizer = Tokenizer::from_gguf(&header.gguf()?)
        .map_err(|error| Failure::from_lines(&error, STATUS_INPUT).about(path.display()))?;
    let text = input::text(args.text.as_deref(), args.file.as_deref(), "text", None)?;
    let options = EncodeOptions { add_special: args.special, parse_special: args.special };
    let ids = tokenizer.encode(&text, options);
    if args.json {
        Stdout::lock().json(&Document { ids })?;
        return Ok(());
    }
    let mut out = Stdout::lock();
    for id in ids {
        let bytes = tokenizer.token_bytes(id);
        writeln!(out, "{id:>7}  {:?}", String::from_utf8_lossy(&bytes))?;
    }
    out.finish()?;
    Ok(())
}
