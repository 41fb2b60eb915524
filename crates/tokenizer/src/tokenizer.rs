//! Text to token ids.

use std::borrow::Cow;

use lowtide_gguf::Gguf;

use crate::bpe::{self, Merges, Symbol};
use crate::load::{self, LoadOptions};
use crate::parts::VocabParts;
use crate::pre::Pre;
use crate::roles::{SpecialIds, attr};
use crate::special::{Fragment, Search, Specials};
use crate::split;
use crate::spm::{self, Pieces};
use crate::vocab::{NONE, Vocab};
use crate::{Error, TokenId};

/// Words are cut at this length, so that 32 bits count their bytes. Text this long without a place to split is no text.
const WORD_BYTES_MAX: usize = 1 << 30;

/// How to encode.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add the tokens that the model wants around its input (BOS, EOS), as the vocabulary says.
    pub add_special: bool,
    /// Take special tokens written in the text for what they are. Off for anything that a user wrote: there
    /// they are plain text. (User-defined tokens, which are text to the model, are taken in either case.)
    pub parse_special: bool,
}

/// How words become tokens.
#[derive(Debug)]
pub(crate) enum Algorithm {
    /// Merges of bytes within words. `bytes` are the symbols of single bytes.
    ByteBpe { pre: Pre, merges: Merges, bytes: Box<[u32; 256]> },
    /// Merges of characters within lines, spaces written as `▁`. `bytes` are the tokens of single bytes.
    RawBpe { pre: Pre, merges: Merges, bytes: Vec<TokenId>, glue: Box<[bool; 256]> },
    /// Joining by score, spaces written as `▁`.
    Spm { pieces: Pieces, glue: Box<[bool; 256]> },
}

/// A vocabulary, ready to encode and decode. It holds no reference to the file.
#[derive(Debug)]
pub struct Tokenizer {
    pub(crate) vocab: Vocab,
    pub(crate) algorithm: Algorithm,
    pub(crate) specials: Specials,
    pub(crate) special: SpecialIds,
    pub(crate) add_space_prefix: bool,
    pub(crate) add_bos: bool,
    pub(crate) add_eos: bool,
    pub(crate) clean_spaces: bool,
}

/// Buffers of one call of `encode`.
#[derive(Default)]
struct Scratch {
    ends: Vec<usize>,
    spare: Vec<usize>,
    word: Vec<Symbol>,
    bpe: bpe::Scratch,
    spm: spm::Scratch,
}

impl Tokenizer {
    /// The vocabulary of a GGUF file.
    ///
    /// # Errors
    /// [`Error`]; unsupported kinds of vocabulary and unknown pre-tokenizers are errors that name them.
    pub fn from_gguf(gguf: &Gguf<'_>) -> Result<Tokenizer, Error> {
        Tokenizer::from_parts(&VocabParts::from_gguf(gguf)?, LoadOptions::default())
    }

    /// A vocabulary from its parts.
    ///
    /// # Errors
    /// As [`Tokenizer::from_gguf`].
    pub fn from_parts(
        parts: &VocabParts<'_>,
        options: LoadOptions<'_>,
    ) -> Result<Tokenizer, Error> {
        load::build(parts, options)
    }

    /// Number of tokens; ids are below it.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab.token_count()
    }

    /// The ids of tokens with a meaning.
    #[must_use]
    pub fn special(&self) -> &SpecialIds {
        &self.special
    }

    /// Whether generation ends with this token.
    #[must_use]
    pub fn is_eog(&self, id: TokenId) -> bool {
        self.special.eog.binary_search(&id).is_ok()
    }

    /// Whether this token is a control token or the unknown token: not text.
    #[must_use]
    pub fn is_control(&self, id: TokenId) -> bool {
        self.vocab.attr(id) & (attr::CONTROL | attr::UNKNOWN) != 0
    }

    /// Whether `add_special` puts BOS in front.
    #[must_use]
    pub fn adds_bos(&self) -> bool {
        self.add_bos && self.special.bos.is_some()
    }

    /// Whether `add_special` puts EOS at the end.
    #[must_use]
    pub fn adds_eos(&self) -> bool {
        self.add_eos && self.special.eos.is_some()
    }

    /// The token whose text this is, special or not; bytes as [`Tokenizer::token_bytes`] gives them.
    #[must_use]
    pub fn token_id(&self, bytes: &[u8]) -> Option<TokenId> {
        let by_text = Some(self.vocab.token(bytes)).filter(|&id| id != NONE);
        // Special tokens need not be findable as words are.
        by_text.or_else(|| self.specials.find(&self.vocab, bytes))
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        let algorithm = match &self.algorithm {
            Algorithm::ByteBpe { merges, bytes, .. } => merges.heap_bytes() + size_of_val(&**bytes),
            Algorithm::RawBpe { merges, bytes, glue, .. } => {
                merges.heap_bytes() + size_of_val(bytes.as_slice()) + size_of_val(&**glue)
            }
            Algorithm::Spm { pieces, glue } => pieces.heap_bytes() + size_of_val(&**glue),
        };
        algorithm
            + self.vocab.heap_bytes()
            + self.specials.heap_bytes()
            + self.special.eog.capacity() * size_of::<TokenId>()
    }

    /// The tokens of a text. Time is proportional to its length (times the logarithm of its longest word's).
    #[must_use]
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Vec<TokenId> {
        let mut out = Vec::with_capacity(text.len() / 4 + 2);
        if options.add_special && self.add_bos {
            out.extend(self.special.bos);
        }
        let search =
            if options.parse_special { Search::Special { breaks: &[] } } else { Search::Plain };
        self.encode_into(text, search, &mut out);
        if options.add_special && self.add_eos {
            out.extend(self.special.eos);
        }
        out
    }

    /// Appends the tokens of a text, special tokens included where they span none of the `breaks`.
    pub(crate) fn encode_with_breaks(&self, text: &str, breaks: &[usize], out: &mut Vec<TokenId>) {
        self.encode_into(text, Search::Special { breaks }, out);
    }

    /// The texts of control tokens and the unknown token.
    pub(crate) fn control_texts(&self) -> impl Iterator<Item = &[u8]> {
        let ids = 0..self.vocab.token_count() as u32;
        ids.filter(|&id| self.is_control(id)).map(|id| self.vocab.bytes(id))
    }

    /// Appends the tokens of a text, without any around it.
    fn encode_into(&self, text: &str, search: Search<'_>, out: &mut Vec<TokenId>) {
        let mut fragments = Vec::new();
        self.specials.partition(&self.vocab, text, search, &mut fragments);
        let mut scratch = Scratch::default();
        // SentencePiece treats the start of the text as it does the place after a special token.
        let mut after_special = true;
        for fragment in fragments {
            match fragment {
                Fragment::Token(id) => out.push(id),
                Fragment::Text(text) => self.plain(text, after_special, &mut scratch, out),
            }
            after_special = matches!(fragment, Fragment::Token(_));
        }
    }

    fn plain(&self, text: &str, first: bool, scratch: &mut Scratch, out: &mut Vec<TokenId>) {
        match &self.algorithm {
            Algorithm::ByteBpe { pre, .. } => {
                let (mut ends, mut spare) =
                    (std::mem::take(&mut scratch.ends), std::mem::take(&mut scratch.spare));
                split::split(text, pre.stages, &mut ends, &mut spare);
                each_word(text, &ends, |word| self.byte_word(word, scratch, out));
                (scratch.ends, scratch.spare) = (ends, spare);
            }
            Algorithm::RawBpe { pre, glue, .. } => {
                let escaped = escape(text, false);
                let (mut ends, mut spare) =
                    (std::mem::take(&mut scratch.ends), std::mem::take(&mut scratch.spare));
                split::split(&escaped, pre.stages, &mut ends, &mut spare);
                each_word(&escaped, &ends, |line| {
                    each_unglued(line, glue, |word| self.raw_word(word, scratch, out));
                });
                (scratch.ends, scratch.spare) = (ends, spare);
            }
            Algorithm::Spm { pieces, glue } => {
                let escaped = escape(text, first && self.add_space_prefix);
                each_unglued(&escaped, glue, |word| {
                    pieces.encode(&self.vocab, word, &mut scratch.spm, self.special.unk, out);
                });
            }
        }
    }

    fn byte_word(&self, word: &str, scratch: &mut Scratch, out: &mut Vec<TokenId>) {
        let Algorithm::ByteBpe { pre, merges, bytes } = &self.algorithm else {
            return;
        };
        if pre.ignore_merges {
            let id = self.vocab.text_token(word.as_bytes());
            if id != NONE {
                out.push(id);
                return;
            }
        }
        let symbols = &mut scratch.word;
        symbols.clear();
        symbols.extend(
            (0..)
                .zip(word.bytes())
                .map(|(start, byte)| Symbol { id: bytes[usize::from(byte)], start }),
        );
        bpe::merge(merges, symbols, &mut scratch.bpe);
        self.symbols(word, symbols, out, |byte| {
            // Like llama.cpp, a byte that the vocabulary cannot express is left out: there is nothing to
            // put in its place. Vocabularies lack such bytes as UTF-8 never has.
            self.vocab.token(&[byte])
        });
    }

    fn raw_word(&self, word: &str, scratch: &mut Scratch, out: &mut Vec<TokenId>) {
        let Algorithm::RawBpe { pre, merges, bytes, .. } = &self.algorithm else {
            return;
        };
        let breaks = || pre.gemma && word.bytes().all(|byte| byte == b'\n');
        if pre.ignore_merges || breaks() {
            let id = self.vocab.text_token(word.as_bytes());
            if id != NONE {
                out.push(id);
                return;
            }
        }
        let symbols = &mut scratch.word;
        symbols.clear();
        symbols.extend(word.char_indices().map(|(start, c)| Symbol {
            id: self.vocab.symbol(c.encode_utf8(&mut [0; 4]).as_bytes()),
            start: start as u32,
        }));
        bpe::merge(merges, symbols, &mut scratch.bpe);
        self.symbols(word, symbols, out, |byte| bytes[usize::from(byte)]);
    }

    /// Appends the tokens of merged symbols; what is no token is spelled out in bytes.
    fn symbols(
        &self,
        word: &str,
        symbols: &[Symbol],
        out: &mut Vec<TokenId>,
        byte_token: impl Fn(u8) -> TokenId,
    ) {
        for (at, symbol) in symbols.iter().enumerate() {
            match self.vocab.token_of_symbol(symbol.id) {
                NONE => {
                    let end = symbols.get(at + 1).map_or(word.len(), |next| next.start as usize);
                    let text = &word.as_bytes()[symbol.start as usize..end];
                    out.extend(text.iter().map(|&byte| byte_token(byte)).filter(|&id| id != NONE));
                }
                id => out.push(id),
            }
        }
    }
}

/// Calls `f` with each word, given where the words end.
fn each_word<'t>(text: &'t str, ends: &[usize], mut f: impl FnMut(&'t str)) {
    let mut start = 0;
    for &end in ends {
        let mut word = text.get(start..end).unwrap_or_default();
        while word.len() > WORD_BYTES_MAX {
            // A boundary is at most three bytes away.
            let at = (1..=WORD_BYTES_MAX).rev().find(|&at| word.is_char_boundary(at));
            let (head, tail) = word.split_at(at.unwrap_or(word.len()));
            f(head);
            word = tail;
        }
        f(word);
        start = end;
    }
}

/// Spaces as `▁`, with one in front if `prefix`.
fn escape(text: &str, prefix: bool) -> Cow<'_, str> {
    if !prefix && !text.contains(' ') {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + text.len() / 2 + 3);
    if prefix {
        escaped.push('▁');
    }
    for (i, part) in text.split(' ').enumerate() {
        if i > 0 {
            escaped.push('▁');
        }
        escaped.push_str(part);
    }
    Cow::Owned(escaped)
}

/// Cuts before each `▁` that no token joins to what stands before it.
fn each_unglued<'t>(text: &'t str, glue: &[bool; 256], mut f: impl FnMut(&'t str)) {
    let mut start = 0;
    for at in memchr::memmem::find_iter(text.as_bytes(), "▁") {
        let glued =
            at.checked_sub(1).is_none_or(|before| glue[usize::from(text.as_bytes()[before])]);
        if !glued {
            f(&text[start..at]);
            start = at;
        }
    }
    each_word(&text[start..], &[text.len() - start], f);
}
