//! A mapping and its bytes.
//!
//! # What a mapped file can do to you
//! The bytes of a file mapping are the file's bytes, now. If somebody truncates the file, pages past its
//! new end are gone, and a touch raises SIGBUS; if somebody writes into it, the bytes under a `&[u8]`
//! change. Rust cannot rule that out for any file mapping; a lock would not either, because locks are
//! advisory. lowtide's answer, in this order:
//!
//! 1. Bytes are brought in by [`Mapping::populate`], which returns an error where a touch would signal.
//! 2. [`crate::FileIdentity`] is compared while the file is in use: a change is a `model_fault` error.
//! 3. [`crate::install_sigbus_guard`] is the backstop for a touch all the same: zero bytes appear,
//!    [`Mapping::is_poisoned`] turns true, and what was computed from them is thrown away.
//!
//! `&[u8]` over a changing file is plain bytes: any value is a valid `u8`, and no index, length or
//! pointer in this workspace is taken from a mapping without being checked where it is used.

use std::fmt;
use std::fs::File;
use std::ops::Range;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use crate::error::file_name;
use crate::page::{align_down, align_up, page_size};
use crate::request::{MapRequest, Protection, Sharing};
use crate::sigbus::Watch;
use crate::{Error, Place, sys};

/// A range of addresses with a file or fresh memory behind it. Dropping unmaps it.
pub struct Mapping {
    base: NonNull<u8>,
    /// Bytes asked for; the kernel maps whole pages.
    length: usize,
    protection: Protection,
    sharing: Sharing,
    file: Option<File>,
    file_offset: u64,
    watch: Option<Watch>,
}

// SAFETY: a Mapping owns its addresses; nothing about them belongs to a thread.
unsafe impl Send for Mapping {}
// SAFETY: through `&Mapping` bytes are only read, and nothing changes what they read as: calls that do
// (as_mut_slice, discard, protect) take `&mut self`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Takes over what `mmap` returned: `base` is page aligned and `length` rounded up to whole pages is
    /// mapped there, for the new owner alone.
    pub(crate) fn new(
        base: NonNull<u8>,
        length: usize,
        protection: Protection,
        sharing: Sharing,
        file: Option<File>,
        file_offset: u64,
    ) -> Self {
        let mut mapping =
            Self { base, length, protection, sharing, file, file_offset, watch: None };
        if mapping.file.is_some() {
            let start = base.addr().get();
            mapping.watch = Watch::new(start..start + mapping.mapped_bytes(), protection.bits());
        }
        mapping
    }

    /// The whole of a file, readable and shared: what a model is mapped with. Reads nothing.
    ///
    /// # Errors
    /// `ZeroLength` (an empty file), `TooLong`, `Map`, `File`.
    pub fn of_file(file: &File) -> Result<Self, Error> {
        let meta = file.metadata().map_err(|source| Error::File {
            call: "fstat",
            file: file_name(file.as_fd()),
            source,
        })?;
        let too_long = |_| Error::TooLong { what: "a mapping", length: meta.len() };
        MapRequest::file(file, 0, usize::try_from(meta.len()).map_err(too_long)?).map()
    }

    /// Length in bytes as it was asked for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length
    }

    /// Always false: a mapping of no bytes cannot be made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// First address; a multiple of the page size.
    #[must_use]
    pub fn address(&self) -> usize {
        self.base.addr().get()
    }

    /// What may be done with the bytes.
    #[must_use]
    pub fn protection(&self) -> Protection {
        self.protection
    }

    /// Who sees what is written.
    #[must_use]
    pub fn sharing(&self) -> Sharing {
        self.sharing
    }

    /// The mapped file, where there is one.
    #[must_use]
    pub fn file(&self) -> Option<&File> {
        self.file.as_ref()
    }

    /// Offset of the mapping's first byte in its file; 0 for anonymous memory.
    #[must_use]
    pub fn file_offset(&self) -> u64 {
        self.file_offset
    }

    /// The bytes. A mapping without [`Protection::READ`] has no bytes that could be read: an empty slice.
    /// The module's documentation says what happens when the file changes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        if !self.protection.can_read() {
            return &[];
        }
        // SAFETY: MapRequest::map mapped `length` bytes here, readable as just checked; they stay mapped
        // while self is borrowed; writers in this process need `&mut self`. Others: see the module.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.length) }
    }

    /// A range of the bytes.
    ///
    /// # Errors
    /// `OutsideMapping`; `NotAllowed` without read permission.
    pub fn bytes(&self, range: Range<usize>) -> Result<&[u8], Error> {
        self.check_range(&range)?;
        if !self.protection.can_read() {
            return Err(self.not_allowed("reading", "it was mapped without read permission"));
        }
        self.as_slice().get(range.clone()).ok_or_else(|| self.outside(&range))
    }

    /// The bytes, writable. Where they go is decided by [`Mapping::sharing`].
    ///
    /// # Errors
    /// `NotAllowed` without both read and write permission.
    pub fn as_mut_slice(&mut self) -> Result<&mut [u8], Error> {
        if !(self.protection.can_read() && self.protection.can_write()) {
            return Err(self.not_allowed("writing", "it was mapped without write permission"));
        }
        // SAFETY: as in as_slice, writable as just checked, and self is borrowed exclusively.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.length) })
    }

    /// Changes what may be done with the bytes, of the whole mapping.
    ///
    /// # Errors
    /// `Advise` with what the kernel said (`EACCES`: the file was opened for reading only).
    pub fn protect(&mut self, protection: Protection) -> Result<(), Error> {
        let (base, length) = (self.base.as_ptr().cast(), self.mapped_bytes());
        // SAFETY: the range is ours, and the exclusive borrow means no slice of it exists.
        sys::check(unsafe { libc::mprotect(base, length, protection.bits()) }).map_err(
            |source| Error::Advise {
                call: "mprotect",
                place: self.place(&(0..self.length)),
                source,
            },
        )?;
        self.protection = protection;
        if let Some(watch) = &self.watch {
            watch.set_protection(protection.bits());
        }
        Ok(())
    }

    /// Writes what was changed in a shared file mapping to the disk, and waits for it.
    ///
    /// # Errors
    /// `Advise` with what the kernel said (`EIO`: the disk failed).
    pub fn sync(&self) -> Result<(), Error> {
        let (base, length) = (self.base.as_ptr().cast(), self.mapped_bytes());
        // SAFETY: the range is ours and msync changes no byte.
        let synced = sys::check(unsafe { libc::msync(base, length, libc::MS_SYNC) });
        synced.map(drop).map_err(|source| Error::Advise {
            call: "msync",
            place: self.place(&(0..self.length)),
            source,
        })
    }

    /// Whether a touch of this mapping has failed and zero bytes stand in for some of it; always false
    /// without [`crate::install_sigbus_guard`]. One atomic load.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.watch.as_ref().is_some_and(Watch::is_poisoned)
    }

    /// As [`Mapping::is_poisoned`], with the place of the first failure as the error.
    ///
    /// # Errors
    /// `Poisoned`.
    pub fn check_poison(&self) -> Result<(), Error> {
        match self.watch.as_ref().and_then(Watch::first_failure) {
            None => Ok(()),
            Some(address) => Err(Error::Poisoned {
                file: self.name(),
                offset: self.file_offset + (address - self.address()) as u64,
            }),
        }
    }

    /// Whether the SIGBUS guard would protect this mapping: it backs a file, and the guard's table had
    /// room for it.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    // --- for the other modules of this crate ----------------------------------------------------

    /// Length in whole pages. MapRequest::map has checked that it fits.
    pub(crate) fn mapped_bytes(&self) -> usize {
        align_up(self.length, page_size()).unwrap_or(self.length)
    }

    /// # Errors
    /// `OutsideMapping` where the range does not lie in the mapping; `ZeroLength`.
    pub(crate) fn check_range(&self, range: &Range<usize>) -> Result<(), Error> {
        if range.start > range.end || range.end > self.length {
            return Err(self.outside(range));
        }
        if range.start == range.end {
            return Err(Error::ZeroLength { what: "a range of a mapping" });
        }
        Ok(())
    }

    /// The whole pages that a range touches.
    pub(crate) fn pages_around(&self, range: &Range<usize>) -> Result<Range<usize>, Error> {
        self.check_range(range)?;
        let end = align_up(range.end, page_size()).unwrap_or(self.mapped_bytes());
        Ok(align_down(range.start, page_size())..end)
    }

    /// The whole pages inside a range, so that neighbours keep theirs; the page in which the mapping
    /// ends belongs to the range that reaches that end. May be empty.
    pub(crate) fn pages_inside(&self, range: &Range<usize>) -> Result<Range<usize>, Error> {
        self.check_range(range)?;
        let page = page_size();
        let end = if range.end == self.length {
            self.mapped_bytes()
        } else {
            align_down(range.end, page)
        };
        let start = align_up(range.start, page).unwrap_or(end);
        Ok(start.min(end)..end)
    }

    /// Pointer to a byte of the mapping.
    pub(crate) fn pointer(&self, offset: usize) -> NonNull<u8> {
        debug_assert!(offset <= self.mapped_bytes());
        // SAFETY: callers pass offsets that pages_around or pages_inside have given.
        unsafe { self.base.add(offset) }
    }

    /// A range as errors name it.
    pub(crate) fn place(&self, range: &Range<usize>) -> Place {
        let offset = self.file_offset + range.start as u64;
        let length = range.len() as u64;
        match &self.file {
            Some(file) => Place::of_file(file.as_fd(), offset, length),
            None => Place::anonymous(offset, length),
        }
    }

    pub(crate) fn not_allowed(&self, operation: &'static str, why: &'static str) -> Error {
        Error::NotAllowed { operation, place: self.place(&(0..self.length)), why }
    }

    fn outside(&self, range: &Range<usize>) -> Error {
        let (start, end) = (range.start, range.end);
        Error::OutsideMapping { start, end, mapped: self.length, file: self.name() }
    }

    fn name(&self) -> Box<str> {
        match &self.file {
            Some(file) => file_name(file.as_fd()),
            None => "anonymous memory".into(),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // Before the addresses can belong to someone else.
        self.watch = None;
        // SAFETY: the range is ours, and no slice of it outlives self. A failure would mean that it is
        // not ours, which cannot be; there is nobody to tell.
        let _ = unsafe { sys::munmap(self.base, self.mapped_bytes()) };
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("address", &format_args!("{:#x}", self.address()))
            .field("place", &format_args!("{}", self.place(&(0..self.length))))
            .field("protection", &self.protection)
            .field("sharing", &self.sharing)
            .field("poisoned", &self.is_poisoned())
            .finish_non_exhaustive()
    }
}
