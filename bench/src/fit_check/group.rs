//! A memory group for one program: its limit, and whether it was hit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the two versions of control groups are mounted.
const V1: &str = "/sys/fs/cgroup/memory";
const V2: &str = "/sys/fs/cgroup";

/// A group that goes away when it is dropped.
pub struct Group {
    dir: PathBuf,
    is_v2: bool,
}

impl Group {
    /// A group with a limit; `None` where this user may not make one.
    pub fn with_limit(bytes: u64) -> Option<Self> {
        let is_v2 = Path::new(V2).join("cgroup.controllers").exists();
        let parent = if is_v2 { V2 } else { V1 };
        let dir = Path::new(parent).join(format!("lowtide-fit-check-{}", std::process::id()));
        fs::create_dir(&dir).ok()?;
        let group = Self { dir, is_v2 };
        let limit = if is_v2 { "memory.max" } else { "memory.limit_in_bytes" };
        fs::write(group.dir.join(limit), bytes.to_string()).ok()?;
        // Swap would hide a limit that does not hold; the file is absent where swap is not counted.
        let (swap, most) = match is_v2 {
            true => ("memory.swap.max", 0),
            false => ("memory.memsw.limit_in_bytes", bytes),
        };
        let _ = fs::write(group.dir.join(swap), most.to_string());
        Some(group)
    }

    /// The program, in the group from its first instruction on.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]);
        command.arg(self.dir.join("cgroup.procs")).arg(program);
        command
    }

    /// Times that the limit was hit, and the highest charge in bytes.
    pub fn seen(&self) -> (u64, u64) {
        let number = |name: &str| -> u64 {
            let text = fs::read_to_string(self.dir.join(name)).unwrap_or_default();
            text.trim().parse().unwrap_or(0)
        };
        if !self.is_v2 {
            return (number("memory.failcnt"), number("memory.max_usage_in_bytes"));
        }
        let events = fs::read_to_string(self.dir.join("memory.events")).unwrap_or_default();
        let hits = events.lines().find_map(|line| line.strip_prefix("max ")?.trim().parse().ok());
        (hits.unwrap_or(0), number("memory.peak"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It can be removed only when nobody is in it; then nothing is lost by leaving it.
        let _ = fs::remove_dir(&self.dir);
    }
}
