//! Text that comes in: from an argument, a file, or standard input.

use std::io::{IsTerminal, Read};
use std::path::Path;

use anyhow::Result;

use crate::failure::Failure;

/// The text as it is; from standard input where neither an argument nor a file is given. `what`
/// names it in errors: "prompt", "text".
pub fn text(argument: Option<&str>, file: Option<&Path>, what: &str) -> Result<String> {
    match (argument, file) {
        (Some(text), _) => Ok(text.to_owned()),
        (None, Some(path)) => file_text(path),
        (None, None) => stdin_text(what),
    }
}

/// A file's text.
pub fn file_text(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path)
        .map_err(|error| Failure::input(format!("cannot read {}", path.display())).why(error))?;
    utf8(bytes, &path.display().to_string())
}

fn stdin_text(what: &str) -> Result<String> {
    let mut stdin = std::io::stdin().lock();
    if stdin.is_terminal() {
        return Err(Failure::input(format!("there is no {what}"))
            .why("it comes as an argument, with -f FILE, or on standard input")
            .mend("echo 'Why is the sky blue?' | lowtide ...")
            .into());
    }
    let mut bytes = Vec::new();
    stdin
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::input("cannot read standard input").why(error))?;
    utf8(bytes, "standard input")
}

fn utf8(bytes: Vec<u8>, place: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::input(format!("{place} is not UTF-8 text"))
            .why(format!("the byte at {at} begins no character"))
            .into()
    })
}
