//! `lowtide serve`: what was typed becomes a server; the rest is `crates/server`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lowtide_engine::{Engine, Forecaster, LoadOptions, Model, Sequences};
use lowtide_mapping::MemoryLimits;
use lowtide_server::{ApiKey, Config, Limits, ServeError, Server, Tls, Walls, check_exposure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::args::{BudgetOptions, Memory, ServeArgs};
use crate::failure::{Failure, STATUS_INPUT, STATUS_RUNNING, one_line};
use crate::load::{self, Expected, Phase};
use crate::prompt::Dialogue;
use crate::signals::Interruptible;
use crate::store::Store;

/// Answers that are made together where nothing is said.
const PARALLEL_DEFAULT: usize = 16;
/// File handles for what is not a connection.
const OTHER_HANDLES: u64 = 64;

/// Serves until it is told to stop.
pub fn serve(args: &ServeArgs) -> Result<()> {
    // What a request took is to be gone with it: before there is a thread with an arena of its own.
    lowtide_mapping::heap::return_freed_memory();
    let address = SocketAddr::new(args.host, args.port);
    let config = config(args)?;
    let mut models = Models::find(args)?;
    // The port is taken before seconds go into the model: two servers at once are a usual mistake.
    let listeners = listeners(args, address)?;
    let limits = limits(args)?;
    let first = match models.first.clone() {
        Some(name) => Some((name.clone(), models.load(&name, limits.reserved_bytes())?)),
        None => None,
    };
    if let Some((_, engine)) = &first {
        load::note_options(engine, &args.budget);
    }
    let local = listeners[0].local_addr().context("the listening address")?;
    confine(&models)?;
    let scheme = if args.tls_cert.is_some() { "https" } else { "http" };
    let names = models.names();
    let reserved = limits.reserved_bytes();
    let server = Server {
        listeners,
        config,
        limits,
        models: names.clone(),
        first,
        loader: Box::new(move |name| {
            let refused = |error| one_line(&format!("{error:#}"));
            models.load(name, reserved).map_err(|error| models.hide_path(name, refused(error)))
        }),
    };
    // The first Ctrl-C is the server's; the second still ends the program at once.
    let _interruptible = Interruptible::begin();
    lowtide_server::run(server, lowtide_server::terminated(), || {
        announce(&format!("{scheme}://{local}"), &names);
    })
    .map_err(|error| Failure::from_lines(&error, STATUS_RUNNING).into())
}

/// The sockets systemd hands over, else one of our own.
fn listeners(args: &ServeArgs, address: SocketAddr) -> Result<Vec<TcpListener>> {
    let has_key = args.api_key_file.is_some();
    let handed = lowtide_server::activated().context("the sockets that were handed over")?;
    for listener in &handed {
        let local = listener.local_addr().context("a socket that was handed over")?;
        check_exposure(local, has_key, args.no_key).map_err(refused)?;
    }
    if !handed.is_empty() {
        return Ok(handed);
    }
    check_exposure(address, has_key, args.no_key).map_err(refused)?;
    let bind = |source| refused(ServeError::Bind { address: address.to_string(), source });
    Ok(vec![TcpListener::bind(address).map_err(bind)?])
}

/// What is left to read is known now: the models.
fn confine(models: &Models) -> Result<()> {
    let folder = |path: &OsString| {
        let real = Path::new(path).canonicalize().ok()?;
        real.parent().map(Path::to_owned)
    };
    let mut folders: Vec<PathBuf> = models.paths.values().filter_map(folder).collect();
    // Names of the catalogue are kept there.
    folders.push(Store::locate().dir().to_owned());
    let walls = lowtide_server::confine(&folders).context("the kernel's Landlock")?;
    if walls != Walls::Full {
        let what = if walls == Walls::None { "no Landlock" } else { "an old Landlock" };
        // Where standard error is closed there is nobody to tell.
        let _ = writeln!(
            std::io::stderr(),
            "lowtide: this kernel has {what}: the server could read more than its models"
        );
    }
    Ok(())
}

fn refused(error: ServeError) -> anyhow::Error {
    Failure::from_lines(&error, STATUS_INPUT).into()
}

/// The address to standard output, for those who start the server from a program.
fn announce(url: &str, models: &[String]) {
    let mut out = std::io::stdout().lock();
    let names = one_line(&models.join(", "));
    // Where standard output is closed there is nobody to tell.
    let _ = writeln!(out, "lowtide serves {names}\n  {url}    page\n  {url}/v1 API");
    let _ = out.flush();
}

fn config(args: &ServeArgs) -> Result<Config> {
    let api_key = match &args.api_key_file {
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| {
                Failure::input(format!("cannot read {}", path.display())).why(error)
            })?;
            Some(ApiKey::new(&text).map_err(refused)?)
        }
        None => None,
    };
    let tls = match args.tls_cert.as_deref().zip(args.tls_key.as_deref()) {
        Some((chain, key)) => Some(Tls::read(chain, key).map_err(refused)?),
        None => None,
    };
    let mut hosts = args.allow_host.clone();
    if let Ok(name) = std::fs::read_to_string("/proc/sys/kernel/hostname") {
        hosts.push(name.trim().to_owned());
    }
    Ok(Config {
        api_key,
        hosts,
        origins: args.allow_origin.clone(),
        queue: usize::from(args.queue),
        tls,
        allow_templates: args.allow_chat_template,
        version: env!("CARGO_PKG_VERSION"),
    })
}

/// Bounds for the budget, within what the system lets this process open.
fn limits(args: &ServeArgs) -> Result<Limits> {
    let budget = match args.budget.memory {
        Memory::Bytes(bytes) => bytes,
        Memory::Auto => MemoryLimits::read()
            .map_err(|error| Failure::from_lines(&error, STATUS_RUNNING))?
            .available_bytes(),
    };
    let mut limits = Limits::for_budget(budget, usize::from(args.queue));
    limits.tls = args.tls_cert.is_some();
    let wanted = limits.connections as u64 + OTHER_HANDLES;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("the limit of open files")?;
    let mut allowed = soft;
    if soft < wanted && setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard).is_ok() {
        allowed = wanted.min(hard);
    }
    let room = allowed.saturating_sub(OTHER_HANDLES).max(1);
    limits.connections = limits.connections.min(usize::try_from(room).unwrap_or(usize::MAX));
    Ok(limits)
}

/// The models there are, and how they are loaded.
struct Models {
    paths: BTreeMap<String, OsString>,
    first: Option<String>,
    budget: BudgetOptions,
    sequences: Sequences,
    queue: usize,
    tls: bool,
}

impl Models {
    fn find(args: &ServeArgs) -> Result<Self> {
        let mut paths = BTreeMap::new();
        if let Some(dir) = &args.models {
            for path in folder(dir)? {
                paths.insert(name_of(path.as_os_str()), path.into_os_string());
            }
            if paths.is_empty() && args.model.is_none() {
                return Err(Failure::input(format!("there is no .gguf file in {}", dir.display()))
                    .mend("lowtide serve smollm2-135m")
                    .into());
            }
        }
        let mut first = None;
        if let Some(model) = &args.model {
            let name = name_of(model);
            paths.insert(name.clone(), model.clone());
            first = Some(name);
        }
        let sequences = match args.parallel {
            Some(wanted) => Sequences::Exactly(usize::from(wanted)),
            None => Sequences::AtMost(PARALLEL_DEFAULT),
        };
        let (budget, queue) = (args.budget.clone(), usize::from(args.queue));
        let tls = args.tls_cert.is_some();
        Ok(Self { paths, first, budget, sequences, queue, tls })
    }

    /// All names, the default first.
    fn names(&self) -> Vec<String> {
        let others = self.paths.keys().filter(|name| Some(*name) != self.first.as_ref());
        self.first.iter().chain(others).cloned().collect()
    }

    /// A model with all of the budget: what was loaded before has left.
    fn load(&mut self, name: &str, caller_bytes: u64) -> Result<Engine> {
        let path = self.paths.get(name).with_context(|| format!("there is no model {name}"))?;
        let opened = load::open(path, &self.budget)?;
        // A template that would be refused is the file's fault, and said before anything is loaded.
        Dialogue::of(&opened.model)?;
        let vocabulary = opened.model.tokenizer().vocab_size();
        let caller_bytes = caller_bytes + Limits::grammar_bytes(vocabulary);
        let expected = Expected { caller_bytes, ..Expected::default() };
        let mut options =
            LoadOptions { sequences: self.sequences, ..load::options(&self.budget, expected) };
        let loaded = load::engine(opened.model, &self.budget, options);
        if let (Err(_), Memory::Bytes(_)) = (&loaded, self.budget.memory) {
            // What the server takes grows with the budget: a refusal is to name one that is not refused again.
            let model = load::open(path, &self.budget)?.model;
            options.caller_bytes = self.caller_bytes_at_floor(&model, options)?;
            return load::engine(model, &self.budget, options);
        }
        loaded
    }

    /// What is claimed beside the engine with the smallest budget that runs, if that is more than with this one.
    fn caller_bytes_at_floor(&self, model: &Model, mut options: LoadOptions) -> Result<u64> {
        let grammars = Limits::grammar_bytes(model.tokenizer().vocab_size());
        loop {
            let floor = Forecaster::new(model, &options).and_then(|of| of.floor_bytes());
            let floor = floor.map_err(|error| load::failure(&error, Phase::Opening))?;
            let wanted = self.reserved_bytes(floor) + grammars;
            // By less each time: the server takes a small part of the budget.
            if wanted <= options.caller_bytes {
                return Ok(options.caller_bytes);
            }
            options.caller_bytes = wanted;
        }
    }

    /// What a server with such a budget takes beside the engine.
    fn reserved_bytes(&self, budget: u64) -> u64 {
        let limits = Limits::for_budget(budget, self.queue);
        Limits { tls: self.tls, ..limits }.reserved_bytes()
    }
}

impl Models {
    /// An error without the model's path: clients are told of names.
    fn hide_path(&self, name: &str, error: String) -> String {
        match self.paths.get(name) {
            Some(path) => error.replace(&*path.to_string_lossy(), &format!("{name}.gguf")),
            None => error,
        }
    }
}

/// The .gguf files of a folder; of split sets the first.
fn folder(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(dir)
        .map_err(|error| Failure::input(format!("cannot read {}", dir.display())).why(error))?;
    let is_model = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let later_shard = name.contains("-of-") && !name.contains("-00001-of-");
        name.ends_with(".gguf") && !later_shard && path.is_file()
    };
    Ok(entries.flatten().map(|entry| entry.path()).filter(is_model).collect())
}

/// A model's name in requests: no folder, no ending, nothing that moves a cursor.
fn name_of(model: &OsStr) -> String {
    let text = model.to_string_lossy();
    let last = text.rsplit('/').next().unwrap_or(&text);
    one_line(last.strip_suffix(".gguf").unwrap_or(last))
}
