//! Pinned pages that the kernel took away are noticed and brought in again. Alone in its program,
//! because what is noticed is a count of the whole process.

mod common;

use std::time::Duration;

use common::{KINDS, MIB, Model, check, tiles};
use lowtide_mapping::cached_pages;
use lowtide_residency::{Store, StoreOptions};

#[test]
fn lost_pages_come_back_before_they_are_touched() {
    let model = Model::write("reload", 64 * MIB);
    for (budget, kind) in [(200 * MIB, KINDS[0]), (40 * MIB, KINDS[0]), (40 * MIB, KINDS[2])] {
        let source = model.source();
        let plan = model.plan(budget, kind);
        let store = Store::open(vec![source.clone()], plan, StoreOptions::default()).unwrap();
        let pass = || {
            store.begin_pass(|_| false).unwrap();
            tiles(&store).into_iter().for_each(|id| check(&store, id));
            store.end_pass().unwrap()
        };
        pass();
        std::thread::sleep(Duration::from_millis(1050));
        pass();
        assert_eq!(store.stats().reloads, 0, "nothing was lost yet");
        let pinned = store.stats().pinned_bytes;
        // As reclaim would: out of the process and out of the page cache.
        source.mapping.evict(0..source.mapping.len()).unwrap();
        std::thread::sleep(Duration::from_millis(1050));
        let figures = pass();
        let stats = store.stats();
        assert_eq!(stats.reloads, 1, "{budget} {kind:?}: {stats:?}");
        assert!(figures.populated_bytes >= pinned, "{figures:?}");
        assert_eq!(stats.pinned_bytes, pinned);
        assert!(cached_pages(source.file.file()).unwrap().resident_bytes() >= pinned);
        drop(store);
        source.mapping.evict(0..source.mapping.len()).unwrap();
    }
}
