//! The terminal is left as it was found, also where a signal ends the program: `timeout`, a closed
//! window, a second Ctrl-C.

use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::time::Duration;

use nix::sys::termios::{SetArg, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

/// A terminal that takes nothing (Ctrl-S) keeps no program from its end for longer than this.
const RESTORE_MAX: Duration = Duration::from_millis(200);

/// What is to be done, by number. Told whether the signal ends the program; a first Ctrl-C does not.
type Restore = Box<dyn Fn(bool) + Send>;

static RESTORES: Mutex<Vec<(u64, Restore)>> = Mutex::new(Vec::new());

/// Its action is taken until it is dropped.
pub struct Restoring(u64);

impl Drop for Restoring {
    fn drop(&mut self) {
        restores().retain(|(number, _)| *number != self.0);
    }
}

/// Has `restore` done when a signal comes that ends the program, and at a Ctrl-C; it is told whether this is the end.
/// `None` where signals cannot be watched: then it is not done.
pub fn restoring(restore: impl Fn(bool) + Send + 'static) -> Option<Restoring> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    static WATCHED: OnceLock<bool> = OnceLock::new();
    if !WATCHED.get_or_init(|| watch().is_ok()) {
        return None;
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    restores().push((number, Box::new(restore)));
    Some(Restoring(number))
}

/// Keeps the settings that standard input's terminal has now: while a line is typed it has others.
pub fn keep_settings() -> Option<Restoring> {
    let stdin = std::io::stdin();
    let settings = stdin.is_terminal().then(|| tcgetattr(&stdin).ok()).flatten()?;
    let terminal = std::fs::File::from(stdin.as_fd().try_clone_to_owned().ok()?);
    let restore = move |ends: bool| {
        if ends {
            // What cannot be undone stays: there is nobody to tell.
            let _ = tcsetattr(&terminal, SetArg::TCSANOW, &settings);
            // Pasted text comes as it is again.
            let _ = (&terminal).write_all(b"\x1b[?2004l");
        }
    };
    restoring(restore)
}

fn restores() -> MutexGuard<'static, Vec<(u64, Restore)>> {
    RESTORES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Those that are ignored (`nohup`) stay so.
fn watch() -> std::io::Result<()> {
    let ignored = ignored_signals();
    let watched = [SIGINT, SIGTERM, SIGHUP, SIGQUIT];
    let watched = watched.into_iter().filter(|signal| ignored & (1 << (signal - 1)) == 0);
    let mut signals = Signals::new(watched)?;
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            restore_all(signal != SIGINT);
            if signal != SIGINT {
                // Only a signal that has no default could fail.
                let _ = emulate_default_handler(signal);
            }
        }
    })?;
    Ok(())
}

fn restore_all(ends: bool) {
    let (done, is_done) = mpsc::channel();
    std::thread::spawn(move || {
        restores().iter().rev().for_each(|(_, restore)| restore(ends));
        // Nobody waits any more where it took too long.
        let _ = done.send(());
    });
    let _ = is_done.recv_timeout(RESTORE_MAX);
}

/// A bit for each, as `/proc/self/status` has it; none where that cannot be read.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}
