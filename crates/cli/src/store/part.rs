//! A file on its way: the piece that is here, and beside it which file it is a piece of.
//!
//! Where a checksum is told, a wrong piece is found out in the end. Where none is, two revisions of
//! one file would be joined unnoticed, so a piece is gone on with only if its `.part.origin` names
//! the same revision, or the server says that its file is still the one that it names.
//!
//! ```text
//! revision 0123abcd
//! etag "5d8c72a5edda8"
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::http::{HttpError, Source};
use super::with_suffix;

/// A `.part`, locked against others.
pub(super) struct Part {
    path: PathBuf,
    file: File,
    /// Begun by this process: what is missing comes from the same file, but for the moment in
    /// which it is replaced at the server.
    is_ours: bool,
}

/// How to go on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Resume {
    /// Nothing is missing.
    Whole(u64),
    /// With the bytes from there on.
    From(u64),
    /// The same, if the server's file is still the one with this ETag.
    IfStill(u64, String),
}

#[derive(Default)]
struct Origin {
    revision: Option<String>,
    etag: Option<String>,
}

impl Part {
    /// Opens or creates it.
    ///
    /// # Errors
    /// It cannot be written, or another lowtide writes it.
    pub fn open(path: &Path) -> Result<Self, HttpError> {
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).read(true).write(true).open(path);
        let file = file.map_err(|error| HttpError::Disk(path.to_owned(), error))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(HttpError::Busy(path.to_owned())),
            // A file system without locks: then nobody is kept out, as with any other program.
            Err(TryLockError::Error(_)) => {}
        }
        Ok(Self { path: path.to_owned(), file, is_ours: false })
    }

    /// Its length.
    pub fn bytes(&self) -> Result<u64, HttpError> {
        self.file.metadata().map(|meta| meta.len()).map_err(|error| self.disk(error))
    }

    /// What to ask for next. A piece of something else is emptied first.
    pub fn resume(&mut self, source: &Source<'_>) -> Result<Resume, HttpError> {
        let have = self.bytes()?;
        // Longer than the whole: not a piece of it.
        if have == 0 || source.bytes.is_some_and(|bytes| have > bytes) {
            return Ok(Resume::From(0));
        }
        let go_on = match source.bytes {
            Some(bytes) if bytes == have => Resume::Whole(have),
            _ => Resume::From(have),
        };
        if source.sha256.is_some() {
            return Ok(go_on);
        }
        let origin = Origin::read(&origin_path(&self.path));
        if origin.revision.as_deref().is_some_and(|known| Some(known) == source.revision) {
            return Ok(go_on);
        }
        match origin.etag {
            Some(etag) => Ok(Resume::IfStill(have, etag)),
            None if self.is_ours => Ok(go_on),
            None => {
                self.clear()?;
                Ok(Resume::From(0))
            }
        }
    }

    /// Empties it for the file that now comes from its start.
    pub fn begin(&mut self, source: &Source<'_>, etag: Option<&str>) -> Result<(), HttpError> {
        self.clear()?;
        self.is_ours = true;
        if source.sha256.is_some() {
            return Ok(());
        }
        let path = origin_path(&self.path);
        let origin =
            Origin { revision: source.revision.map(str::to_owned), etag: etag.map(str::to_owned) };
        origin.write(&path).map_err(|error| HttpError::Disk(path, error))
    }

    /// Empties it. What is named as its origin goes after its bytes: no piece ever has a wrong one.
    pub fn clear(&mut self) -> Result<(), HttpError> {
        self.cut_to(0)?;
        remove_origin(&self.path).map_err(|error| HttpError::Disk(origin_path(&self.path), error))
    }

    /// Goes on writing at this length.
    pub fn cut_to(&mut self, bytes: u64) -> Result<(), HttpError> {
        let cut = self.file.set_len(bytes).and_then(|()| self.file.seek(SeekFrom::Start(bytes)));
        cut.map(|_| ()).map_err(|error| self.disk(error))
    }

    /// Writes what has come.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), HttpError> {
        self.file.write_all(bytes).map_err(|error| self.disk(error))
    }

    /// Brings it to the disk.
    pub fn sync(&self) -> Result<(), HttpError> {
        self.file.sync_all().map_err(|error| self.disk(error))
    }

    /// After a failure: a piece stays, nothing does not.
    pub fn leave(self) {
        if self.bytes().is_ok_and(|bytes| bytes == 0) {
            // The error that is on its way matters more than one of these.
            let _ = fs::remove_file(&self.path);
            let _ = remove_origin(&self.path);
        }
    }

    fn disk(&self, error: io::Error) -> HttpError {
        HttpError::Disk(self.path.clone(), error)
    }
}

impl Origin {
    /// What cannot be read names nothing.
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        let value = |key: &str| {
            let of = |line: &str| Some(line.strip_prefix(key)?.strip_prefix(' ')?.to_owned());
            text.lines().find_map(of).filter(|value| !value.is_empty())
        };
        Self { revision: value("revision"), etag: value("etag") }
    }

    fn write(&self, path: &Path) -> io::Result<()> {
        let lines = [("revision", &self.revision), ("etag", &self.etag)];
        let known = lines.iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
        let text: String = known.map(|(key, value)| format!("{key} {value}\n")).collect();
        if text.is_empty() { Ok(()) } else { fs::write(path, text) }
    }
}

/// `NAME.gguf.part` -> `NAME.gguf.part.origin`.
pub(super) fn origin_path(part: &Path) -> PathBuf {
    with_suffix(part, ".origin")
}

/// Removes what is kept beside a `.part`, which is whole or gone.
pub(super) fn remove_origin(part: &Path) -> io::Result<()> {
    match fs::remove_file(origin_path(part)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
