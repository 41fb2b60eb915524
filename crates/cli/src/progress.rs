//! Progress of long work on standard error: a bar on a terminal, single plain lines elsewhere.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::colour_is_wanted;
use crate::human;

/// Without a terminal: at most one line in this time. Logs stay short, and still show life.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Work shorter than this leaves no trace in a log.
const LINE_FIRST: Duration = Duration::from_secs(2);

/// Bytes on their way.
pub struct Transfer {
    bar: Option<ProgressBar>,
    lines: Mutex<Lines>,
}

struct Lines {
    label: String,
    total: Option<u64>,
    done: u64,
    already: u64,
    started: Instant,
    next_line: Instant,
    lines_printed: u32,
}

impl Transfer {
    /// Starts at `already` of `total` bytes.
    pub fn begin(label: &str, total: Option<u64>, already: u64) -> Self {
        let now = Instant::now();
        let lines = Lines {
            label: label.to_owned(),
            total,
            done: already,
            already,
            started: now,
            next_line: now + LINE_FIRST,
            lines_printed: 0,
        };
        let bar = std::io::stderr().is_terminal().then(|| bar(label, total, already));
        Self { bar, lines: Mutex::new(lines) }
    }

    /// So many more bytes are done.
    pub fn add(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
            return;
        }
        let mut lines = self.lines();
        lines.done += bytes;
        let now = Instant::now();
        if now >= lines.next_line {
            lines.next_line = now + LINE_EVERY;
            lines.lines_printed += 1;
            note(&lines.line(now));
        }
    }

    /// The total is known only now, or is another.
    pub fn set_total(&self, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
        }
        self.lines().total = Some(total);
    }

    /// The position is another: the server began again.
    pub fn set_done(&self, done: u64) {
        if let Some(bar) = &self.bar {
            bar.set_position(done);
        }
        let mut lines = self.lines();
        lines.done = done;
        lines.already = lines.already.min(done);
    }

    /// Takes the bar away; a log that has seen lines gets a last one.
    pub fn finish(&self) {
        match &self.bar {
            Some(bar) => bar.finish_and_clear(),
            None => {
                let lines = self.lines();
                if lines.lines_printed > 0 {
                    note(&lines.line(Instant::now()));
                }
            }
        }
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, Lines> {
        // A panic while holding it would have ended the program.
        self.lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Lines {
    fn line(&self, now: Instant) -> String {
        let elapsed_s = (now - self.started).as_secs_f64().max(1e-3);
        let speed = (self.done - self.already) as f64 / elapsed_s;
        let of = self.total.map(|total| format!(" of {}", human::bytes(total))).unwrap_or_default();
        let left = match self.total {
            Some(total) if speed > 1.0 && total > self.done => {
                format!(", {} left", human::seconds((total - self.done) as f64 / speed))
            }
            _ => String::new(),
        };
        let (done, speed) = (human::bytes(self.done), human::bytes(speed as u64));
        format!("{}: {done}{of}, {speed}/s{left}", self.label)
    }
}

fn bar(label: &str, total: Option<u64>, already: u64) -> ProgressBar {
    let template = match (total.is_some(), colour_is_wanted()) {
        (true, true) => {
            "{msg} {bar:28.cyan/dim} {decimal_bytes:>9} of {decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left"
        }
        (true, false) => {
            "{msg} {bar:28} {decimal_bytes:>9} of {decimal_total_bytes}  {decimal_bytes_per_sec}  {eta} left"
        }
        (false, _) => "{msg} {spinner} {decimal_bytes:>9}  {decimal_bytes_per_sec}",
    };
    let bar = total.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("━╸─"));
    }
    bar.set_message(label.to_owned());
    bar.set_position(already);
    bar.reset_eta();
    bar
}

/// One line on standard error.
pub fn note(text: &str) {
    // Where standard error is closed there is nobody to tell.
    let _ = writeln!(std::io::stderr().lock(), "{}", crate::failure::one_line(text));
}

/// A wait that somebody else is the cause of, if it is long enough to be wondered about.
pub fn pausing(why: &str, wait: Duration) {
    if wait < LINE_FIRST {
        return;
    }
    if std::io::stderr().is_terminal() {
        // A bar may stand in this line; its next draw is in the line below.
        let _ = write!(std::io::stderr().lock(), "\r\x1b[2K");
    }
    note(&format!("{why}; asking again in {}", human::seconds(wait.as_secs_f64())));
}

/// A line that is replaced by what follows, for waits without a measure; nothing off a terminal.
pub struct Waiting {
    bar: Option<ProgressBar>,
}

impl Waiting {
    /// Shows the text until dropped.
    pub fn begin(text: impl Into<String>) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner().with_message(text.into());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self { bar }
    }

    /// Tells how far a prompt is, once it turns out to take more than one step. It may outlive the
    /// line: then it tells nothing.
    pub fn prompt_progress(&self) -> impl FnMut(usize, usize) + Send + 'static {
        let bar = self.bar.clone();
        let begun = Instant::now();
        let mut next_line = begun + LINE_EVERY;
        move |done, all| {
            let now = Instant::now();
            let too_early = now < if bar.is_some() { begun + LINE_FIRST } else { next_line };
            if done == 0 || done >= all || too_early {
                return;
            }
            let left_s = (now - begun).as_secs_f64() / done as f64 * (all - done) as f64;
            let left = human::seconds(left_s);
            let text = format!("prompt: {done} of {all} tokens, {left} left");
            match &bar {
                Some(bar) => bar.set_message(text),
                None => {
                    next_line = now + LINE_EVERY;
                    note(&text);
                }
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Steps of known number: chunks, tokens of a prompt, repetitions.
pub struct Steps {
    bar: Option<ProgressBar>,
    label: String,
    next_line: Mutex<Instant>,
}

impl Steps {
    /// Shows nothing until the first step.
    pub fn begin(label: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0);
            let template = "{msg} {bar:28} {pos} of {len}  {eta} left";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("━╸─"));
            }
            bar
        });
        let next_line = Mutex::new(Instant::now() + LINE_EVERY);
        Self { bar, label: label.to_owned(), next_line }
    }

    /// So many of so many are done; `state` is told along.
    pub fn set(&self, done: usize, all: usize, state: &str) {
        if let Some(bar) = &self.bar {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
            bar.set_message(format!("{} {state}", self.label));
            return;
        }
        let mut next = self.next_line.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if Instant::now() >= *next {
            *next = Instant::now() + LINE_EVERY;
            note(&format!("{}: {done} of {all}  {state}", self.label));
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.finish();
    }
}
