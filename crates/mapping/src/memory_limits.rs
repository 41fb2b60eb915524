//! How much memory this process may use: what the machine has, and what its control groups allow.

use std::path::{Path, PathBuf};

use crate::Error;
use crate::cgroup::{CgroupVersion, membership_of};
use crate::system_root::{SystemRoot, field, read_optional};

/// The machine's memory, from `/proc/meminfo`, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostMemory {
    /// Usable memory (`MemTotal`).
    pub total_bytes: u64,
    /// What could be had without swapping (`MemAvailable`): free memory and what the page cache would give.
    pub available_bytes: u64,
    /// Free swap.
    pub swap_free_bytes: u64,
}

/// A memory control group, in bytes. What is not to be found is `None`: v2 has no files in the root group, and
/// peaks only since Linux 5.19.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryGroup {
    /// Its directory.
    pub path: PathBuf,
    /// Hard limit: past it the kernel reclaims and then kills (`memory.limit_in_bytes`; `memory.max`).
    pub limit_bytes: Option<u64>,
    /// Limit past which the kernel slows the group down (v2 `memory.high`).
    pub high_bytes: Option<u64>,
    /// What the group is charged now: anonymous memory, page cache, kernel memory.
    pub usage_bytes: Option<u64>,
    /// Page cache within the charge that is not locked: it gives way before the limit counts
    /// (`active_file` + `inactive_file` of `memory.stat`).
    pub cache_bytes: Option<u64>,
    /// Highest charge so far (`memory.max_usage_in_bytes`; `memory.peak`).
    pub peak_bytes: Option<u64>,
    /// How often the limit was hit (`memory.failcnt`; `max` of `memory.events`).
    pub limit_hits: Option<u64>,
    /// Processes killed for lack of memory (`oom_kill` of `memory.oom_control` or `memory.events`).
    pub oom_kills: Option<u64>,
}

/// Limits of memory, as they are at the moment.
///
/// # Examples
/// ```
/// let limits = lowtide_mapping::MemoryLimits::read()?;
/// assert!(limits.effective_bytes() <= limits.host.total_bytes);
/// # Ok::<(), lowtide_mapping::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryLimits {
    /// The machine.
    pub host: HostMemory,
    /// The interface of the groups; `None` outside any memory group.
    pub version: Option<CgroupVersion>,
    /// The own group first, then its ancestors.
    pub groups: Vec<MemoryGroup>,
}

impl MemoryLimits {
    /// Reads the limits of this process.
    ///
    /// # Errors
    /// `System`, `SystemFormat`: no readable `/proc/meminfo`; a control file that fails or holds no number.
    pub fn read() -> Result<Self, Error> {
        Self::read_at(&SystemRoot::default())
    }

    /// As [`MemoryLimits::read`], of another tree.
    ///
    /// # Errors
    /// As [`MemoryLimits::read`].
    pub fn read_at(root: &SystemRoot) -> Result<Self, Error> {
        Self::read_of(root, "self")
    }

    /// Of the process with this name below `/proc`.
    pub(crate) fn read_of(root: &SystemRoot, process: &str) -> Result<Self, Error> {
        let host = HostMemory::read_at(root)?;
        let Some(member) = membership_of(root, process, "memory")? else {
            return Ok(Self { host, version: None, groups: Vec::new() });
        };
        let read = |dir: &PathBuf| MemoryGroup::read(dir, member.version);
        let groups: Vec<_> = member.levels.iter().map(read).collect::<Result<_, _>>()?;
        // A v2 hierarchy beside v1 has no memory controller: then no group says anything.
        let known = groups.iter().any(MemoryGroup::is_known);
        let version = known.then_some(member.version);
        Ok(Self { host, version, groups: if known { groups } else { Vec::new() } })
    }

    /// The group with the smallest limit, where any has one.
    #[must_use]
    pub fn tightest(&self) -> Option<&MemoryGroup> {
        self.groups.iter().filter(|g| g.bound().is_some()).min_by_key(|group| group.bound())
    }

    /// The smallest of all limits: the groups' and the machine's memory.
    #[must_use]
    pub fn effective_bytes(&self) -> u64 {
        let host = self.host.total_bytes;
        self.tightest().and_then(MemoryGroup::bound).map_or(host, |limit| limit.min(host))
    }

    /// What this process could still get: the smallest of what the machine has available and what each
    /// group's limit leaves beside what would not give way (the charge without its page cache, so that a
    /// model left in the cache by the run before does not make the next one's budget smaller).
    #[must_use]
    pub fn available_bytes(&self) -> u64 {
        let left = |group: &MemoryGroup| Some(group.bound()?.saturating_sub(group.firm_bytes()));
        let host = self.host.available_bytes;
        self.groups.iter().filter_map(left).fold(host, u64::min)
    }

    /// As [`MemoryLimits::available_bytes`], where others that share the limit have claimed so many bytes
    /// ([`claimed_bytes`](crate::claimed_bytes)), of which a part is charged already.
    #[must_use]
    pub fn available_beside(&self, claimed: u64) -> u64 {
        self.available_bytes().min(self.effective_bytes().saturating_sub(claimed))
    }

    /// The own group: what this process is charged to.
    #[must_use]
    pub fn own(&self) -> Option<&MemoryGroup> {
        self.groups.first()
    }
}

impl HostMemory {
    /// Reads `/proc/meminfo`.
    ///
    /// # Errors
    /// `System`, `SystemFormat`.
    pub fn read_at(root: &SystemRoot) -> Result<Self, Error> {
        let text = root.read("/proc/meminfo")?;
        let number = |key: &str, expected| {
            let path = || root.path("/proc/meminfo".as_ref());
            field(&text, key).ok_or_else(|| Error::SystemFormat { path: path(), expected })
        };
        Ok(Self {
            total_bytes: number("MemTotal", "a line MemTotal")?,
            available_bytes: number("MemAvailable", "a line MemAvailable")?,
            swap_free_bytes: number("SwapFree", "a line SwapFree")?,
        })
    }
}

/// v1 writes "no limit" as the largest number of whole pages; anything near it is none either.
const V1_UNLIMITED_BYTES: u64 = 1 << 62;

impl MemoryGroup {
    fn read(dir: &Path, version: CgroupVersion) -> Result<Self, Error> {
        let number = |name: &str| read_number(&dir.join(name));
        let event = |file: &str, key: &str| -> Result<Option<u64>, Error> {
            Ok(read_optional(&dir.join(file))?.and_then(|text| field(&text, key)))
        };
        let cache = |prefix: &str| -> Result<Option<u64>, Error> {
            let Some(text) = read_optional(&dir.join("memory.stat"))? else { return Ok(None) };
            let part = |key: &str| field(&text, &format!("{prefix}{key}"));
            let (active, inactive) = (part("active_file"), part("inactive_file"));
            Ok(active.zip(inactive).and_then(|(active, inactive)| active.checked_add(inactive)))
        };
        let path = dir.to_path_buf();
        match version {
            CgroupVersion::V1 => Ok(Self {
                path,
                limit_bytes: number("memory.limit_in_bytes")?.filter(|&b| b < V1_UNLIMITED_BYTES),
                high_bytes: None,
                usage_bytes: number("memory.usage_in_bytes")?,
                // Without the prefix: this group's own, not that of those below it.
                cache_bytes: cache("total_")?,
                peak_bytes: number("memory.max_usage_in_bytes")?,
                limit_hits: number("memory.failcnt")?,
                oom_kills: event("memory.oom_control", "oom_kill")?,
            }),
            CgroupVersion::V2 => Ok(Self {
                path,
                limit_bytes: number("memory.max")?,
                high_bytes: number("memory.high")?,
                usage_bytes: number("memory.current")?,
                cache_bytes: cache("")?,
                peak_bytes: number("memory.peak")?,
                limit_hits: event("memory.events", "max")?,
                oom_kills: event("memory.events", "oom_kill")?,
            }),
        }
    }

    /// The smaller of the hard limit and the one that slows down.
    #[must_use]
    pub fn bound(&self) -> Option<u64> {
        self.limit_bytes.into_iter().chain(self.high_bytes).min()
    }

    /// What the group is charged beside page cache that would give way; 0 where nothing is known.
    #[must_use]
    pub fn firm_bytes(&self) -> u64 {
        self.usage_bytes.unwrap_or(0).saturating_sub(self.cache_bytes.unwrap_or(0))
    }

    /// Whether this process is the only one in the group, so that its charge is this process's own. Groups
    /// below it are not looked at.
    #[must_use]
    pub fn is_ours_alone(&self) -> bool {
        let own = std::process::id();
        let processes = std::fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
        let mut ids = processes.lines().map(|line| line.trim().parse() == Ok(own));
        ids.next() == Some(true) && ids.all(|is_own| is_own)
    }

    fn is_known(&self) -> bool {
        self.bound().is_some() || self.usage_bytes.is_some()
    }

    /// Sets the peak back to the present charge, where the kernel lets us: v1 with write permission. (v2
    /// since Linux 6.12 does so for one open descriptor only, which is another thing.)
    ///
    /// # Errors
    /// `System` where the file is missing or not ours to write.
    pub fn reset_peak(&self) -> Result<(), Error> {
        let path = self.path.join("memory.max_usage_in_bytes");
        // Without O_CREAT: in a v2 directory the file must not come into being.
        let written = std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| std::io::Write::write_all(&mut file, b"0"));
        written.map_err(|source| Error::System { action: "write", path, source })
    }
}

/// A control file with one number or `max` (no limit). Missing is `None`, nonsense an error.
pub(crate) fn read_number(path: &Path) -> Result<Option<u64>, Error> {
    match read_optional(path)?.as_deref().map(str::trim) {
        None | Some("max" | "-1") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| Error::SystemFormat {
            path: path.into(),
            expected: "a number of bytes, or max",
        }),
    }
}
