//! Text that comes in: from an argument, a file, or standard input.

use std::fmt::Display;
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::Path;

use anyhow::Result;

use crate::allowance::Allowance;
use crate::failure::Failure;

/// Pages of a text's file in the page cache count as this process's memory. So many are nothing to speak of.
const CACHED_BYTES_MAX: u64 = 1 << 20;

/// The text as it is; from standard input where neither an argument nor a file is given. `what`
/// names it in errors: "prompt", "text". With an allowance no more is read than could fit it.
pub fn text(
    argument: Option<&str>,
    file: Option<&Path>,
    what: &str,
    allowance: Option<&Allowance>,
) -> Result<String> {
    match (argument, file) {
        (Some(text), _) => {
            if let Some(allowance) = allowance {
                allowance.check_bytes(&format!("the {what}"), text.len() as u64, false)?;
            }
            Ok(text.to_owned())
        }
        (None, Some(path)) => file_text(path, allowance),
        (None, None) => stdin_text(what, allowance),
    }
}

fn file_text(path: &Path, allowance: Option<&Allowance>) -> Result<String> {
    let place = path.display().to_string();
    let file = File::open(path).map_err(|error| unreadable(&place, &error))?;
    // Files of /proc say that they are empty.
    let size = file.metadata().map_err(|error| unreadable(&place, &error))?.len();
    if let Some(allowance) = allowance {
        allowance.check_bytes(&place, size, false)?;
        // The page cache holds it too.
        allowance.check_memory(&place, size, size.saturating_mul(2))?;
    }
    let bytes = read(&file, size, &place, allowance)?;
    if allowance.is_some() && size > CACHED_BYTES_MAX {
        // What cannot be let go of now (a file just written on a full disk) the kernel takes when it must.
        let _ = lowtide_mapping::evict_file(&file);
    }
    utf8(bytes, &place)
}

fn stdin_text(what: &str, allowance: Option<&Allowance>) -> Result<String> {
    let stdin = std::io::stdin().lock();
    if stdin.is_terminal() {
        return Err(Failure::input(format!("there is no {what}"))
            .why("it comes as an argument, with -f FILE, or on standard input")
            .mend("echo 'Why is the sky blue?' | lowtide ...")
            .into());
    }
    let place = "standard input";
    utf8(read(stdin, 0, place, allowance)?, place)
}

fn unreadable(place: &str, error: &dyn Display) -> Failure {
    Failure::input(format!("cannot read {place}")).why(error)
}

/// All of it, or a refusal once there is more than could fit.
fn read(
    from: impl Read,
    size: u64,
    place: &str,
    allowance: Option<&Allowance>,
) -> Result<Vec<u8>, Failure> {
    let max = allowance.map_or(Ok(u64::MAX), Allowance::bytes_max)?;
    let mut bytes = Vec::new();
    let room = usize::try_from(size.min(max)).unwrap_or(usize::MAX);
    bytes.try_reserve(room).map_err(|error| unreadable(place, &error))?;
    let read = from.take(max.saturating_add(1)).read_to_end(&mut bytes);
    read.map_err(|error| unreadable(place, &error))?;
    match allowance {
        Some(allowance) if bytes.len() as u64 > max => {
            drop(bytes);
            allowance.check_bytes(place, max, true)?;
            // What there is may have changed meanwhile; this text was not read whole.
            Err(unreadable(place, &"there is less memory for it now"))
        }
        _ => Ok(bytes),
    }
}

fn utf8(bytes: Vec<u8>, place: &str) -> Result<String> {
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Failure::input(format!("{place} is not UTF-8 text"))
            .why(format!("the byte at {at} begins no character"))
            .into()
    })
}
