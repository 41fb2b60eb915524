//! Token ids to text.

use crate::TokenId;
use crate::roles::attr;
use crate::tokenizer::{Algorithm, Tokenizer};

/// How to print tokens.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Print control tokens by their names; otherwise they print nothing.
    pub special: bool,
    /// Leave out BOS at the start and EOS at the end where `add_special` puts them.
    pub remove_special: bool,
    /// Remove spaces before punctuation where the vocabulary asks for it, as llama.cpp's `detokenize`
    /// does (and its streaming does not). It alters text that had such spaces.
    pub clean_spaces: bool,
}

impl Tokenizer {
    /// The bytes that a token prints: possibly a part of a character. A control token prints its name; an
    /// unused token, or an id that does not exist, nothing.
    #[must_use]
    pub fn token_bytes(&self, id: TokenId) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.append(id, true, &mut bytes);
        bytes
    }

    /// Appends what a token prints.
    pub(crate) fn append(&self, id: TokenId, special: bool, out: &mut Vec<u8>) {
        let attrs = self.vocab.attr(id);
        let bytes = self.vocab.bytes(id);
        if attrs & (attr::CONTROL | attr::UNKNOWN) != 0 {
            if special {
                out.extend_from_slice(bytes);
            }
        } else if attrs & attr::USER_DEFINED != 0 {
            out.extend_from_slice(bytes);
        } else if attrs & attr::NORMAL != 0 {
            match self.algorithm {
                Algorithm::ByteBpe { .. } => out.extend_from_slice(bytes),
                Algorithm::RawBpe { .. } | Algorithm::Spm { .. } => unescape(bytes, out),
            }
        } else if attrs & attr::BYTE != 0 {
            out.push(byte_value(bytes));
        }
    }

    /// The text of tokens. Bytes that are not UTF-8 become U+FFFD.
    #[must_use]
    pub fn decode(&self, ids: &[TokenId], options: DecodeOptions) -> String {
        let mut ids = ids;
        let mut strip = self.add_space_prefix;
        if options.remove_special {
            if self.add_bos && !ids.is_empty() && ids.first().copied() == self.special.bos {
                ids = &ids[1..];
                strip = false;
            }
            if self.add_eos && !ids.is_empty() && ids.last().copied() == self.special.eos {
                ids = &ids[..ids.len() - 1];
            }
        }
        let mut bytes = Vec::new();
        for (i, &id) in ids.iter().enumerate() {
            self.append(id, options.special, &mut bytes);
            // The space that encoding put in front of the text.
            if i == 0 && strip && bytes.first() == Some(&b' ') {
                bytes.remove(0);
            }
        }
        if options.clean_spaces && self.clean_spaces {
            clean(&mut bytes);
        }
        match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => String::from_utf8_lossy(error.as_bytes()).into_owned(),
        }
    }
}

/// `▁` as spaces.
fn unescape(bytes: &[u8], out: &mut Vec<u8>) {
    let mut start = 0;
    for at in memchr::memmem::find_iter(bytes, "▁") {
        out.extend_from_slice(&bytes[start..at]);
        out.push(b' ');
        start = at + "▁".len();
    }
    out.extend_from_slice(&bytes[start..]);
}

/// The byte that `<0xNN>` names; 0 where it names none.
fn byte_value(name: &[u8]) -> u8 {
    let digits = name.get(3..5).and_then(|digits| str::from_utf8(digits).ok());
    digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).unwrap_or(0)
}

/// Hugging Face's `clean_up_tokenization_spaces`, as llama.cpp does it, in three passes: spaces before
/// `?!.,`; around a lone apostrophe; before `'s`, `'m`, `'re`, `'ve`.
fn clean(text: &mut Vec<u8>) {
    let mut out: Vec<u8> = Vec::with_capacity(text.len());
    for (i, &byte) in text.iter().enumerate() {
        if i > 0 && text[i - 1] == b' ' && matches!(byte, b'?' | b'!' | b'.' | b',') {
            out.pop();
        }
        out.push(byte);
    }
    std::mem::swap(text, &mut out);

    out.clear();
    let mut i = 0;
    // A space that was removed does not count as one before the next apostrophe.
    let mut after_space = false;
    while let Some(&byte) = text.get(i) {
        let lone = byte == b'\'' && after_space && text.get(i + 1) == Some(&b' ');
        if lone {
            out.pop();
        }
        out.push(byte);
        after_space = byte == b' ';
        i += if lone { 2 } else { 1 };
    }
    std::mem::swap(text, &mut out);

    out.clear();
    for (i, &byte) in text.iter().enumerate() {
        let ending = matches!(text.get(i + 1..), Some([b's' | b'm', ..] | [b'r' | b'v', b'e', ..]));
        if i > 0 && text[i - 1] == b' ' && byte == b'\'' && ending {
            out.pop();
        }
        out.push(byte);
    }
    std::mem::swap(text, &mut out);
}

/// Decodes tokens as they come and prints whole characters only.
///
/// A character's bytes may be spread over several tokens. They are held back until it is complete; bytes that
/// can no longer become a character print as U+FFFD.
#[derive(Debug)]
pub struct StreamDecoder<'t> {
    tokenizer: &'t Tokenizer,
    special: bool,
    strip_space: bool,
    pending: Vec<u8>,
}

impl<'t> StreamDecoder<'t> {
    /// A decoder for tokens that continue a text. `special`: print control tokens by their names.
    #[must_use]
    pub fn new(tokenizer: &'t Tokenizer, special: bool) -> StreamDecoder<'t> {
        StreamDecoder { tokenizer, special, strip_space: false, pending: Vec::new() }
    }

    /// For tokens that start a text: the space that encoding puts in front is left out, where it does.
    #[must_use]
    pub fn at_start(mut self) -> StreamDecoder<'t> {
        self.strip_space = self.tokenizer.add_space_prefix;
        self
    }

    /// What can be printed now that `id` has come: whole characters, possibly none.
    #[must_use]
    pub fn push(&mut self, id: TokenId) -> String {
        let before = self.pending.len();
        self.tokenizer.append(id, self.special, &mut self.pending);
        if std::mem::take(&mut self.strip_space) && self.pending.get(before) == Some(&b' ') {
            self.pending.remove(before);
        }
        let mut out = String::new();
        let mut used = 0;
        for chunk in self.pending.utf8_chunks() {
            out.push_str(chunk.valid());
            used += chunk.valid().len();
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            let last = used + invalid.len() == self.pending.len();
            if last && may_become_character(invalid) {
                break;
            }
            out.push(char::REPLACEMENT_CHARACTER);
            used += invalid.len();
        }
        self.pending.drain(..used);
        out
    }

    /// What is left at the end: U+FFFD if a character is incomplete.
    #[must_use]
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }
}

/// Whether more bytes could make `bytes`, which are invalid as they are and the longest prefix of a
/// character that stands there, one.
fn may_become_character(bytes: &[u8]) -> bool {
    matches!(str::from_utf8(bytes), Err(error) if error.error_len().is_none())
}
