//! From what the user says to token ids: through the model's chat template, or as it is.

use anyhow::Result;
use lowtide_engine::Model;
use lowtide_tokenizer::{ChatTemplate, EncodeOptions, Message, RenderOptions};

use crate::allowance::Allowance;
use crate::args::PromptOptions;
use crate::failure::{Failure, STATUS_INPUT};
use crate::input;

/// The ids of a single prompt, which are no more than the context holds.
pub fn ids(
    model: &Model,
    options: &PromptOptions,
    prompt: Option<&str>,
    allowance: &Allowance,
) -> Result<Vec<u32>> {
    let ids = match &options.ids {
        Some(ids) => ids.clone(),
        None => text_ids(model, options, prompt, allowance)?,
    };
    allowance.check_tokens(ids.len())?;
    Ok(ids)
}

fn text_ids(
    model: &Model,
    options: &PromptOptions,
    prompt: Option<&str>,
    allowance: &Allowance,
) -> Result<Vec<u32>> {
    let text = input::text(prompt, options.file.as_deref(), "prompt", Some(allowance))?;
    let encoded = |parse_special| {
        let encode = EncodeOptions { add_special: true, parse_special };
        allowance.encoded(|heap_max| model.tokenizer().encode_within(&text, encode, heap_max))
    };
    if text.is_empty() {
        let error = lowtide_engine::Error::EmptyPrompt;
        return Err(Failure::from_lines(&error, STATUS_INPUT).into());
    }
    if options.raw {
        // The whole input is the user's own, special tokens included.
        return Ok(encoded(true)?);
    }
    match Dialogue::of(model)? {
        Some(dialogue) => {
            let mut messages = Vec::with_capacity(2);
            messages.extend(options.system.as_deref().map(|text| Message::new("system", text)));
            // The line end of a file or a pipe is not part of a question.
            messages.push(Message::new("user", text.trim_end_matches(['\n', '\r'])));
            dialogue.ids(model, &messages, allowance)
        }
        None if options.system.is_some() => Err(no_template()),
        None => Ok(encoded(false)?),
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
    pub fn ids(
        &self,
        model: &Model,
        messages: &[Message],
        allowance: &Allowance,
    ) -> Result<Vec<u32>> {
        let text = |message: &Message| message.content.as_str().map_or(0, str::len) as u64;
        allowance.check_messages(messages.iter().map(text).sum())?;
        let options = RenderOptions { add_generation_prompt: true, ..RenderOptions::default() };
        let prompt = self
            .template
            .render(messages, &options)
            .map_err(|error| Failure::from_lines(&error, STATUS_INPUT))?;
        let tokenizer = model.tokenizer();
        Ok(allowance.encoded(|heap_max| tokenizer.encode_prompt_within(&prompt, heap_max))?)
    }
}
