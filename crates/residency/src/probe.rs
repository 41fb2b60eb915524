//! Measuring the disk under a file, as the ring would read it.

use std::path::Path;
use std::time::{Duration, Instant};

use lowtide_mapping::{
    Arena, Backend, DirectFile, Priority, QueueOptions, ReadMode, ReadQueue, ReadRequest,
};

use crate::error::ResidencyError;

/// One way of reading, and what it gave.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ProbePoint {
    /// Bytes of one read.
    pub request_bytes: u64,
    /// Reads under way at once.
    pub depth: u32,
    /// Bandwidth.
    pub bytes_per_s: f64,
    /// Seconds from submitting a read to having it, on average.
    pub latency_s: f64,
}

/// What the disk under a file does.
#[derive(Clone, PartialEq, Debug)]
pub struct DiskProbe {
    /// Past the page cache, or why not.
    pub mode: ReadMode,
    /// What read.
    pub reader: Backend,
    /// All points, in the order measured.
    pub points: Vec<ProbePoint>,
}

impl DiskProbe {
    /// The fastest point.
    #[must_use]
    pub fn best(&self) -> Option<ProbePoint> {
        self.points.iter().copied().max_by(|a, b| a.bytes_per_s.total_cmp(&b.bytes_per_s))
    }

    /// Sequential bandwidth at its best.
    #[must_use]
    pub fn bytes_per_s(&self) -> f64 {
        self.best().map_or(0.0, |p| p.bytes_per_s)
    }
}

/// Ways of reading worth telling apart: large requests are what a slow disk wants, depth what an
/// NVMe drive wants.
const WAYS: [(u64, u32); 4] = [(1 << 20, 16), (4 << 20, 4), (4 << 20, 8), (8 << 20, 4)];

/// Reads the file in order past the page cache for about `seconds` in all, a share of it in each
/// of some ways, and says what each gave. Nothing of the file is in the page cache afterwards that
/// was not before.
///
/// # Errors
/// [`ResidencyError::System`] if the file cannot be opened or memory is refused,
/// [`ResidencyError::Probe`] if reads fail or the file is shorter than one read.
pub fn probe_disk(path: impl AsRef<Path>, seconds: f64) -> Result<DiskProbe, ResidencyError> {
    probe_ways(path, seconds, Backend::Auto, &WAYS)
}

/// As [`probe_disk`], with the reader and the ways (bytes of a request, depth) chosen by the caller.
///
/// # Errors
/// As [`probe_disk`]; `System` too where the reader is not to be had.
pub fn probe_ways(
    path: impl AsRef<Path>,
    seconds: f64,
    backend: Backend,
    ways: &[(u64, u32)],
) -> Result<DiskProbe, ResidencyError> {
    let path = path.as_ref();
    let system = |what| move |source| ResidencyError::System { what, source };
    let share = Duration::from_secs_f64((seconds / ways.len().max(1) as f64).clamp(0.01, 60.0));
    let mut points = Vec::new();
    let mut reader = backend;
    let file = DirectFile::open(path).map_err(system("opening for the disk probe"))?;
    let mode = file.mode();
    let size = file.identity().map_err(system("the disk probe"))?.size;
    // Each way reads another part of the file: what a host has cached of the last is not read
    // again. The first begins in the middle, since the head has just been parsed.
    let mut at = size / 2;
    for &(request_bytes, depth) in ways {
        let options = QueueOptions {
            backend,
            depth: depth as usize,
            piece_bytes: request_bytes as usize,
            max_requests: depth as usize,
        };
        let file = DirectFile::of(file.file()).map_err(system("opening for the disk probe"))?;
        let queue = ReadQueue::new(vec![file], options).map_err(system("the disk probe"))?;
        reader = queue.backend();
        let run = Run { queue, size, at, request_bytes, submitted: Vec::new() };
        let (point, end) = run
            .measure(depth, share)
            .map_err(|why| ResidencyError::Probe { path: path.display().to_string(), why })?;
        at = end;
        points.push(point);
    }
    Ok(DiskProbe { mode, reader, points })
}

struct Run {
    queue: ReadQueue,
    size: u64,
    at: u64,
    request_bytes: u64,
    submitted: Vec<Instant>,
}

impl Run {
    fn measure(mut self, depth: u32, share: Duration) -> Result<(ProbePoint, u64), String> {
        let bytes = self.request_bytes as usize;
        let arena = Arena::new(bytes * depth as usize).map_err(|e| e.to_string())?;
        self.queue.register(&[&arena]);
        let (mut read, mut waited, mut count) = (0u64, Duration::ZERO, 0u32);
        let begin = Instant::now();
        for (i, slot) in arena.into_slots(bytes).into_iter().enumerate() {
            self.submitted.push(begin);
            self.submit(i as u64, slot)?;
        }
        let deadline = share.saturating_mul(8).max(Duration::from_secs(5));
        loop {
            let done = self.queue.wait_complete(deadline).map_err(|e| e.to_string())?;
            let Some(done) = done else { break };
            let range = done.result.map_err(|e| e.to_string())?;
            read += range.len() as u64;
            waited += self.submitted[done.token as usize].elapsed();
            count += 1;
            if begin.elapsed() < share {
                self.submit(done.token, done.slot)?;
            }
        }
        let seconds = begin.elapsed().as_secs_f64();
        let point = ProbePoint {
            request_bytes: self.request_bytes,
            depth,
            bytes_per_s: read as f64 / seconds,
            latency_s: waited.as_secs_f64() / f64::from(count.max(1)),
        };
        Ok((point, self.at))
    }

    fn submit(&mut self, token: u64, slot: lowtide_mapping::Slot) -> Result<(), String> {
        // Whole requests, aligned, around the end of the file.
        let whole = self.size / self.request_bytes;
        if whole == 0 {
            return Err(format!("{} bytes are less than one read", self.size));
        }
        let offset = self.at / self.request_bytes % whole * self.request_bytes;
        self.at = offset + self.request_bytes;
        self.submitted[token as usize] = Instant::now();
        let request = ReadRequest {
            token,
            file: 0,
            offset,
            length: self.request_bytes as usize,
            slot,
            priority: Priority::Demand,
        };
        self.queue.submit(request).map_err(|rejected| rejected.to_string())
    }
}
