//! The io_uring engine: one system call starts many reads, and none is needed to see their ends.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};

use super::engine::{Done, Piece};
use crate::arena::Region;
use crate::open::is_served;
use crate::{Arena, DirectFile, Error};

/// The largest buffer that can be registered as one.
const REGISTERED_BYTES_MAX: usize = 1 << 30;

/// Rings with what is on its way through them.
pub(super) struct Uring {
    ring: IoUring,
    /// Each file, and whether its reads go to the kernel's own threads at once. Where a server answers them
    /// (FUSE and network file systems), the call that submits a read waits for the answer itself: one read
    /// at a time, and no deadline would be kept.
    files: Vec<(RawFd, squeue::Flags)>,
    /// The piece behind each `user_data`.
    table: Vec<Option<Piece>>,
    free: Vec<u32>,
    /// Entries in the submission ring that the kernel has not been told of.
    unsubmitted: usize,
    /// Registered buffers: first address and length, in the order of their indices.
    buffers: Vec<(usize, usize)>,
    /// Keeps registered memory mapped, so that its addresses stay what the kernel knows them as.
    regions: Vec<Region>,
}

impl Uring {
    /// More reads at a time than this are no use.
    pub(super) const MAX: usize = 1024;

    pub(super) fn new(files: &[DirectFile], depth: usize) -> Result<Self, Error> {
        let refused = |source| Error::UringRefused { source };
        // At most Uring::MAX, by the front's check_options.
        let mut ring = IoUring::new(depth as u32).map_err(refused)?;
        if !ring.params().is_feature_ext_arg() {
            // Before Linux 5.11 a wait cannot have a timeout.
            return Err(refused(io::Error::from_raw_os_error(libc::ENOSYS)));
        }
        try_out(&mut ring).map_err(refused)?;
        Ok(Self {
            ring,
            files: files.iter().map(submission).collect(),
            table: vec![None; depth],
            free: (0..depth as u32).rev().collect(),
            unsubmitted: 0,
            buffers: Vec::new(),
            regions: Vec::new(),
        })
    }

    pub(super) fn in_flight(&self) -> usize {
        self.table.len() - self.free.len()
    }

    pub(super) fn start(&mut self, piece: Piece) {
        // The front starts no more than `depth` pieces, so there is an entry.
        let Some(index) = self.free.pop() else { return };
        self.table[index as usize] = Some(piece);
        let entry = self.entry(&piece).user_data(u64::from(index));
        let mut submission = self.ring.submission();
        // SAFETY: the front owns the slot that the entry points to until it has seen this piece's end,
        // and leaks it where that never comes; the file is open as long as the queue lives.
        let pushed = unsafe { submission.push(&entry) };
        debug_assert!(pushed.is_ok(), "the ring has an entry for each piece of the depth");
        self.unsubmitted += 1;
    }

    fn entry(&self, piece: &Piece) -> squeue::Entry {
        let (fd, flags) = self.files[piece.file as usize];
        let fd = Fd(fd);
        // At most 1 GiB, by the front's check_options.
        let length = piece.length as u32;
        let entry = match self.buffer_of(piece) {
            Some(buffer) => {
                opcode::ReadFixed::new(fd, piece.into, length, buffer).offset(piece.offset).build()
            }
            None => opcode::Read::new(fd, piece.into, length).offset(piece.offset).build(),
        };
        entry.flags(flags)
    }

    /// The registered buffer that holds all of a piece's memory.
    fn buffer_of(&self, piece: &Piece) -> Option<u16> {
        let start = piece.into.addr();
        let holds = |&(base, length): &(usize, usize)| {
            start >= base && start + piece.length <= base + length
        };
        u16::try_from(self.buffers.iter().position(holds)?).ok()
    }

    /// Tells the kernel of the entries pushed since the last call.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        if self.unsubmitted == 0 {
            return Ok(());
        }
        match self.ring.submit() {
            Ok(taken) => {
                self.unsubmitted -= taken.min(self.unsubmitted);
                Ok(())
            }
            Err(error) if is_passing(&error) => Ok(()),
            Err(source) => Err(Error::Call { call: "io_uring_enter", source }),
        }
    }

    pub(super) fn poll(&mut self) -> Option<Done> {
        let entry = self.ring.completion().next()?;
        let index = u32::try_from(entry.user_data()).ok()?;
        let piece = self.table.get_mut(index as usize)?.take()?;
        self.free.push(index);
        let result = usize::try_from(entry.result())
            .map_err(|_| io::Error::from_raw_os_error(entry.result().saturating_neg()));
        Some(Done { piece, result })
    }

    /// Waits until a piece is done or the time is over; submits what was not.
    pub(super) fn wait(&mut self, timeout: Duration) -> Result<(), Error> {
        let timespec = Timespec::from(timeout);
        let arguments = SubmitArgs::new().timespec(&timespec);
        match self.ring.submitter().submit_with_args(1, &arguments) {
            Ok(taken) => {
                self.unsubmitted -= taken.min(self.unsubmitted);
                Ok(())
            }
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => {
                // How many were taken is not said then; the ring knows.
                self.unsubmitted = self.ring.submission().len();
                Ok(())
            }
            Err(error) if is_passing(&error) => Ok(()),
            Err(source) => Err(Error::Call { call: "io_uring_enter", source }),
        }
    }

    /// Registers arenas in buffers of at most 1 GiB. False where the kernel refuses.
    pub(super) fn register(&mut self, arenas: &[&Arena]) -> bool {
        if !self.buffers.is_empty() || self.in_flight() > 0 {
            return false;
        }
        let regions: Vec<Region> = arenas.iter().map(|arena| arena.region()).collect();
        let mut vectors = Vec::new();
        for region in &regions {
            let (base, length) = region.parts();
            for start in (0..length).step_by(REGISTERED_BYTES_MAX) {
                // SAFETY: start < length, so this stays inside the arena.
                let first = unsafe { base.add(start) };
                let length = (length - start).min(REGISTERED_BYTES_MAX);
                vectors.push(libc::iovec { iov_base: first.cast(), iov_len: length });
            }
        }
        // SAFETY: the vectors are the arenas' memory, which `regions` keeps mapped as long as the ring.
        if unsafe { self.ring.submitter().register_buffers(&vectors) }.is_err() {
            return false;
        }
        self.buffers = vectors.iter().map(|v| (v.iov_base.addr(), v.iov_len)).collect();
        self.regions = regions;
        true
    }
}

/// A file's descriptor, and how its reads are submitted.
fn submission(file: &DirectFile) -> (RawFd, squeue::Flags) {
    let flags = match is_served(file.file()) {
        true => squeue::Flags::ASYNC,
        false => squeue::Flags::empty(),
    };
    (file.file().as_raw_fd(), flags)
}

/// One operation that does nothing: some sandboxes allow the set-up and refuse the use.
fn try_out(ring: &mut IoUring) -> io::Result<()> {
    let entry = opcode::Nop::new().build();
    // SAFETY: the entry refers to no memory.
    let pushed = unsafe { ring.submission().push(&entry) };
    pushed.map_err(|_| io::Error::from_raw_os_error(libc::EBUSY))?;
    loop {
        match ring.submit_and_wait(1) {
            Ok(_) => break,
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => {}
            Err(error) => return Err(error),
        }
    }
    match ring.completion().next() {
        Some(done) if done.result() < 0 => Err(io::Error::from_raw_os_error(-done.result())),
        Some(_) => Ok(()),
        None => Err(io::Error::from_raw_os_error(libc::EIO)),
    }
}

/// Whether the kernel only asks to be called again later.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN | libc::EBUSY))
}
