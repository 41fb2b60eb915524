//! What of a model lies in a process's own buffers, or is on its way into them: streamed tiles and cached
//! experts, read past the page cache, so that neither `mincore` nor page tables show them as pages of the file.
//!
//! A process that runs a model keeps a list of them in memory behind a descriptor (`memfd`); whoever may
//! look at the process finds it among its open files. A line for each range, for people too:
//!
//! ```text
//! lowtide buffers 1
//! SHARD OFFSET LENGTH
//! end
//! ```

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use lowtide_engine::Engine;
use lowtide_residency::{Board, Placement, Plan, Streaming};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// The list's name, as `/proc/PID/fd` shows it behind `/memfd:`.
const NAME: &str = "lowtide-buffers";
/// Its first line, and its last.
const HEAD: &str = "lowtide buffers 1\n";
const END: &str = "end\n";
/// Between two looks at the board.
const EVERY: Duration = Duration::from_millis(500);
/// Looks at a list that is being written just now.
const ATTEMPTS: u32 = 5;

/// A range of one file of the model.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Held {
    /// The file, from 0.
    pub shard: usize,
    /// First byte.
    pub start: u64,
    /// Byte after the last.
    pub end: u64,
}

/// Keeps the list of this process, until dropped.
pub struct Listed {
    done: Arc<AtomicBool>,
    writer: Option<JoinHandle<()>>,
}

impl Listed {
    /// Begins the list, if anything passes through buffers. It is for others to look at: where it cannot
    /// be had, there is none.
    pub fn begin(engine: &mut Engine) -> Option<Self> {
        let extents = buffered_extents(engine.store().plan());
        if extents.is_empty() {
            return None;
        }
        let file = File::from(memfd_create(NAME, MFdFlags::MFD_CLOEXEC).ok()?);
        let board = Arc::new(Board::default());
        engine.watch(Arc::clone(&board));
        let done = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&done);
        let writer = std::thread::spawn(move || {
            let mut last = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let glance = board.look();
                let mut held = glance.resident;
                // What is on its way has its buffer; of a ring that waits for the disk that is most.
                for index in glance.reading {
                    held[index as usize / 8] |= 1 << (index % 8);
                }
                if held != last {
                    // Memory that is refused leaves the list as it was.
                    let _ = write(&file, &list(&extents, &held));
                    last = held;
                }
                std::thread::park_timeout(EVERY);
            }
        });
        Some(Self { done, writer: Some(writer) })
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(writer) = self.writer.take() {
            writer.thread().unpark();
            // It only lists: there is no result to lose.
            let _ = writer.join();
        }
    }
}

/// The extents that are never used out of the mapping, by their number.
fn buffered_extents(plan: &Plan) -> Vec<(usize, Held)> {
    if plan.input.streaming != Streaming::Direct {
        return Vec::new();
    }
    let in_buffers = |x: &&lowtide_residency::Extent| {
        matches!(plan.placement(x.id), Some(Placement::Streamed(_) | Placement::Cached))
    };
    let held = |x: &lowtide_residency::Extent| {
        let held = Held { shard: x.source.0 as usize, start: x.offset, end: x.offset + x.len };
        (x.id.index(), held)
    };
    let mut all: Vec<_> = plan.extents().iter().filter(in_buffers).map(held).collect();
    all.sort_by(|a, b| a.1.cmp(&b.1));
    all
}

/// The text for those whose bit is set; neighbours are one.
fn list(extents: &[(usize, Held)], resident: &[u8]) -> String {
    let is_set = |index: usize| resident.get(index / 8).is_some_and(|b| b & 1 << (index % 8) != 0);
    let mut ranges: Vec<Held> = Vec::new();
    for (_, held) in extents.iter().filter(|(index, _)| is_set(*index)) {
        match ranges.last_mut().filter(|r| r.shard == held.shard && r.end == held.start) {
            Some(last) => last.end = held.end,
            None => ranges.push(held.clone()),
        }
    }
    let mut text = String::from(HEAD);
    for Held { shard, start, end } in ranges {
        text.push_str(&format!("{shard} {start} {}\n", end - start));
    }
    text + END
}

fn write(file: &File, text: &str) -> std::io::Result<()> {
    file.set_len(0)?;
    file.write_all_at(text.as_bytes(), 0)
}

/// The list of another process, in the order of the files; `None` if it keeps none, or keeps it from us.
pub fn of_process(id: u32) -> Option<Vec<Held>> {
    let entries = std::fs::read_dir(format!("/proc/{id}/fd")).ok()?;
    let is_list = |path: &std::path::PathBuf| {
        std::fs::read_link(path).is_ok_and(|to| {
            to.to_string_lossy().strip_prefix("/memfd:").is_some_and(|name| name.starts_with(NAME))
        })
    };
    let path = entries.flatten().map(|entry| entry.path()).find(is_list)?;
    for _ in 0..ATTEMPTS {
        if let Some(found) = parse(&std::fs::read_to_string(&path).ok()?) {
            return Some(found);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

/// `None` if it is not whole.
fn parse(text: &str) -> Option<Vec<Held>> {
    let lines = text.strip_prefix(HEAD)?.strip_suffix(END)?.lines();
    let mut all = lines
        .map(|line| {
            let mut words = line.split(' ');
            let shard = words.next()?.parse().ok()?;
            let start: u64 = words.next()?.parse().ok()?;
            let end = start.checked_add(words.next()?.parse().ok()?)?;
            Some(Held { shard, start, end })
        })
        .collect::<Option<Vec<Held>>>()?;
    all.sort();
    Some(all)
}

/// Bytes of a range of a file that the list holds.
pub fn overlap(all: &[Held], shard: usize, range: &Range<u64>) -> u64 {
    // They do not overlap each other: ends are in order as well.
    let first = all.partition_point(|held| (held.shard, held.end) <= (shard, range.start));
    let here = all[first..].iter().take_while(|h| h.shard == shard && h.start < range.end);
    here.map(|held| held.end.min(range.end) - held.start.max(range.start)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(shard: usize, start: u64, end: u64) -> Held {
        Held { shard, start, end }
    }

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let extents =
            [(4, held(0, 0, 10)), (0, held(0, 10, 20)), (9, held(0, 30, 40)), (2, held(1, 0, 5))];
        let text = list(&extents, &[0b0001_0101, 0b10]);
        assert_eq!(text, "lowtide buffers 1\n0 0 20\n0 30 10\n1 0 5\nend\n");
        let all = parse(&text).unwrap();
        assert_eq!(all, [held(0, 0, 20), held(0, 30, 40), held(1, 0, 5)]);
        for cut in 0..text.len() {
            assert_eq!(parse(&text[..cut]), None, "half a list is none");
        }
        assert_eq!(overlap(&all, 0, &(15..35)), 10);
        assert_eq!(overlap(&all, 0, &(20..30)), 0);
        assert_eq!(overlap(&all, 0, &(0..100)), 30);
        assert_eq!(overlap(&all, 1, &(4..100)), 1);
        assert_eq!(overlap(&all, 2, &(0..100)), 0);
    }
}
