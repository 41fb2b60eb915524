//! `lowtide serve`.

use std::ffi::OsString;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

use super::options::BudgetOptions;

/// `lowtide serve`.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// A .gguf file, a name from `lowtide list`, or `hf:org/repo[:quant]`; fetched if need be
    #[arg(value_name = "MODEL", required_unless_present = "models")]
    pub model: Option<OsString>,
    /// Serve the .gguf files of this folder too: each is loaded when it is asked for
    #[arg(long, value_name = "DIR")]
    pub models: Option<PathBuf>,
    /// The address to listen on; beyond loopback an API key is wanted
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// The port; 0 takes any that is free, and prints it
    #[arg(long, short, value_name = "PORT", default_value_t = 8080, allow_hyphen_values = true)]
    pub port: u16,
    /// A file whose only line is the key that clients must bring
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Listen beyond loopback without a key all the same
    #[arg(long, conflicts_with = "api_key_file")]
    pub no_key: bool,
    /// A name by which browsers may call the server, besides its addresses. May be repeated
    #[arg(long, value_name = "NAME")]
    pub allow_host: Vec<String>,
    /// An origin, such as `https://ui.example`, whose pages may use the server. May be repeated
    #[arg(long, value_name = "URL")]
    pub allow_origin: Vec<String>,
    /// Let requests bring their own chat template
    #[arg(long)]
    pub allow_chat_template: bool,
    /// Requests that may wait; those beyond are told to come back
    #[arg(long, value_name = "N", default_value_t = 32, allow_hyphen_values = true)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub queue: u16,
    /// Answers that are made together: they share each reading of the weights, and each has a KV cache
    /// of --ctx tokens [default: up to 16, in an eighth of the budget]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=256))]
    pub parallel: Option<u16>,
    /// A certificate chain (PEM) to serve with TLS
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    #[command(flatten)]
    pub budget: BudgetOptions,
}
