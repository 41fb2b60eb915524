//! OpenAI's answers as a whole. They may be long, `n` of them with `top_logprobs` above all: their JSON is written
//! piece by piece as the client takes it.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::Arc;

use axum::response::Response;
use lowtide_tokenizer::Tokenizer;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::wire::{chat_logprob, finite, timings, token_text, usage};
use super::{Caller, panicked};
use crate::error::ApiError;
use crate::job::TokenLogprob;
use crate::pieces;
use crate::stream::{Answer, Collected};

/// Tokens with their log probabilities in one piece: 30 kB of JSON with 20 others each.
const PIECE_TOKENS: usize = 16;

/// What is written of an answer's tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// Chat's entries.
    Entries,
    /// Completions' `tokens`.
    Tokens,
    /// Their `token_logprobs`.
    Logprobs,
    /// Their `top_logprobs`.
    Top,
    /// Their `text_offset`.
    Offsets,
}

/// What is written of an answer's text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Field {
    /// The text.
    Text,
    /// The thought.
    Thought,
    /// What stands before the text of each answer.
    Echo,
}

enum Piece {
    /// As it stands.
    Fixed(String),
    /// A piece of a text.
    Text { answer: usize, field: Field, number: usize },
    /// Some of an answer's tokens; `offset` letters stand before them.
    Tokens { answer: usize, column: Column, range: Range<usize>, offset: usize },
}

/// The pieces of a body in their order.
pub struct Body {
    collected: Collected,
    tokenizer: Arc<Tokenizer>,
    echo: String,
    /// What it is counted as.
    body: Option<Arc<Option<OwnedSemaphorePermit>>>,
    pieces: Vec<Piece>,
}

impl Body {
    /// Nothing yet; `echo` comes before each answer's text.
    pub fn new(collected: Collected, tokenizer: Arc<Tokenizer>, echo: Option<String>) -> Self {
        Self {
            collected,
            tokenizer,
            echo: echo.unwrap_or_default(),
            body: None,
            pieces: Vec::new(),
        }
    }

    /// Sends `head` with the answers as its `choices`, each written by `choice`, the usage and the timings.
    ///
    /// # Errors
    /// The work failed.
    pub async fn respond(
        mut self,
        caller: &Caller,
        head: Value,
        choice: impl Fn(&mut Self, usize) + Send + 'static,
    ) -> Result<Response, ApiError> {
        let work = Arc::clone(&caller.work);
        self.body = Some(Arc::clone(&caller.body));
        // All of it is formatted once to know its length: other connections go on meanwhile.
        let prepared = tokio::task::spawn_blocking(move || {
            self.fixed(head.to_string().trim_end_matches('}'));
            self.fixed(",\"choices\":[");
            for index in 0..self.collected.answers.len() {
                self.fixed(if index == 0 { "" } else { "," });
                choice(&mut self, index);
            }
            let figures = self.collected.figures;
            self.fixed(&format!("],\"usage\":{},\"timings\":", usage(&figures)));
            self.fixed(&format!("{}}}", timings(&figures)));
            pieces::respond(move |number| self.piece(number), work)
        });
        prepared.await.map_err(|_| panicked())
    }

    /// An answer.
    pub fn answer(&self, index: usize) -> &Answer {
        &self.collected.answers[index]
    }

    /// Text as it is.
    pub fn fixed(&mut self, text: &str) {
        match self.pieces.last_mut() {
            Some(Piece::Fixed(last)) => last.push_str(text),
            _ => self.pieces.push(Piece::Fixed(text.to_owned())),
        }
    }

    /// A string with one of an answer's texts.
    pub fn text(&mut self, answer: usize, field: Field) {
        self.fixed("\"");
        let echo = (field == Field::Text).then_some(Field::Echo);
        for field in echo.into_iter().chain([field]) {
            let count = pieces::of_text(self.field(answer, field));
            self.pieces.extend((0..count).map(|number| Piece::Text { answer, field, number }));
        }
        self.fixed("\"");
    }

    /// A list with something of an answer's tokens.
    pub fn tokens(&mut self, answer: usize, column: Column) {
        self.fixed("[");
        let tokens = &self.collected.answers[answer].logprobs;
        let mut offset = 0;
        for (number, some) in tokens.chunks(PIECE_TOKENS).enumerate() {
            let from = number * PIECE_TOKENS;
            let range = from..from + some.len();
            self.pieces.push(Piece::Tokens { answer, column, range, offset });
            if column == Column::Offsets {
                offset += some.iter().map(|token| self.letters(token)).sum::<usize>();
            }
        }
        self.fixed("]");
    }

    fn field(&self, answer: usize, field: Field) -> &str {
        let answer = &self.collected.answers[answer];
        match field {
            Field::Text => &answer.text,
            Field::Thought => &answer.thought,
            Field::Echo => &self.echo,
        }
    }

    fn letters(&self, token: &TokenLogprob) -> usize {
        token_text(&self.tokenizer, token.id).chars().count()
    }

    fn piece(&self, number: usize) -> Option<String> {
        match self.pieces.get(number)? {
            Piece::Fixed(text) => Some(text.clone()),
            Piece::Text { answer, field, number } => {
                Some(pieces::text(self.field(*answer, *field), *number))
            }
            Piece::Tokens { answer, column, range, offset } => {
                let tokens = &self.collected.answers[*answer].logprobs;
                let some = tokens.get(range.clone()).unwrap_or_default();
                let mut text = String::new();
                let mut offset = *offset;
                for (at, token) in some.iter().enumerate() {
                    let comma = if range.start + at == 0 { "" } else { "," };
                    // Writing to a string does not fail.
                    let _ = write!(text, "{comma}{}", self.entry(token, *column, offset));
                    if *column == Column::Offsets {
                        offset += self.letters(token);
                    }
                }
                Some(text)
            }
        }
    }

    fn entry(&self, token: &TokenLogprob, column: Column, offset: usize) -> Value {
        match column {
            Column::Entries => chat_logprob(token, &self.tokenizer),
            Column::Tokens => json!(token_text(&self.tokenizer, token.id)),
            Column::Logprobs => json!(finite(token.logprob)),
            Column::Top => top_json(token, &self.tokenizer),
            Column::Offsets => json!(offset),
        }
    }
}

/// Completions' likeliest tokens of one position.
pub fn top_json(token: &TokenLogprob, tokenizer: &Tokenizer) -> Value {
    let pair = |(id, p): &(u32, f64)| (token_text(tokenizer, *id), json!(finite(*p)));
    Value::Object(token.top.iter().map(pair).collect())
}
