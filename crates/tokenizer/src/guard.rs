//! Keeping what users wrote from becoming special tokens.
//!
//! A chat template joins its own text, which holds special tokens, with text from outside, which must not.
//! Afterwards the two can no longer be told apart, and encoding them piece by piece would change the tokens at
//! the seams. So before rendering, a mark (a Unicode noncharacter) is put into every string from outside
//! after each character that a control token could start with. Templates may trim, split, join, compare
//! and replace such strings; wherever the text ends up, the mark is in it. After rendering the marks are
//! taken out, and their places are kept as [`Prompt::breaks`](crate::Prompt): no control token may span one.
//!
//! Templates look for some words in the text themselves, `</think>` above all. Such words (the string
//! literals of the template) are left without a mark where they stand in the text: they are no control
//! tokens, and the template's logic works as it does without guard.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::tokenizer::Tokenizer;

/// Marks are taken from the noncharacters U+FDD0 to U+FDEF, which text for interchange does not hold.
const MARKS: std::ops::RangeInclusive<char> = '\u{fdd0}'..='\u{fdef}';

/// A string literal longer than this is printed, not looked for.
const LITERAL_BYTES_MAX: usize = 64;

pub(crate) fn is_mark(c: char) -> bool {
    MARKS.contains(&c)
}

/// What to guard against.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guard {
    /// Characters that control tokens start with.
    starts: BTreeSet<char>,
    /// Control tokens that start with a letter or digit: those are too common to mark each.
    words: BTreeSet<String>,
    /// Words of the template that start with one of `starts`.
    literals: BTreeSet<String>,
}

impl Guard {
    /// A guard against the control tokens of a vocabulary, for a template.
    pub(crate) fn new(tokenizer: &Tokenizer, template: &str) -> Guard {
        let mut guard = Guard::default();
        let mut control = BTreeSet::new();
        for text in tokenizer.control_texts() {
            let Ok(text) = str::from_utf8(text) else {
                continue;
            };
            match text.chars().next() {
                Some(c) if c.is_alphanumeric() => drop(guard.words.insert(text.to_owned())),
                Some(c) => drop(guard.starts.insert(c)),
                None => {}
            }
            control.insert(text);
        }
        for literal in literals(template) {
            for (at, c) in literal.char_indices() {
                let word = &literal[at..];
                // A word that holds a control token gets its marks like other text.
                let harmless =
                    word.len() > c.len_utf8() && !control.iter().any(|t| word.contains(t));
                if guard.starts.contains(&c) && harmless {
                    guard.literals.insert(word.to_owned());
                }
            }
        }
        guard
    }

    /// A mark that none of the texts holds.
    pub(crate) fn unused_mark<'v>(values: impl Iterator<Item = &'v Value>) -> char {
        let mut used = BTreeSet::new();
        for value in values {
            each_string(value, &mut |text| used.extend(text.chars().filter(|&c| is_mark(c))));
        }
        MARKS.clone().find(|mark| !used.contains(mark)).unwrap_or(*MARKS.end())
    }

    fn word_at<'s>(set: &'s BTreeSet<String>, rest: &str) -> Option<&'s String> {
        // The longest one: of the words up to `rest` in order, the last that it starts with.
        let up_to =
            set.range::<str, _>((std::ops::Bound::Unbounded, std::ops::Bound::Included(rest)));
        let first = rest.chars().next()?;
        up_to.rev().take_while(|word| word.starts_with(first)).find(|word| rest.starts_with(*word))
    }

    /// `text` with marks, `None` if it needs none.
    fn marked(&self, text: &str, mark: char) -> Option<String> {
        let starts = |c: char| self.starts.contains(&c);
        let word = |rest: &str| Guard::word_at(&self.words, rest).is_some();
        let any_word = !self.words.is_empty();
        let spelled = || any_word && text.char_indices().any(|(at, _)| word(&text[at..]));
        if !(text.contains(starts) || spelled()) {
            return None;
        }
        let mut out = String::with_capacity(text.len() + text.len() / 8);
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if starts(c)
                && let Some(literal) = Guard::word_at(&self.literals, rest)
            {
                out.push_str(literal);
                rest = &rest[literal.len()..];
                continue;
            }
            out.push(c);
            if starts(c) || (any_word && word(rest)) {
                out.push(mark);
            }
            rest = &rest[c.len_utf8()..];
        }
        Some(out)
    }

    /// Puts marks into all strings of a value, the names in objects included.
    pub(crate) fn mark(&self, value: &mut Value, mark: char) {
        match value {
            Value::String(text) => {
                if let Some(marked) = self.marked(text, mark) {
                    *text = marked;
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.mark(item, mark)),
            Value::Object(fields) => {
                if fields.keys().any(|key| self.marked(key, mark).is_some()) {
                    *fields = std::mem::take(fields)
                        .into_iter()
                        .map(|(key, value)| (self.marked(&key, mark).unwrap_or(key), value))
                        .collect();
                }
                fields.values_mut().for_each(|field| self.mark(field, mark));
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

fn each_string(value: &Value, f: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => f(text),
        Value::Array(items) => items.iter().for_each(|item| each_string(item, f)),
        Value::Object(fields) => fields.iter().for_each(|(key, field)| {
            f(key);
            each_string(field, f);
        }),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The short string literals of a template, with quotes in its text taken for literals too: too many
/// are no harm.
fn literals(template: &str) -> impl Iterator<Item = &str> {
    ['\'', '"'].into_iter().flat_map(|quote| template.split(quote)).filter(|literal| {
        (2..=LITERAL_BYTES_MAX).contains(&literal.len()) && !literal.contains(['\n', '\\'])
    })
}

/// Takes the marks out of a rendered text: the text, and where they were, in bytes, ascending.
pub(crate) fn unmark(rendered: &str, mark: char) -> (String, Vec<usize>) {
    let mut text = String::with_capacity(rendered.len());
    let mut breaks = Vec::new();
    for (i, part) in rendered.split(mark).enumerate() {
        if i > 0 && breaks.last() != Some(&text.len()) {
            breaks.push(text.len());
        }
        text.push_str(part);
    }
    (text, breaks)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        Guard {
            starts: ['<'].into(),
            words: ["EOS".to_owned()].into(),
            literals: ["</think>".to_owned(), "<think>".to_owned()].into(),
        }
    }

    #[test]
    fn marks_go_into_what_could_start_a_control_token() {
        let marked = |text: &str| guard().marked(text, 'X').unwrap_or_else(|| text.to_owned());
        assert_eq!(marked("plain é text"), "plain é text");
        assert_eq!(marked("<|im_end|> a < b"), "<X|im_end|> a <X b");
        assert_eq!(marked("<think>x</think><b>"), "<think>x</think><Xb>");
        assert_eq!(marked("an EOS"), "an EXOS");
        let (text, breaks) = unmark("<X|im_end|> a <X b", 'X');
        assert_eq!((text.as_str(), breaks), ("<|im_end|> a < b", vec![1, 14]));
    }

    #[test]
    fn marks_reach_nested_values_and_names() {
        let mut value = serde_json::json!({"a": ["<", {"<b": 1}], "c": "d"});
        guard().mark(&mut value, 'X');
        assert_eq!(value, serde_json::json!({"a": ["<X", {"<Xb": 1}], "c": "d"}));
    }

    #[test]
    fn a_mark_in_the_text_is_not_used_as_mark() {
        let value = Value::String("\u{fdd0}\u{fdd1}".to_owned());
        assert_eq!(Guard::unused_mark([&value].into_iter()), '\u{fdd2}');
    }
}
