//! Writing a large file past the page cache.
//!
//! Through the cache, 18 GB of dirty pages evict whatever the machine had and are then written at the kernel's pace: 0.16 GB/s
//! where O_DIRECT gave 0.9 (2 vCPU VM, virtio disk, both cores busy). So: large aligned buffers, two requests in flight.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Mutex, PoisonError};

/// O_DIRECT wants address, offset and length in multiples of the disk's block; a page serves every disk.
const ALIGN: usize = 4096;

/// Bytes of one request.
const BUFFER_BYTES: usize = 8 << 20;

/// Requests in flight.
const WRITERS: usize = 2;

/// A buffer whose used part starts on a multiple of [`ALIGN`].
struct Buffer {
    bytes: Vec<u8>,
    start: usize,
    len: usize,
}

impl Buffer {
    fn new() -> Buffer {
        let bytes = vec![0; BUFFER_BYTES + ALIGN];
        // The vector is never resized, so the address stays what it is.
        let start = bytes.as_ptr().align_offset(ALIGN).min(ALIGN);
        Buffer { bytes, start, len: 0 }
    }

    fn used(&self) -> &[u8] {
        &self.bytes[self.start..self.start + self.len]
    }

    /// Takes what fits of `data`; gives how much that was.
    fn take(&mut self, data: &[u8]) -> usize {
        let taken = data.len().min(BUFFER_BYTES - self.len);
        let at = self.start + self.len;
        self.bytes[at..at + taken].copy_from_slice(&data[..taken]);
        self.len += taken;
        taken
    }
}

/// Collects what is written into buffers and hands full ones to the writers.
struct Collector {
    current: Buffer,
    offset: u64,
    full: SyncSender<(u64, Buffer)>,
    free: Receiver<Buffer>,
}

impl Collector {
    /// Cannot wait for ever on writers that have failed: each keeps one buffer, so at most [`WRITERS`] of the four are left, which is what
    /// `full` holds; after those `free` reports that nobody will return any.
    fn hand_over(&mut self) -> io::Result<()> {
        let gone = |_| io::Error::other("the writers have stopped");
        let next = self.free.recv().map_err(|e| io::Error::other(e.to_string()))?;
        let full = std::mem::replace(&mut self.current, next);
        let offset = self.offset;
        self.offset += full.len as u64;
        self.full.send((offset, full)).map_err(gone)
    }

    /// Pads the last buffer with zeros to the alignment and hands it over; the file is cut to its length afterwards.
    fn finish(mut self) -> io::Result<()> {
        let padding = self.current.len.next_multiple_of(ALIGN) - self.current.len;
        self.write_all(&[0; ALIGN][..padding])?;
        if self.current.len > 0 { self.hand_over() } else { Ok(()) }
    }
}

impl Write for Collector {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let taken = self.current.take(data);
        if self.current.len == BUFFER_BYTES {
            self.hand_over()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Creates `path` and writes `bytes` bytes to it, those that `produce` writes to the writer it is given.
pub(super) fn write_file(
    path: &Path,
    bytes: u64,
    produce: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let file = create(path)?;
    let (full, full_receiver) = sync_channel(WRITERS);
    let (free, free_receiver) = channel();
    let full_receiver = Mutex::new(full_receiver);
    let failure = Mutex::new(None);
    let produced = std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            // Two per writer: one being written, one being filled or waiting.
            for _ in 0..2 {
                free.send(Buffer::new()).map_err(|e| io::Error::other(e.to_string()))?;
            }
            let free = free.clone();
            let (file, full, failure) = (&file, &full_receiver, &failure);
            scope.spawn(move || write_buffers(file, full, &free, failure));
        }
        drop(free);
        let current = Buffer::new();
        let mut collector = Collector { current, offset: 0, full, free: free_receiver };
        produce(&mut collector)?;
        collector.finish()
    });
    // What a writer met is the cause of what the collector saw.
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    produced?;
    file.set_len(bytes)?;
    file.sync_all()
}

fn write_buffers(
    file: &File,
    full: &Mutex<Receiver<(u64, Buffer)>>,
    free: &Sender<Buffer>,
    failure: &Mutex<Option<io::Error>>,
) {
    loop {
        // Received under the lock, written without it.
        let received = full.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((offset, mut buffer)) = received else { return };
        if let Err(error) = file.write_all_at(buffer.used(), offset) {
            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            return;
        }
        buffer.len = 0;
        // A collector that is done takes no buffers back, but may have left full ones in the queue: those are still to be written.
        let _ = free.send(buffer);
    }
}

/// Opens for direct writing, or plainly where the file system has none (tmpfs).
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(target_os = "linux")]
    if let Ok(file) = options.clone().custom_flags(libc::O_DIRECT).open(path) {
        return Ok(file);
    }
    options.open(path)
}
