//! Tokens in one block of memory, found by id and by text.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use hashbrown::HashTable;

use crate::roles::attr;
use crate::{Error, TokenId};

/// No token, no symbol.
pub(crate) const NONE: u32 = u32::MAX;

/// All text of a vocabulary must be addressable by 32 bits.
const TEXT_BYTES_MAX: usize = 1 << 31;

/// The bytes of every symbol, and the way back. Symbols are the tokens (ids 0 to `token_count - 1`) and
/// after them the texts that merges speak of but that are no tokens.
///
/// A symbol costs its bytes, 4 of offset, 1 of attributes and about 7 in the hash table; the table holds ids
/// only. The hash is seeded per process: a file made to collide is no slower than another.
#[derive(Debug)]
pub(crate) struct Vocab {
    text: Vec<u8>,
    ends: Vec<u32>,
    attrs: Vec<u8>,
    token_count: usize,
    by_text: HashTable<u32>,
    hasher: RandomState,
    longest: usize,
    /// Symbols that are not found by their text, ascending: few.
    unlisted: Vec<u32>,
    /// Whether two symbols have the same text.
    duplicates: bool,
    /// Tokens whose text in a word is not what they print: symbol (ascending) and token, few.
    aliases: Vec<(u32, TokenId)>,
}

impl Vocab {
    /// An empty vocabulary with room for `tokens` tokens of `bytes` bytes.
    pub(crate) fn with_capacity(tokens: usize, bytes: usize) -> Vocab {
        Vocab {
            text: Vec::with_capacity(bytes),
            ends: Vec::with_capacity(tokens),
            attrs: Vec::new(),
            token_count: 0,
            by_text: HashTable::with_capacity(tokens),
            hasher: RandomState::default(),
            longest: 0,
            unlisted: Vec::new(),
            duplicates: false,
            aliases: Vec::new(),
        }
    }

    /// Adds the next symbol. If `listed` it is found by its text; of two with the same text the later.
    ///
    /// # Errors
    /// [`Error::VocabularyTooLarge`].
    pub(crate) fn push(&mut self, bytes: &[u8], listed: bool) -> Result<u32, Error> {
        let end = self.text.len() + bytes.len();
        if end > TEXT_BYTES_MAX {
            return Err(Error::VocabularyTooLarge { max: TEXT_BYTES_MAX });
        }
        // Symbols are at most TOKENS_MAX and twice as many merges; each has bytes of its own in `text`
        // but for the empty one, so that there are fewer than NONE.
        let id = self.ends.len() as u32;
        if listed {
            self.list(bytes, id);
        } else {
            self.unlisted.push(id);
        }
        self.text.extend_from_slice(bytes);
        self.ends.push(end as u32);
        Ok(id)
    }

    /// Makes `id`, whose bytes are or will be `bytes`, the one that is found by them.
    fn list(&mut self, bytes: &[u8], id: u32) {
        let Vocab { text, ends, by_text, hasher, duplicates, .. } = self;
        let hash = hasher.hash_one(bytes);
        match by_text.find_mut(hash, |&other| slice(text, ends, other) == bytes) {
            Some(known) => {
                *known = id;
                *duplicates = true;
            }
            None => {
                let rehash = |&other: &u32| hasher.hash_one(slice(text, ends, other));
                by_text.insert_unique(hash, id, rehash);
            }
        }
        self.longest = self.longest.max(bytes.len());
    }

    /// Closes the list of tokens; what is pushed from now on is a symbol only.
    pub(crate) fn finish_tokens(&mut self, attrs: Vec<u8>) {
        self.token_count = self.ends.len();
        self.attrs = attrs;
    }

    /// The symbol of this text, added if there is none.
    ///
    /// # Errors
    /// [`Error::VocabularyTooLarge`].
    pub(crate) fn intern(&mut self, bytes: &[u8]) -> Result<u32, Error> {
        match self.symbol(bytes) {
            NONE => self.push(bytes, true),
            id => Ok(id),
        }
    }

    /// Makes tokens findable by a text that is not the one they print.
    ///
    /// # Errors
    /// [`Error::VocabularyTooLarge`].
    pub(crate) fn add_alias(&mut self, bytes: &[u8], id: TokenId) -> Result<(), Error> {
        if self.symbol(bytes) == NONE {
            let symbol = self.push(bytes, true)?;
            self.aliases.push((symbol, id));
        }
        Ok(())
    }

    /// Whether `id` is what a search for `bytes` would find, as far as that is known without one.
    #[inline]
    pub(crate) fn is(&self, id: u32, bytes: &[u8]) -> bool {
        !self.duplicates
            && !bytes.is_empty()
            && self.bytes(id) == bytes
            && self.unlisted.binary_search(&id).is_err()
    }

    /// Number of tokens and other symbols.
    pub(crate) fn symbol_count(&self) -> u32 {
        self.ends.len() as u32
    }

    /// The token that a symbol is, or [`NONE`].
    #[inline]
    pub(crate) fn token_of_symbol(&self, symbol: u32) -> TokenId {
        if (symbol as usize) < self.token_count {
            return symbol;
        }
        let alias = self.aliases.binary_search_by_key(&symbol, |&(alias, _)| alias);
        alias.map_or(NONE, |at| self.aliases[at].1)
    }

    /// Gives back what building reserved beyond need.
    pub(crate) fn shrink(&mut self) {
        self.text.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    /// Number of tokens.
    pub(crate) fn token_count(&self) -> usize {
        self.token_count
    }

    /// The bytes of a symbol; none for an id that does not exist.
    #[inline]
    pub(crate) fn bytes(&self, id: u32) -> &[u8] {
        slice(&self.text, &self.ends, id)
    }

    /// Bytes of the longest symbol.
    pub(crate) fn longest(&self) -> usize {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        let lengths = starts.zip(&self.ends).map(|(start, end)| (end - start) as usize);
        lengths.max().unwrap_or(0)
    }

    /// The attributes of a token, 0 for other symbols.
    #[inline]
    pub(crate) fn attr(&self, id: TokenId) -> u8 {
        self.attrs.get(id as usize).copied().unwrap_or(0)
    }

    /// The symbol with these bytes, or [`NONE`].
    #[inline]
    pub(crate) fn symbol(&self, bytes: &[u8]) -> u32 {
        let hash = self.hasher.hash_one(bytes);
        let found = self.by_text.find(hash, |&id| slice(&self.text, &self.ends, id) == bytes);
        found.copied().unwrap_or(NONE)
    }

    /// The token with these bytes, or [`NONE`].
    #[inline]
    pub(crate) fn token(&self, bytes: &[u8]) -> TokenId {
        self.token_of_symbol(self.symbol(bytes))
    }

    /// The token with these bytes that plain text may become, or [`NONE`]: control tokens, the unknown
    /// token and the spelled-out bytes are not reached by spelling their names.
    #[inline]
    pub(crate) fn text_token(&self, bytes: &[u8]) -> TokenId {
        if bytes.len() > self.longest {
            return NONE;
        }
        match self.token(bytes) {
            NONE => NONE,
            id if self.attr(id) & (attr::CONTROL | attr::UNKNOWN | attr::BYTE) != 0 => NONE,
            id => id,
        }
    }

    /// Bytes on the heap.
    pub(crate) fn heap_bytes(&self) -> usize {
        self.text.capacity()
            + self.ends.capacity() * size_of::<u32>()
            + self.attrs.capacity()
            + self.by_text.allocation_size()
            + self.unlisted.capacity() * size_of::<u32>()
            + self.aliases.capacity() * size_of::<(u32, TokenId)>()
    }
}

#[inline]
fn slice<'a>(text: &'a [u8], ends: &[u32], id: u32) -> &'a [u8] {
    let id = id as usize;
    let start = match id.checked_sub(1) {
        Some(before) => ends.get(before).copied().unwrap_or(0) as usize,
        None => 0,
    };
    let end = ends.get(id).copied().unwrap_or(0) as usize;
    text.get(start..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_tokens_with_one_text_the_later_is_found() {
        let mut vocab = Vocab::with_capacity(0, 0);
        for text in ["a", "bc", "a", ""] {
            vocab.push(text.as_bytes(), true).unwrap();
        }
        vocab.finish_tokens(vec![attr::NORMAL; 4]);
        assert_eq!((vocab.token(b"a"), vocab.token(b"bc"), vocab.token(b"x")), (2, 1, NONE));
        assert_eq!(
            (vocab.bytes(0), vocab.bytes(3), vocab.bytes(NONE)),
            (&b"a"[..], &b""[..], &b""[..])
        );
        let extra = vocab.intern(b"new").unwrap();
        assert_eq!((extra, vocab.symbol(b"new"), vocab.token(b"new")), (4, 4, NONE));
    }
}
