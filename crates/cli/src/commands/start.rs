//! `lowtide` alone: says what it found, offers a model that fits, and starts a chat.

use std::ffi::OsString;
use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

use anyhow::Result;
use lowtide_engine::Model;
use lowtide_kernels::isa::Isa;
use lowtide_mapping::{CpuLimits, MemoryLimits};
use nix::sys::statvfs::statvfs;

use crate::args::{self, Command, Parsed};
use crate::failure::{Failure, STATUS_RUNNING};
use crate::human::{self, Align, Table};
use crate::store::Store;
use crate::store::catalogue::{self, CATALOGUE};

/// What is offered.
struct Offer {
    name: String,
    about: String,
    enter: &'static str,
}

/// Looks at the machine and starts a chat; without a terminal, prints the help.
pub fn start() -> Result<()> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return args::print_help();
    }
    let store = Store::locate();
    let limits =
        MemoryLimits::read().map_err(|error| Failure::from_lines(&error, STATUS_RUNNING))?;
    let offer = offer(&store, limits.available_bytes())?;
    let mut stderr = std::io::stderr().lock();
    writeln!(stderr, "lowtide {}\n", env!("CARGO_PKG_VERSION"))?;
    findings(&store, &limits, &offer).write(&mut stderr, "  ")?;
    write!(stderr, "\n{} (or type another model's name; Ctrl-C leaves) ", offer.enter)?;
    stderr.flush()?;
    drop(stderr);
    let mut line = String::new();
    if std::io::stdin().lock().read_line(&mut line)? == 0 {
        return Ok(());
    }
    let model = match line.trim() {
        "" => offer.name,
        other => other.to_owned(),
    };
    chat_with(&model)
}

/// The same as typing `lowtide chat -- MODEL`.
fn chat_with(model: &str) -> Result<()> {
    let typed = ["lowtide", "chat", "--", model].map(OsString::from);
    match args::parse(typed)? {
        Parsed::Cli(cli) => match cli.command {
            Some(Command::Chat(args)) => super::chat::chat(&args),
            _ => args::print_help(),
        },
        Parsed::Printed => Ok(()),
    }
}

fn findings(store: &Store, limits: &MemoryLimits, offer: &Offer) -> Table {
    let mut table = Table::new(&[Align::Left, Align::Left]);
    table.row(["memory".to_owned(), memory_line(limits)]);
    table.row(["cores".to_owned(), cores_line()]);
    table.row(["disk".to_owned(), disk_line(store)]);
    table.row(["model".to_owned(), format!("{}: {}", offer.name, offer.about)]);
    table
}

fn memory_line(limits: &MemoryLimits) -> String {
    let mut line = format!(
        "{}, {} available",
        human::bytes(limits.host.total_bytes),
        human::bytes(limits.available_bytes())
    );
    if limits.effective_bytes() < limits.host.total_bytes {
        line.push_str(&format!(" (limited to {})", human::bytes(limits.effective_bytes())));
    }
    line
}

fn cores_line() -> String {
    let cores = match CpuLimits::read() {
        Ok(limits) => limits.compute_threads().to_string(),
        Err(error) => format!("unknown ({error})"),
    };
    match Isa::from_env() {
        Ok(isa) => format!("{cores}, {}", isa.name()),
        Err(error) => format!("{cores}, {error}"),
    }
}

fn disk_line(store: &Store) -> String {
    let dir = std::path::absolute(store.dir()).unwrap_or_else(|_| store.dir().to_owned());
    // The folder may not exist yet: then the file system of its nearest ancestor is meant.
    let existing = dir.ancestors().find(|dir| dir.is_dir()).unwrap_or(Path::new("/"));
    match statvfs(existing) {
        Ok(fs) => {
            // Fields of C types that are 64 bits wide wherever lowtide runs.
            let free = fs.blocks_available() * fs.fragment_size();
            format!("{} free for models in {}", human::bytes(free), dir.display())
        }
        Err(error) => format!("{}: {error}", existing.display()),
    }
}

/// The largest model that is here, talks, and fits; else the catalogue's.
fn offer(store: &Store, available_bytes: u64) -> Result<Offer> {
    let mut here = store.list()?;
    here.retain(|model| model.bytes < available_bytes);
    here.sort_by_key(|model| std::cmp::Reverse(model.bytes));
    let talks = |path: &Path| Model::open(path).is_ok_and(|model| model.chat_template().is_some());
    if let Some(model) = here.into_iter().find(|model| talks(&model.path)) {
        let about = format!("{}, fits", human::bytes(model.bytes));
        return Ok(Offer { name: model.name, about, enter: "Enter starts a chat" });
    }
    let entry = catalogue::find(catalogue::DEFAULT).unwrap_or(&CATALOGUE[0]);
    Ok(Offer {
        name: entry.name.to_owned(),
        about: format!("{}, {} to fetch", entry.about, human::bytes(entry.bytes)),
        enter: "Enter fetches it and starts a chat",
    })
}
