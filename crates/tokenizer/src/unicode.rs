//! What a pre-tokenizer needs to know about a character: one `u16` of class bits.
//!
//! The bits follow the behaviour of llama.cpp's splitter, which is what GGUF vocabularies are
//! tested with: Unicode 15.1 categories, `\s` as the 25 characters of `White_Space`.

use crate::unicode_data::CATEGORY_RUNS;

/// `\p{L}`
pub(crate) const L: u16 = 1;
/// `\p{N}`
pub(crate) const N: u16 = 1 << 1;
/// `\p{P}`
pub(crate) const P: u16 = 1 << 2;
/// `\p{S}`
pub(crate) const S: u16 = 1 << 3;
/// `\p{M}`
pub(crate) const M: u16 = 1 << 4;
/// `\s`
pub(crate) const WS: u16 = 1 << 5;
/// `[\r\n]`
pub(crate) const NL: u16 = 1 << 6;
/// Han, by the block ranges that Kimi-K2's splitter uses.
pub(crate) const HAN: u16 = 1 << 7;
/// `[a-z]`
pub(crate) const LOWER: u16 = 1 << 8;
/// `[A-Z]`
pub(crate) const UPPER: u16 = 1 << 9;
/// `[0-9]`
pub(crate) const DIGIT: u16 = 1 << 10;
/// The ASCII symbols without the backtick: `$+<=>^|~`.
pub(crate) const SYM: u16 = 1 << 11;
/// The backtick.
pub(crate) const TICK: u16 = 1 << 12;
/// ASCII punctuation and symbols, all 32 of them.
pub(crate) const APUNCT: u16 = 1 << 13;
/// The slash.
pub(crate) const SLASH: u16 = 1 << 14;

const CATEGORY_BITS: [u16; 6] = [0, L, N, P, S, M];

const fn ascii_bits(byte: u8) -> u16 {
    let mut bits = match byte {
        b'a'..=b'z' => L | LOWER,
        b'A'..=b'Z' => L | UPPER,
        b'0'..=b'9' => N | DIGIT,
        b'\r' | b'\n' => WS | NL,
        b'\t' | 0x0b | 0x0c | b' ' => WS,
        b'`' => S | TICK,
        b'$' | b'+' | b'<' | b'=' | b'>' | b'^' | b'|' | b'~' => S | SYM,
        b'/' => P | SLASH,
        b'!'..=b'.' | b':' | b';' | b'?' | b'@' | b'['..=b']' | b'_' | b'{' | b'}' => P,
        _ => 0,
    };
    if bits & (P | S) != 0 {
        bits |= APUNCT;
    }
    bits
}

const fn ascii_table() -> [u16; 128] {
    let mut table = [0; 128];
    let mut i = 0;
    while i < 128 {
        table[i] = ascii_bits(i as u8);
        i += 1;
    }
    table
}

static ASCII: [u16; 128] = ascii_table();

/// For every 256 code points, the index of the run that the first of them lies in: makes the
/// search below one over a handful of runs.
const fn page_table() -> [u16; PAGES + 1] {
    let mut table = [0; PAGES + 1];
    let mut run = 0;
    let mut page = 0;
    while page < PAGES {
        let first = (page as u32) << 8;
        while run + 1 < CATEGORY_RUNS.len() && CATEGORY_RUNS[run + 1] >> 3 <= first {
            run += 1;
        }
        table[page] = run as u16;
        page += 1;
    }
    table[PAGES] = CATEGORY_RUNS.len() as u16 - 1;
    table
}

const PAGES: usize = 0x1100;
static PAGE: [u16; PAGES + 1] = page_table();

/// The Unicode property `White_Space`.
pub(crate) fn is_whitespace(cp: u32) -> bool {
    matches!(cp, 9..=13 | 0x20 | 0x85 | 0xa0 | 0x1680 | 0x2000..=0x200a | 0x2028 | 0x2029 | 0x202f)
        || matches!(cp, 0x205f | 0x3000)
}

fn is_han(cp: u32) -> bool {
    matches!(cp, 0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xf900..=0xfaff | 0x20000..=0x2a6df)
        || matches!(cp, 0x2a700..=0x2ebef | 0x2f800..=0x2fa1f)
}

/// Class bits of a character.
#[inline]
pub(crate) fn class(c: char) -> u16 {
    let cp = c as u32;
    match ASCII.get(cp as usize) {
        Some(&bits) => bits,
        None => class_beyond_ascii(cp),
    }
}

fn class_beyond_ascii(cp: u32) -> u16 {
    let page = (cp >> 8) as usize;
    let (first, last) = (usize::from(PAGE[page]), usize::from(PAGE[page + 1]));
    let runs = &CATEGORY_RUNS[first..=last];
    let after = runs.partition_point(|&run| run >> 3 <= cp);
    let category = runs[after.saturating_sub(1)] & 7;
    let mut bits = CATEGORY_BITS[category as usize];
    if is_whitespace(cp) {
        bits |= WS;
    }
    if is_han(cp) {
        bits |= HAN;
    }
    bits
}

/// The character at byte `pos` of `text` and its length in bytes, `None` at the end. `pos` must be a
/// character boundary; anything else answers `None`.
#[inline]
pub(crate) fn char_at(text: &str, pos: usize) -> Option<(char, usize)> {
    let byte = *text.as_bytes().get(pos)?;
    if byte < 0x80 {
        return Some((char::from(byte), 1));
    }
    let c = text.get(pos..)?.chars().next()?;
    Some((c, c.len_utf8()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn categories_at_the_edges_of_runs() {
        // The character database's own words: U+0CF3 became a mark in 15.0, U+2FFC..2FFF and
        // U+31EF symbols in 15.1, U+1C89 a letter only in 16.0.
        let expect = [
            ('a', L | LOWER),
            ('Z', L | UPPER),
            ('7', N | DIGIT),
            ('`', S | TICK | APUNCT),
            ('~', S | SYM | APUNCT),
            ('/', P | SLASH | APUNCT),
            ('\u{85}', WS),
            ('\u{3000}', WS),
            ('\u{1f}', 0),
            ('\u{cf3}', M),
            ('\u{2ffc}', S),
            ('\u{31ef}', S),
            ('\u{1c89}', 0),
            ('一', L | HAN),
            ('\u{300}', M),
            ('é', L),
            ('½', N),
            ('\u{10ffff}', 0),
            ('\u{e000}', 0),
            ('\u{fffd}', S),
        ];
        for (c, bits) in expect {
            assert_eq!(class(c), bits, "{c:?}");
        }
    }

    #[test]
    fn page_index_agrees_with_a_search_of_the_whole_table() {
        for cp in (0x80..0x11_0000).filter(|cp| char::from_u32(*cp).is_some()) {
            let after = CATEGORY_RUNS.partition_point(|&run| run >> 3 <= cp);
            let whole = CATEGORY_BITS[(CATEGORY_RUNS[after - 1] & 7) as usize];
            assert_eq!(class_beyond_ascii(cp) & (L | N | P | S | M), whole, "U+{cp:04X}");
        }
    }
}
