//! The parser's own errors, in the same three lines as all others.

use std::error::Error;
use std::ffi::OsString;
use std::io::Write;
use std::num::{IntErrorKind, ParseIntError};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, FromArgMatches};

use super::Cli;
use crate::failure::Failure;
use crate::output::Stdout;

/// What the arguments come to.
#[derive(Debug)]
pub enum Parsed {
    /// Something to do.
    Cli(Box<Cli>),
    /// Help or the version was asked for, and has been printed.
    Printed,
}

/// Parses the arguments; prints help and version.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<Parsed> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let parsed = Cli::command()
        .try_get_matches_from(&arguments)
        .and_then(|matches| Cli::from_arg_matches(&matches));
    match parsed {
        Ok(cli) => Ok(Parsed::Cli(Box::new(cli))),
        Err(error) if !error.use_stderr() => {
            let text = error.render();
            let mut out = Stdout::lock();
            // Help is coloured for terminals only; a pipe gets the plain text.
            if crate::output::is_coloured() {
                write!(out, "{}", text.ansi())?;
            } else {
                write!(out, "{text}")?;
            }
            out.finish()?;
            Ok(Parsed::Printed)
        }
        Err(error) => Err(failure(&error, command_of(&arguments)).into()),
    }
}

fn failure(error: &clap::Error, command: String) -> Failure {
    let rendered = error.render().to_string();
    let mut paragraphs = rendered.split("\n\n").map(str::trim);
    let first = paragraphs.next().unwrap_or_default().trim_start_matches("error: ");
    let tip = paragraphs.find_map(|paragraph| paragraph.strip_prefix("tip: "));
    let mut lines = first.lines().map(str::trim);
    let what = lines.next().unwrap_or_default();
    let rest: Vec<&str> = lines.collect();
    let failure = match error.kind() {
        ErrorKind::ValueValidation => {
            let what = invalid_value(error).unwrap_or_else(|| what.to_owned());
            match error.source() {
                Some(source) => Failure::input(what).why(wanted(source)),
                None => Failure::input(what),
            }
        }
        ErrorKind::MissingRequiredArgument => {
            Failure::input(format!("missing {}", rest.join(" and ")))
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            Failure::input("there is nothing to do")
        }
        _ if rest.is_empty() => Failure::input(what),
        _ => Failure::input(what).why(rest.join(" ").trim_matches(['[', ']'])),
    };
    let failure = match tip {
        Some(tip) => failure.why(tip.lines().next().unwrap_or_default()),
        None => failure,
    };
    failure.mend(format!("{command} --help"))
}

/// What would do instead; the standard library and the parser say only what they stumbled over.
fn wanted(source: &(dyn Error + 'static)) -> String {
    let Some(error) = source.downcast_ref::<ParseIntError>() else {
        let text = source.to_string();
        return match text.split_once(" is not in ").and_then(|(_, range)| range.split_once("..=")) {
            Some((least, most)) => format!("a whole number from {least} to {most} is wanted"),
            None => text,
        };
    };
    match error.kind() {
        IntErrorKind::PosOverflow => "a whole number that is not as large is wanted".to_owned(),
        _ => "a whole number of 0 or more is wanted".to_owned(),
    }
}

fn invalid_value(error: &clap::Error) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text),
        _ => None,
    };
    let (argument, value) = (text(ContextKind::InvalidArg)?, text(ContextKind::InvalidValue)?);
    Some(format!("invalid value '{value}' for '{argument}'"))
}

/// `lowtide run`, if that is what was typed, for the hint at its help.
fn command_of(arguments: &[OsString]) -> String {
    let cli = Cli::command();
    let typed = arguments.iter().skip(1).find_map(|word| cli.find_subcommand(word));
    typed.map_or_else(|| "lowtide".to_owned(), |command| format!("lowtide {}", command.get_name()))
}

/// The help of `lowtide` itself.
pub fn print_help() -> anyhow::Result<()> {
    let help = Cli::command().render_help();
    let mut out = Stdout::lock();
    if crate::output::is_coloured() {
        write!(out, "{}", help.ansi())?;
    } else {
        write!(out, "{help}")?;
    }
    Ok(out.finish()?)
}
