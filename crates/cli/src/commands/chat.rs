//! `lowtide chat`: a conversation at the terminal, or line by line from a pipe.

use std::io::{BufRead, ErrorKind, IsTerminal, Read, Write};
use std::path::PathBuf;

use anyhow::Result;
use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor};

use super::run::{bounds, report};
use crate::allowance::{Allowance, Source};
use crate::answer::{Answering, Bounds, Finish};
use crate::args::ChatArgs;
use crate::chat_command::{ChatCommand, HELP};
use crate::chooser::Chooser;
use crate::conversation::Conversation;
use crate::failure::{self, Failure};
use crate::load::{self, Expected, Loaded};
use crate::metrics::Metrics;
use crate::observe::Observers;
use crate::output::{Stdout, StdoutClosed, TextLine};
use crate::progress::note;
use crate::prompt::{Dialogue, no_template};
use crate::report::{Report, Times};
use crate::signals::Interruptible;
use crate::terminal;
use crate::watch::Watch;

/// Lines of history that are kept.
const HISTORY_LINES: usize = 1000;
/// Bytes for each token of the context that the conversation may take: its text, what a template makes of it, the
/// tokens, and what it takes to find them. Text has four or five bytes a token; ten times that is enough for a
/// template, and 40 bytes a byte for the longest word that there could be.
const TEXT_BYTES_PER_TOKEN: u64 = 256;
/// Begins and ends a message of several lines.
const QUOTES: &str = "\"\"\"";

/// Talks.
pub fn chat(args: &ChatArgs) -> Result<()> {
    let watch = Watch::begin();
    let opened = load::open(&args.model, &args.budget)?;
    let dialogue = Dialogue::of(&opened.model)?.ok_or_else(no_template)?;
    let mut metrics = args.metrics.as_deref().map(Metrics::create).transpose()?;
    let expected = Expected::default();
    let options = load::options(&args.budget, expected);
    let claimed = opened.model.context_max(&options) as u64 * TEXT_BYTES_PER_TOKEN;
    let loaded = opened.load(&args.budget, Expected { caller_bytes: claimed, ..expected })?;
    let model = loaded.engine.model();
    let allowance = Allowance::message(
        model,
        loaded.engine.context(),
        args.budget.ctx.is_some(),
        Source::Claimed(claimed),
    );
    metrics.iter_mut().try_for_each(Metrics::begin)?;
    let engine = &loaded.engine;
    load::note_options(engine, &args.budget);
    let chooser = Chooser::new(
        &args.sampling,
        engine.model().sampler_defaults(),
        engine.vocabulary_length(),
    )?;
    let mut chat = Chat {
        conversation: Conversation { system: args.system.clone(), turns: Vec::new() },
        in_session: Vec::new(),
        last: None,
        bounds: bounds(&args.end, None),
        loaded,
        allowance,
        dialogue,
        chooser,
        watch,
        observers: Observers { metrics, ..Observers::default() },
        failed: None,
    };
    let _settings = terminal::keep_settings();
    let mut lines = Lines::new(chat.allowance.bytes_max()?)?;
    if lines.interactive {
        note(&chat.greeting());
    }
    loop {
        let line = match lines.message()? {
            Input::End => break,
            Input::TooLong(bytes) => {
                // The chat goes on: what comes next may fit.
                if let Err(failure) = chat.allowance.check_bytes("the message", bytes, true) {
                    chat.complain(&failure.into());
                }
                continue;
            }
            Input::Message(line) => line,
        };
        match ChatCommand::parse(&line) {
            _ if line.trim().is_empty() => {}
            Some(ChatCommand::Quit) => break,
            Some(command) => chat.command(command)?,
            None => chat.say(&line)?,
        }
    }
    lines.save();
    match chat.failed {
        // Who typed has seen it; a script sees the status only.
        Some(status) if !lines.interactive => Err(Failure::told(status).into()),
        _ => Ok(()),
    }
}

struct Chat {
    loaded: Loaded,
    /// What the conversation may take as text.
    allowance: Allowance,
    dialogue: Dialogue,
    chooser: Chooser,
    conversation: Conversation,
    bounds: Bounds,
    /// The tokens that the session holds.
    in_session: Vec<u32>,
    /// The figures of the last answer.
    last: Option<Report>,
    watch: Watch,
    observers: Observers,
    /// The exit status of the first thing that went wrong.
    failed: Option<u8>,
}

impl Chat {
    fn greeting(&self) -> String {
        let model = self.loaded.path.file_stem().unwrap_or_default().to_string_lossy();
        let context = self.loaded.engine.context();
        format!("{model}, {context} tokens of context. /help shows the commands, Ctrl-D leaves.")
    }

    /// One question, one answer. What goes wrong with it does not end the chat.
    fn say(&mut self, text: &str) -> Result<()> {
        let before = self.conversation.turns.len();
        self.conversation.push("user", text);
        match self.reply() {
            Ok(reply) => self.conversation.push("assistant", reply),
            Err(error) if error.chain().any(StdoutClosed::is) => {
                return Err(error);
            }
            Err(error) => {
                self.conversation.turns.truncate(before);
                self.complain(&error);
            }
        }
        Ok(())
    }

    /// What goes wrong with a message or a command does not end the chat.
    fn complain(&mut self, error: &anyhow::Error) {
        let status = failure::report(error);
        self.failed.get_or_insert(status);
    }

    fn reply(&mut self) -> Result<String> {
        let messages = self.conversation.messages();
        let model = self.loaded.engine.model();
        let ids = self.dialogue.ids(model, &messages, &self.allowance)?;
        let room = self.loaded.engine.context();
        if ids.len() >= room {
            return Err(Failure::running(format!(
                "the conversation has {} tokens, the context holds {room}",
                ids.len()
            ))
            .mend("/clear   (starts anew), or lowtide chat with a larger --ctx")
            .into());
        }
        // What the session holds already is not computed again; at least one token is, for logits.
        let common = ids.iter().zip(&self.in_session).take_while(|(a, b)| a == b).count();
        let kept = self.loaded.session.truncate(common.min(ids.len() - 1));
        self.in_session.clear();
        self.chooser.begin(&ids);
        let stop = Interruptible::begin();
        let mut out = Stdout::lock();
        let Loaded { engine, session, .. } = &mut self.loaded;
        let (bounds, chooser) = (&self.bounds, &mut self.chooser);
        let (observers, watch) = (&mut self.observers, &self.watch);
        let mut answering = Answering {
            engine,
            session,
            bounds,
            chooser,
            stop: &stop,
            observers,
            watch,
            token_compute_s: None,
        };
        let mut line = TextLine::default();
        let reply = answering.answer(&ids[kept..], &mut |piece| Ok(line.write(&mut out, piece)?));
        drop(answering);
        let Ok(reply) = reply else {
            // The error begins a line of its own; where nothing can be written it says so itself.
            let _ = line.end(&mut out);
            // What is in the session after an error is not known here.
            self.loaded.session.reset();
            return reply.map(|reply| reply.text);
        };
        // An empty line before the next question, where questions are seen.
        out.write_all(if std::io::stdout().is_terminal() { b"\n\n" } else { b"\n" })?;
        out.finish()?;
        let held = ids.iter().chain(&reply.ids).copied().take(self.loaded.session.position());
        self.in_session = held.collect();
        if reply.finish == Finish::ContextFull {
            note("(the context is full: /clear starts anew)");
        }
        self.last = Some(report(&self.loaded, &reply, &self.watch));
        Ok(reply.text.trim().to_owned())
    }

    fn command(&mut self, command: ChatCommand) -> Result<()> {
        let mut stderr = std::io::stderr().lock();
        match command {
            ChatCommand::Help => note_lines(HELP),
            ChatCommand::Stats => match &self.last {
                Some(last) => last.write_ledger(&mut stderr)?,
                None => note_lines("no answer yet"),
            },
            ChatCommand::Mem => {
                let seen = self.watch.seen();
                let path = self.loaded.path.to_string_lossy();
                let report = Report::new(&self.loaded.engine, &path, &Times::default(), &seen);
                report.write_memory(&mut stderr)?;
            }
            ChatCommand::System(None) => {
                note(self.conversation.system.as_deref().unwrap_or("there is no system message"));
            }
            ChatCommand::System(Some(text)) => self.conversation.system = Some(text),
            ChatCommand::Clear => self.conversation.turns.clear(),
            ChatCommand::Save(path) => {
                let model = self.loaded.path.to_string_lossy();
                match self.conversation.save(&path, &model) {
                    Ok(()) => note(&format!("saved to {}", path.display())),
                    Err(error) => self.complain(&error),
                }
            }
            ChatCommand::Load(path) => match Conversation::load(&path, &self.allowance) {
                Ok((conversation, model)) => {
                    let turns = conversation.turns.len();
                    self.conversation = conversation;
                    note(&format!("{turns} messages from {}, held with {model}", path.display()));
                }
                Err(error) => self.complain(&error),
            },
            ChatCommand::Wrong(why) => note(&why),
            ChatCommand::Quit => {}
        }
        Ok(())
    }
}

fn note_lines(text: &str) {
    for line in text.lines() {
        note(line);
    }
}

/// What comes in.
enum Input {
    Message(String),
    /// A message of more bytes than these; it was not kept.
    TooLong(u64),
    End,
}

/// What the user types, message by message.
struct Lines {
    editor: DefaultEditor,
    history: Option<PathBuf>,
    interactive: bool,
    /// Bytes of a message at most.
    bytes_max: u64,
}

impl Lines {
    fn new(bytes_max: u64) -> Result<Self> {
        let config = Config::builder().max_history_size(HISTORY_LINES)?.auto_add_history(false);
        let mut editor = DefaultEditor::with_config(config.build())?;
        let interactive = std::io::stdin().is_terminal();
        let history = if interactive { history_path() } else { None };
        if let Some(path) = &history {
            // The first time there is none.
            let _ = editor.load_history(path);
        }
        Ok(Self { editor, history, interactive, bytes_max })
    }

    /// A line without its end. From a pipe no more of it is kept than a message may have, and one byte.
    fn line(&mut self, prompt: &str) -> Result<String, ReadlineError> {
        if self.interactive {
            return self.editor.readline(prompt);
        }
        let mut stdin = std::io::stdin().lock();
        let mut line = Vec::new();
        let most = self.bytes_max.saturating_add(1);
        if stdin.by_ref().take(most).read_until(b'\n', &mut line)? == 0 {
            return Err(ReadlineError::Eof);
        }
        let is_whole = line.last() == Some(&b'\n') || (line.len() as u64) < most;
        if !is_whole {
            stdin.skip_until(b'\n')?;
            // It is thrown away: half a character at its end does not matter.
            return Ok(String::from_utf8_lossy(&line).into_owned());
        }
        let mut line = String::from_utf8(line)
            .map_err(|error| std::io::Error::new(ErrorKind::InvalidData, error))?;
        line.truncate(line.trim_end_matches(['\n', '\r']).len());
        Ok(line)
    }

    /// The next message. A line that ends in `\` goes on in the next, as does everything between two
    /// lines of three quotes.
    fn message(&mut self) -> Result<Input> {
        let mut message = String::new();
        let mut quoted = false;
        let mut too_long = false;
        loop {
            let first = message.is_empty() && !quoted;
            let line = match self.line(if first { "> " } else { ". " }) {
                Ok(line) => line,
                // Ctrl-C throws away what is typed, not the conversation.
                Err(ReadlineError::Interrupted) if self.interactive => {
                    if first {
                        note("(Ctrl-D or /quit leaves)");
                    }
                    message.clear();
                    (quoted, too_long) = (false, false);
                    continue;
                }
                Err(ReadlineError::Interrupted) => return Err(Failure::interrupted().into()),
                Err(ReadlineError::Io(error)) if error.kind() == ErrorKind::InvalidData => {
                    let what = "a line of standard input is not UTF-8 text";
                    return Err(Failure::input(what).why(error).into());
                }
                Err(ReadlineError::Eof) if too_long => break,
                Err(ReadlineError::Eof) if message.is_empty() => return Ok(Input::End),
                Err(ReadlineError::Eof) => return Ok(Input::Message(message)),
                Err(error) => return Err(error.into()),
            };
            if line.trim() == QUOTES {
                if quoted {
                    break;
                }
                quoted = true;
                continue;
            }
            too_long |= (message.len() + line.len()) as u64 > self.bytes_max;
            let (line, goes_on) = match line.strip_suffix('\\') {
                Some(line) if !quoted => (line, true),
                _ => (line.as_str(), quoted),
            };
            if !too_long {
                message.push_str(line);
            }
            if !goes_on {
                break;
            }
            if !too_long {
                message.push('\n');
            }
        }
        if too_long {
            return Ok(Input::TooLong(self.bytes_max));
        }
        let message = message.trim_end_matches('\n').to_owned();
        if self.interactive && !message.trim().is_empty() {
            self.editor.add_history_entry(message.as_str())?;
        }
        Ok(Input::Message(message))
    }

    fn save(&mut self) {
        let Some(path) = &self.history else { return };
        let made = path.parent().is_none_or(|dir| std::fs::create_dir_all(dir).is_ok());
        // A history that cannot be kept is no reason to complain at the end of a conversation.
        if made {
            let _ = self.editor.save_history(path);
        }
    }
}

/// `$XDG_STATE_HOME/lowtide/history`, or below `~/.local/state`.
fn history_path() -> Option<PathBuf> {
    let set = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let state = set("XDG_STATE_HOME").filter(|dir| dir.is_absolute());
    let state = state.or_else(|| Some(set("HOME")?.join(".local/state")))?;
    Some(state.join("lowtide/history"))
}
