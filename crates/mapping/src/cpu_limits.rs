//! How many processors this process may use.

use std::collections::BTreeSet;
use std::path::Path;

use crate::Error;
use crate::cgroup::{CgroupVersion, membership};
use crate::system_root::{SystemRoot, read_optional};

/// Limits of processor time.
#[derive(Debug, Clone, PartialEq)]
pub struct CpuLimits {
    /// Logical processors that this process may run on (its affinity; `cpuset` groups act through it).
    pub allowed: Vec<usize>,
    /// Physical cores among those: processors that share a core count once.
    pub physical_cores: usize,
    /// Processors' worth of time that the control groups grant, the smallest of all ancestors; `None`
    /// without a quota.
    pub quota: Option<f64>,
}

impl CpuLimits {
    /// Reads the limits of this process.
    ///
    /// # Errors
    /// `Call` (`sched_getaffinity`), `System`, `SystemFormat`.
    pub fn read() -> Result<Self, Error> {
        Self::read_at(&SystemRoot::default(), affinity()?)
    }

    /// The limits that another tree sets, for a process that may run on the processors `allowed`.
    ///
    /// # Errors
    /// `System`, `SystemFormat`.
    pub fn read_at(root: &SystemRoot, allowed: Vec<usize>) -> Result<Self, Error> {
        let physical_cores = physical_cores(root, &allowed)?;
        Ok(Self { allowed, physical_cores, quota: quota(root)? })
    }

    /// As many threads as can compute at a time: one per physical core, fewer where the quota is smaller,
    /// at least 1. (Arithmetic of this kind gains nothing from a core's second thread.)
    #[must_use]
    pub fn compute_threads(&self) -> usize {
        let quota = self.quota.map_or(usize::MAX, |quota| quota.ceil() as usize);
        self.physical_cores.min(quota).max(1)
    }
}

/// Processors asked for at first; the mask doubles until the kernel's fits.
const MASK_WORDS: usize = 16;

/// The processors that this thread may run on.
fn affinity() -> Result<Vec<usize>, Error> {
    let mut mask = vec![0u64; MASK_WORDS];
    loop {
        let bytes = size_of_val(mask.as_slice());
        // SAFETY: `mask` has `bytes` bytes to write to; pid 0 is the calling thread.
        let result = unsafe { libc::sched_getaffinity(0, bytes, mask.as_mut_ptr().cast()) };
        if result == 0 {
            break;
        }
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::EINVAL) || mask.len() >= 1 << 16 {
            return Err(Error::Call { call: "sched_getaffinity", source: error });
        }
        mask.resize(mask.len() * 2, 0);
    }
    let set = |cpu: &usize| mask[cpu / 64] >> (cpu % 64) & 1 == 1;
    Ok((0..mask.len() * 64).filter(set).collect())
}

/// Counts the different sets of sibling processors. Where the topology is not to be had, each processor
/// is taken for a core.
fn physical_cores(root: &SystemRoot, allowed: &[usize]) -> Result<usize, Error> {
    let mut cores = BTreeSet::new();
    for cpu in allowed {
        let topology = format!("/sys/devices/system/cpu/cpu{cpu}/topology");
        let topology = root.path(topology.as_ref());
        // The first is the name since Linux 5.6, the second the older one.
        let mut siblings = read_optional(&topology.join("core_cpus_list"))?;
        if siblings.is_none() {
            siblings = read_optional(&topology.join("thread_siblings_list"))?;
        }
        cores.insert(siblings.map_or_else(|| cpu.to_string(), |list| list.trim().to_owned()));
    }
    Ok(cores.len())
}

/// The smallest quota of the own group and its ancestors, in processors.
fn quota(root: &SystemRoot) -> Result<Option<f64>, Error> {
    let Some(member) = membership(root, "cpu")? else { return Ok(None) };
    let mut smallest: Option<f64> = None;
    for dir in &member.levels {
        let level = match member.version {
            CgroupVersion::V1 => quota_v1(dir)?,
            CgroupVersion::V2 => quota_v2(dir)?,
        };
        smallest = level.into_iter().chain(smallest).reduce(f64::min);
    }
    Ok(smallest)
}

/// `cpu.cfs_quota_us` (-1: none) per `cpu.cfs_period_us`.
fn quota_v1(dir: &Path) -> Result<Option<f64>, Error> {
    let quota_path = dir.join("cpu.cfs_quota_us");
    let period_path = dir.join("cpu.cfs_period_us");
    match (read_optional(&quota_path)?, read_optional(&period_path)?) {
        (Some(quota), Some(period)) => {
            if quota.trim() == "-1" {
                return Ok(None);
            }
            ratio(quota.trim(), period.trim(), &quota_path)
        }
        _ => Ok(None),
    }
}

/// `cpu.max`: `quota period`, or `max period`.
fn quota_v2(dir: &Path) -> Result<Option<f64>, Error> {
    let path = dir.join("cpu.max");
    let Some(text) = read_optional(&path)? else { return Ok(None) };
    let mut words = text.split_ascii_whitespace();
    match (words.next(), words.next()) {
        (Some("max"), _) => Ok(None),
        (Some(quota), period) => ratio(quota, period.unwrap_or("100000"), &path),
        (None, _) => Err(Error::SystemFormat { path, expected: "a quota and a period" }),
    }
}

fn ratio(quota: &str, period: &str, path: &Path) -> Result<Option<f64>, Error> {
    match (quota.parse::<u64>(), period.parse::<u64>()) {
        // Microseconds, far below 2^53.
        (Ok(quota), Ok(period)) if period > 0 => Ok(Some(quota as f64 / period as f64)),
        _ => Err(Error::SystemFormat { path: path.into(), expected: "a quota and a period" }),
    }
}
