//! From what the user says to token ids: through the model's chat template, or as it is.

use anyhow::Result;
use lowtide_engine::Model;
use lowtide_tokenizer::{ChatTemplate, EncodeOptions, Message, RenderOptions};

use crate::args::PromptOptions;
use crate::failure::{Failure, STATUS_INPUT, STATUS_RUNNING};
use crate::input;

/// The ids of a single prompt.
pub fn ids(model: &Model, options: &PromptOptions, prompt: Option<&str>) -> Result<Vec<u32>> {
    if let Some(ids) = &options.ids {
        return Ok(ids.clone());
    }
    let text = input::text(prompt, options.file.as_deref(), "prompt")?;
    if text.is_empty() {
        let error = lowtide_engine::Error::EmptyPrompt;
        return Err(Failure::from_lines(&error, STATUS_INPUT).into());
    }
    if options.raw {
        // The whole input is the user's own, special tokens included.
        let encode = EncodeOptions { add_special: true, parse_special: true };
        return Ok(model.tokenizer().encode(&text, encode));
    }
    match Dialogue::of(model)? {
        Some(dialogue) => {
            let mut messages = Vec::with_capacity(2);
            messages.extend(options.system.as_deref().map(|text| Message::new("system", text)));
            // The line end of a file or a pipe is not part of a question.
            messages.push(Message::new("user", text.trim_end_matches(['\n', '\r'])));
            dialogue.ids(model, &messages)
        }
        None if options.system.is_some() => Err(no_template()),
        None => {
            let encode = EncodeOptions { add_special: true, parse_special: false };
            Ok(model.tokenizer().encode(&text, encode))
        }
    }
}

/// A model without a template cannot be told who says what.
pub fn no_template() -> anyhow::Error {
    Failure::input("this model has no chat template")
        .why("it goes on with a text, it does not hold a conversation")
        .mend("lowtide run MODEL 'Once upon a time'")
        .into()
}

/// A model's way to write a conversation.
pub struct Dialogue {
    template: ChatTemplate,
}

impl Dialogue {
    /// The template of the model's file; `None` where it has none.
    pub fn of(model: &Model) -> Result<Option<Self>> {
        let Some(source) = model.chat_template() else { return Ok(None) };
        let template = ChatTemplate::new(source, model.tokenizer())
            .map_err(|error| Failure::from_lines(&error, STATUS_INPUT))?;
        Ok(Some(Self { template }))
    }

    /// The ids of a conversation, up to the start of the next answer.
    pub fn ids(&self, model: &Model, messages: &[Message]) -> Result<Vec<u32>> {
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        let prompt = self
            .template
            .render(messages, &options)
            .map_err(|error| Failure::from_lines(&error, STATUS_RUNNING))?;
        Ok(model.tokenizer().encode_prompt(&prompt))
    }
}
