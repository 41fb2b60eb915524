//! What this machine does for this model: its disk read as the ring would read it, its products
//! computed, and both at once, because a run does both at once. Takes about four seconds.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use lowtide_engine::{Forecast, LoadOptions, Model, ProductGroup, Room, Traffic};
use lowtide_kernels::compute::Compute;
use lowtide_kernels::format::Format;
use lowtide_kernels::isa::Isa;
use lowtide_mapping::CpuLimits;
use lowtide_residency::{ResidencyError, SpreadProbe};

use crate::failure::{Failure, STATUS_RUNNING};
use crate::pass_probe::{PassProbe, PassTimes};
use crate::probe::{Rate, buffer_bytes, memory_bandwidth, prompt_products};
use crate::store::Store;
use crate::trial::{TRIAL_BYTES, Trial};

/// Seconds of each measurement.
const PROBE_SECONDS: f64 = 0.7;
/// What is read to learn how missing experts come in, each time.
const BURST_SECONDS: f64 = 0.3;
/// Where nothing passes through the ring: what it would read with.
const REQUEST_BYTES: u64 = 4 << 20;
/// Reads are not made shorter than this, however little memory there is for them.
const REQUEST_BYTES_MIN: u64 = 256 << 10;
/// Nor is the memory that stands for weights; the budget's reserve covers both.
const BUFFER_BYTES_MIN: usize = 1 << 20;

/// What was measured.
#[derive(Debug, Clone)]
pub struct Machine {
    /// `None` if the file is shorter than one read: then it is resident after the first token.
    pub disk: Option<Disk>,
    /// Reading memory, bytes per second.
    pub memory: Rate,
    /// A pass of one token, the disk at rest.
    pub pass: PassTimes,
    /// Weights times tokens per second, of a prompt.
    pub prompt: Rate,
}

/// The disk, in bytes per second.
#[derive(Debug, Clone)]
pub struct Disk {
    /// What was read.
    pub path: PathBuf,
    /// Bytes of one read.
    pub request_bytes: u64,
    /// Reads under way at once.
    pub depth: u32,
    /// At places not read before.
    pub first: f64,
    /// At the same places again: what an answer's tokens after the first do.
    pub again: f64,
    /// Again, while the products of a pass are computed.
    pub busy: f64,
    /// A pass of one token meanwhile, in seconds.
    pub pass_s: f64,
    /// A layer's missing experts.
    pub burst: Option<Burst>,
}

/// Some experts read at once.
#[derive(Debug, Clone, Copy)]
pub struct Burst {
    /// How many.
    pub experts: f64,
    /// Seconds until all are there, at places not read before.
    pub first_s: f64,
    /// At places read before.
    pub again_s: f64,
}

/// Where the disk is measured.
pub enum Subject {
    /// On the model's own file.
    File(PathBuf),
    /// On another model, or on a file made for it: the model is not here.
    Elsewhere(Store),
}

impl Machine {
    /// Measures.
    pub fn measure(
        subject: &Subject,
        model: &Model,
        options: &LoadOptions,
        forecast: Option<&Forecast>,
    ) -> Result<Self> {
        let refused = |error: &dyn std::error::Error| Failure::from_lines(error, STATUS_RUNNING);
        let threads = match options.threads {
            Some(threads) => threads,
            None => CpuLimits::read().map_err(|e| refused(&e))?.compute_threads(),
        };
        let isa = Isa::from_env().map_err(|e| refused(&e))?;
        let mut compute = Compute::new(isa, threads).map_err(|e| refused(&e))?;
        let left = Room::read(options.memory).map_err(|e| refused(&e))?.left_bytes;
        // What measuring needs beside its buffers: stacks, results, more of the program.
        let left = left - left / 8;
        let reads = Reads::of(forecast).within(left / 2);
        let beside_reads = usize::try_from(left.saturating_sub(reads.bytes()));
        let bytes = buffer_bytes().min(beside_reads.unwrap_or(usize::MAX)).max(BUFFER_BYTES_MIN);
        let memory = memory_bandwidth(threads, bytes, PROBE_SECONDS / 2.0);
        let width = usize::try_from(model.config().embedding_length).unwrap_or(0);
        let groups = model.pass_shape();
        let format = main_format(&groups);
        let prompt = prompt_products(&mut compute, format, width, bytes, PROBE_SECONDS / 2.0)?;
        let mut probe = PassProbe::new(&groups, bytes)?;
        let pass = probe.run(&mut compute, PROBE_SECONDS)?;
        let (path, trial) = subject.path()?;
        let mut disk = Disk::measure(&path, reads, &mut |stop| {
            let times = probe.run(&mut compute, PROBE_SECONDS);
            stop.store(true, Ordering::Relaxed);
            times
        })?;
        drop(probe);
        if let (Some(disk), Some(forecast)) = (&mut disk, forecast) {
            disk.burst = Burst::measure(&path, forecast, left)?;
        }
        drop(trial);
        Ok(Self { disk, memory, pass, prompt })
    }
}

impl Subject {
    fn path(&self) -> Result<(PathBuf, Option<Trial>)> {
        match self {
            Self::File(path) => Ok((path.clone(), None)),
            Self::Elsewhere(store) => {
                let models = store.list()?;
                match models
                    .iter()
                    .max_by_key(|m| m.bytes)
                    .filter(|m| m.bytes >= TRIAL_BYTES as u64)
                {
                    Some(model) => Ok((model.path.clone(), None)),
                    None => {
                        let trial = Trial::write(store.dir())?;
                        Ok((trial.path().to_owned(), Some(trial)))
                    }
                }
            }
        }
    }
}

/// How the disk is read: bytes of a read, and reads at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reads {
    request_bytes: u64,
    depth: u32,
}

impl Reads {
    /// As the ring of a run would.
    fn of(forecast: Option<&Forecast>) -> Self {
        let request = forecast.map_or(0, |forecast| forecast.request_bytes);
        let request_bytes =
            if request > 0 { request.next_multiple_of(4096) } else { REQUEST_BYTES };
        Self { request_bytes, depth: forecast.map_or(8, |forecast| forecast.queue_depth).max(1) }
    }

    fn bytes(self) -> u64 {
        self.request_bytes * u64::from(self.depth)
    }

    /// In at most `bytes` of memory: fewer at once, then shorter ones.
    fn within(self, bytes: u64) -> Self {
        let affordable = u32::try_from(bytes / self.request_bytes).unwrap_or(u32::MAX);
        let shortest = (bytes / 4096 * 4096).max(REQUEST_BYTES_MIN);
        Self {
            request_bytes: self.request_bytes.min(shortest),
            depth: self.depth.min(affordable).max(1),
        }
    }
}

impl Disk {
    fn measure(
        path: &Path,
        reads: Reads,
        compute: &mut dyn FnMut(&AtomicBool) -> Result<PassTimes>,
    ) -> Result<Option<Self>> {
        let broken = |error: ResidencyError| Failure::from_lines(&error, STATUS_RUNNING);
        let mut probe = match SpreadProbe::open(path, reads.request_bytes, reads.depth) {
            Err(ResidencyError::Probe { .. }) => return Ok(None),
            probe => probe.map_err(broken)?,
        };
        let first = probe.read_new(PROBE_SECONDS).map_err(broken)?;
        let again = probe.read_again(&|seconds| seconds >= PROBE_SECONDS).map_err(broken)?;
        let stop = AtomicBool::new(false);
        let (busy, times) = std::thread::scope(|scope| {
            let reader = scope.spawn(|| probe.read_again(&|_| stop.load(Ordering::Relaxed)));
            let times = compute(&stop);
            // Also where computing failed: the reader waits for it.
            stop.store(true, Ordering::Relaxed);
            (reader.join(), times)
        });
        let busy = busy.map_err(|_| Failure::running("the disk probe has stopped"))?;
        Ok(Some(Self {
            path: path.to_owned(),
            request_bytes: probe.request_bytes(),
            depth: probe.depth(),
            first,
            again,
            busy: busy.map_err(broken)?,
            pass_s: times?.typical_s,
            burst: None,
        }))
    }
}

impl Burst {
    /// Reads as many experts at once as a layer misses of those that a token uses, or as `bytes` of memory
    /// hold.
    fn measure(path: &Path, forecast: &Forecast, bytes: u64) -> Result<Option<Self>> {
        let broken = |error: ResidencyError| Failure::from_lines(&error, STATUS_RUNNING);
        let Some(reads) = forecast.experts else { return Ok(None) };
        let request = (reads.unit_bytes / u64::from(reads.pieces.max(1))).next_multiple_of(4096);
        let affordable = bytes / (request * u64::from(reads.pieces)).max(1);
        let missed = reads.missed(Traffic::Mild).round().min(affordable as f64).max(1.0);
        let mut probe = match SpreadProbe::open(path, request, missed as u32 * reads.pieces) {
            Err(ResidencyError::Probe { .. }) => return Ok(None),
            probe => probe.map_err(broken)?,
        };
        let first_s = probe.bursts(true, BURST_SECONDS).map_err(broken)?;
        let again_s = probe.bursts(false, BURST_SECONDS).map_err(broken)?;
        Ok(Some(Self { experts: missed, first_s, again_s }))
    }
}

/// The format of most of the weights that a pass computes with.
fn main_format(groups: &[ProductGroup]) -> Format {
    let bytes = |format: Format| -> u64 {
        let same = |group: &&ProductGroup| group.products.iter().any(|p| p.format == format);
        groups.iter().filter(same).map(|group| group.bytes() * u64::from(group.times)).sum()
    };
    Format::ALL.iter().copied().max_by_key(|format| bytes(*format)).unwrap_or(Format::F32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_become_fewer_and_then_shorter() {
        let ring = Reads { request_bytes: 4 << 20, depth: 8 };
        assert_eq!(ring.within(40 << 20), ring);
        assert_eq!(ring.within(13 << 20), Reads { depth: 3, ..ring });
        assert_eq!(ring.within((1 << 20) + 5), Reads { request_bytes: 1 << 20, depth: 1 });
        assert_eq!(ring.within(0), Reads { request_bytes: REQUEST_BYTES_MIN, depth: 1 });
    }
}
