//! A file of known bytes, and its extents as a small model would have them.

#![allow(dead_code, reason = "each test program uses a part of this")]

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lowtide_mapping::{Mapping, evict_file, open_model_file};
use lowtide_residency::{
    ExtentId, Extents, PinnedIn, Plan, PlanInput, RingParams, Source, SourceId, Store,
    StoreOptions, Streaming, Use,
};

pub const MIB: u64 = 1 << 20;

pub const KINDS: [(Streaming, PinnedIn); 4] = [
    (Streaming::Direct, PinnedIn::Mapping),
    (Streaming::Direct, PinnedIn::Arena),
    (Streaming::Mapped, PinnedIn::Mapping),
    (Streaming::Mapped, PinnedIn::Arena),
];

/// The byte that stands at an offset: no two neighbouring pages are alike.
pub fn byte_at(offset: u64) -> u8 {
    let word = (offset / 8).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (word >> (8 * (offset % 8))) as u8 ^ (word >> 56) as u8
}

pub fn expected(offset: u64, len: usize) -> Vec<u8> {
    (offset..offset + len as u64).map(byte_at).collect()
}

/// A file that is deleted when dropped.
pub struct Model {
    pub path: PathBuf,
    pub bytes: u64,
}

impl Model {
    pub fn write(name: &str, bytes: u64) -> Model {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let path = dir.join(format!("{name}-{}", std::process::id()));
        let mut file = File::create(&path).unwrap();
        let step = 4 * MIB;
        for start in (0..bytes).step_by(step as usize) {
            let len = step.min(bytes - start) as usize;
            file.write_all(&expected(start, len)).unwrap();
        }
        evict_file(&file).unwrap();
        Model { path, bytes }
    }

    pub fn source(&self) -> Source {
        let file = open_model_file(&self.path).unwrap();
        let mapping = Mapping::of_file(file.file()).unwrap();
        Source { file: Arc::new(file), mapping: Arc::new(mapping) }
    }

    /// Tiles of about `tile` bytes at odd offsets, small ones between them, rows in front, and the
    /// last one ends with the file.
    pub fn extents(&self, tile: u64) -> Extents {
        let mut x = Extents::new();
        x.push(SourceId(0), 777, 3 * MIB, Use::Lookup).unwrap();
        let mut at = 777 + 3 * MIB;
        for i in 0.. {
            if i % 6 == 0 {
                x.push(SourceId(0), at, 5000 + i, Use::Always).unwrap();
                at += 5000 + i;
            }
            let len = (tile - i % 5 * 1111).min(self.bytes - at);
            x.push(SourceId(0), at, len, Use::Tile).unwrap();
            at += len;
            if self.bytes - at < 10_000 {
                if self.bytes > at {
                    x.push(SourceId(0), at, self.bytes - at, Use::Tile).unwrap();
                }
                return x;
            }
        }
        x
    }

    pub fn plan(&self, budget: u64, (streaming, pinned_in): (Streaming, PinnedIn)) -> Plan {
        let ring = RingParams::default();
        let input = PlanInput { weights_budget_bytes: budget, streaming, pinned_in, ring };
        Plan::new(self.extents(MIB), input).unwrap()
    }

    pub fn store(&self, budget: u64, kind: (Streaming, PinnedIn)) -> Store {
        let plan = self.plan(budget, kind);
        Store::open(vec![self.source()], plan, StoreOptions::default()).unwrap()
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The tiles of a pass in order.
pub fn tiles(store: &Store) -> Vec<ExtentId> {
    let extents = store.plan().extents().iter();
    extents.filter(|x| x.usage != Use::Lookup).map(|x| x.id).collect()
}

/// Acquires an extent and compares every byte.
pub fn check(store: &Store, id: ExtentId) {
    let x = store.plan().extents()[id.index()];
    let tile = store.acquire(id).unwrap_or_else(|e| panic!("{x}: {e}"));
    assert_eq!(tile.len() as u64, x.len, "{x}");
    let wrong = tile.iter().zip(x.offset..).position(|(b, offset)| *b != byte_at(offset));
    assert_eq!(wrong, None, "first wrong byte of {x}");
}
