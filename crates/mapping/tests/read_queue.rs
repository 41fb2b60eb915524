//! The read queue: the same suite over both engines, direct and buffered.

mod common;

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::time::Duration;

use common::{Random, TempDir, assert_pattern};
use lowtide_mapping::{
    Arena, Backend, DirectFile, Error, Priority, QueueOptions, ReadMode, ReadQueue, ReadRequest,
    Slot, cached_pages, open_model_file,
};

const TIMEOUT: Duration = Duration::from_secs(20);

fn options(backend: Backend) -> QueueOptions {
    QueueOptions { backend, depth: 4, piece_bytes: 64 << 10, max_requests: 16 }
}

fn request(token: u64, offset: u64, length: usize, slot: Slot) -> ReadRequest {
    ReadRequest { token, file: 0, offset, length, slot, priority: Priority::Demand }
}

/// Reads `ranges` with as many requests inside as there are slots, checks every byte.
fn read_all(queue: &mut ReadQueue, mut slots: Vec<Slot>, ranges: &[(u64, usize)]) {
    let mut next = 0;
    let mut seen = vec![false; ranges.len()];
    while seen.iter().any(|seen| !seen) {
        while next < ranges.len()
            && let Some(slot) = slots.pop()
        {
            let (offset, length) = ranges[next];
            queue.submit(request(next as u64, offset, length, slot)).unwrap();
            next += 1;
        }
        let done = queue.wait_complete(TIMEOUT).unwrap().unwrap();
        let (offset, length) = ranges[done.token as usize];
        let bytes = done.bytes().unwrap_or_else(|| panic!("{:?}", done.result));
        assert_eq!(bytes.len(), length);
        assert_pattern(bytes, offset);
        assert!(!std::mem::replace(&mut seen[done.token as usize], true), "completed twice");
        slots.push(done.slot);
    }
    assert!(queue.wait_complete(TIMEOUT).unwrap().is_none());
}

fn random_ranges(size: u64, longest: usize) -> Vec<(u64, usize)> {
    let mut random = Random(42);
    let mut ranges = vec![
        (0, 1),
        (size - 1, 1),
        (size - 4097, 4097),
        (size - longest as u64, longest),
        (0, longest),
        (4095, 2),
        (4096, 4096),
    ];
    for _ in 0..120 {
        let length = 1 + random.below(longest as u64) as usize;
        ranges.push((random.below(size - length as u64 + 1), length));
    }
    ranges
}

fn both_engines(check: impl Fn(Backend)) {
    for backend in [Backend::IoUring, Backend::Threads] {
        // Where io_uring is refused there is one engine, and the refusal has its own test.
        let files = Vec::new();
        match ReadQueue::new(files, options(backend)) {
            Err(Error::UringRefused { source }) => println!("no io_uring here: {source}"),
            other => {
                drop(other.unwrap());
                check(backend);
            }
        }
    }
}

#[test]
fn random_ranges_and_the_tail_of_the_file_are_the_files_bytes() {
    let dir = TempDir::new();
    let size = (3 << 20) + 1234;
    let path = dir.file("model", size);
    let model = open_model_file(&path).unwrap();
    both_engines(|backend| {
        for buffered in [false, true] {
            let file = if buffered {
                DirectFile::buffered(model.file()).unwrap()
            } else {
                DirectFile::of(model.file()).unwrap()
            };
            let longest = 300 << 10;
            let ranges = random_ranges(size as u64, longest);
            let mut queue = ReadQueue::new(vec![file], options(backend)).unwrap();
            assert_eq!(queue.backend(), backend);
            let slots = Arena::new(6 * (308 << 10)).unwrap().into_slots(308 << 10);
            read_all(&mut queue, slots, &ranges);
            let stats = queue.stats();
            let wanted: usize = ranges.iter().map(|range| range.1).sum();
            assert_eq!(stats.completed, ranges.len() as u64);
            assert_eq!((stats.failed, stats.wanted_bytes), (0, wanted as u64));
            assert!(stats.read_bytes >= stats.wanted_bytes);
        }
    });
}

#[test]
fn registered_buffers_give_the_same_bytes() {
    let dir = TempDir::new();
    let path = dir.file("model", 1 << 20);
    let file = DirectFile::open(&path).unwrap();
    let mut queue = ReadQueue::new(vec![file], options(Backend::Auto)).unwrap();
    let arena = Arena::new(1 << 20).unwrap();
    // Refused where locked memory is limited; the reads are the same.
    println!("registered: {}", queue.register(&[&arena]));
    let ranges = random_ranges(1 << 20, 100 << 10);
    read_all(&mut queue, arena.into_slots(128 << 10), &ranges);
}

#[test]
fn direct_reads_leave_the_page_cache_alone_and_buffered_ones_clean_up() {
    let dir = TempDir::new();
    let path = dir.file("model", 4 << 20);
    let file = File::open(&path).unwrap();
    both_engines(|backend| {
        for direct in [DirectFile::of(&file).unwrap(), DirectFile::buffered(&file).unwrap()] {
            common::evict_for_certain(&file);
            let mode = direct.mode();
            let mut queue = ReadQueue::new(vec![direct], options(backend)).unwrap();
            let slots = Arena::new(2 << 20).unwrap().into_slots(1 << 20);
            let ranges: Vec<_> = (0..4).map(|i| (i << 20, 1 << 20)).collect();
            read_all(&mut queue, slots, &ranges);
            let left = cached_pages(&file).unwrap().count();
            match mode {
                ReadMode::Direct => assert_eq!(left, 0, "{backend:?}"),
                // Read-ahead may have been under way past what was dropped.
                ReadMode::Buffered(_) => assert!(left < 1024, "{backend:?}: {left} of 1024 pages"),
            }
        }
    });
}

#[test]
fn reading_past_the_end_is_truncation_with_the_place() {
    let dir = TempDir::new();
    let path = dir.file("model", 100_000);
    let model = open_model_file(&path).unwrap();
    both_engines(|backend| {
        let files = vec![
            DirectFile::of(model.file()).unwrap(),
            DirectFile::buffered(model.file()).unwrap(),
        ];
        let mut queue = ReadQueue::new(files, options(backend)).unwrap();
        let mut slot = Arena::new(1 << 20).unwrap().into_slot();
        for file in [0, 1] {
            for (offset, length) in [(99_999, 2), (100_000, 1), (0, 200_000), (1 << 40, 5)] {
                let wanted = ReadRequest { file, ..request(7, offset, length, slot) };
                queue.submit(wanted).unwrap();
                let done = queue.wait_complete(TIMEOUT).unwrap().unwrap();
                assert!(done.bytes().is_none());
                match done.result.unwrap_err() {
                    Error::Truncated { place, file_bytes } => {
                        assert_eq!((place.offset, place.length), (offset, length as u64));
                        assert_eq!(file_bytes, 100_000);
                        assert!(place.file.ends_with("model"));
                    }
                    other => panic!("{other}"),
                }
                slot = done.slot;
            }
        }
        assert_eq!(queue.stats().failed, 8);
    });
}

#[test]
fn a_failing_disk_is_an_error_with_the_place() {
    // The first page of this process's memory is never mapped: the kernel answers reads of it with EIO.
    let memory = File::open("/proc/self/mem").unwrap();
    both_engines(|backend| {
        let file = DirectFile::buffered(&memory).unwrap();
        let mut queue = ReadQueue::new(vec![file], options(backend)).unwrap();
        let slot = Arena::new(1 << 20).unwrap().into_slot();
        // Five pieces, of which the first to fail ends the request.
        queue.submit(request(1, 0, 300 << 10, slot)).unwrap();
        let done = queue.wait_complete(TIMEOUT).unwrap().unwrap();
        let error = done.result.unwrap_err();
        assert!(error.is_model_fault());
        match error {
            Error::Unreadable { place, source } => {
                assert_eq!(source.raw_os_error(), Some(libc::EIO));
                assert!(place.offset < 300 << 10 && place.length <= 64 << 10);
            }
            other => panic!("{other}"),
        }
        assert!(queue.is_empty());
    });
}

#[test]
fn a_file_truncated_while_in_use_is_a_model_fault_and_the_queue_lives_on() {
    let dir = TempDir::new();
    both_engines(|backend| {
        let path = dir.file("model", 2 << 20);
        let file = DirectFile::open(&path).unwrap();
        let mut queue = ReadQueue::new(vec![file], options(backend)).unwrap();
        let slots = Arena::new(4 << 20).unwrap().into_slots(1 << 20);
        OpenOptions::new().write(true).open(&path).unwrap().set_len((1 << 20) + 10).unwrap();
        for (token, slot) in slots.into_iter().take(2).enumerate() {
            queue.submit(request(token as u64, (token as u64) << 20, 1 << 20, slot)).unwrap();
        }
        for _ in 0..2 {
            let done = queue.wait_complete(TIMEOUT).unwrap().unwrap();
            match done.token {
                0 => assert_pattern(done.bytes().unwrap(), 0),
                _ => assert!(done.result.unwrap_err().is_model_fault()),
            }
        }
    });
}

#[test]
fn requests_that_cannot_be_are_rejected_with_their_slot() {
    let dir = TempDir::new();
    let path = dir.file("model", 100_000);
    let file = DirectFile::open(&path).unwrap();
    let alignment = file.alignment();
    let mut queue =
        ReadQueue::new(vec![file], QueueOptions { max_requests: 1, ..Default::default() }).unwrap();
    let slot = Arena::new(1 << 20).unwrap().into_slot();
    let (small, slot) = slot.split_at(8192).unwrap();

    let rejected = queue.submit(request(0, 1, 8192, small)).unwrap_err();
    assert!(matches!(rejected.error, Error::SlotTooSmall { slot: 8192, .. }));
    let rejected = queue.submit(request(0, 0, 0, rejected.slot)).unwrap_err();
    assert!(matches!(rejected.error, Error::ZeroLength { .. }));
    let wrong = ReadRequest { file: 1, ..request(0, 0, 1, rejected.slot) };
    let rejected = queue.submit(wrong).unwrap_err();
    assert!(matches!(rejected.error, Error::UnknownFile { index: 1, files: 1 }));
    let rejected = queue.submit(request(0, u64::MAX, 1, rejected.slot)).unwrap_err();
    assert!(matches!(rejected.error, Error::TooLong { .. }));
    let (_, crooked) = rejected.slot.split_at(100).unwrap();
    if alignment > 1 {
        let rejected = queue.submit(request(0, 0, 1, crooked)).unwrap_err();
        assert!(matches!(rejected.error, Error::UnalignedSlot { start: 100, .. }));
    }
    let (first, second) = slot.split_at(64 << 10).unwrap();
    queue.submit(request(1, 0, 5, first)).unwrap();
    let rejected = queue.submit(request(2, 0, 5, second)).unwrap_err();
    assert!(matches!(rejected.error, Error::QueueFull { capacity: 1 }));
    assert_eq!(queue.wait_complete(TIMEOUT).unwrap().unwrap().token, 1);
    queue.submit(request(2, 0, 5, rejected.slot)).unwrap();
}

#[test]
fn senseless_queues_are_errors() {
    let with = |depth, piece_bytes, max_requests| {
        let options = QueueOptions { backend: Backend::Auto, depth, piece_bytes, max_requests };
        ReadQueue::new(Vec::new(), options).err().map(|error| error.to_string())
    };
    for (what, error) in [
        ("depth", with(0, 4096, 1)),
        ("depth", with(5000, 4096, 1)),
        ("piece_bytes", with(1, 0, 1)),
        ("piece_bytes", with(1, 4095, 1)),
        ("piece_bytes", with(1, 2 << 30, 1)),
        ("max_requests", with(1, 4096, 0)),
        ("max_requests", with(1, 4096, 1 << 20)),
    ] {
        assert!(error.unwrap().contains(what));
    }
}

#[test]
fn a_read_that_hangs_is_an_error_after_the_timeout() {
    // A pipe nobody writes to stands in for a disk that does not answer: through /proc/self/fd it can be had
    // as a File, and a buffered DirectFile does not ask what kind it is.
    let (reader, writer) = std::io::pipe().unwrap();
    let file = File::from(std::os::fd::OwnedFd::from(reader));
    both_engines(|backend| {
        let direct = DirectFile::buffered(&file).unwrap();
        let mut queue = ReadQueue::new(vec![direct], options(backend)).unwrap();
        let slot = Arena::new(1 << 20).unwrap().into_slot();
        queue.submit(request(3, 0, 4096, slot)).unwrap();
        let begin = std::time::Instant::now();
        match queue.wait_complete(Duration::from_millis(50)) {
            Err(error @ Error::Hung { .. }) => {
                assert!(error.is_model_fault());
                assert!(begin.elapsed() >= Duration::from_millis(50));
                assert!(begin.elapsed() < Duration::from_secs(5));
            }
            // pread on a pipe fails at once with ESPIPE.
            Ok(Some(done)) if backend == Backend::Threads => {
                assert!(matches!(done.result, Err(Error::Unreadable { .. })));
            }
            other => panic!("{backend:?}: {other:?}"),
        }
        // Dropping it waits a while, and then leaves the read to itself.
        let begin = std::time::Instant::now();
        drop(queue);
        assert!(begin.elapsed() < lowtide_mapping::SHUTDOWN_TIMEOUT * 2);
    });
    drop(writer);
}

const PART: usize = 512 << 10;

/// A queue over a file of eight parts, with a slot for each.
fn parts(path: &Path, backend: Backend, depth: usize) -> (ReadQueue, Vec<Slot>) {
    let file = DirectFile::open(path).unwrap();
    let queue = ReadQueue::new(vec![file], QueueOptions { depth, ..options(backend) }).unwrap();
    (queue, Arena::new(8 * PART).unwrap().into_slots(PART))
}

/// Asks for the part of the token's number.
fn submit(queue: &mut ReadQueue, slots: &mut Vec<Slot>, token: u64, priority: Priority) {
    let wanted = request(token, token * PART as u64, PART, slots.pop().unwrap());
    queue.submit(ReadRequest { priority, ..wanted }).unwrap();
}

/// Empties the queue: the tokens that were read, and those that were withdrawn.
fn take_all(queue: &mut ReadQueue) -> (Vec<u64>, Vec<u64>) {
    let (mut read, mut withdrawn) = (Vec::new(), Vec::new());
    while let Some(done) = queue.wait_complete(TIMEOUT).unwrap() {
        match done.result {
            Ok(range) => {
                assert_pattern(&done.slot.as_slice()[range], done.token * PART as u64);
                read.push(done.token);
            }
            Err(Error::Cancelled) => withdrawn.push(done.token),
            Err(other) => panic!("{other}"),
        }
    }
    (read, withdrawn)
}

#[test]
fn demands_go_first_and_guesses_can_be_withdrawn() {
    let dir = TempDir::new();
    let path = dir.file("model", 4 << 20);
    both_engines(|backend| {
        let (mut queue, mut slots) = parts(&path, backend, 1);
        submit(&mut queue, &mut slots, 0, Priority::Demand);
        for token in 1..4 {
            submit(&mut queue, &mut slots, token, Priority::Guess);
        }
        submit(&mut queue, &mut slots, 4, Priority::Demand);
        let mut order = Vec::new();
        for _ in 0..3 {
            let done = queue.wait_complete(TIMEOUT).unwrap().unwrap();
            assert_pattern(done.bytes().unwrap(), done.token * PART as u64);
            order.push(done.token);
        }
        assert_eq!(order, [0, 4, 1], "{backend:?}");
        // Guess 2 may have begun; guess 3 cannot have.
        let cancelled = queue.cancel_guesses();
        assert!((1..=2).contains(&cancelled), "{cancelled}");
        assert_eq!(take_all(&mut queue).1.len(), cancelled);
    });
}

/// Depth is no bar here: what holds the guess back is that others are with the kernel.
#[test]
fn guesses_wait_for_an_idle_disk_unless_they_are_promoted() {
    let dir = TempDir::new();
    let path = dir.file("model", 4 << 20);
    both_engines(|backend| {
        let (mut queue, mut slots) = parts(&path, backend, 8);
        assert!(queue.takes_guess());
        submit(&mut queue, &mut slots, 0, Priority::Demand);
        assert!(!queue.takes_guess(), "{backend:?}: a demand is with the kernel");
        submit(&mut queue, &mut slots, 1, Priority::Ahead);
        submit(&mut queue, &mut slots, 2, Priority::Guess);
        submit(&mut queue, &mut slots, 3, Priority::Guess);
        submit(&mut queue, &mut slots, 4, Priority::Guess);
        assert!(queue.promote_guess(3) && !queue.promote_guess(3));
        assert!(!queue.promote_guess(0), "no guess");
        assert!(!queue.promote_guess(77), "nobody's");
        assert_eq!(queue.cancel_guesses(), 2, "{backend:?}: neither 2 nor 4 can have begun");
        let (mut read, mut withdrawn) = take_all(&mut queue);
        read.sort_unstable();
        withdrawn.sort_unstable();
        assert_eq!((&read[..], &withdrawn[..]), (&[0, 1, 3][..], &[2, 4][..]), "{backend:?}");
        // On an idle disk a guess begins at once, and can be promoted on its way.
        let mut slots = Arena::new(1 << 20).unwrap().into_slots(1 << 20);
        let wanted = request(9, 0, 1 << 20, slots.pop().unwrap());
        queue.submit(ReadRequest { priority: Priority::Guess, ..wanted }).unwrap();
        assert_eq!(queue.cancel_guesses(), 0, "{backend:?}: it has begun");
        assert!(queue.promote_guess(9));
        let done = queue.wait_complete(TIMEOUT).unwrap().unwrap();
        assert_pattern(done.bytes().unwrap(), 0);
        assert!(queue.is_empty() && queue.takes_guess());
    });
}

#[test]
fn dropping_a_busy_queue_is_safe() {
    let dir = TempDir::new();
    let path = dir.file("model", 4 << 20);
    both_engines(|backend| {
        for _ in 0..20 {
            let file = DirectFile::open(&path).unwrap();
            let mut queue = ReadQueue::new(vec![file], options(backend)).unwrap();
            for (token, slot) in
                Arena::new(4 << 20).unwrap().into_slots(1 << 20).into_iter().enumerate()
            {
                queue.submit(request(token as u64, (token as u64) << 20, 1 << 20, slot)).unwrap();
            }
            drop(queue);
        }
    });
}

#[test]
fn a_queue_may_move_to_another_thread_with_reads_inside() {
    let dir = TempDir::new();
    let path = dir.file("model", 4 << 20);
    both_engines(|backend| {
        let file = DirectFile::open(&path).unwrap();
        let options = options(backend);
        let submitter = std::thread::spawn(move || {
            let mut queue = ReadQueue::new(vec![file], options).unwrap();
            let slots = Arena::new(4 << 20).unwrap().into_slots(1 << 20);
            for (token, slot) in slots.into_iter().enumerate() {
                queue.submit(request(token as u64, (token as u64) << 20, 1 << 20, slot)).unwrap();
            }
            queue
        });
        // The thread that submitted ends: what io_uring cancels then must be read again.
        let mut queue = submitter.join().unwrap();
        for _ in 0..4 {
            let done = queue.wait_complete(TIMEOUT).unwrap().unwrap();
            assert_pattern(done.bytes().unwrap(), done.token << 20);
        }
    });
}

#[test]
fn two_files_one_queue() {
    let dir = TempDir::new();
    let (one, two) = (dir.file("one", 50_000), dir.file("two", 70_000));
    both_engines(|backend| {
        let files = vec![DirectFile::open(&one).unwrap(), DirectFile::open(&two).unwrap()];
        let mut queue = ReadQueue::new(files, options(backend)).unwrap();
        let mut slots = Arena::new(256 << 10).unwrap().into_slots(128 << 10);
        let second = slots.pop().unwrap();
        let first = slots.pop().unwrap();
        queue.submit(ReadRequest { file: 1, ..request(1, 69_000, 1000, second) }).unwrap();
        queue.submit(request(0, 49_000, 1000, first)).unwrap();
        for _ in 0..2 {
            let done = queue.wait_complete(TIMEOUT).unwrap().unwrap();
            assert_pattern(done.bytes().unwrap(), if done.token == 1 { 69_000 } else { 49_000 });
        }
    });
}

#[test]
fn direct_files_know_their_alignment() {
    let dir = TempDir::new();
    let path = dir.file("model", 10_000);
    let file = DirectFile::open(&path).unwrap();
    println!("{}: alignment {}", file.mode(), file.alignment());
    assert!(file.alignment().is_power_of_two() && file.alignment() <= 65536);
    let span = file.aligned_span(5000, 300).unwrap();
    assert!(span.offset <= 5000 && span.offset + span.length as u64 >= 5300);
    assert_eq!(span.offset as usize + span.head, 5000);
    let buffered = DirectFile::buffered(file.file()).unwrap();
    assert!(buffered.mode().to_string().starts_with("buffered"));
    // A file in memory: some kernels give it direct reads, some refuse; the bytes come either way.
    let shm = Path::new("/dev/shm");
    if shm.is_dir() {
        let path = shm.join(format!("lowtide-mapping-{}", std::process::id()));
        std::fs::write(&path, [7u8; 5000]).unwrap();
        let file = DirectFile::open(&path).unwrap();
        println!("in memory: {}", file.mode());
        let mut queue = ReadQueue::new(vec![file], options(Backend::Auto)).unwrap();
        queue.submit(request(0, 4990, 10, Arena::new(8192).unwrap().into_slot())).unwrap();
        let done = queue.wait_complete(TIMEOUT).unwrap().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(done.bytes(), Some(&[7u8; 10][..]));
    }
}
