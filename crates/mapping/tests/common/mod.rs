//! Files for tests: deterministic bytes, removed when the test ends.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A directory of its own below the target directory (on the disk; a temporary directory may be in memory,
/// where nothing can be evicted), removed on drop.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name =
            format!("mapping-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A file of `length` bytes of [`byte_at`], on the disk.
    pub fn file(&self, name: &str, length: usize) -> PathBuf {
        let path = self.path(name);
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&path).unwrap());
        let bytes: Vec<u8> = (0..length.min(PERIOD)).map(|at| byte_at(at as u64)).collect();
        let mut left = length;
        while left > 0 {
            let part = left.min(bytes.len());
            out.write_all(&bytes[..part]).unwrap();
            left -= part;
        }
        out.into_inner().unwrap().sync_all().unwrap();
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The pattern repeats after so many bytes: a prime, so that no two pages of a test file are equal.
pub const PERIOD: usize = 1_048_583;

/// The byte at a file offset.
pub fn byte_at(offset: u64) -> u8 {
    let at = offset % PERIOD as u64;
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// Whether `bytes` are those of the pattern from `offset` on.
#[track_caller]
pub fn assert_pattern(bytes: &[u8], offset: u64) {
    let wrong = (0..bytes.len()).find(|&at| bytes[at] != byte_at(offset + at as u64));
    assert_eq!(wrong, None, "byte {wrong:?} of {} at file offset {offset}", bytes.len());
}

/// Drops a file from the page cache and makes sure that it is gone. A page that the kernel holds for a moment
/// (a batch of another processor) needs a second try.
pub fn evict_for_certain(file: &File) {
    for _ in 0..50 {
        lowtide_mapping::evict_file(file).unwrap();
        if lowtide_mapping::cached_pages(file).unwrap().count() == 0 {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("the file stays in the page cache");
}

/// xorshift64, for repeatable randomness.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
