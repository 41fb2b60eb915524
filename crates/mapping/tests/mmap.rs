//! All six arguments of `mmap`, checked against what the kernel says it mapped.
#![allow(unsafe_code, reason = "forking, running mapped code")]

mod common;

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;

use common::{TempDir, assert_pattern, byte_at};
use lowtide_mapping::{Address, Error, MapRequest, Mapping, Protection, Sharing, page_size};

/// The line of `/proc/self/maps` for a mapping: length, permissions, offset, inode.
fn kernel_view(mapping: &Mapping) -> (usize, String, u64, u64) {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let start = format!("{:x}-", mapping.address());
    let line = maps.lines().find(|line| line.starts_with(&start)).expect("no such mapping");
    let mut fields = line.split_ascii_whitespace();
    let (from, to) = fields.next().unwrap().split_once('-').unwrap();
    let hex = |text| u64::from_str_radix(text, 16).unwrap();
    let permissions = fields.next().unwrap().to_owned();
    let offset = hex(fields.next().unwrap());
    let inode = fields.nth(1).unwrap().parse().unwrap();
    ((hex(to) - hex(from)) as usize, permissions, offset, inode)
}

#[test]
fn every_argument_reaches_the_kernel() {
    let dir = TempDir::new();
    let path = dir.file("model", 100_000);
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let inode = file.metadata().unwrap().ino();
    let page = page_size();
    let (read, write) = (Protection::READ, Protection::WRITE);
    for (protection, sharing, want) in [
        (Protection::NONE, Sharing::Private, "---p"),
        (read, Sharing::Shared, "r--s"),
        (read, Sharing::Private, "r--p"),
        (write, Sharing::Shared, "-w-s"),
        (read | write, Sharing::Shared, "rw-s"),
        (read | write, Sharing::Private, "rw-p"),
        (read | Protection::EXECUTE, Sharing::Private, "r-xp"),
        (read | write | Protection::EXECUTE, Sharing::Private, "rwxp"),
    ] {
        let length = 2 * page + 5;
        let mapping = MapRequest::file(&file, page as u64, length)
            .protection(protection)
            .sharing(sharing)
            .map()
            .unwrap();
        let view = kernel_view(&mapping);
        assert_eq!(view, (3 * page, want.to_owned(), page as u64, inode));
        assert_eq!((mapping.len(), mapping.file_offset()), (length, page as u64));
        let slice = mapping.as_slice();
        if protection.can_read() {
            assert_eq!(slice.len(), length);
            assert_pattern(slice, page as u64);
        } else {
            assert!(slice.is_empty());
            let error = mapping.bytes(0..1).unwrap_err();
            assert!(error.to_string().contains("without read permission"), "{error}");
        }
    }
}

#[test]
fn addresses() {
    let page = page_size();
    let free = MapRequest::anonymous(4 * page).map().unwrap().address();
    let near = MapRequest::anonymous(page).address(Address::Near(free)).map().unwrap();
    assert_eq!(near.address() % page, 0);
    let exact =
        MapRequest::anonymous(page).address(Address::Exactly(0x6000_0000_0000)).map().unwrap();
    assert_eq!(exact.address(), 0x6000_0000_0000);
    let taken = MapRequest::anonymous(page).address(Address::Exactly(exact.address())).map();
    assert!(matches!(taken, Err(Error::AddressTaken { .. })), "{taken:?}");
    let crooked = MapRequest::anonymous(page).address(Address::Near(5)).map();
    assert!(matches!(crooked, Err(Error::UnalignedAddress { address: 5, .. })));
    drop(exact);
    MapRequest::anonymous(page).address(Address::Exactly(0x6000_0000_0000)).map().unwrap();
}

#[test]
fn impossible_ranges_say_what_is_wrong() {
    let dir = TempDir::new();
    let path = dir.file("model", 100_000);
    let file = File::open(&path).unwrap();
    let page = page_size() as u64;
    let message = |offset, length| {
        let error = MapRequest::file(&file, offset, length).map().unwrap_err().to_string();
        println!("{error}");
        error
    };
    assert!(message(0, 0).contains("length 0"));
    let unaligned = message(4095, 1);
    assert!(unaligned.contains("not a multiple of the page size"), "{unaligned}");
    assert!(unaligned.contains("bytes 4095..4096 of") && unaligned.contains("model"));
    for (offset, length) in [(0, 100_001), (25 * page, 1), (page, 96_000), (1 << 62, 1)] {
        assert!(message(offset, length).contains("the file ends at byte 100000"));
    }
    assert!(message(u64::MAX - page + 1, 4096).contains("the file ends at byte 100000"));
    assert!(message(0, usize::MAX).contains("do not fit the address space"));
    // The last byte of the file may be mapped, and no more.
    let last = MapRequest::file(&file, 24 * page, 100_000 - 24 * 4096).map().unwrap();
    assert_pattern(last.as_slice(), 24 * page);
    assert!(matches!(last.bytes(0..last.len() + 1), Err(Error::OutsideMapping { start: 0, .. })));
    assert!(matches!(last.bytes(5..5), Err(Error::ZeroLength { .. })));
    let backwards = std::ops::Range { start: 6, end: 5 };
    assert!(matches!(last.bytes(backwards), Err(Error::OutsideMapping { .. })));
    let empty = dir.path("empty");
    let empty = File::create_new(&empty).unwrap();
    assert!(matches!(Mapping::of_file(&empty), Err(Error::ZeroLength { .. })));
    // What only the kernel knows: the file is not open for writing.
    let refused = MapRequest::file(&file, 0, 1).protection(Protection::READ | Protection::WRITE);
    assert!(refused.map().unwrap_err().to_string().contains("Permission denied"));
    let anonymous = MapRequest::anonymous(1 << 62).map().unwrap_err().to_string();
    assert!(anonymous.contains("anonymous memory"), "{anonymous}");
    let huge = MapRequest::file(&file, 0, 1).huge_pages(true).map();
    assert!(matches!(huge, Err(Error::NotAllowed { .. })));
}

#[test]
fn shared_writes_reach_the_file_and_other_mappings_private_ones_do_not() {
    let dir = TempDir::new();
    let path = dir.file("data", 10_000);
    let mut file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let request =
        MapRequest::file(&file, 0, 10_000).protection(Protection::READ | Protection::WRITE);
    let mut shared = request.clone().map().unwrap();
    let other = Mapping::of_file(&file).unwrap();
    let mut private = request.sharing(Sharing::Private).map().unwrap();

    private.as_mut_slice().unwrap()[5000] = !byte_at(5000);
    assert_eq!(other.as_slice()[5000], byte_at(5000));
    shared.as_mut_slice().unwrap()[9999] = !byte_at(9999);
    assert_eq!(other.as_slice()[9999], !byte_at(9999));
    shared.sync().unwrap();
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!((bytes[5000], bytes[9999]), (byte_at(5000), !byte_at(9999)));
    // Discarding a private copy shows the file again.
    assert_eq!(private.as_slice()[5000], !byte_at(5000));
    assert_eq!(private.discard(0..10_000).unwrap(), 12_288);
    assert_eq!(private.as_slice()[5000], byte_at(5000));
    // A write through the file descriptor shows in the mappings.
    file.seek(SeekFrom::Start(100)).unwrap();
    file.write_all(&[byte_at(100).wrapping_add(1)]).unwrap();
    assert_eq!(other.as_slice()[100], byte_at(100).wrapping_add(1));
}

#[test]
fn read_only_mappings_cannot_be_written_and_protection_can_change() {
    let dir = TempDir::new();
    let path = dir.file("data", 10_000);
    let file = File::open(&path).unwrap();
    let mut mapping = Mapping::of_file(&file).unwrap();
    assert!(matches!(mapping.as_mut_slice(), Err(Error::NotAllowed { .. })));
    let refused = mapping.protect(Protection::READ | Protection::WRITE).unwrap_err();
    assert!(refused.to_string().contains("mprotect refused"), "{refused}");
    mapping.protect(Protection::NONE).unwrap();
    assert!(mapping.as_slice().is_empty());
    assert!(matches!(mapping.populate(0..1), Err(Error::NotAllowed { .. })));
    mapping.protect(Protection::READ).unwrap();
    assert_pattern(mapping.as_slice(), 0);
}

#[test]
fn anonymous_memory_is_zero_and_private_to_the_process_unless_shared() {
    let write_in_child = |mapping: &mut Mapping| {
        let bytes = mapping.as_mut_slice().unwrap();
        assert!(bytes.iter().all(|&byte| byte == 0));
        bytes[0] = 1;
        // SAFETY: the child only writes to memory and leaves, both allowed after a fork of threads.
        let child = unsafe { libc::fork() };
        if child == 0 {
            bytes[0] = 2;
            // SAFETY: ends the child without running anything of the parent's.
            unsafe { libc::_exit(0) };
        }
        let mut status = 0;
        // SAFETY: `status` is an integer to write to, `child` is ours to wait for.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
        mapping.as_slice()[0]
    };
    let mut private = MapRequest::anonymous(3 * page_size()).map().unwrap();
    assert_eq!(write_in_child(&mut private), 1);
    let mut shared = MapRequest::anonymous(3 * page_size()).sharing(Sharing::Shared).map().unwrap();
    assert_eq!(write_in_child(&mut shared), 2);
    private.discard(0..1).unwrap();
    assert_eq!(private.as_slice()[0], 1, "a part of a page is not discarded");
    private.discard(0..page_size()).unwrap();
    assert_eq!(private.as_slice()[0], 0);
}

#[test]
fn more_than_the_machine_has_can_be_reserved_but_only_when_asked_for() {
    let terabytes = 8 << 40;
    let mapping = MapRequest::anonymous(terabytes).no_reserve().huge_pages(false).map().unwrap();
    assert_eq!(mapping.len(), terabytes);
    assert_eq!(mapping.bytes(terabytes - 1..terabytes).unwrap(), [0]);
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[test]
fn mapped_code_runs() {
    #[cfg(target_arch = "x86_64")]
    let code = [0xb8, 42, 0, 0, 0, 0xc3]; // mov eax, 42; ret
    #[cfg(target_arch = "aarch64")]
    let code = [0x40, 0x05, 0x80, 0x52, 0xc0, 0x03, 0x5f, 0xd6]; // mov w0, 42; ret
    let mut mapping = MapRequest::anonymous(code.len()).map().unwrap();
    mapping.as_mut_slice().unwrap().copy_from_slice(&code);
    mapping.protect(Protection::READ | Protection::EXECUTE).unwrap();
    let start: *const u8 = mapping.as_slice().as_ptr();
    // SAFETY: the bytes are a function that takes nothing and returns an i32, in executable memory. (On
    // aarch64 the instruction cache has never seen these fresh addresses.)
    let answer: extern "C" fn() -> i32 = unsafe { std::mem::transmute(start) };
    assert_eq!(answer(), 42);
}

#[test]
fn mappings_go_when_dropped() {
    let mapping = MapRequest::anonymous(page_size()).map().unwrap();
    let address = mapping.address();
    drop(mapping);
    let again = MapRequest::anonymous(page_size()).address(Address::Exactly(address)).map();
    // Another thread of the tests may have been quicker, with a mapping of its own: then it is taken, and
    // not by us.
    match again {
        Ok(mapping) => assert_eq!(mapping.address(), address),
        Err(Error::AddressTaken { .. }) => {}
        Err(other) => panic!("{other}"),
    }
}
