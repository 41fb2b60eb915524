//! Lists of byte ranges: sorted, apart from each other.

use std::ops::Range;

/// Sorts, and joins what overlaps or meets.
pub fn normalise(ranges: &mut Vec<Range<u64>>) {
    ranges.retain(|range| range.start < range.end);
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    let mut kept = 0;
    for i in 0..ranges.len() {
        let range = ranges[i].clone();
        match kept {
            0 => {
                ranges[0] = range;
                kept = 1;
            }
            n if range.start <= ranges[n - 1].end => {
                ranges[n - 1].end = ranges[n - 1].end.max(range.end);
            }
            n => {
                ranges[n] = range;
                kept = n + 1;
            }
        }
    }
    ranges.truncate(kept);
}

/// Bytes of a list that is in order.
pub fn bytes(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

/// Adds, to each of equally wide columns of `total` bytes, the bytes of the ranges in it.
pub fn spread(ranges: &[Range<u64>], total: u64, columns: &mut [f32]) {
    let count = columns.len() as u128;
    let edge = |i: usize| (u128::from(total) * i as u128 / count.max(1)) as u64;
    for range in ranges {
        let first = (u128::from(range.start) * count / u128::from(total.max(1))) as usize;
        // Rounding may put the first byte into the column before.
        for (i, column) in columns.iter_mut().enumerate().skip(first.saturating_sub(1)) {
            let (from, to) = (edge(i), edge(i + 1));
            if from >= range.end {
                break;
            }
            let overlap = range.end.min(to).saturating_sub(range.start.max(from));
            *column += overlap as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_joined_and_spread_without_losing_a_byte() {
        let mut ranges = vec![50..60, 0..10, 5..20, 20..30, 7..7, 70..80, 55..58];
        normalise(&mut ranges);
        assert_eq!(ranges, [0..30, 50..60, 70..80]);
        assert_eq!(bytes(&ranges), 50);
        for count in [1, 3, 7, 81, 200] {
            let mut columns = vec![0.0; count];
            spread(&ranges, 81, &mut columns);
            let sum: f32 = columns.iter().sum();
            assert!((sum - 50.0).abs() < 1e-3, "{count}: {sum}");
        }
        let mut columns = [0.0; 4];
        spread(&[10..25, 0..0], 40, &mut columns);
        assert_eq!(columns, [0.0, 10.0, 5.0, 0.0]);
        let mut none = Vec::new();
        normalise(&mut none);
        assert_eq!(none, []);
    }
}
