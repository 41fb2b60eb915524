//! Counters, and how Prometheus reads them: under our names and under those of vLLM that routers read.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use lowtide_mapping::{MemoryLimits, ProcessMemory};
use lowtide_residency::Store;

use crate::job::Figures;
use crate::state::Shared;

/// Upper bounds of the buckets, in seconds: a token of a small model, to one of a model on a disk.
const BOUNDS: [f64; 16] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

/// A histogram.
#[derive(Default)]
pub struct Histogram {
    buckets: [AtomicU64; 16],
    count: AtomicU64,
    sum_us: AtomicU64,
}

impl Histogram {
    /// Counts a value.
    pub fn observe(&self, seconds: f64) {
        if let Some(at) = BOUNDS.iter().position(|bound| seconds <= *bound) {
            self.buckets[at].fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add((seconds * 1e6) as u64, Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, label: &str, help: &str) {
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} histogram\n");
        let mut sum = 0;
        let comma = if label.is_empty() { "" } else { "," };
        for (bound, bucket) in BOUNDS.iter().zip(&self.buckets) {
            sum += bucket.load(Ordering::Relaxed);
            let _ = writeln!(out, "{name}_bucket{{{label}{comma}le=\"{bound}\"}} {sum}");
        }
        let count = self.count.load(Ordering::Relaxed);
        let seconds = self.sum_us.load(Ordering::Relaxed) as f64 / 1e6;
        let braces = if label.is_empty() { String::new() } else { format!("{{{label}}}") };
        let _ = writeln!(out, "{name}_bucket{{{label}{comma}le=\"+Inf\"}} {count}");
        let _ = writeln!(out, "{name}_sum{braces} {seconds}\n{name}_count{braces} {count}");
    }
}

/// All counters.
#[derive(Default)]
pub struct Metrics {
    /// Answers being made.
    pub running: AtomicU64,
    /// Requests that were told to come back.
    pub refused: AtomicU64,
    /// Answers that came to their end.
    pub finished: AtomicU64,
    /// Models loaded on demand.
    pub loads: AtomicU64,
    /// Connections that are open.
    pub connections: AtomicU64,
    /// In the queue.
    pub queue_time: Histogram,
    prompt_tokens: AtomicU64,
    cached_tokens: AtomicU64,
    tokens: AtomicU64,
    first_token: Histogram,
    between_tokens: Histogram,
    whole: Histogram,
    kv_tokens: AtomicU64,
    resident_bytes: AtomicU64,
    read_bytes: AtomicU64,
    wait_us: AtomicU64,
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

impl Metrics {
    /// A prompt was read.
    pub fn prompt(&self, tokens: usize, cached: usize) {
        add(&self.prompt_tokens, tokens as u64);
        add(&self.cached_tokens, cached as u64);
    }

    /// A token was chosen.
    pub fn token(&self, last: &mut Option<Instant>) {
        add(&self.tokens, 1);
        let now = Instant::now();
        if let Some(last) = last.replace(now) {
            self.between_tokens.observe((now - last).as_secs_f64());
        }
    }

    /// Tokens chosen so far.
    pub fn tokens(&self) -> u64 {
        self.tokens.load(Ordering::Relaxed)
    }

    /// A request is done.
    pub fn answered(&self, figures: &Figures, seconds: f64) {
        add(&self.finished, 1);
        self.first_token.observe(figures.queue_s + figures.prefill_s);
        self.whole.observe(figures.queue_s + seconds);
    }

    /// So many tokens are in all KV caches together.
    pub fn kv(&self, tokens: usize) {
        self.kv_tokens.store(tokens as u64, Ordering::Relaxed);
    }

    /// What the store has done so far.
    pub fn store(&self, store: &Store) {
        let total = store.stats().total;
        self.resident_bytes.store(store.resident_bytes(), Ordering::Relaxed);
        self.read_bytes.store(total.read_bytes(), Ordering::Relaxed);
        self.wait_us.store((total.wait_s * 1e6) as u64, Ordering::Relaxed);
    }

    /// The text Prometheus reads.
    pub fn text(&self, shared: &Shared) -> String {
        let mut out = String::with_capacity(8 << 10);
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let face = shared.face();
        let room = face.as_ref().map_or(1, |face| (face.context * face.sequences).max(1));
        let kv = get(&self.kv_tokens) / room as f64;
        let waiting = shared.queue.waiting() as f64;
        let memory = ProcessMemory::read().unwrap_or_default();
        let mut gauge = |name: &str, kind: &str, help: &str, value: f64| {
            let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
        };
        gauge("lowtide_requests_running", "gauge", "Answers being made.", get(&self.running));
        gauge("lowtide_requests_waiting", "gauge", "Requests in the queue.", waiting);
        gauge(
            "lowtide_requests_refused_total",
            "counter",
            "Told to come back.",
            get(&self.refused),
        );
        gauge("lowtide_requests_finished_total", "counter", "Answered.", get(&self.finished));
        gauge("lowtide_models_loaded_total", "counter", "Loaded on demand.", get(&self.loads));
        gauge("lowtide_connections", "gauge", "Open connections.", get(&self.connections));
        gauge("lowtide_prompt_tokens_total", "counter", "Of prompts.", get(&self.prompt_tokens));
        gauge("lowtide_cached_tokens_total", "counter", "Reused.", get(&self.cached_tokens));
        gauge("lowtide_generated_tokens_total", "counter", "Chosen.", get(&self.tokens));
        gauge("lowtide_kv_usage_ratio", "gauge", "Of all KV caches.", kv);
        gauge("lowtide_resident_bytes", "gauge", "Weights in memory.", get(&self.resident_bytes));
        gauge("lowtide_read_bytes_total", "counter", "Weights read.", get(&self.read_bytes));
        let wait = get(&self.wait_us) / 1e6;
        gauge("lowtide_disk_wait_seconds_total", "counter", "Waited for the disk.", wait);
        gauge("lowtide_rss_bytes", "gauge", "Resident set.", memory.rss_bytes as f64);
        if let Some(charge) = charge_bytes() {
            let help = "Charged to the control group, where it is the server's own.";
            gauge("lowtide_charge_bytes", "gauge", help, charge as f64);
        }
        let budget = face.as_ref().map_or(0, |face| face.budget.total_bytes) as f64;
        gauge("lowtide_budget_bytes", "gauge", "The budget.", budget);
        self.histograms(&mut out, "lowtide_", "");
        let model = face.as_ref().map_or("", |face| &face.id);
        let label = format!("model_name=\"{}\"", model.replace(['"', '\\', '\n'], "_"));
        for (name, kind, value) in [
            ("vllm:num_requests_running", "gauge", get(&self.running)),
            ("vllm:num_requests_waiting", "gauge", waiting),
            ("vllm:kv_cache_usage_perc", "gauge", kv),
            ("vllm:gpu_cache_usage_perc", "gauge", kv),
            ("vllm:prompt_tokens_total", "counter", get(&self.prompt_tokens)),
            ("vllm:generation_tokens_total", "counter", get(&self.tokens)),
            ("vllm:request_success_total", "counter", get(&self.finished)),
        ] {
            let _ = write!(out, "# TYPE {name} {kind}\n{name}{{{label}}} {value}\n");
        }
        self.histograms(&mut out, "vllm:", &label);
        out
    }

    fn histograms(&self, out: &mut String, prefix: &str, label: &str) {
        for (histogram, name, help) in [
            (
                &self.first_token,
                "time_to_first_token_seconds",
                "From acceptance to the first token.",
            ),
            (&self.between_tokens, "inter_token_latency_seconds", "Between two tokens."),
            (&self.whole, "e2e_request_latency_seconds", "From acceptance to the end."),
            (&self.queue_time, "request_queue_time_seconds", "In the queue."),
        ] {
            histogram.write(out, &format!("{prefix}{name}"), label, help);
        }
    }
}

/// What this process is charged: its control group's charge, where nobody else is in the group. A
/// login's or a machine's group says nothing of one process.
pub fn charge_bytes() -> Option<u64> {
    let limits = MemoryLimits::read().ok()?;
    limits.own().filter(|group| group.is_ours_alone())?.usage_bytes
}
