//! `lowtide completions`: for shells, and man pages.

use std::io::Write;

use anyhow::{Context, Result};
use clap::CommandFactory;

use crate::args::{Cli, CompletionsArgs};
use crate::human;
use crate::output::Stdout;

/// Writes a shell's completions to standard output, or man pages into a folder.
pub fn completions(args: &CompletionsArgs) -> Result<()> {
    if let Some(shell) = args.shell {
        // Collected first: the generator panics where it cannot write.
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "lowtide", &mut script);
        let mut out = Stdout::lock();
        out.write_all(&script)?;
        out.finish()?;
    }
    if let Some(folder) = &args.man {
        let describe = || format!("cannot write man pages into {}", folder.display());
        std::fs::create_dir_all(folder).with_context(describe)?;
        clap_mangen::generate_to(Cli::command(), folder).with_context(describe)?;
        let count = std::fs::read_dir(folder).with_context(describe)?.count();
        let mut out = Stdout::lock();
        writeln!(out, "{} files in {}", human::grouped(count as u64), folder.display())?;
        out.finish()?;
    }
    Ok(())
}
