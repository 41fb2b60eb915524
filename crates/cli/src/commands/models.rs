//! `lowtide pull`, `list`, `rm`: the models of this machine.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::args::{ListArgs, PullArgs, RmArgs};
use crate::failure::Failure;
use crate::human::{self, Align, Table};
use crate::output::Stdout;
use crate::store::catalogue::{self, CATALOGUE};
use crate::store::http::Client;
use crate::store::hub::Hub;
use crate::store::hub_name::HubName;
use crate::store::pull::{self, Pulled};
use crate::store::{Check, Store, Stored, import, make_dir};

/// Fetches models and prints where each of them is.
pub fn pull(args: &PullArgs) -> Result<()> {
    let store = Store::locate();
    for model in &args.models {
        make_dir(store.dir())?;
        let pulled = pull_one(&store, model)?;
        let mut out = Stdout::lock();
        writeln!(
            out,
            "{}  {}{}",
            pulled.path.display(),
            human::bytes(pulled.bytes),
            if pulled.already { "  (was here)" } else { "" }
        )?;
        out.finish()?;
    }
    Ok(())
}

fn pull_one(store: &Store, model: &OsStr) -> Result<Pulled> {
    if let Some(name) = model.to_str() {
        if let Some(name) = name.strip_prefix("hf:") {
            return pull::hub(store, &HubName::parse(name)?, &Hub::from_env(), &Client::new());
        }
        if let Some(entry) = catalogue::find(name) {
            return pull::catalogue(store, entry);
        }
    }
    let path = Path::new(model);
    if path.is_file() {
        return import::file(store, path);
    }
    let names: Vec<&str> = CATALOGUE.iter().map(|entry| entry.name).collect();
    Err(Failure::input(format!("{} is nothing that can be fetched", path.display()))
        .why(format!("it is no file, no hf:org/repo, and not one of {}", names.join(", ")))
        .mend(format!("lowtide pull {}", catalogue::DEFAULT))
        .into())
}

#[derive(Serialize)]
struct ListDocument<'a> {
    folder: String,
    models: Vec<ListedModel<'a>>,
    catalogue: Vec<ListedEntry>,
}

#[derive(Serialize)]
struct ListedModel<'a> {
    name: &'a str,
    path: String,
    bytes: u64,
    checked: bool,
}

#[derive(Serialize)]
struct ListedEntry {
    name: &'static str,
    about: &'static str,
    licence: &'static str,
    bytes: u64,
    sha256: &'static str,
    here: bool,
}

/// Prints what is here, and what could be.
pub fn list(args: &ListArgs) -> Result<()> {
    let store = Store::locate();
    let models = store.list()?;
    if args.json {
        Stdout::lock().json(&document(&store, &models))?;
        return Ok(());
    }
    let mut out = Stdout::lock();
    let mut table = Table::new(&[Align::Left, Align::Right, Align::Left, Align::Left]);
    for model in &models {
        let (size, path) = (human::bytes(model.bytes), model.path.display().to_string());
        table.row([model.name.clone(), size, model.check.word().to_owned(), path]);
    }
    for entry in CATALOGUE.iter().filter(|entry| !is_here(&models, entry.name)) {
        let about = format!("{} ({})", entry.about, entry.licence);
        table.row([entry.name.into(), human::bytes(entry.bytes), "to pull".into(), about]);
    }
    table.write(&mut out, "")?;
    out.finish()?;
    Ok(())
}

fn is_here(models: &[Stored], name: &str) -> bool {
    models.iter().any(|model| model.name == name)
}

fn document<'a>(store: &Store, models: &'a [Stored]) -> ListDocument<'a> {
    let listed = models.iter().map(|model| ListedModel {
        name: &model.name,
        path: model.path.to_string_lossy().into_owned(),
        bytes: model.bytes,
        checked: model.check == Check::Checked,
    });
    let catalogue = CATALOGUE.iter().map(|entry| ListedEntry {
        name: entry.name,
        about: entry.about,
        licence: entry.licence,
        bytes: entry.bytes,
        sha256: entry.sha256,
        here: is_here(models, entry.name),
    });
    ListDocument {
        folder: store.dir().to_string_lossy().into_owned(),
        models: listed.collect(),
        catalogue: catalogue.collect(),
    }
}

/// Removes models; all names must be right before the first is removed.
pub fn rm(args: &RmArgs) -> Result<()> {
    let store = Store::locate();
    let mut chosen = Vec::new();
    for name in &args.models {
        let found = store.find(name)?;
        if found.is_empty() {
            return Err(Failure::input(format!("there is no model {name:?}"))
                .why(format!(
                    "rm removes only models that lowtide keeps in {}",
                    store.dir().display()
                ))
                .mend("lowtide list")
                .into());
        }
        if found.len() > 1 {
            let names: Vec<String> = found.into_iter().map(|model| model.name).collect();
            return Err(Failure::input(format!("{name} means {} models", names.len()))
                .why(names.join(", "))
                .mend(format!("lowtide rm {}", names[0]))
                .into());
        }
        chosen.extend(found);
    }
    for model in chosen {
        let freed = store.remove(&model)?;
        let mut out = Stdout::lock();
        writeln!(out, "removed {}  {}", model.path.display(), human::bytes(freed))?;
        out.finish()?;
    }
    Ok(())
}
