//! Settings of the kernel that decide how fast memory and disk can be used.

use std::path::Path;

use crate::Error;
use crate::disk_setup::selected;
use crate::system_root::{SystemRoot, field, read_optional};

/// How huge pages are to be had.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HugePages {
    /// Transparent ones: `always`, `madvise` (who asks gets them) or `never`; `None` without support.
    pub transparent: Option<String>,
    /// Pages set aside by the administrator.
    pub pool_pages: u64,
    /// Of which free.
    pub pool_free: u64,
    /// Bytes of one of those.
    pub pool_page_bytes: Option<u64>,
}

impl HugePages {
    /// Reads the settings.
    ///
    /// # Errors
    /// `System`: no `/proc/meminfo`.
    pub fn read(root: &SystemRoot) -> Result<Self, Error> {
        let path = root.path("/sys/kernel/mm/transparent_hugepage/enabled".as_ref());
        let meminfo = root.read("/proc/meminfo")?;
        Ok(Self {
            transparent: read_optional(&path)?.map(|text| selected(text.trim()).to_owned()),
            pool_pages: field(&meminfo, "HugePages_Total").unwrap_or(0),
            pool_free: field(&meminfo, "HugePages_Free").unwrap_or(0),
            pool_page_bytes: field(&meminfo, "Hugepagesize"),
        })
    }
}

/// What `kernel.io_uring_disabled` says (Linux 6.6 and later).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IoUringSetting {
    /// The kernel has no such setting.
    Absent,
    /// All may use it (0). A container's seccomp filter may refuse it all the same.
    Allowed,
    /// Members of one group and the administrator may (1).
    Restricted,
    /// Nobody may (2).
    Disabled,
}

impl IoUringSetting {
    /// Reads the setting.
    ///
    /// # Errors
    /// `System` where it exists and cannot be read.
    pub fn read(root: &SystemRoot) -> Result<Self, Error> {
        let text = read_optional(&root.path(Path::new("/proc/sys/kernel/io_uring_disabled")))?;
        Ok(match text.as_deref().map(str::trim) {
            None => Self::Absent,
            Some("0") => Self::Allowed,
            Some("1") => Self::Restricted,
            Some(_) => Self::Disabled,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_read_from_a_tree() {
        let dir = std::env::temp_dir().join(format!("lowtide-kernel-{}", std::process::id()));
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let root = SystemRoot::at(&dir);
        write(
            "proc/meminfo",
            "HugePages_Total:       3\nHugePages_Free: 2\nHugepagesize: 2048 kB\n",
        );
        let found = HugePages::read(&root).unwrap();
        assert_eq!((found.transparent, found.pool_pages, found.pool_free), (None, 3, 2));
        assert_eq!(found.pool_page_bytes, Some(2 << 20));
        write("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
        assert_eq!(HugePages::read(&root).unwrap().transparent.as_deref(), Some("madvise"));
        assert_eq!(IoUringSetting::read(&root).unwrap(), IoUringSetting::Absent);
        for (text, expected) in [
            ("0\n", IoUringSetting::Allowed),
            ("1\n", IoUringSetting::Restricted),
            ("2\n", IoUringSetting::Disabled),
        ] {
            write("proc/sys/kernel/io_uring_disabled", text);
            assert_eq!(IoUringSetting::read(&root).unwrap(), expected);
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
