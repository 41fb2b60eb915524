//! The file system under a file and the disk under that, as `/proc/self/mountinfo` and `/sys` tell.

use std::path::{Path, PathBuf};

use crate::process_files::device_numbers;
use crate::system_root::{SystemRoot, read_optional};
use crate::{Error, FileIdentity};

/// A mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSystem {
    /// Its type: `ext4`, `xfs`, `overlay`, `nfs4`.
    pub kind: String,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// What is mounted: a device, or what the type takes instead.
    pub source: String,
}

/// A disk's settings, in bytes. What the kernel does not say is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BlockDevice {
    /// Its name: `nvme0n1p2`, `vda`.
    pub name: Option<String>,
    /// How far the kernel reads ahead (`read_ahead_kb`).
    pub read_ahead_bytes: Option<u64>,
    /// The longest single request (`max_sectors_kb`).
    pub max_request_bytes: Option<u64>,
    /// Whether it has platters, or says so.
    pub rotational: Option<bool>,
    /// The scheduler in use.
    pub scheduler: Option<String>,
}

/// The file system that `file` (at `path`) is on; `None` where the mount is not visible from here.
///
/// # Errors
/// `System`: no `/proc/self/mountinfo`.
pub fn file_system(
    root: &SystemRoot,
    path: &Path,
    file: &FileIdentity,
) -> Result<Option<FileSystem>, Error> {
    let text = root.read("/proc/self/mountinfo")?;
    let (major, minor) = device_numbers(file.device);
    let device = format!("{major}:{minor}");
    let mounts: Vec<_> = text.lines().filter_map(parse_mount).collect();
    // By device; btrfs and overlays have devices of their own, there the deepest mount above the
    // path is it.
    let by_device = mounts.iter().rfind(|(found, mount)| {
        *found == device && (path.starts_with(&mount.mount_point) || !path.is_absolute())
    });
    let by_path = || {
        let above = mounts.iter().filter(|(_, mount)| path.starts_with(&mount.mount_point));
        above.max_by_key(|(_, mount)| mount.mount_point.components().count())
    };
    let any = || mounts.iter().find(|(found, _)| *found == device);
    Ok(by_device.or_else(by_path).or_else(any).map(|(_, mount)| mount.clone()))
}

/// `36 35 98:0 /root /point rw,noatime [optional fields] - type source super,options`
fn parse_mount(line: &str) -> Option<(String, FileSystem)> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(2);
    let device = before.next()?.to_owned();
    let point = crate::cgroup::unescape(before.nth(1)?);
    let mut after = after.split(' ');
    let kind = after.next()?.to_owned();
    let source = after.next().unwrap_or("").to_owned();
    Some((device, FileSystem { kind, mount_point: point, source }))
}

/// The disk that holds the file; `None` where there is none (tmpfs, network, some overlays).
///
/// # Errors
/// `System` where a setting exists and cannot be read.
pub fn block_device(root: &SystemRoot, file: &FileIdentity) -> Result<Option<BlockDevice>, Error> {
    let (major, minor) = device_numbers(file.device);
    let disk = root.path(format!("/sys/dev/block/{major}:{minor}").as_ref());
    if !disk.exists() {
        return Ok(None);
    }
    // A partition has its queue one level up. The entry is a link, so ".." has to follow it.
    let setting = |name: &str| -> Result<Option<String>, Error> {
        let own = read_optional(&disk.join("queue").join(name))?;
        let found =
            if own.is_some() { own } else { read_optional(&disk.join("../queue").join(name))? };
        Ok(found.map(|text| text.trim().to_owned()))
    };
    let kib = |text: Option<String>| text?.parse::<u64>().ok()?.checked_mul(1024);
    let event = read_optional(&disk.join("uevent"))?.unwrap_or_default();
    let name = event.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    let scheduler = setting("scheduler")?.map(|text| selected(&text).to_owned());
    Ok(Some(BlockDevice {
        name: name.map(str::to_owned),
        read_ahead_bytes: kib(setting("read_ahead_kb")?),
        max_request_bytes: kib(setting("max_sectors_kb")?),
        rotational: setting("rotational")?.map(|text| text == "1"),
        scheduler,
    }))
}

/// The choice in brackets of `always [madvise] never`; all of it where nothing is in brackets.
pub(crate) fn selected(text: &str) -> &str {
    let inside = text.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
    inside.map_or(text, |(choice, _)| choice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_of_files_stands_in_for_a_machine() {
        let dir = std::env::temp_dir().join(format!("lowtide-disk-{}", std::process::id()));
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(
            "proc/self/mountinfo",
            "1 0 254:0 / / rw - ext4 /dev/vda rw\n2 1 254:16 / /data\\040x rw,noatime shared:1 - xfs /dev/vdb rw\n",
        );
        write("sys/dev/block/254:16/queue/read_ahead_kb", "128\n");
        write("sys/dev/block/254:16/queue/rotational", "0\n");
        write("sys/dev/block/254:16/queue/scheduler", "[none] mq-deadline\n");
        write("sys/dev/block/254:16/uevent", "MAJOR=254\nDEVNAME=vdb\n");
        let root = SystemRoot::at(&dir);
        let file =
            |device| FileIdentity { device, inode: 1, size: 1, modified_s: 0, modified_ns: 0 };
        let found = file_system(&root, "/data x/model".as_ref(), &file(0xfe10)).unwrap().unwrap();
        assert_eq!((found.kind.as_str(), found.source.as_str()), ("xfs", "/dev/vdb"));
        // A device that no mount shows: the deepest mount above the path.
        let found = file_system(&root, "/other".as_ref(), &file(0x77)).unwrap().unwrap();
        assert_eq!(found.kind, "ext4");
        let disk = block_device(&root, &file(0xfe10)).unwrap().unwrap();
        assert_eq!(disk.read_ahead_bytes, Some(128 << 10));
        assert_eq!((disk.rotational, disk.name.as_deref()), (Some(false), Some("vdb")));
        assert_eq!((disk.scheduler.as_deref(), disk.max_request_bytes), (Some("none"), None));
        assert_eq!(block_device(&root, &file(0xfe11)).unwrap(), None);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
