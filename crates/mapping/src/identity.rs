//! Which file it was, to tell later whether it still is the same.

use std::fmt;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use crate::Error;
use crate::error::file_name;

/// Device, inode, length and time of change of an open file.
///
/// An open descriptor stays with its inode, so a rename over the path, or an unlink, is no change here;
/// a truncation or a write into the file is. Limits: the kernel's clock for modification times ticks
/// every 1 to 10 ms (finer since Linux 6.13), so an overwrite of equal length within one tick of the
/// snapshot goes unseen; writes through a shared mapping set the time only when the pages are first
/// dirtied or written back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Length in bytes.
    pub size: u64,
    /// Last modification, whole seconds since 1970.
    pub modified_s: i64,
    /// Last modification, the nanoseconds of that second.
    pub modified_ns: i64,
}

/// How a file differs from its snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Another inode: the snapshot was of a different file.
    Replaced,
    /// Shorter than it was.
    Truncated {
        /// Length then, in bytes.
        from: u64,
        /// Length now, in bytes.
        to: u64,
    },
    /// Longer than it was.
    Grown {
        /// Length then, in bytes.
        from: u64,
        /// Length now, in bytes.
        to: u64,
    },
    /// Same length, written to since.
    Overwritten,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replaced => f.write_str("it is another file now"),
            Self::Truncated { from, to } => {
                write!(f, "it was truncated from {from} to {to} bytes")
            }
            Self::Grown { from, to } => write!(f, "it grew from {from} to {to} bytes"),
            Self::Overwritten => f.write_str("it was written to"),
        }
    }
}

impl FileIdentity {
    /// Takes the snapshot (one `fstat`).
    ///
    /// # Errors
    /// `File` where `fstat` fails, for example on a stale network handle.
    pub fn of(file: &File) -> Result<Self, Error> {
        let meta = file.metadata().map_err(|source| Error::File {
            call: "fstat",
            file: file_name(file.as_fd()),
            source,
        })?;
        Ok(Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified_s: meta.mtime(),
            modified_ns: meta.mtime_nsec(),
        })
    }

    /// How `file` differs from this snapshot; `None` where it does not.
    ///
    /// # Errors
    /// `File` where `fstat` fails.
    pub fn changed(&self, file: &File) -> Result<Option<Change>, Error> {
        Ok(self.compare(&Self::of(file)?))
    }

    /// As [`FileIdentity::changed`], with a change as the error.
    ///
    /// # Errors
    /// `Changed`, or `File` where `fstat` fails.
    pub fn check(&self, file: &File) -> Result<(), Error> {
        match self.changed(file)? {
            None => Ok(()),
            Some(change) => Err(Error::Changed { file: file_name(file.as_fd()), change }),
        }
    }

    fn compare(&self, now: &Self) -> Option<Change> {
        if (self.device, self.inode) != (now.device, now.inode) {
            return Some(Change::Replaced);
        }
        let (from, to) = (self.size, now.size);
        if to < from {
            Some(Change::Truncated { from, to })
        } else if to > from {
            Some(Change::Grown { from, to })
        } else if (self.modified_s, self.modified_ns) != (now.modified_s, now.modified_ns) {
            Some(Change::Overwritten)
        } else {
            None
        }
    }
}
