//! The measured page tables agree with the arithmetic. Alone in its process, because `VmPTE` counts every
//! mapping of it.

use lowtide_mapping::{PageSize, PageTables, measure_page_tables};

#[test]
fn twenty_gibibytes_cost_what_the_lecture_says_and_no_memory() {
    let length = 20 << 30;
    let mut calls = 0;
    let measured = measure_page_tables(length, |_| {
        calls += 1;
        true
    })
    .unwrap();
    assert_eq!(calls, 20);
    let best = PageTables::best(length as u64, PageSize::Size4K).unwrap();
    assert_eq!(best.lecture_bytes(), 42_024_960);
    println!("{measured:?}");
    for predicted in [best.lecture_bytes(), measured.predicted.lecture_bytes()] {
        let difference = measured.measured_bytes.abs_diff(predicted);
        assert!(difference * 100 <= predicted, "{measured:?} against {predicted}");
    }
    assert!(measured.rss_growth_bytes < 8 << 20, "the pages cost memory: {measured:?}");

    // Stopped early, it reports what was done.
    let part = measure_page_tables(4 << 30, |done| done < 1 << 30).unwrap();
    assert_eq!(part.length, 1 << 30);
    assert!((510 * 4096..=520 * 4096).contains(&part.measured_bytes), "{part:?}");
    assert!(measure_page_tables(0, |_| true).is_err());
}
