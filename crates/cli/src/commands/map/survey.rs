//! Where the pages are at this moment: by `mincore`, by a process's page tables, by FIEMAP.

use std::ops::Range;
use std::os::unix::fs::MetadataExt;

use anyhow::Result;
use lowtide_mapping::{
    DiskExtent, FileMapping, MemoryGroup, ModelFile, PageMap, PageSize, PageTables, Process,
    ProcessMemory, cached_pages, disk_extents, page_size,
};
use nix::unistd::{AccessFlags, access};

use super::layout::{Layout, Part};
use crate::buffers::{self, Held};
use crate::failure::{Failure, STATUS_INPUT, STATUS_RUNNING};

/// What is known of one file.
pub struct ShardSurvey {
    /// Pages in the page cache.
    pub cached: PageMap,
    /// Pieces on the disk; `None` where the file system does not say.
    pub extents: Option<Vec<DiskExtent>>,
    /// The process's mappings of it, with the pages in its page tables.
    pub mappings: Vec<(FileMapping, PageMap)>,
    /// Whether the kernel tells us what is cached: only about files that we own or may write to.
    pub is_told: bool,
}

/// What is known of a model, and of a process that maps it.
pub struct Survey {
    /// By file.
    pub shards: Vec<ShardSurvey>,
    /// The process that was looked at.
    pub process: Process,
    /// Its program.
    pub program: String,
    /// Its memory.
    pub memory: ProcessMemory,
    /// Its own memory group.
    pub group: Option<MemoryGroup>,
    /// What it has of the files in buffers of its own; `None` if it keeps no list of that.
    pub buffers: Option<Vec<Held>>,
}

impl Survey {
    /// Looks once.
    pub fn take(layout: &Layout, process: &Process, id: Option<u32>) -> Result<Self> {
        let refused = |error: lowtide_mapping::Error| Failure::from_lines(&error, STATUS_RUNNING);
        let unknown = |error: lowtide_mapping::Error| {
            Failure::from_lines(&error, STATUS_INPUT)
                .why(format!("{process} is not there, or belongs to another user"))
                .mend("pgrep -a lowtide   (lists the ids; as root for other users' processes)")
        };
        let program = process.name().map_err(unknown)?;
        let memory = process.memory().map_err(unknown)?;
        let mut shards = Vec::new();
        for file in &layout.shards {
            let mut mappings = Vec::new();
            for mapping in process.mappings_of(&file.identity()).map_err(unknown)? {
                mappings.push((mapping, process.pages_of(&mapping).map_err(unknown)?));
            }
            shards.push(ShardSurvey {
                cached: cached_pages(file.file()).map_err(refused)?,
                // Not to know is no reason to fail: many file systems do not say.
                extents: disk_extents(file.file(), 0..file.size()).ok(),
                mappings,
                is_told: is_told(file),
            });
        }
        let limits = process.limits().ok();
        let group = limits.and_then(|limits| limits.own().cloned());
        let buffers = id.and_then(buffers::of_process);
        Ok(Self { shards, process: process.clone(), program, memory, group, buffers })
    }

    /// Bytes of the range of a file that are in the page cache.
    pub fn cached(&self, shard: usize, range: &Range<u64>) -> u64 {
        self.shards.get(shard).map_or(0, |shard| held(&shard.cached, range))
    }

    /// Bytes of it that are in the process's page tables.
    pub fn mapped(&self, shard: usize, range: &Range<u64>) -> u64 {
        let mappings = self.shards.get(shard).map_or(&[][..], |shard| &shard.mappings);
        // Two mappings of the same bytes: what either has is there.
        let most = mappings.iter().map(|(_, pages)| held(pages, range)).max();
        most.unwrap_or(0)
    }

    /// Bytes of it that are in the process's own buffers.
    pub fn buffered(&self, shard: usize, range: &Range<u64>) -> u64 {
        self.buffers.as_ref().map_or(0, |all| buffers::overlap(all, shard, range))
    }

    /// Bytes of the files in the process's own buffers.
    pub fn buffered_bytes(&self) -> u64 {
        self.buffers.iter().flatten().map(|held| held.end - held.start).sum()
    }

    /// Where a process is looked at: what it has, in its page tables or in its buffers.
    pub fn places(&self) -> String {
        match self.buffers {
            Some(_) => format!("in the page tables and buffers of {}", self.process),
            None => format!("in the page tables of {}", self.process),
        }
    }

    /// Pieces on the disk that the range lies in.
    pub fn extents(&self, shard: usize, range: &Range<u64>) -> Option<u64> {
        let all = self.shards.get(shard)?.extents.as_ref()?;
        let within = all.iter().filter(|extent| {
            extent.file_offset < range.end && extent.file_offset + extent.length > range.start
        });
        Some(within.count() as u64)
    }

    /// Bytes in the page cache, in whole pages.
    pub fn cached_bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.cached.resident_bytes()).sum()
    }

    /// All mappings with their pages.
    pub fn mappings(&self) -> impl Iterator<Item = &(FileMapping, PageMap)> {
        self.shards.iter().flat_map(|shard| &shard.mappings)
    }

    /// Bytes of address space that the process has for the files.
    pub fn mapped_bytes(&self) -> u64 {
        self.mappings().map(|(mapping, _)| mapping.length()).sum()
    }

    /// Bytes of the files in the process's page tables, counted in its `pagemap`.
    pub fn present_bytes(&self) -> u64 {
        self.mappings().map(|(_, pages)| pages.resident_bytes()).sum()
    }

    /// The same as `smaps` states it.
    pub fn rss_bytes(&self) -> u64 {
        self.mappings().map(|(mapping, _)| mapping.rss_bytes).sum()
    }

    /// Bytes in the page cache that the process has not in its page tables.
    pub fn cached_not_mapped_bytes(&self) -> u64 {
        let page = page_size() as u64;
        let only_cached = |shard: &ShardSurvey| {
            let pages = shard
                .cached
                .runs()
                .flat_map(|run| (run.start as u64..run.end as u64).step_by(page as usize));
            let unmapped =
                pages.filter(|&at| !shard.mappings.iter().any(|(_, pages)| contains(pages, at)));
            unmapped.count() as u64 * page
        };
        self.shards.iter().map(only_cached).sum()
    }

    /// Page tables that the pages present in the process need.
    pub fn tables(&self) -> PageTables {
        let mut runs: Vec<Range<u64>> = Vec::new();
        for (mapping, pages) in self.mappings() {
            let address = |offset: usize| mapping.start + (offset as u64 - mapping.file_offset);
            runs.extend(pages.runs().map(|run| address(run.start)..address(run.end)));
        }
        runs.sort_by_key(|run| run.start);
        PageTables::holding(runs)
    }
}

/// Page tables of mappings of all files: at best, and at worst.
pub fn predicted(layout: &Layout) -> (PageTables, PageTables) {
    let mut sums = (PageTables::default(), PageTables::default());
    let add = |sum: &mut PageTables, tables: PageTables| {
        for (sum, count) in sum.levels.iter_mut().zip(tables.levels) {
            *sum += count;
        }
    };
    for file in &layout.shards {
        // A file is longer than nothing and shorter than the address space.
        add(&mut sums.0, PageTables::best(file.size(), PageSize::Size4K).unwrap_or_default());
        add(&mut sums.1, PageTables::worst(file.size(), PageSize::Size4K).unwrap_or_default());
    }
    sums
}

/// `mincore` says "all resident" of files that the caller neither owns nor may write to.
fn is_told(file: &ModelFile) -> bool {
    let owner = |path: &str| std::fs::metadata(path).map(|meta| meta.uid()).ok();
    let own = file.file().metadata().map(|meta| meta.uid()).ok();
    access(file.path(), AccessFlags::W_OK).is_ok() || own == owner("/proc/self")
}

/// Whether the page at byte `at` of the file is set.
fn contains(pages: &PageMap, at: u64) -> bool {
    let start = pages.range().start as u64;
    at >= start && pages.contains(((at - start) / page_size() as u64) as usize)
}

/// Bytes of `range` that lie on set pages.
pub fn held(pages: &PageMap, range: &Range<u64>) -> u64 {
    let page = page_size() as u64;
    let mut sum = 0;
    let mut at = range.start;
    while at < range.end {
        let next = ((at / page + 1) * page).min(range.end);
        if contains(pages, at) {
            sum += next - at;
        }
        at = next;
    }
    sum
}

/// First and last page of a part in its file.
pub fn pages_of(part: &Part) -> (u64, u64) {
    let page = page_size() as u64;
    (part.range.start / page, part.range.end.saturating_sub(1).max(part.range.start) / page)
}
