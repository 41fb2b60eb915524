//! The commands: each takes its arguments, decides what they mean, does it, and prints.

mod bench;
mod chat;
mod completions;
mod doctor;
mod fit;
mod inspect;
pub mod map;
mod models;
mod pagetables;
mod perplexity;
mod run;
mod serve;
mod start;
mod tokenize;

use anyhow::Result;

pub use start::start;

use crate::args::Command;

/// Does what was asked for.
pub fn dispatch(command: Command) -> Result<()> {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Serve(args) => serve::serve(&args),
        Command::Chat(args) => chat::chat(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Perplexity(args) => perplexity::perplexity(&args),
        Command::Inspect(args) => inspect::inspect(&args),
        Command::Pull(args) => models::pull(&args),
        Command::List(args) => models::list(&args),
        Command::Rm(args) => models::rm(&args),
        Command::Completions(args) => completions::completions(&args),
        Command::Map(args) => map::map(&args),
        Command::Fit(args) => fit::fit(&args),
        Command::Doctor(args) => doctor::doctor(&args),
        Command::Pagetables(args) => pagetables::pagetables(&args),
        Command::Tokenize(args) => tokenize::tokenize(&args),
    }
}
