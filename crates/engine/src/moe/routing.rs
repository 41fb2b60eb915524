//! From a router's scores to the experts of each token: which, and with what weight.
//!
//! All arithmetic is f32 and in one order: a token's experts are put in ascending order of their ids as
//! soon as they are chosen, and their weights are summed, and later their results, in that order.
//! Of equal scores the lower id wins.

use std::ops::Range;

use lowtide_kernels::compute::Compute;
use lowtide_kernels::elementwise;
use lowtide_kernels::rows::{ScaledRow, softmax_rows};
use lowtide_kernels::shape::ShapeError;
use lowtide_model::{Routing, Score};

/// Sums of weights are not divided by less: the smallest normal half-precision number, as in the
/// reference implementations.
const WEIGHT_SUM_MIN: f32 = 6.103_515_6e-5;

/// Why tokens cannot be routed.
#[derive(Debug)]
pub(super) enum RouteError {
    /// An expert's score is NaN or infinite.
    NotFinite { expert: usize },
    /// Slices do not fit.
    Shape(ShapeError),
}

impl From<ShapeError> for RouteError {
    fn from(error: ShapeError) -> Self {
        Self::Shape(error)
    }
}

/// The experts of a batch's tokens: (expert, token) pairs, by expert and then by token.
pub(crate) struct Routes {
    used: usize,
    /// `[token][used]`, ascending in each token.
    picked: Vec<u32>,
    weights: Vec<f32>,
    /// Scores by which one token's experts are chosen.
    selection: Vec<f32>,
    /// Pair of an expert's first token; one more than there are experts.
    starts: Vec<u32>,
    tokens: Vec<u32>,
    rows: Vec<ScaledRow>,
    needed: Vec<u32>,
    guessed: Vec<u32>,
}

impl Routes {
    pub(crate) fn new(batch: usize, count: usize, used: usize) -> Self {
        let pairs = batch * used;
        Self {
            used,
            picked: vec![0; pairs],
            weights: vec![0.0; pairs],
            selection: vec![0.0; count],
            starts: vec![0; count + 1],
            tokens: vec![0; pairs],
            rows: vec![ScaledRow { to: 0, factor: 0.0 }; pairs],
            needed: Vec::with_capacity(count),
            guessed: vec![0; used],
        }
    }

    /// Bytes [`Routes::new`] allocates for each token of the batch.
    pub(crate) fn bytes_per_token(used: usize) -> usize {
        used * (3 * size_of::<u32>() + size_of::<ScaledRow>())
    }

    /// Pairs of all tokens.
    pub(super) fn pairs(&self) -> usize {
        self.starts.last().map_or(0, |end| *end as usize)
    }

    /// Experts that some token uses, ascending: the order in which they lie in the file.
    pub(super) fn needed(&self) -> &[u32] {
        &self.needed
    }

    /// The experts of the first `tokens` tokens, `[token][used]`, ascending in each.
    pub(super) fn picked(&self, tokens: usize) -> &[u32] {
        &self.picked[..tokens * self.used]
    }

    /// An expert's pairs.
    pub(super) fn pairs_of(&self, expert: u32) -> Range<usize> {
        self.starts[expert as usize] as usize..self.starts[expert as usize + 1] as usize
    }

    /// The tokens that use an expert, ascending.
    pub(super) fn tokens_of(&self, expert: u32) -> &[u32] {
        &self.tokens[self.pairs_of(expert)]
    }

    /// The same tokens with the expert's weight for each.
    pub(super) fn rows_of(&self, expert: u32) -> &[ScaledRow] {
        &self.rows[self.pairs_of(expert)]
    }

    /// Chooses the experts of all tokens. `scores` is `[token][expert]` as the router gave it; `bias`
    /// takes part in choosing only.
    pub(super) fn choose(
        &mut self,
        compute: &Compute,
        routing: &Routing,
        scores: &mut [f32],
        bias: Option<&[f32]>,
    ) -> Result<(), RouteError> {
        let count = self.selection.len();
        check_finite(scores, count)?;
        match routing.score {
            Score::Softmax => softmax_rows(compute, scores, count)?,
            Score::Sigmoid => elementwise::sigmoid(compute, scores),
            Score::SoftmaxOfChosen => {}
        }
        let tokens = scores.len() / count;
        for (token, scores) in scores.chunks_exact(count).enumerate() {
            self.selection.copy_from_slice(scores);
            if let Some(bias) = bias {
                self.selection.iter_mut().zip(bias).for_each(|(score, b)| *score += b);
                check_finite(&self.selection, count)?;
            }
            keep_best_groups(&mut self.selection, routing);
            let at = token * self.used..(token + 1) * self.used;
            let picked = &mut self.picked[at.clone()];
            pick_best(&mut self.selection, picked);
            for (weight, expert) in self.weights[at].iter_mut().zip(picked) {
                *weight = scores[*expert as usize];
            }
        }
        let weights = &mut self.weights[..tokens * self.used];
        if routing.score == Score::SoftmaxOfChosen {
            softmax_rows(compute, weights, self.used)?;
        }
        scale_weights(weights, self.used, routing);
        self.sort(tokens);
        Ok(())
    }

    /// The experts that one token's scores would choose, the best first; `None` if a score is no number. What was chosen
    /// stays as it is.
    pub(super) fn guess(
        &mut self,
        compute: &Compute,
        routing: &Routing,
        scores: &mut [f32],
        bias: Option<&[f32]>,
    ) -> Option<&[u32]> {
        let count = self.selection.len();
        check_finite(scores, count).ok()?;
        match routing.score {
            Score::Sigmoid => elementwise::sigmoid(compute, scores),
            // Without a bias the order of the scores is that of their softmax.
            Score::Softmax if bias.is_some() => softmax_rows(compute, scores, count).ok()?,
            Score::Softmax | Score::SoftmaxOfChosen => {}
        }
        self.selection.copy_from_slice(scores);
        if let Some(bias) = bias {
            self.selection.iter_mut().zip(bias).for_each(|(score, b)| *score += b);
            check_finite(&self.selection, count).ok()?;
        }
        keep_best_groups(&mut self.selection, routing);
        take_best(&mut self.selection, &mut self.guessed);
        Some(&self.guessed)
    }

    /// Counting sort of the picked experts' tokens.
    fn sort(&mut self, tokens: usize) {
        let pairs = tokens * self.used;
        self.starts.fill(0);
        for expert in &self.picked[..pairs] {
            self.starts[*expert as usize + 1] += 1;
        }
        self.needed.clear();
        for expert in 0..self.starts.len() - 1 {
            if self.starts[expert + 1] > 0 {
                self.needed.push(expert as u32);
            }
            self.starts[expert + 1] += self.starts[expert];
        }
        for (pair, expert) in self.picked[..pairs].iter().enumerate() {
            let token = (pair / self.used) as u32;
            let at = self.starts[*expert as usize] as usize;
            self.tokens[at] = token;
            self.rows[at] = ScaledRow { to: token, factor: self.weights[pair] };
            self.starts[*expert as usize] += 1;
        }
        // Each start has moved to the next one's place.
        let last = self.starts.len() - 1;
        self.starts.copy_within(..last, 1);
        self.starts[0] = 0;
    }
}

fn check_finite(scores: &[f32], count: usize) -> Result<(), RouteError> {
    match scores.iter().position(|score| !score.is_finite()) {
        Some(at) => Err(RouteError::NotFinite { expert: at % count }),
        None => Ok(()),
    }
}

/// The index of the largest score, the first of equals.
fn best(scores: &[f32]) -> usize {
    (1..scores.len()).fold(0, |best, at| if scores[at] > scores[best] { at } else { best })
}

/// Takes the best scores out, as many as `picked` holds; their indices ascend.
fn pick_best(scores: &mut [f32], picked: &mut [u32]) {
    take_best(scores, picked);
    picked.sort_unstable();
}

/// The same, the best first.
fn take_best(scores: &mut [f32], picked: &mut [u32]) {
    for slot in picked {
        let at = best(scores);
        scores[at] = f32::NEG_INFINITY;
        *slot = at as u32;
    }
}

/// Leaves the groups with the largest sums of their two best scores, and takes the others out.
fn keep_best_groups(scores: &mut [f32], routing: &Routing) {
    let groups = routing.groups as usize;
    if groups <= 1 {
        return;
    }
    let len = scores.len() / groups;
    let value = |scores: &[f32], group: usize| {
        let group = &scores[group * len..(group + 1) * len];
        let first = best(group);
        let others = group.iter().enumerate().filter(|(at, _)| *at != first);
        group[first] + others.map(|(_, score)| *score).fold(f32::NEG_INFINITY, f32::max)
    };
    // A group goes if enough groups are better (or equal and earlier): no memory is needed.
    let better = |scores: &[f32], group: usize| {
        let own = value(scores, group);
        (0..groups)
            .filter(|&other| {
                let theirs = value(scores, other);
                theirs > own || (theirs == own && other < group)
            })
            .count()
    };
    let mut gone = [false; GROUPS_MAX];
    for (group, gone) in gone[..groups].iter_mut().enumerate() {
        *gone = better(scores, group) >= routing.groups_used as usize;
    }
    for (group, _) in gone[..groups].iter().enumerate().filter(|(_, gone)| **gone) {
        scores[group * len..(group + 1) * len].fill(f32::NEG_INFINITY);
    }
}

/// Groups of two experts each, of as many experts as there can be.
const GROUPS_MAX: usize = lowtide_model::limits::EXPERTS_MAX as usize / 2;

fn scale_weights(weights: &mut [f32], used: usize, routing: &Routing) {
    for weights in weights.chunks_exact_mut(used) {
        if routing.normalised {
            let sum = weights.iter().fold(0.0, |sum, weight| sum + weight);
            let sum = sum.max(WEIGHT_SUM_MIN);
            weights.iter_mut().for_each(|weight| *weight /= sum);
        }
        if routing.scale != 1.0 {
            weights.iter_mut().for_each(|weight| *weight *= routing.scale);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lowtide_kernels::isa::Isa;

    const PLAIN: Routing =
        Routing { score: Score::Softmax, normalised: false, scale: 1.0, groups: 1, groups_used: 1 };

    /// `(expert, weight)` of each token, from scores of `count` experts.
    fn route(
        routing: &Routing,
        used: usize,
        count: usize,
        scores: &[f32],
        bias: Option<&[f32]>,
    ) -> Vec<Vec<(u32, f32)>> {
        let tokens = scores.len() / count;
        let mut routes = Routes::new(tokens, count, used);
        let compute = Compute::new(Isa::detect(), 1).unwrap();
        routes.choose(&compute, routing, &mut scores.to_vec(), bias).unwrap();
        assert_eq!(routes.pairs(), tokens * used);
        let mut all = vec![Vec::new(); tokens];
        for &expert in routes.needed() {
            assert!(routes.tokens_of(expert).is_sorted_by(|a, b| a < b));
            for (row, token) in routes.rows_of(expert).iter().zip(routes.tokens_of(expert)) {
                assert_eq!(row.to, *token);
                all[*token as usize].push((expert, row.factor));
            }
        }
        all
    }

    fn near(found: &[(u32, f32)], expected: &[(u32, f64)]) {
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for (found, expected) in found.iter().zip(expected) {
            assert_eq!(found.0, expected.0);
            assert!((f64::from(found.1) - expected.1).abs() < 1e-6, "{found:?} {expected:?}");
        }
    }

    #[test]
    fn softmax_over_all_or_over_the_chosen() {
        let scores = [0.5, 2.0, -1.0, 1.0];
        let e = |x: f64| x.exp();
        let all = e(0.5) + e(2.0) + e(-1.0) + e(1.0);
        near(&route(&PLAIN, 2, 4, &scores, None)[0], &[(1, e(2.0) / all), (3, e(1.0) / all)]);
        let two = e(2.0) + e(1.0);
        let expected = [(1, e(2.0) / two), (3, e(1.0) / two)];
        let normalised = Routing { normalised: true, ..PLAIN };
        near(&route(&normalised, 2, 4, &scores, None)[0], &expected);
        let chosen = Routing { score: Score::SoftmaxOfChosen, ..PLAIN };
        near(&route(&chosen, 2, 4, &scores, None)[0], &expected);
        let scaled = Routing { scale: 2.5, ..chosen };
        near(&route(&scaled, 2, 4, &scores, None)[0], &expected.map(|(id, w)| (id, 2.5 * w)));
    }

    #[test]
    fn guesses_come_best_first_and_change_nothing_that_was_chosen() {
        let compute = Compute::new(Isa::detect(), 1).unwrap();
        let mut routes = Routes::new(1, 5, 3);
        routes.choose(&compute, &PLAIN, &mut [0.5, 2.0, -1.0, 1.0, 0.0], None).unwrap();
        let chosen = routes.needed().to_vec();
        let scores = [-1.0, 0.25, 3.0, 2.0, 0.5];
        let mut guess =
            |bias| routes.guess(&compute, &PLAIN, &mut scores.clone(), bias).map(<[u32]>::to_vec);
        assert_eq!(guess(None), Some(vec![2, 3, 4]));
        assert_eq!(guess(Some(&[9.0, 0.0, 0.0, 0.0, 0.0])), Some(vec![0, 2, 3]));
        assert_eq!(guess(Some(&[f32::NAN; 5])), None);
        assert_eq!(routes.needed(), chosen);
    }

    #[test]
    fn a_bias_chooses_and_does_not_weigh() {
        let sigmoid = Routing { score: Score::Sigmoid, ..PLAIN };
        let s = |x: f64| 1.0 / (1.0 + (-x).exp());
        let scores = [2.0, 1.0, 0.0, -3.0];
        near(&route(&sigmoid, 2, 4, &scores, None)[0], &[(0, s(2.0)), (1, s(1.0))]);
        let bias = [-10.0, 0.0, 0.0, 5.0];
        near(&route(&sigmoid, 2, 4, &scores, Some(&bias))[0], &[(1, s(1.0)), (3, s(-3.0))]);
    }

    #[test]
    fn groups_are_chosen_by_their_two_best() {
        // Sums of two best: 3.1, 4.0, 3.5, 0.4. The best expert of all is in the group that goes.
        let scores = [3.0, 0.1, -5.0, 2.0, 2.0, -9.0, 1.5, 1.8, 1.7, 0.1, 0.2, 0.2];
        let grouped = Routing { score: Score::SoftmaxOfChosen, groups: 4, groups_used: 2, ..PLAIN };
        let ids: Vec<u32> =
            route(&grouped, 3, 12, &scores, None)[0].iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [3, 4, 7]);
    }

    #[test]
    fn of_equals_the_first_is_taken_and_tokens_are_apart() {
        let scores = [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 9.0, 9.0];
        let all = route(&PLAIN, 2, 4, &scores, None);
        assert_eq!(all[0].iter().map(|p| p.0).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(all[1].iter().map(|p| p.0).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn what_is_no_number_is_named() {
        let compute = Compute::new(Isa::detect(), 1).unwrap();
        let mut routes = Routes::new(2, 3, 1);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut scores = [0.0, 1.0, 2.0, 0.0, bad, 2.0];
            let result = routes.choose(&compute, &PLAIN, &mut scores, None);
            assert!(matches!(result, Err(RouteError::NotFinite { expert: 1 })), "{bad}");
            let result = routes.choose(&compute, &PLAIN, &mut [0.0; 3], Some(&[0.0, 0.0, bad]));
            assert!(matches!(result, Err(RouteError::NotFinite { expert: 2 })), "{bad}");
        }
    }
}
