//! Where models are kept: plain files in one folder, each with its checksum beside it.
//!
//! ```text
//! models/SmolLM2-135M-Instruct.Q4_1.gguf
//! models/SmolLM2-135M-Instruct.Q4_1.gguf.sha256     as `sha256sum` writes it, made after a check
//! models/hf/ORG/REPO/FILE.gguf
//! models/NAME.gguf.part                             a fetch that is not finished
//! models/NAME.gguf.part.origin                      what it is a piece of, where no checksum is known
//! models/fetch/WHEEL.whl.part                       packages on their way
//! models/fetch/outline-PID-N/                       headers of a hub's files, while `fit` looks at them
//! ```

pub mod catalogue;
pub mod digest;
mod download;
pub mod http;
pub mod hub;
pub mod hub_name;
pub mod import;
pub mod outline;
mod part;
pub mod pip;
mod prefix;
pub mod pull;
pub mod resolve;
pub mod wheel;
pub mod whole;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::failure::Failure;

/// Folders deeper than this are not searched for models (`hf/ORG/REPO/SUBFOLDER`).
const DEPTH_MAX: usize = 5;

/// The models folder.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

/// A model file in the folder.
#[derive(Debug, Clone)]
pub struct Stored {
    /// What one types to use it.
    pub name: String,
    /// Where it is; of a split set the first part.
    pub path: PathBuf,
    /// All its files: one, or the parts of a split set.
    pub files: Vec<PathBuf>,
    /// Their length together.
    pub bytes: u64,
    /// Whether its SHA-256 was compared with its publisher's.
    pub check: Check,
}

/// What is known about a file's checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// Compared when it was fetched, and not modified since.
    Checked,
    /// Compared when it was fetched, modified since.
    Modified,
    /// There is nothing to compare it with.
    Unknown,
}

impl Check {
    /// What is known of two files together.
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Checked, Self::Checked) => Self::Checked,
            (Self::Modified, _) | (_, Self::Modified) => Self::Modified,
            _ => Self::Unknown,
        }
    }

    /// One word for a table.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Checked => "checked",
            Self::Modified => "modified",
            Self::Unknown => "unchecked",
        }
    }
}

impl Store {
    /// `$LOWTIDE_MODELS`, else `$XDG_DATA_HOME/lowtide/models`, else
    /// `~/.local/share/lowtide/models`, and without a home `models` in the current folder.
    pub fn locate() -> Self {
        Self { dir: locate_from(|name| std::env::var_os(name)) }
    }

    /// A store in this folder, which need not exist yet.
    #[cfg(test)]
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder for packages on their way, made if missing.
    pub fn fetch_dir(&self) -> Result<PathBuf> {
        let dir = self.dir.join("fetch");
        make_dir(&dir)?;
        Ok(dir)
    }

    /// Every model file, by name.
    pub fn list(&self) -> Result<Vec<Stored>> {
        let mut found = Vec::new();
        if self.dir.is_dir() {
            collect(&self.dir, DEPTH_MAX, &mut found)
                .with_context(|| format!("cannot list {}", self.dir.display()))?;
        }
        found.sort();
        let mut models: Vec<Stored> = Vec::with_capacity(found.len());
        for path in found {
            let Ok(meta) = fs::metadata(&path) else { continue };
            let check = check_state(&path, &meta);
            match models.last_mut().filter(|first| belongs_to(&first.path, &path)) {
                Some(first) => {
                    first.bytes += meta.len();
                    first.check = first.check.and(check);
                    first.files.push(path);
                }
                None => models.push(Stored {
                    name: self.name_of(&path),
                    files: vec![path.clone()],
                    bytes: meta.len(),
                    check,
                    path,
                }),
            }
        }
        models.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(models)
    }

    /// What one types for a file of the folder.
    fn name_of(&self, path: &Path) -> String {
        let relative = path.strip_prefix(&self.dir).unwrap_or(path);
        let file = relative.to_string_lossy();
        if let Some(entry) = catalogue::CATALOGUE.iter().find(|entry| file == entry.file) {
            return entry.name.to_owned();
        }
        let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
        match parts.as_slice() {
            [hf, org, repo, rest @ ..] if hf == "hf" && !rest.is_empty() => {
                format!("hf:{org}/{repo}:{}", rest.join("/"))
            }
            _ => file.into_owned(),
        }
    }

    /// The models of the folder that this name means: by listed name, file name, file name
    /// without `.gguf`, or path.
    pub fn find(&self, name: &str) -> Result<Vec<Stored>> {
        let place = name.contains('/').then(|| place(Path::new(name))).flatten();
        let matches = |model: &Stored| {
            let file = model.path.file_name().unwrap_or_default().to_string_lossy();
            model.name == name
                || file == name
                || file.strip_suffix(".gguf") == Some(name)
                || (place.is_some() && place == self::place(&model.path))
        };
        Ok(self.list()?.into_iter().filter(matches).collect())
    }

    /// Removes a model file of this folder with its checksum; returns the bytes freed.
    pub fn remove(&self, model: &Stored) -> Result<u64> {
        let inside = fs::canonicalize(&self.dir)
            .ok()
            .zip(model.path.parent().and_then(|parent| fs::canonicalize(parent).ok()))
            .is_some_and(|(dir, parent)| parent.starts_with(dir));
        if !inside {
            let dir = self.dir.display();
            return Err(Failure::input(format!("{} is not in {dir}", model.path.display()))
                .why("rm removes only models that lowtide keeps")
                .into());
        }
        // The first part goes last: an interrupted removal can be repeated by the same name.
        for file in model.files.iter().rev() {
            let describe = || format!("cannot remove {}", file.display());
            fs::remove_file(file).with_context(describe)?;
            let part = part_path(file);
            for beside in [checksum_path(file), part::origin_path(&part), part] {
                match fs::remove_file(beside) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(error).with_context(describe);
                    }
                    _ => {}
                }
            }
        }
        // Folders of a hub's organisation and repository go when they are empty, and only then.
        let mut parent = model.path.parent();
        while let Some(dir) = parent.filter(|dir| *dir != self.dir && dir.starts_with(&self.dir)) {
            if fs::remove_dir(dir).is_err() {
                break;
            }
            parent = dir.parent();
        }
        Ok(model.bytes)
    }
}

/// A path through no link but its own last word: a link to a model is not the model.
fn place(path: &Path) -> Option<PathBuf> {
    let folder = path.parent().filter(|folder| *folder != Path::new("")).unwrap_or(Path::new("."));
    Some(fs::canonicalize(folder).ok()?.join(path.file_name()?))
}

/// Whether `path` is a further part of the split set that `first` begins.
fn belongs_to(first: &Path, path: &Path) -> bool {
    let parts =
        first.to_str().and_then(hub_name::shard).zip(path.to_str().and_then(hub_name::shard));
    parts.is_some_and(|((a, first, n), (b, _, m))| first == 1 && a == b && n == m)
}

fn locate_from(var: impl Fn(&str) -> Option<OsString>) -> PathBuf {
    let set = |name: &str| var(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(dir) = set("LOWTIDE_MODELS") {
        return dir;
    }
    // The XDG specification: a relative XDG_DATA_HOME is invalid and is to be ignored.
    set("XDG_DATA_HOME")
        .filter(|dir| dir.is_absolute())
        .or_else(|| set("HOME").map(|home| home.join(".local/share")))
        .map_or_else(|| PathBuf::from("models"), |data| data.join("lowtide/models"))
}

/// Makes a folder, or says which one cannot be made.
pub fn make_dir(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).map_err(|error| {
        Failure::running(format!("cannot make the folder {}", dir.display()))
            .why(error)
            .mend("LOWTIDE_MODELS=FOLDER lowtide ...   (any folder you can write to)")
            .into()
    })
}

fn collect(dir: &Path, depth: usize, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            if depth > 0 && path.file_name().is_none_or(|name| name != "fetch") {
                collect(&path, depth - 1, found)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "gguf") {
            found.push(path);
        }
    }
    Ok(())
}

/// `NAME.gguf` -> `NAME.gguf.sha256`.
pub fn checksum_path(model: &Path) -> PathBuf {
    with_suffix(model, ".sha256")
}

/// `NAME.gguf` -> `NAME.gguf.part`.
pub fn part_path(model: &Path) -> PathBuf {
    with_suffix(model, ".part")
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Records a check in the format of `sha256sum`, so that anybody can repeat it.
pub fn record_check(model: &Path, sha256: &str) -> Result<()> {
    let path = checksum_path(model);
    let file = model.file_name().unwrap_or_default().to_string_lossy();
    fs::write(&path, format!("{sha256}  {file}\n"))
        .with_context(|| format!("cannot write {}", path.display()))
}

fn check_state(path: &Path, meta: &fs::Metadata) -> Check {
    let modified = |meta: &fs::Metadata| meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    match fs::metadata(checksum_path(path)) {
        Ok(check) if modified(&check) >= modified(meta) => Check::Checked,
        Ok(_) => Check::Modified,
        Err(_) => Check::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_follows_the_environment() {
        let locate = |vars: &[(&str, &str)]| {
            locate_from(|name| {
                vars.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value))
            })
        };
        assert_eq!(locate(&[("LOWTIDE_MODELS", "m"), ("HOME", "/h")]), Path::new("m"));
        assert_eq!(
            locate(&[("XDG_DATA_HOME", "/x"), ("HOME", "/h")]),
            Path::new("/x/lowtide/models")
        );
        assert_eq!(
            locate(&[("XDG_DATA_HOME", "x"), ("HOME", "/h")]),
            Path::new("/h/.local/share/lowtide/models")
        );
        assert_eq!(locate(&[("LOWTIDE_MODELS", ""), ("HOME", "")]), Path::new("models"));
    }
}
