//! `lowtide pagetables`: the lecture's sum, and the kernel's count.

mod common;

use common::{Folder, lowtide, run};

fn json(arguments: &[&str]) -> serde_json::Value {
    let folder = Folder::new();
    let ran = run(lowtide(folder.path()).arg("pagetables").args(arguments).arg("--json"));
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn the_lectures_sum_is_reproduced() {
    assert_eq!(
        json(&["20GiB"]),
        serde_json::json!({
            "bytes": 21_474_836_480_u64,
            "page_bytes": 4096,
            "tables": { "l0": 10_240, "l1": 20, "l2": 1, "l3": 1 },
            "table_bytes": 10_262 * 4096,
            "lecture_bytes": 42_024_960,
            "measured_bytes": null,
            "offset_bytes": 0,
            "best": {
                "tables": { "l0": 10_240, "l1": 20, "l2": 1, "l3": 1 },
                "table_bytes": 10_262 * 4096,
                "lecture_bytes": 42_024_960,
            },
            "worst": {
                "tables": { "l0": 10_241, "l1": 21, "l2": 2, "l3": 2 },
                "table_bytes": 10_266 * 4096,
                "lecture_bytes": 10_262 * 4096,
            },
        })
    );
    let one = json(&["1"]);
    assert_eq!(one["tables"], serde_json::json!({ "l0": 1, "l1": 1, "l2": 1, "l3": 1 }));
}

#[test]
fn the_kernel_counts_the_same_within_a_percent() {
    let document = json(&["4GiB", "--measure"]);
    let measured = document["measured_bytes"].as_f64().unwrap();
    let lecture = document["lecture_bytes"].as_f64().unwrap();
    assert!((measured / lecture - 1.0).abs() < 0.01, "{measured} against {lecture}");
}

#[test]
fn the_text_shows_all_digits() {
    let folder = Folder::new();
    let ran = run(lowtide(folder.path()).args(["pagetables", "20GiB"]));
    for wanted in ["40.078125 MiB", "10,240", "42,024,960"] {
        assert!(ran.stdout.contains(wanted), "{wanted} is missing in:\n{}", ran.stdout);
    }
}

#[test]
fn few_tables_are_counted_and_not_put_in_percent() {
    let folder = Folder::new();
    let measured = |size: &str| {
        let ran = run(lowtide(folder.path()).args(["pagetables", size, "--measure"]));
        let mut lines = ran.stdout.lines();
        lines.find(|line| line.starts_with("measured")).unwrap().to_owned()
    };
    let few = measured("5000");
    assert!(few.contains(" of 2 tables") && !few.contains('%'), "{few}");
    assert!(measured("4GiB").ends_with("% of that"));
}

#[test]
fn a_measurement_that_would_fill_the_memory_is_refused() {
    let folder = Folder::new();
    let ran = run(lowtide(folder.path()).args(["pagetables", "100000TiB", "--measure"]));
    common::assert_error(&ran, 2);
    assert!(ran.stderr.contains("available"), "{}", ran.stderr);
}

#[test]
fn larger_pages_and_offsets_change_the_sum() {
    let huge = json(&["20GiB", "--page", "2MiB"]);
    assert_eq!(huge["tables"], serde_json::json!({ "l0": 0, "l1": 20, "l2": 1, "l3": 1 }));
    assert_eq!(huge["lecture_bytes"], 20 * 4096);
    // One page further on, the mapping reaches into one more table at the two lowest levels.
    let shifted = json(&["20GiB", "--offset", "4KiB"]);
    assert_eq!(shifted["tables"], serde_json::json!({ "l0": 10_241, "l1": 21, "l2": 1, "l3": 1 }));
    for arguments in [
        &["20GiB", "--page", "8KiB"][..],
        &["20GiB", "--page", "2MiB", "--offset", "4KiB"],
        &["20GiB", "--page", "1GiB", "--measure"],
        &["0"],
    ] {
        let folder = Folder::new();
        let ran = run(lowtide(folder.path()).arg("pagetables").args(arguments));
        common::assert_error(&ran, 2);
    }
}
