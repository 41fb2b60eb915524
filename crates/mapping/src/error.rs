//! The one error type of this crate. Every variant says what failed, where (file and byte range, or
//! the path under `/proc` or `/sys`), and why.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::PathBuf;
use std::time::Duration;

use crate::identity::Change;

/// A byte range of a file (or of anonymous memory) as errors name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Path of the file as the kernel knows it, or `anonymous memory`.
    pub file: Box<str>,
    /// First byte of the range in the file, or in the mapping where there is no file.
    pub offset: u64,
    /// Bytes in the range.
    pub length: u64,
}

impl Place {
    /// A range of `file`; the path is asked of the kernel, so that it is right after a rename.
    #[must_use]
    pub fn of_file(file: BorrowedFd<'_>, offset: u64, length: u64) -> Self {
        Self { file: file_name(file), offset, length }
    }

    /// A range of memory that no file backs.
    #[must_use]
    pub fn anonymous(offset: u64, length: u64) -> Self {
        Self { file: "anonymous memory".into(), offset, length }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.offset.saturating_add(self.length);
        write!(f, "bytes {}..{end} of {}", self.offset, self.file)
    }
}

/// The path behind a descriptor, for messages only: `/proc` may be missing, so this never fails.
pub(crate) fn file_name(file: BorrowedFd<'_>) -> Box<str> {
    let fd = file.as_raw_fd();
    match std::fs::read_link(format!("/proc/self/fd/{fd}")) {
        Ok(path) => path.to_string_lossy().into(),
        Err(_) => format!("file descriptor {fd}").into(),
    }
}

/// What went wrong, where and why.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // --- opening a file -------------------------------------------------------------------------
    /// The path names something that is not a regular file, or a regular file of a pseudo file system.
    #[error("{path} is {found}; a model must be a regular file on a disk")]
    NotRegularFile {
        /// The path as it was given.
        path: PathBuf,
        /// What it is instead, with its article: `a directory`, `a FIFO`.
        found: &'static str,
    },
    /// The file has no bytes.
    #[error("{path} is empty (0 bytes)")]
    EmptyFile {
        /// The path as it was given.
        path: PathBuf,
    },
    /// The path cannot be opened.
    #[error("cannot open {path}: {why}")]
    Open {
        /// The path as it was given.
        path: PathBuf,
        /// The cause in plain words.
        why: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A system call on an open file failed.
    #[error("{call} failed on {file}: {source}")]
    File {
        /// The system call.
        call: &'static str,
        /// The file.
        file: Box<str>,
        /// What the kernel said.
        source: io::Error,
    },

    // --- making a mapping -----------------------------------------------------------------------
    /// A mapping, a range or a read of no bytes was asked for.
    #[error("{what} has length 0; at least one byte is needed")]
    ZeroLength {
        /// What was to be made.
        what: &'static str,
    },
    /// A file can only be mapped from a page boundary on.
    #[error("cannot map {place}: the offset is not a multiple of the page size ({page_bytes})")]
    UnalignedOffset {
        /// What was to be mapped.
        place: Place,
        /// The page size of this machine.
        page_bytes: usize,
    },
    /// The range reaches past the end of the file.
    #[error("cannot map {place}: the file ends at byte {file_bytes}")]
    PastEndOfFile {
        /// What was to be mapped.
        place: Place,
        /// Length of the file.
        file_bytes: u64,
    },
    /// An address that must be a page boundary is not one.
    #[error("address {address:#x} is not a multiple of the page size ({page_bytes})")]
    UnalignedAddress {
        /// The address asked for.
        address: usize,
        /// The page size of this machine.
        page_bytes: usize,
    },
    /// `Address::Exactly` names addresses that are in use.
    #[error("cannot map {length} bytes at {address:#x}: something is mapped there already")]
    AddressTaken {
        /// The address asked for.
        address: usize,
        /// The length asked for.
        length: usize,
    },
    /// A length does not fit the address space.
    #[error("{length} bytes of {what} do not fit the address space")]
    TooLong {
        /// What was to be made.
        what: &'static str,
        /// The length asked for.
        length: u64,
    },
    /// `mmap` refused.
    #[error("mmap refused {place}: {source}")]
    Map {
        /// What was to be mapped.
        place: Place,
        /// What the kernel said.
        source: io::Error,
    },

    // --- using a mapping ------------------------------------------------------------------------
    /// A range does not lie in the mapping.
    #[error("bytes {start}..{end} lie outside the mapping of {mapped} bytes ({file})")]
    OutsideMapping {
        /// First byte asked for, relative to the mapping.
        start: usize,
        /// End of what was asked for.
        end: usize,
        /// Length of the mapping.
        mapped: usize,
        /// The mapped file.
        file: Box<str>,
    },
    /// The mapping's protection or sharing does not allow the operation.
    #[error("{operation} is not possible on {place}: {why}")]
    NotAllowed {
        /// What was asked for.
        operation: &'static str,
        /// The mapping.
        place: Place,
        /// Which property stands in the way.
        why: &'static str,
    },
    /// `madvise` (or `mprotect`, `posix_fadvise`) refused.
    #[error("{call} refused {place}: {source}")]
    Advise {
        /// The call with its argument.
        call: &'static str,
        /// The range.
        place: Place,
        /// What the kernel said.
        source: io::Error,
    },
    /// Locking pages in memory was refused.
    #[error(
        "mlock refused {place}: {source} (RLIMIT_MEMLOCK is {limit}, {locked_bytes} bytes are locked already)"
    )]
    Lock {
        /// The range.
        place: Place,
        /// The limit of locked memory.
        limit: LockLimit,
        /// What this process has locked (`VmLck`).
        locked_bytes: u64,
        /// What the kernel said.
        source: io::Error,
    },

    // --- the file under the mapping fails -------------------------------------------------------
    /// Pages could not be brought in: the disk or the file system failed.
    #[error("model fault: cannot read {place}: {source}")]
    Unreadable {
        /// The range that could not be read, as narrow as is known.
        place: Place,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file became shorter than what was mapped or is to be read.
    #[error("model fault: cannot read {place}: the file now ends at byte {file_bytes}")]
    Truncated {
        /// What was to be read.
        place: Place,
        /// Length of the file now.
        file_bytes: u64,
    },
    /// The file is no longer what it was when it was opened.
    #[error("model fault: {file} changed while in use: {change}")]
    Changed {
        /// The file.
        file: Box<str>,
        /// What is different.
        change: Change,
    },
    /// A touch of the mapping raised SIGBUS; zero bytes stand in for the file there now.
    #[error("model fault: the pages at byte {offset} of {file} could not be read when touched")]
    Poisoned {
        /// The file.
        file: Box<str>,
        /// File offset of the first page that failed.
        offset: u64,
    },
    /// A read did not come back in time.
    #[error("model fault: reading {place} has not returned for {waited:.0?}")]
    Hung {
        /// The oldest outstanding read.
        place: Place,
        /// How long it has been outstanding.
        waited: Duration,
    },

    // --- the read queue -------------------------------------------------------------------------
    /// The slot is too small for the covering aligned range.
    #[error("{place} needs a slot of {needed} bytes, the slot has {slot}")]
    SlotTooSmall {
        /// What was to be read.
        place: Place,
        /// Length of the covering aligned range.
        needed: usize,
        /// Length of the slot.
        slot: usize,
    },
    /// The start of the slot is not aligned as direct reads need it.
    #[error("a slot that starts at byte {start} of its arena is not aligned to {alignment}")]
    UnalignedSlot {
        /// Offset of the slot in its arena.
        start: usize,
        /// What the file needs.
        alignment: usize,
    },
    /// More requests than the queue was made for.
    #[error("the read queue is full ({capacity} requests); take a completion first")]
    QueueFull {
        /// Requests the queue was made for.
        capacity: usize,
    },
    /// A guess was withdrawn before it was started. No place: it is part of reading, and takes no memory.
    #[error("a read was cancelled before it began")]
    Cancelled,
    /// The file index is not one of the queue's files.
    #[error("the read queue has {files} files, there is no file {index}")]
    UnknownFile {
        /// The index asked for.
        index: usize,
        /// How many files the queue has.
        files: usize,
    },
    /// io_uring is not to be had here (seccomp, sysctl, an old kernel).
    #[error("io_uring is refused here: {source}; reads by threads work everywhere")]
    UringRefused {
        /// What the kernel said.
        source: io::Error,
    },
    /// A thread of the read pool could not be started.
    #[error("cannot start reader thread {index}: {source}")]
    Thread {
        /// Which of the pool's threads.
        index: usize,
        /// What the system said.
        source: io::Error,
    },
    /// A depth or piece size that makes no queue.
    #[error("a read queue with {what} = {value} makes no sense: {why}")]
    QueueOption {
        /// The option.
        what: &'static str,
        /// Its value.
        value: usize,
        /// What would be right.
        why: &'static str,
    },

    // --- the system -----------------------------------------------------------------------------
    /// A file of `/proc` or `/sys` cannot be read or written.
    #[error("cannot {action} {path}: {source}")]
    System {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A file of `/proc` or `/sys` does not hold what it should.
    #[error("{path} does not hold {expected}")]
    SystemFormat {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        expected: &'static str,
    },
    /// A system call that concerns no file failed.
    #[error("{call} failed: {source}")]
    Call {
        /// The system call.
        call: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file system cannot say where the bytes of a file lie on its disk.
    #[error("the file system of {file} does not report disk extents (FIEMAP): {source}")]
    ExtentsUnsupported {
        /// The file.
        file: Box<str>,
        /// What the kernel said.
        source: io::Error,
    },
    /// A range wraps around the end of a 64-bit address.
    #[error("{length} bytes from {start:#x} on reach past the end of a 64-bit address space")]
    AddressOverflow {
        /// First address.
        start: u64,
        /// Bytes.
        length: u64,
    },
}

impl Error {
    /// Whether the model's file, not the caller, is at fault: truncated, overwritten, unreadable, hung.
    /// Servers answer these with `model_fault`.
    #[must_use]
    pub fn is_model_fault(&self) -> bool {
        matches!(
            self,
            Self::Unreadable { .. }
                | Self::Truncated { .. }
                | Self::Changed { .. }
                | Self::Poisoned { .. }
                | Self::Hung { .. }
        )
    }

    /// `Error::Call` with the last error of this thread.
    pub(crate) fn last_call(call: &'static str) -> Self {
        Self::Call { call, source: io::Error::last_os_error() }
    }

    /// `Error::File` with the last error of this thread.
    pub(crate) fn last_file(call: &'static str, file: BorrowedFd<'_>) -> Self {
        // Taken first: asking for the file's name makes system calls of its own.
        let source = io::Error::last_os_error();
        Self::File { call, file: file_name(file), source }
    }
}

/// A limit of locked memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockLimit {
    /// At most so many bytes.
    Bytes(u64),
    /// No limit: then the refusal has another reason.
    Unlimited,
}

impl fmt::Display for LockLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{bytes} bytes"),
            Self::Unlimited => f.write_str("unlimited"),
        }
    }
}
