//! What this process uses, as the kernel counts it.

use crate::Error;
use crate::system_root::{SystemRoot, field};

/// Memory of this process in bytes, from `/proc/self/status`.
///
/// The kernel keeps these counters per processor and adds them up lazily: they may be off by some hundred KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProcessMemory {
    /// Resident pages (`VmRSS`): anonymous + file + shared.
    pub rss_bytes: u64,
    /// Highest `VmRSS` so far (`VmHWM`).
    pub rss_peak_bytes: u64,
    /// Resident anonymous pages: heap, stacks, arenas.
    pub anonymous_bytes: u64,
    /// Resident pages of mapped files: programs, libraries, the model.
    pub file_bytes: u64,
    /// Resident pages of shared memory.
    pub shared_bytes: u64,
    /// Page tables (`VmPTE`: all levels below the topmost).
    pub page_table_bytes: u64,
    /// Locked pages (`VmLck`).
    pub locked_bytes: u64,
    /// Pages in swap.
    pub swap_bytes: u64,
}

impl ProcessMemory {
    /// Reads the counters.
    ///
    /// # Errors
    /// `System`, `SystemFormat` (no `/proc`, or no `VmRSS` in it).
    pub fn read() -> Result<Self, Error> {
        Self::read_at(&SystemRoot::default())
    }

    /// As [`ProcessMemory::read`], of another tree.
    ///
    /// # Errors
    /// As [`ProcessMemory::read`].
    pub fn read_at(root: &SystemRoot) -> Result<Self, Error> {
        Self::read_of(root, "self")
    }

    /// Of the process with this name below `/proc`.
    pub(crate) fn read_of(root: &SystemRoot, process: &str) -> Result<Self, Error> {
        let name = format!("/proc/{process}/status");
        let text = root.read(&name)?;
        let rss_bytes = field(&text, "VmRSS").ok_or_else(|| Error::SystemFormat {
            path: root.path(name.as_ref()),
            expected: "a line VmRSS",
        })?;
        let number = |key| field(&text, key).unwrap_or(0);
        Ok(Self {
            rss_bytes,
            rss_peak_bytes: number("VmHWM"),
            anonymous_bytes: number("RssAnon"),
            file_bytes: number("RssFile"),
            shared_bytes: number("RssShmem"),
            page_table_bytes: number("VmPTE"),
            locked_bytes: number("VmLck"),
            swap_bytes: number("VmSwap"),
        })
    }
}

/// Sets `VmHWM` back to the present RSS (`clear_refs`, 5).
///
/// # Errors
/// `System` where the kernel is built without it, or `/proc` is read-only.
pub fn reset_peak_rss() -> Result<(), Error> {
    write_clear_refs("5")
}

/// Clears the "referenced" marks of this process's file pages (`clear_refs`, 3): what is marked later
/// was touched in between, says the processor itself. `Referenced` in `smaps` counts the marks.
///
/// # Errors
/// `System` where the kernel is built without it, or `/proc` is read-only.
pub fn clear_referenced() -> Result<(), Error> {
    write_clear_refs("3")
}

fn write_clear_refs(what: &str) -> Result<(), Error> {
    let path = "/proc/self/clear_refs";
    std::fs::write(path, what).map_err(|source| Error::System {
        action: "write",
        path: path.into(),
        source,
    })
}

/// Page faults and disk traffic of this process since it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ProcessActivity {
    /// Faults that were served from memory.
    pub minor_faults: u64,
    /// Faults that waited for the disk.
    pub major_faults: u64,
    /// Bytes that this process caused to be read from disks; `None` where the kernel does not say.
    pub read_bytes: Option<u64>,
    /// Bytes passed by `read` and its like, from wherever they came; `None` as above.
    pub read_call_bytes: Option<u64>,
}

impl ProcessActivity {
    /// Reads the counters.
    ///
    /// # Errors
    /// `System`, `SystemFormat` (no `/proc`).
    pub fn read() -> Result<Self, Error> {
        Self::read_at(&SystemRoot::default())
    }

    /// As [`ProcessActivity::read`], of another tree.
    ///
    /// # Errors
    /// As [`ProcessActivity::read`].
    pub fn read_at(root: &SystemRoot) -> Result<Self, Error> {
        let name = "/proc/self/stat";
        let text = root.read(name)?;
        let (minor_faults, major_faults) = faults(&text).ok_or_else(|| Error::SystemFormat {
            path: root.path(name.as_ref()),
            expected: "52 fields",
        })?;
        // Containers may refuse it, kernels lack it: then there is no figure, and no reason to fail.
        let io = root.read("/proc/self/io").unwrap_or_default();
        Ok(Self {
            minor_faults,
            major_faults,
            read_bytes: field(&io, "read_bytes"),
            read_call_bytes: field(&io, "rchar"),
        })
    }

    /// What was added since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let difference = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
        Self {
            minor_faults: self.minor_faults.saturating_sub(earlier.minor_faults),
            major_faults: self.major_faults.saturating_sub(earlier.major_faults),
            read_bytes: difference(self.read_bytes, earlier.read_bytes),
            read_call_bytes: difference(self.read_call_bytes, earlier.read_call_bytes),
        }
    }
}

/// Fields 10 (`minflt`) and 12 (`majflt`) of `proc_pid_stat(5)`. Field 2 is the program's name in parentheses
/// and may hold anything, parentheses too.
fn faults(text: &str) -> Option<(u64, u64)> {
    let (_, after_name) = text.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(7);
    let minor = fields.next()?.parse().ok()?;
    let major = fields.nth(1)?.parse().ok()?;
    Some((minor, major))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_behind_a_hostile_name() {
        let text = "7 (a) b (c) S 1 2 3 4 5 6 1234 8 99 10 11";
        assert_eq!(faults(text), Some((1234, 99)));
        assert_eq!(faults("7 (a) S 1"), None);
        assert_eq!(faults(""), None);
    }

    #[test]
    fn faults_are_counted() {
        let before = ProcessActivity::read().unwrap();
        let pages = vec![1u8; 8 << 20];
        assert!(pages.iter().all(|&byte| byte == 1));
        let used = ProcessActivity::read().unwrap().since(&before);
        // 2048 pages, or 4 huge ones.
        assert!(used.minor_faults >= 4, "{used:?}");
    }

    #[test]
    fn rss_is_the_sum_of_its_parts() {
        let memory = ProcessMemory::read().unwrap();
        let parts = memory.anonymous_bytes + memory.file_bytes + memory.shared_bytes;
        assert_eq!(memory.rss_bytes, parts);
        assert!(memory.rss_peak_bytes > 0 && memory.page_table_bytes > 0);
    }
}
