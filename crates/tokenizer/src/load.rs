//! Building a tokenizer from the parts of a vocabulary.

use crate::bpe::Merges;
use crate::bytelevel;
use crate::parts::{NamedIds, TOKEN_BYTES_MAX, TOKENS_MAX, VocabParts};
use crate::pre::{self, Pre};
use crate::roles::{self, attr};
use crate::special::Specials;
use crate::spm::{Pieces, byte_token};
use crate::tokenizer::{Algorithm, Tokenizer};
use crate::vocab::{NONE, Vocab};
use crate::{Error, TokenId};

/// How to read a vocabulary.
#[derive(Copy, Clone, Debug, Default)]
pub struct LoadOptions<'a> {
    /// Use this pre-tokenizer instead of the one that the file names: the caller knows better.
    pub pre: Option<&'a str>,
}

/// The kinds of vocabulary.
#[derive(Copy, Clone, Debug)]
pub(crate) enum Kind {
    Bpe(Pre),
    Spm,
}

fn kind(parts: &VocabParts<'_>, options: LoadOptions<'_>) -> Result<Kind, Error> {
    // Files from before the key existed (early 2024) lack it; like llama.cpp they get its default.
    let pre = match (options.pre, parts.model, parts.pre) {
        (Some(pre), _, _) => pre,
        (None, "gemma4", _) => "gemma4",
        (None, _, pre) => pre.filter(|pre| !pre.is_empty()).unwrap_or("default"),
    };
    match parts.model {
        "gpt2" | "gemma4" => {
            let known = pre::by_name(pre).map(Kind::Bpe);
            known.ok_or_else(|| Error::UnknownPre { pre: pre.to_owned() })
        }
        "llama" => Ok(Kind::Spm),
        model => Err(Error::UnsupportedModel { model: model.to_owned() }),
    }
}

fn check(parts: &VocabParts<'_>) -> Result<(), Error> {
    let tokens = parts.tokens.len();
    if !(1..=TOKENS_MAX).contains(&tokens) {
        return Err(Error::TokenCount { count: tokens, max: TOKENS_MAX });
    }
    let arrays = [
        ("tokenizer.ggml.scores", parts.scores.len()),
        ("tokenizer.ggml.token_type", parts.token_types.len()),
    ];
    for (key, found) in arrays {
        if found != 0 && found < tokens {
            return Err(Error::ArrayTooShort { key, found, tokens });
        }
    }
    match parts.tokens.iter().position(|token| token.len() > TOKEN_BYTES_MAX) {
        Some(id) => {
            let bytes = parts.tokens[id].len();
            Err(Error::TokenTooLong { id, bytes, max: TOKEN_BYTES_MAX })
        }
        None => Ok(()),
    }
}

/// Ids of special tokens where the file names none: what the formats' first models had.
fn default_ids(parts: &VocabParts<'_>, kind: Kind) -> NamedIds {
    let (bos, eos, unknown) = match kind {
        Kind::Spm => (Some(1), Some(2), Some(0)),
        Kind::Bpe(_) if parts.model == "gemma4" => (None, None, None),
        Kind::Bpe(pre) => (Some(11).filter(|_| !pre.no_default_bos), Some(11), None),
    };
    NamedIds { bos, eos, unknown, ..NamedIds::default() }
}

/// Stores the tokens. In a byte-level vocabulary the ordinary ones are stored as the bytes they stand
/// for, which is what text is compared with and what decoding prints.
fn vocab(parts: &VocabParts<'_>, attrs: Vec<u8>, byte_level: bool) -> Result<Vocab, Error> {
    let bytes = parts.tokens.iter().map(|token| token.len()).sum();
    let mut vocab = Vocab::with_capacity(parts.tokens.len(), bytes);
    let mut raw = Vec::new();
    // Tokens printed as they are written, but met in text as the bytes they stand for.
    let mut aliases = Vec::new();
    for ((id, &token), &attr) in (0..).zip(&parts.tokens).zip(&attrs) {
        if token.is_empty() {
            vocab.push(format!("[EMPTY_{id}]").as_bytes(), true)?;
            continue;
        }
        raw.clear();
        if !byte_level || !bytelevel::decode(token, &mut raw) {
            vocab.push(token, !byte_level)?;
        } else if attr & !(attr::LSTRIP | attr::RSTRIP) == attr::NORMAL || raw == token {
            vocab.push(&raw, true)?;
        } else {
            vocab.push(token, false)?;
            aliases.push((id, raw.clone()));
        }
    }
    vocab.finish_tokens(attrs);
    for (id, text) in aliases {
        vocab.add_alias(&text, id)?;
    }
    Ok(vocab)
}

/// The two symbols of a merge: it is written with a space between, which may not be its first byte.
fn halves(merge: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = 1 + memchr::memchr(b' ', merge.get(1..)?)?;
    Some((&merge[..at], &merge[at + 1..]))
}

fn merges(parts: &VocabParts<'_>, vocab: &mut Vocab, byte_level: bool) -> Result<Merges, Error> {
    let listed = match &parts.merges {
        Some(merges) => merges.as_slice(),
        // Kimi-K2 has none.
        None if parts.pre == Some("kimi-k2") => &[],
        None => return Err(Error::MergesMissing { model: parts.model.to_owned() }),
    };
    let mut merges = Merges::with_capacity(listed.len());
    let mut joined = Vec::new();
    let mut result = NONE;
    for (rank, merge) in (0..NONE).zip(listed) {
        let Some((left, right)) = halves(merge) else {
            continue;
        };
        joined.clear();
        let known = if byte_level {
            let left = bytelevel::decode(left, &mut joined).then_some(joined.len());
            left.filter(|_| bytelevel::decode(right, &mut joined))
        } else {
            joined.extend_from_slice(left);
            joined.extend_from_slice(right);
            Some(left.len())
        };
        // Text never has symbols outside of the byte alphabet, so that such a merge never applies.
        let Some(middle) = known else {
            continue;
        };
        // Merges mostly stand in the order of what they make; asking there first saves a search.
        result =
            match [result.wrapping_add(1), result].into_iter().find(|&id| vocab.is(id, &joined)) {
                Some(id) => id,
                None => vocab.intern(&joined)?,
            };
        // Spelling out a control token's name must not make one.
        if vocab.attr(result) & (attr::CONTROL | attr::UNKNOWN) != 0 {
            continue;
        }
        let left = vocab.intern(&joined[..middle])?;
        let right = vocab.intern(&joined[middle..])?;
        merges.insert(left, right, rank, result);
    }
    Ok(merges)
}

/// Symbols of single bytes.
fn byte_symbols(vocab: &Vocab) -> Box<[u32; 256]> {
    let mut symbols = Box::new([NONE; 256]);
    for (byte, symbol) in (0..=255u8).zip(symbols.iter_mut()) {
        *symbol = vocab.symbol(&[byte]);
    }
    symbols
}

/// Bytes that stand before `▁` within a token or within what merges make. Elsewhere a word can be cut before
/// `▁` without changing the outcome, and short words are faster.
fn glue(vocab: &Vocab) -> Box<[bool; 256]> {
    let mut glue = Box::new([false; 256]);
    let finder = memchr::memmem::Finder::new("▁");
    for id in 0..vocab.symbol_count() {
        let bytes = vocab.bytes(id);
        for at in finder.find_iter(bytes) {
            if let Some(before) = at.checked_sub(1) {
                glue[usize::from(bytes[before])] = true;
            }
        }
    }
    glue
}

pub(crate) fn build(parts: &VocabParts<'_>, options: LoadOptions<'_>) -> Result<Tokenizer, Error> {
    let kind = kind(parts, options)?;
    check(parts)?;
    let mut attrs = roles::attributes(parts);
    let mut special = roles::resolve(parts, default_ids(parts, kind), &mut attrs)?;
    roles::strip_attributes(parts, &mut attrs);
    let byte_level = matches!(kind, Kind::Bpe(pre) if !pre.raw_utf8);
    let mut vocab = vocab(parts, attrs, byte_level)?;
    let algorithm = match kind {
        Kind::Spm => {
            Algorithm::Spm { pieces: Pieces::new(&vocab, &parts.scores), glue: glue(&vocab) }
        }
        Kind::Bpe(pre) => {
            let merges = merges(parts, &mut vocab, byte_level)?;
            if pre.raw_utf8 {
                let bytes: Vec<TokenId> = (0..=255).map(|byte| byte_token(&vocab, byte)).collect();
                Algorithm::RawBpe { pre, merges, bytes, glue: glue(&vocab) }
            } else {
                Algorithm::ByteBpe { pre, merges, bytes: byte_symbols(&vocab) }
            }
        }
    };
    vocab.shrink();
    let specials = Specials::new(&vocab);
    let (space_prefix, bos, clean_spaces) = match kind {
        Kind::Spm => (true, true, false),
        Kind::Bpe(pre) => (false, pre.add_bos, pre.clean_spaces),
    };
    let gemma = matches!(kind, Kind::Bpe(pre) if pre.gemma);
    special.eog.shrink_to_fit();
    Ok(Tokenizer {
        add_space_prefix: parts.add_space_prefix.unwrap_or(space_prefix),
        add_bos: parts.add_bos.unwrap_or(bos) || gemma,
        add_eos: parts.add_eos.unwrap_or(false),
        clean_spaces,
        vocab,
        algorithm,
        specials,
        special,
    })
}
