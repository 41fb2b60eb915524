//! Attention against its definition in f64, and against itself in every other arrangement.

use super::*;
use crate::isa::Isa;
use crate::testing::{Random, assert_same_bits};

/// A case: everything but how the work is arranged.
#[derive(Clone, Debug)]
struct Case {
    format: KvFormat,
    heads: usize,
    kv_heads: usize,
    key_dim: usize,
    value_dim: usize,
    positions: usize,
    /// Tiles of the cache; fewer than the positions need makes it a ring.
    tiles: usize,
    window: Option<usize>,
    softcap: Option<f32>,
    sinks: Option<Vec<f32>>,
}

impl Case {
    fn random(random: &mut Random) -> Case {
        let kv_heads = random.pick(&[1, 1, 2, 3]);
        let heads = kv_heads * random.pick(&[1, 2, 3, 4, 5, 7, 8, 13]);
        let key_dim = random.pick(&[64, 80, 96, 128, 192, 256, 20]);
        let longest = random.pick(&[20, 70, 300, 600]);
        let positions = 1 + random.below(longest);
        Case {
            format: random.pick(&[KvFormat::F16, KvFormat::Q8_0]),
            heads,
            kv_heads,
            key_dim,
            value_dim: random.pick(&[key_dim, key_dim, 64, 80, 7]),
            positions,
            tiles: positions.div_ceil(TILE_POSITIONS),
            window: random.pick(&[None, None, Some(1), Some(37), Some(64), Some(300)]),
            softcap: random.pick(&[None, None, Some(2.0)]),
            sinks: random.pick(&[None, Some(())]).map(|()| random.normals(heads, 1.0)),
        }
    }

    fn layout(&self) -> KvLayout {
        KvLayout::new(self.format, self.kv_heads, self.key_dim, self.value_dim).unwrap()
    }

    fn sizes(&self) -> AttentionSizes {
        AttentionSizes {
            heads: self.heads,
            kv_heads: self.kv_heads,
            key_dim: self.key_dim,
            value_dim: self.value_dim,
            context: self.positions,
        }
    }

    fn scale(&self) -> f32 {
        1.0 / (self.key_dim as f32).sqrt()
    }
}

struct Inputs {
    queries: Vec<f32>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Inputs {
    fn random(case: &Case, random: &mut Random) -> Inputs {
        let n = case.positions;
        Inputs {
            queries: random.normals(n * case.heads * case.key_dim, 2.0),
            keys: random.normals(n * case.kv_heads * case.key_dim, 2.0),
            values: random.normals(n * case.kv_heads * case.value_dim, 1.0),
        }
    }
}

/// Runs a case in batches of at most `batch` tokens: store, then attend. The cache's memory begins
/// full of NaN: what has not been stored must not matter.
fn run(case: &Case, inputs: &Inputs, isa: Isa, threads: usize, batch: usize) -> Vec<f32> {
    let compute = Compute::new(isa, threads).unwrap();
    let mut scratch = AttentionScratch::new(threads, case.sizes()).unwrap();
    let layout = case.layout();
    let mut cache = vec![0xff; layout.bytes(case.tiles * TILE_POSITIONS).unwrap()];
    let mut out = vec![f32::NAN; case.positions * case.heads * case.value_dim];
    let rows = |x: &'_ [f32], from: usize, to: usize| {
        let row = x.len() / case.positions;
        x[from * row..to * row].to_vec()
    };
    let mut first = 0;
    while first < case.positions {
        let end = case.positions.min(first + batch);
        let (k, v) = (rows(&inputs.keys, first, end), rows(&inputs.values, first, end));
        kv_store(&compute, &layout, &mut cache, first, &k, &v).unwrap();
        let row = case.heads * case.value_dim;
        let job = AttentionJob {
            layout: &layout,
            cache: &cache,
            queries: &rows(&inputs.queries, first, end),
            heads: case.heads,
            first_position: first,
            window: case.window,
            scale: case.scale(),
            softcap: case.softcap,
            sinks: case.sinks.as_deref(),
            out: &mut out[first * row..end * row],
        };
        attention(&compute, &mut scratch, job).unwrap();
        first = end;
    }
    out
}

/// The definition, in f64, on the numbers that the cache holds.
fn expected(case: &Case, inputs: &Inputs) -> Vec<f64> {
    let layout = case.layout();
    let compute = Compute::new(Isa::Scalar, 1).unwrap();
    let mut cache = vec![0; layout.bytes(case.positions).unwrap()];
    kv_store(&compute, &layout, &mut cache, 0, &inputs.keys, &inputs.values).unwrap();
    let mut keys = vec![0.0; inputs.keys.len()];
    let mut values = vec![0.0; inputs.values.len()];
    let key_rows = keys.chunks_mut(case.kv_heads * case.key_dim);
    let value_rows = values.chunks_mut(case.kv_heads * case.value_dim);
    for (position, (k, v)) in key_rows.zip(value_rows).enumerate() {
        kv_load(&layout, &cache, position, k, v).unwrap();
    }
    let shared = case.heads / case.kv_heads;
    let mut out = Vec::new();
    for (row, query) in inputs.queries.chunks(case.key_dim).enumerate() {
        let (token, head) = (row / case.heads, row % case.heads);
        let kv_head = head / shared;
        let first = (token + 1).saturating_sub(case.window.unwrap_or(usize::MAX));
        let score = |position: usize| {
            let key = &keys[(position * case.kv_heads + kv_head) * case.key_dim..];
            let dot: f64 = query.iter().zip(key).map(|(q, k)| f64::from(*q) * f64::from(*k)).sum();
            let score = dot * f64::from(case.scale());
            case.softcap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
        };
        let scores: Vec<f64> = (first..=token).map(score).collect();
        let largest = scores.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let sink = case.sinks.as_ref().map(|sinks| f64::from(sinks[head]));
        let sink = sink.map_or(0.0, |sink| (sink - largest).exp());
        let sum = weights.iter().sum::<f64>() + sink;
        for dim in 0..case.value_dim {
            let value = |position: usize| {
                f64::from(values[(position * case.kv_heads + kv_head) * case.value_dim + dim])
            };
            let weighted = (first..=token).zip(&weights).map(|(p, w)| w * value(p));
            out.push(weighted.sum::<f64>() / sum);
        }
    }
    out
}

/// `tolerance` absolute; the error of a weight is that of its score, a dot product in f32.
fn assert_close(got: &[f32], exact: &[f64], tolerance: f64, case: &Case) {
    assert_eq!(got.len(), exact.len());
    for (index, (got, exact)) in got.iter().zip(exact).enumerate() {
        let error = (f64::from(*got) - exact).abs();
        assert!(error < tolerance, "{index}: {got} {exact}, {case:?}");
    }
}

#[test]
fn agrees_with_the_definition() {
    let mut random = Random::new(21);
    for _ in 0..60 {
        let case = Case::random(&mut random);
        let inputs = Inputs::random(&case, &mut random);
        let got = run(&case, &inputs, Isa::detect(), 2, case.positions);
        assert_close(&got, &expected(&case, &inputs), 3e-5, &case);
    }
}

/// One call for all tokens, a call for each, and everything between; any threads; any instruction
/// set (the scalar one on small cases: without FMA instructions it is a hundred times slower).
#[test]
fn bits_depend_on_nothing_but_the_inputs() {
    let mut random = Random::new(22);
    for round in 0..40 {
        let mut case = Case::random(&mut random);
        if round % 2 == 0 {
            case.positions = case.positions.min(90);
            case.heads = case.kv_heads * (case.heads / case.kv_heads).min(3);
            case.sinks = None;
        }
        let inputs = Inputs::random(&case, &mut random);
        let reference = run(&case, &inputs, Isa::detect(), 1, case.positions);
        for isa in Isa::available() {
            if isa != Isa::Scalar || round % 2 == 0 {
                let batch = 1 + random.below(case.positions);
                assert_same_bits(&run(&case, &inputs, isa, 1, batch), &reference);
            }
        }
        for (threads, batch) in [(2, 1), (3, 5), (2, 100), (4, case.positions)] {
            let got = run(&case, &inputs, Isa::detect(), threads, batch);
            assert_same_bits(&got, &reference);
        }
    }
}

/// A cache of few tiles that goes round gives what a long one gives.
#[test]
fn a_ring_holds_a_sliding_window() {
    let mut random = Random::new(23);
    for (window, batch) in [(100, 1), (100, 20), (64, 64), (1, 7)] {
        let mut case = Case { window: Some(window), ..Case::random(&mut random) };
        case.positions = 700;
        case.tiles = case.positions.div_ceil(TILE_POSITIONS);
        let inputs = Inputs::random(&case, &mut random);
        let long = run(&case, &inputs, Isa::detect(), 2, batch);
        case.tiles = (window + batch).div_ceil(TILE_POSITIONS) + 1;
        let ring = run(&case, &inputs, Isa::detect(), 2, batch);
        assert_same_bits(&long, &ring);
    }
}

/// Keys that grow: every tile brings a new largest score, the hardest case for rescaling; and the
/// first key so large that all later weights vanish.
#[test]
fn extreme_scores_are_rescaled_without_overflow() {
    let mut random = Random::new(24);
    for first_large in [false, true] {
        let case = Case {
            format: KvFormat::F16,
            heads: 2,
            kv_heads: 1,
            key_dim: 64,
            value_dim: 64,
            positions: 600,
            tiles: 10,
            window: None,
            softcap: None,
            sinks: None,
        };
        let mut inputs = Inputs::random(&case, &mut random);
        inputs.queries.fill(1.0);
        for (position, key) in inputs.keys.chunks_mut(64).enumerate() {
            let large = first_large && position == 0;
            key.fill(if large { 500.0 } else { position as f32 * 0.25 });
        }
        let got = run(&case, &inputs, Isa::detect(), 2, 77);
        // Scores reach 4000, whose last place is worth 2^-12.
        assert_close(&got, &expected(&case, &inputs), 1e-3, &case);
    }
}

#[test]
fn nan_and_infinity_come_out_as_nan_and_only_where_seen() {
    let mut random = Random::new(25);
    for format in [KvFormat::F16, KvFormat::Q8_0] {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30] {
            for in_keys in [true, false] {
                let case = Case { format, positions: 150, tiles: 3, ..Case::random(&mut random) };
                let case = Case { window: None, softcap: None, ..case };
                let mut inputs = Inputs::random(&case, &mut random);
                let target = if in_keys { &mut inputs.keys } else { &mut inputs.values };
                let row = target.len() / case.positions;
                target[70 * row] = bad;
                for isa in Isa::available().into_iter().filter(|isa| *isa != Isa::Scalar) {
                    let got = run(&case, &inputs, isa, 2, 40);
                    let row = case.heads * case.value_dim;
                    assert!(got[..70 * row].iter().all(|x| x.is_finite()));
                    if !in_keys || bad.is_nan() {
                        assert!(!got[70 * row].is_finite());
                    }
                }
            }
        }
    }
}

#[test]
fn cache_numbers_are_those_of_the_formats() {
    let mut random = Random::new(26);
    let compute = Compute::new(Isa::detect(), 1).unwrap();
    for format in [KvFormat::F16, KvFormat::Q8_0] {
        let layout = KvLayout::new(format, 2, 80, 40).unwrap();
        let (keys, values) = (random.normals(70 * 160, 1.0), random.normals(70 * 80, 1.0));
        let mut cache = vec![0; layout.bytes(100).unwrap()];
        kv_store(&compute, &layout, &mut cache, 13, &keys, &values).unwrap();
        let (mut key, mut value) = (vec![0.0; 160], vec![0.0; 80]);
        for token in 0..70 {
            kv_load(&layout, &cache, 13 + token, &mut key, &mut value).unwrap();
            let pairs = key.chunks(80).zip(keys[token * 160..].chunks(80));
            let pairs = pairs.chain(value.chunks(40).zip(values[token * 80..].chunks(40)));
            for (got, x) in pairs.flat_map(|(a, b)| a.chunks(32).zip(b.chunks(32))) {
                let largest = x.iter().fold(0.0_f32, |a, x| a.max(x.abs()));
                for (got, x) in got.iter().zip(x) {
                    match format {
                        KvFormat::F16 => assert!((got - x).abs() <= x.abs() / 2048.0 + 1e-7),
                        KvFormat::Q8_0 => assert!((got - x).abs() <= largest / 253.0),
                    }
                }
            }
        }
    }
}

#[test]
fn sizes_of_a_cache() {
    let layout = KvLayout::new(KvFormat::F16, 3, 64, 64).unwrap();
    assert_eq!(layout.position_bytes(), 3 * 2 * 64 * 2);
    assert_eq!(layout.bytes(65), Some(128 * layout.position_bytes()));
    assert_eq!(layout.bytes(usize::MAX), None);
    let layout = KvLayout::new(KvFormat::Q8_0, 8, 128, 128).unwrap();
    assert_eq!(layout.position_bytes(), 8 * 2 * 128 / 32 * 34);
    assert!(KvLayout::new(KvFormat::F16, 0, 64, 64).is_err());
    assert!(KvLayout::new(KvFormat::F16, 1, 64, HEAD_DIM_MAX + 1).is_err());
}

#[test]
fn what_does_not_fit_is_an_error() {
    let compute = Compute::new(Isa::detect(), 1).unwrap();
    let sizes = AttentionSizes { heads: 4, kv_heads: 2, key_dim: 64, value_dim: 64, context: 128 };
    assert!(AttentionScratch::new(1, AttentionSizes { kv_heads: 3, ..sizes }).is_err());
    let mut scratch = AttentionScratch::new(1, sizes).unwrap();
    let layout = KvLayout::new(KvFormat::F16, 2, 64, 64).unwrap();
    let mut cache = vec![0; layout.bytes(128).unwrap()];
    let mut call = |heads, first_position, window, queries: usize, outputs: usize| {
        let job = AttentionJob {
            layout: &layout,
            cache: &cache,
            queries: &vec![0.0; queries],
            heads,
            first_position,
            window,
            scale: 1.0,
            softcap: None,
            sinks: None,
            out: &mut vec![0.0; outputs],
        };
        attention(&compute, &mut scratch, job)
    };
    assert_eq!(call(4, 0, None, 256, 256), Ok(()));
    assert_eq!(call(4, 127, None, 256, 256), Ok(()));
    assert_eq!(call(4, 0, None, 0, 0), Ok(()));
    assert!(matches!(call(4, 128, None, 256, 256), Err(ShapeError::Capacity { end: 129, .. })));
    assert_eq!(call(4, 1000, Some(64), 256, 256), Ok(()));
    assert!(call(3, 0, None, 192, 192).is_err());
    assert!(call(8, 0, None, 512, 512).is_err());
    assert!(call(4, 0, Some(0), 256, 256).is_err());
    assert!(call(4, 0, None, 255, 256).is_err());
    assert!(call(4, 0, None, 256, 255).is_err());
    let (keys, values) = (vec![0.0; 129 * 128], vec![0.0; 129 * 128]);
    assert!(kv_store(&compute, &layout, &mut cache, 0, &keys, &values).is_err());
    assert!(kv_store(&compute, &layout, &mut cache, 0, &keys[1..], &values).is_err());
    assert!(kv_store(&compute, &layout, &mut cache[1..], 0, &keys[..128], &values[..128]).is_err());
}
