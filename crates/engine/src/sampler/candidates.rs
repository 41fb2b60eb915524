//! The tokens that may still be chosen, and what removes some of them.
//!
//! The order among candidates is total (larger logit first, then lower id), so selection without
//! sorting gives the same set everywhere.

use std::cmp::Ordering;

use super::exponential::exp_nonpositive;

/// A token and its logit.
#[derive(Copy, Clone, Debug, PartialEq)]
pub(super) struct Candidate {
    pub logit: f32,
    pub id: u32,
}

/// Better candidates first.
fn better(a: &Candidate, b: &Candidate) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// Runs of logits that are compared as one when looking for large ones.
const RUN: usize = 16;

/// A scan for the top k holds at most k + this many before it selects again.
const SLACK: usize = 1024;

/// The largest of 16.
#[inline]
fn largest_of(run: &[f32; RUN]) -> f32 {
    let mut largest = *run;
    let mut half = RUN / 2;
    while half != 0 {
        for j in 0..half {
            let (a, b) = (largest[j], largest[j + half]);
            largest[j] = if a > b { a } else { b };
        }
        half /= 2;
    }
    largest[0]
}

/// The id of the largest logit, the lowest among equals; `None` if there is none above minus
/// infinity.
pub(super) fn best(logits: &[f32]) -> Option<u32> {
    let (runs, rest) = logits.as_chunks::<RUN>();
    let mut best = (f32::NEG_INFINITY, None);
    for (index, run) in runs.iter().enumerate() {
        if largest_of(run) > best.0 {
            for (offset, logit) in run.iter().enumerate() {
                if *logit > best.0 {
                    best = (*logit, Some(index * RUN + offset));
                }
            }
        }
    }
    for (offset, logit) in rest.iter().enumerate() {
        if *logit > best.0 {
            best = (*logit, Some(runs.len() * RUN + offset));
        }
    }
    best.1.and_then(|index| u32::try_from(index).ok())
}

/// Candidates in memory that is claimed once.
pub(super) struct Candidates {
    items: Vec<Candidate>,
    /// Sorted, best first.
    sorted: bool,
    weights: Vec<f64>,
    order: Vec<(f64, u32)>,
}

impl Candidates {
    /// Room for `most` candidates.
    pub(super) fn new(most: usize) -> Candidates {
        Candidates {
            items: Vec::with_capacity(most),
            sorted: false,
            weights: Vec::new(),
            order: Vec::new(),
        }
    }

    pub(super) fn items(&self) -> &[Candidate] {
        &self.items
    }

    /// Takes all logits of at least `floor` (and above minus infinity) as candidates.
    pub(super) fn fill(&mut self, logits: &[f32], floor: f32) {
        self.sorted = false;
        self.items.clear();
        for (id, logit) in (0_u32..).zip(logits) {
            if *logit >= floor && *logit > f32::NEG_INFINITY {
                self.items.push(Candidate { logit: *logit, id });
            }
        }
    }

    /// Takes the best `k` of the logits of at least `floor`, sorted: one pass that looks closely
    /// only at runs which hold something better than the k-th best so far.
    pub(super) fn fill_top_k(&mut self, logits: &[f32], k: usize, floor: f32) {
        self.items.clear();
        let mut threshold = f32::NEG_INFINITY;
        for (index, run) in logits.chunks(RUN).enumerate() {
            // Equal to the threshold and later means a higher id: not better.
            let skip = run.first_chunk().is_some_and(|run| largest_of(run) <= threshold);
            if skip {
                continue;
            }
            for (offset, logit) in run.iter().enumerate() {
                if *logit > threshold && *logit >= floor {
                    let id = (index * RUN + offset) as u32;
                    self.items.push(Candidate { logit: *logit, id });
                }
            }
            if self.items.len() >= k.saturating_add(SLACK) {
                self.items.select_nth_unstable_by(k - 1, better);
                self.items.truncate(k);
                threshold = self.items[k - 1].logit;
            }
        }
        self.items.sort_unstable_by(better);
        self.items.truncate(k);
        self.sorted = true;
    }

    fn largest(&self) -> f32 {
        if self.sorted {
            return self.items.first().map_or(f32::NEG_INFINITY, |best| best.logit);
        }
        self.items.iter().fold(f32::NEG_INFINITY, |largest, item| largest.max(item.logit))
    }

    /// Fills `weights` with `e^((logit - largest) / temperature)`; returns their sum.
    fn weigh(&mut self, temperature: f64) -> f64 {
        let largest = f64::from(self.largest());
        self.weights.clear();
        let weight =
            |item: &Candidate| exp_nonpositive((f64::from(item.logit) - largest) / temperature);
        self.weights.extend(self.items.iter().map(weight));
        self.weights.iter().sum()
    }

    /// Keeps the best candidates that together have probability `p`, at least one.
    pub(super) fn keep_top_p(&mut self, p: f32) {
        let target = self.weigh(1.0) * f64::from(p);
        let largest = f64::from(self.largest());
        // The best few hold most of the probability: sort those, and more only if they do not do.
        let mut sorted = if self.sorted { self.items.len() } else { 0 };
        let mut sum = 0.0;
        let mut kept = 0;
        while kept < self.items.len() {
            if kept == sorted {
                let more = (4 * sorted).max(256).min(self.items.len() - sorted);
                let rest = &mut self.items[sorted..];
                if more < rest.len() {
                    rest.select_nth_unstable_by(more, better);
                }
                rest[..more].sort_unstable_by(better);
                sorted += more;
            }
            sum += exp_nonpositive(f64::from(self.items[kept].logit) - largest);
            kept += 1;
            if sum >= target {
                break;
            }
        }
        self.items.truncate(kept);
        self.sorted = true;
    }

    /// Keeps candidates of at least `p` of the best one's probability.
    pub(super) fn keep_min_p(&mut self, p: f32) {
        let (largest, p) = (f64::from(self.largest()), f64::from(p));
        self.items.retain(|item| exp_nonpositive(f64::from(item.logit) - largest) >= p);
    }

    /// Keeps the candidates whose information is closest to the expected information (the entropy),
    /// until they have more than probability `p` together; at least one.
    pub(super) fn keep_typical(&mut self, p: f32) {
        let sum = self.weigh(1.0);
        let largest = f64::from(self.largest());
        let below = |item: &Candidate| largest - f64::from(item.logit);
        // -ln p_i = below_i + ln sum, so the logarithm cancels in the difference to the entropy.
        let pairs = || self.items.iter().zip(&self.weights);
        let mean = pairs().map(|(item, weight)| weight * below(item)).sum::<f64>() / sum;
        self.order.clear();
        let distances = (0_u32..).zip(&self.items).map(|(i, item)| ((below(item) - mean).abs(), i));
        self.order.extend(distances);
        self.order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let mut gathered = 0.0;
        let mut kept = 0;
        for (_, index) in &self.order {
            gathered += self.weights[*index as usize];
            kept += 1;
            if gathered > f64::from(p) * sum {
                break;
            }
        }
        self.order.truncate(kept);
        // By index: the order of candidates (sorted or by id) stays.
        self.order.sort_unstable_by_key(|(_, index)| *index);
        for (to, (_, from)) in self.order.iter().enumerate() {
            self.items[to] = self.items[*from as usize];
        }
        self.items.truncate(kept);
    }

    /// The best candidate.
    pub(super) fn first(&self) -> Option<u32> {
        self.items.iter().min_by(|a, b| better(a, b)).map(|item| item.id)
    }

    /// The candidate at `unit` (0..1) of the way through the weights at a temperature.
    pub(super) fn draw(&mut self, temperature: f32, unit: f64) -> Option<u32> {
        let mut left = self.weigh(f64::from(temperature)) * unit;
        let mut last = None;
        for (item, weight) in self.items.iter().zip(&self.weights) {
            if *weight > 0.0 {
                last = Some(item.id);
                if left < *weight {
                    return last;
                }
            }
            left -= weight;
        }
        // Rounding in the sum may leave a crumb.
        last
    }
}

/// The smallest logit within `n` standard deviations of the largest, over logits above minus
/// infinity.
pub(super) fn sigma_floor(logits: &[f32], n: f32) -> f32 {
    let finite = || logits.iter().filter(|logit| **logit > f32::NEG_INFINITY);
    let (mut count, mut sum, mut largest) = (0.0, 0.0, f32::NEG_INFINITY);
    for logit in finite() {
        count += 1.0;
        sum += f64::from(*logit);
        largest = largest.max(*logit);
    }
    let mean = sum / count;
    let squares: f64 =
        finite().map(|logit| (f64::from(*logit) - mean) * (f64::from(*logit) - mean)).sum();
    (f64::from(largest) - f64::from(n) * (squares / count).sqrt()) as f32
}
