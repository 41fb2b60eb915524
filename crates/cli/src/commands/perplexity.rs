//! `lowtide perplexity`: how well a model predicts a text, over chunks as llama-perplexity cuts
//! them.

use std::io::{self, Write};

use anyhow::Result;
use lowtide_engine::perplexity::{Perplexity, PerplexityOptions, perplexity as score};
use lowtide_tokenizer::EncodeOptions;
use serde::Serialize;

use crate::args::PerplexityArgs;
use crate::failure::Failure;
use crate::human;
use crate::input;
use crate::load::{self, Expected, Loaded, Opened, Phase};
use crate::out_file::OutFile;
use crate::output::Stdout;
use crate::progress::Steps;
use crate::signals::Interruptible;

/// llama-perplexity's.
const CONTEXT_DEFAULT: u32 = 512;

#[derive(Serialize)]
struct Document<'a> {
    tokens: usize,
    perplexity: f64,
    nll: &'a [f32],
    chunks: usize,
    context: usize,
}

/// Scores a text.
pub fn perplexity(args: &PerplexityArgs) -> Result<()> {
    let context = args.budget.ctx.unwrap_or(CONTEXT_DEFAULT) as usize;
    // Before the model is looked at: a path that cannot be written is said at once.
    let mut save = (args.save_logprobs.as_deref())
        .map(|path| OutFile::create(path, "--save-logprobs").map(|out| Saved { out, pending: 0 }))
        .transpose()?;
    let opened = load::open(&args.model, &args.budget)?;
    let mut tokens = tokens(&opened, args)?;
    let tokens_in_text = tokens.len();
    if let Some(chunks) = args.chunks {
        // The others count, and no more.
        tokens.truncate((chunks as usize).saturating_mul(context));
        tokens.shrink_to_fit();
    }
    let vocabulary = opened.model.tokenizer().vocab_size() as u64;
    // A number for each token of the second halves; while rows are saved, one of them as the file wants it.
    let scores = size_of::<f32>() as u64 * (tokens.len() as u64 / 2);
    let row = if save.is_some() { 4 * vocabulary + SAVED_PENDING_MAX as u64 } else { 0 };
    let expected = Expected {
        prompt_tokens: Some(context),
        logit_rows: context / 2,
        context: Some(context),
        tokens: Some(context),
        caller_bytes: scores + row,
    };
    let mut loaded = opened.load(&args.budget, expected)?;
    if !args.json {
        load::note_options(&loaded.engine, &args.budget);
    }
    let out = save.as_mut().map(|out| out as &mut dyn Write);
    let mut scored = run(&mut loaded, &tokens, context, args.chunks, out)?;
    if let Some(saved) = save {
        saved.out.commit()?;
    }
    scored.tokens = tokens_in_text;
    print(&scored, args.json)
}

/// The whole text's tokens: where it is cut into chunks depends on all before.
fn tokens(opened: &Opened, args: &PerplexityArgs) -> Result<Vec<u32>> {
    let allowance = opened.text_allowance(&args.budget)?;
    let text = input::text(None, args.file.as_deref(), "text", Some(&allowance))?;
    // The text is data: what looks like a special token is text.
    let options = EncodeOptions { add_special: true, parse_special: false };
    let tokenizer = opened.model.tokenizer();
    Ok(allowance.encoded(|heap_max| tokenizer.encode_within(&text, options, heap_max))?)
}

/// What the engine writes to: it knows no paths, so an error names the file here.
struct Saved {
    out: OutFile,
    /// Bytes written since pages were let go.
    pending: usize,
}

/// Rows of logits are large (100 kB to 1 MB for each position), and the page cache would hold all of them within
/// the budget.
const SAVED_PENDING_MAX: usize = 4 << 20;

impl Saved {
    fn named(&self, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), self.out.failed(error))
    }
}

impl Write for Saved {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes).map_err(|error| self.named(&error))?;
        self.pending += written;
        if self.pending > SAVED_PENDING_MAX {
            self.pending = 0;
            self.out.let_go().map_err(|error| self.named(&error))?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush().map_err(|error| self.named(&error))
    }
}

fn run(
    loaded: &mut Loaded,
    tokens: &[u32],
    context: usize,
    chunks: Option<u32>,
    save: Option<&mut dyn Write>,
) -> Result<Perplexity> {
    let stop = Interruptible::begin();
    let mut goes_on = stop.goes_on();
    loaded.engine.set_progress(Some(Box::new(move |_, _| goes_on())));
    let options = PerplexityOptions { context, chunks_max: chunks.map(|n| n as usize) };
    let steps = Steps::begin("chunks");
    let scored = score(
        &mut loaded.engine,
        &mut loaded.session,
        tokens,
        options,
        save,
        &mut |done, all, value| steps.set(done, all, &format!("perplexity {value:.4}")),
    );
    steps.finish();
    scored.map_err(|error| load::failure(&error, Phase::Running))
}

fn print(scored: &Perplexity, json: bool) -> Result<()> {
    let value = scored.value();
    if !value.is_finite() {
        return Err(Failure::running("the perplexity is not a finite number").into());
    }
    let out = Stdout::lock();
    if json {
        out.json(&Document {
            tokens: scored.tokens,
            perplexity: value,
            nll: &scored.nll,
            chunks: scored.chunks,
            context: scored.context,
        })?;
        return Ok(());
    }
    let mut out = out;
    writeln!(
        out,
        "perplexity {value:.4} +/- {:.4}  ({} chunks of {} tokens, {} scored of {})",
        standard_error(scored, value),
        scored.chunks,
        scored.context,
        human::grouped(scored.nll.len() as u64),
        human::grouped(scored.tokens as u64),
    )?;
    out.finish()?;
    Ok(())
}

/// Of the perplexity, from the spread of the tokens' negative log-likelihoods.
fn standard_error(scored: &Perplexity, value: f64) -> f64 {
    let n = scored.nll.len() as f64;
    if n < 2.0 {
        return 0.0;
    }
    let mean = value.ln();
    let squares: f64 = scored.nll.iter().map(|nll| (f64::from(*nll) - mean).powi(2)).sum();
    value * (squares / (n - 1.0) / n).sqrt()
}
