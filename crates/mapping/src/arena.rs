//! Buffers that direct reads go to: one anonymous mapping of huge pages, charged up front, handed out
//! as [`Slot`]s that own disjoint parts of it.
//!
//! Owning slots are what makes asynchronous reads safe without `unsafe` in the callers: a slot moves
//! into the read queue, is written by the kernel while nobody can reach it, and comes back with the
//! completion. The memory is unmapped when the last slot is gone.

use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::page::{HUGE_PAGE_BYTES, align_down, align_up, page_size};
use crate::sys::{self, MmapArguments};
use crate::{Error, Place};

/// The mapping below all slots of an arena.
#[derive(Debug)]
struct Memory {
    base: NonNull<u8>,
    length: usize,
}

// SAFETY: Memory only owns addresses; the bytes are reached through slots, which are disjoint.
unsafe impl Send for Memory {}
// SAFETY: as above; no method of Memory touches the bytes.
unsafe impl Sync for Memory {}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: `map` made this range, and the last slot (hence the last reference) is gone.
        // A failure would mean the range is not ours, which cannot be; there is nobody to tell.
        let _ = unsafe { sys::munmap(self.base, self.length) };
    }
}

/// Memory for reads: anonymous, aligned to 2 MiB, advised to huge pages. After [`Arena::new`] every page is
/// present, and so charged to the memory cgroup; after [`Arena::lazy`] pages come as they are filled.
///
/// # Examples
/// ```
/// use lowtide_mapping::Arena;
/// let slots = Arena::new(4 << 20)?.into_slots(1 << 20);
/// assert_eq!(slots.len(), 4);
/// # Ok::<(), lowtide_mapping::Error>(())
/// ```
#[derive(Debug)]
pub struct Arena {
    memory: Arc<Memory>,
    huge: bool,
}

impl Arena {
    /// Maps and prefaults `bytes`, rounded up to whole pages.
    ///
    /// Prefaulting beyond a cgroup's limit is answered by the kernel's OOM killer, not by an error:
    /// compare with [`crate::MemoryLimits`] first.
    ///
    /// # Errors
    /// `ZeroLength`, `TooLong`, `Map` (no memory), `Advise` (prefaulting failed).
    pub fn new(bytes: usize) -> Result<Self, Error> {
        let arena = Self::map(bytes)?;
        populate(&arena.memory, 0..arena.len())?;
        Ok(arena)
    }

    /// Maps `bytes`, rounded up to whole pages, and brings none of them in: the [`Filler`] does that, beside
    /// other work. A page that is needed earlier comes when it is first read into. Where a hypervisor hands
    /// memory out only when it is touched, a gigabyte can take seconds.
    ///
    /// # Errors
    /// `ZeroLength`, `TooLong`, `Map` (no memory).
    pub fn lazy(bytes: usize) -> Result<(Self, Filler), Error> {
        let arena = Self::map(bytes)?;
        let filler = Filler { memory: Arc::clone(&arena.memory) };
        Ok((arena, filler))
    }

    fn map(bytes: usize) -> Result<Self, Error> {
        if bytes == 0 {
            return Err(Error::ZeroLength { what: "an arena" });
        }
        let too_long = || Error::TooLong { what: "an arena", length: bytes as u64 };
        let length = align_up(bytes, page_size()).ok_or_else(too_long)?;
        let memory = map(length, length.checked_add(HUGE_PAGE_BYTES).ok_or_else(too_long)?)?;
        // A kernel without huge pages says EINVAL: slower, not wrong.
        // SAFETY: the range is ours, and this advice changes no byte.
        let huge = unsafe { sys::madvise(memory.base, memory.length, libc::MADV_HUGEPAGE) }.is_ok();
        Ok(Self { memory: Arc::new(memory), huge })
    }

    /// Length in bytes, a multiple of the page size.
    #[must_use]
    pub fn len(&self) -> usize {
        self.memory.length
    }

    /// Always false: an arena of no bytes cannot be made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.memory.length == 0
    }

    /// Whether the kernel took the advice to use huge pages.
    #[must_use]
    pub fn is_huge_page_advised(&self) -> bool {
        self.huge
    }

    /// The whole arena as one slot.
    #[must_use]
    pub fn into_slot(self) -> Slot {
        Slot { range: 0..self.memory.length, memory: self.memory }
    }

    /// As many slots of `slot_bytes` as fit, in ascending order; a rest too short for a slot is
    /// appended to none. `slot_bytes` 0 gives no slots.
    #[must_use]
    pub fn into_slots(self, slot_bytes: usize) -> Vec<Slot> {
        let count = self.memory.length.checked_div(slot_bytes).unwrap_or(0);
        let slot = |index: usize| Slot {
            range: index * slot_bytes..(index + 1) * slot_bytes,
            memory: Arc::clone(&self.memory),
        };
        (0..count).map(slot).collect()
    }

    /// A handle that keeps the memory mapped and tells where it lies, for buffer registration.
    pub(crate) fn region(&self) -> Region {
        Region { memory: Arc::clone(&self.memory) }
    }
}

/// Keeps an arena's memory mapped (registered buffers need it to stay).
#[derive(Debug)]
pub(crate) struct Region {
    memory: Arc<Memory>,
}

impl Region {
    /// First byte and length.
    pub(crate) fn parts(&self) -> (*mut u8, usize) {
        (self.memory.base.as_ptr(), self.memory.length)
    }
}

/// Reserves `reserved` bytes and keeps `length` of them, 2 MiB aligned.
fn map(length: usize, reserved: usize) -> Result<Memory, Error> {
    let arguments = MmapArguments {
        address: 0,
        length: reserved,
        protection: libc::PROT_READ | libc::PROT_WRITE,
        flags: libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        file: None,
        offset: 0,
    };
    let fail = |source| Error::Map { place: Place::anonymous(0, length as u64), source };
    // SAFETY: no MAP_FIXED.
    let whole = unsafe { sys::mmap(&arguments) }.map_err(fail)?;
    let address = whole.addr().get();
    // The reservation is one huge page longer than needed, so rounding up stays inside it.
    let head = align_down(address + HUGE_PAGE_BYTES - 1, HUGE_PAGE_BYTES) - address;
    // SAFETY: head < HUGE_PAGE_BYTES, and the reservation is longer than that.
    let base = unsafe { whole.add(head) };
    if head > 0 {
        // SAFETY: the first `head` bytes (whole pages) were mapped above and nobody has seen them.
        unsafe { sys::munmap(whole, head) }.map_err(fail)?;
    }
    let tail = reserved - head - length;
    if tail > 0 {
        // SAFETY: base + length is inside the reservation, since tail > 0 bytes follow it.
        let end = unsafe { base.add(length) };
        // SAFETY: these are the last `tail` bytes (whole pages) of the reservation.
        unsafe { sys::munmap(end, tail) }.map_err(fail)?;
    }
    Ok(Memory { base, length })
}

/// Brings in the pages of a lazy arena, on whatever threads it is sent to.
#[derive(Clone, Debug)]
pub struct Filler {
    memory: Arc<Memory>,
}

impl Filler {
    /// Bytes of the arena.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.memory.length
    }

    /// Brings in the bytes `range`, as far as there are such.
    ///
    /// # Errors
    /// `Advise`: the kernel is older than Linux 5.14, or has no memory.
    pub fn fill(&self, range: Range<usize>) -> Result<(), Error> {
        let end = range.end.min(self.memory.length);
        if range.start >= end {
            return Ok(());
        }
        advise_populate(&self.memory, range.start..end)
    }
}

/// Makes every page of `range` present and writable; nobody else has the memory yet.
fn populate(memory: &Memory, range: Range<usize>) -> Result<(), Error> {
    match advise_populate(memory, range.clone()) {
        // Before Linux 5.14: write to each page.
        Err(Error::Advise { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {
            for offset in range.step_by(page_size()) {
                // SAFETY: the callers' ranges end at the mapping's length.
                let byte = unsafe { memory.base.add(offset) };
                // SAFETY: the byte is mapped writable and nobody else has the arena yet.
                unsafe { byte.write_volatile(0) };
            }
            Ok(())
        }
        result => result,
    }
}

/// Makes every page of `range` present and writable, whoever writes to them meanwhile: no byte changes.
fn advise_populate(memory: &Memory, range: Range<usize>) -> Result<(), Error> {
    // SAFETY: the callers' ranges lie inside the mapping.
    let start = unsafe { memory.base.add(range.start) };
    // SAFETY: the range is ours and this advice changes no byte.
    match unsafe { sys::madvise(start, range.len(), libc::MADV_POPULATE_WRITE) } {
        Ok(()) => Ok(()),
        Err(source) => Err(Error::Advise {
            call: "madvise(MADV_POPULATE_WRITE)",
            place: Place::anonymous(range.start as u64, range.len() as u64),
            source,
        }),
    }
}

/// A part of an [`Arena`] that belongs to its holder alone.
pub struct Slot {
    memory: Arc<Memory>,
    range: Range<usize>,
}

impl Slot {
    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.range.len()
    }

    /// Whether the slot has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.range.is_empty()
    }

    /// Where the slot starts in its arena, in bytes.
    #[must_use]
    pub fn start(&self) -> usize {
        self.range.start
    }

    /// The bytes: zero before the first read, then what the last reads left.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: Arena and split_at keep ranges inside the mapping and disjoint; anonymous pages are
        // initialised, present or not (zero or read into); the borrow of self keeps writers away.
        unsafe { std::slice::from_raw_parts(self.pointer(), self.range.len()) }
    }

    /// The bytes, writable.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in as_slice, and the exclusive borrow of self is the only way to these bytes.
        unsafe { std::slice::from_raw_parts_mut(self.pointer(), self.range.len()) }
    }

    /// Two slots out of one, the first `bytes` long.
    ///
    /// # Errors
    /// The slot itself, where it is shorter than `bytes`.
    pub fn split_at(self, bytes: usize) -> Result<(Self, Self), Self> {
        if bytes > self.len() {
            return Err(self);
        }
        let middle = self.range.start + bytes;
        let first = Self { memory: Arc::clone(&self.memory), range: self.range.start..middle };
        Ok((first, Self { memory: self.memory, range: middle..self.range.end }))
    }

    /// One slot out of two neighbours.
    ///
    /// # Errors
    /// Both slots as they were, where `next` does not begin where `self` ends in the same arena.
    pub fn join(self, next: Self) -> Result<Self, (Self, Self)> {
        if !Arc::ptr_eq(&self.memory, &next.memory) || self.range.end != next.range.start {
            return Err((self, next));
        }
        Ok(Self { memory: self.memory, range: self.range.start..next.range.end })
    }

    /// First byte, for the kernel to write to while the slot is inside a read queue.
    pub(crate) fn pointer(&self) -> *mut u8 {
        // SAFETY: range.start <= memory.length by construction.
        unsafe { self.memory.base.as_ptr().add(self.range.start) }
    }

    /// Keeps the memory mapped for ever: the last resort where a read that cannot be stopped may
    /// still write to it.
    pub(crate) fn leak(self) {
        std::mem::forget(self.memory);
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Slot({}..{})", self.range.start, self.range.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arena_is_aligned_zeroed_and_all_present() {
        let arena = Arena::new((4 << 20) + 1).unwrap();
        assert_eq!(arena.len(), (4 << 20) + page_size());
        let slot = arena.into_slot();
        assert_eq!(slot.pointer().addr() % HUGE_PAGE_BYTES, 0);
        assert!(slot.as_slice().iter().all(|&byte| byte == 0));
        let pages = slot.len() / page_size();
        let mut present = vec![0u8; pages];
        // SAFETY: the slot's pages are mapped, and `present` has a byte for each.
        let result =
            unsafe { libc::mincore(slot.pointer().cast(), slot.len(), present.as_mut_ptr()) };
        assert_eq!(result, 0);
        assert!(present.iter().all(|&byte| byte & 1 == 1));
    }

    #[test]
    fn a_lazy_arena_is_filled_beside_its_use() {
        let (arena, filler) = Arena::lazy((8 << 20) + 5).unwrap();
        let length = arena.len();
        let mut slot = arena.into_slot();
        let present = |slot: &Slot| {
            let mut present = vec![0u8; slot.len() / page_size()];
            // SAFETY: the slot's pages are mapped, and `present` has a byte for each.
            let result =
                unsafe { libc::mincore(slot.pointer().cast(), slot.len(), present.as_mut_ptr()) };
            assert_eq!(result, 0);
            present.iter().filter(|&&byte| byte & 1 == 1).count() * page_size()
        };
        assert_eq!(present(&slot), 0);
        slot.as_mut_slice().fill(7);
        assert_eq!(filler.bytes(), length);
        filler.fill(0..2 << 20).unwrap();
        filler.fill(2 << 20..usize::MAX).unwrap();
        filler.fill(length..length + 1).unwrap();
        assert!(slot.as_slice().iter().all(|&byte| byte == 7), "filling changed a byte");
        drop(filler);
        let (arena, filler) = Arena::lazy(4 << 20).unwrap();
        let slot = arena.into_slot();
        filler.fill(0..2 << 20).unwrap();
        assert_eq!(present(&slot), 2 << 20);
    }

    #[test]
    fn slots_are_disjoint_and_keep_the_memory() {
        let mut slots = Arena::new(1 << 20).unwrap().into_slots(256 << 10);
        assert_eq!(slots.len(), 4);
        for (index, slot) in slots.iter_mut().enumerate() {
            slot.as_mut_slice().fill(index as u8 + 1);
        }
        for (index, slot) in slots.iter().enumerate() {
            assert!(slot.as_slice().iter().all(|&byte| byte == index as u8 + 1));
        }
        let last = slots.pop().unwrap();
        drop(slots);
        assert_eq!(last.as_slice()[0], 4);
    }

    #[test]
    fn split_and_join() {
        let slot = Arena::new(1 << 20).unwrap().into_slot();
        let slot = slot.split_at((1 << 20) + 1).unwrap_err();
        let (left, right) = slot.split_at(4096).unwrap();
        assert_eq!((left.len(), right.len()), (4096, (1 << 20) - 4096));
        let (right, left) = right.join(left).unwrap_err();
        assert_eq!(left.join(right).unwrap().len(), 1 << 20);
        let other = Arena::new(4096).unwrap().into_slot();
        let (a, b) = Arena::new(8192).unwrap().into_slot().split_at(4096).unwrap();
        assert!(other.join(b).is_err());
        drop(a);
    }

    #[test]
    fn senseless_arenas_are_errors() {
        assert!(matches!(Arena::new(0), Err(Error::ZeroLength { .. })));
        assert!(matches!(Arena::new(usize::MAX - 5), Err(Error::TooLong { .. })));
        assert!(matches!(Arena::new(1 << 60), Err(Error::Map { .. })));
        assert!(Arena::new(4096).unwrap().into_slots(0).is_empty());
    }
}
