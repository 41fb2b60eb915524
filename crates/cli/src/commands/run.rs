//! `lowtide run`: one prompt, one answer. The text goes to standard output as it comes, the ledger
//! to standard error when it is done.

use std::io::{IsTerminal, Write};
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::answer::{Answer, Answering, Bounds, Finish};
use crate::args::{EndOptions, RunArgs};
use crate::chooser::Chooser;
use crate::failure::Failure;
use crate::load::{self, Expected, Loaded, Opened};
use crate::logprobs::Logprobs;
use crate::metrics::Metrics;
use crate::observe::Observers;
use crate::out_file;
use crate::output::{Stdout, TextLine};
use crate::progress::note;
use crate::prompt;
use crate::report::Report;
use crate::signals::Interruptible;
use crate::touch;
use crate::trace::{self, Trace};
use crate::watch::Watch;

/// Tokens of an answer to make room for where no bound is given.
const ANSWER_EXPECTED: usize = 512;

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    report: Report,
    text: &'a str,
    prompt_ids: &'a [u32],
    ids: &'a [u32],
    finish: &'static str,
    seed: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    logprobs: Option<&'a Logprobs>,
    /// With `--touch`: the share of the file that was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    touch: Option<&'a touch::Summary>,
}

/// Answers a prompt.
pub fn run(args: &RunArgs) -> Result<()> {
    let watch = Watch::begin();
    let opened = load::open(&args.model, &args.budget)?;
    let allowance = opened.prompt_allowance(&args.budget)?;
    let prompt_ids = prompt::ids(&opened.model, &args.input, args.prompt.as_deref(), &allowance)?;
    let mut bounds = bounds(&args.end, args.logprobs);
    let expected = expected(args, &opened, &prompt_ids, &mut bounds);
    let trace = args.trace.as_deref().map(|path| Trace::create(path, &opened.model)).transpose()?;
    let mut observers = observers(args, &opened.path)?;
    let mut loaded = opened.load(&args.budget, expected)?;
    if !args.json {
        load::note_options(&loaded.engine, &args.budget);
    }
    let trace = trace.map(|file| Trace::begin(file, &mut loaded.engine)).transpose()?;
    let vocabulary = loaded.engine.vocabulary_length();
    let defaults = loaded.engine.model().sampler_defaults();
    let mut chooser = Chooser::new(&args.sampling, defaults, vocabulary)?;
    chooser.begin(&prompt_ids);
    if let Some(touch) = &mut observers.touch {
        touch.begin(&loaded.engine, &loaded.path, prompt_ids.len())?;
    }
    observers.metrics.iter_mut().try_for_each(Metrics::begin)?;
    let stop = Interruptible::begin();
    let mut out = Stdout::lock();
    let Loaded { engine, session, .. } = &mut loaded;
    let mut answering = Answering {
        engine,
        session,
        bounds: &bounds,
        chooser: &mut chooser,
        stop: &stop,
        observers: &mut observers,
        watch: &watch,
        token_compute_s: None,
    };
    let mut line = TextLine::default();
    let answer = answering.answer(&prompt_ids, &mut |piece| match args.json {
        true => Ok(()),
        false => Ok(line.write(&mut out, piece)?),
    });
    drop(answering);
    let answer = answer.inspect_err(|_| {
        // The error begins a line of its own; where nothing can be written it says so itself.
        let _ = line.end(&mut out);
    })?;
    if !args.json && !answer.ends_line {
        writeln!(out)?;
        out.flush()?;
    }
    if let Some(trace) = trace {
        loaded.engine.set_route_watcher(None);
        trace.finish()?;
    }
    let report = report(&loaded, &answer, &watch);
    let touched = observers.touch.map(touch::Recorder::finish).transpose()?;
    if args.json {
        let logprobs = bounds.logprobs.map(|_| &answer.logprobs);
        out.json(&Document {
            report,
            text: &answer.text,
            prompt_ids: &prompt_ids,
            ids: &answer.ids,
            finish: finish_name(answer.finish),
            seed: chooser.seed(),
            logprobs,
            touch: touched.as_ref(),
        })?;
    } else {
        out.finish()?;
        print_figures(&report, answer.finish, loaded.engine.context(), touched.as_ref());
    }
    if stop.is_raised() { Err(Failure::interrupted().into()) } else { Ok(()) }
}

/// What is to come, and what it takes beside the engine: the answer as it grows, what records keep.
fn expected(args: &RunArgs, opened: &Opened, prompt: &[u32], bounds: &mut Bounds) -> Expected {
    let answer = bounds.max_tokens.unwrap_or(ANSWER_EXPECTED);
    let expected = Expected {
        prompt_tokens: Some(prompt.len()),
        tokens: Some(prompt.len().saturating_add(answer)),
        ..Expected::default()
    };
    let context = opened.model.context_max(&load::options(&args.budget, expected));
    // The last token needs no place in the context.
    let room = context.saturating_sub(prompt.len()) + 1;
    bounds.tokens_claimed = bounds.max_tokens.map_or(room, |most| most.min(room));
    bounds.keeps_text = args.json;
    let touch = match args.touch.as_slice() {
        [] => 0,
        paths => touch::claim_bytes(paths, prompt.len()),
    };
    let trace = args.trace.as_ref().map_or(0, |_| trace::claim_bytes(&opened.model, prompt.len()));
    let caller_bytes = bounds.claim_bytes(opened.model.tokenizer()).saturating_add(touch + trace);
    Expected { caller_bytes, ..expected }
}

/// Refuses one file for two records: the one that is written last would take the other's place.
fn check_outputs(args: &RunArgs) -> Result<()> {
    let touch = args.touch.iter().map(|path| ("--touch", path.as_path()));
    let trace = args.trace.iter().map(|path| ("--trace", path.as_path()));
    let metrics = args.metrics.iter().map(|path| ("--metrics", path.as_path()));
    Ok(out_file::check_apart(touch.chain(trace).chain(metrics))?)
}

/// Those who are asked to keep books; their files are begun here.
fn observers(args: &RunArgs, model: &Path) -> Result<Observers> {
    check_outputs(args)?;
    let touch = match args.touch.as_slice() {
        [] => None,
        paths => Some(touch::Recorder::create(paths, model)?),
    };
    let metrics = args.metrics.as_deref().map(Metrics::create).transpose()?;
    Ok(Observers { touch, metrics, live: None })
}

/// Beside the text, on standard error.
fn print_figures(
    report: &Report,
    finish: Finish,
    context: usize,
    touched: Option<&touch::Summary>,
) {
    print_ledger(report);
    if finish == Finish::ContextFull {
        note(&format!("(the context of {context} tokens is full; --ctx sets it)"));
    }
    touched.into_iter().flat_map(touch::Summary::lines).for_each(|line| print_line(&line));
}

fn print_line(line: &str) {
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// The bounds that options ask for.
pub fn bounds(end: &EndOptions, logprobs: Option<u32>) -> Bounds {
    Bounds {
        max_tokens: end.max_tokens.map(|n| n as usize),
        ignore_eos: end.ignore_eos,
        stop: end.stop.clone(),
        logprobs: logprobs.map(|n| n as usize),
        keeps_text: true,
        tokens_claimed: 0,
    }
}

/// The figures of an answer.
pub fn report(loaded: &Loaded, answer: &Answer, watch: &Watch) -> Report {
    let mut times = answer.times;
    times.load_s = loaded.load_s;
    Report::new(&loaded.engine, &loaded.path.to_string_lossy(), &times, &watch.seen())
}

/// The ledger on standard error, an empty line before it where both streams are one terminal.
pub fn print_ledger(report: &Report) {
    let mut stderr = std::io::stderr().lock();
    // Where standard error is closed there is nobody to tell.
    if std::io::stdout().is_terminal() && stderr.is_terminal() {
        let _ = writeln!(stderr);
    }
    let _ = report.write_ledger(&mut stderr);
}

fn finish_name(finish: Finish) -> &'static str {
    match finish {
        Finish::EndOfGeneration => "end",
        Finish::MaxTokens => "max_tokens",
        Finish::ContextFull => "context_full",
        Finish::Stopped => "stopped",
    }
}
