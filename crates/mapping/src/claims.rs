//! Memory that processes have planned to take and did not take yet, so that two that start at once do not both
//! plan with what was free before either.
//!
//! A claim is a shared lock on as many bytes of a file that all of them can open: the directory of the group whose
//! limit binds them (`/proc/meminfo` where none does). Nothing is written; the kernel keeps the list, and forgets a
//! claim with its process, however it ends. (`fcntl(2)`: open file description locks.) Where locks are refused there
//! are no claims, and plans are made of what is free, as without them.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::MemoryLimits;
use crate::sys;

/// A plan takes milliseconds. Whoever holds others up for longer has been stopped.
const TURN_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two tries.
const TURN_INTERVAL: Duration = Duration::from_millis(2);
/// More claims than these are not looked at.
const CLAIMS_MAX: usize = 4096;

/// This process's turn to plan: others wait until it is dropped.
#[derive(Debug)]
pub struct PlanTurn(Option<File>);

/// Memory that is claimed until this is dropped.
#[derive(Debug)]
pub struct Claim {
    _file: File,
}

impl PlanTurn {
    /// Waits for the turn; for two seconds at most, then goes on without it.
    #[must_use]
    pub fn wait(limits: &MemoryLimits) -> Self {
        let file = open(limits);
        let begun = Instant::now();
        while let Some(Err(TryLockError::WouldBlock)) = file.as_ref().map(File::try_lock) {
            if begun.elapsed() > TURN_TIMEOUT {
                break;
            }
            std::thread::sleep(TURN_INTERVAL);
        }
        Self(file)
    }

    /// What others have claimed, in bytes.
    #[must_use]
    pub fn claimed_bytes(&self) -> u64 {
        self.0.as_ref().map_or(0, |file| claims(file).0)
    }

    /// Claims so many bytes and ends the turn. `None` where there are no locks.
    #[must_use]
    pub fn claim(self, bytes: u64) -> Option<Claim> {
        let file = self.0?;
        // Behind all others: they do not overlap, and so all are found.
        let start = claims(&file).1;
        let length = i64::try_from(bytes.max(1)).ok()?;
        lock(&file, libc::F_OFD_SETLK, libc::F_RDLCK, start, length).ok()?;
        file.unlock().ok()?;
        Some(Claim { _file: file })
    }
}

/// What all processes that share the limit have claimed, in bytes.
#[must_use]
pub fn claimed_bytes(limits: &MemoryLimits) -> u64 {
    open(limits).map_or(0, |file| claims(&file).0)
}

fn open(limits: &MemoryLimits) -> Option<File> {
    File::open(limits.tightest().map_or(Path::new("/proc/meminfo"), |group| &group.path)).ok()
}

/// Bytes of all claims but those made through `file`, and where the last ends.
fn claims(file: &File) -> (u64, i64) {
    let (mut bytes, mut at) = (0u64, 0);
    for _ in 0..CLAIMS_MAX {
        // What a lock for writing would meet first: one that begins there or later.
        let Ok(found) = lock(file, libc::F_OFD_GETLK, libc::F_WRLCK, at, 0) else { break };
        if i32::from(found.l_type) == libc::F_UNLCK || found.l_len <= 0 {
            break;
        }
        bytes = bytes.saturating_add(found.l_len.unsigned_abs());
        at = at.max(found.l_start.saturating_add(found.l_len));
    }
    (bytes, at)
}

fn lock(
    file: &File,
    command: libc::c_int,
    kind: libc::c_int,
    start: i64,
    length: i64,
) -> io::Result<libc::flock> {
    let mut range = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0,
    };
    // SAFETY: both commands take a pointer to a flock, which they read and write, and the descriptor is open.
    sys::check(unsafe { libc::fcntl(file.as_raw_fd(), command, &raw mut range) })?;
    Ok(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_seen_by_others_until_they_end() {
        let path = std::env::temp_dir().join(format!("lowtide-claims-{}", std::process::id()));
        std::fs::write(&path, "").unwrap();
        let turn = || PlanTurn(Some(File::open(&path).unwrap()));
        let first = turn().claim(500).unwrap();
        let second = turn().claim(1 << 40).unwrap();
        assert_eq!(turn().claimed_bytes(), 500 + (1 << 40));
        drop(first);
        assert_eq!(turn().claimed_bytes(), 1 << 40);
        let third = turn().claim(7).unwrap();
        assert_eq!(turn().claimed_bytes(), 7 + (1 << 40));
        drop((second, third));
        assert_eq!(turn().claimed_bytes(), 0);
        std::fs::remove_file(&path).unwrap();
    }
}
