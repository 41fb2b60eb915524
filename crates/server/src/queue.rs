//! The queue before the engine: bounded, fair between clients, and never holding anyone who left.
//!
//! Clients take turns: each has a lane, lanes are served round robin, a lane in order of arrival. So
//! one client's hundred requests delay another's first one by one answer, not by a hundred. Each
//! waiting job is removed by its own number, so that a client who leaves takes nobody along.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Who asks: requests of one key share a lane.
pub type ClientKey = u64;

struct Lane<T> {
    client: ClientKey,
    jobs: VecDeque<(u64, T)>,
}

struct State<T> {
    lanes: VecDeque<Lane<T>>,
    waiting: usize,
    closed: bool,
}

/// The queue.
pub struct Queue<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    max: usize,
}

/// Why a job was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// So many wait already.
    Full(usize),
    /// The server is on its way down.
    Closed,
}

impl<T> Queue<T> {
    /// A queue for `max` jobs.
    pub fn new(max: usize) -> Self {
        let state = State { lanes: VecDeque::new(), waiting: 0, closed: false };
        Self { state: Mutex::new(state), changed: Condvar::new(), max }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No code that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a job to its client's lane.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn push(&self, client: ClientKey, id: u64, job: T) -> Result<(), Refused> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Closed);
        }
        if state.waiting >= self.max {
            return Err(Refused::Full(state.waiting));
        }
        state.waiting += 1;
        match state.lanes.iter_mut().find(|lane| lane.client == client) {
            Some(lane) => lane.jobs.push_back((id, job)),
            None => state.lanes.push_back(Lane { client, jobs: VecDeque::from([(id, job)]) }),
        }
        self.changed.notify_one();
        Ok(())
    }

    /// Takes the next job, if it is one that is wanted now. `wait`: waits for one to come.
    pub fn take(&self, wait: bool, is_wanted: impl Fn(&T) -> bool) -> Taken<T> {
        let mut state = self.lock();
        loop {
            if let Some(next) = state.peek() {
                // The others behind it wait for it: turns are kept.
                return match is_wanted(next) {
                    true => state.next().map_or(Taken::Nothing, Taken::Job),
                    false => Taken::Nothing,
                };
            }
            if state.closed {
                return Taken::Closed;
            }
            if !wait {
                return Taken::Nothing;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for a job to come, or for the queue to be closed, at most so long; whether it was in vain.
    pub fn idles(&self, most: Duration) -> bool {
        let idle = |state: &mut State<T>| state.waiting == 0 && !state.closed;
        let waited = self.changed.wait_timeout_while(self.lock(), most, idle);
        waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }

    /// Takes a job out of the queue, if it still waits.
    pub fn remove(&self, id: u64) -> Option<T> {
        let mut state = self.lock();
        let State { lanes, waiting, .. } = &mut *state;
        for (index, lane) in lanes.iter_mut().enumerate() {
            if let Some(at) = lane.jobs.iter().position(|(other, _)| *other == id) {
                let job = lane.jobs.remove(at);
                *waiting -= 1;
                if lane.jobs.is_empty() {
                    lanes.remove(index);
                }
                return job.map(|(_, job)| job);
            }
        }
        None
    }

    /// Takes no more jobs; those that wait are still handed out.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Jobs that wait.
    pub fn waiting(&self) -> usize {
        self.lock().waiting
    }
}

/// What [`Queue::take`] gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken<T> {
    /// A job.
    Job(T),
    /// None now.
    Nothing,
    /// None any more: the queue is closed and empty.
    Closed,
}

impl<T> State<T> {
    fn peek(&self) -> Option<&T> {
        self.lanes.front()?.jobs.front().map(|(_, job)| job)
    }

    fn next(&mut self) -> Option<T> {
        let mut lane = self.lanes.pop_front()?;
        let (_, job) = lane.jobs.pop_front()?;
        self.waiting -= 1;
        if !lane.jobs.is_empty() {
            self.lanes.push_back(lane);
        }
        Some(job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_take_turns_and_each_keeps_its_order() {
        let queue = Queue::new(10);
        for (client, id) in [(1, 10), (1, 11), (1, 12), (2, 20), (2, 21), (3, 30)] {
            queue.push(client, id, id).unwrap();
        }
        queue.close();
        let next = || match queue.take(true, |_| true) {
            Taken::Job(job) => Some(job),
            Taken::Nothing | Taken::Closed => None,
        };
        let order: Vec<u64> = std::iter::from_fn(next).collect();
        assert_eq!(order, [10, 20, 30, 11, 21, 12]);
        assert_eq!(queue.push(1, 13, 13), Err(Refused::Closed));
    }

    #[test]
    fn it_is_bounded_and_who_leaves_makes_room() {
        let queue = Queue::new(2);
        queue.push(1, 1, 1).unwrap();
        queue.push(2, 2, 2).unwrap();
        assert_eq!(queue.push(3, 3, 3), Err(Refused::Full(2)));
        assert_eq!((queue.remove(1), queue.remove(1)), (Some(1), None));
        queue.push(3, 3, 3).unwrap();
        let next = || queue.take(false, |_| true);
        assert_eq!((next(), next(), queue.waiting()), (Taken::Job(2), Taken::Job(3), 0));
        assert_eq!(next(), Taken::Nothing);
    }

    #[test]
    fn it_idles_while_nothing_waits() {
        let queue = Queue::new(2);
        assert!(queue.idles(Duration::from_millis(1)));
        queue.push(1, 1, 1).unwrap();
        assert!(!queue.idles(Duration::from_secs(60)));
        queue.remove(1);
        queue.close();
        assert!(!queue.idles(Duration::from_secs(60)));
    }

    #[test]
    fn what_is_not_wanted_now_keeps_its_turn() {
        let queue = Queue::new(10);
        queue.push(1, 1, 'b').unwrap();
        queue.push(2, 2, 'a').unwrap();
        assert_eq!(queue.take(true, |job| *job == 'a'), Taken::Nothing);
        assert_eq!(queue.waiting(), 2);
        assert_eq!(queue.take(false, |job| *job == 'b'), Taken::Job('b'));
        assert_eq!(queue.take(false, |job| *job == 'a'), Taken::Job('a'));
    }
}
