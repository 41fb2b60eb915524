//! Measuring the disk as a run will see it: reads of the ring's size and depth at places spread over
//! the model's own file, once where nothing was read before and again where it was.
//!
//! What lies between lowtide and the disk may keep what was read lately (the host of a virtual
//! machine, a controller): the first pass over a model then has another speed than those after it.
//! Answers are made of those after it, so both are measured and neither is assumed.

use std::path::Path;
use std::time::{Duration, Instant};

use lowtide_mapping::{
    Arena, Backend, DirectFile, Priority, QueueOptions, ReadQueue, ReadRequest, Slot,
};

use crate::error::ResidencyError;

/// Places follow each other by this share of the file (the golden ratio's): however many there are,
/// they lie evenly.
const STRIDE: f64 = 0.618_033_988_749_894_8;
/// A read that takes longer than this is an error.
const DEADLINE: Duration = Duration::from_secs(10);

/// A file that is read in pieces, at places spread over it.
pub struct SpreadProbe {
    path: String,
    queue: ReadQueue,
    idle: Vec<Slot>,
    request_bytes: u64,
    places: u64,
    /// Places that have been read.
    seen: u64,
    /// The next place to be read again.
    again: u64,
}

impl SpreadProbe {
    /// Prepares reads of `request_bytes`, `depth` of them at a time.
    ///
    /// # Errors
    /// [`ResidencyError::System`] if the file cannot be opened or memory is refused,
    /// [`ResidencyError::Probe`] if it is shorter than one read.
    pub fn open(
        path: impl AsRef<Path>,
        request_bytes: u64,
        depth: u32,
    ) -> Result<SpreadProbe, ResidencyError> {
        let path = path.as_ref();
        let system = |what| move |source| ResidencyError::System { what, source };
        let file = DirectFile::open(path).map_err(system("opening for the disk probe"))?;
        let size = file.identity().map_err(system("the disk probe"))?.size;
        let name = path.display().to_string();
        let places = size / request_bytes.max(1);
        if places == 0 {
            let why = format!("{size} bytes are less than one read");
            return Err(ResidencyError::Probe { path: name, why });
        }
        let depth = depth.max(1) as usize;
        let bytes = request_bytes as usize;
        let options =
            QueueOptions { backend: Backend::Auto, depth, piece_bytes: bytes, max_requests: depth };
        let mut queue = ReadQueue::new(vec![file], options).map_err(system("the disk probe"))?;
        let arena = Arena::new(bytes * depth).map_err(system("buffers of the disk probe"))?;
        queue.register(&[&arena]);
        let idle = arena.into_slots(bytes);
        Ok(SpreadProbe { path: name, queue, idle, request_bytes, places, seen: 0, again: 0 })
    }

    /// Bytes of one read.
    #[must_use]
    pub fn request_bytes(&self) -> u64 {
        self.request_bytes
    }

    /// Reads under way at once.
    #[must_use]
    pub fn depth(&self) -> u32 {
        u32::try_from(self.idle.len()).unwrap_or(u32::MAX)
    }

    /// Bytes of the places that have been read.
    #[must_use]
    pub fn seen_bytes(&self) -> u64 {
        self.seen * self.request_bytes
    }

    /// Bytes per second from places not read before, for about `seconds`, or until there are none.
    ///
    /// # Errors
    /// [`ResidencyError::Probe`] if a read fails.
    pub fn read_new(&mut self, seconds: f64) -> Result<f64, ResidencyError> {
        self.run(true, &|elapsed| elapsed >= seconds)
    }

    /// Bytes per second from places that were read, in the same order and around again, until `done`
    /// says so of the seconds that have passed.
    ///
    /// # Errors
    /// As [`SpreadProbe::read_new`].
    pub fn read_again(&mut self, done: &dyn Fn(f64) -> bool) -> Result<f64, ResidencyError> {
        self.run(false, done)
    }

    /// Seconds from asking for all slots' reads at once to having all of them, the mean over about
    /// `seconds`: what a layer waits for when its experts are missing.
    ///
    /// # Errors
    /// As [`SpreadProbe::read_new`].
    pub fn bursts(&mut self, is_new: bool, seconds: f64) -> Result<f64, ResidencyError> {
        let begun = Instant::now();
        let mut count = 0u32;
        while count == 0 || begun.elapsed().as_secs_f64() < seconds {
            self.fill(is_new)?;
            while self.collect()?.is_some() {}
            count += 1;
        }
        Ok(begun.elapsed().as_secs_f64() / f64::from(count))
    }

    fn run(&mut self, is_new: bool, done: &dyn Fn(f64) -> bool) -> Result<f64, ResidencyError> {
        let begun = Instant::now();
        let mut read = 0;
        self.fill(is_new)?;
        while let Some(bytes) = self.collect()? {
            read += bytes;
            if !done(begun.elapsed().as_secs_f64()) {
                self.fill(is_new)?;
            }
        }
        Ok(read as f64 / begun.elapsed().as_secs_f64())
    }

    /// Gives every idle slot a place to read.
    fn fill(&mut self, is_new: bool) -> Result<(), ResidencyError> {
        while let Some(slot) = self.idle.pop() {
            let Some(place) = self.next_place(is_new) else {
                self.idle.push(slot);
                return Ok(());
            };
            let request = ReadRequest {
                token: 0,
                file: 0,
                offset: place * self.request_bytes,
                length: self.request_bytes as usize,
                slot,
                priority: Priority::Demand,
            };
            let path = &self.path;
            self.queue.submit(request).map_err(|rejected| refused(path, &rejected))?;
        }
        Ok(())
    }

    fn next_place(&mut self, is_new: bool) -> Option<u64> {
        let nth = if is_new {
            // All of a small file has been read: from here on it is again.
            self.seen += u64::from(self.seen < self.places);
            self.seen - 1
        } else if self.seen == 0 {
            return None;
        } else {
            self.again = (self.again + 1) % self.seen;
            self.again
        };
        Some(place(nth, self.places))
    }

    /// Waits for one read; `None` if none is under way.
    fn collect(&mut self) -> Result<Option<u64>, ResidencyError> {
        let path = &self.path;
        let done = self.queue.wait_complete(DEADLINE).map_err(|error| refused(path, &error))?;
        let Some(done) = done else { return Ok(None) };
        self.idle.push(done.slot);
        let range = done.result.map_err(|error| refused(path, &error))?;
        Ok(Some(range.len() as u64))
    }
}

/// The n-th place of `places`: a step of the golden ratio each, so that any number of them lies evenly.
fn place(nth: u64, places: u64) -> u64 {
    let share = (nth as f64 * STRIDE).fract();
    ((share * places as f64) as u64).min(places - 1)
}

fn refused(path: &str, why: &dyn std::fmt::Display) -> ResidencyError {
    ResidencyError::Probe { path: path.to_owned(), why: why.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_lie_evenly_however_many_there_are() {
        for count in [10, 100, 1000] {
            let mut tenths = [0; 10];
            (0..count).for_each(|n| tenths[(place(n, 4000) / 400) as usize] += 1);
            let (least, most) = (tenths.iter().min().unwrap(), tenths.iter().max().unwrap());
            assert!(most - least <= 2, "{count}: {tenths:?}");
        }
        assert_eq!(place(7, 1), 0);
    }

    #[test]
    fn a_file_is_read_new_and_again() {
        let path = std::env::temp_dir().join(format!("lowtide-spread-{}", std::process::id()));
        std::fs::write(&path, vec![7u8; 3 << 20]).unwrap();
        let mut probe = SpreadProbe::open(&path, 256 << 10, 4).unwrap();
        assert!(probe.read_again(&|_| true).unwrap() == 0.0, "nothing to read again yet");
        assert!(probe.read_new(0.02).unwrap() > 0.0);
        assert!(probe.seen_bytes() >= 4 * (256 << 10) && probe.seen_bytes() <= 3 << 20);
        assert!(probe.read_again(&|s| s >= 0.02).unwrap() > 0.0);
        assert!(probe.bursts(false, 0.01).unwrap() > 0.0);
        assert_eq!(probe.depth(), 4, "every slot has come back");
        assert!(SpreadProbe::open(&path, 4 << 20, 4).is_err());
        std::fs::remove_file(&path).unwrap();
    }
}
