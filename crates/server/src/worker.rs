//! The engine's thread: takes jobs from the queue, one at a time, and tells what comes of them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lowtide_engine::{Engine, Error, Logits, Session};

use crate::error::ApiError;
use crate::generate::Generation;
use crate::job::{Event, EventSender, Job, Pooling, Work};
use crate::model::ModelFace;
use crate::state::{Phase, Shared};

/// A model that can run.
pub struct Loaded {
    /// The engine.
    pub engine: Engine,
    /// Its session.
    pub session: Session,
}

/// Readies the model of this name from the folder of models. The error is for people.
pub type Loader = dyn FnMut(&str) -> Result<Loaded, String> + Send;

/// A model in use.
pub struct Active {
    /// What requests need to know of it.
    pub face: Arc<ModelFace>,
    /// The engine.
    pub engine: Engine,
    /// Its session.
    pub session: Session,
    /// The tokens that the session holds.
    pub held: Vec<u32>,
}

/// The thread's own state.
pub struct Worker {
    /// What it shares with the requests.
    pub shared: Arc<Shared>,
    /// The model, if one is loaded.
    pub active: Option<Active>,
    /// Loads others.
    pub loader: Box<Loader>,
}

impl Worker {
    /// Works until the queue is closed and empty.
    pub fn run(mut self) {
        self.warm_up();
        while let Some(job) = self.shared.queue.pop() {
            if job.events.is_cancelled() {
                continue;
            }
            self.shared.metrics.running.store(1, Ordering::Relaxed);
            let events = job.events.clone();
            let done = catch_unwind(AssertUnwindSafe(|| self.work(job)));
            if done.is_err() {
                self.forget();
                events
                    .send(Event::Failed(ApiError::internal("lowtide itself failed; see its log")));
            }
            if let Some(active) = &mut self.active {
                active.engine.set_progress(None);
                self.shared.metrics.store(active.engine.store());
            }
            self.shared.metrics.running.store(0, Ordering::Relaxed);
        }
    }

    /// One token through the model: what stays in memory comes in before the first client waits.
    fn warm_up(&mut self) {
        if let Some(active) = &mut self.active {
            let token = active.face.tokenizer.special().bos.unwrap_or(0);
            let Active { engine, session, .. } = active;
            let warm = session.forward(engine, &[token], Logits::Last, &mut |_, _| {});
            if let Err(error) = warm {
                self.shared.log(&format!("the first pass failed: {error}"));
            }
            session.reset();
            self.shared.metrics.store(active.engine.store());
        }
        self.shared.phase_if(Phase::Loading, Phase::Ready);
    }

    /// After a failure nothing that the session holds is trusted.
    fn forget(&mut self) {
        if let Some(active) = &mut self.active {
            active.session.reset();
            active.held.clear();
        }
    }

    fn work(&mut self, job: Job) {
        let queued_s = job.accepted.elapsed().as_secs_f64();
        self.shared.metrics.queue_time.observe(queued_s);
        if let Err(error) = self.activate(&job.model) {
            job.events.send(Event::Failed(error));
            return;
        }
        let Some(active) = &mut self.active else { return };
        let events = &job.events;
        match job.work {
            Work::Load => events.send(Event::Loaded(Arc::clone(&active.face))),
            Work::Generate(wanted) => {
                let mut generation = Generation::new(active, events, &self.shared.metrics);
                generation.figures.queue_s = queued_s;
                if let Err(error) = generation.run(*wanted) {
                    self.fail(events, &error);
                }
            }
            Work::Embed { inputs, pooling } => match embed(active, events, &inputs, pooling) {
                Ok(vectors) => events.send(Event::Embedded(vectors)),
                Err(error) => self.fail(events, &Failure::Engine(error)),
            },
        }
    }

    fn fail(&mut self, events: &EventSender, failure: &Failure) {
        let error = match failure {
            Failure::Engine(Error::Stopped) => return,
            Failure::Engine(error) => {
                self.forget();
                self.shared.log(&format!("an answer failed: {error}"));
                engine_error(error)
            }
            Failure::Request(error) => error.clone(),
        };
        events.send(Event::Failed(error));
    }

    /// Has the model of this name in memory: the one that is there leaves first, so that the whole
    /// budget is the new one's.
    fn activate(&mut self, name: &str) -> Result<(), ApiError> {
        if self.active.as_ref().is_some_and(|active| &*active.face.id == name) {
            return Ok(());
        }
        self.active = None;
        self.shared.set_face(None);
        let loaded = (self.loader)(name).map_err(|error| {
            self.shared.log(&format!("{name} could not be loaded: {error}"));
            ApiError::unavailable(format!("{name} could not be loaded: {error}"))
        })?;
        self.shared.metrics.loads.fetch_add(1, Ordering::Relaxed);
        self.active = Some(Active::new(name, loaded, &self.shared)?);
        Ok(())
    }
}

impl Active {
    /// A model that has just been loaded; requests learn of it.
    ///
    /// # Errors
    /// Its chat template cannot be read.
    pub fn new(name: &str, loaded: Loaded, shared: &Shared) -> Result<Self, ApiError> {
        let Loaded { mut engine, session } = loaded;
        engine.watch(Arc::clone(&shared.board));
        let face = Arc::new(ModelFace::new(name, &engine)?);
        shared.set_face(Some(Arc::clone(&face)));
        Ok(Self { face, engine, session, held: Vec::new() })
    }
}

/// Why a job failed.
pub enum Failure {
    /// In the engine.
    Engine(Error),
    /// By what was asked for.
    Request(ApiError),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

/// An engine's error as a client sees it.
fn engine_error(error: &Error) -> ApiError {
    match error {
        Error::ContextFull { .. } | Error::EmptyPrompt | Error::TokenOutOfRange { .. } => {
            ApiError::invalid(error.to_string())
        }
        _ => ApiError::internal(error.to_string()).code("model_fault"),
    }
}

/// A unit vector for each input.
fn embed(
    active: &mut Active,
    events: &EventSender,
    inputs: &[Vec<u32>],
    pooling: Pooling,
) -> Result<Vec<Vec<f32>>, Error> {
    let Active { engine, session, held, .. } = active;
    held.clear();
    let asked = events.clone();
    engine.set_progress(Some(Box::new(move |_, _| !asked.is_cancelled())));
    let width = usize::try_from(engine.config().embedding_length).unwrap_or(0);
    let mut vectors = Vec::with_capacity(inputs.len());
    for tokens in inputs {
        let mut sum = vec![0.0_f64; width];
        session.hidden_states(engine, tokens, &mut |_, row| {
            for (sum, x) in sum.iter_mut().zip(row) {
                match pooling {
                    Pooling::Mean => *sum += f64::from(*x),
                    Pooling::Last => *sum = f64::from(*x),
                }
            }
        })?;
        // The mean's divisor falls out of the length.
        let length = sum.iter().map(|x| x * x).sum::<f64>().sqrt().max(f64::MIN_POSITIVE);
        vectors.push(sum.iter().map(|x| (x / length) as f32).collect());
    }
    session.reset();
    Ok(vectors)
}
