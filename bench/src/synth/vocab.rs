//! Vocabularies: a small one built in, or that of a real model cut or padded to the shape's size.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lowtide_gguf::write::HeaderWriter;
use lowtide_gguf::{Gguf, Value};

use super::Error;

/// Where the tokenizer comes from.
#[derive(Clone, Debug)]
pub enum Vocab {
    /// Byte-level BPE of the 256 bytes, some English merges and the ChatML tokens.
    Builtin,
    /// All `tokenizer.*` keys of this GGUF file.
    Of(PathBuf),
    /// The same of a file's header held in memory.
    Header(Arc<[u8]>),
}

/// Token types of the format (`tokenizer.ggml.token_type`).
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const UNUSED: i32 = 5;

/// A control token that the cut would lose is kept if at most this part of the vocabulary goes to such tokens.
const KEPT_CONTROL_PART: usize = 8;

pub(super) fn put(writer: &mut HeaderWriter, vocab: &Vocab, size: u64) -> Result<(), Error> {
    // `Shape::check` bounds it by 2^24.
    let size = size as usize;
    match vocab {
        Vocab::Builtin => put_builtin(writer, size),
        Vocab::Of(path) => {
            let header = read_header(path)?;
            copy(writer, &header, size).map_err(|why| Error::Vocab { path: path.clone(), why })?;
        }
        Vocab::Header(header) => {
            let path = PathBuf::from("the header given");
            copy(writer, header, size).map_err(|why| Error::Vocab { path, why })?;
        }
    }
    Ok(())
}

/// Reads a file's header and nothing of its data.
fn read_header(path: &Path) -> Result<Vec<u8>, Error> {
    let wrong = |why: String| Error::Vocab { path: path.to_owned(), why };
    let mut file = File::open(path).map_err(|e| wrong(e.to_string()))?;
    let file_bytes = file.metadata().map_err(|e| wrong(e.to_string()))?.len();
    let mut header = Vec::new();
    let mut want = 1 << 20;
    loop {
        let more = want - header.len() as u64;
        file.by_ref().take(more).read_to_end(&mut header).map_err(|e| wrong(e.to_string()))?;
        match Gguf::parse_header(&header, file_bytes) {
            Err(lowtide_gguf::Error::NeedMore { at_least, .. }) if header.len() as u64 == want => {
                want = at_least.max(want * 2);
            }
            Err(error) => return Err(wrong(error.to_string())),
            Ok(_) => return Ok(header),
        }
    }
}

/// A vocabulary being cut or padded: one entry per token.
struct Tokens<'a> {
    texts: Vec<&'a [u8]>,
    types: Vec<i32>,
    scores: Option<Vec<f32>>,
    /// Old id of each token that is kept.
    ids: Vec<usize>,
}

fn copy(writer: &mut HeaderWriter, header: &[u8], size: usize) -> Result<(), String> {
    // The data is not there: offsets are checked against a file as long as any.
    let gguf = Gguf::parse_header(header, u64::MAX >> 1).map_err(|e| e.to_string())?;
    let tokens = read_tokens(&gguf, size).map_err(|e| e.to_string())?;
    let kept: HashSet<&[u8]> = tokens.texts.iter().copied().collect();
    for entry in gguf.keys() {
        let key = entry.key();
        if !key.starts_with("tokenizer.") {
            continue;
        }
        match (key, entry.value()) {
            ("tokenizer.ggml.tokens", _) => put_texts(writer, &tokens, size),
            ("tokenizer.ggml.token_type", _) => {
                let types = tokens.types.iter().copied().chain(std::iter::repeat(UNUSED));
                writer.i32s(key, &types.take(size).collect::<Vec<_>>());
            }
            ("tokenizer.ggml.scores", _) => {
                let scores = tokens.scores.iter().flatten().copied().chain(std::iter::repeat(0.0));
                writer.f32s(key, &scores.take(size).collect::<Vec<_>>());
            }
            ("tokenizer.ggml.merges", Value::Array(merges)) => {
                let merges = merges.strings().map_err(|e| e.to_string())?;
                writer.strings(key, &merges.filter(|m| merge_holds(m, &kept)).collect::<Vec<_>>());
            }
            // It would state the whole vocabulary again, uncut.
            ("tokenizer.huggingface.json", _) => {}
            (key, value) if key.ends_with("_token_id") => {
                let id = value.as_int().and_then(|id| usize::try_from(id).ok());
                // An id beyond the source's own vocabulary is dropped with it.
                if let Some(new) = id.and_then(|id| tokens.ids.iter().position(|&old| old == id)) {
                    writer.u32(key, new as u32);
                }
            }
            (key, value) => {
                writer.value(key, &value);
            }
        }
    }
    Ok(())
}

fn put_texts(writer: &mut HeaderWriter, tokens: &Tokens<'_>, size: usize) {
    let known: HashSet<&[u8]> = tokens.texts.iter().copied().collect();
    let unused: Vec<String> = (0..)
        .map(|n| format!("<|unused_{n}|>"))
        .filter(|text| !known.contains(text.as_bytes()))
        .take(size - tokens.texts.len())
        .collect();
    let texts = tokens.texts.iter().copied().chain(unused.iter().map(String::as_bytes));
    writer.strings("tokenizer.ggml.tokens", &texts.collect::<Vec<_>>());
}

/// The tokens that remain: the first `size`, of which the last make room for the special tokens that would be lost.
fn read_tokens<'a>(gguf: &Gguf<'a>, size: usize) -> Result<Tokens<'a>, lowtide_gguf::Error> {
    let texts: Vec<&[u8]> = gguf.require_array("tokenizer.ggml.tokens")?.strings()?.collect();
    let count = texts.len() as u64;
    let types: Vec<i32> = match gguf.get_array("tokenizer.ggml.token_type")? {
        // Types are below ten.
        Some(types) => types.expect_len(count)?.ints()?.map(|ty| ty as i32).collect(),
        None => vec![NORMAL; texts.len()],
    };
    let scores: Option<Vec<f32>> = match gguf.get_array("tokenizer.ggml.scores")? {
        Some(scores) => Some(scores.expect_len(count)?.f32s()?.collect()),
        None => None,
    };
    let mut lost: Vec<usize> = Vec::new();
    for entry in gguf.keys().iter().filter(|entry| entry.key().ends_with("_token_id")) {
        let id = entry.value().as_int().and_then(|id| usize::try_from(id).ok());
        lost.extend(id.filter(|&id| id >= size && id < texts.len()));
    }
    let control: Vec<usize> = (size..texts.len()).filter(|&id| types[id] == CONTROL).collect();
    if control.len() <= size / KEPT_CONTROL_PART {
        lost.extend(control);
    }
    lost.sort_unstable();
    lost.dedup();
    let plain = size.min(texts.len()).saturating_sub(lost.len());
    let ids: Vec<usize> = (0..plain).chain(lost).collect();
    Ok(Tokens {
        texts: ids.iter().map(|&id| texts[id]).collect(),
        types: ids.iter().map(|&id| types[id]).collect(),
        scores: scores.map(|scores| ids.iter().map(|&id| scores[id]).collect()),
        ids,
    })
}

/// Whether both parts of a merge, and what they make, are tokens still.
fn merge_holds(merge: &[u8], kept: &HashSet<&[u8]>) -> bool {
    let Some(space) = merge.iter().position(|&byte| byte == b' ') else {
        return false;
    };
    let (left, right) = (&merge[..space], &merge[space + 1..]);
    kept.contains(left) && kept.contains(right) && kept.contains([left, right].concat().as_slice())
}

/// Merges of the built-in vocabulary, in order of rank; `G` with a dot above stands for a space, as in every byte-level BPE.
const MERGES: &str = "\u{120} t|h e|i n|\u{120} a|r e|o n|\u{120}t he|e r|\u{120} s|a t|\u{120} w|\u{120} o|e n|i t|i s|\
o r|e s|\u{120} c|e d|\u{120} f|\u{120} b|a n|i ng|n g|\u{120} p|a l|a r|\u{120}o f|\u{120} m|\u{120}a n|\u{120} d|\u{120} h|\
\u{120} in|\u{120}t o|\u{120}an d|l e|o u|a s|v e|\u{120} l|r o|l l|o m|\u{120} g|s t|o t|\u{120} n|i c|\u{120} e|e nt|u r|c h|\
in g|\u{120}b e|\u{120}w as|l o|l y|\u{120}i s|s e|\u{120} y|i d|u t|\u{120}y ou|\u{120} th|\u{120}th at";

fn put_builtin(writer: &mut HeaderWriter, size: usize) {
    let specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
    let mut texts: Vec<String> = specials.iter().map(|&text| text.to_owned()).collect();
    let mut types = vec![CONTROL; specials.len()];
    texts.extend((0..=255).map(|byte| byte_char(byte).to_string()));
    let mut merges = Vec::new();
    for merge in MERGES.split('|') {
        let merged: String = merge.split(' ').collect();
        let parts_known = merge.split(' ').all(|part| texts.iter().any(|text| text == part));
        if parts_known && texts.len() < size && !texts.contains(&merged) {
            texts.push(merged);
            merges.push(merge);
        }
    }
    types.resize(texts.len(), NORMAL);
    types.resize(size, UNUSED);
    let padding = size - texts.len();
    texts.extend((0..padding).map(|n| format!("<|unused_{n}|>")));
    writer
        .str("tokenizer.ggml.model", "gpt2")
        .str("tokenizer.ggml.pre", "gpt-2")
        .strings("tokenizer.ggml.tokens", &texts)
        .i32s("tokenizer.ggml.token_type", &types)
        .strings("tokenizer.ggml.merges", &merges)
        .u32("tokenizer.ggml.bos_token_id", 0)
        .u32("tokenizer.ggml.eos_token_id", 2)
        .u32("tokenizer.ggml.padding_token_id", 0)
        .bool("tokenizer.ggml.add_bos_token", false)
        .bool("tokenizer.ggml.add_space_prefix", false)
        .str("tokenizer.chat_template", CHATML);
}

const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}\
{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

/// The character that stands for a byte in byte-level BPE (GPT-2): itself where printable, else the next unused from 256 on.
fn byte_char(byte: u8) -> char {
    let printable = |b: u8| matches!(b, 33..=126 | 161..=172 | 174..=255);
    if printable(byte) {
        return char::from(byte);
    }
    let place = (0..byte).filter(|&b| !printable(b)).count() as u32;
    char::from_u32(256 + place).unwrap_or(char::REPLACEMENT_CHARACTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_characters_are_those_of_gpt_2() {
        assert_eq!(byte_char(b' '), '\u{120}');
        assert_eq!(byte_char(b'\n'), '\u{10a}');
        assert_eq!(byte_char(b'A'), 'A');
        assert_eq!(byte_char(173), '\u{143}');
        let distinct: HashSet<char> = (0..=255).map(byte_char).collect();
        assert_eq!(distinct.len(), 256);
    }

    #[test]
    fn merges_hold_while_their_tokens_do() {
        let kept: HashSet<&[u8]> = [b"a".as_slice(), b"b", b"ab", b"c"].into();
        assert!(merge_holds(b"a b", &kept));
        assert!(!merge_holds(b"a c", &kept));
        assert!(!merge_holds(b"b d", &kept));
        assert!(!merge_holds(b"ab", &kept));
    }
}
