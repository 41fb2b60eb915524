//! `lowtide fit`: what a run would do, from the header alone: the engine's own plan, and measurements
//! of disk, memory and processor that take about two seconds.

use std::io::{self, Write};
use std::path::Path;

use anyhow::Result;
use lowtide_engine::{Error, Forecast, Forecaster, LoadOptions, MemoryLimit, Model};
use lowtide_kernels::compute::Compute;
use lowtide_kernels::format::Format;
use lowtide_kernels::isa::Isa;
use lowtide_mapping::{CpuLimits, MemoryLimits, page_size};
use lowtide_residency::probe_disk;
use serde::Serialize;

use crate::args::{FitArgs, Memory};
use crate::failure::{Failure, STATUS_RUNNING, one_line};
use crate::header::Header;
use crate::human::{self, Align, Table};
use crate::load::{Expected, Phase, failure, options};
use crate::output::Stdout;
use crate::probe::{ProductRates, Rate, memory_bandwidth, products};
use crate::report::{BudgetReport, budget_report};
use crate::store::{Store, resolve};

/// Seconds of each of the three measurements.
const PROBE_SECONDS: f64 = 0.7;
/// What attention, norms, sampling and waiting add to the products at most.
const BESIDE_PRODUCTS: f64 = 1.25;

/// What this machine does.
#[derive(Clone, Copy)]
struct Machine {
    disk: Rate,
    memory: Rate,
    products: ProductRates,
}

/// Tokens per second, at least and at most.
#[derive(Serialize, Clone, Copy)]
struct Speeds {
    decode_tok_s: [f64; 2],
    prefill_tok_s: [f64; 2],
}

#[derive(Serialize)]
struct Step {
    memory_bytes: u64,
    read_bytes_per_token: u64,
    #[serde(flatten)]
    speeds: Speeds,
}

#[derive(Serialize)]
struct Probe {
    disk_bytes_per_s: [f64; 2],
    memory_bytes_per_s: [f64; 2],
    decode_bytes_per_s: [f64; 2],
    prefill_weights_per_s: [f64; 2],
}

/// Null where it does not fit: then there is no plan.
#[derive(Serialize)]
struct Document {
    fits: bool,
    /// Why not.
    reason: Option<String>,
    memory_bytes: u64,
    allowed_bytes: u64,
    floor_bytes: u64,
    resident_bytes: u64,
    file_bytes: u64,
    budget: Option<BudgetReport>,
    decode_tok_s: Option<[f64; 2]>,
    prefill_tok_s: Option<[f64; 2]>,
    read_bytes_per_token: Option<u64>,
    context: Option<usize>,
    context_max: Option<usize>,
    steps: Vec<Step>,
    probe: Probe,
}

/// Plans, measures, and prints.
pub fn fit(args: &FitArgs) -> Result<()> {
    let path = resolve::model(&Store::locate(), &args.model)?;
    let opening = |error: Error| failure(&error, Phase::Opening);
    let model = Model::open(&path).map_err(opening)?;
    let memory = match args.budget.memory {
        Memory::Auto => MemoryLimit::Auto,
        Memory::Bytes(bytes) => MemoryLimit::Bytes(bytes),
    };
    let options = LoadOptions { memory, ..options(&args.budget, Expected::default()) };
    let forecaster = Forecaster::new(&model, &options).map_err(opening)?;
    // Before anything is measured: the plan counts what this process uses, and measuring leaves
    // some of its memory with the allocator.
    let plans = Plans::make(&forecaster, memory)?;
    let machine = measure(&path, &model, &options)?;
    let document = plans.judge(&model, &machine);
    if args.json {
        Stdout::lock().json(&document)?;
        return Ok(());
    }
    let mut out = Stdout::lock();
    text(&mut out, &path, &document)?;
    out.finish()?;
    Ok(())
}

fn measure(path: &Path, model: &Model, options: &LoadOptions) -> Result<Machine> {
    let refused = |error: &dyn std::error::Error| Failure::from_lines(error, STATUS_RUNNING);
    let threads = match options.threads {
        Some(threads) => threads,
        None => CpuLimits::read().map_err(|e| refused(&e))?.compute_threads(),
    };
    let disk = match probe_disk(path, PROBE_SECONDS) {
        Ok(probe) => {
            let mut rates: Vec<f64> = probe.points.iter().map(|p| p.bytes_per_s).collect();
            rates.sort_by(f64::total_cmp);
            Rate { low: rates[rates.len() / 2 - 1], high: probe.bytes_per_s() }
        }
        // Less than one read: a model that small is resident after the first token.
        Err(lowtide_residency::ResidencyError::Probe { .. }) => Rate { low: 1e8, high: 1e9 },
        Err(error) => return Err(refused(&error).into()),
    };
    let isa = Isa::from_env().map_err(|e| refused(&e))?;
    let mut compute = Compute::new(isa, threads).map_err(|e| refused(&e))?;
    let width = usize::try_from(model.config().embedding_length).unwrap_or(0);
    let products = products(&mut compute, main_format(path)?, width, PROBE_SECONDS)?;
    Ok(Machine { disk, memory: memory_bandwidth(threads, PROBE_SECONDS / 2.0), products })
}

/// The format of most of the weights.
fn main_format(path: &Path) -> Result<Format> {
    let header = Header::read(path)?;
    let gguf = header.gguf()?;
    let bytes_of = |format: Format| -> u64 {
        let same = gguf.tensors().iter().filter(|t| t.ggml_type().0 == format.ggml_type());
        same.map(|tensor| tensor.byte_len().unwrap_or(0)).sum()
    };
    Ok(Format::ALL.iter().copied().max_by_key(|f| bytes_of(*f)).unwrap_or(Format::F32))
}

impl Machine {
    /// At most: disk and processor work at the same time, and nothing else costs anything. At
    /// least: one after the other, the whole context attended to, and the slowest pass of each.
    fn speeds(&self, forecast: &Forecast, model: &Model) -> Speeds {
        let read = forecast.read_bytes as f64;
        let pass = forecast.pass_bytes as f64;
        let cache = forecast.budget.fixed.kv_bytes as f64;
        // What is resident may come from the page cache: the row of the embedding costs nothing.
        let read_s = |rate: f64| if forecast.all_resident { 0.0 } else { read / rate };
        let fast = read_s(self.disk.high).max(pass / self.products.decode.high);
        let slow = read_s(self.disk.low)
            + pass / self.products.decode.low * BESIDE_PRODUCTS
            + cache / self.memory.low;
        let weights = model.parameters() as f64 * forecast.batch as f64;
        let fast_batch = read_s(self.disk.high).max(weights / self.products.prompt.high);
        let slow_batch =
            read_s(self.disk.low) + weights / self.products.prompt.low * BESIDE_PRODUCTS;
        let batch = forecast.batch as f64;
        Speeds {
            decode_tok_s: [1.0 / slow, 1.0 / fast],
            prefill_tok_s: [batch / slow_batch, batch / fast_batch],
        }
    }
}

/// All that is worked out without measuring.
struct Plans {
    asked: u64,
    allowed: u64,
    floor: u64,
    everything: u64,
    forecast: Option<Forecast>,
    reason: Option<String>,
    steps: Vec<Forecast>,
    context_max: Option<usize>,
}

impl Plans {
    fn make(forecaster: &Forecaster<'_>, memory: MemoryLimit) -> Result<Self> {
        let limits =
            MemoryLimits::read().map_err(|error| Failure::from_lines(&error, STATUS_RUNNING))?;
        let allowed = limits.effective_bytes();
        let opening = |error: Error| failure(&error, Phase::Opening);
        let (forecast, mut reason) = match forecaster.at_options() {
            Ok(forecast) => (Some(forecast), None),
            Err(error @ Error::Budget(_)) => {
                (None, error.to_string().lines().next().map(str::to_owned))
            }
            Err(error) => return Err(opening(error)),
        };
        let floor = forecaster.floor_bytes().map_err(opening)?;
        let everything = forecaster.resident_bytes(floor).map_err(opening)?;
        let found = || forecast.map_or(limits.available_bytes(), |f| f.budget.total_bytes);
        let asked = match memory {
            MemoryLimit::Bytes(bytes) => bytes,
            MemoryLimit::Auto => found(),
        };
        // Control groups keep limits in whole pages, below what was asked of them.
        if asked - asked % page_size() as u64 > allowed {
            reason = Some(format!("this machine allows {}", human::bytes(allowed)));
        }
        let sizes = step_sizes(floor, asked, everything);
        let steps = sizes.into_iter().filter_map(|bytes| forecaster.at_memory(bytes).ok());
        Ok(Self {
            asked,
            allowed,
            floor,
            everything,
            forecast,
            reason,
            steps: steps.collect(),
            context_max: forecaster.largest_context(),
        })
    }

    fn judge(self, model: &Model, machine: &Machine) -> Document {
        let forecast = self.forecast;
        let speeds = forecast.map(|forecast| machine.speeds(&forecast, model));
        let step = |forecast: &Forecast| Step {
            memory_bytes: forecast.budget.total_bytes,
            read_bytes_per_token: streamed(forecast),
            speeds: machine.speeds(forecast, model),
        };
        let pair = |rate: Rate| [rate.low, rate.high];
        Document {
            fits: self.reason.is_none(),
            reason: self.reason,
            memory_bytes: self.asked,
            allowed_bytes: self.allowed,
            floor_bytes: self.floor,
            resident_bytes: self.everything,
            file_bytes: model.file_bytes(),
            budget: forecast.map(|forecast| budget_report(&forecast.budget)),
            decode_tok_s: speeds.map(|speeds| speeds.decode_tok_s),
            prefill_tok_s: speeds.map(|speeds| speeds.prefill_tok_s),
            read_bytes_per_token: forecast.map(|forecast| streamed(&forecast)),
            context: forecast.map(|forecast| forecast.context),
            context_max: self.context_max,
            steps: self.steps.iter().map(step).collect(),
            probe: Probe {
                disk_bytes_per_s: pair(machine.disk),
                memory_bytes_per_s: pair(machine.memory),
                decode_bytes_per_s: pair(machine.products.decode),
                prefill_weights_per_s: pair(machine.products.prompt),
            },
        }
    }
}

/// Bytes read for a token; none where all is resident.
fn streamed(forecast: &Forecast) -> u64 {
    if forecast.all_resident { 0 } else { forecast.read_bytes }
}

/// Budgets worth comparing: the floor, what was asked for, steps between that and the one with
/// which everything stays. More than that brings nothing.
fn step_sizes(floor: u64, asked: u64, everything: u64) -> Vec<u64> {
    let from = asked.clamp(floor, everything);
    let missing = everything - from;
    let mut sizes = vec![
        floor,
        from,
        from + missing / 4,
        from + missing / 2,
        from + missing / 4 * 3,
        everything,
    ];
    sizes.sort_unstable();
    // Closer together than this there is nothing to choose.
    let least = (everything / 50).max(1);
    sizes.dedup_by(|next, kept| *next - *kept < least && *next != everything);
    sizes.dedup();
    sizes
}

/// `0.41 to 0.62`.
fn range([low, high]: [f64; 2]) -> String {
    let digits = |value: f64| match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    };
    format!("{} to {}", digits(low), digits(high))
}

fn text(out: &mut impl Write, path: &Path, document: &Document) -> io::Result<()> {
    let name = one_line(&path.display().to_string());
    writeln!(out, "{name}  {}\n", human::bytes(document.file_bytes))?;
    let memory = human::bytes(document.memory_bytes);
    match &document.reason {
        None => writeln!(out, "it fits into {memory}")?,
        Some(reason) => writeln!(out, "it does not fit into {memory}: {reason}")?,
    }
    let mut table = Table::new(&[Align::Left, Align::Right, Align::Left]);
    let mut row = |label: &str, figure: String, note: &str| {
        table.row([label.to_owned(), figure, note.to_owned()]);
    };
    row("floor", human::bytes(document.floor_bytes), "the least that runs");
    row("everything stays", human::bytes(document.resident_bytes), "more brings nothing");
    if let (Some(decode), Some(prefill)) = (document.decode_tok_s, document.prefill_tok_s) {
        row("answer", range(decode), "tokens/s");
        row("prompt", range(prefill), "tokens/s");
    }
    if let Some(bytes) = document.read_bytes_per_token {
        row("read from disk", human::bytes(bytes), "for every token");
    }
    if let Some(context) = document.context {
        row("context", human::grouped(context as u64), "tokens");
    }
    if let Some(most) = document.context_max {
        row("largest context", human::grouped(most as u64), "tokens, in this memory (--ctx)");
    }
    table.write(out, "  ")?;
    if let Some(budget) = &document.budget {
        write_split(out, budget)?;
    }
    write_steps(out, document)?;
    let speed = |rates: [f64; 2]| format!("{} GB/s", range(rates.map(|rate| rate / 1e9)));
    let probe = &document.probe;
    writeln!(
        out,
        "\nmeasured: disk {}, memory {}, products {} (one token) and {} G weights/s (prompt)",
        speed(probe.disk_bytes_per_s),
        speed(probe.memory_bytes_per_s),
        speed(probe.decode_bytes_per_s),
        range(probe.prefill_weights_per_s.map(|rate| rate / 1e9)),
    )
}

fn write_split(out: &mut impl Write, budget: &BudgetReport) -> io::Result<()> {
    writeln!(out, "\nthe split")?;
    let mut table = Table::new(&[Align::Left, Align::Right, Align::Left]);
    for (label, bytes, note) in [
        ("weights that stay", budget.pinned_bytes, ""),
        ("ring", budget.ring_bytes, "buffers that the other weights pass through"),
        ("experts", budget.expert_cache_bytes, "cache of the experts in use"),
        ("KV cache", budget.kv_bytes, ""),
        ("scratch", budget.scratch_bytes, ""),
        ("vocabulary", budget.vocab_bytes, ""),
        ("reserve", budget.reserve_bytes, "program, norms, page tables, the kernel's side"),
    ] {
        table.row([label.to_owned(), human::bytes(bytes), note.to_owned()]);
    }
    table.write(out, "  ")
}

fn write_steps(out: &mut impl Write, document: &Document) -> io::Result<()> {
    writeln!(out, "\nwhat memory brings")?;
    let mut table =
        Table::new(&[Align::Right, Align::Right, Align::Right, Align::Right, Align::Left]);
    table.row(["memory", "read per token", "answer tok/s", "prompt tok/s", ""]);
    for step in &document.steps {
        let note = match step.memory_bytes {
            bytes if bytes == document.memory_bytes => "as asked",
            bytes if bytes > document.allowed_bytes => "more than this machine allows",
            bytes if bytes == document.floor_bytes => "the floor",
            bytes if bytes == document.resident_bytes => "everything stays",
            _ => "",
        };
        table.row([
            human::bytes(step.memory_bytes),
            human::bytes(step.read_bytes_per_token),
            range(step.speeds.decode_tok_s),
            range(step.speeds.prefill_tok_s),
            note.to_owned(),
        ]);
    }
    table.write(out, "  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_begin_at_the_floor_and_end_where_more_brings_nothing() {
        assert_eq!(step_sizes(100, 500, 1000), [100, 500, 625, 750, 875, 1000]);
        // Below the floor the floor is the first that runs.
        assert_eq!(step_sizes(100, 50, 1000).first(), Some(&100));
        assert_eq!(step_sizes(100, 5000, 1000), [100, 1000]);
        assert_eq!(step_sizes(1000, 1000, 1000), [1000]);
    }

    #[test]
    fn ranges_have_three_digits() {
        assert_eq!(range([0.414, 12.34]), "0.41 to 12.3");
        assert_eq!(range([99.96, 1234.5]), "100.0 to 1234");
    }
}
