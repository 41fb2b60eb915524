//! What all requests and the engine's thread share.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::Write;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use lowtide_residency::Board;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Config;
use crate::error::ApiError;
use crate::job::{self, Event, Events, Job, Work};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::model::ModelFace;
use crate::queue::{Queue, Refused};
use crate::work::Account;

/// Where the server is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// The model's first pass is not done.
    Loading = 0,
    /// Answering.
    Ready = 1,
    /// Finishing what it has taken, taking nothing new.
    Stopping = 2,
}

/// The shared state.
pub struct Shared {
    /// Settings.
    pub config: Config,
    /// Bounds.
    pub limits: Limits,
    /// Jobs for the engine.
    pub queue: Queue<Job>,
    /// Counters.
    pub metrics: Metrics,
    /// Which bytes of the model are where.
    pub board: Arc<Board>,
    /// Bytes of bodies.
    pub bodies: Arc<Semaphore>,
    /// Bytes of the work on them.
    pub work: Account,
    /// Names of the models there are.
    pub models: Vec<String>,
    /// When the server began.
    pub started: Instant,
    /// When it began, in Unix seconds.
    pub created: u64,
    face: RwLock<Option<Arc<ModelFace>>>,
    phase: AtomicU8,
    model_lost: AtomicBool,
    answers: Arc<Semaphore>,
    next: AtomicU64,
    hasher: RandomState,
}

impl Shared {
    /// The state at the start.
    pub fn new(config: Config, limits: Limits, models: Vec<String>) -> Self {
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self {
            queue: Queue::new(limits.queue),
            metrics: Metrics::default(),
            board: Arc::default(),
            bodies: Arc::new(Semaphore::new(limits.bodies_bytes)),
            work: Account::new(limits.work_bytes),
            models,
            started: Instant::now(),
            created: unix.map_or(0, |time| time.as_secs()),
            face: RwLock::new(None),
            phase: AtomicU8::new(Phase::Loading as u8),
            model_lost: AtomicBool::new(false),
            answers: Arc::new(Semaphore::new(limits.answers)),
            next: AtomicU64::new(0),
            hasher: RandomState::new(),
            config,
            limits,
        }
    }

    /// Where the server is in its life.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Loading,
            1 => Phase::Ready,
            _ => Phase::Stopping,
        }
    }

    /// Goes from one phase to another; nothing where it is not in the first.
    pub fn phase_if(&self, from: Phase, to: Phase) {
        let order = Ordering::AcqRel;
        // Another phase in the meantime stays: stopping is final.
        let _ = self.phase.compare_exchange(from as u8, to as u8, order, Ordering::Acquire);
    }

    /// Whether the last pass failed by a fault of the model: its file was cut, changed or lost, or the disk
    /// does not give it.
    pub fn is_model_lost(&self) -> bool {
        self.model_lost.load(Ordering::Acquire)
    }

    /// Says so, or that a pass has succeeded since.
    pub fn set_model_lost(&self, lost: bool) {
        self.model_lost.store(lost, Ordering::Release);
    }

    /// Takes no more work.
    pub fn stop(&self) {
        self.phase.store(Phase::Stopping as u8, Ordering::Release);
        self.queue.close();
    }

    /// The model that is loaded.
    pub fn face(&self) -> Option<Arc<ModelFace>> {
        self.face.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells requests of another model.
    pub fn set_face(&self, face: Option<Arc<ModelFace>>) {
        *self.face.write().unwrap_or_else(PoisonError::into_inner) = face;
    }

    /// A number nothing else has.
    pub fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// An id for an answer, as clients expect it: a prefix and 24 letters.
    pub fn answer_id(&self, prefix: &str) -> String {
        let id = self.next_id();
        let (a, b) = (self.hasher.hash_one(id), self.hasher.hash_one(!id));
        format!("{prefix}{a:016x}{:08x}", b >> 32)
    }

    /// A line for the log, with what could move a terminal's cursor made visible.
    pub fn log(&self, line: &str) {
        let mut clean = String::with_capacity(line.len());
        for c in line.chars().take(2000) {
            if c == '\n' {
                clean.push(' ');
            } else if c.is_control() {
                clean.extend(c.escape_unicode());
            } else {
                clean.push(c);
            }
        }
        // Where standard error is closed there is nobody to tell.
        let _ = writeln!(std::io::stderr().lock(), "lowtide: {clean}");
    }

    /// The name under which a request's `model` is here.
    ///
    /// # Errors
    /// 404.
    pub fn model_name(&self, asked: Option<&str>) -> Result<Arc<str>, ApiError> {
        let known = |name: &str| self.models.iter().find(|model| *model == name);
        let found = match asked {
            None | Some("" | "default") => self.models.first(),
            Some(name) => known(name).or_else(|| known(name.strip_suffix(".gguf")?)),
        };
        let found = found.ok_or_else(|| ApiError::no_model(asked.unwrap_or(""), &self.models))?;
        Ok(found.as_str().into())
    }

    /// Queues a job.
    ///
    /// # Errors
    /// 429 where too many wait, 503 on the way down.
    pub fn submit(
        self: &Arc<Self>,
        client: u64,
        model: &Arc<str>,
        work: Work,
    ) -> Result<Ticket, ApiError> {
        let busy = |waiting: usize| {
            self.metrics.refused.fetch_add(1, Ordering::Relaxed);
            ApiError::busy(format!("{waiting} requests wait already; try again later"))
        };
        let permit = Arc::clone(&self.answers).try_acquire_owned();
        let permit = permit.map_err(|_| busy(self.queue.waiting()))?;
        let (events, receiver) = job::channel(work.pending_bytes_max());
        let id = self.next_id();
        let job = Job { model: Arc::clone(model), work, events, accepted: Instant::now() };
        self.queue.push(client, id, job).map_err(|refused| match refused {
            Refused::Full(waiting) => busy(waiting),
            Refused::Closed => stopping(),
        })?;
        Ok(Ticket { shared: Arc::clone(self), id, events: receiver, body: None, _permit: permit })
    }

    /// The face of a model, loaded if it is not.
    ///
    /// # Errors
    /// As [`Shared::submit`], or it cannot be loaded.
    pub async fn face_of(
        self: &Arc<Self>,
        client: u64,
        name: &Arc<str>,
    ) -> Result<Arc<ModelFace>, ApiError> {
        if let Some(face) = self.face().filter(|face| face.id == *name) {
            return Ok(face);
        }
        let mut ticket = self.submit(client, name, Work::Load)?;
        match ticket.events.next().await {
            Some(Event::Loaded(face)) => Ok(face),
            Some(Event::Failed(error)) => Err(error),
            _ => Err(stopping()),
        }
    }
}

/// 503 on the way down.
pub fn stopping() -> ApiError {
    ApiError::unavailable("the server is stopping")
}

/// A job that is under way. Dropping it takes it out of the queue, or stops it.
pub struct Ticket {
    shared: Arc<Shared>,
    id: u64,
    /// What comes of it.
    pub events: Events,
    /// What the request's body is counted as.
    pub body: Option<Arc<Option<OwnedSemaphorePermit>>>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.shared.queue.remove(self.id);
    }
}
