//! Noticing that pinned pages of the mapping were taken away, without looking at each of them.
//!
//! A page that the kernel reclaims leaves the process's count of resident file pages, and comes
//! back as a major fault when it is touched. Both counters cost two small reads, at most once a
//! second; asking for every page (`mincore`, a populate) would cost a percent of a pass. Nothing
//! is allocated: the files stay open and are read into a buffer on the stack.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use crate::plan::PAGE_BYTES;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// What the counters lose by themselves: pages of the program, and counts kept per processor.
const SLACK_BYTES: u64 = 4 << 20;

/// Major faults between two looks that are nobody's fault: pages of the program and its libraries.
const SLACK_FAULTS: u64 = 64;

/// The counters as they were last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Counters {
    file_bytes: u64,
    major_faults: u64,
}

pub(crate) struct Watch {
    statm: Option<File>,
    stat: Option<File>,
    last: Option<Counters>,
    looked: Instant,
    slack_bytes: u64,
    /// Whether the program has run for a while since `begin`: its own pages come in by faults before.
    is_settled: bool,
}

impl Watch {
    /// `streamed_bytes`: pages of the mapping that come and go by themselves.
    pub fn new(streamed_bytes: u64) -> Watch {
        Watch {
            statm: File::open("/proc/self/statm").ok(),
            stat: File::open("/proc/self/stat").ok(),
            last: None,
            looked: Instant::now(),
            slack_bytes: SLACK_BYTES + streamed_bytes,
            is_settled: false,
        }
    }

    /// Everything is there now: later looks compare with this.
    pub fn begin(&mut self) {
        self.last = self.counters();
        self.looked = Instant::now();
    }

    /// Whether pages were taken away since `begin`, or since this said so last.
    pub fn is_loss(&mut self) -> bool {
        let Some(last) = self.last else { return false };
        if self.looked.elapsed() < INTERVAL {
            return false;
        }
        self.looked = Instant::now();
        let Some(now) = self.counters() else { return false };
        let is_loss = now.file_bytes + self.slack_bytes < last.file_bytes
            || (self.is_settled && now.major_faults > last.major_faults + SLACK_FAULTS);
        self.is_settled = true;
        // Growth is the new measure; a loss is measured anew when everything is back.
        let file_bytes = last.file_bytes.max(now.file_bytes);
        self.last = (!is_loss).then_some(Counters { file_bytes, ..now });
        is_loss
    }

    fn counters(&self) -> Option<Counters> {
        // proc(5): statm is "size resident shared ...", in pages; shared counts file pages.
        let pages = number_in(self.statm.as_ref()?, |text| text.split_ascii_whitespace().nth(2))?;
        // proc_pid_stat(5): field 12 is majflt; the name in field 2 may hold anything.
        let major_faults = number_in(self.stat.as_ref()?, |text| {
            text.rsplit_once(')')?.1.split_ascii_whitespace().nth(9)
        })?;
        Some(Counters { file_bytes: pages * PAGE_BYTES, major_faults })
    }
}

fn number_in(file: &File, field: fn(&str) -> Option<&str>) -> Option<u64> {
    let mut buffer = [0; 1024];
    let len = file.read_at(&mut buffer, 0).ok()?;
    field(str::from_utf8(buffer.get(..len)?).ok()?)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_of_file_pages_or_many_faults_is_a_loss_once() {
        let mut watch = Watch::new(0);
        assert!(!watch.is_loss(), "nothing was there yet");
        let second_ago = Instant::now().checked_sub(INTERVAL).unwrap();
        watch.begin();
        let real = watch.last.unwrap();
        assert!(real.file_bytes > 100_000, "{real:?}");
        watch.looked = second_ago;
        assert!(!watch.is_loss());
        watch.last = Some(Counters { file_bytes: real.file_bytes + (64 << 20), ..real });
        assert!(!watch.is_loss(), "looked at a moment ago");
        watch.looked = second_ago;
        assert!(watch.is_loss());
        watch.looked = second_ago;
        assert!(!watch.is_loss(), "told once");
    }
}
