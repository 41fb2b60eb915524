//! The endpoints: each takes a body, has the engine work, and writes its protocol's answer.

pub mod chat;
pub mod completions;
pub mod embeddings;
pub mod messages;
pub mod responses;
mod responses_input;
pub mod small;
mod whole;
mod wire;

use std::sync::Arc;

use lowtide_engine::sampler::SamplerParams;
use tokio::sync::OwnedSemaphorePermit;

use crate::constraint::{Constraint, Shape};
use crate::error::ApiError;
use crate::format::{Format, Tool};
use crate::job::{Generate, Work};
use crate::model::ModelFace;
use crate::prompt::{Conversation, Rendered, check_length};
use crate::reader::Reader;
use crate::request::Choice;
use crate::state::{Shared, Ticket};
use crate::work::Part;

/// Who asks, and for what they share.
#[derive(Clone)]
pub struct Caller {
    /// The shared state.
    pub shared: Arc<Shared>,
    /// The queue's lane.
    pub client: u64,
    /// What the work on the request is counted as; given back when it is queued, or where the answer is gathered
    /// when that is sent.
    pub work: Arc<Part>,
    /// What its body is counted as; given back when it is answered.
    pub body: Arc<Option<OwnedSemaphorePermit>>,
}

/// A conversation that is to be gone on with, whatever the protocol.
pub struct Talk {
    /// What was said.
    pub conversation: Conversation,
    /// What may be called.
    pub choice: Choice,
    /// Whether several calls may be made.
    pub parallel: bool,
    /// The answer's shape.
    pub shape: Option<Shape>,
    /// How tokens are chosen.
    pub sampling: SamplerParams,
    /// Tokens at most.
    pub max_tokens: Option<usize>,
    /// Texts that end it.
    pub stop: Vec<String>,
    /// How many answers.
    pub choices: usize,
    /// Log probabilities.
    pub logprobs: Option<usize>,
    /// The model's own end is a token like any other.
    pub ignore_eos: bool,
}

/// Work that was queued, and how its answers are read.
pub struct Begun {
    /// The job.
    pub ticket: Ticket,
    /// A reader for each answer.
    pub readers: Vec<Reader>,
}

impl Caller {
    /// Renders, constrains and queues; `streams` as in [`Caller::generate`].
    ///
    /// # Errors
    /// 400, 413, 429, 503.
    pub async fn begin(
        &self,
        face: &Arc<ModelFace>,
        talk: Talk,
        streams: bool,
    ) -> Result<Begun, ApiError> {
        let own = Arc::clone(face);
        let (generate, readers) = self.work(move || prepare(&own, talk)).await?;
        let ticket = self.generate(face, generate, streams).await?;
        Ok(Begun { ticket, readers })
    }

    /// Queues answers. Those that do not stream are gathered: what they take is held from now on, until the client
    /// has them.
    ///
    /// # Errors
    /// 413 where they take more memory than all requests have, 429, 503.
    pub async fn generate(
        &self,
        face: &Arc<ModelFace>,
        mut generate: Generate,
        streams: bool,
    ) -> Result<Ticket, ApiError> {
        generate.gathered = !streams;
        if !streams {
            self.shared.work.hold(&self.work, generate.answer_bytes()).await?;
        }
        let ticket = self.submit(face, Work::Generate(Box::new(generate)))?;
        if streams {
            self.work.done();
        }
        Ok(ticket)
    }

    /// Renders a conversation.
    ///
    /// # Errors
    /// 400.
    pub async fn render(
        &self,
        conversation: Conversation,
        face: Arc<ModelFace>,
    ) -> Result<Rendered, ApiError> {
        self.work(move || conversation.render(&face)).await
    }

    /// Works on the request on another thread. The work of a client that leaves goes on to its end, and
    /// is counted until then.
    ///
    /// # Errors
    /// The work's.
    pub async fn work<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let counted = Arc::clone(&self.work);
        let done = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(counted);
            result
        });
        done.await.map_err(|_| panicked())?
    }

    /// Queues a job.
    ///
    /// # Errors
    /// 429, 503.
    pub fn submit(&self, face: &Arc<ModelFace>, work: Work) -> Result<Ticket, ApiError> {
        let mut ticket = self.shared.submit(self.client, &face.id, work)?;
        ticket.body = Some(Arc::clone(&self.body));
        Ok(ticket)
    }
}

/// A handler's helper failed in a way that is no error of its own.
pub fn panicked() -> ApiError {
    ApiError::internal("lowtide itself failed while it prepared the request")
}

fn prepare(face: &ModelFace, talk: Talk) -> Result<(Generate, Vec<Reader>), ApiError> {
    let Talk { mut conversation, choice, shape, .. } = talk;
    match &choice {
        Choice::None => conversation.tools.clear(),
        Choice::Named(name) => conversation.tools.retain(|tool| tool.name == *name),
        Choice::Auto | Choice::Any => {}
    }
    let tools = conversation.tools.clone();
    let rendered = conversation.render(face)?;
    check_length(rendered.ids.len(), face.context, "messages")?;
    let forced = matches!(choice, Choice::Any | Choice::Named(_));
    let (constraint, calls) = constraint(face, &tools, forced, shape.as_ref())?;
    let single = !talk.parallel || forced;
    let room = face.context - rendered.ids.len();
    let thinks = rendered.thinks && constraint.is_none();
    let reader = || match (&constraint, calls) {
        (Some(_), false) => Reader::plain(),
        _ => Reader::new(face.format, calls, single, thinks),
    };
    let readers = (0..talk.choices).map(|_| reader()).collect();
    let generate = Generate {
        prompt: rendered.ids,
        choices: talk.choices,
        max_tokens: talk.max_tokens.unwrap_or(room).min(room),
        stop: talk.stop,
        end: Some(face.format.marks().1).filter(|end| calls && single && !end.is_empty()),
        sampling: talk.sampling,
        logprobs: talk.logprobs,
        ignore_eos: talk.ignore_eos,
        show_control: face.format == Format::Harmony || (calls && face.format.shows_control()),
        constraint,
        gathered: false,
    };
    Ok((generate, readers))
}

/// The grammar of the answer, and whether calls are read from it.
fn constraint(
    face: &ModelFace,
    tools: &[Tool],
    forced: bool,
    shape: Option<&Shape>,
) -> Result<(Option<Constraint>, bool), ApiError> {
    let calls = !tools.is_empty();
    if forced && shape.is_some() {
        return Err(ApiError::field("tool_choice", "a call cannot have a response_format as well"));
    }
    if forced {
        let tokenizer = &face.tokenizer;
        let control =
            |text: &str| tokenizer.token_id(text.as_bytes()).filter(|id| tokenizer.is_control(*id));
        let shape = face.format.grammar(tools, &control);
        return Ok((Some(face.grammars()?.compile(&shape)?), true));
    }
    match shape {
        Some(shape) => Ok((Some(face.grammars()?.compile(shape)?), false)),
        None => Ok((None, calls)),
    }
}
