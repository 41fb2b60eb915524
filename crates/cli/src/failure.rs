//! What the user sees when something is wrong: up to three lines, then an exit status.
//!
//! ```text
//! error: model.gguf is not a GGUF file
//!   it starts with the bytes 50 4b 03 04, a GGUF file starts with "GGUF"
//!   try: lowtide pull smollm2-135m
//! ```

use std::borrow::Cow;
use std::fmt;
use std::io::{IsTerminal, Write};

use crate::output::StdoutClosed;

/// An error while running.
pub const STATUS_RUNNING: u8 = 1;
/// Unusable arguments or input.
pub const STATUS_INPUT: u8 = 2;
/// Stopped by Ctrl-C.
pub const STATUS_INTERRUPTED: u8 = 130;

/// One problem: what, why, and the command that mends it.
#[derive(Debug)]
pub struct Failure {
    status: u8,
    what: String,
    why: Option<String>,
    mend: Option<String>,
}

impl Failure {
    /// The arguments or the input cannot be used: exit status 2.
    pub fn input(what: impl Into<String>) -> Self {
        Self { status: STATUS_INPUT, what: what.into(), why: None, mend: None }
    }

    /// Something went wrong while running: exit status 1.
    pub fn running(what: impl Into<String>) -> Self {
        Self { status: STATUS_RUNNING, what: what.into(), why: None, mend: None }
    }

    /// A library's error: its lines are what, why and how to mend it already.
    pub fn from_lines(error: &dyn std::error::Error, status: u8) -> Self {
        let text = error.to_string();
        let mut lines = text.splitn(3, '\n').map(str::to_owned);
        let what = lines.next().unwrap_or_default();
        Self { status, what, why: lines.next(), mend: lines.next() }
    }

    /// What it is about, in front: a file's name.
    pub fn about(mut self, subject: impl fmt::Display) -> Self {
        self.what = format!("{subject}: {}", self.what);
        self
    }

    /// Ctrl-C: says nothing, exit status 130.
    pub fn interrupted() -> Self {
        Self::told(STATUS_INTERRUPTED)
    }

    /// What is wrong was said already: only the exit status is left.
    pub fn told(status: u8) -> Self {
        Self { status, what: String::new(), why: None, mend: None }
    }

    /// The second line: where it is and why it is wrong.
    pub fn why(mut self, why: impl fmt::Display) -> Self {
        self.why = Some(why.to_string());
        self
    }

    /// The third line: what to type instead.
    pub fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(format!("try: {}", mend.into()));
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&one_line(&self.what))?;
        if let Some(why) = &self.why {
            write!(f, "\n  {}", one_line(why))?;
        }
        if let Some(mend) = &self.mend {
            write!(f, "\n  {}", one_line(mend))?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// Text from files and servers may hold line ends and terminal escapes; neither gets through.
pub fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.trim().chars() {
        match c {
            '\n' | '\r' | '\t' => line.push(' '),
            c if c.is_control() => line.extend(c.escape_unicode()),
            c => line.push(c),
        }
    }
    line
}

/// A longer line of an error is cut.
const LINE_CHARS_MAX: usize = 600;

/// Prints an error to standard error and returns the exit status it stands for.
pub fn report(error: &anyhow::Error) -> u8 {
    if error.chain().any(StdoutClosed::is) {
        // `lowtide ... | head`: the reader has what it wanted.
        return 0;
    }
    let (status, text) = match error.downcast_ref::<Failure>() {
        Some(failure) => (failure.status, failure.to_string()),
        None => (STATUS_RUNNING, from_chain(error).to_string()),
    };
    if !text.is_empty() {
        print_error(&text);
    }
    status
}

/// An error without a [`Failure`] in it: the outermost message, then its causes in one line.
fn from_chain(error: &anyhow::Error) -> Failure {
    let mut told: Vec<String> = Vec::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        // Some libraries repeat their cause in their own message.
        if !told.iter().any(|known| known.contains(&cause)) {
            told.push(cause);
        }
    }
    let mut told = told.into_iter();
    let failure = Failure::running(told.next().unwrap_or_default());
    let causes: Vec<String> = told.collect();
    if causes.is_empty() { failure } else { failure.why(causes.join(": ")) }
}

/// `error: ` and the text; red where standard error is a terminal that wants colour.
pub fn print_error(text: &str) {
    let text: Vec<_> = text.split('\n').map(shortened).collect();
    let text = text.join("\n");
    let mut stderr = std::io::stderr().lock();
    // Where standard error is closed there is nobody to tell.
    let _ = if stderr_is_coloured() {
        writeln!(stderr, "\x1b[1;31merror:\x1b[0m {text}")
    } else {
        writeln!(stderr, "error: {text}")
    };
}

/// Names and values of a file can be of any length.
fn shortened(line: &str) -> Cow<'_, str> {
    match line.char_indices().nth(LINE_CHARS_MAX) {
        Some((end, _)) => format!("{}... ({} bytes more)", &line[..end], line.len() - end).into(),
        None => line.into(),
    }
}

/// Colour only on a terminal, and not against `NO_COLOR` (any non-empty value) or `TERM=dumb`.
pub fn stderr_is_coloured() -> bool {
    std::io::stderr().is_terminal() && colour_is_wanted()
}

/// What the environment says about colour.
pub fn colour_is_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
        && std::env::var_os("TERM").is_none_or(|v| v != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_any_length_is_readable() {
        let long = "é".repeat(LINE_CHARS_MAX);
        assert_eq!(shortened(&long), long);
        assert_eq!(shortened(&format!("{long}abc")), format!("{long}... (3 bytes more)"));
    }

    #[test]
    fn three_lines_whatever_the_messages_hold() {
        let failure =
            Failure::input("a\nb\x1b[31m").why("one\r\ntwo").mend("lowtide pull\nsmollm2-135m");
        let text = failure.to_string();
        assert_eq!(text, "a b\\u{1b}[31m\n  one  two\n  try: lowtide pull smollm2-135m");
        assert_eq!(text.lines().count(), 3);
    }

    #[test]
    fn a_chain_is_told_without_repetition() {
        let error = anyhow::anyhow!("disk on fire").context("disk on fire: read").context("load");
        assert_eq!(from_chain(&error).to_string(), "load\n  disk on fire: read");
        let error = anyhow::anyhow!("not text").context("not text");
        assert_eq!(from_chain(&error).to_string(), "not text");
    }
}
