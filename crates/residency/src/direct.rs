//! The direct lane: reads past the page cache into buffers of our own.

use std::time::Duration;

use lowtide_mapping::{
    Arena, Completion, DirectFile, Error, Priority, QueueOptions, ReadQueue, ReadRequest, Slot,
};

use crate::error::ResidencyError;
use crate::extent::{Extent, ExtentId, UNIT_SLICES, Use};
use crate::filling::Filling;
use crate::plan::{PAGE_BYTES, PinnedIn, Placement, Plan, Streaming};
use crate::ring::SlotId;
use crate::schedule::{Destination, Issue};

/// A buffer and where in it the wanted bytes lie.
#[derive(Debug)]
pub(crate) struct Filled {
    slot: Slot,
    start: usize,
    end: usize,
}

impl Filled {
    /// The bytes of the extent.
    pub fn bytes(&self) -> &[u8] {
        self.slot.as_slice().get(self.start..self.end).unwrap_or(&[])
    }
}

/// A read that has come back.
pub(crate) struct Arrival {
    pub issue: Issue,
    /// For pinned extents, their bytes; those of streamed tiles stay in the lane.
    pub result: Result<Option<Filled>, Error>,
    /// Bytes the disk delivered.
    pub bytes: u64,
}

/// A ring slot's buffer, when it is not inside the read queue or with a caller.
enum Buffer {
    Empty(Slot),
    Full(Filled),
    Away,
}

impl Buffer {
    /// The buffer, to be read into.
    fn take(&mut self) -> Option<Slot> {
        match std::mem::replace(self, Buffer::Away) {
            Buffer::Empty(slot) | Buffer::Full(Filled { slot, .. }) => Some(slot),
            Buffer::Away => None,
        }
    }

    /// What was read into it, to be lent out.
    fn lend(&mut self) -> Option<Filled> {
        match std::mem::replace(self, Buffer::Away) {
            Buffer::Full(filled) => Some(filled),
            other => {
                *self = other;
                None
            }
        }
    }
}

/// The read queue with its buffers.
pub(crate) struct DirectLane {
    queue: ReadQueue,
    ring: Vec<Buffer>,
    /// Buffers for pinned extents not yet read, by extent.
    pinned: Vec<Option<Slot>>,
    /// The cache of experts: for each slot a buffer for each slice.
    experts: Vec<ExpertBuffers>,
    filling: Option<Filling>,
    /// Where each slot of that cache ends, in bytes from the front.
    expert_ends: Vec<usize>,
}

impl DirectLane {
    /// Claims the memory: the ring, and the pinned arena where the plan wants one.
    pub fn open(
        files: Vec<DirectFile>,
        plan: &Plan,
        options: QueueOptions,
    ) -> Result<DirectLane, ResidencyError> {
        let system = |what| move |source| ResidencyError::System { what, source };
        let max_requests = options.max_requests.max(plan.slots as usize * 2 + EXPERT_REQUESTS_MAX);
        let options = QueueOptions { max_requests: max_requests.min(1 << 16), ..options };
        let mut queue = ReadQueue::new(files, options).map_err(system("the read queue"))?;
        let is_direct = plan.input.streaming == Streaming::Direct;
        let ring = match plan.sums.ring_bytes {
            bytes if is_direct && bytes > 0 => {
                let arena = arena(bytes)?;
                // Best effort: it saves the kernel a walk through the page tables at each read.
                queue.register(&[&arena]);
                arena.into_slots(to_usize(plan.slot_bytes)?)
            }
            _ => Vec::new(),
        };
        // Not registered, which would bring in and pin all of it.
        let ((experts, expert_ends), filling) = match plan.sums.expert_bytes {
            bytes if is_direct && bytes > 0 => {
                let lazy = Arena::lazy(to_usize(bytes)?).map_err(system("memory for experts"))?;
                (expert_slots(lazy.0, plan)?, Some(Filling::start(&lazy.1)?))
            }
            _ => Default::default(),
        };
        let pinned = match plan.input.pinned_in {
            PinnedIn::Arena => pinned_slots(plan)?,
            PinnedIn::Mapping => Vec::new(),
        };
        let ring = ring.into_iter().map(Buffer::Empty).collect();
        Ok(DirectLane { queue, ring, pinned, experts, filling, expert_ends })
    }

    /// What reads.
    pub fn backend(&self) -> lowtide_mapping::Backend {
        self.queue.backend()
    }

    /// Slots of experts, from the front, that can be read into without bringing in memory.
    pub fn expert_slots_there(&self) -> u32 {
        self.expert_slots_within(self.filling.as_ref().map_or(usize::MAX, Filling::there))
    }

    /// Slots of experts, from the front, that experts which stay may take.
    pub fn expert_slots_usable(&self) -> u32 {
        self.expert_slots_within(self.filling.as_ref().map_or(usize::MAX, Filling::usable))
    }

    fn expert_slots_within(&self, bytes: usize) -> u32 {
        let slots = self.expert_ends.partition_point(|&end| end <= bytes);
        u32::try_from(slots).unwrap_or(u32::MAX)
    }

    /// Whether nothing is with the disk.
    pub fn is_idle(&self) -> bool {
        self.queue.in_flight() == 0
    }

    /// Starts a read; does not wait.
    pub fn start(&mut self, x: &Extent, issue: Issue, priority: Priority) -> Result<(), Error> {
        if let (Destination::Expert(SlotId(i)), Some(filling)) = (issue.to, &self.filling)
            && let Some(&end) = self.expert_ends.get(i as usize)
        {
            filling.used_until(end);
        }
        let slot = match issue.to {
            Destination::Slot(SlotId(i)) => self.ring[i as usize].take(),
            Destination::Pinned => self.pinned.get_mut(x.id.index()).and_then(Option::take),
            Destination::Expert(_) => self.expert_buffer(x, issue.to).and_then(Buffer::take),
        };
        let Some(slot) = slot else {
            return Err(Error::NotAllowed {
                operation: "a second read into a buffer in use",
                place: lowtide_mapping::Place::anonymous(x.offset, x.len),
                why: "its first read has not come back",
            });
        };
        let request = ReadRequest {
            token: token(issue),
            file: x.source.0 as usize,
            offset: x.offset,
            // Slots are at least as long as the extent, so it fits.
            length: usize::try_from(x.len).unwrap_or(usize::MAX),
            slot,
            priority,
        };
        self.queue.submit(request).map_err(|rejected| {
            self.put_back(x, issue, rejected.slot);
            rejected.error
        })
    }

    /// Whether the disk has time for a guess.
    pub fn takes_guess(&self) -> bool {
        self.queue.takes_guess()
    }

    /// A guess is needed after all; nothing where it is none, or has come back.
    pub fn promote(&mut self, issue: Issue) {
        self.queue.promote_guess(token(issue));
    }

    /// Guesses that have not begun come back as cancelled.
    pub fn cancel_guesses(&mut self) {
        self.queue.cancel_guesses();
    }

    fn put_back(&mut self, x: &Extent, issue: Issue, slot: Slot) {
        match issue.to {
            Destination::Slot(SlotId(i)) => self.ring[i as usize] = Buffer::Empty(slot),
            Destination::Pinned => self.pinned[issue.extent.index()] = Some(slot),
            Destination::Expert(_) => {
                if let Some(buffer) = self.expert_buffer(x, issue.to) {
                    *buffer = Buffer::Empty(slot);
                }
            }
        }
    }

    /// The buffer of an expert's slice.
    fn expert_buffer(&mut self, x: &Extent, to: Destination) -> Option<&mut Buffer> {
        match (x.usage, to) {
            (Use::Expert { slice, .. }, Destination::Expert(SlotId(i))) => {
                self.experts.get_mut(i as usize)?.get_mut(usize::from(slice))
            }
            _ => None,
        }
    }

    /// Lends the filled buffers of a unit to the caller; `None` if one is not filled.
    pub fn lend_unit(&mut self, slot: SlotId) -> Option<[Filled; UNIT_SLICES]> {
        let [a, b, c] = self.experts.get_mut(slot.0 as usize)?;
        match (a.lend(), b.lend(), c.lend()) {
            (Some(x), Some(y), Some(z)) => Some([x, y, z]),
            (x, y, z) => {
                for (buffer, filled) in [(a, x), (b, y), (c, z)] {
                    if let Some(filled) = filled {
                        *buffer = Buffer::Full(filled);
                    }
                }
                None
            }
        }
    }

    /// Takes them back, as they were.
    pub fn give_back_unit(&mut self, slot: SlotId, filled: [Filled; UNIT_SLICES]) {
        if let Some(buffers) = self.experts.get_mut(slot.0 as usize) {
            *buffers = filled.map(Buffer::Full);
        }
    }

    /// A read that has come back, without waiting. Keeps the disk busy.
    pub fn poll(&mut self, plan: &Plan) -> Result<Option<Arrival>, Error> {
        let completion = self.queue.try_complete()?;
        Ok(completion.map(|c| self.arrival(plan, c)))
    }

    /// Waits for a read to come back; `None` if none is under way.
    pub fn wait(&mut self, plan: &Plan, timeout: Duration) -> Result<Option<Arrival>, Error> {
        let queue = &mut self.queue;
        let completion = match &self.filling {
            Some(filling) => filling.meanwhile(|| queue.wait_complete(timeout)),
            None => queue.wait_complete(timeout),
        }?;
        Ok(completion.map(|c| self.arrival(plan, c)))
    }

    fn arrival(&mut self, plan: &Plan, completion: Completion) -> Arrival {
        let issue = issue(completion.token);
        let x = plan.extents()[issue.extent.index()];
        let Completion { slot, result, .. } = completion;
        match result {
            Ok(range) => {
                let bytes = range.len() as u64;
                let filled = Filled { slot, start: range.start, end: range.end };
                let kept = match issue.to {
                    Destination::Slot(SlotId(i)) => {
                        self.ring[i as usize] = Buffer::Full(filled);
                        None
                    }
                    Destination::Pinned => Some(filled),
                    Destination::Expert(_) => {
                        if let Some(buffer) = self.expert_buffer(&x, issue.to) {
                            *buffer = Buffer::Full(filled);
                        }
                        None
                    }
                };
                Arrival { issue, result: Ok(kept), bytes }
            }
            Err(error) => {
                self.put_back(&x, issue, slot);
                Arrival { issue, result: Err(error), bytes: 0 }
            }
        }
    }

    /// Lends a filled ring buffer to the caller.
    pub fn lend(&mut self, slot: SlotId) -> Option<Filled> {
        self.ring[slot.0 as usize].lend()
    }

    /// Takes it back.
    pub fn give_back(&mut self, slot: SlotId, filled: Filled) {
        self.ring[slot.0 as usize] = Buffer::Empty(filled.slot);
    }
}

fn arena(bytes: u64) -> Result<Arena, ResidencyError> {
    Arena::new(to_usize(bytes)?)
        .map_err(|source| ResidencyError::System { what: "memory for weights", source })
}

fn to_usize(bytes: u64) -> Result<usize, ResidencyError> {
    usize::try_from(bytes)
        .map_err(|_| ResidencyError::Unknown { what: format!("a buffer of {bytes} bytes") })
}

/// One buffer per pinned extent, cut from one arena in order of use.
fn pinned_slots(plan: &Plan) -> Result<Vec<Option<Slot>>, ResidencyError> {
    let mut slots: Vec<Option<Slot>> = plan.extents().iter().map(|_| None).collect();
    let pinned = |id: ExtentId| plan.placement(id) == Some(Placement::Pinned);
    let span = |x: &Extent| {
        let r = x.aligned(PAGE_BYTES);
        r.end - r.start
    };
    let sum: u64 = plan.extents().iter().filter(|x| pinned(x.id)).map(span).sum();
    if sum == 0 {
        return Ok(slots);
    }
    let mut rest = Some(arena(sum)?.into_slot());
    for x in plan.extents().iter().filter(|x| pinned(x.id)) {
        let cut = rest.take().map(|r| r.split_at(to_usize(span(x)).unwrap_or(usize::MAX)));
        match cut {
            Some(Ok((slot, behind))) => {
                slots[x.id.index()] = Some(slot);
                rest = Some(behind);
            }
            _ => return Err(ResidencyError::Stalled { id: x.id }),
        }
    }
    Ok(slots)
}

/// The buffers of a slot of the cache of experts.
type ExpertBuffers = [Buffer; UNIT_SLICES];

/// The buffers of that cache, and where each slot ends.
fn expert_slots(
    arena: Arena,
    plan: &Plan,
) -> Result<(Vec<ExpertBuffers>, Vec<usize>), ResidencyError> {
    let unknown = || ResidencyError::Unknown { what: "a slot for an expert".into() };
    let mut rest = arena.into_slot();
    let mut end = 0;
    let (mut slots, mut ends) = (Vec::new(), Vec::new());
    for class in plan.experts.class_of_slot() {
        let mut buffers = [const { Buffer::Away }; UNIT_SLICES];
        for (buffer, span) in
            buffers.iter_mut().zip(plan.experts.classes()[usize::from(class)].spans)
        {
            let span = to_usize(span)?;
            let (slot, behind) = rest.split_at(span).map_err(|_| unknown())?;
            (*buffer, rest, end) = (Buffer::Empty(slot), behind, end + span);
        }
        slots.push(buffers);
        ends.push(end);
    }
    Ok((slots, ends))
}

/// Reads of experts that may be inside the queue: those of a layer, and guesses.
const EXPERT_REQUESTS_MAX: usize = 512;

const PINNED: u32 = u32::MAX;

/// Marks a slot as one of the cache of experts. Plans have at most 2^16 slots in a ring, and fewer
/// than 2^31 units.
const EXPERT: u32 = 1 << 31;

fn token(issue: Issue) -> u64 {
    let to = match issue.to {
        Destination::Slot(slot) => slot.0,
        Destination::Expert(slot) => slot.0 | EXPERT,
        Destination::Pinned => PINNED,
    };
    u64::from(issue.extent.0) << 32 | u64::from(to)
}

fn issue(token: u64) -> Issue {
    let to = match token as u32 {
        PINNED => Destination::Pinned,
        slot if slot & EXPERT != 0 => Destination::Expert(SlotId(slot & !EXPERT)),
        slot => Destination::Slot(SlotId(slot)),
    };
    Issue { extent: ExtentId((token >> 32) as u32), to }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_carry_the_issue() {
        let (zero, some) = (SlotId(0), SlotId(77));
        let slots = [Destination::Slot(zero), Destination::Slot(some)];
        let experts = [Destination::Expert(zero), Destination::Expert(some)];
        for to in slots.into_iter().chain(experts).chain([Destination::Pinned]) {
            for extent in [0, 1, u32::MAX] {
                let i = Issue { extent: ExtentId(extent), to };
                assert_eq!(issue(token(i)), i);
            }
        }
    }
}
