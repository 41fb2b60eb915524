//! `lowtide bench`: prefill and decode speed, in the tests and the table that llama-bench made
//! common.

use std::io::{self, Write};
use std::time::Instant;

use anyhow::Result;
use lowtide_engine::{Engine, Error, Logits};
use serde::Serialize;

use crate::args::{BenchArgs, BenchFormat};
use crate::failure::Failure;
use crate::human::{self, Align, Table};
use crate::load::{self, Expected, Loaded, Phase};
use crate::output::Stdout;
use crate::progress::Steps;
use crate::signals::Interruptible;

/// One test: a prompt through the model, or tokens decoded one by one, after `depth` others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Test {
    Prefill { tokens: usize, depth: usize },
    Decode { tokens: usize, depth: usize },
}

/// A measured test; the row of the JSON document.
#[derive(Serialize, Debug, Clone)]
struct Row {
    model: String,
    test: String,
    threads: usize,
    tok_s: f64,
    tok_s_all: Vec<f64>,
    memory_bytes: u64,
}

impl Test {
    /// `pp512`, `tg128`, `tg128@d4096`.
    fn name(self) -> String {
        let (kind, tokens, depth) = match self {
            Self::Prefill { tokens, depth } => ("pp", tokens, depth),
            Self::Decode { tokens, depth } => ("tg", tokens, depth),
        };
        match depth {
            0 => format!("{kind}{tokens}"),
            depth => format!("{kind}{tokens}@d{depth}"),
        }
    }

    fn tokens(self) -> usize {
        let (Self::Prefill { tokens, .. } | Self::Decode { tokens, .. }) = self;
        tokens
    }

    fn depth(self) -> usize {
        let (Self::Prefill { depth, .. } | Self::Decode { depth, .. }) = self;
        depth
    }

    fn all(args: &BenchArgs) -> Vec<Self> {
        let depths = args.depth.iter().map(|depth| *depth as usize);
        let wanted = |tokens: &u32| (*tokens > 0).then_some(*tokens as usize);
        let of_depth = |depth| {
            let prefill = args.prompt.iter().filter_map(wanted);
            let decode = args.decode.iter().filter_map(wanted);
            let prefill = prefill.map(move |tokens| Self::Prefill { tokens, depth });
            prefill.chain(decode.map(move |tokens| Self::Decode { tokens, depth }))
        };
        depths.flat_map(of_depth).collect()
    }
}

/// Measures and prints.
pub fn bench(args: &BenchArgs) -> Result<()> {
    let tests = Test::all(args);
    let Some(needed) = tests.iter().map(|test| test.depth() + test.tokens()).max() else {
        return Err(Failure::input("there is nothing to measure")
            .why("all of -p and -n are 0")
            .mend("lowtide bench -p 512 -n 128")
            .into());
    };
    if args.budget.ctx.is_some_and(|ctx| (ctx as usize) < needed) {
        return Err(Failure::input(format!("the tests need a context of {needed} tokens"))
            .why("--ctx is smaller")
            .mend(format!("lowtide bench --ctx {needed}   (or leave it out)"))
            .into());
    }
    let opened = load::open(&args.model, &args.budget)?;
    let prompt_tokens = tests.iter().map(|test| test.tokens()).max();
    let expected = Expected {
        prompt_tokens,
        context: Some(needed),
        tokens: Some(needed),
        ..Expected::default()
    };
    let mut loaded = opened.load(&args.budget, expected)?;
    if !args.json {
        load::note_options(&loaded.engine, &args.budget);
    }
    let model = model_name(&loaded);
    let stop = Interruptible::begin();
    let mut goes_on = stop.goes_on();
    loaded.engine.set_progress(Some(Box::new(move |_, _| goes_on())));
    let steps = Steps::begin("measuring");
    let mut rows = Vec::with_capacity(tests.len());
    for (i, test) in tests.iter().enumerate() {
        steps.set(i, tests.len(), &test.name());
        let tok_s_all = measure(&mut loaded, *test, args.repetitions, &stop)?;
        rows.push(Row {
            model: model.clone(),
            test: test.name(),
            threads: loaded.engine.threads(),
            tok_s: mean(&tok_s_all),
            tok_s_all,
            memory_bytes: loaded.engine.budget().total_bytes,
        });
    }
    steps.finish();
    print(&loaded.engine, &rows, if args.json { BenchFormat::Json } else { args.output })
}

/// The file's name without `.gguf`.
fn model_name(loaded: &Loaded) -> String {
    loaded.path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Tokens per second of each repetition, after one that is not counted: it brings the weights in.
fn measure(
    loaded: &mut Loaded,
    test: Test,
    repetitions: u32,
    stop: &Interruptible,
) -> Result<Vec<f64>> {
    let mut speeds = Vec::with_capacity(repetitions as usize);
    warm_up(loaded, test)?;
    for _ in 0..repetitions {
        speeds.push(once(loaded, test, stop)?);
    }
    Ok(speeds)
}

fn warm_up(loaded: &mut Loaded, test: Test) -> Result<()> {
    let tokens = match test {
        Test::Prefill { tokens, .. } => tokens,
        Test::Decode { .. } => 1,
    };
    loaded.session.reset();
    let mut wrong = None;
    let ids = ids(&loaded.engine, 0, tokens);
    pass(loaded, &ids, Logits::Last, &mut |row| wrong = row.iter().position(|x| !x.is_finite()))?;
    // The speed of what a model cannot be used for says nothing.
    match wrong {
        Some(index) => Err(load::failure(&Error::NonFiniteLogits { index }, Phase::Running)),
        None => Ok(()),
    }
}

fn once(loaded: &mut Loaded, test: Test, stop: &Interruptible) -> Result<f64> {
    loaded.session.reset();
    if test.depth() > 0 {
        pass(loaded, &ids(&loaded.engine, 0, test.depth()), Logits::None, &mut |_| {})?;
    }
    let input = ids(&loaded.engine, test.depth(), test.tokens());
    let begun = Instant::now();
    match test {
        Test::Prefill { .. } => pass(loaded, &input, Logits::Last, &mut |_| {})?,
        Test::Decode { .. } => {
            for id in &input {
                pass(loaded, &[*id], Logits::Last, &mut |_| {})?;
                if stop.is_raised() {
                    return Err(Failure::interrupted().into());
                }
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    if stop.is_raised() {
        return Err(Failure::interrupted().into());
    }
    Ok(input.len() as f64 / seconds)
}

fn pass(
    loaded: &mut Loaded,
    ids: &[u32],
    logits: Logits,
    look: &mut dyn FnMut(&[f32]),
) -> Result<()> {
    let Loaded { engine, session, .. } = loaded;
    session
        .forward(engine, ids, logits, &mut |_, row| look(row))
        .map_err(|error| load::failure(&error, Phase::Running))
}

/// Tokens all over the vocabulary, the same in every run: the speed of a dense model does not
/// depend on them.
fn ids(engine: &Engine, from: usize, count: usize) -> Vec<u32> {
    let vocabulary = engine.vocabulary_length() as u64;
    let id = |i: usize| ((i as u64).wrapping_mul(2_654_435_761) >> 7) % vocabulary;
    (from..from + count).map(|i| id(i) as u32).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn deviation(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}

fn print(engine: &Engine, rows: &[Row], format: BenchFormat) -> Result<()> {
    let mut out = Stdout::lock();
    match format {
        BenchFormat::Json => {
            out.json(&rows)?;
            return Ok(());
        }
        BenchFormat::Csv => csv(&mut out, rows)?,
        BenchFormat::Md => markdown(&mut out, engine, rows)?,
    }
    out.finish()?;
    Ok(())
}

fn csv(out: &mut impl Write, rows: &[Row]) -> io::Result<()> {
    writeln!(out, "model,test,threads,memory_bytes,tok_s,tok_s_stddev")?;
    for row in rows {
        // RFC 4180: quotes are doubled.
        let model = row.model.replace('"', "\"\"");
        let (test, threads, memory) = (&row.test, row.threads, row.memory_bytes);
        let deviation = deviation(&row.tok_s_all);
        writeln!(out, "\"{model}\",{test},{threads},{memory},{:.3},{deviation:.3}", row.tok_s)?;
    }
    Ok(())
}

fn markdown(out: &mut impl Write, engine: &Engine, rows: &[Row]) -> io::Result<()> {
    let right = Align::Right;
    let mut table =
        Table::new(&[Align::Left, right, right, Align::Left, right, right, right, right]);
    table.row(["model", "size", "params", "isa", "memory", "threads", "test", "t/s"]);
    for row in rows {
        table.row([
            row.model.clone(),
            human::bytes(engine.model().file_bytes()),
            human::count(engine.model().parameters()),
            engine.isa().name().to_owned(),
            human::bytes(row.memory_bytes),
            row.threads.to_string(),
            row.test.clone(),
            format!("{:.2} ± {:.2}", row.tok_s, deviation(&row.tok_s_all)),
        ]);
    }
    table.write_markdown(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_named_as_the_interface_says() {
        assert_eq!(Test::Prefill { tokens: 512, depth: 0 }.name(), "pp512");
        assert_eq!(Test::Decode { tokens: 128, depth: 4096 }.name(), "tg128@d4096");
    }

    #[test]
    fn csv_quotes_what_needs_it() {
        let row = Row {
            model: "a,\"b\"".to_owned(),
            test: "pp4".to_owned(),
            threads: 2,
            tok_s: 2.0,
            tok_s_all: vec![1.0, 3.0],
            memory_bytes: 5,
        };
        let mut out = Vec::new();
        csv(&mut out, &[row]).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().nth(1), Some("\"a,\"\"b\"\"\",pp4,2,5,2.000,1.414"));
    }
}
