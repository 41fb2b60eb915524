//! `lowtide fit`: what a run would do, from the header alone: the engine's own plan, and measurements
//! of disk, memory and processor that take about four seconds. A model on a hub stays there: only
//! its header is fetched.

mod machine;
mod plans;
mod speed;
mod text;

use anyhow::Result;
use lowtide_engine::{Error, Forecast, Forecaster, LoadOptions, MemoryLimit, Model};
use serde::Serialize;

use self::machine::{Machine, Subject};
use self::plans::{Plans, streamed};
use self::speed::Speeds;
use crate::args::{FitArgs, Memory};
use crate::load::{Expected, Phase, failure, options};
use crate::output::Stdout;
use crate::probe::Rate;
use crate::report::{BudgetReport, budget_report};
use crate::store::Store;
use crate::store::resolve::{self, Look};

#[derive(Serialize)]
struct Step {
    memory_bytes: u64,
    read_bytes_per_token: u64,
    #[serde(flatten)]
    speeds: Speeds,
}

/// What was measured; the disk's part null where the file is shorter than one read.
#[derive(Serialize)]
struct Probe {
    disk: Option<DiskProbe>,
    memory_bytes_per_s: [f64; 2],
    /// Seconds that the products of a token take: fastest, middle, slow.
    pass_s: [f64; 3],
    prefill_weights_per_s: [f64; 2],
}

#[derive(Serialize)]
struct DiskProbe {
    path: String,
    request_bytes: u64,
    depth: u32,
    first_bytes_per_s: f64,
    again_bytes_per_s: f64,
    while_computing_bytes_per_s: f64,
    pass_while_reading_s: f64,
    burst: Option<BurstProbe>,
}

#[derive(Serialize)]
struct BurstProbe {
    experts: f64,
    first_s: f64,
    again_s: f64,
}

/// Null where it does not fit: then there is no plan.
#[derive(Serialize)]
struct Document {
    model: String,
    /// Of a model on a hub: what was fetched of it.
    fetched_bytes: Option<u64>,
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
    decode_expected_tok_s: Option<f64>,
    prefill_tok_s: Option<[f64; 2]>,
    /// The part of a token's experts that is taken to be in the cache: at least, expected, at most.
    expert_hit_share: Option<[f64; 3]>,
    read_bytes_per_token: Option<u64>,
    context: Option<usize>,
    context_max: Option<usize>,
    steps: Vec<Step>,
    probe: Probe,
}

/// Plans, measures, and prints.
pub fn fit(args: &FitArgs) -> Result<()> {
    let store = Store::locate();
    let look = resolve::look(&store, &args.model, "fit")?;
    let opening = |error: Error| failure(&error, Phase::Opening);
    let model = Model::open(look.path()).map_err(opening)?;
    let memory = match args.budget.memory {
        Memory::Auto => MemoryLimit::Auto,
        Memory::Bytes(bytes) => MemoryLimit::Bytes(bytes),
    };
    let options = LoadOptions { memory, ..options(&args.budget, Expected::default()) };
    let forecaster = Forecaster::new(&model, &options).map_err(opening)?;
    // Before anything is measured: the plan counts what this process uses, and measuring leaves
    // some of its memory with the allocator.
    let plans = Plans::make(&forecaster, memory)?;
    let (name, fetched_bytes, subject) = match look {
        Look::Here(path) => (path.display().to_string(), None, Subject::File(path)),
        // Mapped by now: the outline's files can go.
        Look::Outline(name, outline) => {
            (name.to_string(), Some(outline.fetched_bytes()), Subject::Elsewhere(store))
        }
    };
    model.release_read_ahead().map_err(opening)?;
    let machine = Machine::measure(&subject, &model, &options, plans.forecast.as_ref())?;
    let document = document(name, fetched_bytes, plans, &model, &machine);
    if args.json {
        Stdout::lock().json(&document)?;
        return Ok(());
    }
    let mut out = Stdout::lock();
    text::text(&mut out, &document)?;
    out.finish()?;
    Ok(())
}

fn document(
    name: String,
    fetched_bytes: Option<u64>,
    plans: Plans,
    model: &Model,
    machine: &Machine,
) -> Document {
    let forecast = plans.forecast;
    let speeds = forecast.map(|forecast| machine.speeds(&forecast, model.parameters()));
    let step = |forecast: &Forecast| Step {
        memory_bytes: forecast.budget.total_bytes,
        read_bytes_per_token: streamed(forecast),
        speeds: machine.speeds(forecast, model.parameters()),
    };
    Document {
        model: name,
        fetched_bytes,
        fits: plans.reason.is_none(),
        reason: plans.reason,
        memory_bytes: plans.asked,
        allowed_bytes: plans.allowed,
        floor_bytes: plans.floor,
        resident_bytes: plans.everything,
        file_bytes: model.file_bytes(),
        budget: forecast.map(|forecast| budget_report(&forecast.budget)),
        decode_tok_s: speeds.map(|speeds| speeds.decode_tok_s),
        decode_expected_tok_s: speeds.map(|speeds| speeds.decode_expected_tok_s),
        prefill_tok_s: speeds.map(|speeds| speeds.prefill_tok_s),
        expert_hit_share: forecast.and_then(|forecast| machine.expert_hits(&forecast)),
        read_bytes_per_token: forecast.map(|forecast| streamed(&forecast)),
        context: forecast.map(|forecast| forecast.context),
        context_max: plans.context_max,
        steps: plans.steps.iter().map(step).collect(),
        probe: probe(machine),
    }
}

fn probe(machine: &Machine) -> Probe {
    let pair = |rate: Rate| [rate.low, rate.high];
    let disk = machine.disk.as_ref().map(|disk| DiskProbe {
        path: disk.path.display().to_string(),
        request_bytes: disk.request_bytes,
        depth: disk.depth,
        first_bytes_per_s: disk.first,
        again_bytes_per_s: disk.again,
        while_computing_bytes_per_s: disk.busy,
        pass_while_reading_s: disk.pass_s,
        burst: disk.burst.map(|burst| BurstProbe {
            experts: burst.experts,
            first_s: burst.first_s,
            again_s: burst.again_s,
        }),
    });
    Probe {
        disk,
        memory_bytes_per_s: pair(machine.memory),
        pass_s: [machine.pass.fast_s, machine.pass.typical_s, machine.pass.slow_s],
        prefill_weights_per_s: pair(machine.prompt),
    }
}
