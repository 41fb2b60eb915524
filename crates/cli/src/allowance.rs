//! How much text may come in. A text is read and made into tokens before there is a plan (the plan wants to
//! know how many), so this is the place that keeps it within the budget; and what the context cannot
//! hold is refused before any budget is asked for: none would help.

use std::fmt;

use lowtide_engine::{MemoryLimit, Model, Room};
use lowtide_tokenizer::Error as TokenizerError;

use crate::failure::{Failure, STATUS_INPUT, STATUS_RUNNING};
use crate::human;

/// This much is always allowed: the reserve covers it, and a budget too small for it is below the floor,
/// which says more.
const HEAP_BYTES_MIN: u64 = 1 << 20;

const SET_BY_CTX: &str = "the context is set by --ctx";

/// Copies of the text that exist at once, beside the one that was read, while a chat template writes it into a prompt:
/// the message, what the template gets, what it makes of it. With five megabytes the peak was below nine.
const TEMPLATE_COPIES: u64 = 10;

/// Where the memory for texts comes from.
#[derive(Debug, Clone, Copy)]
pub enum Source {
    /// What the budget leaves before there is a plan.
    Budget(MemoryLimit),
    /// Bytes that were claimed of the plan.
    Claimed(u64),
}

/// What a text may take.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    context: Option<Context>,
    source: Source,
}

#[derive(Debug, Clone, Copy)]
struct Context {
    tokens: usize,
    why: &'static str,
    /// Bytes of text that a token stands for at most, where that is known.
    token_bytes_max: Option<usize>,
}

impl Allowance {
    /// For a text of any number of tokens.
    pub fn any_length(source: Source) -> Self {
        Self { context: None, source }
    }

    /// For a prompt: the context is `ctx`, or what the model was trained for.
    pub fn prompt(model: &Model, ctx: Option<usize>, source: Source) -> Self {
        let (tokens, why) = match ctx {
            Some(ctx) => (ctx, SET_BY_CTX),
            None => (model.config().context_length as usize, "the model was trained for no more"),
        };
        Self::context(model, tokens, why, source)
    }

    /// For a message of a conversation whose context there is already.
    pub fn message(model: &Model, context: usize, set: bool, source: Source) -> Self {
        let why = if set { SET_BY_CTX } else { "so much it has where --ctx does not ask for more" };
        Self::context(model, context, why, source)
    }

    fn context(model: &Model, tokens: usize, why: &'static str, source: Source) -> Self {
        let token_bytes_max = model.tokenizer().token_text_bytes_max();
        Self { context: Some(Context { tokens, why, token_bytes_max }), source }
    }

    /// Memory that may be used now.
    pub fn heap_max(&self) -> Result<u64, Failure> {
        let left = match self.source {
            Source::Claimed(bytes) => bytes,
            Source::Budget(memory) => {
                let room = Room::read(memory);
                room.map_err(|error| Failure::from_lines(&error, STATUS_RUNNING))?.left_bytes
            }
        };
        Ok(left.max(HEAP_BYTES_MIN))
    }

    /// Bytes of text that could fit.
    pub fn bytes_max(&self) -> Result<u64, Failure> {
        let context = self.context.and_then(|context| context.bytes_max()).unwrap_or(u64::MAX);
        Ok(context.min(self.heap_max()?))
    }

    /// Refuses a text that cannot fit by its size. `more`: it has more bytes than these.
    pub fn check_bytes(&self, place: &str, bytes: u64, more: bool) -> Result<(), Failure> {
        let over = if more { "more than " } else { "" };
        let has = format!("{place} has {over}{} bytes", human::grouped(bytes));
        let bytes = bytes.saturating_add(u64::from(more));
        if let Some(context) = &self.context
            && let Some(of_token) = context.token_bytes_max
            && context.bytes_max().is_some_and(|max| bytes > max)
        {
            let tokens = human::grouped(context.tokens as u64);
            let least = human::grouped(bytes.div_ceil(of_token.max(1) as u64));
            return Err(Failure::input(format!(
                "{has}: at least {least} tokens, which do not fit the context of {tokens}"
            ))
            .why(format!(
                "no token of this model stands for more than {of_token} bytes; {}",
                context.why
            ))
            .mend("a larger --ctx, or a shorter text"));
        }
        let left = self.heap_max()?;
        if bytes > left { Err(self.no_memory(has, left)) } else { Ok(()) }
    }

    /// Refuses a text of so many bytes that takes so many of memory to read.
    pub fn check_memory(&self, place: &str, bytes: u64, needed: u64) -> Result<(), Failure> {
        let left = self.heap_max()?;
        if needed <= left {
            return Ok(());
        }
        let (bytes, needed) = (human::grouped(bytes), human::bytes(needed));
        Err(self
            .no_memory(format!("{place} has {bytes} bytes, and reading it takes {needed}"), left))
    }

    /// Refuses more tokens than the context holds.
    pub fn check_tokens(&self, tokens: usize) -> Result<(), Failure> {
        match self.context {
            Some(context) if tokens > context.tokens => {
                let error = lowtide_engine::Error::ContextFull {
                    needed: tokens,
                    context: context.tokens,
                    why: context.why,
                };
                Err(Failure::from_lines(&error, STATUS_INPUT))
            }
            _ => Ok(()),
        }
    }

    /// Refuses messages that a template could not write in the memory there is.
    pub fn check_messages(&self, bytes: u64) -> Result<(), Failure> {
        let (needed, left) = (bytes.saturating_mul(TEMPLATE_COPIES), self.heap_max()?);
        if needed <= left {
            return Ok(());
        }
        let (bytes, needed) = (human::grouped(bytes), human::bytes(needed));
        let what = format!("writing {bytes} bytes as a conversation takes {needed} of memory");
        Err(self.no_memory(what, left))
    }

    /// Tokens by `encode`, which gets the most bytes of memory it may take.
    pub fn encoded<T>(
        &self,
        encode: impl FnOnce(usize) -> Result<T, TokenizerError>,
    ) -> Result<T, Failure> {
        let left = self.heap_max()?;
        encode(usize::try_from(left).unwrap_or(usize::MAX)).map_err(|error| match error {
            TokenizerError::EncodingTooLarge { bytes, .. } => {
                let takes = human::bytes(bytes as u64);
                self.no_memory(format!("turning the text into tokens takes {takes} or more"), left)
            }
            other => Failure::from_lines(&other, STATUS_RUNNING),
        })
    }

    fn no_memory(&self, what: impl fmt::Display, left: u64) -> Failure {
        let left = human::bytes(left);
        let (whose, mend) = match self.source {
            Source::Budget(_) => {
                ("the budget leaves for it", "a larger --memory, or a shorter text")
            }
            Source::Claimed(_) => ("was set aside for texts", "a larger --ctx, or a shorter text"),
        };
        Failure::input(what.to_string()).why(format!("{left} is what {whose}")).mend(mend)
    }
}

impl Context {
    fn bytes_max(&self) -> Option<u64> {
        Some((self.tokens as u64).saturating_mul(self.token_bytes_max? as u64))
    }
}
