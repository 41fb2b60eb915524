//! Where `/proc` and `/sys` are: at the root, except in tests, which bring trees of their own.

use std::io;
use std::path::{Path, PathBuf};

use crate::Error;

/// A directory below which `proc/` and `sys/` (and the mount points that `proc/self/mountinfo` names) are
/// looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemRoot(PathBuf);

impl Default for SystemRoot {
    /// The running system.
    fn default() -> Self {
        Self("/".into())
    }
}

impl SystemRoot {
    /// A tree of files that stands in for the running system.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    /// The place of an absolute path in this tree.
    #[must_use]
    pub fn path(&self, absolute: &Path) -> PathBuf {
        self.0.join(absolute.strip_prefix("/").unwrap_or(absolute))
    }

    /// The text of a file.
    pub(crate) fn read(&self, absolute: &str) -> Result<String, Error> {
        let path = self.path(absolute.as_ref());
        std::fs::read_to_string(&path).map_err(|source| Error::System {
            action: "read",
            path,
            source,
        })
    }
}

/// The text of a file that need not exist, nor be ours to read.
///
/// # Errors
/// `System` where it exists and reading fails for another reason.
pub(crate) fn read_optional(path: &Path) -> Result<Option<String>, Error> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if is_absence(&error) => Ok(None),
        Err(source) => Err(Error::System { action: "read", path: path.into(), source }),
    }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        // EOPNOTSUPP and ENODEV: control files of a group that is going away, or of a disabled part.
        Some(
            libc::ENOENT
                | libc::ENOTDIR
                | libc::EACCES
                | libc::EPERM
                | libc::EOPNOTSUPP
                | libc::ENODEV
        )
    )
}

/// The number that follows `key` in lines such as `VmRSS:   1768 kB` or `oom_kill 3`; the unit kB (which
/// the kernel means as KiB) is taken into account.
pub(crate) fn field(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let rest = line.strip_prefix(key)?;
        let rest = rest.strip_prefix(':').or_else(|| rest.strip_prefix([' ', '\t']))?;
        let mut words = rest.split_ascii_whitespace();
        let number: u64 = words.next()?.parse().ok()?;
        match words.next() {
            Some("kB") => number.checked_mul(1024),
            _ => Some(number),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let text = "VmHWM:\t    1768 kB\nVmRSS: 3 kB\noom 1\noom_kill 7\nbad: x\n";
        assert_eq!(field(text, "VmHWM"), Some(1768 * 1024));
        assert_eq!(field(text, "oom"), Some(1));
        assert_eq!(field(text, "oom_kill"), Some(7));
        assert_eq!(field(text, "oom_kil"), None);
        assert_eq!(field(text, "bad"), None);
        assert_eq!(field("huge: 18446744073709551615 kB", "huge"), None);
    }

    #[test]
    fn paths_stay_in_the_tree() {
        assert_eq!(SystemRoot::at("/fake").path("/proc/x".as_ref()), Path::new("/fake/proc/x"));
        assert_eq!(SystemRoot::default().path("/proc/x".as_ref()), Path::new("/proc/x"));
    }
}
