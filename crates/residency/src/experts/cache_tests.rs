//! The cache and its policies, over random traffic and over traffic whose best answer is known.

use super::replay::{Trace, frequencies_known, optimum, replay};
use super::{Admit, Classes, ExpertCache, Policy, Standing};
use crate::extent::UnitId;
use crate::test_rng::Rng;

fn policies() -> impl Iterator<Item = Policy> {
    Policy::NAMES.into_iter().map(|name| Policy::named(name).unwrap())
}

/// Each layer prefers some experts, more so the larger `skew`: expert `e` with weight `1 / (e + 1)^skew`.
fn zipf(layers: u32, experts: u32, used: u32, tokens: u32, skew: f64, seed: u64) -> Trace {
    let mut rng = Rng::new(seed);
    let mut trace = Trace::new(layers, experts, used);
    let weights: Vec<f64> = (0..experts).map(|e| f64::from(e + 1).powf(-skew)).collect();
    for _ in 0..tokens {
        let mut picks = Vec::new();
        for layer in 0..layers {
            let mut chosen: Vec<u32> = Vec::new();
            while chosen.len() < used as usize {
                let mut at = rng.below(1 << 40) as f64 / (1u64 << 40) as f64;
                at *= weights.iter().sum::<f64>();
                let found = weights.iter().position(|w| {
                    at -= w;
                    at < 0.0
                });
                // Another order in each layer.
                let expert = (found.unwrap_or(0) as u32 * 7 + layer * 13) % experts;
                if !chosen.contains(&expert) {
                    chosen.push(expert);
                }
            }
            chosen.sort_unstable();
            picks.extend(chosen);
        }
        assert!(trace.push(&picks));
    }
    trace
}

#[test]
fn no_policy_beats_the_optimum_and_all_space_misses_each_unit_once() {
    for seed in 0..6 {
        let trace = zipf(5, 16, 3, 60, 0.3 * seed as f64, seed);
        for slots in [3, 4, 7, 16, 40, 79] {
            let best = optimum(&trace, slots, 0);
            for policy in policies() {
                let own = replay(&trace, slots, policy, 0);
                assert_eq!(own.hits + own.misses, best.hits + best.misses);
                assert!(own.hits <= best.hits, "{policy:?} {slots}: {own:?} {best:?}");
            }
        }
        let all = optimum(&trace, 80, 0);
        for policy in policies() {
            assert_eq!(replay(&trace, 80, policy, 0), all, "{policy:?}");
        }
        assert!(all.misses <= 80);
    }
}

/// The optimum by trying everything, for traces so small that this is possible.
fn exhaustive(demands: &[Vec<u32>], slots: usize, present: u32) -> u64 {
    let Some((demand, rest)) = demands.split_first() else { return 0 };
    let wanted = demand.iter().fold(0u32, |set, unit| set | 1 << unit);
    let misses = u64::from((wanted & !present).count_ones());
    let all = present | wanted;
    let optional = all & !wanted;
    let mut best = u64::MAX;
    let mut keep = optional;
    loop {
        if (keep | wanted).count_ones() as usize <= slots {
            best = best.min(exhaustive(rest, slots, keep | wanted));
        }
        if keep == 0 {
            return misses + best;
        }
        keep = (keep - 1) & optional;
    }
}

#[test]
fn the_optimum_is_what_trying_everything_finds() {
    for seed in 0..20 {
        let trace = zipf(2, 4, 2, 4, 0.4, 100 + seed);
        let mut rng = Rng::new(100 + seed);
        let slots = 3 + rng.below(3) as u32;
        let mut demands = Vec::new();
        for i in 0..trace.tokens() * 2 {
            let picks = &trace_picks(&trace)[i * 2..i * 2 + 2];
            demands.push(picks.iter().map(|e| (i % 2) as u32 * 4 + e).collect());
        }
        let best = exhaustive(&demands, slots as usize, 0);
        assert_eq!(optimum(&trace, slots, 0).misses, best, "seed {seed}, {slots} slots");
    }
}

fn trace_picks(trace: &Trace) -> Vec<u32> {
    trace.picks().to_vec()
}

#[test]
fn what_is_wanted_held_or_on_its_way_never_goes() {
    let layers: Vec<u32> = (0..40).map(|unit| unit / 10).collect();
    for policy in policies() {
        let mut rng = Rng::new(5);
        let mut cache = ExpertCache::new(&layers, 7, policy);
        let mut wanted: Vec<UnitId> = Vec::new();
        for step in 0..4000 {
            if step % 50 == 0 {
                cache.begin_pass(1);
                wanted.clear();
            }
            let unit = UnitId(rng.below(40) as u32);
            match cache.standing(unit) {
                Standing::Absent => {
                    let busy: Vec<_> = cache
                        .present()
                        .filter(|u| {
                            wanted.contains(u) || !matches!(cache.standing(*u), Standing::Ready(_))
                        })
                        .collect();
                    if wanted.len() < 4 && !wanted.contains(&unit) {
                        cache.want(unit, 1);
                        wanted.push(unit);
                    }
                    let admit = [Admit::Keep, Admit::Pass, Admit::Guess][rng.below(3) as usize];
                    match cache.claim(unit, admit) {
                        Some(claim) => {
                            assert!(claim.evicted.is_none_or(|gone| !busy.contains(&gone)));
                            assert_eq!(cache.standing(unit), Standing::Loading(claim.slot));
                        }
                        None => assert!(admit != Admit::Keep || busy.len() == 7, "{policy:?}"),
                    }
                }
                Standing::Loading(slot) => cache.filled(slot, rng.below(5) > 0),
                Standing::Failed(slot) => {
                    cache.forget_failed(slot);
                    assert_eq!(cache.standing(unit), Standing::Absent);
                }
                Standing::Ready(slot) => {
                    assert!(cache.hold(slot));
                    assert_eq!(cache.standing(unit), Standing::Held(slot));
                }
                Standing::Held(slot) => {
                    cache.release(slot);
                    wanted.retain(|u| *u != unit);
                }
            }
            assert!(cache.present().count() + cache.free_count() as usize == 7);
        }
    }
}

#[test]
fn a_prompt_that_passes_leaves_most_of_the_cache_alone() {
    let layers: Vec<u32> = (0..400).map(|unit| unit / 100).collect();
    for policy in policies() {
        let mut cache = ExpertCache::new(&layers, 200, policy);
        for unit in (0..400).step_by(2).map(UnitId) {
            cache.want(unit, 1);
            let claim = cache.claim(unit, Admit::Keep).unwrap();
            cache.filled(claim.slot, true);
        }
        cache.begin_pass(500);
        for unit in (1..400).step_by(2).map(UnitId) {
            cache.want(unit, 40);
            let claim = cache.claim(unit, Admit::Pass).unwrap();
            cache.filled(claim.slot, true);
            assert!(cache.hold(claim.slot));
            cache.release(claim.slot);
        }
        let kept = (0..400).step_by(2).map(UnitId);
        let kept = kept.filter(|u| cache.standing(*u) != Standing::Absent).count();
        assert!(kept >= 175, "{policy:?}: {kept} of 200 are left");
    }
}

#[test]
fn a_prompt_that_passes_does_not_wait_for_memory() {
    let layers = vec![0; 300];
    for policy in policies() {
        let mut cache = ExpertCache::new(&layers, 200, policy);
        cache.set_there(50, 50);
        cache.begin_pass(500);
        assert_eq!(cache.room_there(UnitId(0)), 50);
        let mut highest = 0;
        for unit in (0..300).map(UnitId) {
            cache.want(unit, 40);
            let claim = cache.claim(unit, Admit::Pass).expect("those before are done");
            highest = highest.max(claim.slot.0);
            cache.filled(claim.slot, true);
            assert!(cache.hold(claim.slot));
            cache.release(claim.slot);
        }
        assert_eq!((highest, cache.room_there(UnitId(0))), (49, 0), "{policy:?}");
        // Nor does what is to stay, while something may go for it,
        cache.begin_pass(1);
        let absent = |cache: &ExpertCache, from: u32| {
            let mut units = (from..300).map(UnitId);
            units.find(|u| cache.standing(*u) == Standing::Absent).unwrap()
        };
        let unit = absent(&cache, 0);
        cache.want(unit, 1);
        let claim = cache.claim(unit, Admit::Keep).unwrap();
        assert!(claim.slot.0 < 50 && claim.evicted.is_some(), "{policy:?}: {claim:?}");
        // unless memory is not brought in, or everything is needed; a guess is worth no waiting.
        cache.set_there(50, 200);
        let unit = absent(&cache, unit.0 + 1);
        cache.want(unit, 1);
        assert_eq!(cache.claim(unit, Admit::Keep).map(|claim| claim.slot.0), Some(50));
        cache.set_there(50, 50);
        (0..300).map(UnitId).for_each(|unit| {
            cache.want(unit, 1);
        });
        let unit = absent(&cache, unit.0 + 1);
        assert_eq!(cache.claim(unit, Admit::Guess), None, "{policy:?}");
        assert_eq!(cache.claim(unit, Admit::Keep).map(|claim| claim.slot.0), Some(51));
        // With no memory at all there are a few slots all the same, or nothing would ever move.
        let mut none = ExpertCache::new(&layers, 200, policy);
        none.set_there(0, 0);
        let claims = (0..300).filter_map(|unit| none.claim(UnitId(unit), Admit::Pass)).count();
        assert_eq!(claims, 24, "{policy:?}");
    }
}

#[test]
fn the_cycle_guard_keeps_what_comes_next() {
    // Every token uses the same unit of each of 10 layers, in 6 slots: by uses, the one used longest ago is
    // always the one that comes next, and nothing hits. With the guard half of them stay.
    let mut trace = Trace::new(10, 2, 1);
    for _ in 0..50 {
        trace.push(&[0; 10]);
    }
    assert_eq!(replay(&trace, 6, Policy::Lru, 1).hits, 0);
    let best = optimum(&trace, 6, 1);
    for name in ["lru-cycle", "lfu"] {
        let own = replay(&trace, 6, Policy::named(name).unwrap(), 1);
        assert!(own.hits * 100 >= best.hits * 85, "{name}: {own:?} of {best:?}");
    }
}

#[test]
fn the_policy_in_use_comes_near_the_optimum_where_traffic_is_skewed() {
    let trace = zipf(8, 64, 4, 400, 1.2, 9);
    for slots in [80, 150, 250] {
        let best = optimum(&trace, slots, 50).rate();
        let own = replay(&trace, slots, Policy::default(), 50).rate();
        assert!(own >= 0.85 * best, "{slots}: {own:.3} of {best:.3}");
        // Counting comes near to knowing the counts beforehand, and that stays below knowing the order.
        let known = frequencies_known(&trace, slots, 50).rate();
        assert!(own >= 0.95 * known && known <= best, "{slots}: {own:.3}, {known:.3} of {best:.3}");
    }
}

#[test]
fn a_change_of_topic_is_followed() {
    let mut trace = Trace::new(8, 64, 4);
    for seed in 0..4 {
        // Each has other favourites.
        let topic = zipf(8, 64, 4, 100, 1.2, seed);
        topic.picks().chunks(32).for_each(|picks| {
            let moved: Vec<u32> = picks.iter().map(|e| (e + 17 * seed as u32) % 64).collect();
            assert!(trace.push(&moved));
        });
    }
    let best = optimum(&trace, 170, 50).rate();
    let own = replay(&trace, 170, Policy::default(), 50).rate();
    assert!(own >= 0.82 * best, "{own:.3} of {best:.3}");
    let slow = replay(&trace, 170, Policy::named("lfu-layer:512").unwrap(), 50).rate();
    assert!(own > slow, "{own:.3} against {slow:.3}");
}

#[test]
fn names_of_policies() {
    assert_eq!(Policy::named("lfu:32"), Some(Policy::Lfu { half_life: 32.0 }));
    assert_eq!(Policy::named("lfu:-1"), None);
    assert_eq!(Policy::named("fifo"), None);
    assert_eq!(Policy::NAMES.iter().filter(|n| Policy::named(n).is_none()).count(), 0);
}

/// The layers in turn have small units and large ones; the large do not fit into small slots, and the small take no
/// large ones.
#[test]
fn units_take_slots_of_their_own_size_only() {
    let layers: Vec<u32> = (0..80).map(|unit| unit / 20).collect();
    let of_slot: Vec<u8> = (0..24).map(|slot| u8::from(slot % 3 == 0)).collect();
    let of_layer = [0, 1, 0, 1];
    for policy in policies() {
        let mut rng = Rng::new(3);
        let classes = Classes::new(&of_slot, &of_layer);
        let mut cache = ExpertCache::with_classes(&layers, &classes, policy);
        cache.set_there(12, 12);
        assert_eq!((cache.room_there(UnitId(0)), cache.room_there(UnitId(20))), (8, 4));
        assert_eq!((cache.even_share(UnitId(0)), cache.even_share(UnitId(20))), (8, 4));
        for step in 0..3000u32 {
            if step % 4 == 0 {
                cache.begin_pass(1);
            }
            let layer = step % 4;
            let unit = UnitId(layer * 20 + rng.below(20) as u32);
            let class = of_layer[layer as usize];
            cache.want(unit, 1);
            if cache.standing(unit) == Standing::Absent {
                let admit = [Admit::Keep, Admit::Pass, Admit::Guess][rng.below(3) as usize];
                let claim = match cache.claim(unit, admit) {
                    Some(claim) => claim,
                    None => cache.claim_wanted(unit, admit, |other| other.index()).unwrap(),
                };
                assert_eq!(of_slot[claim.slot.0 as usize], class, "{policy:?} {admit:?}");
                cache.filled(claim.slot, true);
            }
        }
        let held = |unit: &UnitId| layers[unit.index()] % 2 == 1;
        let (large, small): (Vec<_>, Vec<_>) = cache.present().partition(held);
        assert_eq!((large.len(), small.len()), (8, 16), "{policy:?}");
        // All large ones in use, none can come; a small one can.
        for unit in large {
            if let Standing::Ready(slot) = cache.standing(unit) {
                assert!(cache.hold(slot));
            }
        }
        assert!(cache.is_exhausted(UnitId(20)) && !cache.is_exhausted(UnitId(0)));
    }
}
