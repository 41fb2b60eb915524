//! Where tests find vocabularies that are too large for the repository.

use std::path::PathBuf;

use lowtide_gguf::Gguf;
use lowtide_tokenizer::Tokenizer;

/// The directory that an environment variable names. Without the variable, says so and gives none; what the
/// directory must hold is then a test's to demand.
pub fn dir(variable: &str) -> Option<PathBuf> {
    let dir = std::env::var_os(variable).map(PathBuf::from);
    if dir.is_none() {
        println!("{variable} is not set: not tested");
    }
    dir
}

/// The tokenizer of a file that must be there.
pub fn tokenizer(path: &std::path::Path) -> Tokenizer {
    let file = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let gguf = Gguf::parse(&file).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    Tokenizer::from_gguf(&gguf).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
