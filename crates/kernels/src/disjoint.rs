//! A slice that several threads write at once, each its own part.
#![allow(unsafe_code, reason = "threads write disjoint parts of one slice")]

use std::marker::PhantomData;
use std::ops::Range;

/// A mutable slice whose parts are handed out by index range; who hands out sees to it that no two
/// parts that are alive together overlap.
#[derive(Copy, Clone)]
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    lifetime: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a `&mut [T]` whose parts go to different threads, which `T: Send` allows;
// the only access is `part`, whose callers keep the parts disjoint.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Borrows the whole slice for as long as parts may be used.
    pub(crate) fn new(slice: &'a mut [T]) -> Disjoint<'a, T> {
        Disjoint { start: slice.as_mut_ptr(), len: slice.len(), lifetime: PhantomData }
    }

    /// The part at `range`.
    ///
    /// # Safety
    /// No other part that overlaps it is alive.
    ///
    /// # Panics
    /// If the range does not lie in the slice.
    #[inline]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part outside of the slice");
        // SAFETY: the range was checked against the length just now.
        let start = unsafe { self.start.add(range.start) };
        // SAFETY: in range, and the caller promises that nothing else refers to these elements.
        unsafe { std::slice::from_raw_parts_mut(start, range.end - range.start) }
    }
}
