//! Experts in the live store: the file's bytes whatever the budget and the backend, what stays under a
//! long prompt, errors.

mod common;

use std::fs::OpenOptions;
use std::time::{Duration, Instant};

use common::{KINDS, MIB, Model, byte_at, check};
use lowtide_mapping::install_sigbus_guard;
use lowtide_residency::{
    ExpertUse, Extents, PinnedIn, Plan, PlanError, PlanInput, ResidencyError, RingParams, SourceId,
    Store, StoreOptions, Streaming, UnitId, Use,
};

const LAYERS: u32 = 3;
const EXPERTS: u32 = 16;
const USED: u32 = 4;
const SLICE: u64 = 100_000;

/// Slices at odd offsets, one kind behind the other as files have them, and a trunk between layers. The
/// layer in the middle has larger ones, as files that mix formats do.
fn extents(model: &Model) -> (Extents, Vec<UnitId>) {
    let mut x = Extents::new();
    let mut units = Vec::new();
    let mut at = 1234;
    for layer in 0..LAYERS {
        x.push(SourceId(0), at, MIB - 100, Use::Tile).unwrap();
        at += MIB - 100;
        let large = if layer == 1 { SLICE / 2 } else { 0 };
        let lens = [SLICE + 32, SLICE + 32, SLICE + 777 * u64::from(layer) + large];
        for expert in 0..u64::from(EXPERTS) {
            let mut start = at;
            let slices = lens.map(|len| {
                let slice = (SourceId(0), start + expert * len, len);
                start += u64::from(EXPERTS) * len;
                slice
            });
            units.push(x.push_unit(layer, USED, slices).unwrap());
        }
        at += u64::from(EXPERTS) * lens.iter().sum::<u64>();
    }
    assert!(at < model.bytes);
    (x, units)
}

fn plan(model: &Model, budget: u64, kind: (Streaming, PinnedIn)) -> Result<Plan, PlanError> {
    let (streaming, pinned_in) = kind;
    let ring = RingParams::default();
    let input = PlanInput { weights_budget_bytes: budget, streaming, pinned_in, ring };
    Plan::new(extents(model).0, input)
}

fn store(model: &Model, budget: u64, kind: (Streaming, PinnedIn)) -> Store {
    let plan = plan(model, budget, kind).unwrap();
    assert!(plan.memory_bytes() <= budget, "{:?}", plan.sums);
    Store::open(vec![model.source()], plan, StoreOptions::default()).unwrap()
}

/// Takes a unit and compares every byte of its slices.
fn check_unit(store: &Store, unit: UnitId) {
    let expert = store.acquire_expert(unit).unwrap_or_else(|e| panic!("{unit}: {e}"));
    for (i, id) in store.plan().extents().units()[unit.index()].slices.into_iter().enumerate() {
        let x = store.plan().extents()[id.index()];
        assert_eq!(expert.slice(i).len() as u64, x.len, "{unit} {x}");
        let wrong =
            expert.slice(i).iter().zip(x.offset..).position(|(b, offset)| *b != byte_at(offset));
        assert_eq!(wrong, None, "first wrong byte of {unit} {x}");
    }
}

fn uses(units: &[UnitId], layer: u32, experts: impl IntoIterator<Item = u32>) -> Vec<ExpertUse> {
    let unit = |expert| units[(layer * EXPERTS + expert) as usize];
    experts.into_iter().map(|expert| ExpertUse { unit: unit(expert), tokens: 1 }).collect()
}

#[test]
fn every_backend_gives_the_files_bytes_in_any_budget() {
    let model = Model::write("experts", 24 * MIB);
    let (_, units) = extents(&model);
    for kind in KINDS {
        let everything = plan(&model, 1 << 40, kind).unwrap().sums.everything_bytes;
        let floor = plan(&model, 1 << 40, kind).unwrap().sums.floor_bytes;
        let below = plan(&model, floor - 1, kind);
        assert!(matches!(below, Err(PlanError::BelowFloor { .. })), "{kind:?}");
        for budget in [floor, floor + MIB, floor + 5 * MIB, everything - 1, everything] {
            let store = store(&model, budget, kind);
            for token in 0..6 {
                store.begin_pass(|_| false).unwrap();
                for layer in 0..LAYERS {
                    let tile = store.plan().extents().iter().filter(|x| x.usage == Use::Tile);
                    check(&store, tile.clone().nth(layer as usize).unwrap().id);
                    let wanted = uses(&units, layer, (0..USED).map(|i| (i * 3 + token) % EXPERTS));
                    store.demand_experts(&wanted, false).unwrap();
                    wanted.iter().rev().for_each(|u| check_unit(&store, u.unit));
                }
                store.end_pass().unwrap();
            }
            let total = store.stats().total;
            let counted = u64::from(6 * LAYERS * USED);
            let is_cached = store.plan().experts.slots > 0;
            let expected = if is_cached { counted } else { 0 };
            assert_eq!(total.expert_hits + total.expert_misses, expected, "{kind:?} {budget}");
            let layers = store.expert_layers();
            let misses: u64 = layers.iter().map(|layer| layer.misses).sum();
            assert_eq!(misses, total.expert_misses);
        }
    }
}

/// A read that came back while the store looked at what else there was to do was once taken without being
/// noticed, and whoever waited for it was told that it would never come: once in some ten thousand reads.
#[test]
fn what_comes_back_between_two_looks_is_noticed() {
    let model = Model::write("expert-looks", 24 * MIB);
    let mut x = Extents::new();
    x.push(SourceId(0), 0, 4096, Use::Tile).unwrap();
    let slices =
        |unit: u64| [0, 1, 2].map(|slice| (SourceId(0), (1 + unit * 3 + slice) * 4096, 4096));
    let units: Vec<_> = (0..1900).map(|unit| x.push_unit(0, 2, slices(unit)).unwrap()).collect();
    let input = |weights_budget_bytes| PlanInput {
        weights_budget_bytes,
        streaming: Streaming::Direct,
        pinned_in: PinnedIn::Mapping,
        ring: RingParams::default(),
    };
    let floor = Plan::new(x.clone(), input(1 << 40)).unwrap().sums.floor_bytes;
    let plan = Plan::new(x, input(floor)).unwrap();
    assert!((1..1000).contains(&plan.experts.slots), "{}", plan.experts.slots);
    let store = Store::open(vec![model.source()], plan, StoreOptions::default()).unwrap();
    store.begin_pass(|_| false).unwrap();
    // Asks at any time around the return of a read, which takes some 50 to 150 us.
    for i in 0..40_000 {
        let unit = units[i % units.len()];
        store.demand_experts(&[ExpertUse { unit, tokens: 1 }], false).unwrap();
        let until = Instant::now() + Duration::from_nanos(i as u64 * 7919 % 150_000);
        while Instant::now() < until {}
        check_unit(&store, unit);
    }
    let pass = store.end_pass().unwrap();
    assert!(pass.acquired == 40_000 && pass.expert_misses > 10_000, "{pass:?}");
}

#[test]
fn more_budget_never_has_fewer_slots_and_the_trunk_comes_first() {
    let model = Model::write("expert-plans", 24 * MIB);
    for kind in KINDS {
        let all = plan(&model, 1 << 40, kind).unwrap().sums;
        let mut last = (0, 0);
        for budget in (all.floor_bytes..all.everything_bytes).step_by(100_000) {
            let plan = plan(&model, budget, kind).unwrap();
            assert!(plan.memory_bytes() <= budget);
            assert!(plan.experts.slots >= last.0, "{kind:?} {budget}");
            assert!(plan.sums.pinned_bytes >= last.1 || plan.experts.slots > last.0);
            if plan.experts.slots > USED + 2 {
                assert!(plan.streamed().is_empty(), "{kind:?} {budget}: {:?}", plan.sums);
            }
            last = (plan.experts.slots, plan.sums.pinned_bytes);
        }
        assert!(last.0 > EXPERTS);
    }
}

#[test]
fn a_long_prompt_reads_each_expert_once_and_keeps_what_is_cached() {
    let model = Model::write("expert-stream", 24 * MIB);
    let (_, units) = extents(&model);
    for kind in [KINDS[0], KINDS[2]] {
        let store = store(&model, 15 * MIB, kind);
        let slots = store.plan().experts.slots;
        assert!((24..LAYERS * EXPERTS).contains(&slots), "{slots}");
        assert_eq!(store.plan().experts.classes().len(), 2);
        let token = |experts: [u32; 4]| {
            store.begin_pass(|_| false).unwrap();
            for layer in 0..LAYERS {
                let wanted = uses(&units, layer, experts);
                store.demand_experts(&wanted, false).unwrap();
                wanted.iter().for_each(|u| check_unit(&store, u.unit));
            }
            store.end_pass().unwrap()
        };
        token([0, 1, 2, 3]);
        token([4, 5, 6, 7]);
        assert_eq!(token([0, 1, 2, 3]).expert_misses, 0);
        store.begin_pass_of(500, |_| false).unwrap();
        for layer in 0..LAYERS {
            let mut wanted = uses(&units, layer, 0..EXPERTS);
            wanted.iter_mut().for_each(|u| u.tokens = 100);
            store.demand_experts(&wanted, true).unwrap();
            wanted.iter().for_each(|u| check_unit(&store, u.unit));
        }
        let prompt = store.end_pass().unwrap();
        assert!(prompt.expert_misses <= u64::from(LAYERS * EXPERTS) - 20, "{prompt:?}");
        let most: u64 = store.plan().extents().iter().map(|x| x.len + 8192).sum();
        assert!(prompt.read_bytes() <= most, "{kind:?}: {} read", prompt.read_bytes());
        let after = token([0, 1, 2, 3]);
        assert!(after.expert_hits >= 8, "{kind:?}: the prompt flushed the cache: {after:?}");
    }
}

#[test]
fn passes_given_up_guesses_and_misuse() {
    let model = Model::write("expert-misuse", 24 * MIB);
    let (_, units) = extents(&model);
    let store = store(&model, 10 * MIB, KINDS[0]);
    for round in 0..5 {
        store.begin_pass(|_| false).unwrap();
        store.guess_experts(&units[round..round + 3]);
        store.demand_experts(&uses(&units, 0, [1, 5, 9, 15]), false).unwrap();
        check_unit(&store, units[5]);
        // Not asked for, and taken all the same.
        check_unit(&store, units[40 + round]);
        let held = store.acquire_expert(units[9]).unwrap();
        assert!(matches!(store.acquire_expert(units[9]), Err(ResidencyError::Held { .. })));
        drop(held);
    }
    let slice = store.plan().extents().units()[0].slices[0];
    assert!(matches!(store.acquire(slice), Err(ResidencyError::Unknown { .. })));
}

/// Each layer guesses four experts of the next, of which two are asked for.
#[test]
fn guesses_are_read_or_withdrawn_and_change_no_byte() {
    let model = Model::write("expert-guesses", 24 * MIB);
    let (_, units) = extents(&model);
    for kind in KINDS {
        let store = store(&model, 14 * MIB, kind);
        if store.plan().experts.slots == 0 {
            continue;
        }
        for token in 0..200 {
            store.begin_pass(|_| false).unwrap();
            for layer in 0..LAYERS {
                let first = (token * 5 + layer) % EXPERTS;
                let wanted = uses(&units, layer, (0..USED).map(|i| (first + i) % EXPERTS));
                store.demand_experts(&wanted, false).unwrap();
                let next = (token * 5 + layer + 1 + 2) % EXPERTS;
                let guessed =
                    uses(&units, (layer + 1) % LAYERS, (0..4).map(|i| (next + i) % EXPERTS));
                let guessed: Vec<UnitId> = guessed.iter().map(|u| u.unit).collect();
                store.guess_experts(&guessed);
                wanted.iter().rev().for_each(|u| check_unit(&store, u.unit));
            }
            store.end_pass().unwrap();
        }
        let total = store.stats().total;
        let (guesses, right) = (total.expert_guesses, total.expert_guesses_right);
        assert!(right > 0 && guesses > 0, "{kind:?}: {right} of {guesses}");
        assert_eq!(total.expert_hits + total.expert_misses, u64::from(200 * LAYERS * USED));
        // Whatever became of a guess, each unit can be had.
        store.begin_pass(|_| false).unwrap();
        units.iter().for_each(|unit| check_unit(&store, *unit));
    }
}

#[test]
fn a_file_cut_short_is_an_error_that_names_the_slice() {
    install_sigbus_guard().unwrap();
    let model = Model::write("expert-cut", 24 * MIB);
    let (_, units) = extents(&model);
    for kind in [KINDS[0], KINDS[2]] {
        let plan = plan(&model, 10 * MIB, kind).unwrap();
        // No look at the file in between: the reads themselves must find out.
        let options =
            StoreOptions { check_interval: Duration::from_secs(3600), ..StoreOptions::default() };
        let store = Store::open(vec![model.source()], plan, options).unwrap();
        store.begin_pass(|_| false).unwrap();
        check_unit(&store, units[0]);
        let file = OpenOptions::new().write(true).open(&model.path).unwrap();
        file.set_len(6 * MIB).unwrap();
        let last = units[(LAYERS * EXPERTS - 1) as usize];
        store.demand_experts(&[ExpertUse { unit: last, tokens: 1 }], false).unwrap();
        let error = store.acquire_expert(last).err().expect("the file is too short");
        assert!(error.is_model_fault(), "{kind:?}: {error}");
        assert!(matches!(error, ResidencyError::Read { .. }), "{kind:?}: {error}");
        file.set_len(model.bytes).unwrap();
    }
}
