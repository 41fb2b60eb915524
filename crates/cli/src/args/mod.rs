//! What can be typed. Parsing only: what it means is decided by each command, once, at its start.

mod help;
mod options;
mod seeing;
mod serving;

mod usage;
mod values;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use options::{BudgetOptions, EndOptions, Io, Kv, PromptOptions, SamplingOptions};
pub use seeing::{DoctorArgs, FitArgs, MapArgs};
pub use serving::ServeArgs;
pub use usage::{Parsed, parse, print_help};

pub use values::Memory;

use values::size;

use crate::store::catalogue;

/// Runs language models that are bigger than memory, inside one memory budget.
#[derive(Parser, Debug)]
#[command(name = "lowtide", version, max_term_width = 100, after_help = help::LOWTIDE)]
pub struct Cli {
    /// What to do; without it lowtide looks at the machine and starts a chat.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// The commands, in the order of their help.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Answer one prompt: the text to standard output, figures to standard error
    #[command(after_help = help::RUN)]
    Run(Box<RunArgs>),
    /// Talk: line editing, history, multi-line input; Ctrl-C stops the answer
    #[command(after_help = help::CHAT)]
    Chat(Box<ChatArgs>),
    /// Serve a model and a web page, by OpenAI's and Anthropic's protocols
    #[command(after_help = help::SERVE)]
    Serve(Box<ServeArgs>),
    /// Show a model's metadata and tensors, also of models lowtide cannot run
    #[command(after_help = help::INSPECT)]
    Inspect(InspectArgs),
    /// Turn text into token ids
    #[command(after_help = help::TOKENIZE)]
    Tokenize(TokenizeArgs),
    /// Measure speed: prefill and decode, as llama-bench prints it
    #[command(after_help = help::BENCH)]
    Bench(BenchArgs),
    /// Score a text: perplexity over chunks, as llama-perplexity does it
    #[command(after_help = help::PERPLEXITY)]
    Perplexity(PerplexityArgs),
    /// Show where a model's pages are: on the disk, in the page cache, in a process
    #[command(after_help = help::MAP)]
    Map(MapArgs),
    /// Say before loading: will it fit, how the memory is split, how fast it will be
    #[command(after_help = help::FIT)]
    Fit(FitArgs),
    /// Look at disk, memory, processor and limits, and say what to mend
    #[command(after_help = help::DOCTOR)]
    Doctor(DoctorArgs),
    /// Count the page tables that a mapping of SIZE takes
    #[command(after_help = help::PAGETABLES)]
    Pagetables(PagetablesArgs),
    /// Fetch a model: resumed, checked by SHA-256, kept as a plain file
    #[command(after_help = help::PULL)]
    Pull(PullArgs),
    /// List the models that are here, and those of the catalogue
    #[command(after_help = help::LIST)]
    List(ListArgs),
    /// Remove models that were fetched
    #[command(after_help = help::RM)]
    Rm(RmArgs),
    /// Write completions for a shell, or man pages
    #[command(after_help = help::COMPLETIONS)]
    Completions(CompletionsArgs),
}

impl Command {
    /// Whether it is of no use where nothing can be printed.
    pub fn is_for_its_output(&self) -> bool {
        !matches!(self, Self::Serve(_) | Self::Pull(_) | Self::Rm(_))
    }
}

/// `lowtide run`.
#[derive(Args, Debug)]
pub struct RunArgs {
    /// A .gguf file, a name from `lowtide list`, or `hf:org/repo[:quant]`; fetched if need be
    #[arg(value_name = "MODEL")]
    pub model: OsString,
    /// The prompt; from standard input if absent
    #[arg(value_name = "PROMPT")]
    pub prompt: Option<String>,
    #[command(flatten)]
    pub input: PromptOptions,
    #[command(flatten)]
    pub end: EndOptions,
    /// With --json: also each token's log-probability, and those of the N likeliest
    #[arg(long, value_name = "N", requires = "json", allow_hyphen_values = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=1000))]
    pub logprobs: Option<u32>,
    /// Write which experts each token used to a file of JSON lines
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Print one JSON document instead of text
    #[arg(long)]
    pub json: bool,
    /// Record which bytes of the file each token uses: .png and .svg draw it, others are JSON
    #[arg(long, value_name = "FILE")]
    pub touch: Vec<PathBuf>,
    /// Write a line of JSON for each token: seconds, waiting, bytes read, memory
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<PathBuf>,
    #[command(flatten)]
    pub budget: BudgetOptions,
    #[command(flatten)]
    pub sampling: SamplingOptions,
}

/// `lowtide chat`.
#[derive(Args, Debug)]
pub struct ChatArgs {
    /// A .gguf file, a name from `lowtide list`, or `hf:org/repo[:quant]`; fetched if need be
    #[arg(value_name = "MODEL", default_value = catalogue::DEFAULT)]
    pub model: OsString,
    /// A message that says how to answer
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Write a line of JSON for each token: seconds, waiting, bytes read, memory
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<PathBuf>,
    #[command(flatten)]
    pub end: EndOptions,
    #[command(flatten)]
    pub budget: BudgetOptions,
    #[command(flatten)]
    pub sampling: SamplingOptions,
}

/// How `lowtide bench` prints.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BenchFormat {
    /// A Markdown table
    #[default]
    Md,
    /// One JSON document
    Json,
    /// Comma-separated values
    Csv,
}

/// `lowtide bench`.
#[derive(Args, Debug)]
pub struct BenchArgs {
    /// A .gguf file, a name from `lowtide list`, or `hf:org/repo[:quant]`; fetched if need be
    #[arg(value_name = "MODEL", default_value = catalogue::DEFAULT)]
    pub model: OsString,
    /// Tokens of the prompt; 0 leaves the test out
    #[arg(short, long, value_name = "N,N", value_delimiter = ',', default_value = "512")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=1 << 20), allow_hyphen_values = true)]
    pub prompt: Vec<u32>,
    /// Tokens to decode; 0 leaves the test out
    #[arg(short = 'n', long, value_name = "N,N", value_delimiter = ',', default_value = "128")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=1 << 20), allow_hyphen_values = true)]
    pub decode: Vec<u32>,
    /// Tokens already in the context
    #[arg(short, long, value_name = "N,N", value_delimiter = ',', default_value = "0")]
    #[arg(value_parser = clap::value_parser!(u32).range(0..=1 << 20), allow_hyphen_values = true)]
    pub depth: Vec<u32>,
    /// Repetitions of each test, after a warm-up
    #[arg(short, long, value_name = "N", default_value_t = 5, allow_hyphen_values = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repetitions: u32,
    /// How to print: md, json, csv
    #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t)]
    #[arg(hide_possible_values = true, conflicts_with = "json")]
    pub output: BenchFormat,
    /// The same as -o json
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub budget: BudgetOptions,
}

/// `lowtide perplexity`.
#[derive(Args, Debug)]
pub struct PerplexityArgs {
    /// A .gguf file, a name from `lowtide list`, or `hf:org/repo[:quant]`; fetched if need be
    #[arg(value_name = "MODEL")]
    pub model: OsString,
    /// The text; from standard input if absent
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Chunks at most [default: as many as the text has]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub chunks: Option<u32>,
    /// Also write all log-probabilities, as llama-perplexity --kl-divergence-base does
    #[arg(long, value_name = "FILE")]
    pub save_logprobs: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub budget: BudgetOptions,
}

/// `lowtide inspect`.
#[derive(Args, Debug)]
pub struct InspectArgs {
    /// A .gguf file, a name from `lowtide list`, or `hf:org/repo[:quant]`
    #[arg(value_name = "MODEL", default_value = catalogue::DEFAULT)]
    pub model: OsString,
    /// Print long arrays and long texts whole
    #[arg(long)]
    pub full: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// `lowtide tokenize`.
#[derive(Args, Debug)]
pub struct TokenizeArgs {
    /// A .gguf file (one that holds only a vocabulary will do), a name, or `hf:org/repo[:quant]`
    #[arg(value_name = "MODEL")]
    pub model: OsString,
    /// The text, as it is; from standard input if absent
    #[arg(value_name = "TEXT")]
    pub text: Option<String>,
    /// Read the text from a file, as it is
    #[arg(short, long, value_name = "FILE", conflicts_with = "text")]
    pub file: Option<PathBuf>,
    /// Recognise special tokens in the text, and add those that the model wants around it
    #[arg(long)]
    pub special: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// `lowtide pagetables`.
#[derive(Args, Debug)]
pub struct PagetablesArgs {
    /// The mapping's length: 20GiB, 18.4GB, or bytes
    #[arg(value_name = "SIZE", value_parser = size, allow_hyphen_values = true)]
    pub size: u64,
    /// Size of the pages: 4KiB, 2MiB or 1GiB
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "4KiB")]
    #[arg(allow_hyphen_values = true)]
    pub page: u64,
    /// Where the mapping begins, counted from the beginning of a table of every level
    #[arg(long, value_name = "SIZE", value_parser = size, allow_hyphen_values = true)]
    pub offset: Option<u64>,
    /// Also map that much, touch every page, and read the tables' size from the kernel
    #[arg(long)]
    pub measure: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// `lowtide pull`.
#[derive(Args, Debug)]
pub struct PullArgs {
    /// Names of the catalogue, `hf:org/repo[:quant]`, or .gguf files
    #[arg(value_name = "MODEL", default_value = catalogue::DEFAULT)]
    pub models: Vec<OsString>,
}

/// `lowtide list`.
#[derive(Args, Debug)]
pub struct ListArgs {
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// `lowtide rm`.
#[derive(Args, Debug)]
pub struct RmArgs {
    /// Names as `lowtide list` shows them
    #[arg(value_name = "MODEL", required = true)]
    pub models: Vec<String>,
}

/// `lowtide completions`.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL", required_unless_present = "man")]
    pub shell: Option<clap_complete::Shell>,
    /// Write the man pages of all commands into this folder instead
    #[arg(long, value_name = "FOLDER", conflicts_with = "shell")]
    pub man: Option<PathBuf>,
}
