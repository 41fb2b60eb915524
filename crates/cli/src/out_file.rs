//! Files that a command writes for the user: whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, PosixFadviseAdvice, posix_fadvise};
use nix::unistd::linkat;

use crate::failure::Failure;

/// A file in the making. It has its name once [`OutFile::commit`] is called; dropped before that,
/// nothing of it is left and what was there under its name is still there. Where the file system has files
/// without a name (most do) that also holds for a program that is killed.
#[derive(Debug)]
pub struct OutFile {
    path: PathBuf,
    /// Where it is until it has its name.
    place: Place,
    out: BufWriter<File>,
}

#[derive(Debug)]
enum Place {
    /// Under its own name: it has it by now, or is a pipe or a device, which cannot be replaced.
    Itself,
    /// Under another name beside it.
    Part(PathBuf),
    /// Nowhere. It gets its own name by way of this one, as a link replaces nothing.
    Nameless(PathBuf),
}

impl OutFile {
    /// Begins the file that the option `flag` names.
    ///
    /// # Errors
    /// Exit status 2: the folder is not there or not writable, the path is a folder, a model, or a
    /// link to nothing.
    pub fn create(path: &Path, flag: &str) -> Result<Self, Failure> {
        let refused = |why: &dyn std::fmt::Display| {
            Failure::input(format!("cannot write {}", path.display()))
                .why(why)
                .mend(format!("{flag} FILE, in a folder that is there and that you may write to"))
        };
        let path = &through_links(path).map_err(|e| refused(&e))?;
        let (place, file) = match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => return Err(refused(&"it is a folder")),
            Ok(meta) if !meta.is_file() => (Place::Itself, File::create(path)),
            Ok(_) if is_model(path) => {
                // A slip of the hand must not cost a model.
                return Err(refused(&"it is a model, which would be lost"));
            }
            _ => {
                let part = part_path(path).ok_or_else(|| refused(&"it has no name"))?;
                match nameless(&part) {
                    Ok(file) => (Place::Nameless(part), Ok(file)),
                    Err(_) => (Place::Part(part.clone()), File::create(part)),
                }
            }
        };
        let file = file.map_err(|e| refused(&e))?;
        Ok(Self { path: path.to_owned(), place, out: BufWriter::new(file) })
    }

    /// Writes all of a file.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub fn put(self, bytes: &[u8]) -> Result<(), Failure> {
        self.fill(|out| out.write_all(bytes))
    }

    /// Writes all of a file, piece by piece.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub fn fill(mut self, write: impl FnOnce(&mut Self) -> io::Result<()>) -> Result<(), Failure> {
        write(&mut self).map_err(|error| self.failed(&error))?;
        self.commit()
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub fn commit(mut self) -> Result<(), Failure> {
        self.publish()
    }

    /// The same for a file that goes on growing under its name, line by line.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub fn publish(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(|error| self.failed(&error))?;
        self.name().map_err(|error| self.failed(&error))
    }

    fn name(&mut self) -> io::Result<()> {
        let part = match &self.place {
            Place::Itself => return Ok(()),
            Place::Part(part) => part.clone(),
            Place::Nameless(part) => {
                let file = format!("/proc/self/fd/{}", self.out.get_ref().as_raw_fd());
                linkat(AT_FDCWD, file.as_str(), AT_FDCWD, part, AtFlags::AT_SYMLINK_FOLLOW)?;
                part.clone()
            }
        };
        // What cannot be named need not stay: from here on it is removed with this.
        self.place = Place::Part(part.clone());
        fs::rename(part, &self.path)?;
        self.place = Place::Itself;
        Ok(())
    }

    /// Puts what was written on the disk and lets its pages go: they are charged to whoever wrote them.
    ///
    /// # Errors
    /// The disk is full, or fails.
    pub fn let_go(&mut self) -> io::Result<()> {
        self.out.flush()?;
        if !matches!(self.place, Place::Itself) {
            let file = self.out.get_ref();
            file.sync_data()?;
            posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
        }
        Ok(())
    }

    /// What went wrong while writing.
    pub fn failed(&self, error: &io::Error) -> Failure {
        Failure::running(format!("cannot write {}", self.path.display())).why(error)
    }
}

impl Write for OutFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for OutFile {
    fn drop(&mut self) {
        if let Place::Part(part) = &self.place {
            // It may be gone already: then nothing is left to do.
            let _ = fs::remove_file(part);
        }
    }
}

/// Refuses one file for two options.
///
/// # Errors
/// Exit status 2, with both options.
pub fn check_apart<'p>(
    outputs: impl IntoIterator<Item = (&'static str, &'p Path)>,
) -> Result<(), Failure> {
    let mut seen: Vec<(&str, PathBuf)> = Vec::new();
    for (flag, path) in outputs {
        // Pipes and devices take from any number of writers.
        if fs::metadata(path).is_ok_and(|meta| !meta.is_file() && !meta.is_dir()) {
            continue;
        }
        let place = place_of(path);
        if let Some((other, _)) = seen.iter().find(|(_, known)| *known == place) {
            return Err(Failure::input(format!(
                "{other} and {flag} both write {}",
                path.display()
            ))
            .why("one of the two would be lost")
            .mend(format!("{flag} with another file")));
        }
        seen.push((flag, place));
    }
    Ok(())
}

/// Free of links, as far as there is something.
fn place_of(path: &Path) -> PathBuf {
    let through = through_links(path).unwrap_or_else(|_| path.to_owned());
    let folder =
        through.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    match (fs::canonicalize(folder), through.file_name()) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => through,
    }
}

/// Beside the file, so that giving it its name is one step.
fn part_path(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_string_lossy();
    Some(path.with_file_name(format!(".{name}.{}.part", std::process::id())))
}

/// A file without a name, in the folder in which it may come to be called `part`.
fn nameless(part: &Path) -> io::Result<File> {
    if !Path::new("/proc/self/fd").is_dir() {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // Left by a process that was killed and had this one's number.
    if let Err(error) = fs::remove_file(part)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let folder = part.parent().filter(|parent| *parent != Path::new("")).unwrap_or(Path::new("."));
    File::options().write(true).custom_flags(OFlag::O_TMPFILE.bits()).mode(0o666).open(folder)
}

/// What a link stands for is written, as a shell does it; the link stays.
fn through_links(path: &Path) -> io::Result<PathBuf> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_symlink() => fs::canonicalize(path)
            .map_err(|error| io::Error::new(error.kind(), format!("it is a link: {error}"))),
        _ => Ok(path.to_owned()),
    }
}

fn is_model(path: &Path) -> bool {
    let mut magic = [0; 4];
    File::open(path).is_ok_and(|mut file| file.read_exact(&mut magic).is_ok() && &magic == b"GGUF")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_whole_or_what_it_was_and_models_are_safe() {
        let dir = std::env::temp_dir().join(format!("lowtide-out-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("a.json");
        fs::write(&path, "old").unwrap();
        let mut half = OutFile::create(&path, "--x").unwrap();
        half.write_all(b"new, half").unwrap();
        half.flush().unwrap();
        // A program killed here leaves nothing, where the folder's file system can do that.
        let nameless = matches!(half.place, Place::Nameless(_));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), if nameless { 1 } else { 2 });
        drop(half);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        OutFile::create(&path, "--x").unwrap().put(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        let mut named = OutFile::create(&path, "--x").unwrap();
        let part = part_path(&path).unwrap();
        (named.place, named.out) =
            (Place::Part(part.clone()), BufWriter::new(File::create(part).unwrap()));
        named.put(b"newest").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"newest");
        let model = dir.join("m.gguf");
        fs::write(&model, "GGUF....").unwrap();
        let (link, loose) = (dir.join("link"), dir.join("loose"));
        std::os::unix::fs::symlink("a.json", &link).unwrap();
        std::os::unix::fs::symlink("none", &loose).unwrap();
        OutFile::create(&link, "--x").unwrap().put(b"newer").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"newer");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        for bad in [loose.as_path(), &model, &dir, &dir.join("none/a.json"), Path::new("/")] {
            let failure = OutFile::create(bad, "--x").unwrap_err().to_string();
            assert_eq!(failure.lines().count(), 3, "{failure}");
        }
        OutFile::create(Path::new("/dev/null"), "--x").unwrap().put(b"gone").unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 4, "nothing is left over");
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn one_file_for_two_options_is_seen_through_links_and_folders() {
        let dir = std::env::temp_dir().join(format!("lowtide-apart-{}", std::process::id()));
        fs::create_dir_all(dir.join("sub")).unwrap();
        fs::write(dir.join("a"), "old").unwrap();
        std::os::unix::fs::symlink("a", dir.join("link")).unwrap();
        let apart = |a: &str, b: &str| {
            let (a, b) = (dir.join(a), dir.join(b));
            check_apart([("--x", a.as_path()), ("--y", b.as_path())])
        };
        assert!(apart("a", "b").is_ok() && apart("a", "sub/a").is_ok());
        for (a, b) in [("a", "a"), ("new", "sub/../new"), ("link", "a")] {
            let failure = apart(a, b).unwrap_err().to_string();
            assert!(failure.starts_with("--x and --y both write"), "{failure}");
        }
        assert!(check_apart([("--x", Path::new("/dev/null")); 2]).is_ok());
        fs::remove_dir_all(&dir).unwrap();
    }
}
