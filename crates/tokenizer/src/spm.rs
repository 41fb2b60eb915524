//! SentencePiece's byte-pair model: neighbours that together spell a token are joined, the best score
//! first, of equal ones the leftmost; what remains unknown is spelled in bytes.

use std::collections::BinaryHeap;

use crate::TokenId;
use crate::vocab::{NONE, Vocab};

/// Up to this many characters scanning is faster than the heap.
const SCAN_MAX: usize = 24;

/// Order of scores as integers: higher scores are greater, NaN is the least.
fn ordered(score: f32) -> u32 {
    if score.is_nan() {
        return 0;
    }
    // Adding zero makes -0 the same as 0. The bits of positive floats rise with them, those of
    // negative ones fall.
    let bits = (score + 0.0).to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

/// Scores of all tokens and the tokens of single bytes.
#[derive(Debug)]
pub(crate) struct Pieces {
    scores: Vec<u32>,
    bytes: Box<[TokenId; 256]>,
}

/// A character or several joined: bytes `start..end` of the word, and the token they spell.
#[derive(Copy, Clone, Debug)]
struct Symbol {
    start: u32,
    end: u32,
    id: u32,
}

/// What joining two neighbours gives: the score above, the place of the left one below, counted from the end, so
/// that the leftmost of equals is the greatest. It is out of date once what stands there joins with another
/// score; that is looked up again rather than kept: 8 bytes instead of 20 for each character of a long word.
type Pair = u64;

fn pair(score: u32, left: u32) -> Pair {
    u64::from(score) << 32 | u64::from(!left)
}

/// Reused between words.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    symbols: Vec<Symbol>,
    pairs: Vec<(u32, u32)>,
    next: Vec<u32>,
    prev: Vec<u32>,
    heap: BinaryHeap<Pair>,
}

/// The token that spells `byte`, or [`NONE`].
pub(crate) fn byte_token(vocab: &Vocab, byte: u8) -> TokenId {
    match vocab.token(format!("<0x{byte:02X}>").as_bytes()) {
        NONE => vocab.token(&[byte]),
        id => id,
    }
}

impl Pieces {
    /// `scores` is one for each token, or empty if all are equal.
    pub(crate) fn new(vocab: &Vocab, scores: &[f32]) -> Pieces {
        let mut bytes = Box::new([NONE; 256]);
        for (byte, id) in (0..=255).zip(bytes.iter_mut()) {
            *id = byte_token(vocab, byte);
        }
        let count = vocab.token_count();
        let mut ordered: Vec<u32> = scores.iter().take(count).map(|&s| ordered(s)).collect();
        ordered.resize(count, self::ordered(0.0));
        Pieces { scores: ordered, bytes }
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.scores.capacity() * size_of::<u32>() + size_of_val(&*self.bytes)
    }

    /// The token of a spelled-out byte, or [`NONE`].
    pub(crate) fn byte(&self, byte: u8) -> TokenId {
        self.bytes[usize::from(byte)]
    }

    /// Score and token of `word[start..end]`; a score of 0, which no number has, for none.
    fn find(&self, vocab: &Vocab, word: &str, start: u32, end: u32) -> (u32, u32) {
        let text = word.as_bytes().get(start as usize..end as usize).unwrap_or_default();
        match vocab.text_token(text) {
            NONE => (0, NONE),
            id => (self.scores.get(id as usize).copied().unwrap_or(0).max(1), id),
        }
    }

    /// Appends the tokens of `word` (under 2^31 bytes, spaces already written as `▁`).
    pub(crate) fn encode(
        &self,
        vocab: &Vocab,
        word: &str,
        scratch: &mut Scratch,
        unknown: Option<TokenId>,
        out: &mut Vec<TokenId>,
    ) {
        scratch.symbols.clear();
        scratch.symbols.extend(word.char_indices().map(|(start, c)| Symbol {
            start: start as u32,
            end: (start + c.len_utf8()) as u32,
            id: NONE,
        }));
        if scratch.symbols.len() <= SCAN_MAX {
            self.scan(vocab, word, scratch);
        } else {
            self.heap(vocab, word, scratch);
        }
        for symbol in &scratch.symbols {
            let text = &word.as_bytes()[symbol.start as usize..symbol.end as usize];
            // Only single characters are without a token yet; their token may be of any kind.
            let id = if symbol.id == NONE { vocab.token(text) } else { symbol.id };
            match id {
                NONE => self.spell(text, unknown, out),
                id => out.push(id),
            }
        }
    }

    /// The bytes of a character that has no token; without tokens for them, the unknown token.
    fn spell(&self, text: &[u8], unknown: Option<TokenId>, out: &mut Vec<TokenId>) {
        if text.iter().any(|&byte| self.byte(byte) == NONE) {
            out.extend(unknown);
        } else {
            out.extend(text.iter().map(|&byte| self.byte(byte)));
        }
    }

    fn scan(&self, vocab: &Vocab, word: &str, scratch: &mut Scratch) {
        let Scratch { symbols, pairs, .. } = scratch;
        let find = |symbols: &[Symbol], at: usize| match symbols.get(at..at + 2) {
            Some([left, right]) => self.find(vocab, word, left.start, right.end),
            _ => (0, NONE),
        };
        pairs.clear();
        pairs.extend((0..symbols.len()).map(|at| find(symbols, at)));
        loop {
            let mut best = (0, 0, NONE);
            for (at, &(score, id)) in pairs.iter().enumerate() {
                if score > best.0 {
                    best = (score, at, id);
                }
            }
            let (score, at, id) = best;
            if score == 0 {
                return;
            }
            symbols[at].end = symbols[at + 1].end;
            symbols[at].id = id;
            symbols.remove(at + 1);
            pairs.remove(at + 1);
            pairs[at] = find(symbols, at);
            if at > 0 {
                pairs[at - 1] = find(symbols, at - 1);
            }
        }
    }

    fn heap(&self, vocab: &Vocab, word: &str, scratch: &mut Scratch) {
        let Scratch { symbols, next, prev, heap, .. } = scratch;
        let len = symbols.len() as u32;
        next.clear();
        next.extend((1..len).chain([NONE]));
        prev.clear();
        prev.extend([NONE].into_iter().chain(0..len - 1));
        heap.clear();
        let joined = |symbols: &[Symbol], next: &[u32], left: u32| {
            let right = next.get(left as usize).and_then(|&next| symbols.get(next as usize));
            match (symbols.get(left as usize), right) {
                (Some(l), Some(r)) => self.find(vocab, word, l.start, r.end),
                _ => (0, NONE),
            }
        };
        let push = |symbols: &[Symbol], next: &[u32], heap: &mut BinaryHeap<Pair>, left: u32| {
            let (score, _) = joined(symbols, next, left);
            if score != 0 {
                heap.push(pair(score, left));
            }
        };
        for left in 0..len - 1 {
            push(symbols, next, heap, left);
        }
        while let Some(top) = heap.pop() {
            let left = !(top as u32);
            let l = left as usize;
            let right = next[l];
            let (score, id) = joined(symbols, next, left);
            // Nothing has itself as its successor but what is gone.
            if right == left || score != (top >> 32) as u32 {
                continue;
            }
            let r = right as usize;
            symbols[l].end = symbols[r].end;
            symbols[l].id = id;
            let after = next[r];
            next[l] = after;
            next[r] = right;
            if let Some(prev) = prev.get_mut(after as usize) {
                *prev = left;
            }
            if prev[l] != NONE {
                push(symbols, next, heap, prev[l]);
            }
            push(symbols, next, heap, left);
        }
        let mut at = 0;
        symbols.retain(|_| {
            let kept = next[at as usize] != at;
            at += 1;
            kept
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scores_keep_their_order_as_integers() {
        let scores = [f32::NEG_INFINITY, -3.5, -1e-40, 0.0, 1e-40, 2.0, f32::INFINITY];
        assert!(scores.windows(2).all(|two| ordered(two[0]) < ordered(two[1])));
        assert_eq!(ordered(-0.0), ordered(0.0));
        assert_eq!(ordered(f32::NAN), 0);
        assert!(ordered(f32::NEG_INFINITY) > 0);
    }
}
