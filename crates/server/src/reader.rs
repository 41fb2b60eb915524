//! Reads an answer while it is being written: what is text, what is thought, what is a call.

use crate::calls::CallReader;
use crate::format::Format;

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// Text for the user.
    Text(String),
    /// Thought.
    Thought(String),
    /// A call of this function begins.
    Call(String),
    /// A piece of its arguments, as JSON text.
    Arguments(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Before anything but white space.
    Start,
    Text,
    Thought,
    Call,
    /// Between a channel's mark and its message.
    Header,
}

/// The reader.
#[derive(Debug)]
pub struct Reader {
    format: Format,
    reads_calls: bool,
    reads_thoughts: bool,
    mode: Mode,
    held: String,
    /// What stands between the marks of a call.
    call: CallReader,
    /// A call was read.
    called: bool,
}

/// Marks of thoughts.
const THINK: [(&str, &str); 2] = [("<think>", "</think>"), ("[THINK]", "[/THINK]")];
/// Marks around calls that say nothing by themselves.
const AROUND_CALLS: [&str; 2] = ["<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"];

impl Reader {
    /// For a format. `reads_calls`: tools were offered. `thinks_at_once`: the prompt ends in the mark
    /// that begins a thought.
    /// `single`: at most one call is taken.
    pub fn new(format: Format, reads_calls: bool, single: bool, thinks_at_once: bool) -> Self {
        Self {
            format,
            reads_calls,
            reads_thoughts: true,
            mode: if thinks_at_once { Mode::Thought } else { Mode::Start },
            held: String::new(),
            call: CallReader::new(format, single),
            called: false,
        }
    }

    /// Everything is text: an answer that a grammar of the user's made.
    pub fn plain() -> Self {
        let own = Self::new(Format::Told, false, false, false);
        Self { reads_thoughts: false, mode: Mode::Text, ..own }
    }

    /// Takes a piece of the answer.
    pub fn push(&mut self, text: &str, out: &mut Vec<Delta>) {
        self.held.push_str(text);
        while self.advance(out) {}
    }

    /// The answer is at its end.
    pub fn finish(&mut self, out: &mut Vec<Delta>) {
        let held = std::mem::take(&mut self.held);
        match self.mode {
            Mode::Call => self.end_call(&held, out),
            // A message that never began.
            Mode::Header => {}
            Mode::Thought => emit(Delta::Thought, &held, out),
            // White space behind a call, which was held back, belongs to nothing.
            Mode::Text if self.called => emit(Delta::Text, held.trim_end(), out),
            Mode::Start | Mode::Text => emit(Delta::Text, &held, out),
        }
    }

    /// Makes one step; false where more text is needed.
    fn advance(&mut self, out: &mut Vec<Delta>) -> bool {
        if self.format == Format::Harmony {
            return self.advance_harmony(out);
        }
        match self.mode {
            Mode::Start => self.start(),
            Mode::Text => self.text(out),
            Mode::Thought => self.thought(out),
            Mode::Call | Mode::Header => self.call(out),
        }
    }

    fn start(&mut self) -> bool {
        if !self.reads_thoughts {
            // White space between a thought and text belongs to neither.
            let white = self.held.len() - self.held.trim_start().len();
            self.held.drain(..white);
        }
        let trimmed = self.held.trim_start();
        if trimmed.is_empty() {
            return false;
        }
        for (begin, _) in THINK.iter().filter(|_| self.reads_thoughts) {
            if let Some(rest) = trimmed.strip_prefix(begin) {
                self.held = rest.to_owned();
                self.mode = Mode::Thought;
                return true;
            }
            if begin.starts_with(trimmed) {
                return false;
            }
        }
        // Llama 3 calls without a mark: an answer that is an object from its first letter on.
        let bare = self.reads_calls && self.format == Format::Llama3 && trimmed.starts_with('{');
        self.mode = if bare { Mode::Call } else { Mode::Text };
        true
    }

    fn text(&mut self, out: &mut Vec<Delta>) -> bool {
        let mut marks: Vec<&str> = Vec::new();
        if self.reads_calls {
            marks.push(self.format.marks().0);
            marks.extend(AROUND_CALLS.iter().filter(|_| self.format == Format::DeepSeek));
        }
        let (mode, held) = (Mode::Text, std::mem::take(&mut self.held));
        match find(&held, &marks) {
            Found::Mark(at, mark) => {
                let before = &held[..at];
                // White space between text and a call belongs to neither.
                emit(Delta::Text, before.trim_end(), out);
                held[at + mark.len()..].clone_into(&mut self.held);
                self.mode = if AROUND_CALLS.contains(&mark) { mode } else { Mode::Call };
                true
            }
            Found::Perhaps(at) => {
                let at = if self.reads_calls { held[..at].trim_end().len() } else { at };
                emit(Delta::Text, &held[..at], out);
                held[at..].clone_into(&mut self.held);
                false
            }
        }
    }

    fn thought(&mut self, out: &mut Vec<Delta>) -> bool {
        let held = std::mem::take(&mut self.held);
        match find(&held, &[THINK[0].1, THINK[1].1]) {
            Found::Mark(at, mark) => {
                emit(Delta::Thought, held[..at].trim_end(), out);
                held[at + mark.len()..].clone_into(&mut self.held);
                self.mode = Mode::Start;
                self.reads_thoughts = false;
                true
            }
            Found::Perhaps(at) => {
                // White space before the mark belongs to neither.
                let at = held[..at].trim_end().len();
                emit(Delta::Thought, &held[..at], out);
                held[at..].clone_into(&mut self.held);
                false
            }
        }
    }

    /// Hands on what stands between a call's marks, as far as it cannot be the end mark's beginning.
    fn call(&mut self, out: &mut Vec<Delta>) -> bool {
        let ends: &[&str] = match self.format.marks().1 {
            "" => &[],
            _ if self.format == Format::Harmony => &["<|call|>", "<|end|>"],
            end => &[end],
        };
        let held = std::mem::take(&mut self.held);
        match find(&held, ends) {
            Found::Mark(at, mark) => {
                self.end_call(&held[..at], out);
                // A channel's end is read as such.
                let from = if self.format == Format::Harmony { at } else { at + mark.len() };
                held[from..].clone_into(&mut self.held);
                self.mode = Mode::Text;
                true
            }
            Found::Perhaps(at) => {
                self.call.push(&held[..at], out);
                held[at..].clone_into(&mut self.held);
                false
            }
        }
    }

    /// A call's text is complete.
    fn end_call(&mut self, rest: &str, out: &mut Vec<Delta>) {
        self.call.push(rest, out);
        self.call.finish(out);
        self.called = self.call.has_called();
    }

    /// Channels: `analysis` is thought, `commentary` to a function is a call, the rest is text.
    fn advance_harmony(&mut self, out: &mut Vec<Delta>) -> bool {
        const ENDS: [&str; 5] = ["<|channel|>", "<|end|>", "<|return|>", "<|call|>", "<|start|>"];
        if self.mode == Mode::Header {
            let Some(at) = self.held.find("<|message|>") else { return false };
            let head = self.held[..at].to_owned();
            if head.contains("to=functions.") && self.reads_calls {
                self.mode = Mode::Call;
                return true;
            }
            let thinks = head
                .rsplit("<|channel|>")
                .next()
                .is_some_and(|channel| channel.trim().starts_with("analysis"));
            self.mode = if thinks { Mode::Thought } else { Mode::Text };
            self.held.drain(..at + "<|message|>".len());
            return true;
        }
        if self.mode == Mode::Call {
            // The header is in it; the call ends with its mark, or with the answer.
            return self.call(out);
        }
        let held = std::mem::take(&mut self.held);
        let kind = if self.mode == Mode::Thought { Delta::Thought } else { Delta::Text };
        match find(&held, &ENDS) {
            Found::Mark(at, mark) => {
                emit(kind, &held[..at], out);
                held[at + mark.len()..].clone_into(&mut self.held);
                let header = matches!(mark, "<|channel|>" | "<|start|>");
                self.mode = if header { Mode::Header } else { Mode::Text };
                true
            }
            Found::Perhaps(at) => {
                emit(kind, &held[..at], out);
                held[at..].clone_into(&mut self.held);
                false
            }
        }
    }
}

fn emit(kind: fn(String) -> Delta, text: &str, out: &mut Vec<Delta>) {
    if !text.is_empty() {
        out.push(kind(text.to_owned()));
    }
}

enum Found<'m> {
    /// A mark begins here.
    Mark(usize, &'m str),
    /// No mark; from here on it may become one (the end, if it cannot).
    Perhaps(usize),
}

/// The first of `marks` in `text`; the longest of those that begin at the same place.
fn find<'m>(text: &str, marks: &[&'m str]) -> Found<'m> {
    let first = marks
        .iter()
        .filter_map(|mark| text.find(mark).map(|at| (at, std::cmp::Reverse(mark.len()), *mark)))
        .min();
    if let Some((at, _, mark)) = first {
        return Found::Mark(at, mark);
    }
    let longest = marks.iter().map(|mark| mark.len()).max().unwrap_or(0);
    let from = text.len().saturating_sub(longest);
    let may_begin = |at: &usize| {
        text.get(*at..).is_some_and(|end| marks.iter().any(|mark| mark.starts_with(end)))
    };
    Found::Perhaps((from..text.len()).find(may_begin).unwrap_or(text.len()))
}
