//! A vocabulary as it stands in a file, before anything is built from it.

use lowtide_gguf::{ArrayRef, Gguf, Value, ValueType};

use crate::Error;

/// A token is at most this long. The longest in use are runs of some 2,000 spaces; a text of 1 MB is
/// scanned for special tokens in time proportional to this at the worst.
pub const TOKEN_BYTES_MAX: usize = 16 << 10;

/// Ids are `u32`, and the top is kept for marks. No vocabulary in use has half a million tokens.
pub const TOKENS_MAX: usize = 1 << 24;

/// What [`Tokenizer::from_parts`](crate::Tokenizer::from_parts) needs: the `tokenizer.ggml.*` keys of a GGUF
/// file, named by their last word.
#[derive(Clone, Debug, Default)]
pub struct VocabParts<'a> {
    /// `model`: `gpt2`, `llama`, `gemma4`.
    pub model: &'a str,
    /// `pre`.
    pub pre: Option<&'a str>,
    /// `tokens`.
    pub tokens: Vec<&'a [u8]>,
    /// `scores`; empty for none.
    pub scores: Vec<f32>,
    /// `token_type`; empty for none. 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte.
    pub token_types: Vec<i32>,
    /// `merges`, each two symbols with a space between.
    pub merges: Option<Vec<&'a [u8]>>,
    /// `add_space_prefix`.
    pub add_space_prefix: Option<bool>,
    /// `add_bos_token`.
    pub add_bos: Option<bool>,
    /// `add_eos_token`.
    pub add_eos: Option<bool>,
    /// The ids of special tokens that the file names.
    pub ids: NamedIds,
    /// `general.name`: some models' tokens strip spaces, which no key says.
    pub name: Option<&'a str>,
}

/// Ids of special tokens as a file names them, `None` where it does not.
#[derive(Copy, Clone, Debug, Default)]
#[expect(missing_docs, reason = "the names are those of the keys, tokenizer.ggml.*_token_id")]
pub struct NamedIds {
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub eot: Option<u32>,
    pub eom: Option<u32>,
    pub unknown: Option<u32>,
    pub separator: Option<u32>,
    pub padding: Option<u32>,
    pub mask: Option<u32>,
    pub fim_pre: Option<u32>,
    pub fim_suf: Option<u32>,
    pub fim_mid: Option<u32>,
    pub fim_pad: Option<u32>,
    pub fim_rep: Option<u32>,
    pub fim_sep: Option<u32>,
}

fn floats(array: ArrayRef<'_>) -> Result<Vec<f32>, lowtide_gguf::Error> {
    match array.element_type() {
        // Some converters write scores as integers.
        ValueType::I32 => Ok(array.ints()?.map(|score| score as f32).collect()),
        _ => Ok(array.f32s()?.collect()),
    }
}

/// Ids are written as u32; some writers use -1 for none.
fn id(gguf: &Gguf<'_>, key: &str) -> Result<Option<u32>, lowtide_gguf::Error> {
    match gguf.get(key) {
        Some(Value::I32(-1) | Value::I64(-1)) => Ok(None),
        _ => gguf.get_u32(key),
    }
}

impl NamedIds {
    fn from_gguf(gguf: &Gguf<'_>) -> Result<NamedIds, lowtide_gguf::Error> {
        let named = |name: &str| id(gguf, &format!("tokenizer.ggml.{name}_token_id"));
        let either = |new: &str, old: &str| Ok(named(new)?.or(named(old)?));
        Ok(NamedIds {
            bos: named("bos")?,
            eos: named("eos")?,
            eot: named("eot")?,
            eom: named("eom")?,
            unknown: named("unknown")?,
            // The misspelling is the format's.
            separator: either("seperator", "separator")?,
            padding: named("padding")?,
            mask: named("mask")?,
            fim_pre: either("fim_pre", "prefix")?,
            fim_suf: either("fim_suf", "suffix")?,
            fim_mid: either("fim_mid", "middle")?,
            fim_pad: named("fim_pad")?,
            fim_rep: named("fim_rep")?,
            fim_sep: named("fim_sep")?,
        })
    }
}

impl<'a> VocabParts<'a> {
    /// The vocabulary of a file.
    ///
    /// # Errors
    /// [`Error::Gguf`] where a key is missing or of the wrong type.
    pub fn from_gguf(gguf: &Gguf<'a>) -> Result<VocabParts<'a>, Error> {
        let array = |key| gguf.get_array(key);
        Ok(VocabParts {
            model: gguf.require_str("tokenizer.ggml.model")?,
            pre: gguf.get_str("tokenizer.ggml.pre")?,
            tokens: gguf.require_array("tokenizer.ggml.tokens")?.strings()?.collect(),
            scores: array("tokenizer.ggml.scores")?.map(floats).transpose()?.unwrap_or_default(),
            token_types: match array("tokenizer.ggml.token_type")? {
                // A type that fits no i32 is none that is known, and is read as undefined.
                Some(types) => types.ints()?.map(|t| i32::try_from(t).unwrap_or(0)).collect(),
                None => Vec::new(),
            },
            merges: match array("tokenizer.ggml.merges")? {
                Some(merges) => Some(merges.strings()?.collect()),
                None => None,
            },
            add_space_prefix: gguf.get_bool("tokenizer.ggml.add_space_prefix")?,
            add_bos: gguf.get_bool("tokenizer.ggml.add_bos_token")?,
            add_eos: gguf.get_bool("tokenizer.ggml.add_eos_token")?,
            ids: NamedIds::from_gguf(gguf)?,
            name: gguf.get_str("general.name").unwrap_or_default(),
        })
    }
}
