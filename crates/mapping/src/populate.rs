//! Bringing pages in by a call that can return an error, instead of touching them and hoping.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use crate::error::Place;
use crate::mapping::Mapping;
use crate::page::page_size;
use crate::{Error, sys};

/// How [`Mapping::populate`] brings pages in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PopulateMethod {
    /// `MADV_POPULATE_READ`: reads and maps, and says EFAULT where a touch would raise SIGBUS. Linux 5.14.
    /// Before Linux 6.9 (commit 631426ba1d45) it goes round for ever on a disk error.
    Madvise,
    /// `pread` into the page cache first, which returns disk errors on every kernel, then
    /// `MADV_POPULATE_READ`, which finds all pages there. For Linux 5.14 to 6.8.
    PreadThenMadvise,
    /// `pread`, then a touch of every page. For kernels before 5.14. A truncation between the two is a
    /// SIGBUS: the guard's business.
    PreadThenTouch,
}

impl PopulateMethod {
    /// The method for the running kernel, decided once from its release number.
    #[must_use]
    pub fn of_this_kernel() -> Self {
        static METHOD: OnceLock<PopulateMethod> = OnceLock::new();
        *METHOD.get_or_init(|| {
            let release = std::fs::read_to_string("/proc/sys/kernel/osrelease");
            Self::of_release(release.as_deref().unwrap_or(""))
        })
    }

    /// The method for a kernel release such as `6.18.44-generic`. An unreadable one gets the method that
    /// works everywhere.
    fn of_release(release: &str) -> Self {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (6, 9) => Self::Madvise,
            (Some(Ok(major)), Some(Ok(minor))) if (major, minor) >= (5, 14) => {
                Self::PreadThenMadvise
            }
            _ => Self::PreadThenTouch,
        }
    }
}

/// How much `pread` reads at a time: large enough for a slow disk, small enough for a stray buffer.
const PREAD_BYTES: usize = 1 << 20;

impl Mapping {
    /// Brings in every page that `range` (bytes of the mapping) touches, and returns when it is there and
    /// mapped: no later touch of it does I/O, until it is evicted or reclaimed.
    ///
    /// # Errors
    /// `Truncated` (the file is shorter now), `Unreadable` (the disk failed; the place is as narrow as a
    /// second look could make it), `Poisoned`; `OutsideMapping`, `ZeroLength`; `NotAllowed` (no read permission);
    /// `Advise` (no memory, ...).
    pub fn populate(&self, range: Range<usize>) -> Result<(), Error> {
        self.populate_by(range, PopulateMethod::of_this_kernel())
    }

    /// [`Mapping::populate`] by a method of the caller's choice.
    ///
    /// # Errors
    /// As [`Mapping::populate`].
    pub fn populate_by(&self, range: Range<usize>, method: PopulateMethod) -> Result<(), Error> {
        let pages = self.pages_around(&range)?;
        if !self.protection().can_read() {
            return Err(self.not_allowed("populating", "it was mapped without read permission"));
        }
        // Zero pages that stand in for lost ones would populate without complaint.
        self.check_poison()?;
        match (method, self.file()) {
            (PopulateMethod::Madvise, _) => self.madvise_populate(&range, &pages),
            (PopulateMethod::PreadThenMadvise, file) => {
                self.read_in(file, &range)?;
                self.madvise_populate(&range, &pages)
            }
            (PopulateMethod::PreadThenTouch, file) => {
                self.read_in(file, &range)?;
                self.touch(&pages);
                Ok(())
            }
        }
    }

    fn madvise_populate(&self, range: &Range<usize>, pages: &Range<usize>) -> Result<(), Error> {
        let (base, length) = (self.pointer(pages.start), pages.len());
        // SAFETY: whole pages of this mapping; the advice changes no byte.
        match unsafe { sys::madvise(base, length, libc::MADV_POPULATE_READ) } {
            Ok(()) => Ok(()),
            // A kernel that calls itself newer than it is.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                self.read_in(self.file(), range)?;
                self.touch(pages);
                Ok(())
            }
            // EHWPOISON: a memory cell is broken.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EFAULT | libc::EHWPOISON)) => {
                Err(self.diagnose(range, error))
            }
            Err(source) => Err(Error::Advise {
                call: "madvise(MADV_POPULATE_READ)",
                place: self.place(range),
                source,
            }),
        }
    }

    /// EFAULT says that some page of the range failed, not which, nor why. `pread` knows both.
    fn diagnose(&self, range: &Range<usize>, populate: io::Error) -> Error {
        match self.read_in(self.file(), range) {
            Err(error) => error,
            // It can be read now: the failure has passed, or the memory is at fault.
            Ok(()) => Error::Unreadable { place: self.place(range), source: populate },
        }
    }

    /// Reads a range of the file into the page cache. Nothing to do without a file.
    fn read_in(&self, file: Option<&File>, range: &Range<usize>) -> Result<(), Error> {
        let Some(file) = file else { return Ok(()) };
        let start = self.file_offset() + range.start as u64;
        let end = self.file_offset() + range.end as u64;
        let mut buffer = vec![0u8; PREAD_BYTES.min(range.len())];
        let mut at = start;
        while at < end {
            let length = (end - at).min(buffer.len() as u64) as usize;
            // SAFETY: `length` is at most the buffer's, which is ours alone.
            match unsafe { sys::pread(file.as_fd(), buffer.as_mut_ptr(), length, at) } {
                Ok(0) => {
                    let file_bytes = file.metadata().map_or(at, |meta| meta.len());
                    let place = self.place(range);
                    return Err(Error::Truncated { place, file_bytes });
                }
                Ok(read) => at += read as u64,
                Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
                Err(source) => {
                    let place = Place::of_file(file.as_fd(), at, length as u64);
                    return Err(Error::Unreadable { place, source });
                }
            }
        }
        Ok(())
    }

    /// Reads one byte of each page.
    fn touch(&self, pages: &Range<usize>) {
        for offset in pages.clone().step_by(page_size()) {
            // SAFETY: the page is mapped and readable (populate_by checked); volatile because the value
            // is not wanted, only the access.
            let _ = unsafe { self.pointer(offset).as_ptr().read_volatile() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PopulateMethod as Method;

    #[test]
    fn releases() {
        for (release, want) in [
            ("6.18.44-fc-v669\n", Method::Madvise),
            ("6.9.0", Method::Madvise),
            ("7.0-rc1", Method::Madvise),
            ("6.8.12-generic", Method::PreadThenMadvise),
            ("5.14", Method::PreadThenMadvise),
            ("5.4.0-150", Method::PreadThenTouch),
            ("", Method::PreadThenTouch),
            ("unknown", Method::PreadThenTouch),
        ] {
            assert_eq!(Method::of_release(release), want, "{release}");
        }
    }
}
