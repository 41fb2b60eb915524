//! What begins with a slash in a chat.

use std::path::PathBuf;

/// The commands, one a line.
pub const HELP: &str = "\
/system TEXT   say how to answer, from the next message on; without TEXT: show it
/clear         begin a new conversation
/save FILE     keep this conversation
/load FILE     go on with a kept one
/mem           memory: resident, charged, page tables, faults
/stats         figures of the last answer
/quit          leave (Ctrl-D does as well)
A line that ends in \\ goes on in the next; so does all between two lines of \"\"\".
Ctrl-C stops an answer.";

/// A command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChatCommand {
    Help,
    Mem,
    Stats,
    Clear,
    Quit,
    System(Option<String>),
    Save(PathBuf),
    Load(PathBuf),
    /// Not one, with the reason.
    Wrong(String),
}

impl ChatCommand {
    /// A command, if the line begins with a slash and a letter; `None` if it is a message.
    pub fn parse(line: &str) -> Option<Self> {
        let rest = line.trim().strip_prefix('/')?;
        if !rest.starts_with(|c: char| c.is_ascii_alphabetic()) || rest.contains('\n') {
            return None;
        }
        let (name, argument) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        // A path at the start of a message is not a command.
        if name.contains('/') {
            return None;
        }
        let argument = argument.trim();
        let file = |make: fn(PathBuf) -> Self| match argument {
            "" => Self::Wrong(format!("/{name} needs a file")),
            path => make(home_expanded(path)),
        };
        Some(match name {
            "help" => Self::Help,
            "mem" => Self::Mem,
            "stats" => Self::Stats,
            "clear" => Self::Clear,
            "quit" | "exit" | "bye" => Self::Quit,
            "system" => Self::System((!argument.is_empty()).then(|| argument.to_owned())),
            "save" => file(Self::Save),
            "load" => file(Self::Load),
            _ => Self::Wrong(format!("there is no /{name}; /help shows the commands")),
        })
    }
}

/// No shell has expanded this path.
fn home_expanded(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_told_from_messages() {
        let parse = ChatCommand::parse;
        assert_eq!(parse("/mem"), Some(ChatCommand::Mem));
        assert_eq!(parse(" /quit "), Some(ChatCommand::Quit));
        assert_eq!(
            parse("/system  Be brief. "),
            Some(ChatCommand::System(Some("Be brief.".into())))
        );
        assert_eq!(parse("/system"), Some(ChatCommand::System(None)));
        assert_eq!(parse("/save a b.json"), Some(ChatCommand::Save("a b.json".into())));
        assert!(matches!(parse("/save"), Some(ChatCommand::Wrong(_))));
        assert!(matches!(parse("/sytem x"), Some(ChatCommand::Wrong(_))));
        for message in ["hello", "/", "// a comment", "/etc/passwd is what?", "/help\nme", "1/2"] {
            assert_eq!(parse(message), None, "{message}");
        }
    }
}
