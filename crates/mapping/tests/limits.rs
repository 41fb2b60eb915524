//! Limits of memory and processors, on trees of files that stand in for systems we do not have.

mod common;

use std::path::Path;

use common::TempDir;
use lowtide_mapping::{
    Arena, CgroupVersion, CpuLimits, Error, MemoryLimits, ProcessActivity, ProcessMemory,
    SystemRoot, reset_peak_rss,
};

const GIB: u64 = 1 << 30;
const MEMINFO: &str = "MemTotal:       25165824 kB\nMemFree:  1000 kB\n\
    MemAvailable:   20971520 kB\nSwapFree:  0 kB\n";

/// Writes a tree of files.
fn tree(dir: &TempDir, files: &[(&str, &str)]) -> SystemRoot {
    let root = dir.path("root");
    for (path, text) in [("proc/meminfo", MEMINFO)].iter().chain(files) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    SystemRoot::at(root)
}

const V2_MOUNT: &str = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
const V1_MOUNTS: &str = "31 30 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755\n\
    32 31 0:28 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
    33 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
    34 31 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";

#[test]
fn v2_takes_the_smallest_of_all_ancestors() {
    let dir = TempDir::new();
    let root = tree(
        &dir,
        &[
            ("proc/self/cgroup", "0::/user.slice/app.slice/run.scope\n"),
            ("proc/self/mountinfo", V2_MOUNT),
            // The root group has no files.
            ("sys/fs/cgroup/user.slice/memory.max", "8589934592\n"),
            ("sys/fs/cgroup/user.slice/memory.high", "max\n"),
            // 7 GiB, of which 1 GiB is page cache.
            ("sys/fs/cgroup/user.slice/memory.current", "7516192768\n"),
            (
                "sys/fs/cgroup/user.slice/memory.stat",
                "anon 5\nfile 1073741824\ninactive_file 1073741000\nactive_file 824\n",
            ),
            ("sys/fs/cgroup/user.slice/app.slice/memory.max", "max\n"),
            ("sys/fs/cgroup/user.slice/app.slice/memory.high", "7516192768\n"),
            ("sys/fs/cgroup/user.slice/app.slice/memory.current", "1073741824\n"),
            ("sys/fs/cgroup/user.slice/app.slice/run.scope/memory.max", "10737418240\n"),
            ("sys/fs/cgroup/user.slice/app.slice/run.scope/memory.high", "max\n"),
            ("sys/fs/cgroup/user.slice/app.slice/run.scope/memory.current", "536870912\n"),
            ("sys/fs/cgroup/user.slice/app.slice/run.scope/memory.peak", "805306368\n"),
            (
                "sys/fs/cgroup/user.slice/app.slice/run.scope/memory.events",
                "low 0\nhigh 3\nmax 17\noom 2\noom_kill 1\noom_group_kill 0\n",
            ),
        ],
    );
    let limits = MemoryLimits::read_at(&root).unwrap();
    assert_eq!(limits.version, Some(CgroupVersion::V2));
    assert_eq!(limits.groups.len(), 4);
    let own = limits.own().unwrap();
    assert!(own.path.ends_with("run.scope"));
    assert_eq!(own.limit_bytes, Some(10 * GIB));
    assert_eq!(own.usage_bytes, Some(GIB / 2));
    assert_eq!(own.peak_bytes, Some(GIB / 4 * 3));
    assert_eq!((own.limit_hits, own.oom_kills), (Some(17), Some(1)));
    // memory.high of the parent is the smallest.
    assert_eq!(limits.effective_bytes(), 7 * GIB);
    assert!(limits.tightest().unwrap().path.ends_with("app.slice"));
    // What is left is least in the grandparent: 8 - 6 GiB.
    assert_eq!(limits.available_bytes(), 2 * GIB);
    assert_eq!(limits.host.total_bytes, 24 * GIB);
    // No peak to set back, and none is made up.
    assert!(matches!(own.reset_peak(), Err(Error::System { action: "write", .. })));
    assert!(!own.path.join("memory.max_usage_in_bytes").exists());
}

#[test]
fn v1_in_a_container_without_its_own_namespace() {
    let dir = TempDir::new();
    // The container's group is mounted as the root of the hierarchy, but the path is the host's.
    let mounts = "32 31 0:28 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
    let root = tree(
        &dir,
        &[
            ("proc/self/cgroup", "9:memory:/docker/abc/inner\n0::/docker/abc\n"),
            ("proc/self/mountinfo", mounts),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "7301444403\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "3000000\n"),
            (
                "sys/fs/cgroup/memory/memory.stat",
                "active_file 1\ninactive_file 2\ntotal_active_file 500000\ntotal_inactive_file 1500000\n",
            ),
            ("sys/fs/cgroup/memory/memory.max_usage_in_bytes", "2000000\n"),
            ("sys/fs/cgroup/memory/memory.failcnt", "5\n"),
            (
                "sys/fs/cgroup/memory/memory.oom_control",
                "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
            ),
            ("sys/fs/cgroup/memory/inner/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/inner/memory.usage_in_bytes", "900000\n"),
            ("sys/fs/cgroup/memory/inner/memory.max_usage_in_bytes", "1900000\n"),
        ],
    );
    let limits = MemoryLimits::read_at(&root).unwrap();
    assert_eq!(limits.version, Some(CgroupVersion::V1));
    assert_eq!(limits.own().unwrap().limit_bytes, None, "the largest number is no limit");
    assert_eq!(limits.effective_bytes(), 7_301_444_403);
    let top = &limits.groups[1];
    assert_eq!((top.limit_hits, top.oom_kills), (Some(5), Some(2)));
    assert_eq!(top.peak_bytes, Some(2_000_000));
    assert_eq!(limits.available_bytes(), 7_300_444_403);
    top.reset_peak().unwrap();
    let peak = std::fs::read_to_string(top.path.join("memory.max_usage_in_bytes")).unwrap();
    assert!(peak.starts_with('0'));
}

#[test]
fn a_mixed_system_has_its_memory_in_v1_and_a_group_outside_the_mount_sees_its_top() {
    let dir = TempDir::new();
    let root = tree(
        &dir,
        &[
            ("proc/self/cgroup", "4:memory:/../other\n1:cpu,cpuacct:/a\n0::/\n"),
            ("proc/self/mountinfo", V1_MOUNTS),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1073741824\n"),
            ("sys/fs/cgroup/memory/other/memory.limit_in_bytes", "5\n"),
            ("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us", "150000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
        ],
    );
    let limits = MemoryLimits::read_at(&root).unwrap();
    assert_eq!(limits.version, Some(CgroupVersion::V1));
    assert_eq!(limits.effective_bytes(), GIB);
    let cpu = CpuLimits::read_at(&root, vec![0, 1, 2, 3]).unwrap();
    assert_eq!(cpu.quota, Some(1.5));
    assert_eq!((cpu.physical_cores, cpu.compute_threads()), (4, 2));
}

#[test]
fn v2_beside_v1_without_a_memory_controller_says_nothing() {
    let dir = TempDir::new();
    let root = tree(
        &dir,
        &[
            ("proc/self/cgroup", "1:cpu:/\n0::/group\n"),
            ("proc/self/mountinfo", V1_MOUNTS),
            ("sys/fs/cgroup/unified/group/cgroup.procs", "1\n"),
        ],
    );
    let limits = MemoryLimits::read_at(&root).unwrap();
    assert_eq!((limits.version, limits.groups.len()), (None, 0));
    assert_eq!(limits.effective_bytes(), 24 * GIB);
    assert_eq!(limits.available_bytes(), 20 * GIB);
}

#[test]
fn systems_without_groups() {
    let dir = TempDir::new();
    let root = tree(&dir, &[]);
    let limits = MemoryLimits::read_at(&root).unwrap();
    assert_eq!(limits.effective_bytes(), 24 * GIB);
    assert_eq!(CpuLimits::read_at(&root, vec![5]).unwrap().quota, None);
}

#[test]
fn limits_above_the_machine_are_the_machine() {
    let dir = TempDir::new();
    let root = tree(
        &dir,
        &[
            ("proc/self/cgroup", "0::/big\n"),
            ("proc/self/mountinfo", V2_MOUNT),
            ("sys/fs/cgroup/big/memory.max", "1099511627776\n"),
            ("sys/fs/cgroup/big/memory.current", "0\n"),
        ],
    );
    let limits = MemoryLimits::read_at(&root).unwrap();
    assert_eq!((limits.effective_bytes(), limits.available_bytes()), (24 * GIB, 20 * GIB));
}

#[test]
fn nonsense_is_an_error_that_names_the_file() {
    for (path, text) in [
        ("sys/fs/cgroup/a/memory.max", "plenty\n"),
        ("sys/fs/cgroup/a/memory.max", ""),
        ("sys/fs/cgroup/a/memory.current", "-5\n"),
        ("proc/meminfo", "MemTotal: 1 kB\n"),
    ] {
        let dir = TempDir::new();
        let root = tree(
            &dir,
            &[("proc/self/cgroup", "0::/a\n"), ("proc/self/mountinfo", V2_MOUNT), (path, text)],
        );
        let error = MemoryLimits::read_at(&root).unwrap_err();
        assert!(error.to_string().contains(path), "{error}");
    }
    for text in ["", "x 100000\n", "5 0\n"] {
        let dir = TempDir::new();
        let root = tree(
            &dir,
            &[
                ("proc/self/cgroup", "0::/a\n"),
                ("proc/self/mountinfo", V2_MOUNT),
                ("sys/fs/cgroup/a/cpu.max", text),
            ],
        );
        let error = CpuLimits::read_at(&root, vec![0]).unwrap_err();
        assert!(error.to_string().contains("cpu.max"), "{error}");
    }
}

#[test]
fn v2_quotas_and_cores_that_share() {
    let dir = TempDir::new();
    let root = tree(
        &dir,
        &[
            ("proc/self/cgroup", "0::/a/b\n"),
            ("proc/self/mountinfo", V2_MOUNT),
            ("sys/fs/cgroup/a/cpu.max", "250000 100000\n"),
            ("sys/fs/cgroup/a/b/cpu.max", "max 100000\n"),
            ("sys/devices/system/cpu/cpu0/topology/core_cpus_list", "0,4\n"),
            ("sys/devices/system/cpu/cpu4/topology/core_cpus_list", "0,4\n"),
            ("sys/devices/system/cpu/cpu1/topology/thread_siblings_list", "1,5\n"),
            ("sys/devices/system/cpu/cpu5/topology/thread_siblings_list", "1,5\n"),
        ],
    );
    let cpu = CpuLimits::read_at(&root, vec![0, 1, 4, 5]).unwrap();
    assert_eq!((cpu.quota, cpu.physical_cores, cpu.compute_threads()), (Some(2.5), 2, 2));
    let one = CpuLimits::read_at(&root, vec![4]).unwrap();
    assert_eq!(one.compute_threads(), 1);
}

#[test]
fn this_machine_answers() {
    let memory = MemoryLimits::read().unwrap();
    println!("{memory:#?}");
    assert!(memory.host.available_bytes <= memory.host.total_bytes);
    assert!(memory.effective_bytes() <= memory.host.total_bytes);
    if let Some(own) = memory.own() {
        assert!(Path::new(&own.path).is_dir());
    }
    let cpu = CpuLimits::read().unwrap();
    println!("{cpu:?}");
    assert!(!cpu.allowed.is_empty() && cpu.physical_cores <= cpu.allowed.len());
    let parallel = std::thread::available_parallelism().unwrap().get();
    assert!(
        cpu.compute_threads() <= parallel,
        "std counts logical processors under the same limits"
    );
}

#[test]
fn the_process_is_measured() {
    let bytes = 64 << 20;
    let before = ProcessMemory::read().unwrap();
    let activity = ProcessActivity::read().unwrap();
    let arena = Arena::new(bytes).unwrap();
    let during = ProcessMemory::read().unwrap();
    assert!(during.anonymous_bytes >= before.anonymous_bytes + bytes as u64 * 9 / 10);
    assert!(during.rss_peak_bytes >= bytes as u64 * 9 / 10);
    drop(arena);
    let after = ProcessMemory::read().unwrap();
    assert!(after.anonymous_bytes + bytes as u64 / 2 < during.anonymous_bytes);
    assert!(after.rss_peak_bytes >= during.rss_bytes * 9 / 10, "the peak stays");
    if reset_peak_rss().is_ok() {
        assert!(ProcessMemory::read().unwrap().rss_peak_bytes < during.rss_bytes);
    }
    let used = ProcessActivity::read().unwrap().since(&activity);
    assert!(used.minor_faults > 0);

    let dir = TempDir::new();
    let file = std::fs::File::open(dir.file("model", 8 << 20)).unwrap();
    common::evict_for_certain(&file);
    let activity = ProcessActivity::read().unwrap();
    let mapping = lowtide_mapping::Mapping::of_file(&file).unwrap();
    mapping.populate(0..8 << 20).unwrap();
    if let Some(read) = ProcessActivity::read().unwrap().since(&activity).read_bytes {
        assert!(read >= 8 << 20, "{read} bytes came from the disk");
    }
}
