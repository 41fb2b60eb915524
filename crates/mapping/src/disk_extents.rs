//! Where the bytes of a file lie on its disk: the FIEMAP ioctl (`Documentation/filesystems/fiemap.rst`).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd};

use crate::Error;
use crate::error::file_name;

/// `struct fiemap` of `linux/fiemap.h`, without its flexible array.
#[repr(C)]
#[derive(Clone, Copy)]
struct FiemapHeader {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
}

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy)]
struct FiemapExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved_64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

/// Extents asked for by one call.
const BATCH: usize = 128;

/// A header with room for a batch behind it, as the kernel fills it.
#[repr(C)]
struct Fiemap {
    header: FiemapHeader,
    extents: [FiemapExtent; BATCH],
}

const _: () = assert!(size_of::<FiemapHeader>() == 32);
const _: () = assert!(size_of::<FiemapExtent>() == 56);
const _: () = assert!(size_of::<Fiemap>() == 32 + BATCH * 56);

/// `FS_IOC_FIEMAP`: the size in the number is the header's alone.
const FS_IOC_FIEMAP: libc::Ioctl = libc::_IOWR::<FiemapHeader>(b'f' as u32, 11);

// `linux/fiemap.h`.
const FLAG_SYNC: u32 = 0x1;
const EXTENT_LAST: u32 = 0x1;
const EXTENT_UNKNOWN: u32 = 0x2;
const EXTENT_DELALLOC: u32 = 0x4;
const EXTENT_ENCODED: u32 = 0x8;
const EXTENT_DATA_INLINE: u32 = 0x200;
const EXTENT_UNWRITTEN: u32 = 0x800;
const EXTENT_SHARED: u32 = 0x2000;

/// A run of a file that lies in one piece on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskExtent {
    /// First byte in the file.
    pub file_offset: u64,
    /// First byte on the device; `None` where the file system has not decided, or does not say.
    pub disk_offset: Option<u64>,
    /// Bytes.
    pub length: u64,
    /// Reserved but never written: reads as zero, without the disk.
    pub unwritten: bool,
    /// Shared with another file (a reflink copy).
    pub shared: bool,
    /// Compressed or encrypted: the bytes on the disk are not the file's.
    pub encoded: bool,
}

/// The extents that hold `range` (bytes of the file), in ascending order; holes have none. The first and the
/// last may reach beyond the range. What is dirty in the page cache is written first, so that it has a place.
///
/// # Errors
/// `ExtentsUnsupported` (tmpfs, most network file systems), `ZeroLength`, `File`.
pub fn disk_extents(file: &File, range: Range<u64>) -> Result<Vec<DiskExtent>, Error> {
    if range.is_empty() {
        return Err(Error::ZeroLength { what: "a range of a file" });
    }
    let mut found = Vec::new();
    let mut at = range.start;
    while at < range.end {
        let batch = ask(file, at, range.end - at)?;
        // Bounded by the kernel to what we had room for; `take` below holds it to that.
        let count = batch.header.mapped_extents as usize;
        let mut last = count == 0;
        for extent in batch.extents.iter().take(count) {
            found.push(meaning(extent));
            last |= extent.flags & EXTENT_LAST != 0;
            let end = extent.logical.saturating_add(extent.length);
            // An extent that ends where we were would be asked for again for ever.
            last |= end <= at;
            at = end;
        }
        if last {
            break;
        }
    }
    Ok(found)
}

fn meaning(extent: &FiemapExtent) -> DiskExtent {
    let has = |flag| extent.flags & flag != 0;
    let nowhere = has(EXTENT_UNKNOWN) || has(EXTENT_DELALLOC) || has(EXTENT_DATA_INLINE);
    DiskExtent {
        file_offset: extent.logical,
        disk_offset: (!nowhere).then_some(extent.physical),
        length: extent.length,
        unwritten: has(EXTENT_UNWRITTEN),
        shared: has(EXTENT_SHARED),
        encoded: has(EXTENT_ENCODED),
    }
}

fn ask(file: &File, start: u64, length: u64) -> Result<Box<Fiemap>, Error> {
    let header = FiemapHeader {
        start,
        length,
        flags: FLAG_SYNC,
        mapped_extents: 0,
        extent_count: BATCH as u32,
        reserved: 0,
    };
    let none = FiemapExtent {
        logical: 0,
        physical: 0,
        length: 0,
        reserved_64: [0; 2],
        flags: 0,
        reserved: [0; 3],
    };
    let mut batch = Box::new(Fiemap { header, extents: [none; BATCH] });
    let pointer: *mut Fiemap = &raw mut *batch;
    // SAFETY: the kernel writes the header and at most extent_count = BATCH extents behind it, which is
    // what Fiemap has room for (sizes asserted above).
    let result = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP, pointer) };
    if result == 0 {
        return Ok(batch);
    }
    let source = io::Error::last_os_error();
    let file = file_name(file.as_fd());
    match source.raw_os_error() {
        // EBADR (53 on x86): the file system does not know a flag.
        Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS | libc::EBADR) => {
            Err(Error::ExtentsUnsupported { file, source })
        }
        _ => Err(Error::File { call: "ioctl(FS_IOC_FIEMAP)", file, source }),
    }
}
