//! Page size and rounding. Pure arithmetic but for the one question to the kernel.

use std::ops::Range;
use std::sync::OnceLock;

use crate::Error;

/// Size of a transparent huge page: what one entry of an L1 table maps, 2 MiB on x86-64 and on
/// aarch64 with 4 KiB pages. Only alignment and advice depend on it, never correctness.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Page size of this machine in bytes (`sysconf(_SC_PAGESIZE)`), a power of two.
#[must_use]
pub fn page_size() -> usize {
    static PAGE: OnceLock<usize> = OnceLock::new();
    *PAGE.get_or_init(|| {
        // SAFETY: sysconf takes a number and touches no memory of ours.
        let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        // POSIX requires an answer here; 4096 is what a kernel that broke that rule would use.
        usize::try_from(bytes).ok().filter(|bytes| bytes.is_power_of_two()).unwrap_or(4096)
    })
}

/// `value` rounded down to a multiple of `alignment`, a power of two.
#[must_use]
pub const fn align_down(value: usize, alignment: usize) -> usize {
    value & !(alignment - 1)
}

/// `value` rounded up to a multiple of `alignment`, a power of two; `None` on overflow.
#[must_use]
pub const fn align_up(value: usize, alignment: usize) -> Option<usize> {
    match value.checked_add(alignment - 1) {
        Some(sum) => Some(align_down(sum, alignment)),
        None => None,
    }
}

/// The smallest aligned range that covers the bytes a caller wants: what a direct read transfers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AlignedSpan {
    /// Aligned file offset where the read starts.
    pub offset: u64,
    /// Aligned length of the read; a slot must be at least this long.
    pub length: usize,
    /// Where the caller's first byte lies in what was read (`wanted offset - offset`).
    pub head: usize,
}

impl AlignedSpan {
    /// Covers `[offset, offset + length)` with blocks of `alignment` bytes (a power of two).
    ///
    /// # Errors
    /// `ZeroLength`, `TooLong` where the covering range does not fit 64 bits.
    pub fn covering(offset: u64, length: usize, alignment: usize) -> Result<Self, Error> {
        if length == 0 {
            return Err(Error::ZeroLength { what: "a read" });
        }
        let too_long = || Error::TooLong { what: "file range", length: length as u64 };
        let mask = alignment as u64 - 1;
        let start = offset & !mask;
        let end = offset.checked_add(length as u64).ok_or_else(too_long)?;
        let end = end.checked_add(mask).ok_or_else(too_long)? & !mask;
        let length = usize::try_from(end - start).map_err(|_| too_long())?;
        Ok(Self { offset: start, length, head: (offset - start) as usize })
    }

    /// Where the wanted bytes lie in the slot.
    #[must_use]
    pub fn data(&self, length: usize) -> Range<usize> {
        self.head..self.head + length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding() {
        assert_eq!(align_down(4095, 4096), 0);
        assert_eq!(align_down(4096, 4096), 4096);
        assert_eq!(align_up(4097, 4096), Some(8192));
        assert_eq!(align_up(0, 4096), Some(0));
        assert_eq!(align_up(usize::MAX, 4096), None);
    }

    #[test]
    fn a_span_covers_what_is_wanted_and_no_block_more() {
        for (offset, length, want) in [
            (0, 1, (0, 4096, 0)),
            (4095, 1, (0, 4096, 4095)),
            (4095, 2, (0, 8192, 4095)),
            (4096, 4096, (4096, 4096, 0)),
            (8191, 4098, (4096, 12288, 4095)),
        ] {
            let span = AlignedSpan::covering(offset, length, 4096).unwrap();
            assert_eq!((span.offset, span.length, span.head), want, "{offset}+{length}");
            assert_eq!(span.data(length).start as u64 + span.offset, offset);
            assert!(span.data(length).end <= span.length);
        }
    }

    #[test]
    fn senseless_spans_are_errors() {
        assert!(matches!(AlignedSpan::covering(5, 0, 4096), Err(Error::ZeroLength { .. })));
        assert!(matches!(AlignedSpan::covering(u64::MAX, 1, 4096), Err(Error::TooLong { .. })));
        assert!(matches!(
            AlignedSpan::covering(u64::MAX - 4096, 4000, 4096),
            Err(Error::TooLong { .. })
        ));
    }
}
