//! The mapped lane: helper threads that bring pages of the mapping in before they are used and drop
//! them after.
//!
//! Where something is streamed there are two. The first starts reading for every job as soon as it
//! arrives (`MADV_WILLNEED`: asynchronous, exactly the range, in large requests whatever the disk's
//! readahead is) and drops what was used; the second waits for the reads in order
//! (`MADV_POPULATE_READ`, which can say that it failed) and maps the pages. So the disk has as much to
//! do as there are jobs. Starting a read and waiting for one cost about the same processor time
//! (measured: 1.4 and 1.1 s for 7 GB), hence two threads.
//! Reading ahead by the fault path would bring up to the disk's readahead beyond the range, which a
//! budget cannot allow; so where not everything fits, it is turned off (`MADV_RANDOM`). What that
//! does to a populate (4 KiB at a time) does not arise, because every page has been asked for before.
//! What somebody else has read may be cached by 2 MiB, and one page of that maps it all: the second thread unmaps
//! what belongs to nothing that is kept (`Kept`). Without that, RSS went to 4.5 times a budget.
//!
//! Reads started so fill the page cache with folios of 4 KiB, mapped one by one. Where everything stays,
//! the fault path reads instead, 2 MiB at a time ([`Mapping::read_by_huge_pages`]), by several threads,
//! for each waits for what it reads.

use std::ops::Range;
use std::sync::mpsc::{
    Receiver, RecvTimeoutError, SendError, SyncSender, TryRecvError, TrySendError, sync_channel,
};
use std::sync::{Arc, Barrier, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lowtide_mapping::{Advice, Error, Mapping};

use crate::error::ResidencyError;
use crate::extent::{Extent, ExtentId, joined};
use crate::kept::Kept;
use crate::plan::{PAGE_BYTES, Placement, Plan};
use crate::readahead::will_need_bytes;
use crate::schedule::Issue;
use crate::store::Source;
use crate::unread::Unread;

/// Work for the helpers, in order.
enum Job {
    Populate {
        issue: Issue,
        source: usize,
        range: Range<usize>,
        lock: bool,
        /// Bytes that have to be read for it.
        read_bytes: u64,
    },
    Drop {
        id: ExtentId,
        source: usize,
    },
    /// Everything that stays is there.
    Settle,
}

/// A populate that is done.
pub(crate) struct Populated {
    pub issue: Issue,
    pub result: Result<(), Error>,
    /// Whether the pages are locked in memory.
    pub locked: bool,
    /// Bytes that had to be read for it: at most the extent's, or those of the whole huge pages around it, for the
    /// first that lies in them.
    pub read_bytes: u64,
}

/// The engine's end of the helper threads.
pub(crate) struct MappedLane {
    jobs: SyncSender<Job>,
    done: Receiver<Populated>,
    under_way: usize,
    /// Keep pinned pages with mlock.
    lock: bool,
    /// Whole huge pages are read.
    huge: bool,
    waits_for_room: bool,
}

/// What the helpers keep mapped, where that is not everything. The first helper adds and takes away, the second,
/// which alone maps pages, looks what it mapped beyond them.
type SharedKept = Option<Arc<Mutex<Kept>>>;

fn locked(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Jobs that fit the channel. Populates are bounded by slots and depth, drops by slots.
const JOBS_MAX: usize = 4096;

/// Threads that read whole huge pages, each one of them at a time: 8 MiB with the disk at once.
const HUGE_READERS: usize = 4;

/// How long the end of a lane waits for its helpers: what is queued takes milliseconds, and a read
/// that never returns must not keep the process.
const END_TIMEOUT: Duration = Duration::from_secs(1);

impl MappedLane {
    /// Starts the helpers. They end when the lane is dropped, which waits for them: until then the
    /// mapping is theirs too, and its pages count as this process's, in the next plan as well. A read
    /// that never returns keeps its thread, and the mapping, alive.
    pub fn open(sources: &[Source], plan: &Plan, lock: bool) -> Result<MappedLane, ResidencyError> {
        let mappings: Vec<_> = sources.iter().map(|s| Arc::clone(&s.mapping)).collect();
        let huge = plan.rows_are_resident() && read_by_huge_pages(&mappings, plan)?;
        if !plan.rows_are_resident() {
            for mapping in &mappings {
                let system = |source| ResidencyError::System { what: "advice", source };
                mapping.advise(0..mapping.len(), Advice::Random).map_err(system)?;
                // One entry for 2 MiB would map what is streamed along with what is pinned.
                mapping.advise_if_known(Advice::NoHugePages);
            }
        }
        let read_ahead = if huge { &[] } else { sources };
        let will_need =
            read_ahead.iter().map(|s| will_need_bytes(s.file.identity().device)).collect();
        let kept: SharedKept = (!plan.rows_are_resident())
            .then(|| Arc::new(Mutex::new(Kept::none_of(plan.extents()))));
        // Bounded channels allocate once.
        let (jobs, inbox) = sync_channel(JOBS_MAX);
        let (outbox, done) = sync_channel(JOBS_MAX);
        let finishers = if huge { HUGE_READERS } else { 1 };
        let ready = Arc::new(Barrier::new(2 + finishers));
        let mut started = Vec::with_capacity(finishers);
        for _ in 0..finishers {
            let (sender, to_finish) = sync_channel(JOBS_MAX / finishers);
            started.push(sender);
            let finisher =
                Finisher { mappings: mappings.clone(), kept: kept.clone(), outbox: outbox.clone() };
            let ready = Arc::clone(&ready);
            spawn("lowtide-pages", move || {
                wait_before_use(&to_finish, &ready);
                finisher.run(&to_finish);
            })?;
        }
        drop(outbox);
        let unread = Unread::new(sources, huge);
        let mut starter = Starter { mappings, unread, will_need, kept, started, next: 0 };
        let starter_ready = Arc::clone(&ready);
        spawn("lowtide-ahead", move || {
            wait_before_use(&inbox, &starter_ready);
            starter.run(&inbox);
        })?;
        wait_before_use(&done, &ready);
        Ok(MappedLane { jobs, done, under_way: 0, lock, huge, waits_for_room: false })
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.under_way == 0
    }

    /// Starts bringing in an extent.
    pub fn start(&mut self, x: &Extent, issue: Issue, pinned: bool) -> Result<(), ResidencyError> {
        let lock = pinned && self.lock;
        let (source, range) = (x.source.0 as usize, byte_range(x)?);
        let job = Job::Populate { issue, source, range, lock, read_bytes: 0 };
        self.send(job)?;
        self.under_way += 1;
        Ok(())
    }

    /// Takes back one start of an extent, and drops its pages if that was the last, but for those that a neighbour
    /// still needs.
    pub fn drop_behind(&mut self, x: &Extent) -> Result<(), ResidencyError> {
        self.send(Job::Drop { id: x.id, source: x.source.0 as usize })
    }

    /// Everything that stays is there. Reclaim takes no notice of uses of what is advised as read at random (Linux
    /// 6.3, `vma_has_recency`), so where nothing else speaks for that advice it ends.
    pub fn settle(&mut self) -> Result<(), ResidencyError> {
        if self.huge { self.send(Job::Settle) } else { Ok(()) }
    }

    /// From now on jobs wait for room in the channel: at the end there are more than fit, three for each expert
    /// that is there, and nobody waits for the engine.
    pub fn wait_for_room(&mut self) {
        self.waits_for_room = true;
    }

    fn send(&mut self, mut job: Job) -> Result<(), ResidencyError> {
        let begin = Instant::now();
        loop {
            job = match self.jobs.try_send(job) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(job)) if self.waits_for_room => job,
                Err(e) => return Err(ResidencyError::Helper(e.to_string())),
            };
            // The first helper hangs in a read: not once more for each of the others.
            self.waits_for_room = begin.elapsed() < END_TIMEOUT;
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// A populate that is done, without waiting.
    pub fn poll(&mut self) -> Result<Option<Populated>, ResidencyError> {
        match self.done.try_recv() {
            Ok(done) => {
                self.under_way -= 1;
                Ok(Some(done))
            }
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(died()),
        }
    }

    /// Waits for one; `None` after the timeout.
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<Populated>, ResidencyError> {
        match self.done.recv_timeout(timeout) {
            Ok(done) => {
                self.under_way -= 1;
                Ok(Some(done))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(died()),
        }
    }
}

impl Drop for MappedLane {
    fn drop(&mut self) {
        // Without a sender the first helper ends, and then the second, each letting go of its
        // mappings before its end of a channel (fields are dropped in order).
        let (closed, _) = sync_channel(0);
        drop(std::mem::replace(&mut self.jobs, closed));
        let until = Instant::now() + END_TIMEOUT;
        while self.done.recv_timeout(until.saturating_duration_since(Instant::now())).is_ok() {}
    }
}

/// Waits at an empty channel, which has nothing for anybody before all three have done so: a thread's
/// first wait allocates, and would otherwise do so at some time while tokens are made. A thread that loses its
/// processor before it waits comes back without having waited, and late: so until two waits were in time, the
/// longer the busier the machine.
fn wait_before_use<T>(channel: &Receiver<T>, all: &Barrier) {
    let mut in_time = 0;
    for timeout in [1, 1, 1, 4, 4, 16, 64].map(Duration::from_millis) {
        let start = Instant::now();
        let _ = channel.recv_timeout(timeout);
        in_time += u32::from(start.elapsed() < timeout + timeout / 4);
        if in_time == 2 {
            break;
        }
    }
    all.wait();
}

fn died() -> ResidencyError {
    ResidencyError::Helper("it has ended".into())
}

fn to_usize(n: u64) -> Result<usize, ResidencyError> {
    usize::try_from(n).map_err(|_| ResidencyError::Unknown { what: format!("byte {n}") })
}

/// The extent's bytes as a range of a mapping that begins at byte 0 of its file.
pub(crate) fn byte_range(x: &Extent) -> Result<Range<usize>, ResidencyError> {
    Ok(to_usize(x.offset)?..to_usize(x.end())?)
}

/// Has all pages that stay in memory read by huge pages; false if this kernel does not.
fn read_by_huge_pages(mappings: &[Arc<Mapping>], plan: &Plan) -> Result<bool, ResidencyError> {
    // Lookup extents are left out: 2 MiB for a row is too much.
    let pinned = plan.extents().iter().filter(|x| plan.placement(x.id) == Some(Placement::Pinned));
    // Neighbours together: advice for a part of a mapping divides the kernel's record of it.
    let pinned = joined(pinned, PAGE_BYTES);
    for (source, pages) in pinned {
        let Some(mapping) = mappings.get(source.0 as usize) else { continue };
        let range = to_usize(pages.start)?..to_usize(pages.end)?.min(mapping.len());
        let advised = mapping.read_by_huge_pages(range);
        if !advised.map_err(|source| ResidencyError::System { what: "advice", source })? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), ResidencyError> {
    let thread = std::thread::Builder::new().name(name.into()).spawn(work);
    thread.map(drop).map_err(|e| ResidencyError::Helper(format!("{name}: {e}")))
}

/// Drops what was used and starts reading, in the order of the jobs, so that the memory of a tile
/// is free before the reading of the next one starts.
struct Starter {
    mappings: Vec<Arc<Mapping>>,
    unread: Unread,
    /// Longest request of each mapping's disk; empty where whoever waits for a page also reads it.
    will_need: Vec<usize>,
    kept: SharedKept,
    /// To the finishers, in turn.
    started: Vec<SyncSender<Job>>,
    next: usize,
}

impl Starter {
    /// Until the lane, or a finisher, is gone.
    fn run(&mut self, inbox: &Receiver<Job>) {
        while let Ok(job) = inbox.recv() {
            if self.begin(job).is_err() {
                return;
            }
        }
    }

    fn begin(&mut self, mut job: Job) -> Result<(), SendError<Job>> {
        match &mut job {
            Job::Drop { id, source } => {
                if let (Some(mapping), Some(kept)) = (self.mappings.get(*source), &self.kept) {
                    let pages = locked(kept).release(*id);
                    // A refusal leaves pages behind, which the next pass drops again.
                    let _ = within(mapping, pages).map(|range| mapping.evict(range));
                }
                Ok(())
            }
            Job::Settle => {
                for mapping in &self.mappings {
                    mapping.advise_if_known(Advice::Normal);
                }
                self.unread.forget();
                Ok(())
            }
            Job::Populate { issue, source, range, read_bytes, .. } => {
                if let Some(kept) = &self.kept {
                    locked(kept).keep(issue.extent);
                }
                *read_bytes = self.unread.count(*source, range);
                if let (Some(mapping), Some(&longest)) =
                    (self.mappings.get(*source), self.will_need.get(*source))
                {
                    // Cut at multiples of the file's pages, so that no page is asked for twice.
                    let page = PAGE_BYTES as usize;
                    let mut start = range.start / page * page;
                    while start < range.end {
                        let end = range.end.min(start + longest);
                        // Advice: where it is refused, the populate reads by itself, slowly.
                        let _ = mapping.advise(start..end, Advice::WillNeed);
                        start = end;
                    }
                }
                self.next = (self.next + 1) % self.started.len();
                self.started[self.next].send(job)
            }
        }
    }
}

/// Waits for what is being read, maps it, and says so.
struct Finisher {
    mappings: Vec<Arc<Mapping>>,
    kept: SharedKept,
    outbox: SyncSender<Populated>,
}

/// Pages of a file as a range of its mapping, which may end within the last.
pub(crate) fn within(mapping: &Mapping, pages: Range<u64>) -> Option<Range<usize>> {
    let end = to_usize(pages.end).ok()?.min(mapping.len());
    let start = to_usize(pages.start).ok()?;
    (start < end).then_some(start..end)
}

impl Finisher {
    /// Until the starter, or the lane, is gone.
    fn run(&self, started: &Receiver<Job>) {
        while let Ok(job) = started.recv() {
            let Job::Populate { issue, source, range, lock, read_bytes } = job else { continue };
            let Some(mapping) = self.mappings.get(source) else { return };
            let result = mapping.populate(range.clone());
            let locked = lock && result.is_ok() && mapping.lock(range).is_ok();
            if let Some(kept) = &self.kept {
                unmap_strays(mapping, kept, issue.extent);
            }
            if self.outbox.send(Populated { issue, result, locked, read_bytes }).is_err() {
                return;
            }
        }
    }
}

/// Lets go of what mapping an extent has mapped beyond it.
fn unmap_strays(mapping: &Mapping, kept: &Mutex<Kept>, id: ExtentId) {
    locked(kept).strays(id, |pages| {
        // A refusal leaves pages mapped, which the next populate near them lets go of.
        let _ = within(mapping, pages).map(|range| mapping.unmap_pages(range));
    });
}
