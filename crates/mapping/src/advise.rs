//! Telling the kernel what is coming: `madvise` with advice that never changes what the bytes read as.
//! (What does, is [`Mapping::discard`], which needs the mapping for itself.)

use std::ops::Range;

use crate::mapping::Mapping;
use crate::page::page_size;
use crate::populate::PopulateMethod;
use crate::request::Sharing;
use crate::{Error, sys};

/// Advice about a range of a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Advice {
    /// The default: read ahead a window of the disk's `read_ahead_kb`.
    Normal,
    /// No reading ahead. It also turns explicit populating into reads of single pages (measured: 0.1
    /// GB/s), so never on what is streamed; of whole huge pages where [`Mapping::read_by_huge_pages`] asked for them.
    Random,
    /// Read ahead twice the window and let go early of what was passed.
    Sequential,
    /// Start reading now, and return at once.
    WillNeed,
    /// Move to the head of the queue for reclaim (Linux 5.4).
    Cold,
    /// Reclaim now: unmapped and, if clean, dropped from the page cache (Linux 5.4). Pages that another
    /// process maps stay.
    PageOut,
    /// Back with huge pages.
    HugePages,
    /// Never back with huge pages.
    NoHugePages,
    /// Leave out of core dumps.
    DontDump,
    /// Do not give to children.
    DontFork,
}

impl Advice {
    fn number(self) -> libc::c_int {
        match self {
            Self::Normal => libc::MADV_NORMAL,
            Self::Random => libc::MADV_RANDOM,
            Self::Sequential => libc::MADV_SEQUENTIAL,
            Self::WillNeed => libc::MADV_WILLNEED,
            Self::Cold => libc::MADV_COLD,
            Self::PageOut => libc::MADV_PAGEOUT,
            Self::HugePages => libc::MADV_HUGEPAGE,
            Self::NoHugePages => libc::MADV_NOHUGEPAGE,
            Self::DontDump => libc::MADV_DONTDUMP,
            Self::DontFork => libc::MADV_DONTFORK,
        }
    }

    fn call(self) -> &'static str {
        match self {
            Self::Normal => "madvise(MADV_NORMAL)",
            Self::Random => "madvise(MADV_RANDOM)",
            Self::Sequential => "madvise(MADV_SEQUENTIAL)",
            Self::WillNeed => "madvise(MADV_WILLNEED)",
            Self::Cold => "madvise(MADV_COLD)",
            Self::PageOut => "madvise(MADV_PAGEOUT)",
            Self::HugePages => "madvise(MADV_HUGEPAGE)",
            Self::NoHugePages => "madvise(MADV_NOHUGEPAGE)",
            Self::DontDump => "madvise(MADV_DONTDUMP)",
            Self::DontFork => "madvise(MADV_DONTFORK)",
        }
    }
}

impl Mapping {
    /// Gives advice for every page that `range` (bytes of the mapping) touches.
    ///
    /// # Errors
    /// `OutsideMapping`, `ZeroLength`; `Advise` where the kernel refuses (`EINVAL`: it does not know the
    /// advice).
    pub fn advise(&self, range: Range<usize>, advice: Advice) -> Result<(), Error> {
        let pages = self.pages_around(&range)?;
        let (base, length) = (self.pointer(pages.start), pages.len());
        // SAFETY: pages_around gives whole pages of this mapping, and no Advice changes a byte.
        unsafe { sys::madvise(base, length, advice.number()) }.map_err(|source| Error::Advise {
            call: advice.call(),
            place: self.place(&range),
            source,
        })
    }

    /// Starts reading the pages of a range and returns at once. Errors of the disk show up when the pages
    /// are populated.
    ///
    /// # Errors
    /// Those of [`Mapping::advise`].
    pub fn will_need(&self, range: Range<usize>) -> Result<(), Error> {
        self.advise(range, Advice::WillNeed)
    }

    /// Has the first touch of a page bring in the whole block of 2 MiB around it, as one folio of the page cache that
    /// one entry maps, and no more than that; true if this kernel does. What is in the page cache already in
    /// smaller folios stays so, and file systems without large folios read as much in small ones.
    ///
    /// By itself a fault under `MADV_HUGEPAGE` reads two blocks and marks the second for reading on, by windows of the disk's
    /// readahead, whose small folios then lie where the next blocks should; `MADV_RANDOM` stops that
    /// (`do_sync_mmap_readahead` in mm/filemap.c; before Linux 5.18 it read single pages instead).
    ///
    /// # Errors
    /// `OutsideMapping`, `ZeroLength`.
    pub fn read_by_huge_pages(&self, range: Range<usize>) -> Result<bool, Error> {
        self.pages_around(&range)?;
        // The populate that is known to need nothing before it is of Linux 6.9.
        Ok(PopulateMethod::of_this_kernel() == PopulateMethod::Madvise
            && self.advise(range.clone(), Advice::HugePages).is_ok()
            && self.advise(range, Advice::Random).is_ok())
    }

    /// Advice for the whole mapping that a kernel need not know: one without huge pages, say, refuses advice about
    /// them, and goes on as if it had not been given.
    pub fn advise_if_known(&self, advice: Advice) {
        let _ = self.advise(0..self.len(), advice);
    }

    /// Gives the memory of the whole pages inside `range` back. What they read as afterwards: anonymous
    /// private memory, zero; a private file mapping, the file again, without what was written here.
    /// Returns how many bytes it was.
    ///
    /// # Errors
    /// `OutsideMapping`, `ZeroLength`; `Advise`.
    pub fn discard(&mut self, range: Range<usize>) -> Result<usize, Error> {
        let pages = self.pages_inside(&range)?;
        self.drop_pages(&pages)?;
        Ok(pages.len())
    }

    /// Whether dropping pages from this mapping loses nothing: what they held is in the file.
    pub(crate) fn pages_can_be_dropped(&self) -> bool {
        let written_to_file = self.sharing() == Sharing::Shared || !self.protection().can_write();
        self.file().is_some() && written_to_file
    }

    /// `MADV_DONTNEED` on whole pages (which may be none).
    pub(crate) fn drop_pages(&self, pages: &Range<usize>) -> Result<(), Error> {
        debug_assert!(pages.start.is_multiple_of(page_size()));
        if pages.is_empty() {
            return Ok(());
        }
        // SAFETY: whole pages of this mapping; the callers hold `&mut self` or have established with
        // pages_can_be_dropped that the bytes read the same afterwards.
        unsafe { sys::madvise(self.pointer(pages.start), pages.len(), libc::MADV_DONTNEED) }
            .map_err(|source| Error::Advise {
                call: "madvise(MADV_DONTNEED)",
                place: self.place(pages),
                source,
            })
    }
}
