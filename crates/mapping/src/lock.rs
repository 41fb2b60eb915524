//! Pages that stay: `mlock`.

use std::ops::Range;

use crate::error::LockLimit;
use crate::mapping::Mapping;
use crate::process::ProcessMemory;
use crate::{Error, sys};

impl Mapping {
    /// Brings in the pages that `range` touches and keeps them in memory until they are unlocked or the
    /// mapping is dropped. The pages are charged; locking past a cgroup's limit brings the OOM killer.
    /// Locking does not help against truncation.
    ///
    /// # Errors
    /// `OutsideMapping`, `ZeroLength`; `Lock` with the limit (`RLIMIT_MEMLOCK`; a process with
    /// `CAP_IPC_LOCK` has none).
    pub fn lock(&self, range: Range<usize>) -> Result<(), Error> {
        let pages = self.pages_around(&range)?;
        let base = self.pointer(pages.start).as_ptr().cast();
        // SAFETY: whole pages of this mapping; locking changes no byte.
        sys::check(unsafe { libc::mlock(base, pages.len()) }).map(drop).map_err(|source| {
            Error::Lock {
                place: self.place(&range),
                limit: lock_limit(),
                locked_bytes: ProcessMemory::read().map_or(0, |memory| memory.locked_bytes),
                source,
            }
        })
    }

    /// Unlocks the pages that `range` touches; those that were not locked stay as they are.
    ///
    /// # Errors
    /// `OutsideMapping`, `ZeroLength`; `Advise`.
    pub fn unlock(&self, range: Range<usize>) -> Result<(), Error> {
        let pages = self.pages_around(&range)?;
        let base = self.pointer(pages.start).as_ptr().cast();
        // SAFETY: whole pages of this mapping; unlocking changes no byte.
        sys::check(unsafe { libc::munlock(base, pages.len()) })
            .map(drop)
            .map_err(|source| Error::Advise { call: "munlock", place: self.place(&range), source })
    }
}

/// How much this process may lock (`RLIMIT_MEMLOCK`, the soft limit).
#[must_use]
pub fn lock_limit() -> LockLimit {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a rlimit to write to.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    if result != 0 || limit.rlim_cur == libc::RLIM_INFINITY {
        LockLimit::Unlimited
    } else {
        LockLimit::Bytes(limit.rlim_cur)
    }
}
