//! The account of what requests take while they are worked on: parsed JSON, rendered prompts, what the tokenizer
//! has at work.
//!
//! A request takes its part before the work begins and gives it back when the work is done: what remains is a
//! prompt of at most a context's tokens. Vectors, and answers that are gathered before they are sent, are taken from
//! it before they are made. It waits while others' work takes the room, first come first served,
//! and holds nothing of the account meanwhile, so that nobody waits for each other. What would never fit is
//! refused at once.

use std::sync::{Arc, Mutex, PoisonError};

use lowtide_mapping::heap;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::error::ApiError;
use crate::limits::{
    TREE_PER_BODY_BYTE, WORK_LEAST_BYTES, WORK_PER_BODY_BYTE, WORK_PER_TREE_BYTE, WORK_TIMEOUT,
};

/// From so many bytes on the heap is trimmed after a request's work: that takes a part of a millisecond.
const TRIM_BYTES: usize = 1 << 20;

/// The account.
pub struct Account {
    free: Arc<Semaphore>,
    bytes: usize,
}

/// A request's part of it. Dropping it gives it back.
pub struct Part(Mutex<Option<OwnedSemaphorePermit>>);

impl Account {
    /// Of so many bytes.
    pub fn new(bytes: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(bytes)), bytes }
    }

    /// The part of a request with a body of `body_bytes` until its JSON is read; waits for it.
    ///
    /// # Errors
    /// 503 where others' work leaves no room for too long.
    pub async fn begin(&self, body_bytes: usize) -> Result<Part, ApiError> {
        let bytes = WORK_LEAST_BYTES + body_bytes.saturating_mul(TREE_PER_BODY_BYTE);
        let permits = u32::try_from(bytes.min(self.bytes)).unwrap_or(u32::MAX);
        let taken = timeout(WORK_TIMEOUT, Arc::clone(&self.free).acquire_many_owned(permits)).await;
        let permit = taken.map_err(|_| full())?.map_err(|_| full())?;
        Ok(Part(Mutex::new(Some(permit))))
    }

    /// What the work on a body is counted as once its values are known.
    fn of(body_bytes: usize, tree_bytes: usize) -> usize {
        let text = body_bytes.saturating_mul(WORK_PER_BODY_BYTE);
        WORK_LEAST_BYTES + text.max(tree_bytes.saturating_mul(WORK_PER_TREE_BYTE))
    }

    /// Goes on with a body of which it is known now what it holds: `tree_bytes` of values.
    ///
    /// # Errors
    /// 413 where it could never fit, 503 where it does not fit now.
    pub fn parsed(
        &self,
        part: &Part,
        body_bytes: usize,
        tree_bytes: usize,
    ) -> Result<(), ApiError> {
        let bytes = Self::of(body_bytes, tree_bytes);
        if bytes > self.bytes {
            return Err(too_many_values(self.bytes));
        }
        let has = part.bytes();
        if bytes <= has {
            // Nothing of it was used: the tree takes no more than what stays.
            drop(part.lock().as_mut().and_then(|permit| permit.split(has - bytes)));
            return Ok(());
        }
        self.grow(part, bytes)
    }

    /// Makes a part that has less one of so many bytes, if there is room now.
    ///
    /// # Errors
    /// 503 where there is none.
    pub fn grow(&self, part: &Part, bytes: usize) -> Result<(), ApiError> {
        let mut held = part.lock();
        let has = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        if bytes <= has {
            return Ok(());
        }
        let more = u32::try_from(bytes - has).unwrap_or(u32::MAX);
        let more = Arc::clone(&self.free).try_acquire_many_owned(more).map_err(|_| full())?;
        match held.as_mut() {
            Some(permit) => permit.merge(more),
            None => *held = Some(more),
        }
        Ok(())
    }

    /// Makes a part one of so many bytes, for what the request is to hold from now on. Where that is more than it
    /// has, all of it is given back first, as whoever waits holds nothing.
    ///
    /// # Errors
    /// 413 where it could never fit, 503 where others' work leaves no room for too long.
    pub async fn hold(&self, part: &Part, bytes: usize) -> Result<(), ApiError> {
        if bytes > self.bytes {
            return Err(ApiError::too_much(format!(
                "the answer takes more memory than the {} MB that requests have in this budget; ask for less at a time (fewer texts, a smaller n, max_tokens or top_logprobs), or start the server with more --memory",
                self.bytes / 1_000_000
            )));
        }
        if bytes <= part.bytes() {
            part.keep(bytes);
            return Ok(());
        }
        part.done();
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        let taken = timeout(WORK_TIMEOUT, Arc::clone(&self.free).acquire_many_owned(permits)).await;
        *part.lock() = Some(taken.map_err(|_| full())?.map_err(|_| full())?);
        Ok(())
    }
}

impl Part {
    fn lock(&self) -> std::sync::MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        // No code that can panic runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of it.
    pub fn bytes(&self) -> usize {
        self.lock().as_ref().map_or(0, OwnedSemaphorePermit::num_permits)
    }

    /// Gives back all but so many bytes. What is given back has been freed, and the allocator, which keeps small
    /// blocks for others, is told to let go of it first.
    pub fn keep(&self, bytes: usize) {
        let over = self.lock().as_mut().and_then(|permit| {
            let over = permit.num_permits().saturating_sub(bytes);
            permit.split(over)
        });
        let Some(over) = over.filter(|over| over.num_permits() >= TRIM_BYTES) else { return };
        let trim = move || {
            heap::trim();
            drop(over);
        };
        // Other requests go on meanwhile, as long as there is a runtime.
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(trim)),
            Err(_) => trim(),
        }
    }

    /// Gives all of it back: the work is done.
    pub fn done(&self) {
        self.keep(0);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        self.done();
    }
}

/// 413 for values that would take more memory than all work may.
pub fn too_many_values(bytes: usize) -> ApiError {
    ApiError::too_much(format!(
        "the body's values take more memory than the {} MB that requests have in this budget; shorten its lists, or start the server with more --memory",
        bytes / 1_000_000
    ))
}

fn full() -> ApiError {
    ApiError::unavailable("the work on other requests takes the memory set aside for it")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::limits::Limits;

    #[tokio::test]
    async fn parts_never_come_to_more_than_the_account() {
        let account = Account::new(10 << 20);
        let first = account.begin(60_000).await.unwrap();
        let begun = first.bytes();
        assert_eq!(begun, WORK_LEAST_BYTES + 60_000 * TREE_PER_BODY_BYTE);
        // Another waits.
        let waits = timeout(Duration::from_millis(20), account.begin(60_000)).await;
        assert!(waits.is_err(), "there is no room");
        // Of text less is kept, and then there is room.
        account.parsed(&first, 60_000, 60_000).unwrap();
        assert_eq!(first.bytes(), WORK_LEAST_BYTES + 60_000 * WORK_PER_BODY_BYTE);
        let second = account.begin(60_000).await.unwrap();
        assert!(first.bytes() + second.bytes() <= 10 << 20);
        first.done();
        assert_eq!(first.bytes(), 0);
        drop(second);
        // All of it comes back, when the heap is trimmed.
        assert!(account.free.acquire_many(10 << 20).await.is_ok());
    }

    #[tokio::test]
    async fn values_that_fit_never_or_not_now_are_refused() {
        let account = Account::new(10 << 20);
        let part = account.begin(1000).await.unwrap();
        let never = account.parsed(&part, 1000, 3 << 20).unwrap_err();
        assert_eq!(never.status, 413);
        let other = account.begin(90_000).await.unwrap();
        assert_eq!(account.parsed(&part, 1000, 2 << 20).unwrap_err().status, 503);
        drop(other);
        let others = (10 << 20) - part.bytes() as u32;
        drop(account.free.acquire_many(others).await);
        account.parsed(&part, 1000, 2 << 20).unwrap();
        assert_eq!(part.bytes(), WORK_LEAST_BYTES + WORK_PER_TREE_BYTE * (2 << 20));
    }

    #[tokio::test]
    async fn what_an_answer_holds_is_taken_before_it_is_made() {
        let account = Account::new(10 << 20);
        let part = account.begin(100).await.unwrap();
        assert_eq!(account.hold(&part, (10 << 20) + 1).await.unwrap_err().status, 413);
        // More than it began with, and all of that is counted.
        account.hold(&part, 6 << 20).await.unwrap();
        assert_eq!((part.bytes(), account.free.available_permits()), (6 << 20, 4 << 20));
        // Another waits for as much and holds nothing meanwhile; it goes on when the first is written.
        let other = account.begin(100).await.unwrap();
        let waits = timeout(Duration::from_millis(20), account.hold(&other, 6 << 20)).await;
        assert!(waits.is_err(), "there is no room");
        assert_eq!((other.bytes(), account.free.available_permits()), (0, 4 << 20));
        drop(part);
        account.hold(&other, 6 << 20).await.unwrap();
        account.hold(&other, 1 << 20).await.unwrap();
        assert_eq!(other.bytes(), 1 << 20);
    }

    #[tokio::test]
    async fn an_answer_that_is_longer_than_expected_takes_more_while_there_is_room() {
        let account = Account::new(10 << 20);
        let part = account.begin(100).await.unwrap();
        account.hold(&part, 1 << 20).await.unwrap();
        account.grow(&part, 1000).unwrap();
        assert_eq!(part.bytes(), 1 << 20, "what was expected stays");
        account.grow(&part, 4 << 20).unwrap();
        assert_eq!((part.bytes(), account.free.available_permits()), (4 << 20, 6 << 20));
        assert_eq!(account.grow(&part, 11 << 20).unwrap_err().status, 503);
    }

    #[test]
    fn the_largest_body_fits_into_its_account_at_every_budget() {
        for budget in [0, 50_000_000, 105_000_000, 1 << 30, 6_800_000_000, u64::MAX] {
            let limits = Limits::for_budget(budget, 32);
            let bytes = Account::of(limits.body_bytes, limits.body_bytes);
            assert!(bytes <= limits.work_bytes && limits.body_bytes <= limits.bodies_bytes);
            assert!(limits.body_bytes >= 280_000, "{budget}: {}", limits.body_bytes);
        }
    }
}
