//! The driver: the schedule and the lanes it sends reads down.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use lowtide_mapping::{Backend, DirectFile, Error, Priority, QueueOptions};

use crate::board::Whereabouts;
use crate::direct::{Arrival, DirectLane, Filled};
use crate::error::ResidencyError;
use crate::experts::live::{Came, ExpertUse, Fetch, LiveExperts, Outcome};
use crate::experts::{Policy, Standing};
use crate::extent::{Extent, ExtentId, UNIT_SLICES, UnitId, Use};
use crate::mapped::{MappedLane, Populated};
use crate::plan::{PinnedIn, Placement, Plan, Streaming};
use crate::ring::SlotId;
use crate::schedule::{Depth, Destination, Issue, Schedule};
use crate::stats::PassStats;
use crate::store::{Keep, Residence, Source, Store, StoreOptions};
use crate::watch::Watch;

/// Whom to wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lane {
    /// Whoever fills the ring.
    Ring,
    /// Whoever brings in pinned extents.
    Pinned,
    /// Whoever brings in experts.
    Experts,
}

impl From<Destination> for Lane {
    fn from(to: Destination) -> Lane {
        match to {
            Destination::Slot(_) => Lane::Ring,
            Destination::Pinned => Lane::Pinned,
            Destination::Expert(_) => Lane::Experts,
        }
    }
}

/// How a wait ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Wait {
    Arrived,
    NothingUnderWay,
    TimedOut,
}

/// Populates of pinned extents under way at once: with 8 MB tiles, 128 MB of reading ahead.
const POPULATES_MAX: u32 = 16;

/// Reads with the disk at once where there are experts: they are small, and all of a layer's are asked
/// for at once.
const EXPERT_QUEUE_DEPTH: u32 = 32;

pub(crate) struct Driver {
    pub schedule: Schedule,
    pub experts: Option<LiveExperts>,
    direct: Option<DirectLane>,
    mapped: Option<MappedLane>,
    streaming: Streaming,
    pinned_in: PinnedIn,
    errors: HashMap<ExtentId, ResidencyError>,
    /// Mapped streaming: the tile whose pages a slot stands for.
    in_slot: Vec<Option<u32>>,
    figures: PassStats,
    pinned_bytes: u64,
    locked_bytes: u64,
    /// Since when at least one read has been under way.
    busy_since: Option<Instant>,
    watch: Watch,
}

impl Driver {
    pub fn open(
        sources: &[Source],
        plan: &Plan,
        options: &StoreOptions,
    ) -> Result<Driver, ResidencyError> {
        let (streaming, pinned_in) = (plan.input.streaming, plan.input.pinned_in);
        let streams = !plan.is_all_resident();
        let pins = plan.sums.pinned_bytes > 0;
        let is_direct =
            (streaming == Streaming::Direct && streams) || (pinned_in == PinnedIn::Arena && pins);
        let is_mapped =
            (streaming == Streaming::Mapped && streams) || (pinned_in == PinnedIn::Mapping && pins);
        let queue_depth = plan.input.ring.queue_depth;
        let has_experts = plan.experts.slots > 0;
        let direct = if is_direct {
            let deep = if has_experts { EXPERT_QUEUE_DEPTH } else { 0 };
            let options = QueueOptions {
                backend: options.reader,
                depth: queue_depth.max(deep) as usize,
                piece_bytes: options.piece_bytes,
                ..QueueOptions::default()
            };
            Some(DirectLane::open(direct_files(sources)?, plan, options)?)
        } else {
            None
        };
        let mapped = if is_mapped {
            Some(MappedLane::open(sources, plan, options.keep == Keep::Lock)?)
        } else {
            None
        };
        let depth = Depth {
            // Twice what the disk works on: the next reads are with the queue before the last come
            // back, and little is under way for nothing when a pass is given up.
            slots: queue_depth.saturating_mul(2),
            pinned: POPULATES_MAX,
            shared: (streaming == Streaming::Direct) == (pinned_in == PinnedIn::Arena),
        };
        Ok(Driver {
            schedule: Schedule::new(plan, depth),
            experts: has_experts.then(|| LiveExperts::new(plan, Policy::default())),
            direct,
            mapped,
            streaming,
            pinned_in,
            errors: HashMap::new(),
            in_slot: vec![None; plan.slots as usize],
            figures: PassStats::default(),
            pinned_bytes: 0,
            locked_bytes: 0,
            busy_since: None,
            watch: Watch::new(plan.sums.ring_bytes + plan.sums.expert_bytes),
        })
    }

    /// Tells the cache of experts which slots can be read into at once, and which experts that stay may take; all, where
    /// nothing brings them in.
    pub fn look_at_expert_slots(&mut self) {
        let (Some(direct), Some(experts)) = (&self.direct, &mut self.experts) else { return };
        experts.cache().set_there(direct.expert_slots_there(), direct.expert_slots_usable());
    }

    pub fn reader(&self) -> Option<Backend> {
        self.direct.as_ref().map(DirectLane::backend)
    }

    /// Has pinned pages that were taken away brought in again; true if there were any.
    pub fn reload_if_lost(&mut self, store: &Store) -> bool {
        let in_mapping = self.pinned_in == PinnedIn::Mapping;
        if !in_mapping || !self.schedule.pinned_complete() || !self.watch.is_loss() {
            return false;
        }
        for x in store.plan.extents().iter() {
            store.set_here(x.id, false);
            store.board.set(x.id, Whereabouts::Disk);
        }
        self.schedule.reload_pinned();
        (self.pinned_bytes, self.locked_bytes) = (0, 0);
        true
    }

    /// A pass begins. What failed, or fails of what is under way, failed for the last one: the disk may be well again,
    /// and if it is not, this pass finds out by itself.
    pub fn begin_pass(&mut self, store: &Store, tokens: u32, skipped: impl Fn(ExtentId) -> bool) {
        // Since the last pass nobody has looked at what came back.
        self.take_arrivals(store);
        while let Some(unit) = self.experts.as_mut().and_then(LiveExperts::forget_failure) {
            self.forget_unit(store, unit);
        }
        self.errors.clear();
        self.schedule.begin_pass(skipped);
        if let Some(experts) = &mut self.experts {
            experts.begin_pass(tokens);
        }
    }

    /// A unit whose read failed, or was withdrawn, is absent.
    pub fn forget_unit(&mut self, store: &Store, unit: UnitId) {
        for id in store.plan.extents().units()[unit.index()].slices {
            store.board.set(id, Whereabouts::Disk);
            self.errors.remove(&id);
        }
        // What a helper that has died cannot drop, whoever waits for it is told of.
        let _ = self.drop_unit(&store.plan, unit);
    }

    /// Takes what has come back and starts what can be started; does not wait. True if there was
    /// anything.
    pub fn pump(&mut self, store: &Store) -> bool {
        let mut progress = self.take_arrivals(store);
        // What a layer waits for comes before what will be needed later.
        while let Some(fetch) = self.experts.as_mut().and_then(LiveExperts::next_fetch) {
            progress = true;
            self.fetch(store, fetch, Priority::Demand);
        }
        while let Some(issue) = self.schedule.next_issue() {
            progress = true;
            let x = store.plan.extents()[issue.extent.index()];
            if let Err(error) = self.start(store, &x, issue) {
                self.fail(store, &x, issue, error);
            }
        }
        while self.takes_guess()
            && let Some(fetch) = self.experts.as_mut().and_then(LiveExperts::next_guess)
        {
            progress = true;
            self.fetch(store, fetch, Priority::Guess);
        }
        // What was started goes to the kernel now, not when somebody waits. What comes back meanwhile
        // counts as well: it may be what somebody would otherwise wait for in vain.
        progress |= self.take_direct(store);
        self.count_busy();
        progress
    }

    /// Whether a guess would not be in anybody's way. Through the mapping one comes at a time.
    fn takes_guess(&self) -> bool {
        match self.streaming {
            Streaming::Direct => self.direct.as_ref().is_some_and(DirectLane::takes_guess),
            Streaming::Mapped => self.mapped.as_ref().is_some_and(MappedLane::is_idle),
        }
    }

    /// Takes what has come back; true if there was anything.
    fn take_arrivals(&mut self, store: &Store) -> bool {
        let mut any = self.take_direct(store);
        while let Some(done) = self.mapped.as_mut().and_then(|m| m.poll().ok().flatten()) {
            self.settle_mapped(store, done);
            any = true;
        }
        any
    }

    /// Takes what the direct lane has read; true if there was anything.
    fn take_direct(&mut self, store: &Store) -> bool {
        let mut any = false;
        while let Some(arrival) = self.poll_direct(&store.plan) {
            self.settle_direct(store, arrival);
            any = true;
        }
        any
    }

    /// If the kernel refuses io_uring's own call, there is nothing to take, and whoever waits next
    /// is told.
    fn poll_direct(&mut self, plan: &Plan) -> Option<Arrival> {
        self.direct.as_mut()?.poll(plan).ok().flatten()
    }

    /// Starts reading a unit's slices into the slot it was given.
    pub fn fetch(&mut self, store: &Store, fetch: Fetch, priority: Priority) {
        let plan = &store.plan;
        if let Some(evicted) = fetch.claim.evicted {
            // What a helper that has died cannot drop, whoever waits for it is told of.
            let _ = self.drop_unit(plan, evicted);
            for id in plan.extents().units()[evicted.index()].slices {
                store.board.set(id, Whereabouts::Disk);
            }
        }
        let to = Destination::Expert(fetch.claim.slot);
        for id in plan.extents().units()[fetch.unit.index()].slices {
            let x = plan.extents()[id.index()];
            let issue = Issue { extent: id, to };
            store.board.set(id, Whereabouts::Reading);
            let fault = |source| ResidencyError::Read { extent: x, source };
            let started = match (self.streaming, &mut self.direct, &mut self.mapped) {
                (Streaming::Direct, Some(direct), _) => {
                    direct.start(&x, issue, priority).map_err(fault)
                }
                (Streaming::Mapped, _, Some(mapped)) => mapped.start(&x, issue, false),
                _ => Err(ResidencyError::Stalled { id }),
            };
            if let Err(error) = started {
                self.slice_done(store, &x, fetch.claim.slot, Err(error));
            }
        }
    }

    fn slice_done(
        &mut self,
        store: &Store,
        x: &Extent,
        slot: SlotId,
        result: Result<u64, ResidencyError>,
    ) {
        let Some(experts) = self.experts.as_mut() else { return };
        let outcome = match result {
            Ok(read_bytes) => {
                store.board.set(x.id, Whereabouts::Memory);
                store.board.read(read_bytes);
                Outcome::Read
            }
            Err(error) => {
                store.board.set(x.id, Whereabouts::Disk);
                if let ResidencyError::Read { source: Error::Cancelled, .. } = error {
                    Outcome::Withdrawn
                } else {
                    self.errors.insert(x.id, error);
                    Outcome::Failed
                }
            }
        };
        let Came { is_guess, forgotten } = experts.slice_done(slot, outcome);
        self.figures.expert_guesses += u64::from(is_guess);
        if let (true, Use::Expert { unit, .. }) = (forgotten, x.usage) {
            self.forget_unit(store, unit);
        }
    }

    /// What a layer has asked for is no guess any more, and other guesses that have not begun were wrong.
    pub fn settle_guesses(&mut self, plan: &Plan, uses: &[ExpertUse]) {
        let (Some(experts), Some(direct)) = (&self.experts, &mut self.direct) else { return };
        for unit in uses.iter().map(|u| u.unit) {
            if let Standing::Loading(slot) = experts.standing(unit) {
                for extent in plan.extents().units()[unit.index()].slices {
                    direct.promote(Issue { extent, to: Destination::Expert(slot) });
                }
            }
        }
        direct.cancel_guesses();
    }

    /// Mapped streaming: drops the pages of a unit that has lost its slot.
    pub fn drop_unit(&mut self, plan: &Plan, unit: UnitId) -> Result<(), ResidencyError> {
        let (Streaming::Mapped, Some(mapped)) = (self.streaming, &mut self.mapped) else {
            return Ok(());
        };
        // One that is refused keeps none of the others here.
        let slices = plan.extents().units()[unit.index()].slices;
        let dropped = slices.map(|id| mapped.drop_behind(&plan.extents()[id.index()]));
        dropped.into_iter().collect()
    }

    pub fn lend_unit(&mut self, slot: SlotId) -> Option<[Filled; UNIT_SLICES]> {
        self.direct.as_mut()?.lend_unit(slot)
    }

    pub fn release_unit(&mut self, slot: SlotId, filled: Option<[Filled; UNIT_SLICES]>) {
        if let (Some(filled), Some(direct)) = (filled, &mut self.direct) {
            direct.give_back_unit(slot, filled);
        }
        if let Some(experts) = &mut self.experts {
            experts.cache().release(slot);
        }
    }

    /// The reason why a unit could not be had; it is read again when it is wanted again.
    pub fn take_unit_error(&mut self, store: &Store, unit: UnitId) -> ResidencyError {
        let slices = store.plan.extents().units()[unit.index()].slices;
        let errors = slices.map(|id| self.errors.remove(&id));
        self.forget_unit(store, unit);
        let first = errors.into_iter().flatten().next();
        first.unwrap_or(ResidencyError::Stalled { id: slices[0] })
    }

    fn start(&mut self, store: &Store, x: &Extent, issue: Issue) -> Result<(), ResidencyError> {
        let is_direct = match issue.to {
            Destination::Slot(slot) => {
                store.board.fill_slot(slot.0, x.id);
                self.drop_slot(&store.plan, slot)?;
                self.streaming == Streaming::Direct
            }
            Destination::Pinned => self.pinned_in == PinnedIn::Arena,
            Destination::Expert(_) => return Err(ResidencyError::Stalled { id: x.id }),
        };
        store.board.set(x.id, Whereabouts::Reading);
        let fault = |source| ResidencyError::Read { extent: *x, source };
        match (is_direct, &mut self.direct, &mut self.mapped) {
            (true, Some(direct), _) => {
                // Experts are demanded: the ring only runs ahead, and waits its turn.
                let ahead = self.experts.is_some();
                let priority = if ahead { Priority::Ahead } else { Priority::Demand };
                direct.start(x, issue, priority).map_err(fault)
            }
            (false, _, Some(mapped)) => {
                mapped.start(x, issue, issue.to == Destination::Pinned)?;
                if let (Destination::Slot(slot), Some(Placement::Streamed(tile))) =
                    (issue.to, store.plan.placement(x.id))
                {
                    self.in_slot[slot.0 as usize] = Some(tile);
                }
                Ok(())
            }
            _ => Err(ResidencyError::Stalled { id: x.id }),
        }
    }

    /// Mapped streaming: drops the tile that a slot stood for.
    fn drop_slot(&mut self, plan: &Plan, slot: SlotId) -> Result<(), ResidencyError> {
        if self.streaming != Streaming::Mapped {
            return Ok(());
        }
        let Some(place) = self.in_slot.get_mut(slot.0 as usize) else { return Ok(()) };
        let id = place.and_then(|tile| plan.streamed().get(tile as usize));
        if let (Some(mapped), Some(id)) = (&mut self.mapped, id) {
            mapped.drop_behind(&plan.extents()[id.index()])?;
        }
        // Not before: what was refused is dropped at the next try.
        *place = None;
        Ok(())
    }

    fn came(&mut self, store: &Store, x: &Extent, issue: Issue, read_bytes: u64) {
        store.board.set(x.id, Whereabouts::Memory);
        store.board.read(read_bytes);
        self.schedule.completed(issue, true);
    }

    fn fail(&mut self, store: &Store, x: &Extent, issue: Issue, error: ResidencyError) {
        store.board.set(x.id, Whereabouts::Disk);
        if self.schedule.completed(issue, false) {
            self.errors.insert(x.id, error);
        }
    }

    fn settle_direct(&mut self, store: &Store, arrival: Arrival) {
        let Arrival { issue, result, bytes } = arrival;
        self.figures.direct_bytes += bytes;
        let x = store.plan.extents()[issue.extent.index()];
        if let Destination::Expert(slot) = issue.to {
            let fault = |source| ResidencyError::Read { extent: x, source };
            return self.slice_done(store, &x, slot, result.map(|_| x.len).map_err(fault));
        }
        match result {
            Ok(filled) => {
                if let (Some(filled), Some(Residence::Arena(place))) =
                    (filled, store.residence.get(x.id.index()))
                {
                    // Set once: a pinned extent is read once into its own buffer.
                    let _ = place.set(filled);
                    self.pinned_bytes += x.len;
                }
                self.came(store, &x, issue, x.len);
            }
            Err(source) => {
                self.fail(store, &x, issue, ResidencyError::Read { extent: x, source });
            }
        }
    }

    fn settle_mapped(&mut self, store: &Store, done: Populated) {
        let Populated { issue, result, locked, read_bytes } = done;
        let x = store.plan.extents()[issue.extent.index()];
        if result.is_ok() {
            self.figures.populated_bytes += x.len;
            self.figures.populated_read_bytes += read_bytes;
        }
        if let Destination::Expert(slot) = issue.to {
            let fault = |source| ResidencyError::Read { extent: x, source };
            return self.slice_done(store, &x, slot, result.map(|()| read_bytes).map_err(fault));
        }
        match result {
            Ok(()) => {
                if issue.to == Destination::Pinned {
                    self.pinned_bytes += x.len;
                    self.locked_bytes += if locked { x.len } else { 0 };
                    store.set_here(x.id, true);
                }
                self.came(store, &x, issue, read_bytes);
                if self.schedule.pinned_complete() {
                    self.watch.begin();
                    // A helper that has died is found out by whoever waits for it.
                    let _ = self.mapped.as_mut().map(MappedLane::settle);
                }
            }
            Err(source) => {
                self.fail(store, &x, issue, ResidencyError::Read { extent: x, source });
            }
        }
    }

    /// Sleeps until something arrives in a lane.
    pub fn wait(
        &mut self,
        store: &Store,
        lane: Lane,
        deadline: Duration,
    ) -> Result<Wait, ResidencyError> {
        let is_direct = match lane {
            Lane::Ring | Lane::Experts => self.streaming == Streaming::Direct,
            Lane::Pinned => self.pinned_in == PinnedIn::Arena,
        };
        let wait = match (is_direct, &mut self.direct, &mut self.mapped) {
            (true, Some(direct), _) => match direct.wait(&store.plan, deadline) {
                Ok(Some(arrival)) => {
                    self.settle_direct(store, arrival);
                    Wait::Arrived
                }
                Ok(None) => Wait::NothingUnderWay,
                Err(Error::Hung { .. }) => Wait::TimedOut,
                Err(source) => {
                    return Err(ResidencyError::System { what: "direct reads", source });
                }
            },
            (false, _, Some(mapped)) if mapped.is_idle() => Wait::NothingUnderWay,
            (false, _, Some(mapped)) => match mapped.wait(deadline)? {
                Some(done) => {
                    self.settle_mapped(store, done);
                    Wait::Arrived
                }
                None => Wait::TimedOut,
            },
            _ => Wait::NothingUnderWay,
        };
        self.count_busy();
        Ok(wait)
    }

    /// The reason why an extent could not be had; it is read again when it is wanted again.
    pub fn take_error(&mut self, x: &Extent, to: Destination) -> ResidencyError {
        self.schedule.retry(x.id, to);
        self.errors.remove(&x.id).unwrap_or(ResidencyError::Stalled { id: x.id })
    }

    pub fn lend(&mut self, slot: SlotId) -> Option<Filled> {
        self.direct.as_mut()?.lend(slot)
    }

    pub fn release(&mut self, plan: &Plan, slot: SlotId, filled: Option<Filled>) {
        if let (Some(filled), Some(direct)) = (filled, &mut self.direct) {
            direct.give_back(slot, filled);
        }
        // A helper that has died is found out by whoever waits for it.
        let _ = self.drop_slot(plan, slot);
        self.schedule.release(slot);
    }

    /// Nothing is streamed and everything pinned is there: no more to do.
    pub fn is_settled(&self) -> bool {
        self.schedule.ring().slots().is_empty()
            && self.schedule.pinned_complete()
            && self.experts.as_ref().is_none_or(LiveExperts::is_idle)
    }

    pub fn pinned_figures(&self) -> (u64, u64) {
        (self.pinned_bytes, self.locked_bytes)
    }

    fn count_busy(&mut self) {
        let now = Instant::now();
        if let Some(since) = self.busy_since {
            self.figures.disk_busy_s += (now - since).as_secs_f64();
        }
        // A guess that waits for its turn is no work of the disk's.
        let idle = self.direct.as_ref().is_none_or(DirectLane::is_idle)
            && self.mapped.as_ref().is_none_or(MappedLane::is_idle);
        self.busy_since = (!idle).then_some(now);
    }

    /// Moves the lanes' figures into the pass's.
    pub fn take_figures(&mut self, pass: &mut PassStats) {
        pass.add(&std::mem::take(&mut self.figures));
    }

    /// The end: what was brought into the page cache for streaming goes, and the helpers when they have seen to it.
    pub fn close(&mut self, plan: &Plan) {
        if let Some(mapped) = &mut self.mapped {
            mapped.wait_for_room();
        }
        for i in 0..self.in_slot.len() {
            let _ = self.drop_slot(plan, SlotId(i as u32));
        }
        let present = self.experts.as_mut().map(|e| e.cache().present().collect::<Vec<_>>());
        for unit in present.into_iter().flatten() {
            let _ = self.drop_unit(plan, unit);
        }
        self.mapped = None;
    }
}

/// The files, opened a second time for direct reads.
pub(crate) fn direct_files(sources: &[Source]) -> Result<Vec<DirectFile>, ResidencyError> {
    let open = |s: &Source| DirectFile::of(s.file.file());
    let files: Result<Vec<_>, _> = sources.iter().map(open).collect();
    files.map_err(|source| ResidencyError::System { what: "opening for direct reads", source })
}
