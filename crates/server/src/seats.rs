//! The sequences of a model, what each holds, and the passes they share.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use lowtide_engine::{Engine, Error, Piece, SharedSession};

use crate::embedding::Embedding;
use crate::error::ApiError;
use crate::generate::{Failure, Generation, Next, Step};
use crate::job::{Event, EventSender};
use crate::limits::{PIECE_TOKENS, PROGRESS_INTERVAL};
use crate::metrics::Metrics;
use crate::model::ModelFace;
use crate::state::Shared;
use crate::worker::{engine_error, fail, is_model_fault};

/// What is being made with a sequence.
pub enum Task {
    /// Answers.
    Generate(Box<Generation>),
    /// Vectors.
    Embed(Embedding),
}

impl Task {
    fn events(&self) -> &EventSender {
        match self {
            Self::Generate(generation) => &generation.events,
            Self::Embed(embedding) => &embedding.events,
        }
    }
}

/// A sequence.
#[derive(Default)]
struct Seat {
    /// The tokens it holds.
    held: Vec<u32>,
    /// When it was taken last; what was not used for the longest time is given up first.
    taken: u64,
    /// When a piece of its prompt was read last; 0: none yet.
    read: u64,
    task: Option<Task>,
}

/// All sequences.
pub struct Seats {
    session: SharedSession,
    seats: Vec<Seat>,
    clock: u64,
}

impl Seats {
    /// As many as the engine was planned for.
    ///
    /// # Errors
    /// A shape that the kernels refuse.
    pub fn new(engine: &Engine) -> Result<Self, Error> {
        let session = SharedSession::new(engine)?;
        let seats = (0..session.lanes()).map(|_| Seat::default()).collect();
        Ok(Self { session, seats, clock: 0 })
    }

    /// Sequences that something is being made with.
    pub fn busy(&self) -> usize {
        self.seats.iter().filter(|seat| seat.task.is_some()).count()
    }

    /// Tokens in all sequences, those that are kept for prompts to come included.
    pub fn held(&self) -> usize {
        (0..self.seats.len()).map(|lane| self.session.position(lane)).sum()
    }

    /// Whether all are.
    pub fn is_full(&self) -> bool {
        self.seats.iter().all(|seat| seat.task.is_some())
    }

    /// One token through the model, with the free sequence that holds the least; there must be one.
    ///
    /// # Errors
    /// The pass failed.
    pub fn warm_up(&mut self, engine: &mut Engine, token: u32) -> Result<(), Error> {
        let free = self.seats.iter().enumerate().filter(|(_, seat)| seat.task.is_none());
        let Some((lane, _)) = free.min_by_key(|(_, seat)| seat.held.len()) else { return Ok(()) };
        self.leave(lane, true);
        let done = self.session.pass(engine, None, &[(lane, token)]);
        self.session.reset(lane);
        done
    }

    /// Gives a task the free sequence that holds the most of its prompt; of equals the one that was
    /// not used for the longest time. There must be a free one.
    pub fn seat(&mut self, task: Task, metrics: &Metrics) {
        let prompt: &[u32] = match &task {
            Task::Generate(generation) => generation.prompt(),
            Task::Embed(_) => &[],
        };
        let free = self.seats.iter().enumerate().filter(|(_, seat)| seat.task.is_none());
        let best = free
            .max_by_key(|(_, seat)| (common(&seat.held, prompt), std::cmp::Reverse(seat.taken)));
        let Some((lane, _)) = best else { return };
        self.clock += 1;
        self.seats[lane].taken = self.clock;
        self.seats[lane].read = 0;
        self.seats[lane].task = Some(task);
        self.begin(lane, metrics);
    }

    /// Goes back to what the sequence holds of the prompt. At least the last token is run: its logits
    /// are wanted.
    fn begin(&mut self, lane: usize, metrics: &Metrics) {
        let seat = &mut self.seats[lane];
        let Some(Task::Generate(generation)) = &mut seat.task else { return };
        let prompt = generation.prompt();
        let kept = common(&seat.held, prompt).min(prompt.len() - 1);
        let kept = self.session.truncate(lane, kept);
        seat.held.truncate(kept);
        generation.begin(kept, metrics);
    }

    /// One pass for everybody, and a text's vector if one is wanted.
    pub fn turn(&mut self, engine: &mut Engine, face: &ModelFace, shared: &Arc<Shared>) {
        self.drop_cancelled();
        self.embed(engine, shared);
        let steps = self.steps();
        let piece = self.piece(engine, steps.len());
        if steps.is_empty() && piece.is_none() {
            return;
        }
        let passed = self.pass(engine, piece, &steps, Arc::clone(shared));
        engine.set_progress(None);
        if let Err(error) = passed {
            self.failed(&error, piece, &steps, shared);
            return;
        }
        shared.set_model_lost(false);
        let mut row = 0;
        if let Some(piece) = piece {
            let ends = self.read(piece);
            if ends {
                self.take(piece.lane, row, engine, face, shared);
            }
            row += usize::from(ends);
        }
        for (lane, id) in steps {
            self.seats[lane].held.push(id);
            self.take(lane, row, engine, face, shared);
            row += 1;
        }
    }

    /// Whoever left frees the sequence; what it holds stays for a prompt that begins alike.
    fn drop_cancelled(&mut self) {
        for seat in &mut self.seats {
            if seat.task.as_ref().is_some_and(|task| task.events().is_cancelled()) {
                seat.task = None;
            }
        }
    }

    /// The answers' next tokens.
    fn steps(&self) -> Vec<(usize, u32)> {
        let next = |(lane, seat): (usize, &Seat)| match &seat.task {
            Some(Task::Generate(generation)) => match generation.next() {
                Next::Token(id) => Some((lane, id)),
                Next::Prompt(_) => None,
            },
            _ => None,
        };
        self.seats.iter().enumerate().filter_map(next).collect()
    }

    /// A piece of a prompt. Prompts take turns, so that a long one does not keep short ones waiting.
    /// Where others write meanwhile and nothing is read from the disk it is short, so that their
    /// tokens go on coming; where the pass waits for the disk it is as long as there is room.
    fn piece(&self, engine: &Engine, steps: usize) -> Option<Reading> {
        let reading = |(lane, seat): (usize, &Seat)| match &seat.task {
            Some(Task::Generate(generation)) => match generation.next() {
                Next::Prompt(done) => {
                    Some((seat.read, seat.taken, lane, done, generation.prompt().len()))
                }
                Next::Token(_) => None,
            },
            _ => None,
        };
        let next = self.seats.iter().enumerate().filter_map(reading).min()?;
        let (_, _, lane, from, all) = next;
        let budget = engine.budget();
        let streams = budget.streamed_bytes > 0 || budget.expert_cache_bytes > 0;
        let room = self.session.batch() - steps;
        let most = if steps == 0 || streams { room } else { room.min(PIECE_TOKENS) };
        Some(Reading { lane, from, to: all.min(from + most), all })
    }

    /// The pass. Whoever leaves is no longer counted from the end of the layer on, and when nobody waits
    /// for any of it any more it stops there.
    fn pass(
        &mut self,
        engine: &mut Engine,
        piece: Option<Reading>,
        steps: &[(usize, u32)],
        shared: Arc<Shared>,
    ) -> Result<(), Error> {
        let lanes = steps.iter().map(|(lane, _)| *lane).chain(piece.map(|piece| piece.lane));
        let tasks = lanes.filter_map(|lane| self.seats[lane].task.as_ref());
        let everybody: Vec<EventSender> = tasks.map(|task| task.events().clone()).collect();
        let mut tell = piece.and_then(|piece| self.teller(piece));
        let others = self.busy() - everybody.len();
        engine.set_progress(Some(Box::new(move |done, all| {
            if let Some(tell) = &mut tell {
                tell(done as f64 / all.max(1) as f64);
            }
            let here = everybody.iter().filter(|events| !events.is_cancelled()).count();
            shared.metrics.running.store((here + others) as u64, Ordering::Relaxed);
            here > 0
        })));
        let own = piece.and_then(|piece| match &self.seats[piece.lane].task {
            Some(Task::Generate(generation)) => Some(Piece {
                lane: piece.lane,
                tokens: &generation.prompt()[piece.from..piece.to],
                last: piece.to == piece.all,
            }),
            _ => None,
        });
        self.session.pass(engine, own, steps)
    }

    /// Tells the reader of a prompt now and then how far it is.
    fn teller(&self, piece: Reading) -> Option<impl FnMut(f64) + Send + use<>> {
        let Some(Task::Generate(generation)) = &self.seats[piece.lane].task else { return None };
        if !generation.tells_progress() {
            return None;
        }
        let (events, began) = (generation.events.clone(), generation.began());
        let (cached, mut told) = (generation.figures.cached_tokens, Instant::now());
        Some(move |share: f64| {
            if told.elapsed() >= PROGRESS_INTERVAL {
                told = Instant::now();
                let done = piece.from + ((piece.to - piece.from) as f64 * share) as usize;
                let seconds = began.elapsed().as_secs_f64();
                events.send(Event::Progress { done, total: piece.all, cached, seconds });
            }
        })
    }

    /// The piece is through; whether it was the last.
    fn read(&mut self, piece: Reading) -> bool {
        self.clock += 1;
        let Seat { held, task, read, .. } = &mut self.seats[piece.lane];
        *read = self.clock;
        if let Some(Task::Generate(generation)) = task {
            held.extend_from_slice(&generation.prompt()[piece.from..piece.to]);
            generation.read(piece.to - piece.from);
        }
        piece.to == piece.all
    }

    /// Gives an answer the logits of a row of the pass.
    fn take(
        &mut self,
        lane: usize,
        row: usize,
        engine: &Engine,
        face: &ModelFace,
        shared: &Shared,
    ) {
        let room = self.session.position(lane) < self.session.context();
        let seat = &mut self.seats[lane];
        let Some(Task::Generate(generation)) = &mut seat.task else { return };
        let logits = self.session.logits(engine, row);
        match generation.take(logits, room, face, &shared.metrics) {
            Ok(Step::More) => {}
            Ok(Step::Again) => self.begin(lane, &shared.metrics),
            Ok(Step::Done) => {
                if let Some(Task::Generate(generation)) = seat.task.take() {
                    generation.end(engine.store().stats().total, &shared.metrics);
                }
            }
            Err(failure) => {
                fail(shared, &generation.events, &failure);
                let is_engine = matches!(failure, Failure::Engine(_));
                self.leave(lane, is_engine);
            }
        }
    }

    /// A pass failed: everybody in it is told, and nothing that their sequences hold is trusted.
    fn failed(
        &mut self,
        error: &Error,
        piece: Option<Reading>,
        steps: &[(usize, u32)],
        shared: &Shared,
    ) {
        if matches!(error, Error::Stopped) {
            // Nobody waits for it; the sequences stand where they stood.
            self.drop_cancelled();
            return;
        }
        shared.log(&format!("a pass failed: {error}"));
        shared.set_model_lost(shared.is_model_lost() || is_model_fault(error));
        let lanes: Vec<usize> =
            steps.iter().map(|(lane, _)| *lane).chain(piece.map(|piece| piece.lane)).collect();
        for lane in lanes {
            if let Some(task) = &self.seats[lane].task {
                task.events().send(Event::Failed(engine_error(error)));
            }
            self.leave(lane, true);
        }
    }

    /// Everybody is told of a failure.
    pub fn fail_all(&mut self, error: &ApiError) {
        for lane in 0..self.seats.len() {
            if let Some(task) = &self.seats[lane].task {
                task.events().send(Event::Failed(error.clone()));
            }
            self.leave(lane, true);
        }
    }

    /// Frees a sequence; `forget`: what it holds is not trusted.
    fn leave(&mut self, lane: usize, forget: bool) {
        self.seats[lane].task = None;
        if forget {
            self.seats[lane].held.clear();
            self.session.reset(lane);
        }
    }

    /// One text to its vector, so that answers are not kept waiting by a long list.
    fn embed(&mut self, engine: &mut Engine, shared: &Shared) {
        let embeds = |seat: &Seat| matches!(seat.task, Some(Task::Embed(_)));
        let Some(lane) = self.seats.iter().position(embeds) else { return };
        let Some(Task::Embed(embedding)) = &mut self.seats[lane].task else { return };
        let goes_on = match embedding.next(&mut self.session, engine, lane) {
            Ok(goes_on) => {
                shared.set_model_lost(false);
                goes_on
            }
            Err(error) => {
                shared.set_model_lost(shared.is_model_lost() || is_model_fault(&error));
                fail(shared, &embedding.events, &Failure::Engine(error));
                false
            }
        };
        self.seats[lane].held.clear();
        if !goes_on {
            self.leave(lane, true);
        }
    }
}

/// A piece of a prompt: tokens `from..to` of `all`.
#[derive(Debug, Clone, Copy)]
struct Reading {
    lane: usize,
    from: usize,
    to: usize,
    all: usize,
}

fn common(held: &[u32], prompt: &[u32]) -> usize {
    held.iter().zip(prompt).take_while(|(a, b)| a == b).count()
}
