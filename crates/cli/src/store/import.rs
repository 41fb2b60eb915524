//! Bringing a file of this machine into the folder: linked where that is possible, copied where
//! not. A split set comes with all its parts or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::catalogue::{CATALOGUE, Entry};
use super::hub_name::shard;
use super::pull::{Pulled, publish};
use super::{Store, digest, make_dir, part_path, record_check};
use crate::failure::Failure;
use crate::header::Header;

/// A file that may come into the folder.
struct Import {
    /// Without links: a link to a link would end with the folder that it is in.
    from: PathBuf,
    target: PathBuf,
    bytes: u64,
    known: Option<&'static Entry>,
    /// It is in the folder already.
    already: bool,
}

/// A file, or all parts of the set that it is of.
///
/// # Errors
/// Exit status 2 where a file cannot be read, is no model, or another one has its name; then
/// nothing has come into the folder.
pub fn file(store: &Store, path: &Path) -> Result<Pulled> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let imports = match shard(&name) {
        None => vec![look(store, path, &stored_name(&name))?],
        Some((stem, _, count)) => (1..=count)
            .map(|i| format!("{stem}-{i:05}-of-{count:05}.gguf"))
            .map(|part| look(store, &path.with_file_name(&part), &part))
            .collect::<Result<_>>()?,
    };
    make_dir(store.dir())?;
    for (i, import) in imports.iter().enumerate() {
        if let Err(error) = import.bring() {
            for brought in imports[..i].iter().filter(|import| !import.already) {
                // The error that is on its way matters more than this one.
                let _ = fs::remove_file(&brought.target);
            }
            return Err(error);
        }
    }
    Ok(Pulled {
        path: imports[0].target.clone(),
        bytes: imports.iter().map(|import| import.bytes).sum(),
        already: imports.iter().all(|import| import.already),
    })
}

/// The folder's models end in `.gguf`, whatever the file outside is called.
fn stored_name(name: &str) -> String {
    match name.rsplit_once('.') {
        Some((stem, ending)) if ending.eq_ignore_ascii_case("gguf") => format!("{stem}.gguf"),
        _ => format!("{name}.gguf"),
    }
}

fn look(store: &Store, from: &Path, name: &str) -> Result<Import> {
    let unreadable = |error| Failure::input(format!("cannot read {}", from.display())).why(error);
    let target = store.dir().join(name);
    let link_free = fs::canonicalize(from).map_err(unreadable)?;
    let bytes = fs::metadata(&link_free).map_err(unreadable)?.len();
    // Only models come into the folder.
    Header::read(from)?;
    let known = CATALOGUE.iter().find(|entry| entry.file == name);
    if let Some(entry) = known {
        check_known(from, entry)?;
    }
    let already = fs::canonicalize(&target).is_ok_and(|target| target == link_free);
    if !already && fs::symlink_metadata(&target).is_ok() {
        return Err(Failure::input(format!("{} is there already", target.display()))
            .mend(format!("lowtide rm {name}"))
            .into());
    }
    Ok(Import { from: link_free, target, bytes, known, already })
}

fn check_known(from: &Path, entry: &Entry) -> Result<()> {
    let sha256 = digest::of_file(from, "checking")
        .with_context(|| format!("cannot read {}", from.display()))?;
    if sha256 == entry.sha256 {
        return Ok(());
    }
    Err(Failure::input(format!("{} is not the model {}", from.display(), entry.name))
        .why(format!("SHA-256 is {sha256}, should be {}", entry.sha256))
        .into())
}

impl Import {
    fn bring(&self) -> Result<()> {
        if !self.already {
            let part = part_path(&self.target);
            let _ = fs::remove_file(&part);
            if fs::hard_link(&self.from, &part).is_err()
                && let Err(error) = fs::copy(&self.from, &part)
            {
                // It is not gone on with: half a copy is of no use.
                let _ = fs::remove_file(&part);
                let (from, part) = (self.from.display(), part.display());
                return Err(error).with_context(|| format!("cannot copy {from} to {part}"));
            }
            publish(&part, &self.target)?;
        }
        match self.known {
            Some(entry) => record_check(&self.target, entry.sha256),
            None => Ok(()),
        }
    }
}
