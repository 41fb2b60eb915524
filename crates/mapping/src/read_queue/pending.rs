//! A request on its way, and what the end of one of its pieces means for it.

use std::io;
use std::time::Instant;

use super::engine::{Done, Piece};
use super::{Priority, QueueStats};
use crate::page::{AlignedSpan, align_down};
use crate::{DirectFile, Error, Slot, sys};

/// Times that the pieces of one request may be read again before the disk is taken at its word.
const AGAIN_MAX: u32 = 256;

/// A request on its way.
pub(super) struct Pending {
    pub(super) token: u64,
    pub(super) file: usize,
    pub(super) offset: u64,
    pub(super) length: usize,
    pub(super) span: AlignedSpan,
    pub(super) slot: Slot,
    pub(super) priority: Priority,
    /// When its first piece went to the engine.
    pub(super) started: Option<Instant>,
    /// Bytes of the span that have been cut into pieces.
    pub(super) cut: usize,
    /// Pieces that are with the engine or wait to be read again.
    pub(super) outstanding: usize,
    /// Pieces read again so far.
    pub(super) again: u32,
    pub(super) failure: Option<Error>,
}

impl Pending {
    /// File offset behind the last byte that is wanted.
    fn wanted_end(&self) -> u64 {
        // No overflow: AlignedSpan::covering has added these two.
        self.offset + self.length as u64
    }
}

/// What is to happen after a piece.
pub(super) enum Verdict {
    /// Nothing: its bytes are there.
    Done,
    /// The rest of it must be read.
    Again(Piece),
    /// The request has failed.
    Failed(Error),
}

/// Decides what the result of a piece means.
pub(super) fn judge(
    file: &DirectFile,
    pending: &Pending,
    done: &Done,
    stats: &mut QueueStats,
) -> Verdict {
    let piece = done.piece;
    let read = match &done.result {
        Ok(read) => *read,
        // ECANCELED: the thread that had submitted the read is gone; nothing is wrong with the disk.
        Err(error) if sys::is_transient(error) || is_cancelled(error) => 0,
        Err(error) => {
            let place = file.place(piece.offset, piece.length as u64);
            let source = error
                .raw_os_error()
                .map_or_else(|| io::Error::other(error.to_string()), io::Error::from_raw_os_error);
            return Verdict::Failed(Error::Unreadable { place, source });
        }
    };
    stats.read_bytes += read as u64;
    let end = piece.offset + read as u64;
    let piece_end = piece.offset + piece.length as u64;
    if end >= pending.wanted_end().min(piece_end) {
        return Verdict::Done;
    }
    // A short read: the end of the file, or an interruption.
    if done.result.is_ok() {
        match file.identity() {
            Ok(now) if now.size < pending.wanted_end() => {
                let place = file.place(pending.offset, pending.length as u64);
                return Verdict::Failed(Error::Truncated { place, file_bytes: now.size });
            }
            Ok(_) => {}
            Err(error) => return Verdict::Failed(error),
        }
    }
    if pending.again >= AGAIN_MAX {
        let place = file.place(piece.offset, piece.length as u64);
        let source = io::Error::from(io::ErrorKind::UnexpectedEof);
        return Verdict::Failed(Error::Unreadable { place, source });
    }
    // The rest, from an aligned offset on; a block that came only in part is read again.
    let whole = align_down(read, file.alignment());
    // SAFETY: whole <= read <= piece.length, so this stays inside the slot.
    let into = unsafe { piece.into.add(whole) };
    let offset = piece.offset + whole as u64;
    Verdict::Again(Piece { offset, into, length: piece.length - whole, ..piece })
}

fn is_cancelled(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECANCELED)
}
