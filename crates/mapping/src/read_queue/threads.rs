//! The engine that works everywhere: as many threads as the queue is deep, each in a `pread`.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use super::engine::{Done, Piece};
use crate::error::file_name;
use crate::{DirectFile, Error, sys};

/// The threads only make system calls.
const STACK_BYTES: usize = 64 << 10;

/// A pool of reader threads.
pub(super) struct Threads {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    in_flight: usize,
}

struct Shared {
    state: Mutex<State>,
    /// Work has come, or the end.
    work: Condvar,
    /// A piece is done.
    done: Condvar,
    /// Duplicates of the queue's files: a thread that hangs in a read may outlive the queue.
    files: Vec<OwnedFd>,
}

struct State {
    todo: VecDeque<Piece>,
    done: VecDeque<Done>,
    closed: bool,
}

impl Shared {
    /// No thread panics while it holds the lock (it only moves plain values), so poison means nothing.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Threads {
    /// More reads at a time than this are no use by threads.
    pub(super) const MAX: usize = 64;

    pub(super) fn new(files: &[DirectFile], depth: usize) -> Result<Self, Error> {
        let duplicate = |file: &DirectFile| {
            let fd = file.file().as_fd();
            fd.try_clone_to_owned().map_err(|source| Error::File {
                call: "fcntl(F_DUPFD_CLOEXEC)",
                file: file_name(fd),
                source,
            })
        };
        let state = State {
            todo: VecDeque::with_capacity(depth),
            done: VecDeque::with_capacity(depth),
            closed: false,
        };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            work: Condvar::new(),
            done: Condvar::new(),
            files: files.iter().map(duplicate).collect::<Result<_, _>>()?,
        });
        let mut pool = Self { shared, workers: Vec::with_capacity(depth), in_flight: 0 };
        for index in 0..depth {
            let shared = Arc::clone(&pool.shared);
            let worker = Builder::new()
                .name(format!("lowtide-read-{index}"))
                .stack_size(STACK_BYTES)
                .spawn(move || work(&shared))
                .map_err(|source| Error::Thread { index, source })?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    pub(super) fn start(&mut self, piece: Piece) {
        self.shared.lock().todo.push_back(piece);
        self.shared.work.notify_one();
        self.in_flight += 1;
    }

    pub(super) fn poll(&mut self) -> Option<Done> {
        let done = self.shared.lock().done.pop_front()?;
        self.in_flight -= 1;
        Some(done)
    }

    /// Waits until a piece is done or the time is over.
    pub(super) fn wait(&mut self, timeout: Duration) {
        let state = self.shared.lock();
        let nothing = |state: &mut State| state.done.is_empty();
        drop(self.shared.done.wait_timeout_while(state, timeout, nothing));
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work.notify_all();
        // With reads in flight a thread may hang for ever: then it is left to itself. It holds its own
        // descriptors, and the front keeps the slots mapped.
        if self.in_flight == 0 {
            self.workers.drain(..).for_each(|worker| drop(worker.join()));
        }
    }
}

/// What each thread does.
fn work(shared: &Shared) {
    loop {
        let idle = |state: &mut State| state.todo.is_empty() && !state.closed;
        let state = shared.lock();
        let mut state = shared.work.wait_while(state, idle).unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return;
        }
        let Some(piece) = state.todo.pop_front() else { continue };
        drop(state);
        let result = match shared.files.get(piece.file as usize) {
            // SAFETY: the front owns the slot under `into` until it has seen this piece's end.
            Some(file) => unsafe {
                sys::pread(file.as_fd(), piece.into, piece.length, piece.offset)
            },
            None => Err(std::io::Error::from_raw_os_error(libc::EBADF)),
        };
        shared.lock().done.push_back(Done { piece, result });
        shared.done.notify_one();
    }
}
