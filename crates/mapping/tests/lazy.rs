//! What is in memory when: laziness, populating, evicting, locking.
#![allow(unsafe_code, reason = "sysmacros of libc")]

mod common;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use common::{TempDir, assert_pattern, byte_at, evict_for_certain};
use lowtide_mapping::{
    Advice, Error, HUGE_PAGE_BYTES, MapRequest, Mapping, PopulateMethod, Protection, Sharing,
    evict_file, page_size,
};

const SIZE: usize = 48 << 20;

fn cold_file(dir: &TempDir, size: usize) -> File {
    let file = File::open(dir.file("model", size)).unwrap();
    evict_for_certain(&file);
    file
}

fn resident(mapping: &Mapping) -> u64 {
    mapping.resident_pages(0..mapping.len()).unwrap().resident_bytes()
}

fn mapped(mapping: &Mapping) -> u64 {
    mapping.mapped_pages(0..mapping.len()).unwrap().resident_bytes()
}

/// Read-ahead of the disk that holds a file, in bytes.
fn readahead_bytes(file: &File) -> Option<u64> {
    let device = file.metadata().unwrap().dev();
    let (major, minor) = (libc::major(device), libc::minor(device));
    let path = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok().map(|kb| kb * 1024)
}

#[test]
fn mapping_reads_nothing_and_a_touch_reads_a_window() {
    let dir = TempDir::new();
    let file = cold_file(&dir, SIZE);
    let mapping = Mapping::of_file(&file).unwrap();
    assert_eq!((resident(&mapping), mapped(&mapping)), (0, 0), "after mapping");
    let middle = SIZE / 2 + 17;
    assert_eq!(mapping.as_slice()[middle], byte_at(middle as u64));
    let window = readahead_bytes(&file).unwrap_or(SIZE as u64 / 4);
    let read = resident(&mapping);
    println!("read-ahead {window} bytes: one touch read {read}, mapped {}", mapped(&mapping));
    assert!(read >= page_size() as u64);
    // The window around the touch, and the one that the kernel may have begun behind it.
    assert!(read <= (2 * window).max(64 << 10) && read < SIZE as u64);
    assert!(mapping.resident_pages(middle..middle + 1).unwrap().is_full());
    // Fault-around maps what is there already: 16 pages, more where the cache holds large folios.
    assert!(mapped(&mapping) <= read);
}

#[test]
fn without_readahead_a_touch_reads_one_page() {
    let dir = TempDir::new();
    let file = cold_file(&dir, SIZE);
    let mapping = Mapping::of_file(&file).unwrap();
    mapping.advise(0..SIZE, Advice::Random).unwrap();
    assert_eq!(mapping.as_slice()[9_000_000], byte_at(9_000_000));
    assert_eq!(resident(&mapping), page_size() as u64);
    assert_eq!(mapped(&mapping), page_size() as u64);
}

#[test]
fn by_huge_pages_a_touch_reads_the_block_around_it() {
    let dir = TempDir::new();
    let file = cold_file(&dir, SIZE);
    let mapping = Mapping::of_file(&file).unwrap();
    // The last blocks stay without the advice.
    let advised = SIZE - 3 * HUGE_PAGE_BYTES;
    if !mapping.read_by_huge_pages(0..advised).unwrap() {
        println!("not by this kernel");
        return;
    }
    let block = |n: usize| n * HUGE_PAGE_BYTES..(n + 1) * HUGE_PAGE_BYTES;
    let inside = 4 * HUGE_PAGE_BYTES + 1_234_567;
    assert_eq!(mapping.as_slice()[inside], byte_at(inside as u64));
    assert_eq!(resident(&mapping), HUGE_PAGE_BYTES as u64);
    assert!(mapping.resident_pages(block(4)).unwrap().is_full());
    // Over the end of one block and past another, to one page of a third.
    mapping.populate(6 * HUGE_PAGE_BYTES - 5..7 * HUGE_PAGE_BYTES + 5).unwrap();
    for n in 5..8 {
        assert!(mapping.resident_pages(block(n)).unwrap().is_full(), "block {n}");
    }
    assert_eq!(resident(&mapping), 4 * HUGE_PAGE_BYTES as u64);
    assert_pattern(mapping.bytes(block(5)).unwrap(), block(5).start as u64);
    assert!(matches!(mapping.read_by_huge_pages(0..SIZE + 1), Err(Error::OutsideMapping { .. })));
}

#[test]
fn populate_brings_in_and_maps_exactly_what_was_asked_for() {
    let dir = TempDir::new();
    let file = cold_file(&dir, SIZE);
    for method in [
        PopulateMethod::of_this_kernel(),
        PopulateMethod::PreadThenMadvise,
        PopulateMethod::PreadThenTouch,
    ] {
        let mapping = Mapping::of_file(&file).unwrap();
        let range = 5_000_001..9_000_002;
        mapping.populate_by(range.clone(), method).unwrap();
        assert!(mapping.resident_pages(range.clone()).unwrap().is_full());
        assert!(mapping.mapped_pages(range.clone()).unwrap().is_full());
        assert!(mapped(&mapping) < SIZE as u64, "not the whole file");
        assert_pattern(mapping.bytes(range).unwrap(), 5_000_001);
        drop(mapping);
        evict_for_certain(&file);
    }
}

#[test]
fn will_need_reads_in_the_background() {
    let dir = TempDir::new();
    let file = cold_file(&dir, 8 << 20);
    let mapping = Mapping::of_file(&file).unwrap();
    let range = 1 << 20..3 << 20;
    mapping.will_need(range.clone()).unwrap();
    let begin = Instant::now();
    while !mapping.resident_pages(range.clone()).unwrap().is_full() {
        assert!(begin.elapsed() < Duration::from_secs(20), "nothing comes");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(mapped(&mapping), 0, "read, not mapped");
}

/// Evicts until it is so: a page may be held for a moment by another processor's batch.
fn evict_range(mapping: &Mapping, range: std::ops::Range<usize>) -> usize {
    for _ in 0..50 {
        let bytes = mapping.evict(range.clone()).unwrap();
        let start = range.start.next_multiple_of(page_size());
        let inside = start..start + bytes.min(mapping.len() - start);
        if mapping.resident_pages(inside).unwrap().count() == 0 {
            return bytes;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("the range stays in memory");
}

#[test]
fn evict_drops_the_pages_inside_a_range_and_only_those() {
    let dir = TempDir::new();
    let size = (8 << 20) + 100;
    let file = cold_file(&dir, size);
    let mapping = Mapping::of_file(&file).unwrap();
    // Page by page, so that the cache holds no large folios, which stay unless all of one goes.
    mapping.advise(0..size, Advice::Random).unwrap();
    mapping.populate(0..size).unwrap();
    assert!(mapping.resident_pages(0..size).unwrap().is_full());
    let page = page_size();
    let range = 10 * page + 1..20 * page + 1;
    assert_eq!(evict_range(&mapping, range), 9 * page);
    let gone = mapping.resident_pages(0..size).unwrap();
    assert_eq!(
        gone.runs().collect::<Vec<_>>(),
        [0..11 * page, 20 * page..size.next_multiple_of(page)]
    );
    assert_eq!(mapping.evict(5..page - 5).unwrap(), 0, "no whole page inside");
    // The last page, of which the file holds only a part, belongs to whoever reaches the end.
    assert_eq!(evict_range(&mapping, 0..size), size.next_multiple_of(page));
    assert_eq!((resident(&mapping), mapped(&mapping)), (0, 0));
    mapping.advise(0..size, Advice::Normal).unwrap();
    assert_pattern(mapping.as_slice(), 0);
}

#[test]
fn leaving_this_process_is_not_leaving_the_cache() {
    let dir = TempDir::new();
    let size = 4 << 20;
    let file = cold_file(&dir, size);
    let mapping = Mapping::of_file(&file).unwrap();
    mapping.populate(0..size).unwrap();
    assert_eq!(mapping.unmap_pages(0..size).unwrap(), size);
    assert_eq!(mapped(&mapping), 0);
    assert_eq!(resident(&mapping), size as u64, "still in the page cache");
    mapping.populate(0..size).unwrap();
    // Evicting the file does nothing while it is mapped.
    evict_file(&file).unwrap();
    assert_eq!(resident(&mapping), size as u64);
    assert_eq!(mapping.page_out(0..size).unwrap(), size);
    assert!(mapped(&mapping) < size as u64 / 2, "reclaimed: {} left", mapped(&mapping));
    assert_pattern(mapping.as_slice(), 0);
}

#[test]
fn eviction_that_would_lose_bytes_is_refused() {
    let dir = TempDir::new();
    let path = dir.file("data", 10_000);
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let writable = Protection::READ | Protection::WRITE;
    let private = MapRequest::file(&file, 0, 10_000).protection(writable).sharing(Sharing::Private);
    assert!(matches!(private.map().unwrap().evict(0..10_000), Err(Error::NotAllowed { .. })));
    let anonymous = MapRequest::anonymous(10_000).map().unwrap();
    assert!(matches!(anonymous.evict(0..10_000), Err(Error::NotAllowed { .. })));
    assert!(matches!(anonymous.unmap_pages(0..10_000), Err(Error::NotAllowed { .. })));
    // A shared mapping writes to the file, so nothing is lost.
    let mut shared = MapRequest::file(&file, 0, 10_000).protection(writable).map().unwrap();
    shared.as_mut_slice().unwrap()[1] = 99;
    shared.evict(0..10_000).unwrap();
    assert_eq!(shared.as_slice()[1], 99);
}

#[test]
fn populating_a_truncated_file_is_an_error_that_says_where() {
    let dir = TempDir::new();
    for method in [
        PopulateMethod::of_this_kernel(),
        PopulateMethod::PreadThenMadvise,
        PopulateMethod::PreadThenTouch,
    ] {
        let path = dir.file("model", 1 << 20);
        let file = File::open(&path).unwrap();
        let mapping = Mapping::of_file(&file).unwrap();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(500_000).unwrap();
        mapping.populate_by(0..499_999, method).unwrap();
        let error = mapping.populate_by(400_000..700_000, method).unwrap_err();
        assert!(error.is_model_fault());
        let text = error.to_string();
        assert!(text.contains("bytes 400000..700000 of"), "{text}");
        assert!(text.contains("now ends at byte 500000"), "{text}");
        assert!(matches!(error, Error::Truncated { file_bytes: 500_000, .. }));
    }
}

#[test]
fn locked_pages_stay() {
    let dir = TempDir::new();
    let file = cold_file(&dir, 4 << 20);
    let mapping = Mapping::of_file(&file).unwrap();
    // Within every usual limit (64 KiB).
    let range = 1 << 20..(1 << 20) + (32 << 10);
    mapping.lock(range.clone()).unwrap();
    assert!(mapping.mapped_pages(range.clone()).unwrap().is_full());
    evict_file(&file).unwrap();
    assert!(mapping.resident_pages(range.clone()).unwrap().is_full());
    assert!(mapping.evict(range.clone()).is_err(), "locked pages cannot be dropped");
    mapping.unlock(range.clone()).unwrap();
    evict_range(&mapping, range);
}

#[test]
fn a_refused_lock_says_the_limit() {
    let nothing = MapRequest::anonymous(1 << 20).protection(Protection::NONE).map().unwrap();
    let text = nothing.lock(0..1 << 20).unwrap_err().to_string();
    println!("{text}");
    assert!(text.contains("mlock refused bytes 0..1048576 of anonymous memory"), "{text}");
    assert!(text.contains("RLIMIT_MEMLOCK is ") && text.contains("locked already"), "{text}");
}

#[test]
fn ranges_outside_are_errors_everywhere() {
    let mapping = MapRequest::anonymous(10_000).map().unwrap();
    let bad = 5_000..10_001;
    assert!(matches!(
        mapping.populate(bad.clone()),
        Err(Error::OutsideMapping { end: 10_001, .. })
    ));
    assert!(matches!(mapping.will_need(bad.clone()), Err(Error::OutsideMapping { .. })));
    assert!(matches!(mapping.lock(bad.clone()), Err(Error::OutsideMapping { .. })));
    assert!(matches!(mapping.unlock(bad.clone()), Err(Error::OutsideMapping { .. })));
    assert!(matches!(mapping.evict(bad.clone()), Err(Error::OutsideMapping { .. })));
    assert!(matches!(mapping.page_out(bad.clone()), Err(Error::OutsideMapping { .. })));
    assert!(matches!(mapping.resident_pages(bad.clone()), Err(Error::OutsideMapping { .. })));
    assert!(matches!(mapping.mapped_pages(bad), Err(Error::OutsideMapping { .. })));
    assert!(matches!(mapping.populate(7..7), Err(Error::ZeroLength { .. })));
}

#[test]
fn advice_reaches_the_kernel() {
    let dir = TempDir::new();
    let file = File::open(dir.file("model", 1 << 20)).unwrap();
    let mapping = Mapping::of_file(&file).unwrap();
    for advice in [
        Advice::Sequential,
        Advice::Random,
        Advice::Normal,
        Advice::WillNeed,
        Advice::Cold,
        Advice::PageOut,
        Advice::DontDump,
        Advice::DontFork,
    ] {
        mapping.advise(1..100_000, advice).unwrap();
    }
    // `dc`: do not copy on fork; `dd`: do not dump.
    let flags = vm_flags(mapping.address());
    assert!(flags.contains(" dc") && flags.contains(" dd"), "{flags}");
    let anonymous = MapRequest::anonymous(8 << 20).huge_pages(false).map().unwrap();
    assert!(vm_flags(anonymous.address()).contains(" nh"));
    anonymous.advise(0..8 << 20, Advice::HugePages).unwrap();
    assert!(vm_flags(anonymous.address()).contains(" hg"));
}

/// The line `VmFlags` of the mapping at an address.
fn vm_flags(address: usize) -> String {
    let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
    let start = format!("{address:x}-");
    let mut lines = smaps.lines().skip_while(|line| !line.starts_with(&start));
    lines.find(|line| line.starts_with("VmFlags")).unwrap().to_owned()
}
