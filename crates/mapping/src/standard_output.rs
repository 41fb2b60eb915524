//! Whether there is a standard output.
//!
//! Where a program is started without one (`>&-` in a shell), Rust's runtime opens `/dev/null` in its place
//! before `main`, so that no file that is opened later becomes it. What is printed is then lost without an
//! error. The only moment to see it is before the runtime starts.

use std::sync::atomic::{AtomicBool, Ordering};

static WAS_CLOSED: AtomicBool = AtomicBool::new(false);

extern "C" fn look() {
    // SAFETY: F_GETFD takes no argument and changes nothing; a descriptor that is not open is an error.
    if unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) } == -1 {
        WAS_CLOSED.store(true, Ordering::Relaxed);
    }
}

// SAFETY: the section holds addresses of functions that the C runtime calls before `main`, on the only thread
// there is; `look` has their type but for arguments, which it leaves alone, and needs nothing of Rust's runtime.
#[used]
#[unsafe(link_section = ".init_array")]
static LOOK: extern "C" fn() = look;

/// Whether the process was started with standard output closed.
#[must_use]
pub fn stdout_was_closed() -> bool {
    WAS_CLOSED.load(Ordering::Relaxed)
}
