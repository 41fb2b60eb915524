//! Standard output: buffered, plain, and quiet when the reader goes away.

use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, StdoutLock, Write};
use std::os::fd::AsFd;

use lowtide_mapping::{evict_file, stdout_was_closed};

use crate::failure::Failure;

/// Marks an error as "the reader of standard output has closed it".
#[derive(Debug)]
pub struct StdoutClosed;

impl StdoutClosed {
    /// Whether this cause, or the I/O error it is, carries the mark.
    pub fn is(cause: &(dyn std::error::Error + 'static)) -> bool {
        cause.is::<Self>()
            || cause
                .downcast_ref::<io::Error>()
                .and_then(io::Error::get_ref)
                .is_some_and(|inner| inner.is::<Self>())
    }
}

impl fmt::Display for StdoutClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output was closed by its reader")
    }
}

impl std::error::Error for StdoutClosed {}

/// The one writer to standard output. Call [`Stdout::finish`] at the end: a full disk behind a
/// redirection is an error, not a silent loss.
pub struct Stdout {
    inner: BufWriter<StdoutLock<'static>>,
    /// The file it goes to, if it is one.
    file: Option<File>,
    /// Bytes written since the page cache was last rid of them.
    cached_bytes: usize,
}

/// A file's pages in the page cache count as this process's memory: no more of them than this.
const CACHED_BYTES_MAX: usize = 4 << 20;

impl Stdout {
    /// Locks standard output for this command.
    pub fn lock() -> Self {
        let file = io::stdout().as_fd().try_clone_to_owned().map(File::from).ok();
        let is_file = |file: &File| file.metadata().is_ok_and(|meta| meta.is_file());
        let inner = BufWriter::with_capacity(64 << 10, io::stdout().lock());
        Self { inner, file: file.filter(is_file), cached_bytes: 0 }
    }

    /// Writes what is buffered and reports what cannot be written.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush()
    }

    /// One JSON document and a line end.
    pub fn json(mut self, document: &impl serde::Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self, document).map_err(io::Error::from)?;
        self.write_all(b"\n")?;
        self.finish()
    }
}

/// The line of an answer that is being written.
#[derive(Debug, Default)]
pub struct TextLine {
    is_begun: bool,
}

impl TextLine {
    /// A piece of it as it comes: seen at once.
    pub fn write(&mut self, out: &mut impl Write, piece: &str) -> io::Result<()> {
        if !piece.is_empty() {
            self.is_begun = !piece.ends_with('\n');
        }
        out.write_all(piece.as_bytes())?;
        out.flush()
    }

    /// Ends it where it was begun.
    pub fn end(self, out: &mut impl Write) -> io::Result<()> {
        if self.is_begun {
            out.write_all(b"\n")?;
        }
        out.flush()
    }
}

/// Refuses to work for a result that nobody can get.
pub fn check_open() -> anyhow::Result<()> {
    if !stdout_was_closed() {
        return Ok(());
    }
    Err(Failure::running("standard output is closed, there is nowhere to print the result")
        .mend("lowtide ... > FILE")
        .into())
}

fn marked(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::BrokenPipe {
        io::Error::new(ErrorKind::BrokenPipe, StdoutClosed)
    } else {
        io::Error::new(error.kind(), format!("cannot write to standard output: {error}"))
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes).map_err(marked)?;
        self.cached_bytes += written;
        if self.cached_bytes >= CACHED_BYTES_MAX {
            self.cached_bytes = 0;
            if let Some(file) = &self.file {
                // Where it cannot be done, the kernel does it when it must.
                let _ = evict_file(file);
            }
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush().map_err(marked)
    }
}

/// Colour only on a terminal, and only where it is wanted.
pub fn is_coloured() -> bool {
    io::stdout().is_terminal() && crate::failure::colour_is_wanted()
}

/// Columns of standard output: the terminal's, else `COLUMNS`, 100 for files and pipes.
pub fn width() -> usize {
    let terminal = terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    let stated = || std::env::var("COLUMNS").ok()?.parse().ok();
    terminal.or_else(stated).unwrap_or(100).clamp(50, 240)
}
