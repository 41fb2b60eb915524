//! Prints the token ids of texts: `tokens MODEL.gguf [--pre NAME] [--special] [--add] [--back] < texts`.
//!
//! Texts on standard input are separated by NUL bytes; one line of ids is printed for each, or with `--back`
//! the text decoded from them, NUL-terminated. Made for comparing with other tokenizers.

use std::error::Error;
use std::io::{Read, Write};

use lowtide_gguf::Gguf;
use lowtide_tokenizer::{DecodeOptions, EncodeOptions, LoadOptions, Tokenizer, VocabParts};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path =
        args.next().ok_or("usage: tokens MODEL.gguf [--pre NAME] [--special] [--add] [--back]")?;
    let mut options = EncodeOptions::default();
    let mut pre = None;
    let mut back = false;
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--pre" => pre = args.next(),
            "--special" => options.parse_special = true,
            "--add" => options.add_special = true,
            "--back" => back = true,
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    let file = std::fs::read(path)?;
    let gguf = Gguf::parse(&file)?;
    let parts = VocabParts::from_gguf(&gguf)?;
    let tokenizer = Tokenizer::from_parts(&parts, LoadOptions { pre: pre.as_deref() })?;
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input)?;
    let mut out = std::io::stdout().lock();
    for text in input.split('\0') {
        let ids = tokenizer.encode(text, options);
        if back {
            let all = DecodeOptions { special: true, clean_spaces: true, ..Default::default() };
            write!(out, "{}\0", tokenizer.decode(&ids, all))?;
        } else {
            let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
            writeln!(out, "{}", ids.join(" "))?;
        }
    }
    Ok(())
}
