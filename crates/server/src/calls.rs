//! Reads a call of a tool while it is being written: its name as soon as it is known, then its
//! arguments as they come. What has another order or another shape is read when it is whole.

use crate::format::{Call, DEEPSEEK_SEP, Format};
use crate::reader::Delta;

/// The reader of what stands between a call's marks: one call, or several.
#[derive(Debug)]
pub struct CallReader {
    format: Format,
    /// At most one call is taken.
    single: bool,
    state: State,
    held: String,
    /// Calls that were begun.
    calls: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a call's arguments.
    Head,
    /// In them; whether they lie in an object.
    Arguments(Scan, bool),
    /// Behind them, in the object that holds them.
    Outer(Scan),
    /// Nothing can be told before the end.
    Whole,
}

/// How deep a place in a JSON object lies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Scan {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

/// What a call begins with.
#[derive(Debug, PartialEq, Eq)]
enum Head {
    /// More is needed to say.
    More,
    /// A call.
    Found {
        /// The function.
        name: String,
        /// Where its arguments begin.
        at: usize,
        /// Whether they lie in an object.
        in_object: bool,
    },
    /// None of the usual.
    Other,
}

const TOOL_CALLS: &str = "[TOOL_CALLS]";
/// What may stand between calls in a list.
const BETWEEN: [char; 8] = [' ', '\n', '\t', '\r', ';', ',', '[', ']'];

impl CallReader {
    /// For a format.
    pub fn new(format: Format, single: bool) -> Self {
        Self { format, single, state: State::Head, held: String::new(), calls: 0 }
    }

    /// Whether a call was begun.
    pub fn has_called(&self) -> bool {
        self.calls > 0
    }

    /// Takes a piece of what stands between the marks.
    pub fn push(&mut self, text: &str, out: &mut Vec<Delta>) {
        self.held.push_str(text);
        while self.advance(out) {}
    }

    /// Everything between the marks was given. What cannot be read as a call is shown, not lost.
    pub fn finish(&mut self, out: &mut Vec<Delta>) {
        let held = std::mem::take(&mut self.held);
        let state = std::mem::replace(&mut self.state, State::Head);
        if self.single && self.calls > 0 {
            return;
        }
        match state {
            State::Arguments(..) | State::Outer(_) => {}
            State::Head | State::Whole => self.whole(&held, out),
        }
    }

    fn whole(&mut self, held: &str, out: &mut Vec<Delta>) {
        let rest = match self.calls {
            0 => held,
            _ => held.trim_matches(BETWEEN).trim_start_matches("```").trim(),
        };
        match self.format.read(rest) {
            Some(calls) => {
                let most = if self.single { 1 } else { calls.len() };
                for Call { name, arguments } in calls.into_iter().take(most) {
                    self.calls += 1;
                    out.push(Delta::Call(name));
                    out.push(Delta::Arguments(arguments));
                }
            }
            None if rest.is_empty() => {}
            None => out.push(Delta::Text(rest.to_owned())),
        }
    }

    /// Makes one step; false where more text is needed.
    fn advance(&mut self, out: &mut Vec<Delta>) -> bool {
        match self.state {
            State::Whole => false,
            State::Head if self.single && self.calls > 0 => {
                self.held.clear();
                false
            }
            State::Head => self.head(out),
            State::Arguments(mut scan, in_object) => {
                let (end, closed) = scan.follow(&self.held);
                if end > 0 {
                    out.push(Delta::Arguments(self.held.drain(..end).collect()));
                }
                self.state = match (closed, in_object) {
                    (false, _) => State::Arguments(scan, in_object),
                    (true, true) => State::Outer(Scan { depth: 1, ..Scan::default() }),
                    (true, false) => State::Head,
                };
                closed
            }
            State::Outer(mut scan) => {
                let (end, closed) = scan.follow(&self.held);
                self.held.drain(..end);
                self.state = if closed { State::Head } else { State::Outer(scan) };
                closed
            }
        }
    }

    fn head(&mut self, out: &mut Vec<Delta>) -> bool {
        match head(self.format, &self.held) {
            Head::More => false,
            Head::Other => {
                self.state = State::Whole;
                false
            }
            Head::Found { name, at, in_object } => {
                self.held.drain(..at);
                self.calls += 1;
                self.state = State::Arguments(Scan::default(), in_object);
                out.push(Delta::Call(name));
                true
            }
        }
    }
}

impl Scan {
    /// Goes on through `text`; how far, and whether the object was closed there.
    fn follow(&mut self, text: &str) -> (usize, bool) {
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                _ if self.in_string => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return (at + 1, true);
                    }
                }
                _ => {}
            }
        }
        (text.len(), false)
    }
}

/// What the text of a call begins with, in a format.
fn head(format: Format, text: &str) -> Head {
    match format {
        Format::Hermes | Format::Told | Format::Llama3 => object_head(text),
        Format::Mistral => mistral_head(text),
        Format::DeepSeek => {
            let Some((kind, rest)) = text.split_once(DEEPSEEK_SEP) else { return Head::More };
            // First: a text in the arguments may have a fence.
            if rest.trim_start().starts_with('{') {
                return plain_head(kind, rest, text);
            }
            match rest.split_once("```json") {
                Some((name, fenced)) => plain_head(name, fenced, text),
                None => Head::More,
            }
        }
        Format::Harmony => {
            let Some((head, rest)) = text.split_once("<|message|>") else { return Head::More };
            let name = head.split("to=functions.").nth(1);
            let name = name.and_then(|to| to.split(|c: char| c.is_whitespace() || c == '<').next());
            name.map_or(Head::Other, |name| plain_head(name, rest, text))
        }
    }
}

fn mistral_head(text: &str) -> Head {
    // What ends a list, or stands between its calls.
    let trimmed = text.trim_start_matches([' ', '\n', '\t', '\r', ';', ',', ']']);
    if TOOL_CALLS.starts_with(trimmed) {
        return Head::More;
    }
    let body = trimmed.strip_prefix(TOOL_CALLS).unwrap_or(trimmed).trim_start();
    match body.split_once("[ARGS]") {
        Some((name, rest)) if !body.starts_with(['[', '{']) => {
            let name = name.split("[CALL_ID]").next().unwrap_or(name);
            plain_head(name, rest, text)
        }
        None if !body.is_empty() && !body.starts_with(['[', '{']) => Head::More,
        _ => match object_head(body) {
            Head::Found { name, at, in_object } => {
                Head::Found { name, at: at + text.len() - body.len(), in_object }
            }
            other => other,
        },
    }
}

/// A name, and arguments that follow in `rest`, which ends `text`.
fn plain_head(name: &str, rest: &str, text: &str) -> Head {
    let (name, arguments) = (name.trim(), rest.trim_start());
    match arguments.chars().next() {
        None => Head::More,
        Some('{') if !name.is_empty() => Head::Found {
            name: name.to_owned(),
            at: text.len() - arguments.len(),
            in_object: false,
        },
        Some(_) => Head::Other,
    }
}

/// `{"name": "..", "arguments": {`, perhaps in a list, perhaps with other texts before.
fn object_head(text: &str) -> Head {
    let Some(mut rest) = text.trim_start_matches(BETWEEN).strip_prefix('{') else {
        let nothing = text.trim_start_matches(BETWEEN).is_empty();
        return if nothing { Head::More } else { Head::Other };
    };
    let mut name = None;
    loop {
        let (key, after) = match string(rest.trim_start_matches([' ', '\n', '\t', '\r', ','])) {
            Ok(found) => found,
            Err(head) => return head,
        };
        let after = after.trim_start();
        let value = match after.strip_prefix(':') {
            Some(value) => value.trim_start(),
            None => return if after.is_empty() { Head::More } else { Head::Other },
        };
        if key == "arguments" || key == "parameters" {
            return match (value.chars().next(), name) {
                (None, _) => Head::More,
                (Some('{'), Some(name)) => {
                    Head::Found { name, at: text.len() - value.len(), in_object: true }
                }
                _ => Head::Other,
            };
        }
        match string(value) {
            Ok((found, after)) => {
                name = if key == "name" { Some(found) } else { name };
                rest = after;
            }
            Err(head) => return head,
        }
    }
}

/// A JSON string at the beginning of a text, and what follows it.
fn string(text: &str) -> Result<(String, &str), Head> {
    let mut strings = serde_json::Deserializer::from_str(text).into_iter::<String>();
    match strings.next() {
        None => Err(Head::More),
        Some(Ok(string)) => Ok((string, &text[strings.byte_offset()..])),
        Some(Err(error)) if error.is_eof() => Err(Head::More),
        Some(Err(_)) => Err(Head::Other),
    }
}
