//! Standard output: buffered, plain, and quiet when the reader goes away.

use std::fmt;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, StdoutLock, Write};

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
}

impl Stdout {
    /// Locks standard output for this command.
    pub fn lock() -> Self {
        Self { inner: BufWriter::with_capacity(64 << 10, io::stdout().lock()) }
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

fn marked(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::BrokenPipe {
        io::Error::new(ErrorKind::BrokenPipe, StdoutClosed)
    } else {
        io::Error::new(error.kind(), format!("cannot write to standard output: {error}"))
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.inner.write(bytes).map_err(marked)
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
