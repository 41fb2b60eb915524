//! Reads allocate nothing once the queue is made. Alone in its process, because it counts every allocation.
#![allow(unsafe_code, reason = "a global allocator that counts")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lowtide_mapping::{
    Arena, Backend, DirectFile, Error, Priority, QueueOptions, ReadQueue, ReadRequest,
};

struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands everything to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn reading_allocates_nothing() {
    let dir = common::TempDir::new();
    let path = dir.file("model", 1 << 20);
    for backend in [Backend::IoUring, Backend::Threads] {
        let options = QueueOptions { backend, depth: 4, piece_bytes: 16 << 10, max_requests: 8 };
        let mut queue = match ReadQueue::new(vec![DirectFile::open(&path).unwrap()], options) {
            Err(Error::UringRefused { .. }) => continue,
            other => other.unwrap(),
        };
        let mut slots = Arena::new(1 << 20).unwrap().into_slots(128 << 10);
        let mut withdrawn = 0;
        let mut read = |count: u64| {
            for token in 0..count {
                while let Some(slot) = slots.pop() {
                    let (offset, length) = (token * 1000, 100_000);
                    let kinds =
                        [Priority::Demand, Priority::Ahead, Priority::Guess, Priority::Guess];
                    let priority = kinds[slots.len() % 4];
                    let wanted = ReadRequest { token, file: 0, offset, length, slot, priority };
                    queue.submit(wanted).unwrap();
                }
                if token % 3 == 0 {
                    queue.promote_guess(token);
                    withdrawn += queue.cancel_guesses();
                }
                let done = queue.wait_complete(Duration::from_secs(20)).unwrap().unwrap();
                match done.result {
                    Ok(range) => assert_eq!(range.len(), 100_000),
                    Err(Error::Cancelled) => {}
                    Err(other) => panic!("{other}"),
                }
                slots.push(done.slot);
            }
        };
        read(50);
        let before = ALLOCATIONS.load(Ordering::SeqCst);
        read(300);
        let allocated = ALLOCATIONS.load(Ordering::SeqCst) - before;
        assert_eq!(allocated, 0, "{backend:?}");
        assert!(withdrawn > 0, "{backend:?}");
    }
}
