//! Which tiles are pinned: an even spread, and never fewer bytes for a larger budget.

/// Bytes of an extent in memory, and bytes of bookkeeping for them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Cost {
    pub bytes: u64,
    pub overhead: u64,
}

impl Cost {
    pub fn plus(self, other: Cost) -> Cost {
        Cost {
            bytes: self.bytes.saturating_add(other.bytes),
            overhead: self.overhead.saturating_add(other.overhead),
        }
    }

    pub fn all(self) -> u64 {
        self.bytes.saturating_add(self.overhead)
    }
}

/// Targets tried below the limit, per size of the largest tile.
const STEPS: u64 = 16;

/// Chooses tiles of at most `limit` in sum. `chosen[i]` belongs to `costs[i]`.
///
/// [`even`] loses up to one tile to rounding, and how much it loses goes up and down with the
/// limit. So it is tried for every target of a fixed grid below the limit, as far down as could
/// still win, and the largest sum is taken: the maximum over a set that only grows with the limit.
pub(crate) fn spread(costs: &[u64], limit: u64) -> Vec<bool> {
    let total = costs.iter().fold(0u64, |a, &c| a.saturating_add(c));
    if total <= limit {
        return vec![true; costs.len()];
    }
    let largest = costs.iter().copied().max().unwrap_or(0);
    let step = (largest / STEPS).max(1);
    let mut best = (vec![false; costs.len()], 0);
    let mut target = limit / step * step;
    while target > best.1 {
        let (chosen, sum) = even(costs, total, target);
        if sum > best.1 {
            best = (chosen, sum);
        }
        target -= step;
    }
    best.0
}

/// Bresenham's line by bytes: after every tile the chosen share of what has passed is the target's
/// share of everything, to within one tile. What is left at the end goes to tiles that fit, spread
/// as well.
fn even(costs: &[u64], total: u64, target: u64) -> (Vec<bool>, u64) {
    let mut chosen = vec![false; costs.len()];
    let (mut passed, mut sum) = (0u128, 0u128);
    for (c, pick) in costs.iter().zip(chosen.iter_mut()) {
        let c = u128::from(*c);
        passed += c;
        // sum + c <= target * passed / total, without division. `total` bounds `passed`, so no
        // prefix and no end exceeds the target.
        if (sum + c) * u128::from(total) <= u128::from(target) * passed {
            *pick = true;
            sum += c;
        }
    }
    let mut sum = u64::try_from(sum).unwrap_or(u64::MAX);
    fill(costs, target, &mut chosen, &mut sum);
    (chosen, sum)
}

/// Fills what is left with the largest tiles that fit; fewer than a tile's bytes are left, so these
/// are few. Among equals the middle of the pass is taken first: the ends are next to each other.
fn fill(costs: &[u64], target: u64, chosen: &mut [bool], sum: &mut u64) {
    loop {
        let left = target - *sum;
        let middle = costs.len() / 2;
        let best = (0..costs.len())
            .filter(|&i| !chosen[i] && costs[i] <= left)
            .max_by_key(|&i| (costs[i], std::cmp::Reverse(i.abs_diff(middle))));
        let Some(i) = best else { return };
        chosen[i] = true;
        *sum += costs[i];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_rng::Rng;

    fn sum(costs: &[u64], chosen: &[bool]) -> u64 {
        costs.iter().zip(chosen).filter(|(_, p)| **p).map(|(c, _)| c).sum()
    }

    #[test]
    fn sums_grow_with_the_limit_and_leave_less_than_a_tile() {
        let mut rng = Rng::new(7);
        for round in 0..60 {
            let n = 1 + rng.below(120);
            let sizes = [1 + rng.below(50), 1 + rng.below(4000), 1 + rng.below(9000)];
            let costs: Vec<u64> = (0..n).map(|_| sizes[rng.below(3) as usize]).collect();
            let total: u64 = costs.iter().sum();
            let mut last = 0;
            for limit in (0..=total + 10).step_by(1 + (total / 97) as usize) {
                let chosen = spread(&costs, limit);
                let s = sum(&costs, &chosen);
                assert!(s <= limit, "round {round}: {s} of {limit}");
                assert!(s >= last, "round {round}: {s} after {last} at {limit}");
                last = s;
                // Less than a tile and a step of the grid is left over.
                let largest = *costs.iter().max().unwrap();
                assert!(s == total || limit - s < largest + (largest / STEPS).max(1));
            }
            assert_eq!(spread(&costs, total), vec![true; n as usize]);
        }
    }

    #[test]
    fn every_prefix_has_its_share() {
        let mut rng = Rng::new(11);
        for _ in 0..60 {
            let n = 40 + rng.below(2000);
            let costs: Vec<u64> = (0..n).map(|_| 500 + rng.below(3600)).collect();
            let total: u64 = costs.iter().sum();
            let limit = rng.below(total);
            let chosen = spread(&costs, limit);
            let picked = sum(&costs, &chosen);
            let largest = *costs.iter().max().unwrap();
            let (mut pinned, mut passed) = (0u64, 0u64);
            for (c, p) in costs.iter().zip(&chosen) {
                passed += c;
                pinned += if *p { *c } else { 0 };
                let share = (u128::from(picked) * u128::from(passed) / u128::from(total)) as u64;
                let off = pinned.abs_diff(share);
                assert!(off <= 2 * largest, "{off} bytes off at {passed} of {total}");
            }
        }
    }

    #[test]
    fn equal_tiles_alternate_without_two_gaps_differing_by_more_than_one() {
        for pinned in 1..100u64 {
            let costs = vec![1000u64; 100];
            // 1/16 of a tile more, for the grid of targets.
            let chosen = spread(&costs, pinned * 1000 + 62);
            assert_eq!(sum(&costs, &chosen), pinned * 1000);
            let places: Vec<usize> = (0..100).filter(|&i| chosen[i]).collect();
            let gaps: Vec<usize> = places.windows(2).map(|w| w[1] - w[0]).collect();
            if let (Some(a), Some(b)) = (gaps.iter().min(), gaps.iter().max()) {
                assert!(b - a <= 1, "{pinned}: {gaps:?}");
            }
        }
    }
}
