//! A disk that was ill for a moment: what failed fails the pass it was read for, and nothing after it.

use crate::experts::live::{Fetch, LiveExperts, Outcome};
use crate::experts::{Policy, Standing};
use crate::schedule::{Depth, Issue, Schedule, Wanted};
use crate::{
    ExpertUse, Extents, PinnedIn, Placement, Plan, PlanInput, RingParams, SlotId, SourceId,
    Streaming, UNIT_SLICES, UnitId, Use,
};

const MIB: u64 = 1 << 20;

fn plan(extents: &Extents, weights_budget_bytes: u64) -> Plan {
    let (streaming, pinned_in) = (Streaming::Direct, PinnedIn::Mapping);
    let ring = RingParams::default();
    let input = PlanInput { weights_budget_bytes, streaming, pinned_in, ring };
    Plan::new(extents.clone(), input).unwrap()
}

/// 40 tiles of 1 MiB each, and a plan with memory for half of them.
fn forty_tiles() -> (Extents, Plan) {
    let mut x = Extents::new();
    for i in 0..40 {
        x.push(SourceId(0), i * MIB, MIB, Use::Tile).unwrap();
    }
    let plan = plan(&x, 20 * MIB);
    (x, plan)
}

/// Starts all that may be started.
fn issues(schedule: &mut Schedule) -> Vec<Issue> {
    std::iter::from_fn(|| schedule.next_issue()).collect()
}

#[test]
fn tiles_that_failed_are_read_again_by_the_next_pass() {
    let (x, plan) = forty_tiles();
    assert!(plan.slots > 2 && plan.sums.pinned_bytes > 8 * MIB, "{:?}", plan.sums);
    let depth = Depth { slots: 64, pinned: 64, shared: false };
    let mut schedule = Schedule::new(&plan, depth);
    let is_failed = |to: Wanted| matches!(to, Wanted::Failed(_));
    // Ill for two passes, then well.
    for is_well in [false, false, true, true] {
        schedule.begin_pass(|_| false);
        for issue in issues(&mut schedule) {
            schedule.completed(issue, is_well);
        }
        assert!(issues(&mut schedule).is_empty(), "what failed is read again in the same pass");
        let first = |is: fn(&Placement) -> bool| {
            x.iter().map(|x| x.id).find(|id| plan.placement(*id).as_ref().is_some_and(is)).unwrap()
        };
        let tile = schedule.want(first(|p| matches!(p, Placement::Streamed(_))));
        let pin = schedule.want(first(|p| *p == Placement::Pinned));
        let wanted = [tile, pin];
        assert_eq!(wanted.map(is_failed), [!is_well; 2], "{wanted:?}");
    }
    assert!(schedule.pinned_complete());
}

/// What is still with the disk when a pass begins may have failed before: it is read again, and fails once only.
#[test]
fn tiles_that_were_under_way_are_read_again() {
    let (_, plan) = forty_tiles();
    let mut schedule = Schedule::new(&plan, Depth { slots: 64, pinned: 64, shared: false });
    schedule.begin_pass(|_| false);
    let under_way = issues(&mut schedule);
    schedule.begin_pass(|_| false);
    for &issue in &under_way {
        assert!(!schedule.completed(issue, false), "nobody is told");
    }
    let mut again = issues(&mut schedule);
    let by_extent = |issue: &Issue| issue.extent;
    again.sort_by_key(by_extent);
    let mut before = under_way.clone();
    before.sort_by_key(by_extent);
    assert_eq!(
        again.iter().map(by_extent).collect::<Vec<_>>(),
        before.iter().map(by_extent).collect::<Vec<_>>()
    );
    assert!(again.iter().all(|&issue| schedule.completed(issue, false)), "the disk is still ill");
}

/// A cache of two slots, as at the floor, and its first units.
fn floor_cache() -> (LiveExperts, [UnitId; 3]) {
    let mut x = Extents::new();
    let slice = |unit: u64, slice: u64| (SourceId(0), MIB + (unit * 3 + slice) * 8192, 8192);
    x.push(SourceId(0), 0, 4096, Use::Tile).unwrap();
    let units: Vec<_> = (0..1000)
        .map(|u| x.push_unit(0, 2, [slice(u, 0), slice(u, 1), slice(u, 2)]).unwrap())
        .collect();
    let floor = plan(&x, 1 << 40).sums.floor_bytes;
    let plan = plan(&x, floor);
    assert_eq!(plan.experts.slots, 2);
    (LiveExperts::new(&plan, Policy::default()), [units[0], units[1], units[2]])
}

/// Asks for a unit and gets a slot for it.
fn fetch(experts: &mut LiveExperts, unit: UnitId) -> Option<Fetch> {
    experts.demand(&[ExpertUse { unit, tokens: 1 }], false);
    experts.next_fetch()
}

/// All of a unit's slices come back.
fn come(experts: &mut LiveExperts, slot: SlotId, outcome: Outcome) {
    for _ in 0..UNIT_SLICES {
        experts.slice_done(slot, outcome);
    }
}

fn begin_pass(experts: &mut LiveExperts) {
    while experts.forget_failure().is_some() {}
    experts.begin_pass(1);
}

#[test]
fn an_expert_that_failed_leaves_its_slot_to_the_next_pass() {
    let (mut experts, [held, failed, other]) = floor_cache();
    begin_pass(&mut experts);
    let slot = fetch(&mut experts, held).unwrap().claim.slot;
    come(&mut experts, slot, Outcome::Read);
    assert!(experts.cache().hold(slot));
    let slot = fetch(&mut experts, failed).unwrap().claim.slot;
    come(&mut experts, slot, Outcome::Failed);
    assert_eq!(experts.standing(failed), Standing::Failed(slot), "this pass is told");
    begin_pass(&mut experts);
    assert_eq!(experts.standing(failed), Standing::Absent);
    assert_eq!(fetch(&mut experts, other).unwrap().claim.slot, slot);
}

#[test]
fn a_slot_is_not_free_before_its_last_slice_has_come_back() {
    let (mut experts, [unit, ..]) = floor_cache();
    begin_pass(&mut experts);
    let slot = fetch(&mut experts, unit).unwrap().claim.slot;
    experts.slice_done(slot, Outcome::Failed);
    begin_pass(&mut experts);
    assert_eq!(experts.standing(unit), Standing::Loading(slot));
    assert!(fetch(&mut experts, unit).is_none());
    experts.slice_done(slot, Outcome::Read);
    assert!(experts.slice_done(slot, Outcome::Read).forgotten);
    assert_eq!(experts.next_fetch().map(|fetch| fetch.unit), Some(unit), "read anew");
    come(&mut experts, slot, Outcome::Failed);
    assert!(matches!(experts.standing(unit), Standing::Failed(_)), "the disk is still ill");
}

#[test]
fn an_expert_that_was_under_way_is_read_again() {
    let (mut experts, [unit, ..]) = floor_cache();
    begin_pass(&mut experts);
    let slot = fetch(&mut experts, unit).unwrap().claim.slot;
    begin_pass(&mut experts);
    assert!(fetch(&mut experts, unit).is_none(), "it is on its way");
    come(&mut experts, slot, Outcome::Failed);
    assert_eq!(experts.next_fetch().map(|fetch| fetch.unit), Some(unit));
    come(&mut experts, slot, Outcome::Failed);
    assert!(matches!(experts.standing(unit), Standing::Failed(_)), "the disk is still ill");
}
