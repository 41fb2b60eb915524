//! Reads in flight: many at a time, past the page cache, into slots of an arena.
//!
//! ```text
//!  Arena::new(bytes)?.into_slots(slot_bytes)  ->  Vec<Slot>
//!  ReadQueue::new(vec![DirectFile::of(&file)?], QueueOptions::default())?
//!      .submit(ReadRequest { token, file: 0, offset, length, slot, priority })?   // the slot moves in
//!      .wait_complete(timeout)?  -> Some(Completion { token, slot, result })      // and comes back
//!  result: Ok(range)  ->  &completion.slot.as_slice()[range] are the bytes asked for
//! ```
//!
//! - **Any range may be asked for.** Direct reads must be aligned; the queue reads the aligned range
//!   that covers `[offset, offset + length)`, and the completion's range says where the wanted bytes
//!   lie in the slot. The slot must be as long as [`crate::DirectFile::aligned_span`]`(offset, length)?.length`
//!   (at most two blocks longer than `length`), and start at a multiple of
//!   [`crate::DirectFile::alignment`] in its arena.
//! - **Two engines, one behaviour**: io_uring, and a pool of threads that `pread`. `Backend::Auto` takes
//!   io_uring and falls back where it is refused (the seccomp profile of common containers);
//!   [`ReadQueue::backend`] says which.
//! - **Pieces**: a request longer than `piece_bytes` is read as several pieces, so that one large tile
//!   fills the depth of an NVMe drive. At most `depth` pieces are with the kernel at a time.
//! - **Order**: demands before what is read ahead, and guesses only while nothing else is with the kernel; else
//!   first come, first served. Completions come in the order in which the disk delivers.
//! - **Errors** are per request: `Unreadable` (the disk), `Truncated` (bytes asked for lie past the end of
//!   the file). EINTR, EAGAIN and short reads are dealt with inside. A failed request's slot comes back
//!   too, its content undefined.
//! - **Deadlines**: [`ReadQueue::wait_complete`] gives `Error::Hung` after its timeout, naming the
//!   oldest read. The read goes on; its slot stays inside until it returns. Dropping the queue waits
//!   [`SHUTDOWN_TIMEOUT`] for reads in flight, then leaks their slots: memory that a disk may still
//!   write to is never given back.
//! - **No allocation per read**: all tables are sized by `max_requests` and `depth` when the queue is made.

mod engine;
mod front;
mod pending;
mod threads;
mod uring;

use std::fmt;
use std::ops::Range;
use std::time::Duration;

pub use front::ReadQueue;

use crate::{Error, Slot};

/// How long a dropped queue waits for reads in flight.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Which engine reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// io_uring where it is to be had, else threads.
    #[default]
    Auto,
    /// io_uring or an error.
    IoUring,
    /// A pool of `depth` threads that call `pread`.
    Threads,
}

/// Sizes of a [`ReadQueue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueOptions {
    /// Which engine reads.
    pub backend: Backend,
    /// Pieces that are with the kernel at a time: 1 to 1024 (threads: 1 to 64).
    pub depth: usize,
    /// Longest single read in bytes: a multiple of 4096, at most 1 GiB.
    pub piece_bytes: usize,
    /// Requests that may be inside the queue (waiting, in flight or complete but not taken): 1 to 65536.
    pub max_requests: usize,
}

impl Default for QueueOptions {
    /// Depth 8 in pieces of 4 MiB: the best of what `examples/read_speed.rs` tries on a virtual disk (both
    /// engines, 2.1 to 2.6 GB/s; depth 1 gave 1.7), and enough for an NVMe drive, to which the block layer
    /// passes them in parts of 128 KiB to 1 MiB anyway.
    fn default() -> Self {
        Self { backend: Backend::Auto, depth: 8, piece_bytes: 4 << 20, max_requests: 256 }
    }
}

/// Which reads go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Priority {
    /// Someone waits for it, or will shortly.
    #[default]
    Demand,
    /// Needed for certain, but later: started only while no demand is waiting.
    Ahead,
    /// Perhaps needed: started only while the disk has nothing else to do, and a few pieces at a time. (Started
    /// behind the last demand instead, guesses took half of the disk from those who waited for it.)
    Guess,
}

/// One read.
#[derive(Debug)]
pub struct ReadRequest {
    /// Comes back with the completion; any value, the queue does not look at it.
    pub token: u64,
    /// Index into the files the queue was made with.
    pub file: usize,
    /// First byte wanted, any file offset.
    pub offset: u64,
    /// Bytes wanted, at least 1.
    pub length: usize,
    /// Where they go.
    pub slot: Slot,
    /// Which reads it goes before.
    pub priority: Priority,
}

/// One read, done or failed.
#[derive(Debug)]
pub struct Completion {
    /// The request's token.
    pub token: u64,
    /// The request's slot.
    pub slot: Slot,
    /// Where in the slot the wanted bytes are.
    pub result: Result<Range<usize>, Error>,
}

impl Completion {
    /// The bytes asked for; `None` where the read failed.
    #[must_use]
    pub fn bytes(&self) -> Option<&[u8]> {
        self.slot.as_slice().get(self.result.as_ref().ok()?.clone())
    }
}

/// A request that was not taken, with its slot.
#[derive(Debug)]
pub struct Rejected {
    /// The slot that came with the request.
    pub slot: Slot,
    /// Why: `QueueFull`, `SlotTooSmall`, `UnalignedSlot`, `UnknownFile`, `ZeroLength`, `TooLong`.
    pub error: Error,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Rejected {}

impl From<Rejected> for Error {
    fn from(rejected: Rejected) -> Self {
        rejected.error
    }
}

/// What a queue has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueStats {
    /// Requests that came back, failed ones included.
    pub completed: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Bytes callers asked for and got.
    pub wanted_bytes: u64,
    /// Bytes the kernel delivered: more, by what alignment adds.
    pub read_bytes: u64,
    /// Pieces that were read again (EINTR, EAGAIN, short reads).
    pub again: u64,
}
