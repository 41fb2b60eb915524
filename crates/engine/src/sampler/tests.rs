//! Sampling against its definitions.

use super::*;

/// Logits of a peaked distribution over `n` tokens, in shuffled order.
fn logits(n: usize, seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    (0..n).map(|_| ((random.unit() + random.unit() + random.unit()) * 8.0 - 12.0) as f32).collect()
}

/// Parameters with everything off and temperature 1.
fn off() -> SamplerParams {
    SamplerParams {
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        seed: Some(1),
        ..SamplerParams::default()
    }
}

/// Which tokens are drawn at all in many draws.
fn support(params: SamplerParams, logits: &[f32]) -> Vec<u32> {
    let mut sampler = Sampler::new(params, logits.len()).unwrap();
    let mut seen: Vec<u32> = (0..20_000).map(|_| sampler.sample(logits).unwrap()).collect();
    seen.sort_unstable();
    seen.dedup();
    seen
}

/// Logits from probabilities.
fn of(probabilities: &[f64]) -> Vec<f32> {
    probabilities.iter().map(|p| p.ln() as f32).collect()
}

#[test]
fn greedy_takes_the_lowest_id_of_the_best() {
    let params = SamplerParams { temperature: 0.0, ..SamplerParams::default() };
    for n in [1, 5, 16, 17, 100, 1000] {
        let mut sampler = Sampler::new(params.clone(), n).unwrap();
        for seed in 0..20 {
            let mut logits = logits(n, seed);
            let best = logits.iter().copied().fold(f32::MIN, f32::max);
            let expected = logits.iter().position(|l| *l == best).unwrap() as u32;
            assert_eq!(sampler.sample(&logits).unwrap(), expected);
            let (a, b) = (seed as usize % n, seed as usize * 7 % n);
            logits[a] = 100.0;
            logits[b] = 100.0;
            assert_eq!(sampler.sample(&logits).unwrap(), a.min(b) as u32);
        }
    }
}

#[test]
fn draws_follow_the_softmax_at_a_temperature() {
    let probabilities: [f64; 4] = [0.1, 0.5, 0.15, 0.25];
    for temperature in [1.0, 0.5, 2.0] {
        let mut sampler =
            Sampler::new(SamplerParams { temperature, ..off() }, probabilities.len()).unwrap();
        let logits = of(&probabilities);
        let mut counts = [0.0; 4];
        let draws = 100_000;
        for _ in 0..draws {
            counts[sampler.sample(&logits).unwrap() as usize] += 1.0;
        }
        let powers = probabilities.map(|p| p.powf(1.0 / f64::from(temperature)));
        let sum: f64 = powers.iter().sum();
        for (count, power) in counts.iter().zip(powers) {
            assert!((count / f64::from(draws) - power / sum).abs() < 0.006, "{counts:?}");
        }
    }
}

#[test]
fn each_filter_keeps_what_its_definition_says() {
    let logits = of(&[0.05, 0.4, 0.01, 0.3, 0.04, 0.2]);
    let kept = |params| support(params, &logits);
    assert_eq!(kept(off()), [0, 1, 2, 3, 4, 5]);
    assert_eq!(kept(SamplerParams { top_k: 2, ..off() }), [1, 3]);
    assert_eq!(kept(SamplerParams { top_k: 100, ..off() }), [0, 1, 2, 3, 4, 5]);
    assert_eq!(kept(SamplerParams { top_p: 0.65, ..off() }), [1, 3]);
    assert_eq!(kept(SamplerParams { top_p: 0.75, ..off() }), [1, 3, 5]);
    assert_eq!(kept(SamplerParams { top_p: 0.0, ..off() }), [1]);
    assert_eq!(kept(SamplerParams { min_p: 0.45, ..off() }), [1, 3, 5]);
    assert_eq!(kept(SamplerParams { min_p: 1.0, ..off() }), [1]);
    // Information in nats: 3.0, 0.92, 4.6, 1.2, 3.2, 1.6; entropy 1.37: closest are tokens 3 (0.17),
    // 5 (0.24), 1 (0.45).
    assert_eq!(kept(SamplerParams { typical_p: 0.25, ..off() }), [3]);
    assert_eq!(kept(SamplerParams { typical_p: 0.45, ..off() }), [3, 5]);
    assert_eq!(kept(SamplerParams { typical_p: 0.6, ..off() }), [1, 3, 5]);
    // Deviation of the logits is 1.32; within one of the best (-0.92) lie -1.2 and -1.6.
    assert_eq!(kept(SamplerParams { top_n_sigma: 1.0, ..off() }), [1, 3, 5]);
    assert_eq!(kept(SamplerParams { top_n_sigma: 1.0, top_k: 2, ..off() }), [1, 3]);
    // Greedy among the typical ones: not the best of all.
    let params = SamplerParams { temperature: 0.0, typical_p: 0.45, ..off() };
    assert_eq!(kept(params), [3]);
}

/// Selection without sorting equals sorting everything.
#[test]
fn top_k_and_top_p_select_what_a_full_sort_selects() {
    for (n, seed) in [(50_000, 1), (3_000, 2), (17, 3)] {
        let mut logits = logits(n, seed);
        // Many equal logits around the cut.
        for logit in &mut logits {
            *logit = (*logit * 64.0).round() / 64.0;
        }
        let mut order: Vec<u32> = (0..n as u32).collect();
        order.sort_by(|a, b| {
            let (x, y) = (logits[*a as usize], logits[*b as usize]);
            y.total_cmp(&x).then(a.cmp(b))
        });
        for k in [1, 2, 15, 40, 1000] {
            let k = k.min(n);
            let mut candidates = Candidates::new(0);
            candidates.fill_top_k(&logits, k, f32::NEG_INFINITY);
            let ids: Vec<u32> = candidates.items().iter().map(|item| item.id).collect();
            assert_eq!(ids, order[..k]);
        }
        for p in [0.01, 0.3, 0.9, 0.999] {
            let mut candidates = Candidates::new(0);
            candidates.fill(&logits, f32::NEG_INFINITY);
            candidates.keep_top_p(p);
            let kept = candidates.items().len();
            let ids: Vec<u32> = candidates.items().iter().map(|item| item.id).collect();
            assert_eq!(ids, order[..kept]);
            let weight = |id: &u32| f64::from(logits[*id as usize]).exp();
            let all: f64 = order.iter().map(weight).sum();
            let with: f64 = order[..kept].iter().map(weight).sum::<f64>() / all;
            let without: f64 = order[..kept - 1].iter().map(weight).sum::<f64>() / all;
            assert!(without < f64::from(p) + 1e-9 && with > f64::from(p) - 1e-9);
        }
    }
}

#[test]
fn equal_seeds_give_equal_tokens_and_others_do_not() {
    let logits = logits(1000, 5);
    let draw = |seed| {
        let params = SamplerParams { seed, temperature: 2.0, top_k: 0, ..SamplerParams::default() };
        let mut sampler = Sampler::new(params, 1000).unwrap();
        let ids: Vec<u32> = (0..50).map(|_| sampler.sample(&logits).unwrap()).collect();
        sampler.reset();
        let again: Vec<u32> = (0..50).map(|_| sampler.sample(&logits).unwrap()).collect();
        assert_eq!(ids, again);
        (ids, sampler.seed())
    };
    assert_eq!(draw(Some(7)), draw(Some(7)));
    assert_ne!(draw(Some(7)).0, draw(Some(8)).0);
    let (ids, seed) = draw(None);
    assert_eq!(draw(Some(seed)).0, ids);
}

/// A fixed sequence: if this changes, answers to a given seed have changed.
#[test]
fn a_seed_means_the_same_for_all_time() {
    let logits: Vec<f32> = (0..100_u8).map(|i| f32::from(i % 10) * 0.5).collect();
    let params = SamplerParams { seed: Some(42), top_k: 0, min_p: 0.0, ..SamplerParams::default() };
    let mut sampler = Sampler::new(params, 100).unwrap();
    let ids: Vec<u32> = (0..8).map(|_| sampler.sample(&logits).unwrap()).collect();
    assert_eq!(ids, FIXED);
}

/// Computed apart, by a few lines of Python from the definitions.
const FIXED: [u32; 8] = [57, 69, 4, 88, 47, 48, 29, 48];

#[test]
fn penalties_and_bias_follow_their_formulas() {
    let logits = [2.0, -1.0, 1.5, 0.0];
    let params = SamplerParams {
        temperature: 0.0,
        repeat_penalty: 2.0,
        presence_penalty: 0.25,
        frequency_penalty: 0.5,
        penalty_last_n: 3,
        logit_bias: vec![(3, 0.5), (1, f32::NEG_INFINITY)],
        ..off()
    };
    let mut sampler = Sampler::new(params, 4).unwrap();
    let adjusted = |sampler: &Sampler| {
        let mut adjusted = Vec::new();
        sampler.adjust(&logits, &mut adjusted);
        adjusted
    };
    assert_eq!(adjusted(&sampler), [2.0, f32::NEG_INFINITY, 1.5, 0.5]);
    sampler.accept(0);
    sampler.accept(0);
    // 2 / 2 - 2 * 0.5 - 0.25.
    assert_eq!(adjusted(&sampler), [-0.25, f32::NEG_INFINITY, 1.5, 0.5]);
    assert_eq!(sampler.sample(&logits), Ok(2));
    sampler.accept(2);
    sampler.accept(3);
    // The window of three holds 0, 2, 3.
    assert_eq!(adjusted(&sampler), [0.25, f32::NEG_INFINITY, 0.0, -0.5]);
    assert_eq!(sampler.sample(&logits), Ok(0));
}

#[test]
fn a_ban_of_everything_is_an_error() {
    let logit_bias = vec![(0, f32::NEG_INFINITY), (1, f32::NEG_INFINITY)];
    for temperature in [0.0, 1.0] {
        let params = SamplerParams { temperature, logit_bias: logit_bias.clone(), ..off() };
        let mut sampler = Sampler::new(params, 2).unwrap();
        assert_eq!(sampler.sample(&[1.0, 2.0]), Err(SamplerError::NoCandidate));
    }
    let mut sampler = Sampler::new(off(), 0).unwrap();
    assert_eq!(sampler.sample(&[]), Err(SamplerError::NoCandidate));
}

#[test]
fn broken_logits_are_errors_that_name_the_token() {
    for params in [off(), SamplerParams { temperature: 0.0, ..off() }, SamplerParams::default()] {
        let mut sampler = Sampler::new(params, 100).unwrap();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
            let mut logits = logits(100, 3);
            logits[71] = bad;
            assert_eq!(sampler.sample(&logits), Err(SamplerError::NonFiniteLogits { index: 71 }));
        }
        assert!(matches!(sampler.sample(&[0.0; 99]), Err(SamplerError::Length { .. })));
        // Extreme but finite: an answer.
        let mut logits = vec![-f32::MAX; 100];
        logits[5] = f32::MAX;
        assert_eq!(sampler.sample(&logits), Ok(5));
        assert!(sampler.sample(&[f32::MAX; 100]).is_ok());
    }
}

#[test]
fn senseless_parameters_are_errors() {
    let good = SamplerParams::default();
    assert_eq!(good.validate(10), Ok(()));
    for bad in [f32::NAN, -0.5, f32::INFINITY, f32::NEG_INFINITY] {
        let set: [fn(&mut SamplerParams, f32); 8] = [
            |p, x| p.temperature = x,
            |p, x| p.top_p = x,
            |p, x| p.min_p = x,
            |p, x| p.typical_p = x,
            |p, x| p.top_n_sigma = x,
            |p, x| p.repeat_penalty = x,
            |p, x| p.presence_penalty = x,
            |p, x| p.frequency_penalty = x,
        ];
        for set in set {
            let mut params = good.clone();
            set(&mut params, bad);
            assert!(matches!(params.validate(10), Err(SamplerError::Parameter { .. })));
        }
    }
    let bias = |id, bias| SamplerParams { logit_bias: vec![(id, bias)], ..good.clone() };
    assert!(matches!(bias(10, 1.0).validate(10), Err(SamplerError::BiasId { id: 10, .. })));
    assert!(bias(9, f32::NAN).validate(10).is_err());
    assert!(bias(9, f32::INFINITY).validate(10).is_err());
    assert!(bias(9, f32::NEG_INFINITY).validate(10).is_ok());
    assert!(Sampler::new(SamplerParams { top_p: 1.5, ..good }, 10).is_err());
}

#[test]
fn log_probabilities_sum_to_one_and_are_sorted() {
    let logits = logits(5000, 9);
    let result = log_probs(&logits, 17, 5000);
    let sum: f64 = result.top.iter().map(|(_, p)| p.exp()).sum();
    assert!((sum - 1.0).abs() < 1e-12);
    assert!(result.top.windows(2).all(|w| w[0].1 >= w[1].1));
    let (_, chosen) = result.top.iter().find(|(id, _)| *id == 17).unwrap();
    assert_eq!(*chosen, result.chosen);
    let few = log_probs(&logits, 4, 3);
    assert_eq!(few.top, result.top[..3]);
    assert!(log_probs(&logits, 4, 0).top.is_empty());
    assert_eq!(log_probs(&logits, 5000, 0).chosen, f64::NEG_INFINITY);
    assert!(log_probs(&[], 0, 3).top.is_empty());
    // Large logits do not overflow.
    let result = log_probs(&[3e38, 3e38], 0, 2);
    assert!((result.chosen + 2.0_f64.ln()).abs() < 1e-12);
}
