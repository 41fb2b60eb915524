//! Letting pages go: from this process, and from the page cache.
//!
//! Two calls are needed (measured): `MADV_DONTNEED` takes pages out of this process (RSS) and leaves them in
//! the page cache; `posix_fadvise(POSIX_FADV_DONTNEED)` takes them out of the page cache, but only those that
//! nobody maps. `MADV_PAGEOUT` does both at once for pages that this process alone maps.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;

use crate::advise::Advice;
use crate::error::file_name;
use crate::mapping::Mapping;
use crate::{Error, Place, sys};

impl Mapping {
    /// Drops the whole pages inside `range` from this process and from the page cache; pages that lie in
    /// the range only in part stay, because they are their neighbours' too. The bytes read the same
    /// afterwards: from the disk. Returns how many bytes were let go of (as [`Mapping::resident_pages`]
    /// can confirm: what another process maps, or the disk has not yet got, stays in the cache).
    ///
    /// # Errors
    /// `OutsideMapping`, `ZeroLength`; `NotAllowed` where the bytes would be lost (anonymous memory, a
    /// writable private mapping: use [`Mapping::discard`]); `Advise`.
    pub fn evict(&self, range: Range<usize>) -> Result<usize, Error> {
        let pages = self.pages_inside(&range)?;
        let file = self.droppable_file("evicting")?;
        if pages.is_empty() {
            return Ok(0);
        }
        self.drop_pages(&pages)?;
        let offset = self.file_offset() + pages.start as u64;
        drop_from_cache(file, offset, pages.len() as u64)?;
        Ok(pages.len())
    }

    /// Drops the whole pages inside `range` from this process only: they leave RSS and stay in the page
    /// cache, from where they come back without I/O. Returns how many bytes that concerned.
    ///
    /// # Errors
    /// As [`Mapping::evict`].
    pub fn unmap_pages(&self, range: Range<usize>) -> Result<usize, Error> {
        let pages = self.pages_inside(&range)?;
        self.droppable_file("unmapping pages")?;
        self.drop_pages(&pages)?;
        Ok(pages.len())
    }

    /// Asks for immediate reclaim of the whole pages inside `range` (`MADV_PAGEOUT`): unmapped, written
    /// back if need be, and dropped. Loses nothing on any mapping (anonymous memory goes to swap, or stays where
    /// there is none). The kernel refuses silently for a file that this process neither owns nor may
    /// write to. Returns how many bytes it was asked for.
    ///
    /// # Errors
    /// `OutsideMapping`, `ZeroLength`; `Advise` (`EINVAL`: before Linux 5.4, or locked pages).
    pub fn page_out(&self, range: Range<usize>) -> Result<usize, Error> {
        let pages = self.pages_inside(&range)?;
        if pages.is_empty() {
            return Ok(0);
        }
        self.advise(pages.start..pages.end.min(self.len()), Advice::PageOut)?;
        Ok(pages.len())
    }

    fn droppable_file(&self, operation: &'static str) -> Result<&File, Error> {
        match self.file() {
            Some(file) if self.pages_can_be_dropped() => Ok(file),
            Some(_) => Err(self.not_allowed(operation, "what was written here would be lost")),
            None => Err(self.not_allowed(operation, "anonymous memory would lose its bytes")),
        }
    }
}

/// Drops a whole file from the page cache, dirty pages written first. Pages that any process maps stay: for
/// those use [`Mapping::evict`]. What every measurement of cold reads begins with.
///
/// # Errors
/// `File` where writing back or the advice fails.
pub fn evict_file(file: &File) -> Result<(), Error> {
    file.sync_data().map_err(|source| Error::File {
        call: "fdatasync",
        file: file_name(file.as_fd()),
        source,
    })?;
    // Length 0: to the end of the file.
    drop_from_cache(file, 0, 0)
}

/// Drops those pages of a file that nobody maps from the page cache; dirty ones stay.
pub(crate) fn drop_unmapped(file: &File) -> Result<(), Error> {
    drop_from_cache(file, 0, 0)
}

fn drop_from_cache(file: &File, offset: u64, length: u64) -> Result<(), Error> {
    sys::fadvise(file.as_fd(), offset, length, libc::POSIX_FADV_DONTNEED).map_err(|source| {
        Error::Advise {
            call: "posix_fadvise(POSIX_FADV_DONTNEED)",
            place: Place::of_file(file.as_fd(), offset, length),
            source,
        }
    })
}
