//! The outline of a hub's model: files of the true length with nothing in them but their headers, so
//! that all that looks at headers works as if the model were here.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use lowtide_gguf::{Error as GgufError, Gguf};

use super::http::{Client, HttpError, Source};
use super::hub::{Hub, HubFile};
use super::hub_name::HubName;
use super::{Store, make_dir};
use crate::failure::{Failure, STATUS_INPUT};
use crate::human;

/// The first request: most headers with small vocabularies, and all of a split set's later parts.
const FIRST_BYTES: u64 = 1 << 20;
/// The longest header that is fetched. Those with the largest vocabularies published (262,144
/// tokens) have below 20 MB.
const HEADER_BYTES_MAX: u64 = 256 << 20;

/// A model without its weights, there until dropped.
pub struct Outline {
    dir: PathBuf,
    first: PathBuf,
    fetched_bytes: u64,
}

impl Outline {
    /// Fetches the headers of the files that `name` means.
    pub fn fetch(store: &Store, name: &HubName, hub: &Hub, client: &Client) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let files = hub.files(client, name)?;
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        // On the disk that the model would be on: what reading it would be like is a matter of that.
        let dir = store.dir().join("fetch").join(format!("outline-{}-{n}", std::process::id()));
        make_dir(&dir)?;
        let mut outline = Self { first: dir.clone(), dir, fetched_bytes: 0 };
        for (i, file) in files.iter().enumerate() {
            let (header, total) =
                header(file, hub, client).map_err(|error| error.told(name, hub, file))?;
            outline.fetched_bytes += header.len() as u64;
            let path = outline.write(file, &header, total)?;
            if i == 0 {
                outline.first = path;
            }
        }
        Ok(outline)
    }

    /// The file, or the first of a split set.
    pub fn path(&self) -> &Path {
        &self.first
    }

    /// Bytes that were fetched: headers, and what came with them.
    pub fn fetched_bytes(&self) -> u64 {
        self.fetched_bytes
    }

    fn write(&self, file: &HubFile, header: &[u8], total: u64) -> Result<PathBuf> {
        // The parts of a set lie side by side, as they do on the hub.
        let path = self.dir.join(Path::new(&file.path).file_name().unwrap_or_default());
        let write = || -> std::io::Result<()> {
            let mut out = File::create_new(&path)?;
            out.write_all(header)?;
            out.set_len(total)
        };
        write().with_context(|| {
            format!("cannot outline {} of {} in {}", file.path, human::bytes(total), path.display())
        })?;
        Ok(path)
    }
}

impl Drop for Outline {
    fn drop(&mut self) {
        // What cannot be removed has been removed by somebody else.
        let _ = fs::remove_dir_all(&self.dir);
        // Gone only if empty: a fetch may be under way in it.
        let _ = self.dir.parent().map(fs::remove_dir);
    }
}

/// Why there is no header.
enum Refused {
    Http(HttpError),
    Gguf(GgufError),
    TooLong,
}

impl Refused {
    fn told(self, name: &HubName, hub: &Hub, file: &HubFile) -> anyhow::Error {
        let url = &file.url;
        match self {
            Self::Http(error) => hub.refused(name, &error).into(),
            Self::Gguf(error) => Failure::from_lines(&error, STATUS_INPUT).about(url).into(),
            Self::TooLong => Failure::input(format!("{url} has no end to its header"))
                .why(format!("{} were looked at", human::bytes(HEADER_BYTES_MAX)))
                .into(),
        }
    }
}

/// A file's header, maybe with a piece of what follows, and the file's length.
fn header(file: &HubFile, hub: &Hub, client: &Client) -> Result<(Vec<u8>, u64), Refused> {
    let source =
        Source { url: &file.url, token: hub.token(), bytes: file.bytes, ..Source::default() };
    let mut bytes = Vec::new();
    let mut wanted = FIRST_BYTES;
    loop {
        let total = client.extend_prefix(&source, &mut bytes, wanted).map_err(Refused::Http)?;
        match Gguf::parse_header(&bytes, total) {
            Ok(_) => return Ok((bytes, total)),
            Err(GgufError::NeedMore { .. }) if wanted >= HEADER_BYTES_MAX => {
                return Err(Refused::TooLong);
            }
            Err(GgufError::NeedMore { .. }) if (bytes.len() as u64) < total => {
                wanted = wanted.saturating_mul(2);
            }
            Err(error) => return Err(Refused::Gguf(error)),
        }
    }
}
