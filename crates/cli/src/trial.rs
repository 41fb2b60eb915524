//! A file to measure a disk with, where there is no model on it yet.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use lowtide_mapping::evict_file;

use crate::store::make_dir;

/// Bytes of the file: longer than what a disk's own cache holds in front of it.
pub const TRIAL_BYTES: usize = 256 << 20;
/// So many bytes of it are in the page cache at most: they count as memory of whoever wrote them.
const CACHED_BYTES_MAX: usize = 8 << 20;

/// A file without a name, so that nothing is left of it however the program ends. None of it is in the page cache.
pub struct Trial {
    path: PathBuf,
    _open: File,
}

impl Trial {
    /// Writes one into `dir`, which is made if it is missing.
    pub fn write(dir: &Path) -> Result<Self> {
        make_dir(dir)?;
        let named = dir.join(format!("trial-{}.tmp", std::process::id()));
        let write = || -> io::Result<File> {
            let mut file = File::create(&named)?;
            std::fs::remove_file(&named)?;
            // Not zeros: some file systems keep those without writing them.
            let mut state = 0x9e37_79b9_7f4a_7c15_u64;
            let mut piece = vec![0u8; 1 << 20];
            for index in 1..=TRIAL_BYTES / piece.len() {
                for word in piece.chunks_exact_mut(8) {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    word.copy_from_slice(&state.to_le_bytes());
                }
                file.write_all(&piece)?;
                if (index * piece.len()).is_multiple_of(CACHED_BYTES_MAX) {
                    file.sync_data()?;
                    // What writing left in the cache would also be measured instead of the disk. Only a
                    // worse measurement comes of a refusal.
                    let _ = evict_file(&file);
                }
            }
            Ok(file)
        };
        let open =
            write().with_context(|| format!("cannot write a trial file into {}", dir.display()))?;
        Ok(Self { path: format!("/proc/self/fd/{}", open.as_raw_fd()).into(), _open: open })
    }

    /// Where it can be opened as long as this lives.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_file_goes_away() {
        let dir = std::env::temp_dir().join(format!("lowtide-trial-{}", std::process::id()));
        let trial = Trial::write(&dir).unwrap();
        let path = trial.path().to_owned();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), TRIAL_BYTES as u64);
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "nothing to be left");
        drop(trial);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
