//! What happens where the kernel refuses a call: the fallbacks, forced by a seccomp filter on one thread, as
//! containers force them.
#![allow(unsafe_code, reason = "seccomp has no safe interface")]
#![cfg(target_arch = "x86_64")]

mod common;

use std::fs::File;
use std::os::fd::{FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use common::{TempDir, assert_pattern, evict_for_certain};
use lowtide_mapping::{
    Arena, Backend, DirectFile, Error, Mapping, Priority, QueueOptions, ReadMode, ReadQueue,
    ReadRequest, Refusal, SHUTDOWN_TIMEOUT,
};

/// A system call to be refused: its number, which of its arguments must have which bits set or which value,
/// and the error it gets.
struct Refused {
    call: libc::c_long,
    argument: Option<(u32, Test)>,
    errno: i32,
}

enum Test {
    Equals(u32),
    HasBits(u32),
}

/// Stops a call of the present thread, and of threads it starts, until the descriptor returned is dropped:
/// then it fails with ENOSYS.
fn stop(call: libc::c_long) -> OwnedFd {
    let listen = libc::SECCOMP_FILTER_FLAG_NEW_LISTENER;
    let fd = load(call, None, libc::SECCOMP_RET_USER_NOTIF, listen);
    // SAFETY: seccomp has just returned this descriptor and nobody else has it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

/// Runs `body` in a thread in which a call is refused.
fn refusing<T: Send + 'static>(refused: Refused, body: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::spawn(move || {
        install(&refused);
        body()
    });
    thread.join().unwrap()
}

fn install(refused: &Refused) {
    let answer = libc::SECCOMP_RET_ERRNO | refused.errno as u32;
    assert_eq!(load(refused.call, refused.argument.as_ref(), answer, 0), 0);
}

/// Loads a filter that gives `answer` to a call, for the present thread.
fn load(call: libc::c_long, argument: Option<&(u32, Test)>, answer: u32, flags: u64) -> i64 {
    // Offsets in `struct seccomp_data`: the number at 0, arguments of 8 bytes from 16 on.
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let jump =
        |code: u32, k: u32, no: u8| libc::sock_filter { code: code as u16, jt: 0, jf: no, k };
    let word = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let bits = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    let mut program = vec![statement(word, 0)];
    match argument {
        None => program.push(jump(equal, call as u32, 1)),
        Some((index, test)) => {
            program.push(jump(equal, call as u32, 3));
            program.push(statement(word, 16 + 8 * index));
            program.push(match test {
                Test::Equals(value) => jump(equal, *value, 1),
                Test::HasBits(mask) => jump(bits, *mask, 1),
            });
        }
    }
    let ret = libc::BPF_RET | libc::BPF_K;
    program.push(statement(ret, answer));
    program.push(statement(ret, libc::SECCOMP_RET_ALLOW));
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: takes integers only.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    let mode = libc::SECCOMP_SET_MODE_FILTER;
    // SAFETY: `filter` is a program that outlives the call; it applies to this thread only.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, mode, flags, &raw const filter) };
    assert!(result >= 0, "{}", std::io::Error::last_os_error());
    result
}

fn read_one(mut queue: ReadQueue, offset: u64, length: usize) {
    let slot = Arena::new(1 << 20).unwrap().into_slot();
    let priority = Priority::Demand;
    queue.submit(ReadRequest { token: 1, file: 0, offset, length, slot, priority }).unwrap();
    let done = queue.wait_complete(Duration::from_secs(20)).unwrap().unwrap();
    assert_pattern(done.bytes().unwrap(), offset);
}

#[test]
fn without_io_uring_threads_read() {
    for (call, errno) in [
        (libc::SYS_io_uring_setup, libc::EPERM),
        (libc::SYS_io_uring_setup, libc::ENOSYS),
        (libc::SYS_io_uring_enter, libc::EPERM),
    ] {
        refusing(Refused { call, argument: None, errno }, move || {
            let dir = TempDir::new();
            let path = dir.file("model", 500_000);
            let open = || vec![DirectFile::open(&path).unwrap()];
            let forced = QueueOptions { backend: Backend::IoUring, ..QueueOptions::default() };
            match ReadQueue::new(open(), forced).unwrap_err() {
                Error::UringRefused { source } => assert_eq!(source.raw_os_error(), Some(errno)),
                other => panic!("{other}"),
            }
            let queue = ReadQueue::new(open(), QueueOptions::default()).unwrap();
            assert_eq!(queue.backend(), Backend::Threads);
            read_one(queue, 1, 499_999);
        });
    }
}

#[test]
fn without_populate_reads_and_touches_do() {
    let argument = Some((2, Test::Equals(libc::MADV_POPULATE_READ as u32)));
    let refused = Refused { call: libc::SYS_madvise, argument, errno: libc::EINVAL };
    refusing(refused, || {
        let dir = TempDir::new();
        let file = File::open(dir.file("model", 2_000_000)).unwrap();
        evict_for_certain(&file);
        let mapping = Mapping::of_file(&file).unwrap();
        mapping.populate(100..1_500_000).unwrap();
        assert!(mapping.mapped_pages(100..1_500_000).unwrap().is_full());
        assert_pattern(mapping.as_slice(), 0);
    });
}

#[test]
fn without_populate_arenas_are_written_to() {
    let argument = Some((2, Test::Equals(libc::MADV_POPULATE_WRITE as u32)));
    let refused = Refused { call: libc::SYS_madvise, argument, errno: libc::EINVAL };
    refusing(refused, || {
        let before = lowtide_mapping::ProcessMemory::read().unwrap().anonymous_bytes;
        let arena = Arena::new(64 << 20).unwrap();
        let after = lowtide_mapping::ProcessMemory::read().unwrap().anonymous_bytes;
        assert!(after >= before + (60 << 20), "{before} {after}");
        drop(arena);
    });
}

#[test]
fn arenas_do_without_huge_pages() {
    let argument = Some((2, Test::Equals(libc::MADV_HUGEPAGE as u32)));
    let refused = Refused { call: libc::SYS_madvise, argument, errno: libc::EINVAL };
    refusing(refused, || assert!(!Arena::new(4 << 20).unwrap().is_huge_page_advised()));
}

#[test]
fn without_direct_reads_buffered_ones_say_why() {
    let argument = Some((2, Test::HasBits(libc::O_DIRECT as u32)));
    let refused = Refused { call: libc::SYS_openat, argument, errno: libc::EINVAL };
    refusing(refused, || {
        let dir = TempDir::new();
        let file = DirectFile::open(dir.file("model", 500_000)).unwrap();
        assert_eq!(file.mode(), ReadMode::Buffered(Refusal::Open(libc::EINVAL)));
        assert!(file.mode().to_string().contains("Invalid argument"), "{}", file.mode());
        read_one(ReadQueue::new(vec![file], QueueOptions::default()).unwrap(), 499_000, 1000);
    });
}

#[test]
fn without_statx_direct_reads_are_aligned_to_what_every_disk_takes() {
    let refused = Refused { call: libc::SYS_statx, argument: None, errno: libc::ENOSYS };
    refusing(refused, || {
        let dir = TempDir::new();
        let file = DirectFile::open(dir.file("model", 500_000)).unwrap();
        assert_eq!(file.alignment(), 4096);
        read_one(ReadQueue::new(vec![file], QueueOptions::default()).unwrap(), 499_000, 1000);
    });
}

#[test]
fn a_disk_error_while_populating_is_an_error() {
    // EFAULT from the populating call, and EIO from the read that looks for the reason.
    let argument = Some((2, Test::Equals(libc::MADV_POPULATE_READ as u32)));
    let refused = Refused { call: libc::SYS_madvise, argument, errno: libc::EFAULT };
    let error = refusing(refused, || {
        install(&Refused { call: libc::SYS_pread64, argument: None, errno: libc::EIO });
        let dir = TempDir::new();
        let file = File::open(dir.file("model", 500_000)).unwrap();
        Mapping::of_file(&file).unwrap().populate(5000..100_000).unwrap_err()
    });
    assert!(error.is_model_fault());
    let text = error.to_string();
    assert!(
        text.contains("cannot read bytes 5000..100000") && text.contains("os error 5"),
        "{text}"
    );
}

#[test]
fn an_interrupted_or_postponed_call_is_made_again_but_not_for_ever() {
    let argument = Some((2, Test::Equals(libc::MADV_POPULATE_READ as u32)));
    let refused = Refused { call: libc::SYS_madvise, argument, errno: libc::EAGAIN };
    let error = refusing(refused, || {
        let dir = TempDir::new();
        let file = File::open(dir.file("model", 500_000)).unwrap();
        Mapping::of_file(&file).unwrap().populate(0..100_000).unwrap_err()
    });
    assert!(matches!(error, Error::Advise { .. }), "{error}");
    // Readers that the kernel always interrupts: an error, too. (The filter reaches the pool's threads,
    // because they are started by this one.)
    let refused = Refused { call: libc::SYS_pread64, argument: None, errno: libc::EINTR };
    let error = refusing(refused, || {
        let dir = TempDir::new();
        let file = DirectFile::open(dir.file("model", 500_000)).unwrap();
        let options = QueueOptions { backend: Backend::Threads, ..QueueOptions::default() };
        let mut queue = ReadQueue::new(vec![file], options).unwrap();
        let slot = Arena::new(1 << 20).unwrap().into_slot();
        let priority = Priority::Demand;
        queue
            .submit(ReadRequest { token: 1, file: 0, offset: 0, length: 9, slot, priority })
            .unwrap();
        let done = queue.wait_complete(Duration::from_secs(20)).unwrap().unwrap();
        done.result.unwrap_err()
    });
    assert!(matches!(error, Error::Unreadable { .. }), "{error}");
}

#[test]
fn a_thread_that_hangs_in_a_read_is_reported_and_left_behind() {
    let hung = std::thread::spawn(|| {
        let dir = TempDir::new();
        let file = DirectFile::open(dir.file("model", 500_000)).unwrap();
        let stopped = stop(libc::SYS_pread64);
        let options = QueueOptions { backend: Backend::Threads, depth: 2, ..Default::default() };
        let mut queue = ReadQueue::new(vec![file], options).unwrap();
        let slot = Arena::new(1 << 20).unwrap().into_slot();
        let priority = Priority::Demand;
        let wanted = ReadRequest { token: 1, file: 0, offset: 77, length: 9, slot, priority };
        queue.submit(wanted).unwrap();
        match queue.wait_complete(Duration::from_millis(100)).unwrap_err() {
            Error::Hung { place, waited } => {
                assert_eq!((place.offset, place.length), (77, 9));
                assert!(waited >= Duration::from_millis(90), "{waited:?}");
            }
            other => panic!("{other}"),
        }
        assert_eq!(queue.len(), 1, "the slot stays inside");
        let begin = Instant::now();
        drop(queue);
        assert!((SHUTDOWN_TIMEOUT..SHUTDOWN_TIMEOUT * 3).contains(&begin.elapsed()));
        drop(stopped);
    });
    hung.join().unwrap();
}
