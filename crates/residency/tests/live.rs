//! The store over a real file: every backend, the same bytes, errors instead of signals.

mod common;

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use common::{KINDS, MIB, Model, check, expected, tiles};
use lowtide_mapping::{Backend, cached_pages, evict_file, install_sigbus_guard};
use lowtide_residency::{
    Extents, Keep, PinnedIn, Plan, PlanInput, ResidencyError, RingParams, SourceId, Store,
    StoreOptions, Streaming, Use, streaming_for,
};

#[test]
fn every_backend_gives_the_files_bytes_over_three_passes_in_a_third_of_it() {
    let model = Model::write("passes", 48 * MIB + 123);
    for kind in KINDS {
        let store = model.store(16 * MIB, kind);
        let all = tiles(&store);
        assert!(store.plan().sums.streamed_bytes > 20 * MIB, "{:?}", store.plan().sums);
        assert!(store.plan().memory_bytes() <= 16 * MIB);
        for pass in 0..3 {
            store.begin_pass(|_| false).unwrap();
            all.iter().for_each(|&id| check(&store, id));
            let figures = store.end_pass().unwrap();
            assert_eq!(figures.acquired, all.len() as u64);
            let streamed = store.plan().sums.streamed_bytes;
            let ring = store.plan().sums.ring_bytes;
            let first = if pass == 0 { store.plan().sums.pinned_bytes + ring } else { ring };
            assert!(figures.read_bytes() <= streamed + first, "{kind:?} {pass}: {figures:?}");
        }
        let stats = store.stats();
        assert_eq!((stats.passes, stats.reloads), (3, 0), "{kind:?}");
        let pinned = store.plan().sums.pinned_bytes;
        assert!(stats.pinned_bytes <= pinned && stats.pinned_bytes > pinned * 9 / 10);
    }
}

#[test]
fn threads_read_what_io_uring_reads() {
    let model = Model::write("threads", 24 * MIB);
    let plan = model.plan(8 * MIB, KINDS[1]);
    let options = StoreOptions { reader: Backend::Threads, ..StoreOptions::default() };
    let store = Store::open(vec![model.source()], plan, options).unwrap();
    assert_eq!(store.reader(), Some(Backend::Threads));
    for _ in 0..2 {
        store.begin_pass(|_| false).unwrap();
        tiles(&store).into_iter().for_each(|id| check(&store, id));
        store.end_pass().unwrap();
    }
}

#[test]
fn opening_reads_nothing_and_everything_fits_reads_once() {
    let model = Model::write("lazy", 24 * MIB);
    for pinned_in in [PinnedIn::Mapping, PinnedIn::Arena] {
        let source = model.source();
        let plan = model.plan(64 * MIB, (Streaming::Direct, pinned_in));
        assert!(plan.is_all_resident());
        let store = Store::open(vec![source.clone()], plan, StoreOptions::default()).unwrap();
        let cached = || cached_pages(source.file.file()).unwrap().count();
        assert_eq!(cached(), 0, "opening has read");
        for pass in 0..3 {
            store.begin_pass(|_| false).unwrap();
            tiles(&store).into_iter().for_each(|id| check(&store, id));
            let figures = store.end_pass().unwrap();
            assert_eq!(figures.read_bytes() == 0, pass > 0, "pass {pass}: {figures:?}");
        }
        drop(store);
        source.mapping.evict(0..source.mapping.len()).unwrap();
    }
}

#[test]
fn mapped_streaming_leaves_only_what_is_pinned_in_the_page_cache() {
    let model = Model::write("behind", 48 * MIB + 5);
    let store = model.store(16 * MIB, (Streaming::Mapped, PinnedIn::Mapping));
    let source = model.source();
    for _ in 0..2 {
        store.begin_pass(|_| false).unwrap();
        tiles(&store).into_iter().for_each(|id| check(&store, id));
        store.end_pass().unwrap();
        let cached = cached_pages(source.file.file()).unwrap().resident_bytes();
        let sums = store.plan().sums;
        // The ring is full of the next pass; a tile's pages are still on their way out.
        let most = sums.pinned_bytes + sums.ring_bytes + 2 * MIB;
        assert!(cached <= most, "{cached} cached, {most} planned");
        assert!(cached >= store.stats().pinned_bytes);
    }
}

#[test]
fn what_is_in_the_page_cache_already_is_not_counted_as_read() {
    let model = Model::write("cached", 64 * MIB + 5);
    let kind = (Streaming::Mapped, PinnedIn::Mapping);
    let pass = |budget| {
        let store = model.store(budget, kind);
        store.begin_pass(|_| false).unwrap();
        tiles(&store).into_iter().for_each(|id| check(&store, id));
        store.end_pass().unwrap()
    };
    for budget in [200 * MIB, 16 * MIB] {
        evict_file(&std::fs::File::open(&model.path).unwrap()).unwrap();
        let first = pass(budget);
        assert!(first.read_bytes() as f64 >= 0.9 * first.populated_bytes as f64, "{first:?}");
    }
    // All of it, as somebody else has read it.
    std::fs::read(&model.path).unwrap();
    let again = pass(200 * MIB);
    assert!(again.populated_bytes >= 60 * MIB, "{again:?}");
    assert_eq!(again.read_bytes(), 0, "{again:?}");
}

/// Where everything stays, whole huge pages are read: once, by the first of the dozens of small tiles in one. The
/// others find their bytes in the page cache, which nobody but this store has put there.
#[test]
fn small_tiles_count_what_is_read_for_them_together() {
    let model = Model::write("together", 64 * MIB + 5);
    let ring = RingParams::default();
    let kind = (Streaming::Mapped, PinnedIn::Mapping);
    let input =
        PlanInput { weights_budget_bytes: 200 * MIB, streaming: kind.0, pinned_in: kind.1, ring };
    let plan = Plan::new(model.extents(MIB / 16), input).unwrap();
    assert!(plan.is_all_resident());
    let store = Store::open(vec![model.source()], plan, StoreOptions::default()).unwrap();
    for pass in 0..2 {
        store.begin_pass(|_| false).unwrap();
        tiles(&store).into_iter().for_each(|id| check(&store, id));
        let figures = store.end_pass().unwrap();
        // The rows in front are not asked for, but lie in huge pages that are.
        let least = if pass == 0 { 60 * MIB } else { 0 };
        let most = if pass == 0 { model.bytes } else { 0 };
        assert!((least..=most).contains(&figures.read_bytes()), "pass {pass}: {figures:?}");
    }
}

#[test]
fn abandoned_passes_skipped_tiles_and_two_held_ones() {
    let model = Model::write("skips", 40 * MIB);
    for kind in KINDS {
        let store = model.store(12 * MIB, kind);
        let all = tiles(&store);
        let head = all[all.len() - 6];
        for round in 0..6 {
            let skip_head = round % 2 == 0;
            store.begin_pass(|id| skip_head && id >= head).unwrap();
            let end = match round {
                1 => all.len() / 3,
                2 => 1,
                _ if skip_head => all.len() - 6,
                _ => all.len(),
            };
            for pair in all[..end].chunks(2) {
                let held = store.acquire(pair[0]).unwrap();
                if let Some(&second) = pair.get(1) {
                    check(&store, second);
                }
                let x = store.plan().extents()[pair[0].index()];
                assert!(*held == *expected(x.offset, x.len as usize), "{x} while held");
            }
            if round != 1 {
                store.end_pass().unwrap();
            }
        }
        // Backwards is slow, and right.
        store.begin_pass(|_| false).unwrap();
        for &id in all[..12].iter().rev() {
            check(&store, id);
        }
    }
}

#[test]
fn rows_come_from_anywhere_in_any_number() {
    let model = Model::write("rows", 24 * MIB + 77);
    for (budget, kind) in [(8 * MIB, KINDS[0]), (8 * MIB, KINDS[2]), (64 * MIB, KINDS[0])] {
        let store = model.store(budget, kind);
        for row in [1usize, 100, 3744, 4096, 70_000] {
            let last = model.bytes - row as u64;
            let offsets: Vec<u64> =
                (0..41).map(|i| i * 7919 * 31 % last).chain([0, last, last]).collect();
            let mut out = vec![0; offsets.len() * row];
            store.read_rows(SourceId(0), &offsets, row, &mut out).unwrap();
            for (offset, got) in offsets.iter().zip(out.chunks(row)) {
                assert!(*got == expected(*offset, row), "row of {row} at {offset}");
            }
            let past = store.read_exact_at(SourceId(0), last + 1, &mut vec![0; row]);
            assert!(matches!(past, Err(ResidencyError::Unknown { .. })), "{past:?}");
        }
    }
}

#[test]
fn shards_are_read_each_from_its_own_file() {
    let shards = [Model::write("shard0", 9 * MIB + 1), Model::write("shard1", 15 * MIB + 4095)];
    for (streaming, pinned_in) in KINDS {
        let mut extents = Extents::new();
        for i in 0..24u64 {
            let shard = (i / 3 % 2) as u32;
            let len = MIB - 1 - i;
            let offset = i * (shards[shard as usize].bytes - len) / 24;
            extents.push(SourceId(shard), offset, len, Use::Tile).unwrap();
        }
        let ring = RingParams::default();
        let weights_budget_bytes = 11 * MIB;
        let input = PlanInput { weights_budget_bytes, streaming, pinned_in, ring };
        let plan = Plan::new(extents, input).unwrap();
        assert!(!plan.is_all_resident() && plan.sums.pinned_bytes > 0);
        let sources = shards.iter().map(Model::source).collect();
        let store = Store::open(sources, plan, StoreOptions::default()).unwrap();
        for _ in 0..2 {
            store.begin_pass(|_| false).unwrap();
            tiles(&store).into_iter().for_each(|id| check(&store, id));
            store.end_pass().unwrap();
        }
        let mut row = [0; 100];
        store.read_exact_at(SourceId(1), 14 * MIB, &mut row).unwrap();
        assert!(row[..] == expected(14 * MIB, 100));
    }
}

#[test]
fn a_store_can_move_to_another_thread() {
    fn assert_send<T: Send>(_: &T) {}
    let model = Model::write("send", 24 * MIB);
    let store = model.store(8 * MIB, KINDS[0]);
    assert_send(&store);
    assert_eq!(streaming_for(&model.source().file).unwrap().0, Streaming::Direct);
}

#[test]
fn misuse_is_told() {
    let model = Model::write("misuse", 24 * MIB);
    let store = model.store(8 * MIB, KINDS[0]);
    let streamed = store.plan().streamed().to_vec();
    let lookup = store.plan().extents().iter().find(|x| x.usage == Use::Lookup).unwrap().id;
    assert!(matches!(store.acquire(lookup), Err(ResidencyError::Unknown { .. })));
    store.begin_pass(|_| false).unwrap();
    let slots = store.plan().slots as usize;
    let mut held: Vec<_> = streamed[..slots].iter().map(|&id| store.acquire(id).unwrap()).collect();
    assert!(matches!(store.acquire(streamed[0]), Err(ResidencyError::Held { .. })));
    let one_more = store.acquire(streamed[slots]);
    assert!(matches!(one_more, Err(ResidencyError::RingExhausted { .. })));
    held.remove(0);
    check(&store, streamed[slots]);
    let short = Model::write("short", 8 * MIB);
    let plan = model.plan(8 * MIB, KINDS[0]);
    let wrong = Store::open(vec![short.source()], plan, StoreOptions::default());
    assert!(matches!(wrong, Err(ResidencyError::Unknown { .. })));
}

#[test]
fn locked_pages_are_counted() {
    let model = Model::write("locked", 16 * MIB);
    let plan = model.plan(10 * MIB, KINDS[0]);
    let options = StoreOptions { keep: Keep::Lock, ..StoreOptions::default() };
    let store = Store::open(vec![model.source()], plan, options).unwrap();
    store.begin_pass(|_| false).unwrap();
    tiles(&store).into_iter().for_each(|id| check(&store, id));
    store.end_pass().unwrap();
    let stats = store.stats();
    assert!(stats.locked_bytes > 0 && stats.locked_bytes <= stats.pinned_bytes, "{stats:?}");
}

/// Runs passes until an error comes, and that must be soon after `harm`. (The contract is a second, which the
/// command line's tests hold it to; a busy machine is no reason to fail here.)
fn fails_after(store: &Store, harm: impl FnOnce()) -> ResidencyError {
    const SOON: Duration = Duration::from_secs(5);
    let all = tiles(store);
    let pass = || -> Result<(), ResidencyError> {
        store.begin_pass(|_| false)?;
        for &id in &all {
            let tile = store.acquire(id)?;
            // Touched as a kernel would touch it.
            std::hint::black_box(tile.iter().step_by(512).fold(0u8, |a, b| a ^ b));
        }
        store.end_pass().map(drop)
    };
    pass().unwrap();
    harm();
    let begin = Instant::now();
    loop {
        let passed = pass();
        assert!(begin.elapsed() < SOON, "{passed:?} after {:?}", begin.elapsed());
        if let Err(error) = passed {
            return error;
        }
    }
}

#[test]
fn truncated_or_overwritten_files_are_errors_and_renamed_ones_are_not() {
    install_sigbus_guard().unwrap();
    for kind in KINDS {
        for budget in [8 * MIB, 64 * MIB] {
            let model = Model::write("harm", 24 * MIB);
            let writer = OpenOptions::new().write(true).open(&model.path).unwrap();
            let store = model.store(budget, kind);
            let error = fails_after(&store, || writer.set_len(12 * MIB + 100).unwrap());
            assert!(error.is_model_fault(), "{error}");
            drop(store);

            let model = Model::write("harm2", 24 * MIB);
            let writer = OpenOptions::new().write(true).open(&model.path).unwrap();
            let store = model.store(budget, kind);
            let error = fails_after(&store, || {
                std::thread::sleep(Duration::from_millis(20));
                writer.write_all_at(b"x", 20 * MIB).unwrap();
            });
            assert!(matches!(error, ResidencyError::Changed(_)), "{error}");
            drop(store);

            let model = Model::write("harm3", 24 * MIB);
            let other = Model::write("other", MIB);
            let store = model.store(budget, kind);
            store.begin_pass(|_| false).unwrap();
            std::fs::rename(&other.path, &model.path).unwrap();
            for _ in 0..2 {
                tiles(&store).into_iter().for_each(|id| check(&store, id));
                store.end_pass().unwrap();
                store.begin_pass(|_| false).unwrap();
            }
        }
    }
}

#[test]
fn a_file_cut_short_in_the_middle_of_a_pass_is_an_error_of_that_pass() {
    install_sigbus_guard().unwrap();
    for kind in KINDS {
        let model = Model::write("cut", 24 * MIB);
        let writer = OpenOptions::new().write(true).open(&model.path).unwrap();
        let store = model.store(8 * MIB, kind);
        let all = tiles(&store);
        store.begin_pass(|_| false).unwrap();
        all[..5].iter().for_each(|&id| check(&store, id));
        writer.set_len(100).unwrap();
        let rest = all[5..].iter().try_for_each(|&id| {
            let tile = store.acquire(id)?;
            std::hint::black_box(tile.iter().fold(0u8, |a, b| a ^ b));
            Ok(())
        });
        let error = rest.and_then(|()| store.end_pass().map(drop)).unwrap_err();
        assert!(error.is_model_fault(), "{kind:?}: {error}");
    }
}
