//! The six arguments of `mmap(2)` as types, and the checks that come before the call.
//!
//! | `mmap(addr, length, prot, flags, fd, offset)` | here |
//! |---|---|
//! | `addr` | [`Address`]: anywhere, near, exactly |
//! | `length` | bytes, at least 1; a file's end may lie inside the last page |
//! | `prot` | [`Protection`]: any of read, write, execute, or none |
//! | `flags` | [`Sharing`], anonymous or not, [`MapRequest::no_reserve`] |
//! | `fd` | `&File`, or none for anonymous memory |
//! | `offset` | bytes, a multiple of the page size |

use std::fs::File;
use std::io;
use std::ops::BitOr;
use std::os::fd::AsFd;

use crate::advise::Advice;
use crate::error::file_name;
use crate::mapping::Mapping;
use crate::page::{align_up, page_size};
use crate::sys::{self, MmapArguments};
use crate::{Error, Place};

/// What may be done with the bytes of a mapping: any combination, by `|`.
///
/// ```
/// use lowtide_mapping::Protection;
/// let both = Protection::READ | Protection::WRITE;
/// assert!(both.can_read() && both.can_write() && !both.can_execute());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Protection(libc::c_int);

impl Protection {
    /// No access: the addresses are reserved.
    pub const NONE: Self = Self(libc::PROT_NONE);
    /// Reading.
    pub const READ: Self = Self(libc::PROT_READ);
    /// Writing. Most processors let written memory be read too; this crate does not rely on it.
    pub const WRITE: Self = Self(libc::PROT_WRITE);
    /// Running code.
    pub const EXECUTE: Self = Self(libc::PROT_EXEC);

    /// Whether bytes may be read.
    #[must_use]
    pub const fn can_read(self) -> bool {
        self.0 & libc::PROT_READ != 0
    }

    /// Whether bytes may be written.
    #[must_use]
    pub const fn can_write(self) -> bool {
        self.0 & libc::PROT_WRITE != 0
    }

    /// Whether bytes may be run.
    #[must_use]
    pub const fn can_execute(self) -> bool {
        self.0 & libc::PROT_EXEC != 0
    }

    /// The bits as `mmap` takes them.
    pub(crate) const fn bits(self) -> libc::c_int {
        self.0
    }
}

impl BitOr for Protection {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Who sees what is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// Everyone who maps or reads the file (`MAP_SHARED`); anonymous: this process and its children.
    Shared,
    /// Only this process: a page is copied when it is first written (`MAP_PRIVATE`). Pages that were not
    /// written still follow the file.
    Private,
}

/// Where the mapping is to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Address {
    /// Where the kernel likes.
    Anywhere,
    /// At this address if it is free, else where the kernel likes.
    Near(usize),
    /// At this address or not at all. What is mapped there already is never replaced
    /// (`MAP_FIXED_NOREPLACE`, not `MAP_FIXED`).
    Exactly(usize),
}

#[derive(Debug, Clone, Copy)]
enum Backing<'f> {
    Anonymous,
    File { file: &'f File, offset: u64 },
}

/// A mapping to be made: the six arguments, each with a default that reads a file.
///
/// # Examples
/// ```
/// use lowtide_mapping::{MapRequest, Protection, Sharing};
/// let mut scratch = MapRequest::anonymous(1 << 20)
///     .protection(Protection::READ | Protection::WRITE)
///     .sharing(Sharing::Private)
///     .map()?;
/// scratch.as_mut_slice()?[0] = 7;
/// assert_eq!(scratch.as_slice()[..2], [7, 0]);
/// # Ok::<(), lowtide_mapping::Error>(())
/// ```
#[derive(Debug, Clone)]
#[must_use = "a request maps nothing until `map` is called"]
pub struct MapRequest<'f> {
    address: Address,
    length: usize,
    protection: Protection,
    sharing: Sharing,
    backing: Backing<'f>,
    reserve: bool,
    huge_pages: Option<bool>,
}

impl<'f> MapRequest<'f> {
    /// `length` bytes of memory without a file: private, readable and writable, zero at first.
    pub fn anonymous(length: usize) -> Self {
        Self {
            address: Address::Anywhere,
            length,
            protection: Protection::READ | Protection::WRITE,
            sharing: Sharing::Private,
            backing: Backing::Anonymous,
            reserve: true,
            huge_pages: None,
        }
    }

    /// `length` bytes of `file` from `offset` (a multiple of the page size) on: shared, readable.
    pub fn file(file: &'f File, offset: u64, length: usize) -> Self {
        Self {
            protection: Protection::READ,
            sharing: Sharing::Shared,
            backing: Backing::File { file, offset },
            ..Self::anonymous(length)
        }
    }

    /// Argument 1.
    pub fn address(mut self, address: Address) -> Self {
        self.address = address;
        self
    }

    /// Argument 3.
    pub fn protection(mut self, protection: Protection) -> Self {
        self.protection = protection;
        self
    }

    /// Argument 4: `MAP_SHARED` or `MAP_PRIVATE`.
    pub fn sharing(mut self, sharing: Sharing) -> Self {
        self.sharing = sharing;
        self
    }

    /// Argument 4: `MAP_NORESERVE`. The kernel does not count the pages against what it may promise, so
    /// that more can be mapped than there is memory; where memory then runs out, the OOM killer comes.
    pub fn no_reserve(mut self) -> Self {
        self.reserve = false;
        self
    }

    /// Huge pages for anonymous memory: `true` advises them, `false` rules them out. Best effort; a file
    /// mapping refuses it.
    pub fn huge_pages(mut self, wanted: bool) -> Self {
        self.huge_pages = Some(wanted);
        self
    }

    /// Makes the mapping.
    ///
    /// # Errors
    /// `ZeroLength`; `UnalignedOffset`; `UnalignedAddress`; `PastEndOfFile` (the range must lie inside a
    /// regular file when it is mapped); `TooLong`; `AddressTaken`; `NotAllowed` (huge pages of a file);
    /// `Map` with what the kernel said (no permission, no memory, ...); `File`.
    pub fn map(self) -> Result<Mapping, Error> {
        if self.length == 0 {
            return Err(Error::ZeroLength { what: "a mapping" });
        }
        let place = self.place();
        let mapped = align_up(self.length, page_size())
            .filter(|&mapped| isize::try_from(mapped).is_ok())
            .ok_or(Error::TooLong { what: "a mapping", length: self.length as u64 })?;
        self.check_address()?;
        let (file, offset) = match self.backing {
            Backing::Anonymous => (None, 0),
            Backing::File { file, offset } => {
                self.check_file(file, offset, &place)?;
                let copy = file.try_clone().map_err(|source| Error::File {
                    call: "fcntl(F_DUPFD_CLOEXEC)",
                    file: file_name(file.as_fd()),
                    source,
                })?;
                (Some(copy), offset)
            }
        };
        let (address, fixed) = match self.address {
            Address::Anywhere => (0, 0),
            Address::Near(address) => (address, 0),
            Address::Exactly(address) => (address, libc::MAP_FIXED_NOREPLACE),
        };
        let arguments = MmapArguments {
            address,
            length: mapped,
            protection: self.protection.bits(),
            flags: self.flags() | fixed,
            file: file.as_ref().map(AsFd::as_fd),
            offset,
        };
        // SAFETY: MAP_FIXED is not among the flags (MAP_FIXED_NOREPLACE replaces nothing).
        let base =
            unsafe { sys::mmap(&arguments) }.map_err(|source| self.refused(place, source))?;
        let mapping = Mapping::new(base, self.length, self.protection, self.sharing, file, offset);
        if let Address::Exactly(address) = self.address
            && base.addr().get() != address
        {
            // Before Linux 4.17 the flag is unknown and the address only a hint.
            return Err(Error::AddressTaken { address, length: self.length });
        }
        match self.huge_pages {
            Some(true) => mapping.advise_if_known(Advice::HugePages),
            Some(false) => mapping.advise_if_known(Advice::NoHugePages),
            None => {}
        }
        Ok(mapping)
    }

    fn place(&self) -> Place {
        let length = self.length as u64;
        match self.backing {
            Backing::Anonymous => Place::anonymous(0, length),
            Backing::File { file, offset } => Place::of_file(file.as_fd(), offset, length),
        }
    }

    fn flags(&self) -> libc::c_int {
        let sharing = match self.sharing {
            Sharing::Shared => libc::MAP_SHARED,
            Sharing::Private => libc::MAP_PRIVATE,
        };
        let anonymous = match self.backing {
            Backing::Anonymous => libc::MAP_ANONYMOUS,
            Backing::File { .. } => 0,
        };
        let reserve = if self.reserve { 0 } else { libc::MAP_NORESERVE };
        sharing | anonymous | reserve
    }

    fn check_address(&self) -> Result<(), Error> {
        let page_bytes = page_size();
        match self.address {
            Address::Anywhere => Ok(()),
            Address::Near(address) | Address::Exactly(address) => {
                if address.is_multiple_of(page_bytes) {
                    Ok(())
                } else {
                    Err(Error::UnalignedAddress { address, page_bytes })
                }
            }
        }
    }

    fn check_file(&self, file: &File, offset: u64, place: &Place) -> Result<(), Error> {
        let page_bytes = page_size();
        if !offset.is_multiple_of(page_bytes as u64) {
            return Err(Error::UnalignedOffset { place: place.clone(), page_bytes });
        }
        if self.huge_pages.is_some() {
            return Err(Error::NotAllowed {
                operation: "advising huge pages",
                place: place.clone(),
                why: "only anonymous memory has them",
            });
        }
        let meta = file.metadata().map_err(|source| Error::File {
            call: "fstat",
            file: file_name(file.as_fd()),
            source,
        })?;
        // Of a device only the kernel knows what can be mapped.
        let end = offset.checked_add(self.length as u64);
        if meta.is_file() && end.is_none_or(|end| end > meta.len()) {
            let file_bytes = meta.len();
            return Err(Error::PastEndOfFile { place: place.clone(), file_bytes });
        }
        Ok(())
    }

    fn refused(&self, place: Place, source: io::Error) -> Error {
        match self.address {
            Address::Exactly(address) if source.raw_os_error() == Some(libc::EEXIST) => {
                Error::AddressTaken { address, length: self.length }
            }
            _ => Error::Map { place, source },
        }
    }
}
