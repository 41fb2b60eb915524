//! The commands that look and do not run: `map`, `fit`, `doctor`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::options::BudgetOptions;

/// `lowtide map`.
#[derive(Args, Debug)]
pub struct MapArgs {
    /// A .gguf file (of any family), the first of a split set, a name, or `hf:org/repo[:quant]`
    #[arg(value_name = "MODEL")]
    pub model: OsString,
    /// Look at the page tables of this process, which maps the model: lowtide, llama.cpp, any
    #[arg(long, value_name = "PID", allow_hyphen_values = true)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub pid: Option<u32>,
    /// Layers only, without a row for each tensor
    #[arg(long)]
    pub brief: bool,
    /// Also draw it as SVG
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Also draw it as PNG
    #[arg(long, value_name = "FILE")]
    pub png: Option<PathBuf>,
    /// Draw again every second, until Ctrl-C or the end of the process
    #[arg(long, conflicts_with_all = ["json", "svg", "png"])]
    pub watch: bool,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// `lowtide fit`.
#[derive(Args, Debug)]
pub struct FitArgs {
    /// A .gguf file, the first of a split set, a name from `lowtide list`, or `hf:org/repo[:quant]`
    #[arg(value_name = "MODEL")]
    pub model: OsString,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub budget: BudgetOptions,
}

/// `lowtide doctor`.
#[derive(Args, Debug)]
pub struct DoctorArgs {
    /// A model on the disk that is to be looked at [default: the disk of the models' folder]
    #[arg(value_name = "MODEL")]
    pub model: Option<OsString>,
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}
