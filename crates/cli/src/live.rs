//! The line that shows, while an answer is written, what memory and disk are doing. It stands in the
//! last row of the terminal, below a region in which the answer scrolls; where only standard error is
//! a terminal, it is a line that is written over.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lowtide_engine::Engine;
use lowtide_mapping::ProcessMemory;

use crate::human;
use crate::observe::Pass;
use crate::terminal::{self, Restoring};

/// Between two looks.
const EVERY: Duration = Duration::from_millis(250);
/// A terminal with fewer rows has none to spare.
const ROWS_MIN: u16 = 5;

/// What the answer has come to.
#[derive(Debug, Default)]
struct State {
    budget_bytes: AtomicU64,
    tokens: AtomicU64,
    /// Microseconds of passes, and of these, waited for the disk.
    pass_us: AtomicU64,
    wait_us: AtomicU64,
}

/// The line, there until dropped.
pub struct Live {
    state: Arc<State>,
    done: Arc<AtomicBool>,
    drawer: Option<JoinHandle<()>>,
    /// Takes the line away where a signal ends the program.
    _restoring: Option<Restoring>,
}

impl Live {
    /// Shows the line, if standard error is a terminal that understands it. Takes it away when `stop`
    /// is raised, or another signal comes: what follows may be the program's end.
    pub fn begin(engine: &Engine, stop: &Arc<AtomicBool>) -> Option<Self> {
        if !std::io::stderr().is_terminal() || !understands() {
            return None;
        }
        let state = Arc::new(State::default());
        state.budget_bytes.store(engine.budget().total_bytes, Ordering::Relaxed);
        let done = Arc::new(AtomicBool::new(false));
        // Both streams on one terminal: the answer needs the rows above.
        let place = Arc::new(match std::io::stdout().is_terminal() {
            true => Place::LastRow { rows: Mutex::default() },
            false => Place::Here,
        });
        let _restoring = {
            let place = Arc::clone(&place);
            terminal::restoring(move |_| place.clear())
        };
        let drawer = {
            let (state, done, stop) = (Arc::clone(&state), Arc::clone(&done), Arc::clone(stop));
            std::thread::spawn(move || {
                draw_until(&state, &place, || raised(&done) || raised(&stop))
            })
        };
        Some(Self { state, done, drawer: Some(drawer), _restoring })
    }

    /// A pass has ended.
    pub fn after(&self, pass: &Pass) {
        if pass.is_prompt {
            return;
        }
        let us = |seconds: f64| (seconds * 1e6) as u64;
        let wait_s = pass.store.wait_s.min(pass.seconds);
        self.state.tokens.fetch_add(1, Ordering::Relaxed);
        self.state.pass_us.fetch_add(us(pass.seconds), Ordering::Relaxed);
        self.state.wait_us.fetch_add(us(wait_s), Ordering::Relaxed);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.done.store(true, Ordering::SeqCst);
        if let Some(drawer) = self.drawer.take() {
            drawer.thread().unpark();
            // It only draws: there is no result to lose.
            let _ = drawer.join();
        }
    }
}

fn raised(flag: &AtomicBool) -> bool {
    flag.load(Ordering::SeqCst)
}

fn understands() -> bool {
    std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

fn draw_until(state: &State, place: &Place, is_over: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_over() {
        if begun.elapsed() >= EVERY {
            let rss = ProcessMemory::read().map_or(0, |memory| memory.rss_bytes);
            place.show(&line(state, rss));
        }
        std::thread::park_timeout(EVERY);
    }
    place.clear();
}

/// `memory 6.41 of 6.80 GB   0.14 tokens/s   disk waited for 81 %`
fn line(state: &State, rss_bytes: u64) -> String {
    let get = |value: &AtomicU64| value.load(Ordering::Relaxed);
    let (used, budget) = (human::bytes(rss_bytes), human::bytes(get(&state.budget_bytes)));
    let mut line = format!("memory {used} of {budget}");
    let (tokens, pass_us) = (get(&state.tokens), get(&state.pass_us));
    if tokens > 0 && pass_us > 0 {
        let rate = tokens as f64 / (pass_us as f64 / 1e6);
        let share = 100.0 * get(&state.wait_us) as f64 / pass_us as f64;
        line.push_str(&format!("   {rate:.2} tokens/s   waiting for the disk {share:.0} %"));
    }
    line
}

/// Where the line stands.
enum Place {
    /// In the last row; the rows above scroll.
    LastRow { rows: Mutex<Rows> },
    /// Where the cursor is.
    Here,
}

/// What has become of a terminal's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Rows {
    /// Nothing: there was no line yet.
    #[default]
    Whole,
    /// The last one is taken, of a terminal of so many columns and rows.
    Taken(u16, u16),
    /// It was given back, for good.
    Given,
}

impl Rows {
    /// What to write for a line in the last row.
    fn take(&mut self, width: u16, height: u16, line: &str) -> String {
        let mut text = String::new();
        if *self == Self::Given || height < ROWS_MIN {
            return text;
        }
        if *self != Self::Taken(width, height) {
            // A line feed and back up: the cursor is not in the last row when it is taken away.
            text.push_str(&format!("\x1bD\x1b[A\x1b7\x1b[1;{}r\x1b8", height - 1));
            *self = Self::Taken(width, height);
        }
        text.push_str(&format!("\x1b7\x1b[{height};1H\x1b[K\x1b[2m{line}\x1b[0m\x1b8"));
        text
    }

    /// What to write for a terminal as it was.
    fn give(&mut self) -> String {
        match std::mem::replace(self, Self::Given) {
            Self::Taken(_, height) => format!("\x1b7\x1b[r\x1b[{height};1H\x1b[K\x1b8"),
            Self::Whole | Self::Given => String::new(),
        }
    }
}

impl Place {
    fn show(&self, line: &str) {
        let Some((width, height)) = terminal_size::terminal_size_of(std::io::stderr()) else {
            return;
        };
        let (width, height) = (width.0, height.0);
        let line: String = line.chars().take(usize::from(width.saturating_sub(1))).collect();
        match self {
            Self::Here => put(&format!("\r\x1b[K{line}")),
            // Written before the rows can become others.
            Self::LastRow { rows } => with(rows, |rows| put(&rows.take(width, height, &line))),
        }
    }

    fn clear(&self) {
        match self {
            Self::Here => put("\r\x1b[K"),
            Self::LastRow { rows } => with(rows, |rows| put(&rows.give())),
        }
    }
}

fn with(rows: &Mutex<Rows>, act: impl FnOnce(&mut Rows)) {
    act(&mut rows.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
}

/// By one call, so that nothing of the answer comes in between.
fn put(text: &str) {
    let mut stderr = std::io::stderr().lock();
    // Where standard error is closed there is nobody to tell.
    let _ = stderr.write_all(text.as_bytes());
    let _ = stderr.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_memory_speed_and_waiting() {
        let state = State::default();
        state.budget_bytes.store(6_800_000_000, Ordering::Relaxed);
        assert_eq!(line(&state, 6_410_000_000), "memory 6.41 GB of 6.80 GB");
        state.tokens.store(2, Ordering::Relaxed);
        state.pass_us.store(16_000_000, Ordering::Relaxed);
        state.wait_us.store(12_000_000, Ordering::Relaxed);
        assert_eq!(
            line(&state, 6_410_000_000),
            "memory 6.41 GB of 6.80 GB   0.12 tokens/s   waiting for the disk 75 %"
        );
    }

    #[test]
    fn the_last_row_is_given_back_once_and_for_good() {
        let mut rows = Rows::default();
        assert_eq!(rows.take(80, ROWS_MIN - 1, "x"), "");
        let first = rows.take(80, 24, "x");
        assert!(first.contains("\x1b[1;23r"), "{first:?}");
        assert!(!rows.take(80, 24, "x").contains("\x1b[1;23r"), "it scrolls above already");
        assert!(rows.take(80, 30, "x").contains("\x1b[1;29r"), "the terminal was made larger");
        assert!(rows.give().starts_with("\x1b7\x1b[r\x1b[30;1H"));
        assert_eq!((rows.give(), rows.take(80, 30, "x")), (String::new(), String::new()));
    }
}
