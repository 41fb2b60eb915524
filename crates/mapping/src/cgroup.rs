//! Which control group this process is in, and where its files are: the common part of the limits of memory
//! and of processor time.
//!
//! Sources: `cgroups(7)`; the kernel's `Documentation/admin-guide/cgroup-v1/` and `cgroup-v2.rst`;
//! `proc_pid_mountinfo(5)`.

use std::path::{Path, PathBuf};

use crate::Error;
use crate::system_root::SystemRoot;

/// Version of the interface through which a controller is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupVersion {
    /// A hierarchy per controller (`memory.limit_in_bytes`).
    V1,
    /// One hierarchy for all (`memory.max`).
    V2,
}

/// The group of this process in one hierarchy, with its ancestors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Membership {
    pub(crate) version: CgroupVersion,
    /// Directories from the own group up to the topmost one that can be seen from here.
    pub(crate) levels: Vec<PathBuf>,
}

/// Finds the group that `controller` (`memory`, `cpu`) is bound to: in v1 the hierarchy that names it, else the
/// v2 hierarchy. `None` outside any, or where the hierarchy is not mounted.
pub(crate) fn membership(root: &SystemRoot, controller: &str) -> Result<Option<Membership>, Error> {
    membership_of(root, "self", controller)
}

/// As [`membership`], of the process with this name below `/proc`.
pub(crate) fn membership_of(
    root: &SystemRoot,
    process: &str,
    controller: &str,
) -> Result<Option<Membership>, Error> {
    let groups = match root.read(&format!("/proc/{process}/cgroup")) {
        Ok(text) => text,
        // A kernel without control groups.
        Err(Error::System { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mounts = root.read("/proc/self/mountinfo")?;
    let (version, group) = match find_group(&groups, controller) {
        Some(found) => found,
        None => return Ok(None),
    };
    let Some(mount) = mounts.lines().filter_map(parse_mount).find(|m| m.holds(version, controller))
    else {
        return Ok(None);
    };
    let point = root.path(&mount.point);
    let own = match mount.below(&group) {
        Some(relative) => point.join(relative),
        // The group lies outside of what is mounted here (`/../other`): its top is all we can see.
        None => point.clone(),
    };
    let levels = own.ancestors().take_while(|dir| dir.starts_with(&point)).map(Path::to_path_buf);
    Ok(Some(Membership { version, levels: levels.collect() }))
}

/// The path of the own group from `/proc/self/cgroup`, whose lines are `id:controller,controller:path`; id 0
/// with no controllers is v2. A v1 hierarchy wins: a controller is in one of the two only, and in a
/// mixed system v2's line is there all the same.
fn find_group(text: &str, controller: &str) -> Option<(CgroupVersion, PathBuf)> {
    let line = |line: &str| {
        let mut parts = line.splitn(3, ':');
        let (id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        Some((id.to_owned(), controllers.to_owned(), PathBuf::from(path)))
    };
    let lines: Vec<_> = text.lines().filter_map(line).collect();
    let v1 = lines.iter().find(|(_, names, _)| names.split(',').any(|name| name == controller));
    if let Some((_, _, path)) = v1 {
        return Some((CgroupVersion::V1, path.clone()));
    }
    let v2 = lines.iter().find(|(id, names, _)| id == "0" && names.is_empty())?;
    Some((CgroupVersion::V2, v2.2.clone()))
}

/// What a line of `mountinfo` says about a mounted hierarchy.
struct Mount {
    /// Which directory of the hierarchy is mounted.
    root: PathBuf,
    /// Where.
    point: PathBuf,
    file_system: String,
    options: String,
}

impl Mount {
    fn holds(&self, version: CgroupVersion, controller: &str) -> bool {
        match version {
            CgroupVersion::V1 => {
                self.file_system == "cgroup" && self.options.split(',').any(|o| o == controller)
            }
            CgroupVersion::V2 => self.file_system == "cgroup2",
        }
    }

    /// Where `group` lies below the mount point.
    fn below<'g>(&self, group: &'g Path) -> Option<&'g Path> {
        let relative = group.strip_prefix(&self.root).ok()?;
        let upwards = relative.components().any(|part| part.as_os_str() == "..");
        (!upwards).then_some(relative)
    }
}

/// `36 35 98:0 /root /point rw,noatime [optional fields] - type source super,options`
fn parse_mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, point) = (before.next()?, before.next()?);
    let mut after = after.split(' ');
    let file_system = after.next()?.to_owned();
    let options = after.nth(1).unwrap_or("").to_owned();
    Some(Mount { root: unescape(root), point: unescape(point), file_system, options })
}

/// Space, tab, newline and backslash are written as octal numbers (`\040`).
pub(crate) fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let digits = bytes.get(at + 1..at + 4);
        let octal = digits
            .filter(|_| byte == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        out.push(octal.unwrap_or(byte));
        at += if octal.is_some() { 4 } else { 1 };
    }
    std::ffi::OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups() {
        let mixed = "4:memory:/a/b\n3:cpu,cpuacct:/c:d\n0::/u\n";
        let find = |name| find_group(mixed, name).unwrap();
        assert_eq!(find("memory"), (CgroupVersion::V1, "/a/b".into()));
        assert_eq!(find("cpu"), (CgroupVersion::V1, "/c:d".into()));
        assert_eq!(find("mem"), (CgroupVersion::V2, "/u".into()));
        assert_eq!(find_group("", "memory"), None);
        assert_eq!(find_group("nonsense\n", "memory"), None);
    }

    #[test]
    fn mounts() {
        let line =
            "35 31 0:32 /d\\040k /sys/fs/cgroup/memory rw shared:1 - cgroup cgroup rw,memory";
        let mount = parse_mount(line).unwrap();
        assert_eq!(mount.root, Path::new("/d k"));
        assert!(mount.holds(CgroupVersion::V1, "memory") && !mount.holds(CgroupVersion::V1, "cpu"));
        assert!(!mount.holds(CgroupVersion::V2, "memory"));
        assert_eq!(mount.below(Path::new("/d k/x")), Some(Path::new("x")));
        assert_eq!(mount.below(Path::new("/other")), None);
        assert_eq!(mount.below(Path::new("/d k/../x")), None);
        assert!(parse_mount("").is_none() && parse_mount("1 2 3 - ").is_none());
    }
}
