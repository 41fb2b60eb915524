//! `lowtide-synth`: writes a synthetic model.
#![forbid(unsafe_code)]

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use lowtide_bench::synth::{self, Mix, Shape, Skew, Spec, Vocab};

/// Write a GGUF file of an exact shape with random weights of plausible scale.
///
/// Example: lowtide-synth llama-30b --format q4_0 --vocab-from real.gguf out.gguf
#[derive(Parser, Debug)]
#[command(version, after_help = after_help())]
struct Args {
    /// Name of the shape, or `llama` with `--bytes`
    shape: String,
    /// File to write; left out, only the size is worked out and printed
    out: Option<PathBuf>,
    /// Size to come near to (`2GB`, `700MiB`), for the shape `llama`
    #[arg(long, value_parser = parse_size)]
    bytes: Option<u64>,
    /// Format or mix of the matrices
    #[arg(long, default_value = "q4_0")]
    format: String,
    /// Format of ffn_down
    #[arg(long)]
    down: Option<String>,
    /// Format of the output matrix
    #[arg(long)]
    output: Option<String>,
    /// Format of the embedding
    #[arg(long)]
    embedding: Option<String>,
    /// Format of attn_v
    #[arg(long)]
    value: Option<String>,
    /// Format of the experts' matrices
    #[arg(long)]
    experts: Option<String>,
    /// GGUF file whose tokenizer is copied, cut or padded to the vocabulary's size
    #[arg(long)]
    vocab_from: Option<PathBuf>,
    /// Tokens in the vocabulary
    #[arg(long)]
    vocab_size: Option<u64>,
    /// Layers, in place of the shape's own
    #[arg(long)]
    layers: Option<u64>,
    /// How experts are preferred: uniform, zipf:EXPONENT, or topics:NUMBER:EXPONENT (token ids in as many runs)
    #[arg(long, value_parser = parse_router, default_value = "uniform")]
    router: Router,
    /// Trained context that the file states
    #[arg(long)]
    ctx: Option<u32>,
    /// Write a split set of this many files: OUT is then their common name, without .gguf
    #[arg(long)]
    shards: Option<u16>,
    /// Same seed, same bytes
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

/// What `--router` asks for.
#[derive(Clone, Copy, Debug)]
struct Router(Option<Skew>);

fn parse_router(text: &str) -> Result<Router, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is not a number"));
    let topics = |text: &str| text.parse().map_err(|_| format!("{text:?} is not a number"));
    Ok(Router(match parts.as_slice() {
        ["uniform"] => None,
        ["zipf", exponent] => Some(Skew { exponent: number(exponent)?, topics: 1 }),
        ["topics", count, exponent] => {
            Some(Skew { exponent: number(exponent)?, topics: topics(count)? })
        }
        _ => return Err("not uniform, zipf:EXPONENT or topics:NUMBER:EXPONENT".to_owned()),
    }))
}

fn after_help() -> String {
    format!(
        "Shapes: {}\nMixes:  {} and every block format (q4_0, q4_0_pure, bf16, ...)",
        Shape::NAMES.join(" "),
        Mix::NAMES.join(" ")
    )
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ synth::Error::Io { .. }) => fail(&error, 1),
        Err(error) => fail(&error, 2),
    }
}

fn fail(error: &synth::Error, status: u8) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(status)
}

fn run(args: &Args) -> Result<(), synth::Error> {
    let spec = resolve(args)?;
    let plan = synth::plan(&spec)?;
    eprintln!(
        "{}: {} layers of {}, {:.2} billion weights as {}, {:.2} GB",
        spec.shape.name,
        spec.shape.layers,
        spec.shape.embedding,
        plan.parameters() as f64 / 1e9,
        spec.mix.name,
        plan.layout.file_bytes as f64 / 1e9
    );
    let Some(path) = &args.out else { return Ok(()) };
    let start = Instant::now();
    let mut shown = start;
    let live = std::io::stderr().is_terminal();
    let mut progress = |written: u64| {
        if live && shown.elapsed() > Duration::from_millis(200) {
            shown = Instant::now();
            eprint!("\r{:7.2} GB ", written as f64 / 1e9);
            // Progress that cannot be shown is no reason to stop.
            let _ = std::io::stderr().flush();
        }
    };
    let bytes = match args.shards {
        None => synth::write_file(&spec, path, &mut progress)?,
        Some(count) => {
            synth::write_shards(&spec, count, path, &mut progress)?;
            plan.layout.file_bytes
        }
    };
    let seconds = start.elapsed().as_secs_f64();
    eprintln!(
        "{}wrote {bytes} bytes in {seconds:.1} s, {:.2} GB/s",
        if live { "\r" } else { "" },
        speed(bytes, start)
    );
    Ok(())
}

fn speed(bytes: u64, since: Instant) -> f64 {
    bytes as f64 / 1e9 / since.elapsed().as_secs_f64().max(1e-9)
}

fn resolve(args: &Args) -> Result<Spec, synth::Error> {
    let format = |name: &Option<String>| name.as_deref().map(synth::format_named).transpose();
    let named = Mix::named(&args.format)?;
    let mix = Mix {
        down: format(&args.down)?.or(named.down),
        output: format(&args.output)?.or(named.output),
        embedding: format(&args.embedding)?.or(named.embedding),
        value: format(&args.value)?.or(named.value),
        experts: format(&args.experts)?.or(named.experts),
        ..named
    };
    let mut shape = match args.bytes {
        Some(bytes) if args.shape == "llama" => Shape::of_bytes(bytes, &mix)?,
        Some(_) => {
            let why = "only the shape `llama` comes in any size (--bytes)".to_owned();
            return Err(synth::Error::Shape { name: args.shape.clone(), why });
        }
        None => Shape::named(&args.shape)?,
    };
    shape.vocabulary = args.vocab_size.unwrap_or(shape.vocabulary);
    shape.layers = args.layers.unwrap_or(shape.layers);
    shape.skew = args.router.0;
    shape.context = args.ctx.unwrap_or(shape.context);
    let vocab = args.vocab_from.clone().map_or(Vocab::Builtin, Vocab::Of);
    Ok(Spec { shape, mix, vocab, seed: args.seed })
}

/// Sizes as `lowtide` reads them: `2GB` = 2e9, `2GiB` and `2G` = 2 * 2^30, a bare number = bytes.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024.0 * 1024.0,
        "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err(format!("{unit:?} is no unit of size (try 2GB or 2GiB)")),
    };
    let number: f64 = number.parse().map_err(|_| "not a number of bytes".to_owned())?;
    let bytes = number * factor;
    if !(1.0..1e15).contains(&bytes) {
        return Err("a size is between 1 byte and 1 PB".to_owned());
    }
    Ok(bytes as u64)
}
