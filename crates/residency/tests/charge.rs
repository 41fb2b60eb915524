//! Under a real limit: the memory cgroup's charge stays at or below the budget. Where no cgroup v1
//! directory can be written, a line says so.
//!
//! The test runs itself again as a child: the child joins a group with a limit and then opens the
//! store, so that only its own memory is charged there.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{KINDS, MIB, Model, check, tiles};
use lowtide_residency::{Store, StoreOptions};

const CHILD: &str = "LOWTIDE_CHARGE_CHILD";

/// For the program itself: code, heap, stacks, kernel memory of a process.
const PROCESS_BYTES: u64 = 6 * MIB;

const BUDGET: u64 = 24 * MIB;

struct Group(PathBuf);

impl Group {
    fn new(name: &str) -> Option<Group> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = own.lines().find_map(|l| l.split_once(":memory:").map(|(_, p)| p.to_owned()))?;
        // In a container the group's path may not be what is mounted here.
        let root = Path::new("/sys/fs/cgroup/memory");
        let parents = [root.join(path.trim_start_matches('/')), root.to_owned()];
        parents.iter().find_map(|parent| {
            let group = parent.join(format!("lowtide-{name}-{}", std::process::id()));
            fs::create_dir(&group).ok().map(|()| Group(group))
        })
    }

    fn number(&self, file: &str) -> u64 {
        fs::read_to_string(self.0.join(file)).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // What is left of the page cache moves to the parent.
        let _ = fs::write(self.0.join("memory.force_empty"), "0");
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn charge_and_rss_stay_within_the_budget() {
    if std::env::var_os(CHILD).is_some() {
        return;
    }
    for (i, kind) in KINDS.into_iter().enumerate() {
        let Some(group) = Group::new(&format!("charge{i}")) else {
            println!("skipped: no memory cgroup (v1) can be made here");
            return;
        };
        let limit = BUDGET + PROCESS_BYTES;
        fs::write(group.0.join("memory.limit_in_bytes"), limit.to_string()).unwrap();
        let model = Model::write(&format!("charge{i}"), 72 * MIB + 99);
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--include-ignored"])
            .env(CHILD, format!("{i} {} {}", group.0.display(), model.path.display()))
            .env("LOWTIDE_CHARGE_BYTES", model.bytes.to_string())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout).into_owned();
        let peak = group.number("memory.max_usage_in_bytes");
        println!(
            "{kind:?}: peak {peak} of {limit}, limit hit {} times\n{}",
            group.number("memory.failcnt"),
            said.trim()
        );
        assert!(child.status.success(), "{:?} {said}", child.status);
        assert!(said.contains("passes done"), "the child did not run: {said}");
        assert_eq!(group.number("memory.failcnt"), 0, "{kind:?} was held by the limit");
        assert!(peak <= limit);
    }
}

/// The child's half; does nothing by itself.
#[test]
#[ignore = "run by charge_and_rss_stay_within_the_budget"]
fn child() {
    let Ok(orders) = std::env::var(CHILD) else { return };
    let mut orders = orders.splitn(3, ' ');
    let kind = KINDS[orders.next().unwrap().parse::<usize>().unwrap()];
    let group = PathBuf::from(orders.next().unwrap());
    let path = PathBuf::from(orders.next().unwrap());
    let bytes = std::env::var("LOWTIDE_CHARGE_BYTES").unwrap().parse().unwrap();
    fs::write(group.join("cgroup.procs"), "0").unwrap();
    let model = Model { path, bytes };
    // Each plan pins others, and what the one before has pinned is still cached.
    for weights in [BUDGET, BUDGET * 2 / 3, BUDGET] {
        let options =
            StoreOptions { budget_bytes: Some(BUDGET + PROCESS_BYTES), ..StoreOptions::default() };
        let plan = model.plan(weights, kind);
        let store = Store::open(vec![model.source()], plan, options).unwrap();
        for _ in 0..4 {
            store.begin_pass(|_| false).unwrap();
            tiles(&store).into_iter().for_each(|id| check(&store, id));
            store.end_pass().unwrap();
        }
    }
    let rss = lowtide_mapping::ProcessMemory::read().unwrap();
    // The program's own file pages are not charged here but are in RSS.
    assert!(rss.rss_peak_bytes <= BUDGET + 2 * PROCESS_BYTES, "{rss:?}");
    println!("passes done, rss peak {} of budget {BUDGET}", rss.rss_peak_bytes);
    // The parent deletes the file.
    std::mem::forget(model);
}
