//! The header of a GGUF file, brought in by explicit reads: for commands that want the metadata
//! and the vocabulary but no weights.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Result;
use lowtide_gguf::split::{SplitInfo, shard_names};
use lowtide_gguf::{Error, Gguf};

use crate::failure::{Failure, STATUS_INPUT};

/// The first read: the header of most files whose vocabulary is small.
const FIRST_READ_BYTES: u64 = 1 << 20;

/// The bytes of a file's header.
pub struct Header {
    path: PathBuf,
    bytes: Vec<u8>,
    file_bytes: u64,
}

impl Header {
    /// Reads as much of the file as its header takes.
    pub fn read(path: &Path) -> Result<Self> {
        let unreadable = |error: std::io::Error| {
            Failure::input(format!("cannot read {}", path.display())).why(error)
        };
        let mut file = File::open(path).map_err(unreadable)?;
        let file_bytes = file.metadata().map_err(unreadable)?.len();
        let mut header = Self { path: path.to_owned(), bytes: Vec::new(), file_bytes };
        let mut wanted = FIRST_READ_BYTES;
        loop {
            let missing = wanted.min(file_bytes) - header.bytes.len() as u64;
            let got =
                (&mut file).take(missing).read_to_end(&mut header.bytes).map_err(unreadable)?;
            match Gguf::parse_header(&header.bytes, file_bytes) {
                // A file that shrinks while it is read gives no more bytes: then the error stands.
                Err(Error::NeedMore { .. }) if got > 0 => wanted = wanted.saturating_mul(2),
                Err(error) => {
                    let failure = Failure::from_lines(&error, STATUS_INPUT);
                    return Err(failure.about(path.display()).into());
                }
                Ok(_) => return Ok(header),
            }
        }
    }

    /// The headers of all parts of the set that the file is one of, in order; of one file its own.
    pub fn read_set(path: &Path) -> Result<Vec<Self>> {
        let given = Self::read(path)?;
        let wrong = |error: Error| Failure::from_lines(&error, STATUS_INPUT).about(path.display());
        let Some(info) = SplitInfo::read(&given.gguf()?).map_err(wrong)?.filter(|i| i.count > 1)
        else {
            return Ok(vec![given]);
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let names = shard_names(&name, info).map_err(wrong)?;
        names.iter().map(|name| Self::read(&path.with_file_name(name))).collect()
    }

    /// The file it is of.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The parsed header.
    pub fn gguf(&self) -> Result<Gguf<'_>> {
        Gguf::parse_header(&self.bytes, self.file_bytes).map_err(|error| {
            Failure::from_lines(&error, STATUS_INPUT).about(self.path.display()).into()
        })
    }
}
