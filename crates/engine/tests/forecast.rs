//! What is foretold is what is done: `Forecaster` and `Engine` follow the same plan.

mod common;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lowtide_bench::synth::{self, Spec};
use lowtide_engine::{Engine, Error, Forecaster, LoadOptions, MemoryLimit, Model, Sequences, plan};

/// What the process itself uses changes by this much between two plans.
const DRIFT_BYTES: u64 = 8 << 20;

/// A plan counts what the process uses, so tests that plan must not run beside each other.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn model() -> PathBuf {
    let mix = synth::Mix::named("q4_0").unwrap();
    let shape = synth::Shape::of_bytes(48_000_000, &mix).unwrap();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("forecast-48mb.gguf");
    synth::write_file(&Spec::new(shape, mix), &path, &mut |_| {}).unwrap();
    path
}

#[test]
fn the_forecast_is_the_plan_that_an_engine_follows() {
    let _alone = alone();
    let path = model();
    let options = LoadOptions { threads: Some(2), context: Some(256), ..LoadOptions::default() };
    let opened = Model::open(&path).unwrap();
    let forecaster = Forecaster::new(&opened, &options).unwrap();
    let floor = forecaster.floor_bytes().unwrap();
    let everything = forecaster.resident_bytes(floor).unwrap();
    assert!(floor < everything, "{floor} to {everything}");
    assert!(matches!(forecaster.at_memory(floor / 2), Err(Error::Budget(_))));
    let full = forecaster.at_memory(everything + DRIFT_BYTES).unwrap();
    assert!(full.all_resident && full.budget.streamed_bytes == 0);
    let half = floor + (everything - floor) / 2;
    let foretold = forecaster.at_memory(half).unwrap();
    assert!(!foretold.all_resident && foretold.read_bytes < foretold.pass_bytes);
    assert!(foretold.budget.fixed.kv_bytes >= 256 * foretold.position_bytes);
    drop(forecaster);
    drop(opened);

    let options = LoadOptions { memory: MemoryLimit::Bytes(half), ..options };
    let direct = plan(&Model::open(&path).unwrap(), &options).unwrap();
    let engine = Engine::new(Model::open(&path).unwrap(), &options).unwrap();
    assert_eq!(engine.context(), direct.context);
    let (budget, told) = (engine.budget(), direct.budget);
    assert_eq!((budget.total_bytes, budget.given), (told.total_bytes, told.given));
    assert_eq!(budget.fixed.kv_bytes, told.fixed.kv_bytes);
    let streamed = budget.streamed_bytes.abs_diff(told.streamed_bytes);
    assert!(streamed <= DRIFT_BYTES, "{budget:?}\n{told:?}");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn the_largest_context_fits_and_one_token_more_does_not() {
    let _alone = alone();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("forecast-context.gguf");
    let mix = synth::Mix::named("q4_0").unwrap();
    let shape = synth::Shape::of_bytes(48_000_000, &mix).unwrap();
    synth::write_file(&Spec::new(shape, mix), &path, &mut |_| {}).unwrap();
    let opened = Model::open(&path).unwrap();
    let options = LoadOptions { threads: Some(1), ..LoadOptions::default() };
    let floor = Forecaster::new(&opened, &options).unwrap().floor_bytes().unwrap();
    let memory = MemoryLimit::Bytes(floor + (8 << 20));
    let within = LoadOptions { memory, ..options };
    let most = Forecaster::new(&opened, &within).unwrap().largest_context().unwrap();
    assert!(most >= 256, "{most}");
    let trained = opened.config().context_length as usize;
    assert!(most <= trained);
    if most < trained {
        // Some positions more: the measured part of the sum moves by pages.
        let more = LoadOptions { context: Some(trained), ..within };
        assert!(plan(&opened, &more).is_err());
    }
    std::fs::remove_file(path).unwrap();
}

/// A batch's scratch may take a quarter of what is left; but what a refusal says is enough runs, with a smaller
/// batch if need be, and so does all between that and where scratch is plenty.
#[test]
fn what_a_refusal_asks_for_runs() {
    let _alone = alone();
    let mix = synth::Mix::named("q4_0").unwrap();
    let shape = synth::Shape::of_bytes(48_000_000, &mix).unwrap();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("forecast-refusal.gguf");
    synth::write_file(&Spec::new(shape, mix), &path, &mut |_| {}).unwrap();
    let plain = LoadOptions { threads: Some(1), ..LoadOptions::default() };
    for options in [
        plain,
        LoadOptions { prompt_tokens: 1500, tokens_needed: 1600, ..plain },
        LoadOptions { context: Some(512), prompt_tokens: 512, logit_rows: 512, ..plain },
        LoadOptions { sequences: Sequences::Exactly(4), prompt_tokens: 512, ..plain },
    ] {
        let floor = common::floor(&path, &options);
        let opened = Model::open(&path).unwrap();
        for more in (0..24).map(|step| step * 1_000_000) {
            let memory = MemoryLimit::Bytes(floor + more);
            let planned = plan(&opened, &LoadOptions { memory, ..options });
            planned.unwrap_or_else(|e| panic!("{floor} + {more}: {e}\n{options:?}"));
        }
        if let Sequences::Exactly(sequences) = options.sequences {
            let memory = MemoryLimit::Bytes(floor + 1_000_000);
            let engine = Engine::new(opened, &LoadOptions { memory, ..options }).unwrap();
            assert_eq!(engine.sequences(), sequences);
        }
    }
    std::fs::remove_file(path).unwrap();
}
