//! The part of the queue that both engines share: requests become pieces, results of pieces become
//! completions.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use super::engine::{Done, Engine, Piece};
use super::pending::{Pending, Verdict, judge};
use super::threads::Threads;
use super::uring::Uring;
use super::{
    Backend, Completion, Priority, QueueOptions, QueueStats, ReadRequest, Rejected,
    SHUTDOWN_TIMEOUT,
};
use crate::page::AlignedSpan;
use crate::{Arena, DirectFile, Error, Place};

/// Reads in flight. Belongs to one thread at a time (`Send`, not shared).
pub struct ReadQueue {
    options: QueueOptions,
    files: Vec<DirectFile>,
    engine: Engine,
    pending: Vec<Option<Pending>>,
    free: Vec<u32>,
    demands: VecDeque<u32>,
    aheads: VecDeque<u32>,
    /// All guesses that are not complete, in their order; short, so it is searched.
    guesses: Vec<u32>,
    again: VecDeque<Piece>,
    /// Completions to be taken, each with its index in `pending`, which is free only then.
    ready: VecDeque<(u32, Completion)>,
    stats: QueueStats,
}

impl ReadQueue {
    /// A queue over `files`, which requests name by their index.
    ///
    /// # Errors
    /// `QueueOption` (senseless sizes), `UringRefused` (only where io_uring was asked for), `Thread`,
    /// `File` (a descriptor cannot be duplicated).
    pub fn new(files: Vec<DirectFile>, options: QueueOptions) -> Result<Self, Error> {
        check_options(&options)?;
        let engine = Engine::new(&files, &options)?;
        let requests = options.max_requests;
        Ok(Self {
            options,
            files,
            engine,
            pending: (0..requests).map(|_| None).collect(),
            // Lowest index last, so that it is taken first. At most 65536 by check_options.
            free: (0..requests as u32).rev().collect(),
            demands: VecDeque::with_capacity(requests),
            aheads: VecDeque::with_capacity(requests),
            guesses: Vec::with_capacity(requests),
            again: VecDeque::with_capacity(options.depth),
            ready: VecDeque::with_capacity(requests),
            stats: QueueStats::default(),
        })
    }

    /// The engine that reads: `IoUring` or `Threads`.
    #[must_use]
    pub fn backend(&self) -> Backend {
        match self.engine {
            Engine::Uring(_) => Backend::IoUring,
            Engine::Threads(_) => Backend::Threads,
        }
    }

    /// The files, in the order in which requests name them.
    #[must_use]
    pub fn files(&self) -> &[DirectFile] {
        &self.files
    }

    /// Requests inside: waiting, in flight, or complete and not yet taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.options.max_requests - self.free.len()
    }

    /// Whether no request is inside.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Pieces that are with the kernel, or done and not yet looked at.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.engine.in_flight()
    }

    /// What was done so far.
    #[must_use]
    pub fn stats(&self) -> QueueStats {
        self.stats
    }

    /// Registers arenas with io_uring, which saves the kernel from looking up their pages at each read.
    /// Best effort, once per queue: false where the engine is the threads, or where the limit of locked
    /// memory stands in the way. Reads are the same either way.
    pub fn register(&mut self, arenas: &[&Arena]) -> bool {
        match &mut self.engine {
            Engine::Uring(engine) => engine.register(arenas),
            Engine::Threads(_) => false,
        }
    }

    /// Takes a request. It starts as soon as the depth allows, at the latest with the next look at the queue
    /// ([`ReadQueue::try_complete`], [`ReadQueue::wait_complete`]): io_uring takes all that came between two looks
    /// by one call. Does not wait for the disk.
    ///
    /// # Errors
    /// [`Rejected`] with the slot and `QueueFull`, `UnknownFile`, `ZeroLength`, `TooLong`,
    /// `SlotTooSmall` or `UnalignedSlot`.
    #[allow(clippy::result_large_err, reason = "the slot must come back")]
    pub fn submit(&mut self, request: ReadRequest) -> Result<(), Rejected> {
        let span = match self.check(&request) {
            Ok(span) => span,
            Err(error) => return Err(Rejected { slot: request.slot, error }),
        };
        let Some(index) = self.free.pop() else {
            let error = Error::QueueFull { capacity: self.options.max_requests };
            return Err(Rejected { slot: request.slot, error });
        };
        let ReadRequest { token, file, offset, length, slot, priority } = request;
        let pending = Pending {
            token,
            file,
            offset,
            length,
            span,
            slot,
            priority,
            started: None,
            cut: 0,
            outstanding: 0,
            again: 0,
            failure: None,
        };
        self.pending[index as usize] = Some(pending);
        match priority {
            Priority::Demand => self.demands.push_back(index),
            Priority::Ahead => self.aheads.push_back(index),
            Priority::Guess => self.guesses.push(index),
        }
        self.pump();
        Ok(())
    }

    fn check(&self, request: &ReadRequest) -> Result<AlignedSpan, Error> {
        let index = request.file;
        let Some(file) = self.files.get(index) else {
            return Err(Error::UnknownFile { index, files: self.files.len() });
        };
        let span = file.aligned_span(request.offset, request.length)?;
        let slot = request.slot.len();
        if slot < span.length {
            let place = file.place(request.offset, request.length as u64);
            return Err(Error::SlotTooSmall { place, needed: span.length, slot });
        }
        let (start, alignment) = (request.slot.start(), file.alignment());
        if !start.is_multiple_of(alignment) {
            return Err(Error::UnalignedSlot { start, alignment });
        }
        Ok(span)
    }

    /// The next completion that is there already; keeps the disk busy. Never waits.
    ///
    /// # Errors
    /// `Call` where the kernel refuses io_uring's system call itself.
    pub fn try_complete(&mut self) -> Result<Option<Completion>, Error> {
        while let Some(done) = self.engine.poll() {
            self.settle_piece(done);
        }
        self.pump();
        self.engine.flush()?;
        let Some((index, completion)) = self.ready.pop_front() else { return Ok(None) };
        self.free.push(index);
        Ok(Some(completion))
    }

    /// The next completion, waiting for the disk if need be; `None` where nothing is inside.
    ///
    /// # Errors
    /// `Hung` when `timeout` has passed (the reads go on, and a later call may find them complete); `Call`.
    pub fn wait_complete(&mut self, timeout: Duration) -> Result<Option<Completion>, Error> {
        let begin = Instant::now();
        loop {
            if let Some(completion) = self.try_complete()? {
                return Ok(Some(completion));
            }
            if self.is_empty() {
                return Ok(None);
            }
            let left = timeout.saturating_sub(begin.elapsed());
            if left.is_zero() {
                return Err(self.hung(begin));
            }
            self.engine.wait(left)?;
        }
    }

    /// Whether a guess that is submitted now begins at once: nothing else is with the kernel or waits for it, and no more
    /// than a few pieces of other guesses.
    #[must_use]
    pub fn takes_guess(&self) -> bool {
        let nothing_else =
            self.again.is_empty() && self.demands.is_empty() && self.aheads.is_empty();
        let waits = self.guesses.iter().any(|index| self.has_pieces_left(*index));
        nothing_else && !waits && self.has_room_for_guesses()
    }

    /// Whether guesses may go to the kernel, as far as what is with it already is concerned.
    fn has_room_for_guesses(&self) -> bool {
        let guesses =
            self.guesses.iter().filter_map(|index| self.pending[*index as usize].as_ref());
        // What must be read again goes first, so all that is outstanding is with the engine.
        let pieces: usize = guesses.map(|guess| guess.outstanding).sum();
        self.engine.in_flight() <= pieces && pieces < GUESS_PIECES_MAX
    }

    /// Makes a demand of a guess, of which some may have been read; `token` is its request's. False where no
    /// such guess is inside.
    pub fn promote_guess(&mut self, token: u64) -> bool {
        let is_it = |index: &u32| {
            self.pending[*index as usize].as_ref().is_some_and(|pending| pending.token == token)
        };
        let Some(at) = self.guesses.iter().position(is_it) else { return false };
        let index = self.guesses.remove(at);
        let Some(pending) = self.pending[index as usize].as_mut() else { return false };
        pending.priority = Priority::Demand;
        if pending.cut < pending.span.length {
            self.demands.push_back(index);
        }
        true
    }

    /// Withdraws the guesses that have not been started; their slots come back as completions with
    /// `Error::Cancelled`. Returns how many there were.
    pub fn cancel_guesses(&mut self) -> usize {
        let before = self.guesses.len();
        let mut i = 0;
        while let Some(&index) = self.guesses.get(i) {
            match self.pending[index as usize].as_mut().filter(|pending| pending.cut == 0) {
                Some(pending) => {
                    pending.failure = Some(Error::Cancelled);
                    self.finish(index);
                }
                None => i += 1,
            }
        }
        before - self.guesses.len()
    }

    /// Gives the engine pieces until its depth is reached: first what must be read again, then demands, then
    /// what is read ahead, then guesses, as far as they may.
    fn pump(&mut self) {
        while self.engine.in_flight() < self.options.depth {
            let Some(piece) = self.again.pop_front().or_else(|| self.cut_piece()) else { break };
            self.engine.start(piece);
        }
    }

    /// The request whose piece goes next.
    fn next_request(&self) -> Option<u32> {
        if let Some(&certain) = self.demands.front().or_else(|| self.aheads.front()) {
            return Some(certain);
        }
        if !self.has_room_for_guesses() {
            return None;
        }
        self.guesses.iter().copied().find(|index| self.has_pieces_left(*index))
    }

    fn has_pieces_left(&self, index: u32) -> bool {
        let pending = self.pending[index as usize].as_ref();
        pending.is_some_and(|pending| pending.cut < pending.span.length)
    }

    /// The next piece of the first waiting request.
    fn cut_piece(&mut self) -> Option<Piece> {
        let index = self.next_request()?;
        let pending = self.pending[index as usize].as_mut()?;
        let length = (pending.span.length - pending.cut).min(self.options.piece_bytes);
        // SAFETY: submit checked that the slot is at least span.length long, and cut < span.length.
        let into = unsafe { pending.slot.pointer().add(pending.cut) };
        let offset = pending.span.offset + pending.cut as u64;
        pending.cut += length;
        pending.outstanding += 1;
        pending.started.get_or_insert_with(Instant::now);
        // At most 65536 files fit a process's descriptors; check_options bounds the requests.
        let piece = Piece { request: index, file: pending.file as u32, offset, into, length };
        if pending.cut == pending.span.length {
            self.leave_waiting(index);
        }
        Some(piece)
    }

    /// A request has no more pieces to be cut: it leaves those that wait.
    fn leave_waiting(&mut self, index: u32) {
        match self.pending[index as usize].as_ref().map(|pending| pending.priority) {
            Some(Priority::Demand) => self.demands.retain(|&waiting| waiting != index),
            Some(Priority::Ahead) => self.aheads.retain(|&waiting| waiting != index),
            // Guesses stay in their list until they are complete.
            Some(Priority::Guess) | None => {}
        }
    }

    /// Takes note of one piece's end, and of its request's where it was the last.
    fn settle_piece(&mut self, done: Done) {
        let index = done.piece.request;
        let Some(pending) = self.pending[index as usize].as_mut() else { return };
        pending.outstanding -= 1;
        if pending.failure.is_none() {
            match judge(&self.files[pending.file], pending, &done, &mut self.stats) {
                Verdict::Done => {}
                Verdict::Again(piece) => {
                    pending.again += 1;
                    pending.outstanding += 1;
                    self.stats.again += 1;
                    self.again.push_back(piece);
                }
                Verdict::Failed(error) => pending.failure = Some(error),
            }
        }
        let failed = pending.failure.is_some();
        if failed {
            let before = self.again.len();
            self.again.retain(|piece| piece.request != index);
            pending.outstanding -= before - self.again.len();
        }
        let is_over = pending.outstanding == 0 && (failed || pending.cut == pending.span.length);
        if failed && pending.cut < pending.span.length {
            // No more pieces of it.
            pending.cut = pending.span.length;
            self.leave_waiting(index);
        }
        if is_over {
            self.finish(index);
        }
    }

    /// Turns a request into its completion.
    fn finish(&mut self, index: u32) {
        let Some(pending) = self.pending[index as usize].take() else { return };
        if pending.priority == Priority::Guess {
            self.guesses.retain(|&guess| guess != index);
        }
        self.files[pending.file].drop_behind(&pending.span);
        self.stats.completed += 1;
        let result = match pending.failure {
            Some(error) => {
                self.stats.failed += 1;
                Err(error)
            }
            None => {
                self.stats.wanted_bytes += pending.length as u64;
                Ok(pending.span.data(pending.length))
            }
        };
        let Pending { token, slot, .. } = pending;
        self.ready.push_back((index, Completion { token, slot, result }));
    }

    /// The error for a wait that took too long: the oldest read that was started.
    fn hung(&self, begin: Instant) -> Error {
        let started = |pending: &&Pending| pending.started.unwrap_or(begin);
        match self.pending.iter().flatten().min_by_key(started) {
            Some(oldest) => Error::Hung {
                place: self.files[oldest.file].place(oldest.offset, oldest.length as u64),
                waited: started(&oldest).elapsed(),
            },
            // Everything inside is complete: try_complete would have found it.
            None => Error::Hung { place: Place::anonymous(0, 0), waited: begin.elapsed() },
        }
    }
}

fn check_options(options: &QueueOptions) -> Result<(), Error> {
    let wrong = |what, value, why| Err(Error::QueueOption { what, value, why });
    let depth_max = if options.backend == Backend::Threads { Threads::MAX } else { Uring::MAX };
    if !(1..=depth_max).contains(&options.depth) {
        return wrong("depth", options.depth, "1 to 1024 for io_uring, 1 to 64 for threads");
    }
    let piece = options.piece_bytes;
    if piece == 0 || !piece.is_multiple_of(4096) || piece > PIECE_BYTES_MAX {
        return wrong("piece_bytes", piece, "a multiple of 4096, at most 1 GiB");
    }
    if !(1..=REQUESTS_MAX).contains(&options.max_requests) {
        return wrong("max_requests", options.max_requests, "1 to 65536");
    }
    Ok(())
}

/// The kernel reads at most 0x7fff_f000 bytes a call; a power of two below that.
const PIECE_BYTES_MAX: usize = 1 << 30;
/// Pieces of guesses with the kernel at a time: a demand that comes meanwhile is behind no more than these.
const GUESS_PIECES_MAX: usize = 3;
/// A bound on the tables; a model has some thousand extents.
const REQUESTS_MAX: usize = 1 << 16;

impl Drop for ReadQueue {
    fn drop(&mut self) {
        let begin = Instant::now();
        self.again.clear();
        while self.engine.in_flight() > 0 {
            let left = SHUTDOWN_TIMEOUT.saturating_sub(begin.elapsed());
            if left.is_zero() || self.engine.flush().is_err() || self.engine.wait(left).is_err() {
                break;
            }
            while let Some(done) = self.engine.poll() {
                // Its request is over whatever it said; what counts is that the kernel is through.
                if let Some(pending) = self.pending[done.piece.request as usize].as_mut() {
                    pending.outstanding = pending.outstanding.saturating_sub(1);
                }
            }
        }
        if self.engine.in_flight() > 0 {
            // A read that does not return may still write to its slot, at any time.
            self.pending.iter_mut().filter_map(Option::take).for_each(|p| p.slot.leak());
        }
    }
}

impl fmt::Debug for ReadQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadQueue")
            .field("backend", &self.backend())
            .field("options", &self.options)
            .field("inside", &self.len())
            .field("in_flight", &self.engine.in_flight())
            .field("stats", &self.stats)
            .finish_non_exhaustive()
    }
}
