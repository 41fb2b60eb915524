//! Whether a file that was fetched has the length its header asks for: where no checksum and no
//! length were told, a connection that broke off looks like one that ended.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use anyhow::{Context, Result};
use lowtide_gguf::{Error, Gguf};

use super::part::remove_origin;
use crate::failure::Failure;
use crate::human::grouped;
use crate::progress::note;

/// The first read, doubled until the header is in it.
const FIRST_READ_BYTES: u64 = 1 << 20;

/// The lengths that a file's header allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lengths {
    /// The end of what is known to be in it.
    least: u64,
    /// The same with the padding that some writers add; `None` where more may follow.
    most: Option<u64>,
}

/// Refuses a model in `part` that is cut short or is no model. `told` is the length that its
/// publisher told; `label` is what was asked for.
///
/// # Errors
/// A piece stays, to be gone on with; what is no piece of a model is removed.
pub fn check(part: &Path, told: Option<u64>, label: &str) -> Result<()> {
    let unreadable = || format!("cannot read {}", part.display());
    let have = fs::metadata(part).with_context(unreadable)?.len();
    let failure = match lengths(part).with_context(unreadable)? {
        Ok(Lengths { least, .. }) if have < least => {
            let failure =
                Failure::running(format!("{label} is not whole: {} bytes", grouped(have)))
                    .why(format!("its header asks for {} bytes", grouped(least)))
                    .mend(format!("lowtide pull {label}   (goes on where it stopped)"));
            return Err(failure.into());
        }
        Ok(Lengths { most: Some(most), .. }) if have > most => {
            let why =
                format!("{} bytes are there, its header asks for {}", grouped(have), grouped(most));
            if told == Some(have) {
                note(&format!("{label} is longer than its model: {why}"));
                return Ok(());
            }
            Failure::running(format!("{label} is longer than its model; it is removed")).why(why)
        }
        Ok(_) => return Ok(()),
        Err(error) => Failure::running(format!("what arrived as {label} is no model"))
            .why(error.to_string().lines().next().unwrap_or_default()),
    };
    let removed = fs::remove_file(part).and_then(|()| remove_origin(part));
    removed.with_context(|| format!("cannot remove {}", part.display()))?;
    Err(failure.into())
}

/// What a file's header says of the file's length, whatever that is.
fn lengths(path: &Path) -> io::Result<Result<Lengths, Error>> {
    let mut file = File::open(path)?;
    let mut bytes = Vec::new();
    let mut wanted = FIRST_READ_BYTES;
    loop {
        let missing = wanted - bytes.len() as u64;
        let got = (&mut file).take(missing).read_to_end(&mut bytes)?;
        match Gguf::parse_header(&bytes, u64::MAX) {
            Ok(gguf) => return Ok(Ok(of(&gguf))),
            Err(Error::NeedMore { .. }) if got > 0 => wanted = wanted.saturating_mul(2),
            Err(Error::NeedMore { .. }) => {
                return Ok(Ok(Lengths { least: bytes.len() as u64 + 1, most: None }));
            }
            Err(error) => return Ok(Err(error)),
        }
    }
}

fn of(gguf: &Gguf<'_>) -> Lengths {
    let mut least = gguf.header_bytes();
    let mut known = true;
    for tensor in gguf.tensors() {
        known &= tensor.byte_len().is_ok();
        least = least.max(tensor.range().map_or(tensor.offset(), |range| range.end));
    }
    Lengths { least, most: known.then(|| least.next_multiple_of(gguf.alignment().into())) }
}
