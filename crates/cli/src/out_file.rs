//! Files that a command writes for the user: whole or not at all.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::failure::Failure;

/// A file in the making. It has its name once [`OutFile::commit`] is called; dropped before that,
/// nothing of it is left and what was there under its name is still there.
#[derive(Debug)]
pub struct OutFile {
    path: PathBuf,
    /// Where it is written; `None` where the path is a pipe or a device, which cannot be replaced.
    part: Option<PathBuf>,
    out: BufWriter<File>,
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
        let part = match fs::metadata(path) {
            Ok(meta) if meta.is_dir() => return Err(refused(&"it is a folder")),
            Ok(meta) if !meta.is_file() => None,
            Ok(_) if is_model(path) => {
                // A slip of the hand must not cost a model.
                return Err(refused(&"it is a model, which would be lost"));
            }
            _ => Some(part_path(path).ok_or_else(|| refused(&"it has no name"))?),
        };
        let file = File::create(part.as_deref().unwrap_or(path)).map_err(|e| refused(&e))?;
        Ok(Self { path: path.to_owned(), part, out: BufWriter::new(file) })
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
        if let Some(part) = self.part.take() {
            fs::rename(&part, &self.path).map_err(|error| {
                // What cannot be named need not stay.
                let _ = fs::remove_file(&part);
                self.failed(&error)
            })?;
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
        if let Some(part) = &self.part {
            // It may be gone already: then nothing is left to do.
            let _ = fs::remove_file(part);
        }
    }
}

/// Beside the file, so that giving it its name is one step.
fn part_path(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_string_lossy();
    Some(path.with_file_name(format!(".{name}.{}.part", std::process::id())))
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
        drop(half);
        assert_eq!(fs::read(&path).unwrap(), b"old");
        OutFile::create(&path, "--x").unwrap().put(b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
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
}
