//! Any bytes as the start of a file of any length: `NeedMore` asks for more than it has and never for more than there is, and
//! memory stays bounded by the prefix whatever the counts say.
#![no_main]

use lowtide_gguf::{Error, Gguf};

libfuzzer_sys::fuzz_target!(|input: (u64, &[u8])| {
    let (file_bytes, prefix) = input;
    if let Err(Error::NeedMore { at_least, have }) = Gguf::parse_header(prefix, file_bytes) {
        assert!(have < at_least && at_least <= file_bytes);
    }
});
