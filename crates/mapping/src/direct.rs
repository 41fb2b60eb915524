//! Files opened for direct reads (`O_DIRECT`): bytes go from the disk to our buffers and leave the
//! page cache, and so whatever is pinned in it, alone.

use std::ffi::CStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd};
use std::path::Path;

use crate::error::file_name;
use crate::open::open_model_file;
use crate::page::AlignedSpan;
use crate::{Error, FileIdentity, Place, sys};

/// What direct reads are aligned to where the kernel cannot say (before Linux 6.1): no disk has
/// larger logical blocks than this.
const ALIGNMENT_FALLBACK: usize = 4096;

/// A file for [`crate::ReadQueue`] to read, with what its file system asks of direct reads.
#[derive(Debug)]
pub struct DirectFile {
    file: File,
    mode: ReadMode,
    alignment: usize,
}

/// How a [`DirectFile`] is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadMode {
    /// Past the page cache (`O_DIRECT`).
    Direct,
    /// Through the page cache, whose pages are dropped after each read.
    Buffered(Refusal),
}

/// Why a file is not read past the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The file system refuses `O_DIRECT` when opening (with this errno).
    Open(i32),
    /// The file system takes the flag but says that this file has no direct reads (`statx`).
    NotForThisFile,
    /// The first direct read failed (with this errno).
    FirstRead(i32),
    /// The caller asked for buffered reads.
    Asked,
}

impl fmt::Display for ReadMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errno = |errno: i32| io::Error::from_raw_os_error(errno);
        match *self {
            Self::Direct => f.write_str("direct"),
            Self::Buffered(Refusal::Open(e)) => write!(f, "buffered (O_DIRECT: {})", errno(e)),
            Self::Buffered(Refusal::NotForThisFile) => {
                f.write_str("buffered (the file system has no direct reads for this file)")
            }
            Self::Buffered(Refusal::FirstRead(e)) => {
                write!(f, "buffered (the first direct read failed: {})", errno(e))
            }
            Self::Buffered(Refusal::Asked) => f.write_str("buffered (as asked)"),
        }
    }
}

impl DirectFile {
    /// Opens a regular file for direct reads, or for buffered ones where those are refused
    /// ([`DirectFile::mode`] says which and why).
    ///
    /// # Errors
    /// Those of [`open_model_file`], and `File`.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::of(open_model_file(path)?.file())
    }

    /// The same file as an open one, direct: for a file that is mapped as well, so that both stay
    /// with one inode whatever happens to the path.
    ///
    /// # Errors
    /// `File` where the file can be neither reopened nor duplicated.
    pub fn of(file: &File) -> Result<Self, Error> {
        let direct = match reopen_direct(file) {
            Ok(direct) => direct,
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
                return Self::buffered_because(file, Refusal::Open(errno));
            }
        };
        let Some(alignment) = direct_alignment(&direct) else {
            return Self::buffered_because(file, Refusal::NotForThisFile);
        };
        if let Err(error) = first_read(&direct, alignment) {
            let errno = error.raw_os_error().unwrap_or(libc::EINVAL);
            return Self::buffered_because(file, Refusal::FirstRead(errno));
        }
        Ok(Self { file: direct, mode: ReadMode::Direct, alignment })
    }

    /// The same file as an open one, read through the page cache.
    ///
    /// # Errors
    /// `File` where the descriptor cannot be duplicated.
    pub fn buffered(file: &File) -> Result<Self, Error> {
        Self::buffered_because(file, Refusal::Asked)
    }

    fn buffered_because(file: &File, why: Refusal) -> Result<Self, Error> {
        let copy = file.try_clone().map_err(|source| Error::File {
            call: "fcntl(F_DUPFD_CLOEXEC)",
            file: file_name(file.as_fd()),
            source,
        })?;
        Ok(Self { file: copy, mode: ReadMode::Buffered(why), alignment: ALIGNMENT_FALLBACK })
    }

    /// Whether reads are direct, and if not, why.
    #[must_use]
    pub fn mode(&self) -> ReadMode {
        self.mode
    }

    /// What file offsets, lengths and buffers of reads are multiples of: a power of two, 4096 or less
    /// on every usual disk.
    #[must_use]
    pub fn alignment(&self) -> usize {
        self.alignment
    }

    /// The aligned range that a read of `[offset, offset + length)` transfers. A slot must be
    /// `length` of it long; the first wanted byte lies at `head` of the slot.
    ///
    /// # Errors
    /// `ZeroLength`, `TooLong`.
    pub fn aligned_span(&self, offset: u64, length: usize) -> Result<AlignedSpan, Error> {
        AlignedSpan::covering(offset, length, self.alignment)
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Device, inode, length and time of change as they are now.
    ///
    /// # Errors
    /// `File` where `fstat` fails.
    pub fn identity(&self) -> Result<FileIdentity, Error> {
        FileIdentity::of(&self.file)
    }

    /// A range of this file, for an error.
    pub(crate) fn place(&self, offset: u64, length: u64) -> Place {
        Place::of_file(self.file.as_fd(), offset, length)
    }

    /// Drops what a buffered read left in the page cache. Only advice: a failure changes nothing.
    pub(crate) fn drop_behind(&self, span: &AlignedSpan) {
        if self.mode != ReadMode::Direct {
            let (offset, length) = (span.offset, span.length as u64);
            let _ = sys::fadvise(self.file.as_fd(), offset, length, libc::POSIX_FADV_DONTNEED);
        }
    }
}

/// Opens the inode of `file` again with `O_DIRECT`. Setting the flag with `fcntl` would change the
/// original too, which is mapped and must keep its page cache.
fn reopen_direct(file: &File) -> io::Result<File> {
    let path = format!("/proc/self/fd/{}\0", file.as_raw_fd());
    let path = CStr::from_bytes_with_nul(path.as_bytes())
        .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let flags = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_DIRECT;
    // SAFETY: `path` is a C string that outlives the call.
    let fd = sys::check(unsafe { libc::open(path.as_ptr(), flags) })?;
    // SAFETY: open has just returned this descriptor and nobody else has it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// What `statx` says about direct reads of this file: the larger of offset and memory alignment;
/// `None` where it says there are none.
fn direct_alignment(file: &File) -> Option<usize> {
    // SAFETY: statx is plain integers, for which zero is a value.
    let mut found: libc::statx = unsafe { std::mem::zeroed() };
    let empty = c"";
    // SAFETY: the descriptor is open, the path is a C string, `found` is a statx to write to.
    let result = unsafe {
        libc::statx(
            file.as_raw_fd(),
            empty.as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_DIOALIGN,
            &raw mut found,
        )
    };
    if result != 0 || found.stx_mask & libc::STATX_DIOALIGN == 0 {
        return Some(ALIGNMENT_FALLBACK);
    }
    let wanted = found.stx_dio_offset_align.max(found.stx_dio_mem_align) as usize;
    (wanted.is_power_of_two() && found.stx_dio_offset_align > 0).then_some(wanted)
}

/// Reads one block: some file systems take `O_DIRECT` and refuse the reads.
fn first_read(file: &File, alignment: usize) -> io::Result<()> {
    let mut buffer = vec![0u8; alignment * 2];
    let start = buffer.as_ptr().align_offset(alignment);
    let block = buffer
        .get_mut(start..start + alignment)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))?;
    for _ in 0..sys::AGAIN_MAX {
        // SAFETY: `block` is exclusively ours and `alignment` bytes long.
        match unsafe { sys::pread(file.as_fd(), block.as_mut_ptr(), alignment, 0) } {
            Ok(_) => return Ok(()),
            Err(error) if sys::is_transient(&error) => {}
            // A bad disk is for the real reads to report; only a refusal counts here.
            Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
