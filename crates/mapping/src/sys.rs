//! Thin wrappers over the memory calls: an `io::Error` instead of -1 and `errno`, `NonNull` instead of
//! `MAP_FAILED`. Nothing here decides anything.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

/// Turns the C convention (negative means look at `errno`) into a `Result`.
pub(crate) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The arguments of `mmap(2)`, in its order.
pub(crate) struct MmapArguments<'f> {
    pub(crate) address: usize,
    pub(crate) length: usize,
    pub(crate) protection: libc::c_int,
    pub(crate) flags: libc::c_int,
    pub(crate) file: Option<BorrowedFd<'f>>,
    pub(crate) offset: u64,
}

/// `mmap(2)`.
///
/// # Safety
/// With `MAP_FIXED` in the flags, nothing that is in use may lie at the address. Without it the call
/// cannot harm what is mapped already.
pub(crate) unsafe fn mmap(arguments: &MmapArguments<'_>) -> io::Result<NonNull<u8>> {
    let fd = arguments.file.map_or(-1, |file| file.as_raw_fd());
    let offset = libc::off_t::try_from(arguments.offset)
        .map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
    // SAFETY: the caller vouches for MAP_FIXED; otherwise the kernel chooses free addresses.
    let base = unsafe {
        libc::mmap(
            std::ptr::with_exposed_provenance_mut(arguments.address),
            arguments.length,
            arguments.protection,
            arguments.flags,
            fd,
            offset,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // The kernel never hands out page 0 unasked; the check keeps NonNull honest all the same.
    NonNull::new(base.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::EADDRNOTAVAIL))
}

/// `munmap(2)`.
///
/// # Safety
/// The range must be whole pages that the caller owns, with no reference into it left.
pub(crate) unsafe fn munmap(base: NonNull<u8>, length: usize) -> io::Result<()> {
    // SAFETY: the caller owns the range.
    check(unsafe { libc::munmap(base.as_ptr().cast(), length) }).map(drop)
}

/// `madvise(2)`, again after EINTR and EAGAIN.
///
/// # Safety
/// The range must be whole pages that the caller owns. Advice that changes what the bytes read as
/// (`MADV_DONTNEED` on private memory, `MADV_FREE`, `MADV_REMOVE`) needs exclusive access.
pub(crate) unsafe fn madvise(
    base: NonNull<u8>,
    length: usize,
    advice: libc::c_int,
) -> io::Result<()> {
    // EAGAIN means "a kernel resource was temporarily unavailable"; the bound keeps it temporary.
    for _ in 0..AGAIN_MAX {
        // SAFETY: the caller owns the range and vouches for the advice.
        match check(unsafe { libc::madvise(base.as_ptr().cast(), length, advice) }) {
            Ok(_) => return Ok(()),
            Err(error) if is_transient(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::from_raw_os_error(libc::EAGAIN))
}

/// How often a call that says EAGAIN or EINTR is made before that is taken for its answer.
pub(crate) const AGAIN_MAX: usize = 64;

/// Whether a call should simply be made again.
pub(crate) fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN))
}

/// `posix_fadvise(2)`, which returns its error instead of setting `errno`. `length` 0 means to the end.
pub(crate) fn fadvise(
    file: BorrowedFd<'_>,
    offset: u64,
    length: u64,
    advice: libc::c_int,
) -> io::Result<()> {
    let too_far = |_| io::Error::from_raw_os_error(libc::EOVERFLOW);
    let offset = libc::off_t::try_from(offset).map_err(too_far)?;
    let length = libc::off_t::try_from(length).map_err(too_far)?;
    // SAFETY: the descriptor is open while it is borrowed; no memory of ours is passed.
    match unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, length, advice) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// `pread(2)` into memory given by pointer; one call, no retry.
///
/// # Safety
/// `into` must be valid for writes of `length` bytes, which nobody else reads or writes meanwhile.
pub(crate) unsafe fn pread(
    file: BorrowedFd<'_>,
    into: *mut u8,
    length: usize,
    offset: u64,
) -> io::Result<usize> {
    let offset =
        libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
    // SAFETY: the caller vouches for `into` and `length`.
    let read = unsafe { libc::pread(file.as_raw_fd(), into.cast(), length, offset) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}
