//! A conversation, and how it is saved.

use std::fs::{self, File};
use std::io::{BufReader, Write};
use std::path::Path;

use anyhow::{Context, Result, bail};
use lowtide_tokenizer::Message;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};

use crate::allowance::Allowance;
use crate::out_file::OutFile;

/// The format that is written; another number is another format.
const FORMAT: u32 = 1;
/// A longer file is no conversation with a model of this age.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What was said, without the system message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conversation {
    /// The message that says how to answer.
    pub system: Option<String>,
    /// User and assistant in turn.
    pub turns: Vec<Turn>,
}

/// One message.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

/// What a file holds.
#[derive(Serialize, Deserialize)]
struct Saved<System, Turns> {
    lowtide_conversation: u32,
    model: String,
    system: System,
    turns: Turns,
}

impl Conversation {
    /// Adds a message.
    pub fn push(&mut self, role: &str, content: impl Into<String>) {
        self.turns.push(Turn { role: role.to_owned(), content: content.into() });
    }

    /// All of it, for a chat template.
    pub fn messages(&self) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::new("system", text.as_str()));
        let turns = self.turns.iter().map(|turn| Message::new(&*turn.role, &*turn.content));
        system.chain(turns).collect()
    }

    /// Writes it. A file that is there is replaced only if it is a saved conversation itself: a
    /// slip of the hand must not cost a model.
    pub fn save(&self, path: &Path, model: &str) -> Result<()> {
        // Looked through, not kept: it may be longer than there is memory for.
        if path.exists() && read::<IgnoredAny, IgnoredAny>(path).is_err() {
            bail!("{} is there, and is no saved conversation", path.display());
        }
        let file = Saved {
            lowtide_conversation: FORMAT,
            model: model.to_owned(),
            system: &self.system,
            turns: &self.turns,
        };
        Ok(OutFile::create(path, "/save")?.fill(|out| {
            serde_json::to_writer_pretty(&mut *out, &file)?;
            out.write_all(b"\n")
        })?)
    }

    /// Reads one that may be used within `allowance`, and the name of the model it was held with.
    pub fn load(path: &Path, allowance: &Allowance) -> Result<(Self, String)> {
        if let Ok(meta) = fs::metadata(path) {
            // What is no conversation at all is told so, whatever its size.
            allowance.check_messages(meta.len()).or_else(|too_long| {
                read::<IgnoredAny, IgnoredAny>(path).and(Err(too_long.into()))
            })?;
        }
        let file: Saved<Option<String>, Vec<Turn>> = read(path)?;
        let in_turn = file
            .turns
            .iter()
            .enumerate()
            .all(|(i, turn)| turn.role == if i % 2 == 0 { "user" } else { "assistant" });
        if !in_turn {
            bail!("{} does not hold user and assistant in turn", path.display());
        }
        Ok((Self { system: file.system, turns: file.turns }, file.model))
    }
}

fn read<S: DeserializeOwned, T: DeserializeOwned>(path: &Path) -> Result<Saved<S, T>> {
    let describe = || format!("cannot read {}", path.display());
    let meta = fs::metadata(path).with_context(describe)?;
    if !meta.is_file() || meta.len() > FILE_BYTES_MAX {
        bail!("{} is no saved conversation", path.display());
    }
    let file = File::open(path).with_context(describe)?;
    let saved: Saved<S, T> = serde_json::from_reader(BufReader::new(file))
        .with_context(|| format!("{} is no saved conversation", path.display()))?;
    if saved.lowtide_conversation != FORMAT {
        bail!("{} is of another version of lowtide", path.display());
    }
    Ok(saved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allowance::Source;

    #[test]
    fn what_is_saved_is_loaded_and_nothing_else_is_overwritten() {
        let dir = std::env::temp_dir().join(format!("lowtide-conversation-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("talk.json");
        let mut conversation = Conversation { system: Some("Be brief.".into()), turns: vec![] };
        conversation.push("user", "Hi \u{1b}[31m\n");
        conversation.push("assistant", "Hello.");
        conversation.save(&path, "m").unwrap();
        let room = |bytes| Allowance::any_length(Source::Claimed(bytes));
        let load = |path: &Path| Conversation::load(path, &room(1 << 20));
        assert_eq!(load(&path).unwrap(), (conversation.clone(), "m".to_owned()));
        conversation.save(&path, "m").unwrap();
        for other in
            ["", "{}", "GGUF", "[[[[", r#"{"lowtide_conversation": 2, "model": "m", "turns": []}"#]
        {
            fs::write(&path, other).unwrap();
            assert!(load(&path).is_err(), "{other}");
            assert!(conversation.save(&path, "m").is_err(), "{other}");
            assert_eq!(fs::read_to_string(&path).unwrap(), other);
        }
        let order = r#"{"lowtide_conversation": 1, "model": "m", "turns": [{"role": "assistant", "content": ""}]}"#;
        fs::write(&path, order).unwrap();
        assert!(load(&path).is_err());
        // What is too long for the memory there is is not read, and may be replaced.
        let long = Conversation { system: None, turns: vec![] };
        let (mut long, text) = (long, "x".repeat(1 << 20));
        long.push("user", text);
        fs::remove_file(&path).unwrap();
        long.save(&path, "m").unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("was set aside for texts"));
        assert_eq!(Conversation::load(&path, &room(16 << 20)).unwrap().0, long);
        conversation.save(&path, "m").unwrap();
        assert_eq!(load(&path).unwrap().0, conversation);
        fs::write(&path, "x".repeat(1 << 20)).unwrap();
        assert!(load(&path).unwrap_err().to_string().contains("is no saved conversation"));
        fs::remove_dir_all(&dir).unwrap();
    }
}
