//! Splitting text into the words that byte-pair merges stay within.
//!
//! Vocabularies name their splitter by a regular expression each, but the expressions are all made of
//! the same dozen parts. Each part is a scanner here ([`Part`]), an expression is a list of them tried in
//! order at each position ([`Stage::Search`]), and some vocabularies apply several expressions, each to
//! the pieces of the one before. All scanners move forward only, so time is linear in the text: a
//! backtracking regex engine is quadratic on a megabyte of spaces, or overflows its stack.
//!
//! What no part matches is kept as a piece of its own, as with `Split(..., Isolated)` in Hugging
//! Face's tokenizers and in llama.cpp.

use crate::unicode::{
    APUNCT, DIGIT, HAN, L, LOWER, M, N, NL, P, S, SLASH, SYM, TICK, UPPER, WS, char_at, class,
    is_whitespace,
};

/// A character class.
#[derive(Copy, Clone, Debug)]
pub(crate) enum Set {
    /// Has one of these bits and none of those.
    Bits(u16, u16),
    /// Has none of these bits: `[^...]`.
    Not(u16),
    /// In one of these ranges of code points, and not whitespace.
    Ranges(&'static [(u32, u32)]),
    /// In none of these ranges, and not whitespace.
    NotRanges(&'static [(u32, u32)]),
}

impl Set {
    #[inline]
    fn has(self, c: char) -> bool {
        let in_ranges = |ranges: &[(u32, u32)]| {
            ranges.iter().any(|&(first, last)| (first..=last).contains(&(c as u32)))
        };
        match self {
            Set::Bits(any, none) => {
                let bits = class(c);
                bits & any != 0 && bits & none == 0
            }
            Set::Not(none) => class(c) & none == 0,
            Set::Ranges(ranges) => in_ranges(ranges) && !is_whitespace(c as u32),
            Set::NotRanges(ranges) => !in_ranges(ranges) && !is_whitespace(c as u32),
        }
    }
}

/// How the endings 's 't 're 've 'm 'll 'd are matched.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endings {
    No,
    Any,
}

/// One alternative of an expression.
#[derive(Copy, Clone, Debug)]
pub(crate) enum Part {
    /// `'s|'t|'re|'ve|'m|'ll|'d`; with `true` in upper case too.
    Ending { any_case: bool },
    /// `[lead]?[body]+`.
    Word { lead: Set, body: Set, endings: Endings },
    /// `[lead]?[upper]*[lower]+(ending)?|[lead]?[upper]+[lower]*(ending)?`.
    Cased { lead: Set, upper: Set, lower: Set, endings: Endings },
    /// `[set]+`.
    Run(Set),
    /// One character.
    One(Set),
    /// `[set]{1,max}`.
    UpTo(Set, usize),
    /// `[lead]?[body]+[tail]*`, where lead is one space.
    Spaced { body: Set, tail: Set },
    /// The same with at most one of the tail.
    SpacedTailOnce { body: Set, tail: Set },
    /// `[ASCII punctuation][A-Za-z]+`.
    PunctuatedWord,
    /// `[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+`: words joined by single spaces.
    Phrase,
    /// `\s*[\r\n]+`, which matches the same as `\s*[\r\n]`.
    Newlines,
    /// `[0-9][0-9][0-9]`.
    ThreeDigits,
    /// `\s+(?!\S)`: whitespace, but for the last one before something else.
    SpaceBefore,
    /// `\s+`.
    Space,
    /// `\s{512}(?!\S)|\s{256}(?!\S)|...|\s{1,2}(?!\S)|\s`.
    SpaceByPowers,
    /// `<sentinel:[0-9]+>`.
    Sentinel,
    /// `(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z`.
    ImageToken,
    /// `[\t\n]|    |  `.
    Indent,
}

/// One expression.
#[derive(Copy, Clone, Debug)]
pub(crate) enum Stage {
    /// Find the parts, in order of preference, from left to right.
    Search(&'static [Part]),
    /// `\s+$`: cut before the whitespace that ends a piece.
    TrailingSpace,
    /// `[^\n]+|[\n]+`.
    Lines,
    /// Digits in groups of three from the right. The first group keeps what stands before it.
    DigitGroups,
    /// Cut before each group of three ASCII digits, counted from the right of their run.
    DigitCuts,
}

/// `None` of this class: for parts without a tail or a lead.
pub(crate) const NONE: Set = Set::Bits(0, 0);

/// What follows the run at `pos`: the end of the characters of `set`.
#[inline]
fn run_end(text: &str, mut pos: usize, set: Set) -> usize {
    while let Some((c, len)) = char_at(text, pos) {
        if !set.has(c) {
            break;
        }
        pos += len;
    }
    pos
}

/// The end of an ending at `pos`, if one stands there.
fn ending(text: &str, pos: usize, any_case: bool) -> Option<usize> {
    let bytes = text.as_bytes();
    if bytes.get(pos) != Some(&b'\'') {
        return None;
    }
    let fold = |b: &u8| if any_case { b.to_ascii_lowercase() } else { *b };
    match (bytes.get(pos + 1).map(fold)?, bytes.get(pos + 2).map(fold)) {
        (b's' | b't' | b'm' | b'd', _) => Some(pos + 2),
        (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(pos + 3),
        _ => None,
    }
}

fn after_ending(text: &str, pos: usize, endings: Endings) -> usize {
    match endings {
        Endings::No => pos,
        Endings::Any => ending(text, pos, true).unwrap_or(pos),
    }
}

/// Where the body may start: after the lead (preferred) and at `pos` itself.
fn starts(text: &str, pos: usize, lead: Set) -> [Option<usize>; 2] {
    match char_at(text, pos) {
        Some((c, len)) if lead.has(c) => [Some(pos + len), Some(pos)],
        _ => [None, Some(pos)],
    }
}

fn word(text: &str, pos: usize, lead: Set, body: Set, endings: Endings) -> Option<usize> {
    starts(text, pos, lead).into_iter().flatten().find_map(|start| {
        let end = run_end(text, start, body);
        (end > start).then(|| after_ending(text, end, endings))
    })
}

/// `[upper]*[lower]+` at `start`. A backtracking engine gives back characters of the greedy first part
/// until the second one can start: that is at the last character of the run that both contain.
fn cased_lower(text: &str, start: usize, upper: Set, lower: Set) -> Option<usize> {
    let upper_end = run_end(text, start, upper);
    let end = run_end(text, upper_end, lower);
    if end > upper_end {
        return Some(end);
    }
    let mut before = text.get(start..upper_end)?.char_indices().rev();
    let (at, c) = before.find(|&(_, c)| lower.has(c))?;
    Some(start + at + c.len_utf8())
}

fn cased_upper(text: &str, start: usize, upper: Set, lower: Set) -> Option<usize> {
    let upper_end = run_end(text, start, upper);
    (upper_end > start).then(|| run_end(text, upper_end, lower))
}

fn cased(text: &str, pos: usize, lead: Set, (upper, lower): (Set, Set)) -> Option<usize> {
    let starts = starts(text, pos, lead);
    let first = starts.into_iter().flatten().find_map(|at| cased_lower(text, at, upper, lower));
    first
        .or_else(|| starts.into_iter().flatten().find_map(|at| cased_upper(text, at, upper, lower)))
}

fn spaced(text: &str, pos: usize, body: Set) -> Option<usize> {
    let start = if text.as_bytes().get(pos) == Some(&b' ') { pos + 1 } else { pos };
    let end = run_end(text, start, body);
    (end > start).then_some(end)
}

fn phrase(text: &str, pos: usize) -> Option<usize> {
    let letters = Set::Bits(L, 0);
    let is_letter = |at| char_at(text, at).is_some_and(|(c, _)| letters.has(c));
    let [led, plain] = starts(text, pos, Set::Not(NL | L | N));
    let start = [led, plain].into_iter().flatten().find(|&at| is_letter(at))?;
    let mut end = start;
    loop {
        end = run_end(text, end, Set::Bits(L | M, 0));
        if text.as_bytes().get(end) == Some(&b' ') && is_letter(end + 1) {
            end += 1;
        } else {
            return Some(end);
        }
    }
}

/// The end of `\s*[\r\n]+`: after the last line break of the whitespace at `pos`. If there is none, where
/// that whitespace ends.
fn newlines(text: &str, pos: usize) -> Result<usize, usize> {
    let mut last = None;
    let mut at = pos;
    while let Some((c, len)) = char_at(text, at) {
        let bits = class(c);
        if bits & WS == 0 {
            break;
        }
        at += len;
        if bits & NL != 0 {
            last = Some(at);
        }
    }
    last.ok_or(at)
}

fn space_before(text: &str, pos: usize) -> Option<usize> {
    let end = run_end(text, pos, Set::Bits(WS, 0));
    if end == text.len() {
        return (end > pos).then_some(end);
    }
    let (last, _) = text.get(pos..end)?.char_indices().next_back()?;
    (last > 0).then_some(pos + last)
}

fn space_by_powers(text: &str, pos: usize) -> Option<usize> {
    // Ends of the first 513 whitespace characters: more need not be known.
    let mut ends = [0; 513];
    let (mut count, mut at) = (0, pos);
    while let Some((c, len)) = char_at(text, at)
        && count < ends.len()
        && class(c) & WS != 0
    {
        at += len;
        ends[count] = at;
        count += 1;
    }
    let fits = |n: usize| count > n || (count == n && at == text.len());
    let powers = [512, 256, 128, 64, 32, 16, 8, 4, 2, 1];
    let taken = powers.into_iter().find(|&n| fits(n)).unwrap_or(1);
    (count > 0).then(|| ends[taken - 1])
}

fn sentinel(text: &str, pos: usize) -> Option<usize> {
    let rest = text.get(pos..)?.strip_prefix("<sentinel:")?;
    let digits = run_end(rest, 0, Set::Bits(DIGIT, 0));
    let end = pos + "<sentinel:".len() + digits;
    (digits > 0 && text.as_bytes().get(end) == Some(&b'>')).then_some(end + 1)
}

fn image_token(text: &str, pos: usize) -> Option<usize> {
    let rest = text.as_bytes().get(pos..)?.strip_prefix(b"IMGIMG")?;
    let letters = rest.iter().take_while(|b| (b'A'..=b'I').contains(b)).count();
    let end = pos + "IMGIMG".len() + letters;
    ((1..=4).contains(&letters) && text.as_bytes().get(end) == Some(&b'Z')).then_some(end + 1)
}

fn indent(text: &str, pos: usize) -> Option<usize> {
    let rest = text.as_bytes().get(pos..)?;
    let len = match rest {
        [b'\t' | b'\n', ..] => 1,
        [b' ', b' ', b' ', b' ', ..] => 4,
        [b' ', b' ', ..] => 2,
        _ => return None,
    };
    Some(pos + len)
}

impl Part {
    /// The end of a match of this part that starts at `pos`. Matches are never empty.
    fn find(self, text: &str, pos: usize) -> Option<usize> {
        let run = |set| Some(run_end(text, pos, set)).filter(|&end| end > pos);
        match self {
            Part::Ending { any_case } => ending(text, pos, any_case),
            Part::Word { lead, body, endings } => word(text, pos, lead, body, endings),
            Part::Cased { lead, upper, lower, endings } => {
                let end = cased(text, pos, lead, (upper, lower))?;
                Some(after_ending(text, end, endings))
            }
            Part::Run(set) => run(set),
            Part::One(set) => {
                char_at(text, pos).filter(|&(c, _)| set.has(c)).map(|(_, len)| pos + len)
            }
            Part::UpTo(set, max) => {
                let mut end = pos;
                for _ in 0..max {
                    match char_at(text, end) {
                        Some((c, len)) if set.has(c) => end += len,
                        _ => break,
                    }
                }
                (end > pos).then_some(end)
            }
            Part::Spaced { body, tail } => {
                spaced(text, pos, body).map(|end| run_end(text, end, tail))
            }
            Part::SpacedTailOnce { body, tail } => {
                let end = spaced(text, pos, body)?;
                let tail = char_at(text, end).filter(|&(c, _)| tail.has(c));
                Some(end + tail.map_or(0, |(_, len)| len))
            }
            Part::PunctuatedWord => {
                let (c, _) = char_at(text, pos)?;
                let end = run_end(text, pos + 1, Set::Bits(LOWER | UPPER, 0));
                (class(c) & APUNCT != 0 && end > pos + 1).then_some(end)
            }
            Part::Phrase => phrase(text, pos),
            Part::Newlines => newlines(text, pos).ok(),
            Part::ThreeDigits => {
                let three = text.as_bytes().get(pos..pos + 3)?;
                three.iter().all(u8::is_ascii_digit).then_some(pos + 3)
            }
            Part::SpaceBefore => space_before(text, pos),
            Part::Space => run(Set::Bits(WS, 0)),
            Part::SpaceByPowers => space_by_powers(text, pos),
            Part::Sentinel => sentinel(text, pos),
            Part::ImageToken => image_token(text, pos),
            Part::Indent => indent(text, pos),
        }
    }
}

impl Stage {
    /// Splits one piece; `emit` gets the end of each part in bytes, in order, the last being `text.len()`.
    pub(crate) fn split(self, text: &str, emit: &mut impl FnMut(usize)) {
        if text.is_empty() {
            return;
        }
        match self {
            Stage::Search(parts) => search(text, parts, emit),
            Stage::TrailingSpace => {
                let kept = text.trim_end_matches(|c| is_whitespace(c as u32)).len();
                if kept > 0 {
                    emit(kept);
                }
                if kept < text.len() {
                    emit(text.len());
                }
            }
            Stage::Lines => lines(text, emit),
            Stage::DigitGroups => digit_groups(text, emit),
            Stage::DigitCuts => digit_cuts(text, emit),
        }
    }
}

fn search(text: &str, parts: &[Part], emit: &mut impl FnMut(usize)) {
    let mut start = 0;
    let mut pos = 0;
    // Whitespace up to here holds no line break. Without this note a part that takes a long run of
    // spaces piece by piece would have the whole rest searched before each piece.
    let mut no_break_before = 0;
    while let Some((_, len)) = char_at(text, pos) {
        let found = parts.iter().find_map(|part| match part {
            Part::Newlines if pos < no_break_before => None,
            Part::Newlines => newlines(text, pos).map_err(|end| no_break_before = end).ok(),
            part => part.find(text, pos),
        });
        let Some(end) = found else {
            pos += len;
            continue;
        };
        if pos > start {
            emit(pos);
        }
        emit(end);
        start = end;
        pos = end;
    }
    if start < text.len() {
        emit(text.len());
    }
}

fn lines(text: &str, emit: &mut impl FnMut(usize)) {
    let bytes = text.as_bytes();
    let mut pos = 0;
    while let Some(&first) = bytes.get(pos) {
        let same = |byte: &&u8| (**byte == b'\n') == (first == b'\n');
        pos += bytes[pos..].iter().take_while(same).count();
        emit(pos);
    }
}

fn digit_groups(text: &str, emit: &mut impl FnMut(usize)) {
    let digits = Set::Bits(N, 0);
    let mut pos = 0;
    let mut emitted = 0;
    while let Some((c, len)) = char_at(text, pos) {
        if !digits.has(c) {
            pos += len;
            continue;
        }
        let end = run_end(text, pos, digits);
        let run = text.get(pos..end).unwrap_or_default();
        let count = run.chars().count();
        for (i, (at, c)) in run.char_indices().enumerate() {
            if (count - 1 - i) % 3 == 0 {
                emitted = pos + at + c.len_utf8();
                emit(emitted);
            }
        }
        pos = end;
    }
    if emitted < text.len() {
        emit(text.len());
    }
}

fn digit_cuts(text: &str, emit: &mut impl FnMut(usize)) {
    let bytes = text.as_bytes();
    let mut pos = 0;
    while pos < bytes.len() {
        let run = bytes[pos..].iter().take_while(|b| b.is_ascii_digit()).count();
        let end = pos + run;
        // A cut at the very start of the piece would leave nothing before it.
        (pos.max(1)..end).filter(|&at| (end - at) % 3 == 0).for_each(&mut *emit);
        pos = end + 1;
    }
    emit(bytes.len());
}

/// Calls `found` with each word of `text`: what every stage in turn has cut it into. Each stage gets the pieces
/// of the one before as they come, so that no list of them is kept.
pub(crate) fn words<'t>(text: &'t str, stages: &[Stage], found: &mut dyn FnMut(&'t str)) {
    let Some((stage, later)) = stages.split_first() else {
        return found(text);
    };
    let mut start = 0;
    stage.split(text, &mut |end| {
        words(text.get(start..end).unwrap_or_default(), later, found);
        start = end;
    });
}

/// Sets that the table of vocabularies uses.
pub(crate) mod sets {
    use super::*;

    /// `\p{L}`
    pub(crate) const LETTERS: Set = Set::Bits(L, 0);
    /// `\p{N}`
    pub(crate) const NUMBERS: Set = Set::Bits(N, 0);
    /// `[\p{L}\p{M}]`
    pub(crate) const LETTERS_MARKS: Set = Set::Bits(L | M, 0);
    /// `[^\r\n\p{L}\p{N}]`
    pub(crate) const LEAD: Set = Set::Not(NL | L | N);
    /// `[^\s\p{L}\p{N}]`
    pub(crate) const OTHER: Set = Set::Not(WS | L | N);
    /// `[\r\n]`
    pub(crate) const BREAKS: Set = Set::Bits(NL, 0);
    /// `[\r\n/]`
    pub(crate) const BREAKS_SLASH: Set = Set::Bits(NL | SLASH, 0);
    /// `[\p{P}\p{S}]`
    pub(crate) const PUNCT_SYMBOLS: Set = Set::Bits(P | S, 0);
    /// `\p{P}` and the ASCII symbols without the backtick.
    pub(crate) const PUNCT: Set = Set::Bits(P | SYM, 0);
    /// `\p{P}` and the ASCII symbols.
    pub(crate) const PUNCT_TICK: Set = Set::Bits(P | SYM | TICK, 0);
    /// Letters but `[a-z]`: llama.cpp's reading of "upper, title, modifier or other letter".
    pub(crate) const UPPERS: Set = Set::Bits(L, LOWER);
    /// Letters but `[A-Z]`.
    pub(crate) const LOWERS: Set = Set::Bits(L, UPPER);
    /// Letters that are not Han.
    pub(crate) const LETTERS_NOT_HAN: Set = Set::Bits(L, HAN);
    /// Han.
    pub(crate) const HANS: Set = Set::Bits(HAN, 0);
}
