//! What a run did: the document that `--json` prints, and the ledger for people. Both are made
//! from the same figures.

use std::io::{self, Write};

use lowtide_engine::{Budget, Engine};
use serde::Serialize;

use crate::human::{self, Align, Table};
use crate::watch::{Seen, is_charge_shared};

/// The model that ran.
#[derive(Serialize, Debug, Clone)]
pub struct ModelReport {
    pub path: String,
    pub architecture: String,
    pub file_bytes: u64,
    pub parameters: u64,
}

/// Seconds, tokens, tokens per second. Rates are null where nothing was timed.
#[derive(Serialize, Debug, Clone, Copy)]
pub struct SpeedReport {
    pub load_s: f64,
    pub ttft_s: f64,
    pub prefill_tokens: usize,
    pub prefill_tok_s: Option<f64>,
    pub decode_tokens: usize,
    pub decode_tok_s: Option<f64>,
}

/// The budget and its split.
#[derive(Serialize, Debug, Clone, Copy)]
pub struct BudgetReport {
    pub total_bytes: u64,
    pub pinned_bytes: u64,
    pub ring_bytes: u64,
    pub expert_cache_bytes: u64,
    pub kv_bytes: u64,
    pub scratch_bytes: u64,
    pub vocab_bytes: u64,
    /// Program, heap, norms, page tables, the kernel's side.
    pub reserve_bytes: u64,
    /// Weights that every pass reads anew.
    pub streamed_bytes: u64,
}

/// What was read, and where the time went.
#[derive(Serialize, Debug, Clone)]
pub struct IoReport {
    pub backend: &'static str,
    pub read_bytes: u64,
    pub read_bytes_per_token: u64,
    pub disk_bytes_per_s: f64,
    pub wait_s: f64,
    pub compute_s: f64,
    /// Opening, sampling, writing the text: the rest of the time from start to end.
    pub other_s: f64,
    pub expert_hits: u64,
    pub expert_misses: u64,
    /// Experts guessed, and those of the misses that were.
    pub expert_guesses: u64,
    pub expert_guesses_right: u64,
    /// Of each layer that has experts: hits and misses.
    pub expert_layers: Vec<[u64; 2]>,
    /// What larger caches would have hit while answering.
    pub expert_larger_cache: Vec<LargerCache>,
}

/// A cache of more slots that saw the same uses.
#[derive(Serialize, Debug, Clone, Copy)]
pub struct LargerCache {
    /// Of the cache in use.
    pub percent: u32,
    pub cache_bytes: u64,
    pub hits: u64,
    pub misses: u64,
}

/// Memory at the end, and its peaks.
#[derive(Serialize, Debug, Clone, Copy)]
pub struct MemoryReport {
    pub rss_bytes: u64,
    pub rss_peak_bytes: u64,
    pub charge_bytes: Option<u64>,
    pub charge_peak_bytes: Option<u64>,
    /// Whether other processes are charged to the same group.
    pub charge_is_shared: bool,
    pub page_table_bytes: u64,
    pub minor_faults: u64,
    pub major_faults: u64,
    /// Pages of the model's files that are in memory, whoever brought them there.
    pub mapping_resident_bytes: Option<u64>,
}

/// What disk and processor would allow if each worked all the time beside the other: the longer of what
/// must be read and what must be computed. Null where everything is resident.
#[derive(Serialize, Debug, Clone, Copy)]
pub struct BoundReport {
    pub decode_tok_s: Option<f64>,
    pub achieved: Option<f64>,
    /// Read for a token at the least: what is streamed, and experts that were missed.
    pub must_read_bytes_per_token: Option<u64>,
    /// Seconds of the disk for that, and of the processor for the token that took it least.
    pub disk_s: Option<f64>,
    pub compute_s: Option<f64>,
    /// The disk's speed that the bound is for: while tokens were decoded.
    pub disk_bytes_per_s: Option<f64>,
}

/// Everything but the text.
#[derive(Serialize, Debug, Clone)]
pub struct Report {
    pub model: ModelReport,
    pub speed: SpeedReport,
    pub budget: BudgetReport,
    pub io: IoReport,
    pub memory: MemoryReport,
    pub bound: BoundReport,
}

fn rate(tokens: usize, seconds: f64) -> Option<f64> {
    (tokens > 0 && seconds > 0.0).then(|| tokens as f64 / seconds)
}

/// Tokens, and seconds they took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Timed {
    pub tokens: usize,
    pub seconds: f64,
}

/// What was timed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    pub load_s: f64,
    pub first_token_s: f64,
    pub prefill: Timed,
    pub decode: Timed,
    /// Bytes read while tokens were decoded.
    pub decode_read_bytes: u64,
    /// Seconds of that with at least one read under way.
    pub decode_disk_s: f64,
    /// Bytes of the experts that were missed meanwhile, whether they had been guessed or not.
    pub decode_missed_bytes: u64,
    /// What the fastest token took beside waiting for bytes.
    pub token_compute_s: Option<f64>,
}

impl Times {
    /// The bound of a decoded token for a plan that streams so many bytes for each.
    fn bound(&self, streamed_bytes: u64) -> BoundReport {
        let missed = self.decode_missed_bytes.checked_div(self.decode.tokens as u64).unwrap_or(0);
        let must_read = streamed_bytes + missed;
        // The disk as it was meanwhile: it can be twice as fast as when the model came in.
        let disk_bytes_per_s = self.decode_read_bytes as f64 / self.decode_disk_s;
        let disk_s = must_read as f64 / disk_bytes_per_s;
        // Where reads are answered by a cache the disk was never seen at work.
        let is_read = must_read > 0 && self.decode_disk_s > 0.0 && disk_s.is_finite();
        let longer = disk_s.max(self.token_compute_s.unwrap_or(0.0));
        let bound = (is_read && longer > 0.0).then(|| 1.0 / longer);
        let reached = rate(self.decode.tokens, self.decode.seconds);
        BoundReport {
            decode_tok_s: bound,
            achieved: bound.zip(reached).map(|(bound, reached)| reached / bound),
            must_read_bytes_per_token: is_read.then_some(must_read),
            disk_s: is_read.then_some(disk_s),
            compute_s: self.token_compute_s.filter(|_| is_read),
            disk_bytes_per_s: is_read.then_some(disk_bytes_per_s),
        }
    }
}

impl Report {
    /// Collects the figures of an engine that has run.
    pub fn new(engine: &Engine, path: &str, times: &Times, seen: &Seen) -> Self {
        let model = engine.model();
        let budget = budget_report(engine.budget());
        let io = io_report(engine, times);
        let decode_tok_s = rate(times.decode.tokens, times.decode.seconds);
        let bound = times.bound(budget.streamed_bytes);
        Self {
            model: ModelReport {
                path: path.to_owned(),
                architecture: model.config().family.name.to_owned(),
                file_bytes: model.file_bytes(),
                parameters: model.parameters(),
            },
            speed: SpeedReport {
                load_s: times.load_s,
                ttft_s: times.first_token_s,
                prefill_tokens: times.prefill.tokens,
                prefill_tok_s: rate(times.prefill.tokens, times.prefill.seconds),
                decode_tokens: times.decode.tokens,
                decode_tok_s,
            },
            budget,
            io,
            memory: memory_report(engine, seen),
            bound,
        }
    }

    /// The ledger: aligned lines.
    pub fn write_ledger(&self, out: &mut impl Write) -> io::Result<()> {
        let mut table = Table::new(&[Align::Left, Align::Left]);
        table.row(["speed".to_owned(), self.speed_line()]);
        self.memory_rows(&mut table);
        if let Some(line) = self.expert_line() {
            table.row(["experts".to_owned(), line]);
        }
        if let Some(line) = self.disk_line() {
            table.row(["disk".to_owned(), line]);
        }
        table.write(out, "")
    }

    /// Only where a cache of experts had a part in it.
    fn expert_line(&self) -> Option<String> {
        let io = &self.io;
        let all = io.expert_hits + io.expert_misses;
        if all == 0 {
            return None;
        }
        let percent = |hits: u64, all: u64| 100.0 * hits as f64 / all.max(1) as f64;
        let mut line = format!(
            "{} hits, {} misses ({:.0} % hit)",
            human::grouped(io.expert_hits),
            human::grouped(io.expert_misses),
            percent(io.expert_hits, all)
        );
        if io.expert_guesses > 0 {
            line.push_str(&format!(
                ", {} guessed of which {:.0} % right",
                human::grouped(io.expert_guesses),
                percent(io.expert_guesses_right, io.expert_guesses)
            ));
        }
        let worst = (0..).zip(&io.expert_layers).max_by_key(|(_, layer)| layer[1]);
        if let Some((layer, [hits, misses])) = worst {
            let share = percent(*hits, hits + misses);
            line.push_str(&format!(", fewest in mixture {layer} ({share:.0} %)"));
        }
        for larger in &io.expert_larger_cache {
            let rate = percent(larger.hits, larger.hits + larger.misses);
            let size = human::bytes(larger.cache_bytes);
            line.push_str(&format!("; a cache of {size} would hit {rate:.0} %"));
        }
        Some(line)
    }

    /// The part of it that is about memory.
    pub fn write_memory(&self, out: &mut impl Write) -> io::Result<()> {
        let mut table = Table::new(&[Align::Left, Align::Left]);
        self.memory_rows(&mut table);
        table.write(out, "")
    }

    fn memory_rows(&self, table: &mut Table) {
        table.row(["file".to_owned(), self.file_line()]);
        table.row(["memory".to_owned(), self.memory_line()]);
        table.row(["budget".to_owned(), self.budget_line()]);
        let m = &self.memory;
        let (minor, major) = (human::grouped(m.minor_faults), human::grouped(m.major_faults));
        table.row(["faults".to_owned(), format!("{minor} minor, {major} major")]);
    }

    fn speed_line(&self) -> String {
        let s = &self.speed;
        let mut parts = Vec::new();
        if let Some(rate) = s.prefill_tok_s {
            parts.push(format!("prompt {} tokens at {rate:.1}/s", s.prefill_tokens));
        }
        if let Some(rate) = s.decode_tok_s {
            parts.push(format!("answer {} tokens at {rate:.1}/s", s.decode_tokens + 1));
        }
        parts.push(format!("load {}", human::seconds(s.load_s)));
        parts.push(format!("first token after {}", human::seconds(s.ttft_s)));
        parts.join(", ")
    }

    fn file_line(&self) -> String {
        let size = human::bytes(self.model.file_bytes);
        match self.memory.mapping_resident_bytes {
            Some(resident) => {
                let percent = 100.0 * resident as f64 / self.model.file_bytes.max(1) as f64;
                let percent = percent.min(100.0);
                format!(
                    "{size}, {} of the mapping resident ({percent:.0} %)",
                    human::bytes(resident)
                )
            }
            None => size,
        }
    }

    fn memory_line(&self) -> String {
        let m = &self.memory;
        let mut line =
            format!("RSS {} (peak {})", human::bytes(m.rss_bytes), human::bytes(m.rss_peak_bytes));
        if let Some((now, peak)) = m.charge_bytes.zip(m.charge_peak_bytes) {
            let (now, peak) = (human::bytes(now), human::bytes(peak));
            let whose = if m.charge_is_shared { ", others in it included" } else { "" };
            line.push_str(&format!(", cgroup charged {now} (peak {peak}{whose})"));
        }
        line.push_str(&format!(", page tables {}", human::bytes(m.page_table_bytes)));
        line
    }

    fn budget_line(&self) -> String {
        let b = &self.budget;
        let parts = [
            ("weights", b.pinned_bytes),
            ("ring", b.ring_bytes),
            ("experts", b.expert_cache_bytes),
            ("KV", b.kv_bytes),
            ("scratch", b.scratch_bytes),
            ("vocabulary", b.vocab_bytes),
            ("rest", b.reserve_bytes),
        ];
        let parts = parts.iter().filter(|(_, bytes)| *bytes > 0);
        let split: Vec<_> =
            parts.map(|(name, bytes)| format!("{name} {}", human::bytes(*bytes))).collect();
        format!("{}: {}", human::bytes(b.total_bytes), split.join(", "))
    }

    /// Only where a disk had a part in it.
    fn disk_line(&self) -> Option<String> {
        let io = &self.io;
        if io.read_bytes == 0 {
            return None;
        }
        let total_s = (io.wait_s + io.compute_s + io.other_s).max(1e-9);
        let part = |name: &str, seconds: f64| {
            format!("{name} {} ({:.0} %)", human::seconds(seconds), 100.0 * seconds / total_s)
        };
        let mut line = format!(
            "{} read ({} a token) {}, {}, {}, {}",
            human::bytes(io.read_bytes),
            human::bytes(io.read_bytes_per_token),
            match io.backend {
                "mapped" => "through the mapping".to_owned(),
                reader => format!("by {reader}"),
            },
            part("waited", io.wait_s),
            part("computed", io.compute_s),
            part("other", io.other_s),
        );
        let bound = &self.bound;
        if let Some((tok_s, achieved)) = bound.decode_tok_s.zip(bound.achieved) {
            let disk_s = bound.disk_s.unwrap_or_default();
            let compute_s = bound.compute_s.unwrap_or_default();
            line.push_str(&format!(
                "; {} of disk at {}/s or {} of computing allow {tok_s:.2} tokens/s, {:.0} % of that reached",
                human::seconds(disk_s),
                human::bytes(bound.disk_bytes_per_s.unwrap_or_default() as u64),
                human::seconds(compute_s),
                100.0 * achieved
            ));
        }
        Some(line)
    }
}

/// The split as documents show it.
pub fn budget_report(budget: &Budget) -> BudgetReport {
    BudgetReport {
        total_bytes: budget.total_bytes,
        pinned_bytes: budget.pinned_bytes,
        ring_bytes: budget.ring_bytes,
        expert_cache_bytes: budget.expert_cache_bytes,
        kv_bytes: budget.fixed.kv_bytes,
        scratch_bytes: budget.fixed.scratch_bytes,
        vocab_bytes: budget.fixed.vocabulary_bytes,
        reserve_bytes: budget.fixed.reserve_bytes() + budget.table_bytes,
        streamed_bytes: budget.streamed_bytes,
    }
}

fn io_report(engine: &Engine, times: &Times) -> IoReport {
    let stats = engine.store().stats();
    let per_token = times.decode_read_bytes.checked_div(times.decode.tokens as u64).unwrap_or(0);
    let direct = engine.store().reader().map(|backend| match backend {
        lowtide_mapping::Backend::IoUring => "io_uring",
        lowtide_mapping::Backend::Threads => "pread threads",
        lowtide_mapping::Backend::Auto => "auto",
    });
    IoReport {
        backend: direct.unwrap_or("mapped"),
        read_bytes: stats.total.read_bytes(),
        read_bytes_per_token: per_token,
        disk_bytes_per_s: stats.total.disk_bytes_per_s(),
        wait_s: stats.total.wait_s,
        compute_s: (stats.total.seconds - stats.total.wait_s).max(0.0),
        other_s: (times.load_s + times.prefill.seconds + times.decode.seconds
            - stats.total.seconds)
            .max(0.0),
        expert_hits: stats.total.expert_hits,
        expert_misses: stats.total.expert_misses,
        expert_guesses: stats.total.expert_guesses,
        expert_guesses_right: stats.total.expert_guesses_right,
        expert_layers: engine.store().expert_layers().iter().map(|l| [l.hits, l.misses]).collect(),
        expert_larger_cache: larger_caches(engine),
    }
}

/// Of those that are larger, and that saw anything.
fn larger_caches(engine: &Engine) -> Vec<LargerCache> {
    let store = engine.store();
    let (uses, ghosts) = store.expert_ghosts();
    let experts = &store.plan().experts;
    let slots = u64::from(experts.slots);
    let units = store.plan().extents().units().len() as u64;
    let slot_bytes = experts.bytes() / slots.max(1);
    let larger = |(percent, hits): (u32, u64)| LargerCache {
        percent,
        cache_bytes: (slots * u64::from(percent) / 100).min(units) * slot_bytes,
        hits,
        misses: uses - hits,
    };
    ghosts.into_iter().filter(|_| uses > 0).map(larger).collect()
}

fn memory_report(engine: &Engine, seen: &Seen) -> MemoryReport {
    let shards = engine.model().shards().iter();
    let resident = shards.map(|shard| {
        let pages = shard.mapping.resident_pages(0..shard.mapping.len()).ok()?;
        Some(pages.resident_bytes())
    });
    MemoryReport {
        rss_bytes: seen.rss_bytes,
        rss_peak_bytes: seen.rss_peak_bytes,
        charge_bytes: seen.charge_bytes,
        charge_peak_bytes: seen.charge_peak_bytes,
        charge_is_shared: is_charge_shared(),
        page_table_bytes: seen.page_table_bytes,
        minor_faults: seen.minor_faults,
        major_faults: seen.major_faults,
        mapping_resident_bytes: resident.sum(),
    }
}
