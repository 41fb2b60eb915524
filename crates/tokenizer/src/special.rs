//! Finding special tokens in text.
//!
//! The order is llama.cpp's: the longest token takes all its occurrences first, then the next longest
//! takes its own in what is left. That differs from "leftmost, then longest" where tokens overlap.

use memchr::memmem;

use crate::roles::attr;
use crate::vocab::Vocab;
use crate::{Error, TokenId};

/// A part of a text.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fragment<'t> {
    /// A special token.
    Token(TokenId),
    /// Plain text, never empty.
    Text(&'t str),
}

/// Which tokens to look for.
#[derive(Copy, Clone, Debug)]
pub(crate) enum Search<'b> {
    /// User-defined tokens only.
    Plain,
    /// All of them, control tokens only where they do not span one of these places (ascending, in bytes).
    Special { breaks: &'b [usize] },
}

impl Search<'_> {
    fn is_plain(self) -> bool {
        matches!(self, Search::Plain)
    }

    /// Whether a control token may take `text[start..end]`.
    fn allows(self, start: usize, end: usize) -> bool {
        match self {
            Search::Plain => false,
            Search::Special { breaks } => {
                let after = breaks.partition_point(|&at| at <= start);
                breaks.get(after).is_none_or(|&at| at >= end)
            }
        }
    }
}

/// The tokens to look for: longest first, as a sorted list for the search of prefixes.
#[derive(Debug, Default)]
pub(crate) struct Specials {
    /// Ids, the longest text first, then ascending.
    by_length: Vec<TokenId>,
    /// Positions in `by_length`, ordered by text.
    by_text: Vec<u32>,
    /// Where tokens with this first byte start in `by_text`.
    first: Vec<u32>,
    /// First bytes of tokens that are looked for in plain text too.
    always: Vec<bool>,
}

/// An occurrence that was taken.
#[derive(Copy, Clone)]
struct Taken {
    start: usize,
    end: usize,
    id: TokenId,
}

impl Specials {
    pub(crate) fn new(vocab: &Vocab) -> Specials {
        let special = attr::CONTROL | attr::USER_DEFINED | attr::UNKNOWN;
        let mut by_length: Vec<TokenId> = (0..vocab.token_count() as u32)
            .filter(|&id| vocab.attr(id) & special != 0 && !vocab.bytes(id).is_empty())
            .collect();
        by_length.sort_by_key(|&id| std::cmp::Reverse(vocab.bytes(id).len()));
        let text = |&at: &u32| vocab.bytes(by_length[at as usize]);
        let mut by_text: Vec<u32> = (0..by_length.len() as u32).collect();
        by_text.sort_by(|a, b| text(a).cmp(text(b)));
        let mut first = vec![0; 257];
        let mut always = vec![false; 256];
        for at in &by_text {
            let byte = usize::from(text(at)[0]);
            first[byte + 1] += 1;
            always[byte] |= Specials::is_always(vocab, by_length[*at as usize]);
        }
        for byte in 0..256 {
            first[byte + 1] += first[byte];
        }
        Specials { by_length, by_text, first, always }
    }

    /// The special token with this text.
    pub(crate) fn find(&self, vocab: &Vocab, text: &[u8]) -> Option<TokenId> {
        let id = |at: &u32| self.by_length[*at as usize];
        let at = self.by_text.binary_search_by(|at| vocab.bytes(id(at)).cmp(text)).ok()?;
        self.by_text.get(at).map(id)
    }

    /// Whether a token is looked for even where special tokens are not parsed.
    fn is_always(vocab: &Vocab, id: TokenId) -> bool {
        vocab.attr(id) & (attr::CONTROL | attr::UNKNOWN) == 0
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        (self.by_length.capacity() + self.by_text.capacity() + self.first.capacity())
            * size_of::<u32>()
            + self.always.capacity()
    }

    /// Calls `found` with each token (as a position in `by_length`) that starts at `text[pos]`.
    fn at(&self, vocab: &Vocab, text: &[u8], pos: usize, mut found: impl FnMut(u32)) {
        let rest = &text[pos..];
        let byte = usize::from(rest[0]);
        let mut range = &self.by_text[self.first[byte] as usize..self.first[byte + 1] as usize];
        let mut depth = 1;
        // In the range all tokens start with rest[..depth]. Those that end there come first.
        while let Some(&at) = range.first() {
            let token = vocab.bytes(self.by_length[at as usize]);
            if token.len() == depth {
                found(at);
                range = &range[1..];
                continue;
            }
            // Skips over what all of the range have in common, at once.
            let last = range.last().map_or(token, |&at| vocab.bytes(self.by_length[at as usize]));
            let shared = token.iter().zip(last).take_while(|(a, b)| a == b).count();
            if !rest.starts_with(&token[..shared]) {
                return;
            }
            if shared > depth {
                depth = shared;
                continue;
            }
            let Some(next) = rest.get(depth) else {
                return;
            };
            let byte = |at: &u32| vocab.bytes(self.by_length[*at as usize]).get(depth).copied();
            let from = range.partition_point(|at| byte(at) < Some(*next));
            let to = range.partition_point(|at| byte(at) <= Some(*next));
            range = &range[from..to];
            depth += 1;
        }
    }

    /// Whether a token takes the whitespace beside it too.
    pub(crate) fn any_strips(&self, vocab: &Vocab) -> bool {
        self.by_length.iter().any(|&id| vocab.attr(id) & (attr::LSTRIP | attr::RSTRIP) != 0)
    }

    /// Cuts `text` at special tokens, with at most `heap_max` bytes of memory.
    ///
    /// # Errors
    /// [`Error::EncodingTooLarge`].
    pub(crate) fn partition<'t>(
        &self,
        vocab: &Vocab,
        text: &'t str,
        search: Search<'_>,
        heap_max: usize,
        out: &mut Vec<Fragment<'t>>,
    ) -> Result<(), Error> {
        out.clear();
        let mut counts: Vec<u32> = Vec::new();
        let bytes = text.as_bytes();
        self.each(vocab, bytes, search, |_, at| {
            counts.resize(self.by_length.len(), 0);
            counts[at as usize] += 1;
        });
        if counts.is_empty() {
            if !text.is_empty() {
                out.push(Fragment::Text(text));
            }
            return Ok(());
        }
        let heap = self.take_bytes(vocab, bytes, &counts);
        if heap > heap_max {
            return Err(Error::EncodingTooLarge { bytes: heap, max: heap_max });
        }
        let mut taken = self.take(vocab, bytes, search, &counts);
        taken.sort_unstable_by_key(|taken| taken.start);
        fragments(text, &taken, out);
        Ok(())
    }

    /// Whether a token's occurrences overlap each other so much that they are searched for one by one.
    fn is_dense(&self, vocab: &Vocab, text: &[u8], at: usize, count: u32) -> bool {
        let len = vocab.bytes(self.by_length[at]).len();
        (count as usize).saturating_mul(len) > 2 * text.len()
    }

    /// Occurrences whose places are kept.
    fn kept(&self, vocab: &Vocab, text: &[u8], counts: &[u32]) -> usize {
        let kept = |&(at, &count): &(usize, &u32)| !self.is_dense(vocab, text, at, count);
        counts.iter().enumerate().filter(kept).map(|(_, &count)| count as usize).sum()
    }

    /// Heap bytes that `take` and the fragments after it need at most.
    fn take_bytes(&self, vocab: &Vocab, text: &[u8], counts: &[u32]) -> usize {
        let found = counts.iter().zip(&self.by_length).filter(|&(&count, _)| count > 0);
        let shortest = found.map(|(_, &id)| vocab.bytes(id).len()).min().unwrap_or(1);
        let all = counts.iter().fold(0usize, |sum, &count| sum.saturating_add(count as usize));
        let taken = all.min(text.len() / shortest.max(1));
        // Lists that grow are up to twice as long as what is in them; around each token there may be text.
        let each = 2 * size_of::<Taken>() + 4 * size_of::<Fragment<'_>>();
        let starts = self.kept(vocab, text, counts).saturating_mul(size_of::<(u32, usize)>());
        starts.saturating_add(taken.saturating_mul(each)).saturating_add(text.len())
    }

    /// Calls `found` with position and token of every occurrence.
    fn each(
        &self,
        vocab: &Vocab,
        text: &[u8],
        search: Search<'_>,
        mut found: impl FnMut(usize, u32),
    ) {
        for (pos, &byte) in text.iter().enumerate() {
            let byte = usize::from(byte);
            if self.first[byte] == self.first[byte + 1] || (search.is_plain() && !self.always[byte])
            {
                continue;
            }
            self.at(vocab, text, pos, |at| {
                let id = self.by_length[at as usize];
                if Specials::is_always(vocab, id) || search.allows(pos, pos + vocab.bytes(id).len())
                {
                    found(pos, at);
                }
            });
        }
    }

    /// Occurrences, the longest tokens first, that do not overlap an earlier one.
    ///
    /// `counts` says how often each token occurs. Most occur rarely, and one pass collects where. A token
    /// whose occurrences overlap each other a lot (thirty lengths of runs of spaces, in a text of spaces)
    /// would need many times the text's size for that: it is searched for instead.
    fn take(&self, vocab: &Vocab, text: &[u8], search: Search<'_>, counts: &[u32]) -> Vec<Taken> {
        let dense: Vec<bool> = counts
            .iter()
            .enumerate()
            .map(|(at, &count)| self.is_dense(vocab, text, at, count))
            .collect();
        let mut starts = Vec::with_capacity(self.kept(vocab, text, counts));
        self.each(vocab, text, search, |pos, at| {
            if !dense[at as usize] {
                starts.push((at, pos));
            }
        });
        starts.sort_unstable();
        let mut cover = Cover { text, covered: vec![0; text.len()], taken: Vec::new() };
        let mut rest = starts.as_slice();
        for (at, &id) in self.by_length.iter().enumerate() {
            let token = vocab.bytes(id);
            let strip = vocab.attr(id) & (attr::LSTRIP | attr::RSTRIP);
            if dense[at] {
                let allowed = |start: usize| {
                    Specials::is_always(vocab, id) || search.allows(start, start + token.len())
                };
                cover.take_all(token, id, strip, allowed);
                continue;
            }
            let (mine, others) =
                rest.split_at(rest.partition_point(|&(other, _)| other as usize <= at));
            rest = others;
            for &(_, start) in mine {
                cover.take(start, token.len(), id, strip);
            }
        }
        cover.taken
    }
}

/// Which bytes of a text belong to special tokens already (1) or not (0).
struct Cover<'t> {
    text: &'t [u8],
    covered: Vec<u8>,
    taken: Vec<Taken>,
}

/// C's `isspace`.
fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | b' ')
}

impl Cover<'_> {
    /// Takes an occurrence if it is free. Tokens taken before are at least as long, so that one that
    /// overlaps covers an end of this one.
    fn take(&mut self, start: usize, len: usize, id: TokenId, strip: u8) -> bool {
        let end = start + len;
        if self.covered[start] != 0 || self.covered[end - 1] != 0 {
            return false;
        }
        let free_space =
            |cover: &Self, at: &usize| cover.covered[*at] == 0 && is_space(cover.text[*at]);
        let mut from = start;
        let mut to = end;
        if strip & attr::LSTRIP != 0 {
            from -= (0..start).rev().take_while(|at| free_space(self, at)).count();
        }
        if strip & attr::RSTRIP != 0 {
            to += (end..self.text.len()).take_while(|at| free_space(self, at)).count();
        }
        self.covered[from..to].fill(1);
        self.taken.push(Taken { start: from, end: to, id });
        true
    }

    /// Takes all free occurrences that are allowed, from left to right.
    fn take_all(&mut self, token: &[u8], id: TokenId, strip: u8, allowed: impl Fn(usize) -> bool) {
        let finder = memmem::Finder::new(token);
        let mut pos = 0;
        while let Some(found) = finder.find(&self.text[pos..]) {
            let start = pos + found;
            if !allowed(start) {
                pos = start + 1;
                continue;
            }
            if self.take(start, token.len(), id, strip) {
                pos = start + token.len();
                continue;
            }
            // On to the next free byte after the one that is in the way.
            let end = start + token.len() - 1;
            let blocked = if self.covered[end] != 0 { end } else { start };
            let free = memchr::memchr(0, &self.covered[blocked..]);
            pos = free.map_or(self.text.len(), |free| blocked + free);
        }
    }
}

fn fragments<'t>(text: &'t str, taken: &[Taken], out: &mut Vec<Fragment<'t>>) {
    let mut pos = 0;
    let plain = |from: usize, to: usize, out: &mut Vec<Fragment<'t>>| {
        // Tokens that are not whole characters could cut one; what is left of it is not text.
        match text.get(from..to) {
            Some("") | None => {}
            Some(part) => out.push(Fragment::Text(part)),
        }
    };
    for &Taken { start, end, id } in taken {
        // A token that does not end where a character does is invalid UTF-8 and is not taken.
        if text.is_char_boundary(start) && text.is_char_boundary(end) {
            plain(pos, start, out);
            out.push(Fragment::Token(id));
            pos = end;
        }
    }
    plain(pos, text.len(), out);
}
