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

/// Heap bytes that the merges of a word take at most, for each of its bytes: 16 for the symbols (8, in a list that
/// grows), 8 that link them, and two pairs of 8 that may be merged. Four megabytes of one letter take 25 to 29 each,
/// text and tokens included.
const MERGE_BYTES_PER_BYTE: usize = 40;

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
    word: Vec<Symbol>,
    bpe: bpe::Scratch,
    spm: spm::Scratch,
}

/// Where tokens go, and what getting them there has taken.
struct Sink<'o> {
    out: &'o mut Vec<TokenId>,
    scratch: Scratch,
    /// Bytes of other things that are held meanwhile.
    beside: usize,
    /// Bytes of the longest word so far: scratch is kept.
    longest: usize,
    heap_max: usize,
}

impl Sink<'_> {
    /// Whether there is memory for the tokens of one more word.
    fn admit(&mut self, word: &str) -> Result<(), Error> {
        self.longest = self.longest.max(word.len());
        // A byte may be a token. A list that grows is up to twice as long as what is in it.
        let tokens = self.out.len() + word.len();
        let slots = if tokens >= self.out.capacity() { 2 * tokens } else { self.out.capacity() };
        let bytes = slots
            .saturating_mul(size_of::<TokenId>())
            .saturating_add(self.longest.saturating_mul(MERGE_BYTES_PER_BYTE))
            .saturating_add(self.beside);
        if bytes > self.heap_max {
            return Err(Error::EncodingTooLarge { bytes, max: self.heap_max });
        }
        Ok(())
    }
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

    /// Bytes of text that one token stands for at most; `None` where that has no bound: in vocabularies with tokens that
    /// take the whitespace beside them, and in those that leave out what they cannot express. (Many lack a few control
    /// characters, such as SmolLM2's; these do not count: a text of them is no text.)
    #[must_use]
    pub fn token_text_bytes_max(&self) -> Option<usize> {
        let spells = |byte: u8| match &self.algorithm {
            Algorithm::ByteBpe { .. } => self.vocab.token(&[byte]) != NONE,
            Algorithm::RawBpe { bytes, .. } => bytes[usize::from(byte)] != NONE,
            // The unknown token stands for a character.
            Algorithm::Spm { pieces, .. } => {
                self.special.unk.is_some() || pieces.byte(byte) != NONE
            }
        };
        let is_whole = (b' '..=b'~').chain(0x80..=0xbf).all(spells);
        // A character of several bytes may lack a token for its first. The others have one each, and nothing is
        // merged across the gap.
        let gap = usize::from(!(0xc2..=0xf4).all(spells));
        let longest = self.token_bytes_max().max(char::MAX.len_utf8());
        (is_whole && !self.specials.any_strips(&self.vocab)).then_some(longest + gap)
    }

    /// Bytes of the longest token.
    #[must_use]
    pub fn token_bytes_max(&self) -> usize {
        self.vocab.longest()
    }

    /// The tokens of a text. Time is proportional to its length (times the logarithm of its longest word's).
    #[must_use]
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Vec<TokenId> {
        // Nothing takes more memory than there are addresses.
        self.encode_within(text, options, usize::MAX).unwrap_or_default()
    }

    /// As [`Tokenizer::encode`], with at most `heap_max` bytes of memory for it, the tokens included, the text not.
    ///
    /// # Errors
    /// [`Error::EncodingTooLarge`], before the memory is claimed.
    pub fn encode_within(
        &self,
        text: &str,
        options: EncodeOptions,
        heap_max: usize,
    ) -> Result<Vec<TokenId>, Error> {
        let mut out = self.list_for(text, heap_max)?;
        if options.add_special && self.add_bos {
            out.extend(self.special.bos);
        }
        let search =
            if options.parse_special { Search::Special { breaks: &[] } } else { Search::Plain };
        self.encode_into(text, search, heap_max, &mut out)?;
        if options.add_special && self.add_eos {
            out.extend(self.special.eos);
        }
        Ok(out)
    }

    /// An empty list with room for the tokens of a usual text.
    pub(crate) fn list_for(&self, text: &str, heap_max: usize) -> Result<Vec<TokenId>, Error> {
        let tokens = text.len() / 4 + 2;
        let bytes = tokens * size_of::<TokenId>();
        if bytes > heap_max {
            return Err(Error::EncodingTooLarge { bytes, max: heap_max });
        }
        Ok(Vec::with_capacity(tokens))
    }

    /// Appends the tokens of a text, special tokens included where they span none of the `breaks`.
    pub(crate) fn encode_with_breaks(
        &self,
        text: &str,
        breaks: &[usize],
        heap_max: usize,
        out: &mut Vec<TokenId>,
    ) -> Result<(), Error> {
        self.encode_into(text, Search::Special { breaks }, heap_max, out)
    }

    /// The texts of control tokens and the unknown token.
    pub(crate) fn control_texts(&self) -> impl Iterator<Item = &[u8]> {
        let ids = 0..self.vocab.token_count() as u32;
        ids.filter(|&id| self.is_control(id)).map(|id| self.vocab.bytes(id))
    }

    /// Appends the tokens of a text, without any around it.
    fn encode_into(
        &self,
        text: &str,
        search: Search<'_>,
        heap_max: usize,
        out: &mut Vec<TokenId>,
    ) -> Result<(), Error> {
        let mut fragments = Vec::new();
        let held = out.capacity() * size_of::<TokenId>();
        let heap_left = heap_max.saturating_sub(held);
        self.specials.partition(&self.vocab, text, search, heap_left, &mut fragments)?;
        let fragments_bytes = fragments.capacity() * size_of::<Fragment<'_>>();
        let scratch = Scratch::default();
        let mut sink = Sink { out, scratch, beside: fragments_bytes, longest: 0, heap_max };
        // SentencePiece treats the start of the text as it does the place after a special token.
        let mut after_special = true;
        for fragment in fragments {
            match fragment {
                Fragment::Token(id) => {
                    sink.admit("")?;
                    sink.out.push(id);
                }
                Fragment::Text(text) => {
                    let escaped_bytes = if self.escapes() { escaped_len(text) } else { 0 };
                    sink.beside = fragments_bytes.saturating_add(escaped_bytes);
                    sink.admit("")?;
                    self.plain(&self.escaped(text, after_special), &mut sink)?;
                }
            }
            after_special = matches!(fragment, Fragment::Token(_));
        }
        Ok(())
    }

    /// Whether the vocabulary writes spaces as `▁`.
    fn escapes(&self) -> bool {
        !matches!(self.algorithm, Algorithm::ByteBpe { .. })
    }

    /// A text as the vocabulary writes it; `first` after a special token.
    fn escaped<'t>(&self, text: &'t str, first: bool) -> Cow<'t, str> {
        match &self.algorithm {
            Algorithm::ByteBpe { .. } => Cow::Borrowed(text),
            Algorithm::RawBpe { .. } => escape(text, false),
            Algorithm::Spm { .. } => escape(text, first && self.add_space_prefix),
        }
    }

    fn plain(&self, text: &str, sink: &mut Sink<'_>) -> Result<(), Error> {
        let mut result = Ok(());
        let mut word = |word: &str| {
            if result.is_ok() {
                result = sink.admit(word).map(|()| self.word(word, sink));
            }
        };
        match &self.algorithm {
            Algorithm::ByteBpe { pre, .. } => {
                split::words(text, pre.stages, &mut |piece| each_word(piece, &mut word));
            }
            Algorithm::RawBpe { pre, glue, .. } => {
                split::words(text, pre.stages, &mut |line| each_unglued(line, glue, &mut word));
            }
            Algorithm::Spm { glue, .. } => each_unglued(text, glue, &mut word),
        }
        result
    }

    fn word(&self, word: &str, sink: &mut Sink<'_>) {
        let Sink { out, scratch, .. } = sink;
        match &self.algorithm {
            Algorithm::ByteBpe { .. } => self.byte_word(word, scratch, out),
            Algorithm::RawBpe { .. } => self.raw_word(word, scratch, out),
            Algorithm::Spm { pieces, .. } => {
                pieces.encode(&self.vocab, word, &mut scratch.spm, self.special.unk, out);
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

/// Calls `f` with a word, or with its parts where it is too long for one.
fn each_word<'t>(mut word: &'t str, f: &mut impl FnMut(&'t str)) {
    while word.len() > WORD_BYTES_MAX {
        // A boundary is at most three bytes away.
        let at = (1..=WORD_BYTES_MAX).rev().find(|&at| word.is_char_boundary(at));
        let (head, tail) = word.split_at(at.unwrap_or(word.len()));
        f(head);
        word = tail;
    }
    f(word);
}

/// Bytes of a text with its spaces as `▁`, and one in front.
fn escaped_len(text: &str) -> usize {
    let mark = '▁'.len_utf8();
    let spaces = memchr::memchr_iter(b' ', text.as_bytes()).count();
    text.len() + (mark - 1) * spaces + mark
}

/// Spaces as `▁`, with one in front if `prefix`.
fn escape(text: &str, prefix: bool) -> Cow<'_, str> {
    if !prefix && !text.contains(' ') {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(escaped_len(text));
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
fn each_unglued<'t>(text: &'t str, glue: &[bool; 256], f: &mut impl FnMut(&'t str)) {
    let mut start = 0;
    for at in memchr::memmem::find_iter(text.as_bytes(), "▁") {
        let glued =
            at.checked_sub(1).is_none_or(|before| glue[usize::from(text.as_bytes()[before])]);
        if !glued {
            f(&text[start..at]);
            start = at;
        }
    }
    each_word(&text[start..], f);
}
