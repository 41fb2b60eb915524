//! What a process, this one or another, has of a file: its mappings (`smaps`), which of their pages
//! are in its page tables (`pagemap`), and its totals (`status`).
//!
//! Another user's process shows none of this without `CAP_SYS_PTRACE`: then the errors name the file
//! of `/proc` that was refused.

use std::fmt;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::resident::{PageMap, present_pages};
use crate::system_root::{SystemRoot, field};
use crate::{Error, FileIdentity, MemoryLimits, ProcessMemory, page_size};

/// A process as `/proc` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    root: SystemRoot,
    id: Option<u32>,
}

/// A part of a file that is mapped by a process, with the kernel's own figures for it, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FileMapping {
    /// First address.
    pub start: u64,
    /// Address past the last.
    pub end: u64,
    /// Byte of the file that lies at `start`.
    pub file_offset: u64,
    /// Pages in the page tables (`Rss`).
    pub rss_bytes: u64,
    /// The same, pages that others map too counted by their share (`Pss`).
    pub shared_out_bytes: u64,
    /// Pages used since the bits were last cleared (`Referenced`).
    pub referenced_bytes: u64,
    /// Pages that are locked.
    pub locked_bytes: u64,
}

impl FileMapping {
    /// Bytes of address space.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.end.saturating_sub(self.start)
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.id {
            Some(id) => write!(f, "process {id}"),
            None => f.write_str("this process"),
        }
    }
}

impl Process {
    /// The one that asks.
    #[must_use]
    pub fn this() -> Self {
        Self { root: SystemRoot::default(), id: None }
    }

    /// The one with this id.
    #[must_use]
    pub fn with_id(id: u32) -> Self {
        Self::at(&SystemRoot::default(), id)
    }

    /// One of another tree.
    #[must_use]
    pub fn at(root: &SystemRoot, id: u32) -> Self {
        Self { root: root.clone(), id: Some(id) }
    }

    fn directory(&self) -> String {
        self.id.map_or_else(|| "self".to_owned(), |id| id.to_string())
    }

    /// Its program's name, at most 15 bytes (`comm`).
    ///
    /// # Errors
    /// `System`: there is no such process.
    pub fn name(&self) -> Result<String, Error> {
        Ok(self.root.read(&format!("/proc/{}/comm", self.directory()))?.trim_end().to_owned())
    }

    /// Its memory.
    ///
    /// # Errors
    /// `System`, `SystemFormat`: there is no such process, or it is a kernel thread.
    pub fn memory(&self) -> Result<ProcessMemory, Error> {
        ProcessMemory::read_of(&self.root, &self.directory())
    }

    /// The memory groups it is in.
    ///
    /// # Errors
    /// As [`MemoryLimits::read`].
    pub fn limits(&self) -> Result<MemoryLimits, Error> {
        MemoryLimits::read_of(&self.root, &self.directory())
    }

    /// Its mappings of the file, by ascending address.
    ///
    /// # Errors
    /// `System`: there is no such process, or it is not ours to look at.
    pub fn mappings_of(&self, file: &FileIdentity) -> Result<Vec<FileMapping>, Error> {
        let text = self.root.read(&format!("/proc/{}/smaps", self.directory()))?;
        Ok(parse(&text, file))
    }

    /// Which pages of a mapping are in the process's page tables, counted by their place in the
    /// file. As many as `rss_bytes` says, unless it changed in between.
    ///
    /// # Errors
    /// `System`, as above.
    pub fn pages_of(&self, mapping: &FileMapping) -> Result<PageMap, Error> {
        let path = self.root.path(format!("/proc/{}/pagemap", self.directory()).as_ref());
        // The crate is for 64-bit machines only.
        let offset = mapping.file_offset as usize;
        let range: Range<usize> = offset..offset.saturating_add(mapping.length() as usize);
        present_pages(&path, mapping.start / page_size() as u64, &range)
    }
}

/// The header of a mapping in `smaps` (`proc_pid_maps(5)`): `start-end perms offset major:minor inode path`.
pub(crate) struct Header<'t> {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) permissions: &'t str,
    offset: u64,
    device: (u64, u64),
    pub(crate) inode: u64,
    pub(crate) path: &'t str,
}

pub(crate) fn header(line: &str) -> Option<Header<'_>> {
    let hex = |text: &str| u64::from_str_radix(text, 16).ok();
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let mut words = rest.splitn(5, ' ');
    let permissions = words.next()?;
    let (offset, device, inode) = (words.next()?, words.next()?, words.next()?);
    let (major, minor) = device.split_once(':')?;
    Some(Header {
        start: hex(start)?,
        end: hex(end)?,
        permissions,
        offset: hex(offset)?,
        device: (hex(major)?, hex(minor)?),
        inode: inode.parse().ok()?,
        path: words.next().unwrap_or("").trim_start(),
    })
}

impl Header<'_> {
    fn is_of(&self, file: &FileIdentity) -> bool {
        if self.inode != file.inode {
            return false;
        }
        // Overlays and btrfs give stat(2) another device than the mapping: then the path decides.
        self.device == device_numbers(file.device)
            || std::fs::metadata(Path::new(self.path))
                .is_ok_and(|meta| (meta.dev(), meta.ino()) == (file.device, file.inode))
    }
}

/// Major and minor number, as `<sys/sysmacros.h>` takes a `dev_t` apart.
pub(crate) fn device_numbers(device: u64) -> (u64, u64) {
    (
        (device >> 8 & 0xfff) | (device >> 32 & !0xfff),
        (device & 0xff) | (device >> 12 & 0xffff_ff00),
    )
}

fn parse(text: &str, file: &FileIdentity) -> Vec<FileMapping> {
    let mut found: Vec<FileMapping> = Vec::new();
    let mut ours = false;
    for line in text.lines() {
        if let Some(header) = header(line) {
            ours = header.is_of(file);
            if ours {
                let Header { start, end, offset, .. } = header;
                found.push(FileMapping { start, end, file_offset: offset, ..Default::default() });
            }
            continue;
        }
        let Some(last) = found.last_mut().filter(|_| ours) else { continue };
        for (key, value) in [
            ("Rss", &mut last.rss_bytes),
            ("Pss", &mut last.shared_out_bytes),
            ("Referenced", &mut last.referenced_bytes),
            ("Locked", &mut last.locked_bytes),
        ] {
            *value = field(line, key).unwrap_or(*value);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
7f0000000000-7f0000003000 r--s 00000000 fe:01 77                         /m/a model.gguf
Size:                 12 kB
Rss:                   8 kB
Pss:                   4 kB
Referenced:            4 kB
Locked:                0 kB
VmFlags: rd sh mr
7f0000010000-7f0000012000 rw-p 00000000 00:00 0
Rss:                   4 kB
7f0000020000-7f0000021000 r--s 00002000 fe:01 77                         /m/a model.gguf
Rss:                   4 kB
7f0000030000-7f0000031000 r--s 00000000 fe:02 77                         /other
Rss:                   4 kB
";

    fn identity(device: u64, inode: u64) -> FileIdentity {
        FileIdentity { device, inode, size: 1, modified_s: 0, modified_ns: 0 }
    }

    #[test]
    fn the_mappings_of_one_file_are_found_among_others() {
        let found = parse(SMAPS, &identity(0xfe01, 77));
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!((found[0].length(), found[0].rss_bytes), (0x3000, 8192));
        assert_eq!((found[0].shared_out_bytes, found[0].referenced_bytes), (4096, 4096));
        assert_eq!((found[1].file_offset, found[1].rss_bytes), (0x2000, 4096));
        assert_eq!(parse(SMAPS, &identity(0xfe01, 78)), []);
        assert_eq!(parse("nonsense\n1-2\n", &identity(1, 2)), []);
    }

    #[test]
    fn numbers_of_devices() {
        assert_eq!(device_numbers(0xfe01), (0xfe, 0x01));
        assert_eq!(device_numbers(0x10_2345), (0x23, 0x145));
    }

    #[test]
    fn a_tree_of_files_stands_in_for_a_process() {
        let dir = std::env::temp_dir().join(format!("lowtide-process-{}", std::process::id()));
        let proc = dir.join("proc/42");
        std::fs::create_dir_all(&proc).unwrap();
        std::fs::write(proc.join("comm"), "llama-cli\n").unwrap();
        std::fs::write(proc.join("smaps"), SMAPS).unwrap();
        std::fs::write(proc.join("status"), "VmRSS:\t  12 kB\nVmPTE:\t 8 kB\n").unwrap();
        let process = Process::at(&SystemRoot::at(&dir), 42);
        assert_eq!(process.name().unwrap(), "llama-cli");
        assert_eq!(process.memory().unwrap().page_table_bytes, 8192);
        assert_eq!(process.mappings_of(&identity(0xfe02, 77)).unwrap().len(), 1);
        let missing = Process::at(&SystemRoot::at(&dir), 43);
        assert!(matches!(missing.memory(), Err(Error::System { .. })));
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
