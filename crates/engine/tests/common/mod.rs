//! What the integration tests share.

use std::path::Path;

use lowtide_engine::{Engine, LoadOptions, MemoryLimit, Model};

/// The smallest budget in bytes with which the engine takes this file: it refuses 1 byte with the floor.
/// What the process holds already is part of it, so it is to be asked anew for each engine.
pub fn floor(path: &Path, options: &LoadOptions) -> u64 {
    let options = LoadOptions { memory: MemoryLimit::Bytes(1), ..*options };
    let refusal =
        Engine::new(Model::open(path).unwrap(), &options).err().expect("1 byte is refused");
    let text = refusal.to_string();
    assert_eq!(text.lines().count(), 3, "{text}");
    let after = text.split("--memory ").nth(1).unwrap_or_else(|| panic!("{text}"));
    let megabytes: String = after.chars().take_while(char::is_ascii_digit).collect();
    megabytes.parse::<u64>().unwrap() * 1_000_000
}
