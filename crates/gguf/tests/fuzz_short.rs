//! A short fuzz that runs with every test: valid small files, mutated. The stream of mutants is the same on every run; the time
//! given (`LOWTIDE_FUZZ_SECONDS`, default 2) decides only how far along it a run gets. The long fuzz is in `fuzz/`.

mod common;
#[path = "common/exercise.rs"]
mod exercise;

use std::time::{Duration, Instant};

use exercise::exercise;

/// One mutant may take this long; it takes microseconds unless something is not linear in the file's size.
const MUTANT_SECONDS_MAX: u64 = 2;

/// SplitMix64, seeded with the mutant's number: any mutant can be made again alone.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Numbers at which length and offset arithmetic goes wrong if it does.
const EDGES: [u64; 16] = [
    0,
    1,
    2,
    5,
    13,
    31,
    0xff,
    0xffff,
    1 << 24,
    1 << 30,
    1 << 31,
    u32::MAX as u64,
    1 << 62,
    i64::MAX as u64,
    u64::MAX - 31,
    u64::MAX,
];

fn mutate(file: &mut Vec<u8>, rng: &mut Rng) {
    let at = rng.below(file.len());
    match rng.below(8) {
        0 | 1 => file[at] ^= 1 << rng.below(8),
        2 => file[at] = rng.next() as u8,
        3 => file.truncate(at.max(1)),
        4 | 5 => {
            let width = if rng.below(2) == 0 { 4 } else { 8 };
            let edge = EDGES[rng.below(EDGES.len())].to_le_bytes();
            let end = file.len().min(at + width);
            file[at..end].copy_from_slice(&edge[..end - at]);
        }
        6 => {
            // A piece of the file once more, somewhere else: repeated keys, shifted tables.
            let len = rng.below(64).min(file.len() - at);
            let piece = file[at..at + len].to_vec();
            let to = rng.below(file.len());
            file.splice(to..to, piece);
        }
        _ => {
            let end = file.len().min(at + rng.below(64));
            file.drain(at..end);
        }
    }
    if file.is_empty() {
        file.push(0);
    }
}

#[test]
fn mutants_neither_panic_nor_stall() {
    let seconds = std::env::var("LOWTIDE_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok());
    let until = Instant::now() + Duration::from_secs(seconds.unwrap_or(2));
    let valid = common::small_file();
    exercise(&valid);
    let mut mutants = 0u64;
    let mut accepted = 0u64;
    // At least a thousand, however slow the machine.
    while Instant::now() < until || mutants < 1000 {
        let mut rng = Rng(mutants);
        let mut file = valid.clone();
        for _ in 0..1 + rng.below(4) {
            mutate(&mut file, &mut rng);
        }
        let start = Instant::now();
        exercise(&file);
        assert!(start.elapsed().as_secs() < MUTANT_SECONDS_MAX, "mutant {mutants} stalls");
        accepted += u64::from(lowtide_gguf::Gguf::parse(&file).is_ok());
        mutants += 1;
    }
    println!("{mutants} mutants, {accepted} of them still valid");
    // Data and value bytes may change freely: a reader that refuses everything would pass the rest of this test.
    assert!(accepted > 0 && accepted < mutants);
}
