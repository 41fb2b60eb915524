//! The backstop: a touch of lost pages becomes zeroes and a mark; any other SIGBUS kills as before.
#![allow(unsafe_code, reason = "raising signals")]

mod common;

use std::fs::{File, OpenOptions};
use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{TempDir, assert_pattern};
use lowtide_mapping::{Error, Mapping, install_sigbus_guard, page_size};

/// A mapped file of 8 MiB that is cut down to one page and a bit.
fn truncated(dir: &TempDir, name: &str) -> Mapping {
    let path = dir.file(name, 8 << 20);
    let file = File::open(&path).unwrap();
    let mapping = Mapping::of_file(&file).unwrap();
    OpenOptions::new().write(true).open(&path).unwrap().set_len(5000).unwrap();
    mapping
}

#[test]
fn a_touch_past_a_truncation_reads_zero_and_poisons_that_mapping() {
    install_sigbus_guard().unwrap();
    install_sigbus_guard().unwrap();
    let dir = TempDir::new();
    let healthy_path = dir.file("healthy", 100_000);
    let healthy = Mapping::of_file(&File::open(healthy_path).unwrap()).unwrap();
    let mapping = truncated(&dir, "cut");
    assert!(mapping.is_watched() && !mapping.is_poisoned());
    mapping.check_poison().unwrap();
    assert_pattern(&mapping.as_slice()[..5000], 0);
    assert!(!mapping.is_poisoned(), "what is there may be touched");
    let sum: u64 = mapping.as_slice().iter().skip(8192).map(|&byte| u64::from(byte)).sum();
    assert_eq!(sum, 0);
    assert!(mapping.is_poisoned());
    let error = mapping.check_poison().unwrap_err();
    assert!(error.is_model_fault());
    assert!(matches!(error, Error::Poisoned { offset: 8192, .. }), "{error}");
    assert!(error.to_string().contains("cut"), "{error}");
    assert!(matches!(mapping.populate(0..10), Err(Error::Poisoned { .. })));
    // The bytes before the cut are still the file's, and the neighbour is well.
    assert_pattern(&mapping.as_slice()[..5000], 0);
    assert!(!healthy.is_poisoned());
    assert_pattern(healthy.as_slice(), 0);
    drop(mapping);
    // A new mapping in the same place of the table starts clean.
    let fresh = Mapping::of_file(healthy.file().unwrap()).unwrap();
    assert!(!fresh.is_poisoned());
}

#[test]
fn many_threads_may_touch_at_once() {
    install_sigbus_guard().unwrap();
    let dir = TempDir::new();
    let mapping = truncated(&dir, "many");
    let touched = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (mapping, touched) = (&mapping, &touched);
            scope.spawn(move || {
                for page in (2..2048).skip(thread) {
                    assert_eq!(mapping.as_slice()[page * page_size()], 0);
                    touched.fetch_add(1, Ordering::Relaxed);
                }
                assert!(mapping.is_poisoned());
            });
        }
    });
    assert!(touched.load(Ordering::Relaxed) > 4 * 2000);
}

/// Runs one of the ignored tests below in a process of its own; the signal that ended it.
fn signal_of(child: &str) -> Option<i32> {
    let exe = std::env::current_exe().unwrap();
    let arguments = ["--exact", child, "--ignored", "--nocapture", "--test-threads=1"];
    let output = Command::new(exe).args(arguments).output().unwrap();
    println!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output.status.signal()
}

#[test]
fn other_faults_kill_as_before() {
    assert_eq!(signal_of("child_without_guard"), Some(libc::SIGBUS));
    assert_eq!(signal_of("child_touches_a_foreign_mapping"), Some(libc::SIGBUS));
    assert_eq!(signal_of("child_is_sent_the_signal"), Some(libc::SIGBUS));
    assert_eq!(signal_of("child_has_a_handler_of_its_own"), None);
}

#[test]
#[ignore = "killed by SIGBUS: run by other_faults_kill_as_before"]
fn child_without_guard() {
    let dir = TempDir::new();
    let mapping = truncated(&dir, "cut");
    // Now, because nothing runs after the signal; the mapping keeps the file.
    drop(dir);
    assert_eq!(mapping.as_slice()[8192], 0);
    unreachable!("the touch kills");
}

/// A page past the end of its file, mapped behind this crate's back.
fn foreign_page(dir: &TempDir) -> *const u8 {
    use std::os::fd::AsRawFd;
    let path = dir.file("foreign", 8192);
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let (fd, flags) = (file.as_raw_fd(), libc::MAP_SHARED);
    // SAFETY: the kernel chooses free addresses.
    let base = unsafe { libc::mmap(std::ptr::null_mut(), 8192, libc::PROT_READ, flags, fd, 0) };
    assert_ne!(base, libc::MAP_FAILED);
    file.set_len(0).unwrap();
    base.cast::<u8>().cast_const()
}

#[test]
#[ignore = "killed by SIGBUS: run by other_faults_kill_as_before"]
fn child_touches_a_foreign_mapping() {
    install_sigbus_guard().unwrap();
    let dir = TempDir::new();
    let page = foreign_page(&dir);
    drop(dir);
    // SAFETY: the address is mapped; that the touch raises SIGBUS is the point.
    let byte = unsafe { page.read_volatile() };
    unreachable!("the touch kills, and does not give {byte}");
}

#[test]
#[ignore = "killed by SIGBUS: run by other_faults_kill_as_before"]
fn child_is_sent_the_signal() {
    // std's own handler would swallow the first signal of this kind, with or without us.
    // SAFETY: sets the default action.
    unsafe { libc::signal(libc::SIGBUS, libc::SIG_DFL) };
    install_sigbus_guard().unwrap();
    // SAFETY: sends this process a signal.
    unsafe { libc::raise(libc::SIGBUS) };
    unreachable!("the signal kills");
}

#[test]
#[ignore = "ends its process: run by other_faults_kill_as_before"]
fn child_has_a_handler_of_its_own() {
    extern "C" fn leave(_: libc::c_int) {
        // SAFETY: _exit is async-signal-safe.
        unsafe { libc::_exit(0) };
    }
    let handler: extern "C" fn(libc::c_int) = leave;
    // SAFETY: `leave` is async-signal-safe.
    unsafe { libc::signal(libc::SIGBUS, handler as *const () as usize) };
    install_sigbus_guard().unwrap();
    let dir = TempDir::new();
    let page = foreign_page(&dir);
    drop(dir);
    // SAFETY: as in child_touches_a_foreign_mapping.
    let byte = unsafe { page.read_volatile() };
    unreachable!("the handler leaves, and does not give {byte}");
}
