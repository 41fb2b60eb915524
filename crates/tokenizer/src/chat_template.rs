//! From messages to the text that a model was trained to answer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime};

use lowtide_gguf::Gguf;
use minijinja::value::{Serde, Value};
use minijinja::{Environment, ErrorKind};
use serde_json::{Map, Value as Json};

use crate::guard::{self, Guard};
use crate::jinja::{self, Refusal};
use crate::tokenizer::Tokenizer;
use crate::{Error, TokenId, clock};

/// A template is at most this long; the longest in use have 20 KB.
pub const TEMPLATE_BYTES_MAX: usize = 256 << 10;

/// Steps that any template may take. A step is an instruction, or 64 bytes of text made; the templates in use take
/// some thousands. So a template ends within about a second, and holds at most 64 times this in memory: 64 MB.
const FUEL_BASE: u64 = 1_000_000;
/// Steps in addition for each value in the messages and tools.
const FUEL_PER_VALUE: u64 = 500;
/// Steps in addition for each byte of them: each byte may be copied 32 times.
const FUEL_PER_TWO_BYTES: u64 = 1;

/// Stack for one level of recursion, at most 0.5 KB as measured, times the most levels there can be: one for each byte
/// of a template, one for each few steps.
const STACK_BYTES: usize = 256 << 20;
/// A template in use takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(10);

/// The name the template has in messages.
const NAME: &str = "chat_template";

/// A message of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool`.
    pub role: String,
    /// What is said: a string, or a list of parts such as `{"type": "text", "text": "..."}`, or null.
    pub content: Json,
    /// Other fields that templates know, such as `tool_calls`, `tool_call_id`, `name`, `reasoning_content`.
    pub fields: Map<String, Json>,
}

impl Message {
    /// A message of text.
    #[must_use]
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Message {
        Message { role: role.into(), content: Json::String(content.into()), fields: Map::new() }
    }

    fn to_json(&self) -> Json {
        let mut fields = Map::with_capacity(self.fields.len() + 2);
        fields.insert("role".to_owned(), Json::String(self.role.clone()));
        fields.insert("content".to_owned(), self.content.clone());
        fields.extend(self.fields.clone());
        Json::Object(fields)
    }
}

/// What a template gets besides the messages.
#[derive(Clone, Debug, Default)]
pub struct RenderOptions {
    /// End with the start of the assistant's answer.
    pub add_generation_prompt: bool,
    /// Tools that the model may call: a list of function descriptions.
    pub tools: Option<Json>,
    /// Other variables, such as `enable_thinking`. They come from a request: text in them stays text.
    pub variables: Map<String, Json>,
    /// The time for templates that print the date; now if not given. Dates are UTC.
    pub now: Option<SystemTime>,
}

/// A rendered conversation.
///
/// [`Tokenizer::encode_prompt`] turns it into tokens such that special tokens in the template's text are special,
/// and those in what users wrote are plain text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    /// The text.
    pub text: String,
    /// Places in `text`, in bytes, ascending, that no control token may span: text from outside that looks
    /// like the start of one goes on there.
    pub breaks: Vec<usize>,
}

/// A model's chat template.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    env: Environment<'static>,
    source: String,
    guard: Guard,
    /// Names and texts of special tokens, for the template to print.
    tokens: Vec<(&'static str, String)>,
    /// Set once a rendering did not end in time: the thread that it runs on cannot be stopped, and there
    /// shall be no second one.
    hung: Arc<AtomicBool>,
}

/// Runs a part of the engine on a thread with a deep stack, and waits for it for so long only.
///
/// The engine counts steps and bytes but not everything: it recurses once for each operator of a long
/// expression and each level of a nested value, and comparing two lists that each hold one list twice, which hold one list
/// twice, and so on, is a single step. The stack is address space until it is used.
fn bounded<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    let (sender, receiver) = mpsc::channel();
    let work = move || {
        // If nobody waits any more there is nobody to tell.
        let _ = sender.send(run());
    };
    let thread = std::thread::Builder::new().name(NAME.to_owned()).stack_size(STACK_BYTES);
    let thread = thread.spawn(work).map_err(|error| Error::TemplateLimit {
        limit: format!("no thread with a stack of {STACK_BYTES} bytes: {error}"),
    })?;
    match receiver.recv_timeout(DEADLINE) {
        Ok(result) => {
            // It has nothing left to do; a thread that outlives the answer would be counted as a leak.
            let _ = thread.join();
            Ok(result)
        }
        Err(_) => Err(slow()),
    }
}

fn slow() -> Error {
    Error::TemplateLimit { limit: format!("it takes longer than {} s", DEADLINE.as_secs()) }
}

impl ChatTemplate {
    /// The template of a file.
    ///
    /// # Errors
    /// [`Error::TemplateMissing`] if it has none; as [`ChatTemplate::new`] otherwise.
    pub fn from_gguf(gguf: &Gguf<'_>, tokenizer: &Tokenizer) -> Result<ChatTemplate, Error> {
        ChatTemplate::named(gguf, tokenizer, None)
    }

    /// One of the templates of a file that has several (`tool_use`, `rag`), or the plain one.
    ///
    /// # Errors
    /// As [`ChatTemplate::from_gguf`].
    pub fn named(
        gguf: &Gguf<'_>,
        tokenizer: &Tokenizer,
        name: Option<&str>,
    ) -> Result<ChatTemplate, Error> {
        let key = match name {
            Some(name) => format!("tokenizer.chat_template.{name}"),
            None => "tokenizer.chat_template".to_owned(),
        };
        let source = gguf.get_str(&key)?.ok_or(Error::TemplateMissing)?;
        ChatTemplate::new(source, tokenizer)
    }

    /// A template from its source, for a vocabulary: what is a special token, and so must not come from
    /// outside, is known from there.
    ///
    /// # Errors
    /// [`Error::TemplateTooLong`], [`Error::TemplateSyntax`].
    pub fn new(source: &str, tokenizer: &Tokenizer) -> Result<ChatTemplate, Error> {
        let special = tokenizer.special();
        let text = |id: Option<TokenId>| {
            let bytes = id.map(|id| tokenizer.token_bytes(id)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let tokens = vec![
            ("bos_token", text(special.bos)),
            ("eos_token", text(special.eos)),
            ("unk_token", text(special.unk)),
            ("pad_token", text(special.pad)),
        ];
        ChatTemplate::build(source, Guard::new(tokenizer, source), tokens)
    }

    /// A template without a vocabulary: for showing what it prints. Nothing is known about special tokens, so
    /// that [`Prompt::breaks`] stays empty.
    ///
    /// # Errors
    /// As [`ChatTemplate::new`].
    pub fn unguarded(source: &str, bos: &str, eos: &str) -> Result<ChatTemplate, Error> {
        let tokens = vec![("bos_token", bos.to_owned()), ("eos_token", eos.to_owned())];
        ChatTemplate::build(source, Guard::default(), tokens)
    }

    fn build(
        source: &str,
        guard: Guard,
        tokens: Vec<(&'static str, String)>,
    ) -> Result<ChatTemplate, Error> {
        if source.len() > TEMPLATE_BYTES_MAX {
            return Err(Error::TemplateTooLong { bytes: source.len(), max: TEMPLATE_BYTES_MAX });
        }
        // As Jinja2 reads a template: its lines end with a line feed, in its texts too.
        let text = jinja::without_generation(&source.replace("\r\n", "\n").replace('\r', "\n"));
        let compiled = bounded(move || {
            let mut env = jinja::environment();
            env.add_template_owned(NAME, text).map(|()| env)
        })?;
        let env = compiled.map_err(|error| Error::TemplateSyntax { message: describe(&error) })?;
        let hung = Arc::default();
        Ok(ChatTemplate { env, source: source.to_owned(), guard, tokens, hung })
    }

    /// The template's text.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// [`Error::TemplateRefused`] if the template raises an exception about the messages,
    /// [`Error::TemplateLimit`] if it runs for too long or makes too much text, [`Error::TemplateFailed`].
    pub fn render(&self, messages: &[Message], options: &RenderOptions) -> Result<Prompt, Error> {
        let messages = Json::Array(messages.iter().map(Message::to_json).collect());
        let tools = options.tools.clone().unwrap_or(Json::Null);
        let variables = Json::Object(options.variables.clone());
        let mut inputs = [messages, tools, variables];
        let mark = Guard::unused_mark(inputs.iter());
        for input in &mut inputs {
            self.guard.mark(input, mark);
        }
        let mut env = self.env.clone();
        env.set_fuel(Some(
            inputs.iter().fold(FUEL_BASE, |fuel, input| fuel.saturating_add(cost(input))),
        ));
        let context = self.context(inputs, options);
        if self.hung.load(Ordering::Relaxed) {
            return Err(slow());
        }
        let rendered = bounded(move || env.get_template(NAME)?.render(context));
        let rendered = rendered.inspect_err(|_| self.hung.store(true, Ordering::Relaxed))?;
        let (text, breaks) = guard::unmark(&rendered.map_err(|error| failure(&error))?, mark);
        Ok(Prompt { text, breaks })
    }

    fn context(&self, inputs: [Json; 3], options: &RenderOptions) -> Value {
        let [messages, tools, variables] = inputs;
        let now = options.now.unwrap_or_else(SystemTime::now);
        let own = [
            ("messages", Value::from(Serde(messages))),
            ("tools", Value::from(Serde(tools))),
            ("add_generation_prompt", Value::from(options.add_generation_prompt)),
            (
                "strftime_now",
                Value::from_function(move |format: String| clock::strftime(now, &format)),
            ),
        ];
        let tokens = self.tokens.iter().map(|(name, text)| (*name, Value::from(text.as_str())));
        let mut all = BTreeMap::new();
        if let Json::Object(variables) = variables {
            all.extend(
                variables.into_iter().map(|(name, value)| (name, Value::from(Serde(value)))),
            );
        }
        // After the request's: what the engine provides is not theirs to replace.
        all.extend(tokens.chain(own).map(|(name, value)| (name.to_owned(), value)));
        Value::from(all)
    }
}

/// Steps that a value from outside adds.
fn cost(value: &Json) -> u64 {
    let bytes = |text: &str| text.len() as u64 / 2 * FUEL_PER_TWO_BYTES;
    FUEL_PER_VALUE
        + match value {
            Json::String(text) => bytes(text),
            Json::Array(items) => items.iter().map(cost).sum(),
            Json::Object(fields) => fields.iter().map(|(key, v)| bytes(key) + cost(v)).sum(),
            Json::Null | Json::Bool(_) | Json::Number(_) => 0,
        }
}

/// What the engine says, in one line.
fn describe(error: &minijinja::Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let what: String = what.chars().take(300).collect();
    match error.line() {
        Some(line) => format!("line {line}: {what}"),
        None => what,
    }
}

fn failure(error: &minijinja::Error) -> Error {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(cause) = source {
        if let Some(Refusal(message)) = cause.downcast_ref() {
            return Error::TemplateRefused { message: message.clone() };
        }
        source = cause.source();
    }
    match error.kind() {
        ErrorKind::OutOfFuel => {
            Error::TemplateLimit { limit: "it takes too long, or makes too much text".to_owned() }
        }
        _ => Error::TemplateFailed { message: describe(error) },
    }
}

impl Tokenizer {
    /// The tokens of a rendered conversation. Special tokens are taken for what they are, but for text from outside
    /// that looks like them. BOS is put in front where the vocabulary asks for it and the template did not.
    #[must_use]
    pub fn encode_prompt(&self, prompt: &Prompt) -> Vec<TokenId> {
        // Nothing takes more memory than there are addresses.
        self.encode_prompt_within(prompt, usize::MAX).unwrap_or_default()
    }

    /// As [`Tokenizer::encode_prompt`], with at most `heap_max` bytes of memory for it.
    ///
    /// # Errors
    /// [`Error::EncodingTooLarge`], before the memory is claimed.
    pub fn encode_prompt_within(
        &self,
        prompt: &Prompt,
        heap_max: usize,
    ) -> Result<Vec<TokenId>, Error> {
        let mut ids = self.list_for(&prompt.text, heap_max)?;
        self.encode_with_breaks(&prompt.text, &prompt.breaks, heap_max, &mut ids)?;
        if let Some(bos) = self.special().bos
            && self.adds_bos()
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }
}
