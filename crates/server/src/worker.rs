//! The engine's thread: takes jobs from the queue, as many as there are sequences for, and runs
//! them through the model together: a pass has a piece of one prompt and a token of every answer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use lowtide_engine::{Engine, Error};

use crate::embedding::Embedding;
use crate::error::ApiError;
use crate::generate::{Failure, Generation};
use crate::job::{Event, EventSender, Job, Work};
use crate::limits::FAULT_INTERVAL;
use crate::model::ModelFace;
use crate::queue::Taken;
use crate::seats::{Seats, Task};
use crate::state::{Phase, Shared};

/// Readies the model of this name from the folder of models. The error is for people.
pub type Loader = dyn FnMut(&str) -> Result<Engine, String> + Send;

/// A model in use.
pub struct Active {
    /// What requests need to know of it.
    pub face: Arc<ModelFace>,
    /// The engine.
    pub engine: Engine,
    /// Its sequences, and what is being made with them.
    pub seats: Seats,
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
    /// Works until the queue is closed and everything in it is answered.
    pub fn run(mut self) {
        self.warm_up();
        self.shared.phase_if(Phase::Loading, Phase::Ready);
        while self.admit() {
            let Some(active) = &mut self.active else { continue };
            let shared = &self.shared;
            let Active { face, engine, seats } = active;
            let turn = || seats.turn(engine, face, shared);
            if catch_unwind(AssertUnwindSafe(turn)).is_err() {
                seats.fail_all(&ApiError::internal("lowtide itself failed; see its log"));
            }
            shared.metrics.store(engine.store());
            shared.metrics.kv(seats.held());
            shared.metrics.running.store(seats.busy() as u64, Ordering::Relaxed);
        }
    }

    /// One token through the model: what stays in memory comes in before the first client waits. Again where the
    /// model's file was at fault: whoever is told that by `/health` sends no request that would tell otherwise.
    fn warm_up(&mut self) {
        let Some(Active { engine, seats, face }) = &mut self.active else { return };
        let token = face.tokenizer.special().bos.unwrap_or(0);
        let was_lost = self.shared.is_model_lost();
        match seats.warm_up(engine, token) {
            Ok(()) => self.shared.set_model_lost(false),
            Err(_) if was_lost => {}
            Err(error) => {
                self.shared.log(&format!("the first pass failed: {error}"));
                self.shared.set_model_lost(is_model_fault(&error));
            }
        }
        self.shared.metrics.store(engine.store());
    }

    /// Seats jobs that wait, while there are sequences for them; waits for one where nothing is being
    /// made. False where none will come any more.
    fn admit(&mut self) -> bool {
        loop {
            let busy = self.active.as_ref().map_or(0, |active| active.seats.busy());
            if self.active.as_ref().is_some_and(|active| active.seats.is_full()) {
                return true;
            }
            if busy == 0 && self.shared.is_model_lost() && self.shared.queue.idles(FAULT_INTERVAL) {
                self.warm_up();
                continue;
            }
            let name = self.active.as_ref().map(|active| Arc::clone(&active.face.id));
            // Another model comes when this one's answers are at their end; nobody is seated past it.
            let wanted = |job: &Job| busy == 0 || name.as_ref() == Some(&job.model);
            match self.shared.queue.take(busy == 0, wanted) {
                Taken::Job(job) if job.events.is_cancelled() => {}
                Taken::Job(job) => self.seat(job),
                Taken::Nothing => return true,
                Taken::Closed => return busy > 0,
            }
        }
    }

    fn seat(&mut self, job: Job) {
        let queued_s = job.accepted.elapsed().as_secs_f64();
        self.shared.metrics.queue_time.observe(queued_s);
        let events = job.events;
        if let Err(error) = self.activate(&job.model) {
            events.send(Event::Failed(error));
            return;
        }
        let Some(active) = &mut self.active else { return };
        let task = match job.work {
            Work::Load => {
                events.send(Event::Loaded(Arc::clone(&active.face)));
                return;
            }
            Work::Generate(wanted) => {
                let before = active.engine.store().stats().total;
                Task::Generate(Box::new(Generation::new(*wanted, events, queued_s, before)))
            }
            Work::Embed { inputs, pooling } => Task::Embed(Embedding::new(inputs, pooling, events)),
        };
        active.seats.seat(task, &self.shared.metrics);
        let busy = active.seats.busy() as u64;
        self.shared.metrics.running.store(busy, Ordering::Relaxed);
    }

    /// Has the model of this name in memory: the one that is there leaves first, so that the whole
    /// budget is the new one's.
    fn activate(&mut self, name: &str) -> Result<(), ApiError> {
        if self.active.as_ref().is_some_and(|active| &*active.face.id == name) {
            return Ok(());
        }
        if let Some(active) = self.active.take() {
            active.engine.store().leave();
        }
        self.shared.set_face(None);
        self.shared.set_model_lost(false);
        let engine = (self.loader)(name).map_err(|error| {
            self.shared.log(&format!("{name} could not be loaded: {error}"));
            ApiError::unavailable(format!("{name} could not be loaded: {error}"))
        })?;
        self.shared.metrics.loads.fetch_add(1, Ordering::Relaxed);
        self.active = Some(Active::new(name, engine, &self.shared)?);
        Ok(())
    }
}

impl Active {
    /// A model that has just been loaded; requests learn of it.
    ///
    /// # Errors
    /// Its chat template cannot be read.
    pub fn new(name: &str, mut engine: Engine, shared: &Shared) -> Result<Self, ApiError> {
        engine.watch(Arc::clone(&shared.board));
        let face = Arc::new(ModelFace::new(name, &engine, shared.limits.shapes)?);
        let seats = Seats::new(&engine).map_err(|error| ApiError::internal(error.to_string()))?;
        shared.set_face(Some(Arc::clone(&face)));
        shared.set_model_lost(false);
        Ok(Self { face, engine, seats })
    }
}

/// Tells a client that its answer failed.
pub fn fail(shared: &Shared, events: &EventSender, failure: &Failure) {
    let error = match failure {
        Failure::Engine(Error::Stopped) => return,
        Failure::Engine(error) => {
            shared.log(&format!("an answer failed: {error}"));
            engine_error(error)
        }
        Failure::Request(error) => error.clone(),
    };
    events.send(Event::Failed(error));
}

/// An engine's error as a client sees it.
pub fn engine_error(error: &Error) -> ApiError {
    match error {
        Error::ContextFull { .. } | Error::EmptyPrompt | Error::TokenOutOfRange { .. } => {
            ApiError::invalid(error.to_string())
        }
        _ => ApiError::internal(error.to_string()).code("model_fault"),
    }
}

/// Whether the model's file is at fault: cut, changed, lost, or on a disk that does not give it.
pub fn is_model_fault(error: &Error) -> bool {
    match error {
        Error::Mapping(error) => error.is_model_fault(),
        Error::Residency(error) => error.is_model_fault(),
        _ => false,
    }
}
