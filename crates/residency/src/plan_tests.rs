//! The plan as a whole: sums, floor, monotony, and the simulator over it.

use crate::sim::{FakeCompute, FakeDisk, SHAPES, Shape, simulate, table_row};
use crate::test_rng::Rng;
use crate::{
    Extents, PinnedIn, Placement, Plan, PlanError, PlanInput, RingParams, SourceId, Streaming, Use,
};

const MIB: u64 = 1 << 20;
const GB: u64 = 1_000_000_000;

fn input(weights_budget_bytes: u64, streaming: Streaming, pinned_in: PinnedIn) -> PlanInput {
    PlanInput { weights_budget_bytes, streaming, pinned_in, ring: RingParams::default() }
}

const KINDS: [(Streaming, PinnedIn); 4] = [
    (Streaming::Direct, PinnedIn::Mapping),
    (Streaming::Direct, PinnedIn::Arena),
    (Streaming::Mapped, PinnedIn::Mapping),
    (Streaming::Mapped, PinnedIn::Arena),
];

fn random_extents(rng: &mut Rng) -> Extents {
    let mut x = Extents::new();
    let mut at = rng.below(100_000);
    let tile = MIB + rng.below(7 * MIB);
    for i in 0..20 + rng.below(300) {
        let (len, usage) = match i % 7 {
            0 => (1 + rng.below(40_000), Use::Always),
            1 if i < 7 => (1 + rng.below(50 * MIB), Use::Lookup),
            _ => (tile / (1 + rng.below(4)) + rng.below(1000), Use::Tile),
        };
        x.push(SourceId(rng.below(2) as u32), at, len, usage).unwrap();
        at += len + rng.below(64);
    }
    x
}

/// Every figure of a plan, from its placements.
fn check_sums(plan: &Plan) {
    let page = |id: usize| {
        let r = plan.extents()[id].aligned(4096);
        r.end - r.start
    };
    let (mut pinned, mut streamed, mut next) = (0, 0, 0);
    for x in plan.extents().iter() {
        match plan.placement(x.id).unwrap() {
            Placement::Pinned => pinned += page(x.id.index()),
            Placement::Streamed(i) => {
                assert_eq!(i, next);
                assert_eq!(plan.streamed()[i as usize], x.id);
                assert!(page(x.id.index()) <= plan.slot_bytes);
                assert_eq!(x.usage, Use::Tile);
                next += 1;
                streamed += page(x.id.index());
            }
            Placement::Rows => assert_eq!(x.usage, Use::Lookup),
            Placement::Cached => panic!("{x} is no expert"),
        }
    }
    assert_eq!(plan.sums.streamed_bytes, streamed);
    assert_eq!(plan.sums.ring_bytes, u64::from(plan.slots) * plan.slot_bytes);
    if plan.is_all_resident() {
        assert_eq!(plan.slots, 0);
    } else {
        assert_eq!(plan.sums.pinned_bytes, pinned);
        assert!(plan.slots >= 3);
    }
    assert!(plan.memory_bytes() <= plan.input.weights_budget_bytes, "{:?}", plan.sums);
}

#[test]
fn sums_are_right_and_more_budget_pins_more_down_to_the_floor() {
    let mut rng = Rng::new(1);
    for round in 0..12 {
        let extents = random_extents(&mut rng);
        for (streaming, pinned_in) in KINDS {
            let all = u64::MAX / 2;
            let plan = Plan::new(extents.clone(), input(all, streaming, pinned_in)).unwrap();
            let (floor, everything) = (plan.sums.floor_bytes, plan.sums.everything_bytes);
            assert!(plan.is_all_resident() && floor <= everything);
            let (mut last_pinned, mut last_streamed) = (0, u64::MAX);
            for i in 0..=80 {
                let budget = floor + (everything - floor) * i / 80;
                let plan = Plan::new(extents.clone(), input(budget, streaming, pinned_in))
                    .unwrap_or_else(|e| panic!("round {round} at {budget}: {e}"));
                check_sums(&plan);
                assert!(plan.is_all_resident() || i < 80);
                assert_eq!(plan.rows_are_resident(), i == 80 && pinned_in == PinnedIn::Mapping);
                assert!(plan.sums.streamed_bytes <= last_streamed);
                assert!(i == 80 || plan.sums.pinned_bytes >= last_pinned);
                (last_pinned, last_streamed) = (plan.sums.pinned_bytes, plan.sums.streamed_bytes);
            }
            let below = Plan::new(extents.clone(), input(floor - 1, streaming, pinned_in));
            match below {
                Err(PlanError::BelowFloor { floor_bytes, budget_bytes, .. }) => {
                    assert_eq!((floor_bytes, budget_bytes), (floor, floor - 1));
                }
                other => panic!("below the floor: {:?}", other.map(|p| p.sums)),
            }
        }
    }
}

#[test]
fn senseless_parameters_are_errors() {
    for ring in [
        RingParams { slots_min: 1, ..RingParams::default() },
        RingParams { budget_divisor: 1, ..RingParams::default() },
        RingParams { queue_depth: 0, ..RingParams::default() },
    ] {
        let input = PlanInput { ring, ..input(GB, Streaming::Direct, PinnedIn::Arena) };
        assert!(matches!(Plan::new(Extents::new(), input), Err(PlanError::Parameter { .. })));
    }
    let empty = Plan::new(Extents::new(), input(0, Streaming::Mapped, PinnedIn::Mapping)).unwrap();
    assert!(empty.is_all_resident());
}

#[test]
fn the_30b_shape_fits_where_the_issue_wants_it() {
    let shape = SHAPES.iter().find(|s| s.name == "30B").unwrap();
    for (budget, pinned_min) in [(GB, GB / 2), (6 * GB, 58 * GB / 10), (16 * GB, 157 * GB / 10)] {
        let extents = shape.extents(18, crate::tile_target_bytes(budget)).unwrap();
        let all = Shape::pass_bytes(&extents);
        assert!((17 * GB..19 * GB).contains(&all), "{all}");
        let plan = Plan::new(extents, input(budget, Streaming::Direct, PinnedIn::Mapping)).unwrap();
        check_sums(&plan);
        assert!(plan.sums.pinned_bytes > pinned_min, "{budget}: {:?}", plan.sums);
        assert!(plan.sums.floor_bytes < 60 * MIB, "{:?}", plan.sums);
    }
}

#[test]
fn the_simulated_disk_is_the_bound_where_it_should_be() {
    let compute = FakeCompute { bytes_per_s: 15e9, pass_s: 0.005, tile_s: 5e-6 };
    let shape = SHAPES.iter().find(|s| s.name == "30B").unwrap();
    let mut last = f64::MAX;
    for budget in [GB, 2 * GB, 4 * GB, 6 * GB, 10 * GB, 16 * GB, 17 * GB, 24 * GB] {
        let disk = FakeDisk::new(1.6e9, 0.5e-3, 8);
        let row = table_row(shape, budget, disk, compute).unwrap().unwrap();
        assert!(row.achieved > 0.97, "{budget}: {row:?}");
        assert!(row.pass_s <= last * 1.001, "{budget}: {row:?} after {last}");
        last = row.pass_s;
    }
    assert!((1.1..1.4).contains(&last), "all resident: {last}");
}

#[test]
fn a_disk_that_slows_beside_the_processor_costs_its_share_of_the_computing() {
    let extents = SHAPES[0].extents(18, 4 * MIB).unwrap();
    let plan = Plan::new(extents, input(GB, Streaming::Direct, PinnedIn::Arena)).unwrap();
    let compute = FakeCompute { bytes_per_s: 15e9, pass_s: 0.0, tile_s: 0.0 };
    let alone = FakeDisk::new(2e9, 1e-4, 8);
    let seconds = |disk| simulate(&plan, disk, compute, 3).unwrap()[2].seconds;
    let slower = seconds(FakeDisk { beside_compute: 0.25, ..alone }) - seconds(alone);
    // The disk bounds this pass and is busy throughout: it loses three quarters of the computing.
    let expected = 0.75 * Shape::pass_bytes(plan.extents()) as f64 / compute.bytes_per_s;
    assert!((0.9..1.1).contains(&(slower / expected)), "{slower} s, {expected} s expected");
}

#[test]
fn a_fault_reaches_the_caller_and_the_pass_goes_on() {
    let extents = SHAPES[0].extents(18, 4 * MIB).unwrap();
    let plan = Plan::new(extents, input(GB, Streaming::Direct, PinnedIn::Arena)).unwrap();
    let compute = FakeCompute { bytes_per_s: 15e9, pass_s: 0.0, tile_s: 0.0 };
    let disk = FakeDisk { fault_every: 50, ..FakeDisk::new(2e9, 1e-4, 8) };
    let passes = simulate(&plan, disk, compute, 3).unwrap();
    assert!(passes.iter().all(|p| p.faults > 5), "{passes:?}");
    // Only what failed was read twice.
    let whole = plan.sums.streamed_bytes;
    assert!(passes[2].read_bytes < whole + (passes[2].faults + 2) * plan.slot_bytes);
}
