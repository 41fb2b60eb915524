//! Ctrl-C. Normally it ends the program with status 130. While an answer is being written it only
//! raises a flag: the answer stops, the statistics are printed; a second Ctrl-C ends the program.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use signal_hook::consts::SIGINT;
use signal_hook::flag;

use crate::failure::STATUS_INTERRUPTED;

struct Handlers {
    /// While true, Ctrl-C ends the program at once.
    fatal: Arc<AtomicBool>,
    /// Raised by Ctrl-C.
    stop: Arc<AtomicBool>,
}

static HANDLERS: OnceLock<Handlers> = OnceLock::new();

/// Installs the handler; once, at start.
pub fn install() -> io::Result<()> {
    let handlers =
        Handlers { fatal: Arc::new(AtomicBool::new(true)), stop: Arc::new(AtomicBool::new(false)) };
    // Order matters: the shutdown is asked first, so that the flag raised below counts only from
    // the next Ctrl-C on.
    flag::register_conditional_shutdown(
        SIGINT,
        i32::from(STATUS_INTERRUPTED),
        Arc::clone(&handlers.fatal),
    )?;
    flag::register(SIGINT, Arc::clone(&handlers.fatal))?;
    flag::register(SIGINT, Arc::clone(&handlers.stop))?;
    // A second call would only add a second, equal set of handlers.
    let _ = HANDLERS.set(handlers);
    Ok(())
}

/// While it lives, the first Ctrl-C raises [`Interruptible::flag`] instead of ending the program.
pub struct Interruptible {
    stop: Arc<AtomicBool>,
}

impl Interruptible {
    /// Lowers the flag and takes Ctrl-C over. Without [`install`] the flag is never raised.
    pub fn begin() -> Self {
        let stop = match HANDLERS.get() {
            Some(handlers) => {
                handlers.stop.store(false, Ordering::SeqCst);
                handlers.fatal.store(false, Ordering::SeqCst);
                Arc::clone(&handlers.stop)
            }
            None => Arc::new(AtomicBool::new(false)),
        };
        Self { stop }
    }

    /// The flag, for those who poll it.
    pub fn flag(&self) -> &Arc<AtomicBool> {
        &self.stop
    }

    /// For an engine, which asks after each layer whether to go on: a pass of a long prompt, or of a model that is
    /// read from disk, takes seconds.
    pub fn goes_on(&self) -> impl FnMut() -> bool + Send + use<> {
        let flag = Arc::clone(&self.stop);
        move || !flag.load(Ordering::SeqCst)
    }

    /// Whether Ctrl-C was pressed since [`Interruptible::begin`].
    pub fn is_raised(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

impl Drop for Interruptible {
    fn drop(&mut self) {
        if let Some(handlers) = HANDLERS.get() {
            handlers.fatal.store(true, Ordering::SeqCst);
        }
    }
}
