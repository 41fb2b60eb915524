//! The backstop for a touch of a mapped page that cannot be read: SIGBUS becomes zero bytes and a flag.
//!
//! Opt-in, because signal handlers belong to the program. Every file mapping enters its addresses in a fixed
//! table of atomics; the handler looks the fault up there. If it lies in a mapping, anonymous zero pages are
//! mapped over the rest of the mapping from the fault on, at most [`COVERED_BYTES`] at a time, the mapping is marked, and the
//! touch goes on, over zeroes. Whoever computes from the mapping asks [`crate::Mapping::is_poisoned`] before
//! a result leaves. Any other SIGBUS goes to the handler that was there before, or kills as it would have.
//!
//! The handler only uses atomics and the system calls `mmap` and `sigaction`. `mmap` is not on POSIX's list of
//! async-signal-safe functions, but on Linux it is a bare system call (memory managers in use rely on it).

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering};

use crate::Error;
use crate::page::{align_down, page_size};
use crate::sys::{self, MmapArguments};

/// Mappings that can be watched at a time: a split model has some hundred shards at most.
pub const WATCHED_MAX: usize = 512;

/// How much is covered by zero pages at one fault: a gigabyte past a truncation costs 512 signals instead
/// of 262,144, and a single bad block does not blank the whole model.
pub const COVERED_BYTES: usize = 2 << 20;

/// One watched mapping. `sequence` is odd while the owner changes the entry, so that the handler never
/// pairs one mapping's start with another's end.
struct Entry {
    claimed: AtomicBool,
    sequence: AtomicU32,
    start: AtomicUsize,
    end: AtomicUsize,
    protection: AtomicI32,
    /// Address of the first page that failed; 0 while none has.
    failed: AtomicUsize,
}

static TABLE: [Entry; WATCHED_MAX] = [const {
    Entry {
        claimed: AtomicBool::new(false),
        sequence: AtomicU32::new(0),
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        protection: AtomicI32::new(0),
        failed: AtomicUsize::new(0),
    }
}; WATCHED_MAX];

/// The page size, where the handler can read it without a lock.
static PAGE_BYTES: AtomicUsize = AtomicUsize::new(4096);

/// What handled SIGBUS before us. Set before our handler is installed, never changed.
static PREVIOUS: OnceLock<Previous> = OnceLock::new();

struct Previous(libc::sigaction);

// SAFETY: a sigaction is plain numbers; the handler address in it is only called, never changed.
unsafe impl Send for Previous {}
// SAFETY: as above.
unsafe impl Sync for Previous {}

/// An entry in the table, given back when dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    index: usize,
}

impl Watch {
    /// Watches a range of addresses; `None` where the table is full.
    pub(crate) fn new(range: Range<usize>, protection: libc::c_int) -> Option<Self> {
        let claim = |entry: &Entry| {
            entry.claimed.compare_exchange(false, true, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let index = TABLE.iter().position(claim)?;
        let watch = Self { index };
        let entry = watch.entry();
        entry.sequence.fetch_add(1, Ordering::SeqCst);
        entry.protection.store(protection, Ordering::SeqCst);
        entry.failed.store(0, Ordering::SeqCst);
        entry.start.store(range.start, Ordering::SeqCst);
        entry.end.store(range.end, Ordering::SeqCst);
        entry.sequence.fetch_add(1, Ordering::SeqCst);
        Some(watch)
    }

    fn entry(&self) -> &'static Entry {
        // `index` came from `position` over the same table.
        &TABLE[self.index]
    }

    pub(crate) fn set_protection(&self, protection: libc::c_int) {
        self.entry().protection.store(protection, Ordering::SeqCst);
    }

    pub(crate) fn is_poisoned(&self) -> bool {
        self.entry().failed.load(Ordering::Acquire) != 0
    }

    /// Address of the page that failed first.
    pub(crate) fn first_failure(&self) -> Option<usize> {
        Some(self.entry().failed.load(Ordering::Acquire)).filter(|&address| address != 0)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let entry = self.entry();
        entry.sequence.fetch_add(1, Ordering::SeqCst);
        entry.start.store(0, Ordering::SeqCst);
        entry.end.store(0, Ordering::SeqCst);
        entry.sequence.fetch_add(1, Ordering::SeqCst);
        entry.claimed.store(false, Ordering::Release);
    }
}

/// Installs the handler, once per process; later calls do nothing.
///
/// # Errors
/// `Call` where `sigaction` fails.
pub fn install_sigbus_guard() -> Result<(), Error> {
    static INSTALLED: std::sync::Mutex<bool> = std::sync::Mutex::new(false);
    let mut installed = INSTALLED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if *installed {
        return Ok(());
    }
    PAGE_BYTES.store(page_size(), Ordering::SeqCst);
    // SAFETY: a sigaction is plain numbers, for which zero is a value.
    let mut previous: libc::sigaction = unsafe { std::mem::zeroed() };
    // SAFETY: no new action is passed; `previous` is a sigaction to write to.
    if unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut previous) } != 0 {
        return Err(Error::last_call("sigaction(SIGBUS)"));
    }
    PREVIOUS.get_or_init(|| Previous(previous));
    // SAFETY: as above.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
    action.sa_sigaction = handler as *const () as usize;
    // On the alternate stack, as std sets one up for each thread: the fault may be on a full stack.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `action` is complete, and `on_sigbus` is async-signal-safe (module documentation).
    if unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) } != 0 {
        return Err(Error::last_call("sigaction(SIGBUS)"));
    }
    *installed = true;
    Ok(())
}

extern "C" fn on_sigbus(
    signal: libc::c_int,
    info: *mut libc::siginfo_t,
    context: *mut libc::c_void,
) {
    // SAFETY: errno is this thread's own.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: the pointer that __errno_location gives is valid for the thread's life.
    let saved = unsafe { errno.read() };
    // SAFETY: with SA_SIGINFO the kernel passes a valid siginfo_t.
    let code = unsafe { (*info).si_code };
    // Codes of 0 and below mean that a process sent the signal: then there is no fault address.
    let covered = code > 0 && {
        // SAFETY: as above; the reference ends before the handler does.
        let info = unsafe { &*info };
        // SAFETY: a SIGBUS from the kernel has an address.
        cover(unsafe { info.si_addr() }.addr())
    };
    // SAFETY: as above.
    unsafe { errno.write(saved) };
    if !covered {
        chain(signal, info, context);
    }
}

/// Maps zero pages over the failed one if a watched mapping holds it.
fn cover(address: usize) -> bool {
    TABLE.iter().any(|entry| {
        let before = entry.sequence.load(Ordering::SeqCst);
        let start = entry.start.load(Ordering::SeqCst);
        let end = entry.end.load(Ordering::SeqCst);
        let after = entry.sequence.load(Ordering::SeqCst);
        // The mapping that is being touched is borrowed, so its own entry cannot be changing.
        let stable = before == after && before.is_multiple_of(2);
        stable && (start..end).contains(&address) && cover_in(entry, address, end)
    })
}

fn cover_in(entry: &Entry, address: usize, end: usize) -> bool {
    let page = align_down(address, PAGE_BYTES.load(Ordering::SeqCst));
    let arguments = MmapArguments {
        address: page,
        length: COVERED_BYTES.min(end - page),
        protection: entry.protection.load(Ordering::SeqCst),
        flags: libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED,
        file: None,
        offset: 0,
    };
    // Marked first: another thread that reads the zeroes then finds the mark.
    let _ = entry.failed.compare_exchange(0, page, Ordering::SeqCst, Ordering::SeqCst);
    // SAFETY: the range lies in a live mapping of this crate, whose bytes are lost from the fault on
    // (the module documentation says what that means for pages after the fault that were not).
    unsafe { sys::mmap(&arguments) }.is_ok()
}

/// Hands a SIGBUS that is not ours to whoever had it before.
fn chain(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS.get().map(|previous| &previous.0);
    let handler = previous.map_or(libc::SIG_DFL, |previous| previous.sa_sigaction);
    if handler == libc::SIG_DFL || handler == libc::SIG_IGN {
        // Ignoring a fault is not possible either: the touch would fault for ever. The default action
        // is restored, and the touch, repeated on return, ends the process as it would have.
        // SAFETY: a sigaction is plain numbers, for which zero is a value (SIG_DFL).
        let default: libc::sigaction = unsafe { std::mem::zeroed() };
        // SAFETY: sigaction is async-signal-safe, `default` is complete.
        unsafe { libc::sigaction(signal, &raw const default, std::ptr::null_mut()) };
        // SAFETY: the kernel's siginfo_t, as in on_sigbus.
        if unsafe { (*info).si_code } <= 0 {
            // Sent by a process: nothing will fault again on return, so it is sent again.
            // SAFETY: raise is async-signal-safe.
            unsafe { libc::raise(signal) };
        }
        return;
    }
    let flags = previous.map_or(0, |previous| previous.sa_flags);
    if flags & libc::SA_SIGINFO != 0 {
        type Handler = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
        // SAFETY: the kernel gave us this address as a handler of this type (SA_SIGINFO is set).
        let handler: Handler = unsafe { std::mem::transmute::<usize, Handler>(handler) };
        handler(signal, info, context);
    } else {
        type Handler = extern "C" fn(libc::c_int);
        // SAFETY: the kernel gave us this address as a handler of this type (SA_SIGINFO is not set).
        let handler: Handler = unsafe { std::mem::transmute::<usize, Handler>(handler) };
        handler(signal);
    }
}
