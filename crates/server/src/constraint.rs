//! Answers that keep to a grammar, a regular expression or a JSON schema: a mask over the vocabulary
//! before each token, by `llguidance`.

use std::sync::{Arc, Mutex, PoisonError};

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{
    InferenceCapabilities, SimpleVob, TokEnv, TokRxInfo, TokTrie, TokenizerEnv,
};
use llguidance::{Matcher, ParserFactory};
use lowtide_tokenizer::{EncodeOptions, Tokenizer};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::ApiError;
use crate::limits::{GRAMMAR_BYTES_MAX, GRAMMAR_DEPTH_MAX};

/// What an answer may look like, as it was asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// Any JSON object.
    JsonObject,
    /// JSON that keeps to a schema.
    Schema(Value),
    /// A regular expression over the whole answer.
    Regex(String),
    /// A grammar in llguidance's dialect of Lark.
    Lark(String),
}

/// Compiled constraints share the vocabulary's trie; made at the first use.
pub struct Grammars {
    factory: ParserFactory,
    /// For constraints that are in use.
    places: Arc<Semaphore>,
    /// One is compiled at a time: what that takes is there once.
    compiling: Mutex<()>,
}

/// Tokens that are looked at together, as they are allowed inside of any text. The library's own four kinds make
/// masks no faster than this one on schemas, and take a copy or two of the vocabulary's trie each (in all 340
/// bytes for each token).
const INSIDE_TEXT: &str = r#"[^"\\\x00-\x1F\x7F]{1,30}"#;

/// The vocabulary as the library wants it.
struct Vocabulary {
    tokenizer: Arc<Tokenizer>,
    trie: TokTrie,
}

impl TokenizerEnv for Vocabulary {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        let plain = EncodeOptions { add_special: false, parse_special: false };
        match str::from_utf8(bytes) {
            Ok(text) => self.tokenizer.encode(text, plain),
            Err(_) => self.trie.greedy_tokenize(bytes),
        }
    }

    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}

impl Grammars {
    /// For a vocabulary whose model gives `logits` logits, and for so many constraints at a time.
    ///
    /// # Errors
    /// The library refuses the vocabulary.
    pub fn new(tokenizer: &Arc<Tokenizer>, logits: usize, shapes: usize) -> Result<Self, ApiError> {
        let refused = |error| ApiError::internal(format!("no grammars for this model: {error}"));
        let words: Vec<Vec<u8>> = (0..logits as u32).map(|id| word(tokenizer, id)).collect();
        let eog = &tokenizer.special().eog;
        let end = eog.first().copied().unwrap_or(0);
        let trie = TokTrie::from(&TokRxInfo::new(logits as u32, end), &words);
        drop(words);
        let trie = if eog.len() > 1 { trie.with_eos_tokens(eog) } else { trie };
        let env: TokEnv = Arc::new(Vocabulary { tokenizer: Arc::clone(tokenizer), trie });
        let slices = [INSIDE_TEXT.to_owned()];
        let mut factory =
            ParserFactory::new(&env, InferenceCapabilities::default(), &slices).map_err(refused)?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.max_lexer_states = 20_000;
        limits.max_grammar_size = 200_000;
        limits.verbose_errors = false;
        let places = Arc::new(Semaphore::new(shapes));
        Ok(Self { factory, places, compiling: Mutex::new(()) })
    }

    /// Compiles a shape.
    ///
    /// # Errors
    /// 400 where it is malformed, unsupported or too large; never a constraint that holds nothing. 429 where as
    /// many are in use as there is memory for.
    pub fn compile(self: &Arc<Self>, shape: &Shape) -> Result<Constraint, ApiError> {
        let place = Arc::clone(&self.places).try_acquire_owned().map_err(|_| {
            ApiError::busy(
                "as many answers are kept to a shape as there is memory for; try again later",
            )
        })?;
        let grammar = match shape {
            Shape::JsonObject => TopLevelGrammar::from_json_schema(serde_json::json!({
                "type": "object"
            })),
            Shape::Schema(schema) => {
                check_schema(schema)?;
                TopLevelGrammar::from_json_schema(schema.clone())
            }
            Shape::Regex(regex) => {
                check_text("regex", regex)?;
                check_regex(regex)?;
                TopLevelGrammar::from_regex(regex)
            }
            Shape::Lark(lark) => {
                check_text("grammar", lark)?;
                TopLevelGrammar::from_lark(lark.clone())
            }
        };
        let own = Arc::clone(self);
        let _alone = self.compiling.lock().unwrap_or_else(PoisonError::into_inner);
        // On a thread of its own: deep recursion has room, and a panic stays there.
        let thread = std::thread::Builder::new()
            .name("grammar".to_owned())
            .stack_size(64 << 20)
            .spawn(move || Matcher::new(own.factory.create_parser(grammar)))
            .map_err(|error| ApiError::unavailable(format!("no thread for a grammar: {error}")))?;
        let matcher = thread
            .join()
            .map_err(|_| invalid("it is too much for the grammar library".to_owned()))?;
        match matcher.get_error() {
            Some(error) => Err(invalid(error)),
            None => Ok(Constraint { matcher, place: Arc::new(place) }),
        }
    }
}

fn invalid(why: String) -> ApiError {
    let why: String = plain(&why).chars().take(500).collect();
    ApiError::invalid(format!("the grammar, regex or schema cannot be used: {why}"))
        .code("invalid_grammar")
}

/// What the library says, without its own names and marks.
fn plain(why: &str) -> &str {
    let why = why.trim_end().trim_end_matches("<non-verbose/>").trim_end();
    if why.contains("NoExtension") {
        return "there is a place where it allows no token, so that nothing could ever match it";
    }
    why
}

/// A token's bytes; control tokens are marked, so that text never spells them.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let bytes = tokenizer.token_bytes(id);
    if !tokenizer.is_control(id) {
        return bytes;
    }
    let mut marked = vec![TokTrie::SPECIAL_TOKEN_MARKER];
    if bytes.starts_with(b"<") && bytes.ends_with(b">") {
        marked.extend(bytes);
    } else {
        marked.extend(format!("<{}>", String::from_utf8_lossy(&bytes)).bytes());
    }
    marked
}

/// Bounds that hold before the library sees a text.
fn check_text(what: &str, text: &str) -> Result<(), ApiError> {
    if text.len() > GRAMMAR_BYTES_MAX {
        let (bytes, max) = (text.len(), GRAMMAR_BYTES_MAX);
        return Err(invalid(format!("the {what} has {bytes} bytes, at most {max} are taken")));
    }
    if text.is_empty() {
        return Err(invalid(format!("the {what} is empty")));
    }
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    if deepest > GRAMMAR_DEPTH_MAX {
        let max = GRAMMAR_DEPTH_MAX;
        return Err(invalid(format!("brackets {deepest} deep, at most {max} are taken")));
    }
    Ok(())
}

/// Repetitions beyond this are a mistake, or an attack.
const REPETITIONS_MAX: u64 = 10_000;

/// The whole answer is matched, so anchors say nothing; and no repetition is longer than any answer.
fn check_regex(regex: &str) -> Result<(), ApiError> {
    let escaped = regex.strip_suffix('$').is_some_and(|before| before.ends_with('\\'));
    if regex.starts_with('^') || (regex.ends_with('$') && !escaped) {
        let why = "the whole answer is matched: leave ^ and $ out";
        return Err(invalid(why.to_owned()));
    }
    for part in regex.split('{').skip(1) {
        let bounds = part.split('}').next().unwrap_or_default();
        for number in bounds.split(',').filter_map(|bound| bound.trim().parse::<u64>().ok()) {
            if number > REPETITIONS_MAX {
                let why = format!("{number} repetitions, at most {REPETITIONS_MAX} are taken");
                return Err(invalid(why));
            }
        }
    }
    Ok(())
}

/// A schema of bounded size whose references lead somewhere.
fn check_schema(schema: &Value) -> Result<(), ApiError> {
    let bytes = schema.to_string().len();
    if bytes > GRAMMAR_BYTES_MAX {
        let max = GRAMMAR_BYTES_MAX;
        return Err(invalid(format!("the schema has {bytes} bytes, at most {max} are taken")));
    }
    check_references(schema, schema)
}

/// Follows chains of `$ref` that lead to nothing but `$ref`, and refuses those that never end; and
/// all that lead out of the schema: nothing is ever fetched.
fn check_references(root: &Value, at: &Value) -> Result<(), ApiError> {
    match at {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                follow(root, reference)?;
            }
            map.values().try_for_each(|value| check_references(root, value))
        }
        Value::Array(list) => list.iter().try_for_each(|value| check_references(root, value)),
        _ => Ok(()),
    }
}

fn follow(root: &Value, reference: &str) -> Result<(), ApiError> {
    let mut reference = reference.to_owned();
    for _ in 0..64 {
        let Some(pointer) = reference.strip_prefix('#') else {
            return Err(invalid(format!("$ref {reference:?} leads out of the schema")));
        };
        let Some(target) = root.pointer(pointer) else {
            return Err(invalid(format!("$ref {reference:?} leads nowhere")));
        };
        match target.get("$ref") {
            Some(Value::String(next)) => reference.clone_from(next),
            _ => return Ok(()),
        }
    }
    Err(invalid(format!("$ref {reference:?} goes in a circle")))
}

/// A compiled shape, and how far an answer has come in it.
pub struct Constraint {
    matcher: Matcher,
    place: Arc<OwnedSemaphorePermit>,
}

/// The tokens that are allowed next.
pub struct Mask(SimpleVob);

impl Mask {
    /// As bits.
    pub fn words(&self) -> &[u32] {
        self.0.as_slice()
    }
}

impl Constraint {
    /// The same, from the start.
    pub fn begin(&self) -> Self {
        Self { matcher: self.matcher.deep_clone(), place: Arc::clone(&self.place) }
    }

    /// What is allowed next.
    ///
    /// # Errors
    /// 400 where the grammar turns out to be too much.
    pub fn mask(&mut self) -> Result<Mask, ApiError> {
        self.matcher.compute_mask_or_eos().map(Mask).map_err(|error| invalid(error.to_string()))
    }

    /// The token that was chosen.
    ///
    /// # Errors
    /// As [`Constraint::mask`].
    pub fn accept(&mut self, id: u32) -> Result<(), ApiError> {
        self.matcher.consume_token(id).map_err(|error| invalid(error.to_string()))
    }

    /// Whether nothing can follow.
    pub fn is_finished(&self) -> bool {
        self.matcher.is_stopped()
    }
}
