//! From options to a model that is ready: what was typed becomes what is meant, once.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Result;
use lowtide_engine::{Engine, Error, KvFormat, LoadOptions, MemoryLimit, Model, Session};
use lowtide_mapping::{MemoryLimits, page_size};

use crate::allowance::{Allowance, Source};
use crate::args::{BudgetOptions, Io, Kv, Memory};
use crate::buffers::Listed;
use crate::failure::{Failure, STATUS_INPUT, STATUS_RUNNING};
use crate::human;
use crate::progress::note;
use crate::store::{Store, resolve};

/// A model whose header is read, not yet planned for a budget.
pub struct Opened {
    /// The file.
    pub path: PathBuf,
    /// The model.
    pub model: Model,
    /// When opening began.
    begun: Instant,
}

/// A model that can run.
pub struct Loaded {
    /// The file.
    pub path: PathBuf,
    /// The engine.
    pub engine: Engine,
    /// Its one session.
    pub session: Session,
    /// Seconds from opening the file to here.
    pub load_s: f64,
    /// Keeps the list of what is in buffers, for those who look at this process.
    pub _listed: Option<Listed>,
}

/// What the caller knows about what is to come.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// Tokens of the longest prompt, where known.
    pub prompt_tokens: Option<usize>,
    /// Rows of logits that a pass gives at most.
    pub logit_rows: usize,
    /// Tokens the context must hold, where `--ctx` does not say.
    pub context: Option<usize>,
    /// Tokens of prompt and answer together at most, where known.
    pub tokens: Option<usize>,
    /// Memory that will be claimed beside the engine.
    pub caller_bytes: u64,
}

impl Default for Expected {
    fn default() -> Self {
        Self { prompt_tokens: None, logit_rows: 1, context: None, tokens: None, caller_bytes: 0 }
    }
}

/// Finds the model and reads its header.
pub fn open(model: &OsStr, budget: &BudgetOptions) -> Result<Opened> {
    // A senseless budget is refused before anything is fetched.
    memory_limit(budget.memory)?;
    let path = resolve::model(&Store::locate(), model)?;
    let begun = Instant::now();
    let model = Model::open(&path).map_err(|error| failure(&error, Phase::Opening))?;
    Ok(Opened { path, model, begun })
}

impl Opened {
    /// What a prompt may take.
    pub fn prompt_allowance(&self, budget: &BudgetOptions) -> Result<Allowance> {
        let source = Source::Budget(memory_limit(budget.memory)?);
        Ok(Allowance::prompt(&self.model, budget.ctx.map(|ctx| ctx as usize), source))
    }

    /// What a text may take that passes through the model in parts.
    pub fn text_allowance(&self, budget: &BudgetOptions) -> Result<Allowance> {
        Ok(Allowance::any_length(Source::Budget(memory_limit(budget.memory)?)))
    }

    /// Plans the budget and claims the session's memory.
    pub fn load(self, budget: &BudgetOptions, expected: Expected) -> Result<Loaded> {
        let options = options(budget, expected);
        let mut engine = engine(self.model, budget, options)?;
        // Before anything is brought in.
        let _listed = Listed::begin(&mut engine);
        let session = Session::new(&engine).map_err(|error| failure(&error, Phase::Opening))?;
        let load_s = self.begun.elapsed().as_secs_f64();
        Ok(Loaded { path: self.path, engine, session, load_s, _listed })
    }
}

/// Plans the budget and readies the model.
pub fn engine(model: Model, budget: &BudgetOptions, options: LoadOptions) -> Result<Engine> {
    let options = LoadOptions { memory: memory_limit(budget.memory)?, ..options };
    Engine::new(model, &options).map_err(|error| failure(&error, Phase::Opening))
}

/// Says so where an option does not do what it seems to: `--io direct` of what is all in memory, a context that the
/// model was not made for.
pub fn note_options(engine: &Engine, budget: &BudgetOptions) {
    let trained = engine.config().context_length;
    if let Some(ctx) = budget.ctx.filter(|ctx| u64::from(*ctx) > u64::from(trained)) {
        note(&format!(
            "--ctx {ctx} is more than the {trained} tokens this model was trained for: beyond them answers get worse"
        ));
    }
    if budget.io == Io::Direct && engine.store().plan().is_all_resident() {
        note(
            "--io direct has no effect: the model fits into memory and is read through its mapping",
        );
    }
}

/// What was typed as the engine takes it, but for the budget.
pub fn options(budget: &BudgetOptions, expected: Expected) -> LoadOptions {
    let defaults = LoadOptions::default();
    LoadOptions {
        memory: MemoryLimit::Auto,
        threads: budget.threads.map(usize::from),
        context: budget.ctx.map(|ctx| ctx as usize).or(expected.context),
        io: match budget.io {
            Io::Auto => lowtide_engine::Io::Auto,
            Io::Mapped => lowtide_engine::Io::Mapped,
            Io::Direct => lowtide_engine::Io::Direct,
        },
        kv: match budget.kv {
            Kv::F16 => KvFormat::F16,
            Kv::Q8_0 => KvFormat::Q8_0,
        },
        prompt_tokens: expected.prompt_tokens.unwrap_or(defaults.prompt_tokens),
        tokens_needed: expected.tokens.unwrap_or(defaults.tokens_needed),
        logit_rows: expected.logit_rows,
        guess_experts: !budget.no_guess,
        caller_bytes: expected.caller_bytes,
        sequences: defaults.sequences,
    }
}

/// A budget that the machine and its control groups can keep.
fn memory_limit(memory: Memory) -> Result<MemoryLimit> {
    let Memory::Bytes(bytes) = memory else { return Ok(MemoryLimit::Auto) };
    let limits =
        MemoryLimits::read().map_err(|error| Failure::from_lines(&error, STATUS_RUNNING))?;
    let allowed = limits.effective_bytes();
    // Control groups keep limits in whole pages: a limit of 6.8e9 reads back as 6,799,998,976.
    let whole_pages = bytes - bytes % page_size() as u64;
    let bytes = if whole_pages > 0 { whole_pages } else { bytes };
    if bytes <= allowed {
        return Ok(MemoryLimit::Bytes(bytes));
    }
    let whose = match limits.tightest().filter(|_| allowed < limits.host.total_bytes) {
        Some(group) => format!("the control group {} allows", group.path.display()),
        None => "this machine has".to_owned(),
    };
    Err(Failure::input(format!("--memory {} cannot be kept", human::bytes(bytes)))
        .why(format!("{whose} {} ({allowed} bytes)", human::bytes(allowed)))
        .mend("--memory auto   (takes what there is, less a reserve)")
        .into())
}

/// When an error of the engine came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// While the input was looked at.
    Opening,
    /// While it was computing.
    Running,
}

/// The engine's error as the user sees it: what the input is to blame for is status 2.
pub fn failure(error: &Error, phase: Phase) -> anyhow::Error {
    if matches!(error, Error::Stopped) {
        return Failure::interrupted().into();
    }
    let by_input = matches!(
        error,
        Error::Budget(_)
            | Error::ContextFull { .. }
            | Error::EmptyPrompt
            | Error::TokenOutOfRange { .. }
            | Error::TextTooShort { .. }
            | Error::ChunkTooSmall { .. }
            // What the file holds shows only when it is computed with.
            | Error::NonFiniteLogits { .. }
            | Error::NonFiniteRouter { .. }
    );
    let status = match phase {
        Phase::Opening => STATUS_INPUT,
        Phase::Running if by_input => STATUS_INPUT,
        Phase::Running => STATUS_RUNNING,
    };
    Failure::from_lines(error, status).into()
}
