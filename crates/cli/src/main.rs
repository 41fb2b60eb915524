//! The binary `lowtide`: arguments in, text and exit status out. Everything that can be done
//! without a terminal lives in the crates below; this one asks, shows, and fetches models.
#![forbid(unsafe_code)]

mod allowance;
mod answer;
mod args;
mod buffers;
mod chat_command;
mod chooser;
mod commands;
mod conversation;
mod failure;
mod header;
mod human;
mod input;
mod live;
mod load;
mod logprobs;
mod metrics;
mod observe;
mod out_file;
mod output;
mod pass_probe;
mod probe;
mod progress;
mod prompt;
mod report;
mod signals;
mod size;
mod store;
mod terminal;
mod touch;
mod trace;
mod trial;
mod watch;

use std::process::ExitCode;

use anyhow::{Context, Result};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(failure::report(&error)),
    }
}

fn run() -> Result<()> {
    signals::install().context("cannot watch for Ctrl-C")?;
    match args::parse(std::env::args_os())? {
        args::Parsed::Printed => output::check_open(),
        args::Parsed::Cli(cli) => {
            if cli.command.as_ref().is_none_or(args::Command::is_for_its_output) {
                output::check_open()?;
            }
            match cli.command {
                Some(command) => commands::dispatch(command),
                None => commands::start(),
            }
        }
    }
}
