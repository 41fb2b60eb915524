//! The store: a plan brought to life over files.
//!
//! One thread, the engine's, drives it: [`Store::acquire`] and the release of a [`Tile`] look
//! after the disk on the side. With io_uring no other thread reads (two bring in the memory of a cache of
//! experts); the mapped backend has helpers that mostly sleep in the kernel.

use std::cell::{Cell, OnceCell, RefCell};
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lowtide_mapping::{Backend, DirectFile, Mapping, ModelFile, ReadMode};

use crate::board::Board;
use crate::direct::Filled;
use crate::driver::{Driver, Lane, Wait};
use crate::error::ResidencyError;
use crate::extent::{Extent, ExtentId, SourceId};
use crate::mapped::byte_range;
use crate::plan::{PinnedIn, Placement, Plan, Streaming};
use crate::pressure;
use crate::ring::SlotId;
use crate::rows::{RowReader, copy_rows};
use crate::schedule::Wanted;
use crate::stats::{PassStats, StoreStats};
use crate::touch::Touches;

/// A file of the model, open and mapped from its first byte to its last.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file.
    pub file: Arc<ModelFile>,
    /// Its mapping.
    pub mapping: Arc<Mapping>,
}

/// How a file is best streamed: past the page cache where its file system can do so, which was two
/// to four times as fast as through the mapping wherever it was measured. Also says why not.
///
/// # Errors
/// [`ResidencyError::System`] if the file cannot be opened again.
pub fn streaming_for(file: &ModelFile) -> Result<(Streaming, ReadMode), ResidencyError> {
    let system = |source| ResidencyError::System { what: "opening for direct reads", source };
    let mode = DirectFile::of(file.file()).map_err(system)?.mode();
    let streaming = match mode {
        ReadMode::Direct => Streaming::Direct,
        ReadMode::Buffered(_) => Streaming::Mapped,
    };
    Ok((streaming, mode))
}

/// How pinned pages of the mapping are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Keep {
    /// They are mapped and used in every pass, and below the budget nothing presses. Where the
    /// whole machine runs short the kernel takes them rather than kill someone; that is noticed,
    /// and they are brought in again.
    #[default]
    Watch,
    /// mlock, as far as the limit of locked memory allows. Under a limit that was set too low the
    /// kernel can then only kill.
    Lock,
}

/// Settings of a store that change no byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoreOptions {
    /// io_uring or threads, for direct reads.
    pub reader: Backend,
    /// Longest single read.
    pub piece_bytes: usize,
    /// How pinned pages of the mapping are kept.
    pub keep: Keep,
    /// A read that takes longer than this is an error.
    pub deadline: Duration,
    /// What the process may take in all, these weights included. Where a memory group's limit leaves no room for
    /// that beside pages of the files that an earlier plan left in the page cache, those go; `None` leaves
    /// them alone.
    pub budget_bytes: Option<u64>,
    /// How often the files are looked at for changes, at most one `fstat` each.
    pub check_interval: Duration,
}

impl Default for StoreOptions {
    fn default() -> StoreOptions {
        StoreOptions {
            reader: Backend::Auto,
            piece_bytes: 4 << 20,
            keep: Keep::Watch,
            deadline: Duration::from_secs(30),
            budget_bytes: None,
            check_interval: Duration::from_millis(250),
        }
    }
}

/// Where a pinned extent is.
pub(crate) enum Residence {
    /// Not pinned.
    Elsewhere,
    /// In the mapping; true once it has been brought in.
    Mapping(Cell<bool>),
    /// In the arena, once it has been read.
    Arena(OnceCell<Filled>),
}

/// The bytes of a model, there when they are needed.
///
/// ```text
/// store.begin_pass(|_| false)?;
/// for id in order_of_use { let tile = store.acquire(id)?; compute(&tile); }
/// let figures = store.end_pass()?;
/// ```
pub struct Store {
    pub(crate) plan: Plan,
    pub(crate) sources: Vec<Source>,
    pub(crate) residence: Vec<Residence>,
    options: StoreOptions,
    pub(crate) driver: RefCell<Driver>,
    rows: RefCell<Option<RowReader>>,
    /// Pinned extents are all there and nothing is streamed: the driver has nothing to do.
    settled: Cell<bool>,
    /// The process goes on when the store is gone.
    leaves: Cell<bool>,
    checked: Cell<Instant>,
    pub(crate) pass: RefCell<PassStats>,
    stats: Cell<StoreStats>,
    pass_began: Cell<Option<Instant>>,
    /// What was used since it was last looked at, where that is recorded.
    touches: RefCell<Option<Touches>>,
    pub(crate) board: Arc<Board>,
}

impl Store {
    /// Claims the memory of the ring (and of the arena); reads nothing yet.
    ///
    /// # Errors
    /// [`ResidencyError::Unknown`] if an extent lies outside of its file, [`ResidencyError::System`]
    /// where memory or the read queue is refused.
    pub fn open(
        sources: Vec<Source>,
        plan: Plan,
        options: StoreOptions,
    ) -> Result<Store, ResidencyError> {
        for x in plan.extents().iter() {
            let source = sources.get(x.source.0 as usize);
            let end = source.map(|s| s.file.size().min(s.mapping.len() as u64));
            if end.is_none_or(|end| x.end() > end) {
                return Err(ResidencyError::Unknown { what: format!("{x} (file: {end:?} bytes)") });
            }
        }
        let residence = plan
            .extents()
            .iter()
            .map(|x| match (plan.placement(x.id), plan.input.pinned_in) {
                (Some(Placement::Pinned), PinnedIn::Mapping) => {
                    Residence::Mapping(Cell::new(false))
                }
                (Some(Placement::Pinned), PinnedIn::Arena) => Residence::Arena(OnceCell::new()),
                _ => Residence::Elsewhere,
            })
            .collect();
        if let Some(budget) = options.budget_bytes {
            // Without it the limit is met, and the kernel makes room.
            let _ = pressure::make_room(&sources, &plan, budget);
        }
        let driver = Driver::open(&sources, &plan, &options)?;
        Ok(Store {
            plan,
            sources,
            residence,
            options,
            driver: RefCell::new(driver),
            rows: RefCell::new(None),
            settled: Cell::new(false),
            leaves: Cell::new(false),
            checked: Cell::new(Instant::now()),
            pass: RefCell::default(),
            stats: Cell::default(),
            pass_began: Cell::new(None),
            touches: RefCell::new(None),
            board: Arc::default(),
        })
    }

    /// The process goes on without this model. What is pinned stays in the page cache, for whoever comes back to
    /// it; but where a memory group's limit has no room for another of the same budget beside it, it goes when the
    /// store is dropped.
    pub fn leave(&self) {
        self.leaves.set(true);
    }

    /// Notes on `board` where extents are from now on. What was brought in before is not on it, so
    /// this is done before the first pass.
    pub fn watch(&mut self, board: Arc<Board>) {
        board.reset(self.plan.extents().len(), self.plan.slots as usize);
        self.board = board;
    }

    /// The plan.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What direct reads are done by; `None` where there are none.
    #[must_use]
    pub fn reader(&self) -> Option<Backend> {
        self.driver.borrow().reader()
    }

    /// Begins a pass, and reading for it. `skipped` says which extents it will not use (the output
    /// head, in all but the last part of a prompt); the ring passes over them. If the last pass was
    /// not used to its end, what was read ahead for it is let go.
    ///
    /// # Errors
    /// [`ResidencyError::Changed`] if a file is no longer what it was.
    pub fn begin_pass(&self, skipped: impl Fn(ExtentId) -> bool) -> Result<(), ResidencyError> {
        self.begin_pass_of(1, skipped)
    }

    /// The same for a pass of so many tokens.
    ///
    /// # Errors
    /// As [`Store::begin_pass`].
    pub fn begin_pass_of(
        &self,
        tokens: u32,
        skipped: impl Fn(ExtentId) -> bool,
    ) -> Result<(), ResidencyError> {
        self.check_files()?;
        *self.pass.borrow_mut() = PassStats::default();
        self.pass_began.set(Some(Instant::now()));
        let mut driver = self.driver.borrow_mut();
        self.reload_if_lost(&mut driver);
        driver.begin_pass(self, tokens, skipped);
        self.advance(&mut driver);
        Ok(())
    }

    /// Ends a pass: what was computed from its bytes can be trusted if this says so.
    ///
    /// # Errors
    /// [`ResidencyError::Changed`] if a file was changed, or a page could not be read when touched.
    pub fn end_pass(&self) -> Result<PassStats, ResidencyError> {
        self.check_files()?;
        let mut driver = self.driver.borrow_mut();
        driver.pump(self);
        let mut pass = self.pass.borrow_mut();
        driver.take_figures(&mut pass);
        pass.seconds = self.pass_began.take().map_or(0.0, |t| t.elapsed().as_secs_f64());
        let mut stats = self.stats.get();
        stats.passes += 1;
        stats.last = *pass;
        stats.total.add(&pass);
        (stats.pinned_bytes, stats.locked_bytes) = driver.pinned_figures();
        self.stats.set(stats);
        Ok(*pass)
    }

    /// Figures since the store was opened.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        self.stats.get()
    }

    /// Gives the bytes of an extent, waiting until they are there. A streamed tile's slot is free
    /// again when the guard is dropped; at most `plan().slots` can be held, and the ring runs ahead
    /// with those that are not. Extents are to be acquired in order of use; others may be left out.
    /// Going back within a pass is answered rightly, and slowly.
    ///
    /// # Errors
    /// [`ResidencyError::Read`] if the bytes could not be read, [`ResidencyError::Deadline`],
    /// [`ResidencyError::Changed`]; [`ResidencyError::RingExhausted`], [`ResidencyError::Held`] and
    /// [`ResidencyError::Unknown`] for misuse.
    pub fn acquire(&self, id: ExtentId) -> Result<Tile<'_>, ResidencyError> {
        self.check_now_and_then()?;
        self.pass.borrow_mut().acquired += 1;
        let Some(x) = self.plan.extents().get(id.index()) else {
            return Err(ResidencyError::Unknown { what: id.to_string() });
        };
        self.note_use(id);
        if let Some(bytes) = self.resident(x)? {
            if !self.settled.get() {
                self.poll();
            }
            return Ok(Tile { store: self, bytes: TileBytes::Borrowed(bytes), slot: None });
        }
        self.acquire_waiting(x)
    }

    /// From here on it is noted which extents are acquired and which rows are read, up to `rows_max`
    /// rows between two calls to [`Store::take_touches`]. Claims all memory for it now.
    pub fn record_touches(&self, rows_max: usize) {
        *self.touches.borrow_mut() = Some(Touches::new(self.plan.extents().len(), rows_max));
    }

    /// Shows what was used since the last call, and begins anew; `None` where nothing is recorded.
    pub fn take_touches<T>(&self, look: impl FnOnce(&Touches) -> T) -> Option<T> {
        let mut touches = self.touches.borrow_mut();
        let touches = touches.as_mut()?;
        let seen = look(touches);
        touches.clear();
        Some(seen)
    }

    /// Notes the use of an extent for whoever watches or records.
    pub(crate) fn note_use(&self, id: ExtentId) {
        if let Some(touches) = self.touches.borrow_mut().as_mut() {
            touches.mark(id);
        }
        self.board.used(id);
    }

    /// Looks after the disk: takes what has been read and starts what can be. Acquire and release
    /// do so too; to be called in between by work that takes longer than some milliseconds.
    pub fn poll(&self) {
        self.advance(&mut self.driver.borrow_mut());
    }

    /// Pumps, and notes whether there is anything left to be pumped.
    pub(crate) fn advance(&self, driver: &mut Driver) {
        driver.pump(self);
        self.settled.set(driver.is_settled());
    }

    /// The bytes of a pinned extent that is there.
    pub(crate) fn resident(&self, x: &Extent) -> Result<Option<&[u8]>, ResidencyError> {
        match self.residence.get(x.id.index()) {
            Some(Residence::Mapping(here)) if here.get() => self.mapped_bytes(x).map(Some),
            Some(Residence::Arena(filled)) => Ok(filled.get().map(Filled::bytes)),
            _ => Ok(None),
        }
    }

    pub(crate) fn mapped_bytes(&self, x: &Extent) -> Result<&[u8], ResidencyError> {
        let mapping = &self.sources[x.source.0 as usize].mapping;
        let fault = |source| ResidencyError::Read { extent: *x, source };
        mapping.bytes(byte_range(x)?).map_err(fault)
    }

    fn acquire_waiting(&self, x: &Extent) -> Result<Tile<'_>, ResidencyError> {
        let begin = Instant::now();
        let mut waited = false;
        let tile = loop {
            let mut driver = self.driver.borrow_mut();
            match driver.schedule.want(x.id) {
                Wanted::Resident => {
                    let bytes = self.resident(x)?.ok_or(ResidencyError::Stalled { id: x.id })?;
                    self.settled.set(driver.is_settled());
                    break Tile { store: self, bytes: TileBytes::Borrowed(bytes), slot: None };
                }
                Wanted::Ready(slot) => break self.take(&mut driver, x, slot)?,
                Wanted::Wait(to) => waited |= self.wait(&mut driver, x, Lane::from(to))?,
                Wanted::Queued => waited |= self.wait(&mut driver, x, Lane::Ring)?,
                Wanted::Failed(to) => return Err(driver.take_error(x, to)),
                Wanted::Exhausted => {
                    let slots = self.plan.slots;
                    return Err(ResidencyError::RingExhausted { id: x.id, slots });
                }
                Wanted::Held => return Err(ResidencyError::Held { id: x.id }),
                Wanted::Unknown => {
                    return Err(ResidencyError::Unknown { what: format!("{x} as a tile") });
                }
            }
        };
        if waited {
            self.note_wait(begin);
        }
        Ok(tile)
    }

    /// Notes a wait for the disk that has ended now.
    pub(crate) fn note_wait(&self, begin: Instant) {
        let waited = begin.elapsed();
        self.board.waited(u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX));
        let mut pass = self.pass.borrow_mut();
        pass.wait_s += waited.as_secs_f64();
        pass.waits += 1;
    }

    /// Makes progress towards an extent: what can be done at once, else sleeps until something
    /// arrives (true).
    pub(crate) fn wait(
        &self,
        driver: &mut Driver,
        x: &Extent,
        lane: Lane,
    ) -> Result<bool, ResidencyError> {
        if driver.pump(self) {
            return Ok(false);
        }
        let begin = Instant::now();
        match driver.wait(self, lane, self.options.deadline)? {
            Wait::Arrived => Ok(true),
            Wait::NothingUnderWay => Err(ResidencyError::Stalled { id: x.id }),
            Wait::TimedOut => {
                // A file that was cut short explains more than a read that hangs.
                self.check_files()?;
                Err(ResidencyError::Deadline { extent: *x, waited: begin.elapsed() })
            }
        }
    }

    fn take<'a>(
        &'a self,
        driver: &mut Driver,
        x: &Extent,
        slot: SlotId,
    ) -> Result<Tile<'a>, ResidencyError> {
        let bytes = match self.plan.input.streaming {
            Streaming::Mapped => TileBytes::Borrowed(self.mapped_bytes(x)?),
            Streaming::Direct => {
                let filled = driver.lend(slot).ok_or(ResidencyError::Stalled { id: x.id })?;
                TileBytes::Lent(filled)
            }
        };
        driver.schedule.hold(slot);
        driver.pump(self);
        Ok(Tile { store: self, bytes, slot: Some(slot) })
    }

    fn release(&self, slot: SlotId, filled: Option<Filled>) {
        let mut driver = self.driver.borrow_mut();
        driver.release(&self.plan, slot, filled);
        driver.pump(self);
    }

    /// Reads bytes of a file, anywhere in it.
    ///
    /// # Errors
    /// [`ResidencyError::Rows`] if they could not be read, [`ResidencyError::Unknown`] if they lie
    /// outside of the file.
    pub fn read_exact_at(
        &self,
        source: SourceId,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<(), ResidencyError> {
        let len = buf.len();
        self.read_rows(source, &[offset], len, buf)
    }

    /// Reads rows of `row_bytes` each at the given offsets into `out`, one after the other, many at
    /// a time. From the mapping if everything is resident there, else past the page cache.
    ///
    /// # Errors
    /// As [`Store::read_exact_at`]; `out` must be `offsets.len() * row_bytes` long.
    pub fn read_rows(
        &self,
        source: SourceId,
        offsets: &[u64],
        row_bytes: usize,
        out: &mut [u8],
    ) -> Result<(), ResidencyError> {
        self.check_now_and_then()?;
        if offsets.is_empty() || row_bytes == 0 {
            return Ok(());
        }
        let unknown = |what: String| ResidencyError::Unknown { what };
        if offsets.len().checked_mul(row_bytes) != Some(out.len()) {
            return Err(unknown(format!("{} rows in {} bytes", offsets.len(), out.len())));
        }
        let Some(file) = self.sources.get(source.0 as usize) else {
            return Err(unknown(format!("shard {}", source.0)));
        };
        let fits = |o: &u64| o.checked_add(row_bytes as u64).is_some_and(|e| e <= file.file.size());
        if let Some(o) = offsets.iter().find(|o| !fits(o)) {
            return Err(unknown(format!("row of {row_bytes} bytes at {o}")));
        }
        if let Some(touches) = self.touches.borrow_mut().as_mut() {
            touches.mark_rows(source, offsets, row_bytes as u64);
        }
        let begin = Instant::now();
        let result = self.rows_now(source, file, offsets, row_bytes, out);
        let mut pass = self.pass.borrow_mut();
        pass.row_bytes += out.len() as u64;
        // Behind the deep queue of a first pass a small read can take a tenth of a second.
        pass.wait_s += begin.elapsed().as_secs_f64();
        result
    }

    fn rows_now(
        &self,
        source: SourceId,
        file: &Source,
        offsets: &[u64],
        row_bytes: usize,
        out: &mut [u8],
    ) -> Result<(), ResidencyError> {
        if self.plan.rows_are_resident() {
            return copy_rows(&file.mapping, offsets, row_bytes, out);
        }
        let mut rows = self.rows.borrow_mut();
        if rows.as_ref().is_none_or(|r| r.row_bytes_max() < row_bytes) {
            *rows = Some(RowReader::open(&self.sources, row_bytes, self.options.reader)?);
        }
        let Some(reader) = rows.as_mut() else { return Ok(()) };
        let result = reader.read(source, offsets, row_bytes, out, self.options.deadline);
        if result.is_err() {
            // Reads that are still under way are not to be mistaken for later ones.
            *rows = None;
        }
        result
    }

    pub(crate) fn check_now_and_then(&self) -> Result<(), ResidencyError> {
        if self.checked.get().elapsed() < self.options.check_interval {
            return Ok(());
        }
        self.check_files()?;
        self.reload_if_lost(&mut self.driver.borrow_mut());
        Ok(())
    }

    fn reload_if_lost(&self, driver: &mut Driver) {
        if driver.reload_if_lost(self) {
            self.settled.set(false);
            let mut stats = self.stats.get();
            stats.reloads += 1;
            self.stats.set(stats);
        }
    }

    /// Whether all files are what they were when they were opened, and no touch of them failed.
    ///
    /// # Errors
    /// [`ResidencyError::Changed`] if not.
    pub fn check_files(&self) -> Result<(), ResidencyError> {
        self.checked.set(Instant::now());
        for source in &self.sources {
            source.file.check_unchanged().map_err(ResidencyError::Changed)?;
            source.mapping.check_poison().map_err(ResidencyError::Changed)?;
        }
        Ok(())
    }

    /// Bytes of weights in memory now: pinned ones that are there, and the ring.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        let sums = &self.plan.sums;
        self.driver.borrow().pinned_figures().0 + sums.ring_bytes + sums.expert_bytes
    }

    /// Marks a pinned extent of the mapping as there, or not.
    pub(crate) fn set_here(&self, id: ExtentId, is_here: bool) {
        if let Some(Residence::Mapping(here)) = self.residence.get(id.index()) {
            here.set(is_here);
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.driver.get_mut().close(&self.plan);
        if let (true, Some(budget)) = (self.leaves.get(), self.options.budget_bytes) {
            // As in `open`.
            let _ = pressure::leave_room(&self.sources, &self.plan, budget);
        }
    }
}

enum TileBytes<'a> {
    Borrowed(&'a [u8]),
    Lent(Filled),
    Returned,
}

/// The bytes of an extent, there until the guard is dropped.
pub struct Tile<'a> {
    store: &'a Store,
    bytes: TileBytes<'a>,
    slot: Option<SlotId>,
}

impl Deref for Tile<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.bytes {
            TileBytes::Borrowed(bytes) => bytes,
            TileBytes::Lent(filled) => filled.bytes(),
            TileBytes::Returned => &[],
        }
    }
}

impl Drop for Tile<'_> {
    fn drop(&mut self) {
        let Some(slot) = self.slot else { return };
        let filled = match std::mem::replace(&mut self.bytes, TileBytes::Returned) {
            TileBytes::Lent(filled) => Some(filled),
            TileBytes::Borrowed(_) | TileBytes::Returned => None,
        };
        self.store.release(slot, filled);
    }
}
