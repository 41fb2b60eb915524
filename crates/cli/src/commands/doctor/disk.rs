//! The disk: how fast each reader is, and how the kernel is set up for it.

use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use lowtide_mapping::{
    Backend, DirectFile, Error, IoUringSetting, Mapping, ModelFile, QueueOptions, ReadMode,
    ReadQueue, SystemRoot, block_device, cached_pages, file_system, open_model_file,
};
use lowtide_residency::{DiskProbe, ProbePoint, probe_ways};

use super::{Check, Point, Verdict};
use crate::human;

/// Seconds for each reader.
const SECONDS: f64 = 1.2;
/// Bytes of a request, and how many at a time.
const WAYS: [(u64, u32); 5] =
    [(4 << 20, 1), (4 << 20, 4), (4 << 20, 8), (4 << 20, 16), (1 << 20, 16)];
/// Bytes that are brought in through the mapping.
const MAPPED_BYTES: usize = 128 << 20;
/// Below this a model of 20 GB takes longer than 40 s to pass by once.
const DISK_FAIR: f64 = 500e6;
/// From here on a disk keeps two cores busy with 4-bit weights.
const DISK_GOOD: f64 = 2e9;
/// What MADV_WILLNEED is cut to: below it the mapped reader has many small requests to make.
const READ_AHEAD_GOOD: u64 = 512 << 10;

/// All of them.
pub fn checks(path: &Path) -> Vec<Check> {
    let file = match open_model_file(path) {
        Ok(file) => file,
        Err(error) => return vec![Check::unknown("disk", &error)],
    };
    let root = SystemRoot::default();
    vec![
        direct("direct, io_uring", path, Backend::IoUring),
        direct("direct, threads", path, Backend::Threads),
        mapped(&file),
        io_uring(&file, &root),
        file_system_check(path, &file, &root),
        read_ahead(&file, &root),
    ]
}

fn speed(bytes_per_s: f64) -> String {
    format!("{:.2} GB/s", bytes_per_s / 1e9)
}

fn judged(name: &'static str, bytes_per_s: f64, finding: String) -> Check {
    let slow =
        "an answer waits for this disk; a faster one (NVMe), or more --memory, helps at once";
    match bytes_per_s {
        rate if rate >= DISK_GOOD => Check::new(name, Verdict::Good, finding),
        rate if rate >= DISK_FAIR => Check::new(name, Verdict::Fair, finding).mend(slow),
        _ => Check::new(name, Verdict::Poor, finding).mend(slow),
    }
}

fn direct(name: &'static str, path: &Path, backend: Backend) -> Check {
    match probe_ways(path, SECONDS, backend, &WAYS) {
        Ok(probe) => direct_check(name, &probe),
        Err(error) => Check::unknown(name, &error),
    }
}

fn direct_check(name: &'static str, probe: &DiskProbe) -> Check {
    let mut check = judged(name, probe.bytes_per_s(), depths(probe));
    if let ReadMode::Buffered(_) = probe.mode {
        check.verdict = Verdict::Fair;
        check.finding.push_str("; the file system refuses O_DIRECT, so this is through the cache");
        check.mend =
            Some("keep the model on ext4, xfs or btrfs on a disk of this machine".to_owned());
    }
    check.points = probe
        .points
        .iter()
        .map(|point| Point {
            request_bytes: point.request_bytes,
            depth: point.depth,
            bytes_per_s: point.bytes_per_s,
            latency_s: point.latency_s,
        })
        .collect();
    check
}

/// `3.48 GB/s at best; reads of 4.00 MiB, 1 at a time: 2.67, 4: 2.79, 8: 2.84; of 1.00 MiB, 16: 2.98`.
fn depths(probe: &DiskProbe) -> String {
    let mut text = format!("{} at best; reads", speed(probe.bytes_per_s()));
    for (i, same) in probe.points.chunk_by(|a, b| a.request_bytes == b.request_bytes).enumerate() {
        let request = human::bytes_binary(same[0].request_bytes);
        text.push_str(&format!("{} of {request}, ", if i > 0 { ";" } else { "" }));
        let rate = |(n, point): (usize, &ProbePoint)| {
            let words = if i + n == 0 { " at a time" } else { "" };
            format!("{}{words}: {:.2}", point.depth, point.bytes_per_s / 1e9)
        };
        text.push_str(&same.iter().enumerate().map(rate).collect::<Vec<_>>().join(", "));
    }
    text
}

/// Through the mapping, from pages that nobody has in memory.
fn mapped(file: &ModelFile) -> Check {
    let name = "mapped";
    match mapped_rate(file) {
        Ok(Some(rate)) => {
            let mut check = judged(name, rate, format!("{} by populating pages", speed(rate)));
            if check.mend.is_some() {
                check.mend = Some("counts for --io mapped only; --io direct reads past it".to_owned());
            }
            check
        }
        Ok(None) => Check::new(
            name,
            Verdict::Unknown,
            "not measured: all of the file is in memory, and another program that maps it keeps it there",
        )
        .mend("ask again when that program has ended (fuser FILE says which it is)"),
        Err(error) => Check::unknown(name, &error),
    }
}

/// `None` where every page is in memory and stays there.
fn mapped_rate(file: &ModelFile) -> Result<Option<f64>, Error> {
    let mapping = Mapping::of_file(file.file())?;
    let least = MAPPED_BYTES.min(mapping.len()) / 2;
    let free = longest_free(file, mapping.len())?;
    if free.len() >= least {
        let rate = populate_rate(&mapping, &free)?;
        mapping.evict(free)?;
        return Ok(Some(rate));
    }
    // All of it is cached: a stretch of it is let go, and measuring brings it back. What was written just now would
    // stay; where it cannot be put on the disk, it does.
    let _ = file.file().sync_data();
    let start = mapping.len().saturating_sub(MAPPED_BYTES) / 2;
    mapping.evict(start..(start + MAPPED_BYTES).min(mapping.len()))?;
    let free = longest_free(file, mapping.len())?;
    if free.len() < least {
        return Ok(None);
    }
    populate_rate(&mapping, &free).map(Some)
}

/// The longest stretch between cached pages, cut to what is measured with.
fn longest_free(file: &ModelFile, len: usize) -> Result<Range<usize>, Error> {
    let cached = cached_pages(file.file())?;
    let mut edge = 0;
    let mut longest = 0..0;
    for run in cached.runs().chain(std::iter::once(len..len)) {
        if run.start.saturating_sub(edge) > longest.len() {
            longest = edge..run.start;
        }
        edge = run.end;
    }
    Ok(longest.start..longest.end.min(longest.start + MAPPED_BYTES))
}

fn populate_rate(mapping: &Mapping, range: &Range<usize>) -> Result<f64, Error> {
    let begun = Instant::now();
    for start in range.clone().step_by(4 << 20) {
        // One piece ahead, as the engine does it.
        let ahead = (start + (4 << 20)).min(range.end)..(start + (8 << 20)).min(range.end);
        if !ahead.is_empty() {
            mapping.will_need(ahead)?;
        }
        mapping.populate(start..(start + (4 << 20)).min(range.end))?;
    }
    Ok(range.len() as f64 / begun.elapsed().as_secs_f64())
}

/// Asked by doing it: a container's filter refuses what the kernel would allow.
fn io_uring(file: &ModelFile, root: &SystemRoot) -> Check {
    let name = "io_uring";
    let options = QueueOptions { backend: Backend::IoUring, ..QueueOptions::default() };
    let queue = DirectFile::of(file.file()).and_then(|file| ReadQueue::new(vec![file], options));
    let Err(error) = queue else { return Check::new(name, Verdict::Good, "allowed") };
    let setting = IoUringSetting::read(root).unwrap_or(IoUringSetting::Absent);
    let why = error.to_string().lines().next().unwrap_or_default().to_owned();
    let mend = match setting {
        IoUringSetting::Disabled | IoUringSetting::Restricted => {
            "sysctl kernel.io_uring_disabled=0   (threads that read serve meanwhile)"
        }
        IoUringSetting::Allowed | IoUringSetting::Absent => {
            "in a container: a seccomp profile that allows io_uring (threads that read serve meanwhile)"
        }
    };
    Check::new(name, Verdict::Fair, format!("refused: {why}")).mend(mend)
}

fn file_system_check(path: &Path, file: &ModelFile, root: &SystemRoot) -> Check {
    let name = "file system";
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    match file_system(root, &path, &file.identity()) {
        Ok(Some(found)) => {
            let finding = format!(
                "{} on {}, mounted at {}",
                found.kind,
                found.source,
                found.mount_point.display()
            );
            judge_file_system(name, &found.kind, finding)
        }
        Ok(None) => Check::new(name, Verdict::Unknown, "its mount is not visible from here"),
        Err(error) => Check::unknown(name, &error),
    }
}

fn judge_file_system(name: &'static str, kind: &str, finding: String) -> Check {
    match kind {
        "ext4" | "xfs" | "btrfs" | "f2fs" | "bcachefs" | "ext3" => {
            Check::new(name, Verdict::Good, finding)
        }
        "tmpfs" | "ramfs" => {
            Check::new(name, Verdict::Poor, format!("{finding}: in memory itself")).mend(
                "keep the model on a disk: here all of it takes memory, whatever --memory says",
            )
        }
        "nfs" | "nfs4" | "cifs" | "smb3" | "9p" | "virtiofs" | "ceph" => {
            Check::new(name, Verdict::Poor, format!("{finding}: over a network or from a host"))
                .mend("copy the model to a disk of this machine")
        }
        kind if kind.starts_with("fuse") => Check::new(name, Verdict::Poor, finding)
            .mend("copy the model to a file system of the kernel's own"),
        _ => Check::new(name, Verdict::Fair, finding)
            .mend("ext4 or xfs are what lowtide is measured on"),
    }
}

fn read_ahead(file: &ModelFile, root: &SystemRoot) -> Check {
    let name = "readahead";
    let found = match block_device(root, &file.identity()) {
        Ok(Some(found)) => found,
        Ok(None) => return Check::new(name, Verdict::Unknown, "there is no disk under this file"),
        Err(error) => return Check::unknown(name, &error),
    };
    let Some(bytes) = found.read_ahead_bytes else {
        return Check::new(name, Verdict::Unknown, "the kernel does not say");
    };
    let disk = found.name.unwrap_or_else(|| "DISK".to_owned());
    let mut finding = format!("{} on {disk}", human::bytes_binary(bytes));
    if let Some(most) = found.max_request_bytes {
        finding.push_str(&format!(", requests of at most {}", human::bytes_binary(most)));
    }
    if let Some(scheduler) = found.scheduler {
        finding.push_str(&format!(", scheduler {scheduler}"));
    }
    if found.rotational == Some(true) {
        finding.push_str(", taken for a spinning disk");
    }
    if bytes.max(found.max_request_bytes.unwrap_or(0)) >= READ_AHEAD_GOOD {
        return Check::new(name, Verdict::Good, finding);
    }
    Check::new(name, Verdict::Fair, finding)
        .mend(format!("blockdev --setra 4096 /dev/{disk}   (2 MiB; counts for --io mapped only)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_and_file_systems_have_verdicts_and_mends() {
        for (rate, verdict) in [(3e9, Verdict::Good), (1e9, Verdict::Fair), (1e8, Verdict::Poor)] {
            let check = judged("x", rate, String::new());
            assert_eq!((check.verdict, check.mend.is_none()), (verdict, verdict == Verdict::Good));
        }
        for (kind, verdict) in [
            ("ext4", Verdict::Good),
            ("tmpfs", Verdict::Poor),
            ("nfs4", Verdict::Poor),
            ("fuse.sshfs", Verdict::Poor),
            ("overlay", Verdict::Fair),
        ] {
            assert_eq!(judge_file_system("x", kind, String::new()).verdict, verdict, "{kind}");
        }
    }
}
