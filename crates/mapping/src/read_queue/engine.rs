//! What reads: the interface that both engines have.

use std::io;
use std::time::Duration;

use super::threads::Threads;
use super::uring::Uring;
use super::{Backend, QueueOptions};
use crate::{DirectFile, Error};

/// One read that an engine makes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    /// Index of the request in the front's table.
    pub(super) request: u32,
    /// Index of the file.
    pub(super) file: u32,
    /// Where in the file; aligned.
    pub(super) offset: u64,
    /// Where in memory; aligned. Valid until the piece is done: the front holds the slot.
    pub(super) into: *mut u8,
    /// Bytes to read; a multiple of the alignment, at most `piece_bytes`.
    pub(super) length: usize,
}

// SAFETY: the pointer goes into a slot that the front owns until every piece of its request is done,
// so a reader thread is the only one who uses it.
unsafe impl Send for Piece {}

/// What became of a piece: bytes read, or the kernel's error.
pub(super) struct Done {
    pub(super) piece: Piece,
    pub(super) result: io::Result<usize>,
}

/// One of the two engines.
pub(super) enum Engine {
    /// Boxed, because the rings' handles are ten times the size of the pool's.
    Uring(Box<Uring>),
    Threads(Threads),
}

impl Engine {
    pub(super) fn new(files: &[DirectFile], options: &QueueOptions) -> Result<Self, Error> {
        match options.backend {
            Backend::IoUring => Uring::new(files, options.depth).map(|u| Self::Uring(Box::new(u))),
            Backend::Threads => Threads::new(files, options.depth).map(Self::Threads),
            Backend::Auto => match Uring::new(files, options.depth) {
                Ok(uring) => Ok(Self::Uring(Box::new(uring))),
                Err(_) => Threads::new(files, options.depth.min(Threads::MAX)).map(Self::Threads),
            },
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        match self {
            Self::Uring(engine) => engine.in_flight(),
            Self::Threads(engine) => engine.in_flight(),
        }
    }

    /// Hands a piece over. Only called while fewer than `depth` are in flight.
    pub(super) fn start(&mut self, piece: Piece) {
        match self {
            Self::Uring(engine) => engine.start(piece),
            Self::Threads(engine) => engine.start(piece),
        }
    }

    /// Lets the kernel know what was handed over since the last flush.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        match self {
            Self::Uring(engine) => engine.flush(),
            Self::Threads(_) => Ok(()),
        }
    }

    pub(super) fn poll(&mut self) -> Option<Done> {
        match self {
            Self::Uring(engine) => engine.poll(),
            Self::Threads(engine) => engine.poll(),
        }
    }

    /// Returns when a piece is done, or after `timeout`, or earlier for no reason.
    pub(super) fn wait(&mut self, timeout: Duration) -> Result<(), Error> {
        match self {
            Self::Uring(engine) => engine.wait(timeout),
            Self::Threads(engine) => {
                engine.wait(timeout);
                Ok(())
            }
        }
    }
}
