//! From what the user types as MODEL to a file.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::catalogue::{self, CATALOGUE};
use super::http::Client;
use super::hub::Hub;
use super::hub_name::{HubName, choose};
use super::outline::Outline;
use super::{Store, pull};
use crate::failure::Failure;
use crate::human;
use crate::progress::note;

/// Names less near than this were hardly meant: `smolm2` is to `smollm2-135m` as 0.90.
const NEARNESS_MIN: f64 = 0.85;
/// Entries of a folder that are looked at for a name that was meant.
const FOLDER_ENTRIES_MAX: usize = 10_000;

/// The file of a MODEL argument; a catalogue or `hf:` model that is not here yet is fetched.
pub fn model(store: &Store, argument: &OsStr) -> Result<PathBuf> {
    // Names are text; what is not can only be a path.
    let Some(text) = argument.to_str() else { return Ok(PathBuf::from(argument)) };
    if let Some(name) = text.strip_prefix("hf:") {
        let name = HubName::parse(name)?;
        if let Some(path) = on_disk(store, &name) {
            return Ok(path);
        }
        note(&format!("{name} is not here yet, fetching it into {}", store.dir().display()));
        return Ok(pull::hub(store, &name, &Hub::from_env(), &Client::new())?.path);
    }
    if let Some(entry) = catalogue::find(text) {
        let path = store.dir().join(entry.file);
        if path.exists() {
            return Ok(path);
        }
        let (size, dir) = (human::bytes(entry.bytes), store.dir().display());
        note(&format!("{text} is not here yet, fetching {size} into {dir}"));
        return Ok(pull::catalogue(store, entry)?.path);
    }
    let path = Path::new(text);
    match fs::metadata(path) {
        Ok(meta) if meta.is_file() => return Ok(path.to_owned()),
        Ok(meta) if meta.is_dir() => {
            return Err(Failure::input(format!("{text} is a folder"))
                .why("MODEL is a .gguf file, or the first of a split set")
                .into());
        }
        Ok(_) => {
            return Err(Failure::input(format!("{text} is not a regular file"))
                .why("a model is mapped into memory, which pipes and devices cannot be")
                .into());
        }
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Failure::input(format!("cannot open {text}")).why(error).into());
        }
        Err(_) => {}
    }
    match store.find(text)?.as_slice() {
        [] => Err(unknown(store, text)),
        [only] => Ok(only.path.clone()),
        many => {
            let names: Vec<&str> = many.iter().map(|model| model.name.as_str()).collect();
            Err(Failure::input(format!("{text} means {} models", many.len()))
                .why(names.join(", "))
                .into())
        }
    }
}

/// A model to be looked at only: of one that is on a hub and not here, the headers are enough.
pub enum Look {
    /// It is here.
    Here(PathBuf),
    /// On a hub: its name and its outline.
    Outline(HubName, Outline),
}

impl Look {
    /// The file, or the first of a split set.
    pub fn path(&self) -> &Path {
        match self {
            Self::Here(path) => path,
            Self::Outline(_, outline) => outline.path(),
        }
    }
}

/// As [`model`], but weights that are not here yet stay where they are.
pub fn look(store: &Store, argument: &OsStr, command: &'static str) -> Result<Look> {
    let Some(text) = argument.to_str().and_then(|text| text.strip_prefix("hf:")) else {
        return Ok(Look::Here(model(store, argument)?));
    };
    let name = HubName::parse(text)?;
    if let Some(path) = on_disk(store, &name) {
        return Ok(Look::Here(path));
    }
    let hub = Hub::from_env().asked_by(command);
    let outline = Outline::fetch(store, &name, &hub, &Client::new())?;
    Ok(Look::Outline(name, outline))
}

/// A hub's model that was fetched before, without asking the hub.
fn on_disk(store: &Store, name: &HubName) -> Option<PathBuf> {
    let dir = store.dir().join("hf").join(&name.org).join(&name.repo);
    let mut paths = Vec::new();
    super::collect(&dir, super::DEPTH_MAX, &mut paths).ok()?;
    let relative: Vec<&str> =
        paths.iter().filter_map(|path| path.strip_prefix(&dir).ok()?.to_str()).collect();
    choose(&relative, name).ok()?.first().map(|first| dir.join(first))
}

fn unknown(store: &Store, text: &str) -> anyhow::Error {
    let names: Vec<&str> = CATALOGUE.iter().map(|entry| entry.name).collect();
    let meant = meant(store, text).map(|name| format!("did you mean {name}?"));
    if text.contains('/') || text.ends_with(".gguf") {
        let failure = Failure::input(format!("there is no file {text}"))
            .mend("lowtide list   (shows the models that are here)");
        return match meant {
            Some(meant) => failure.why(meant).into(),
            None => failure.into(),
        };
    }
    let nowhere =
        || format!("it is no file, not in `lowtide list`, and not one of {}", names.join(", "));
    Failure::input(format!("there is no model {text:?}"))
        .why(meant.unwrap_or_else(nowhere))
        .mend(format!("lowtide pull {}", catalogue::DEFAULT))
        .into()
}

/// The name nearest to one that there is not, if it is near: of the catalogue, of the models that are kept here, of
/// the model files where the name points to.
fn meant(store: &Store, text: &str) -> Option<String> {
    let path = Path::new(text);
    let (folder, file) = (path.parent()?, path.file_name()?.to_str()?);
    let here = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let files = fs::read_dir(here).into_iter().flatten().flatten().take(FOLDER_ENTRIES_MAX);
    let files = files.filter_map(|entry| entry.file_name().into_string().ok());
    let files = files.filter(|name| name.ends_with(".gguf")).map(|name| {
        let near = nearness(file, &name);
        (near, folder.join(name).display().to_string())
    });
    let kept = store.list().unwrap_or_default().into_iter().map(|model| model.name);
    let known = CATALOGUE.iter().map(|entry| entry.name.to_owned()).chain(kept);
    let known = known.map(|name| (nearness(file, &name).max(nearness(text, &name)), name));
    let near = known.chain(files).filter(|(near, _)| *near >= NEARNESS_MIN);
    near.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

/// 1 for the same, 0 for nothing in common; what is at the front counts most.
fn nearness(a: &str, b: &str) -> f64 {
    let plain = |name: &str| name.strip_suffix(".gguf").unwrap_or(name).to_lowercase();
    strsim::jaro_winkler(&plain(a), &plain(b))
}
