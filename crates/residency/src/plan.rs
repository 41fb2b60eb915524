//! The plan: which extents stay, which are streamed, and through how large a ring. Pure
//! arithmetic; it runs on any machine and in the simulator.
//!
//! For a cyclic scan a fixed pinned subset is optimal (least-recently-used gets no hit at all), so
//! the only questions are how large the ring is and which tiles are pinned. Pinned tiles are spread
//! evenly through depth, by bytes: between any two streamed tiles lies the same share of pinned
//! ones, so that disk and compute overlap from the first layer to the last.

use crate::error::PlanError;
use crate::experts::{ExpertSlots, expert_slots, unit_spans};
use crate::extent::{Extent, ExtentId, Extents, Use, joined};
use crate::select::{Cost, spread};

/// Page size, and the alignment that direct reads ask for.
pub const PAGE_BYTES: u64 = 4096;

/// Bytes of address space one lowest page table covers.
const TABLE_SPAN_BYTES: u64 = 512 * PAGE_BYTES;

/// How streamed tiles come in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Streaming {
    /// Pages of the mapping are populated ahead of use and dropped behind it.
    Mapped,
    /// O_DIRECT reads into buffers of our own; the page cache is left alone.
    Direct,
}

/// Where pinned extents live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PinnedIn {
    /// In the mapping: shared with other processes, warm after a restart.
    Mapping,
    /// In buffers of our own (huge pages), read by O_DIRECT.
    Arena,
}

/// How large the ring should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RingParams {
    /// Slots that must be there: as many as the caller holds at a time, and two to be read into.
    pub slots_min: u32,
    /// Bytes beyond which more ring does not help: what the disk delivers in the time a hiccup of
    /// disk or compute lasts.
    pub bytes_target: u64,
    /// The ring takes at most 1/this of the budget for weights.
    pub budget_divisor: u64,
    /// Reads under way at once.
    pub queue_depth: u32,
}

impl Default for RingParams {
    fn default() -> RingParams {
        RingParams { slots_min: 3, bytes_target: 128 << 20, budget_divisor: 16, queue_depth: 8 }
    }
}

impl RingParams {
    /// The parameters for a disk whose bandwidth has been measured: room for what it delivers in
    /// 50 ms, between 64 and 512 MiB.
    #[must_use]
    pub fn for_disk(bytes_per_s: u64, queue_depth: u32) -> RingParams {
        let target = (bytes_per_s / 20).clamp(64 << 20, 512 << 20);
        RingParams { bytes_target: target, queue_depth: queue_depth.max(1), ..Self::default() }
    }
}

/// What a plan is made from, besides the extents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlanInput {
    /// Bytes for weights: the budget less KV cache, scratch, vocabulary and all other fixed costs.
    /// Page tables and page cache bookkeeping for the weights come out of this figure.
    pub weights_budget_bytes: u64,
    /// How streamed tiles come in.
    pub streaming: Streaming,
    /// Where pinned extents live.
    pub pinned_in: PinnedIn,
    /// How large the ring should be.
    pub ring: RingParams,
}

/// Where an extent's bytes are when they are used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Placement {
    /// Resident from its first use on.
    Pinned,
    /// The n-th streamed tile of a pass.
    Streamed(u32),
    /// Read row by row; from the mapping if everything is resident there.
    Rows,
    /// In the cache of experts while its unit is.
    Cached,
}

/// The decision for one model, one budget.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    extents: Extents,
    placement: Vec<Placement>,
    streamed: Vec<ExtentId>,
    /// What it was made from.
    pub input: PlanInput,
    /// What it comes to.
    pub sums: Sums,
    /// Slots of the ring, 0 if everything is resident.
    pub slots: u32,
    /// Bytes of one slot.
    pub slot_bytes: u64,
    /// The cache of experts; no slots if there are none or everything is resident.
    pub experts: ExpertSlots,
}

/// The plan in figures, all in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sums {
    /// Extents that stay, in whole pages.
    pub pinned_bytes: u64,
    /// Of which: the ones that are pinned whatever the budget.
    pub always_bytes: u64,
    /// The ring.
    pub ring_bytes: u64,
    /// The cache of experts.
    pub expert_bytes: u64,
    /// Page tables and page cache bookkeeping for the above (an upper bound).
    pub overhead_bytes: u64,
    /// Read in every pass, in whole pages.
    pub streamed_bytes: u64,
    /// Of the extents read row by row.
    pub lookup_bytes: u64,
    /// The smallest budget for weights that works.
    pub floor_bytes: u64,
    /// The budget for weights with which everything is resident.
    pub everything_bytes: u64,
}

impl Plan {
    /// Decides what stays and what is streamed.
    ///
    /// # Errors
    /// [`PlanError::BelowFloor`] if the budget does not hold the small extents and the smallest
    /// ring; [`PlanError::Parameter`] for parameters out of range.
    pub fn new(extents: Extents, input: PlanInput) -> Result<Plan, PlanError> {
        check(&input)?;
        let always = total(&extents, Use::Always, &input);
        let tiles = total(&extents, Use::Tile, &input);
        let slot_bytes = slot_bytes(&extents);
        let base = base_bytes(&extents, &input);
        let ring_min =
            ring_cost(slot_bytes, &input).saturating_mul(u64::from(input.ring.slots_min));
        let mut sums = Sums {
            always_bytes: always.bytes,
            lookup_bytes: lookup_bytes(&extents),
            everything_bytes: everything_bytes(&extents, &input),
            ..Sums::default()
        };
        let unit_cost = ring_cost(unit_spans(&extents).iter().sum(), &input);
        let fixed = base.saturating_add(always.all());
        let smallest = ring_min.min(tiles.all());
        let experts_min = expert_slots::floor_slots(&extents) * unit_cost;
        sums.floor_bytes = fixed.saturating_add(smallest).saturating_add(experts_min);
        sums.floor_bytes = sums.floor_bytes.min(sums.everything_bytes);
        let budget = input.weights_budget_bytes;
        if budget >= sums.everything_bytes {
            return Ok(Plan::all_resident(extents, input, sums));
        }
        let free = budget.checked_sub(fixed).filter(|&free| free >= smallest + experts_min);
        let Some(free) = free else {
            return Err(PlanError::BelowFloor {
                floor_bytes: sums.floor_bytes,
                always_bytes: fixed,
                ring_bytes: smallest + experts_min,
                slots: input.ring.slots_min,
                slot_bytes,
                budget_bytes: budget,
            });
        };
        let slot_cost = |bytes| ring_cost(bytes, &input);
        let experts = ExpertSlots::for_budget(&extents, free, (smallest, tiles.all()), slot_cost);
        let free = free - experts.cost(slot_cost);
        let ring = ring_wanted(free, tiles.all(), ring_min, &input);
        let chosen = spread(&tile_costs(&extents, &input), free - ring);
        let slots = u32::try_from(ring / ring_cost(slot_bytes, &input).max(1)).unwrap_or(u32::MAX);
        let plan = Plan::partly_resident(
            extents,
            input,
            sums,
            &chosen,
            (slots, slot_bytes),
            base,
            experts,
        );
        Ok(plan)
    }

    fn all_resident(extents: Extents, input: PlanInput, mut sums: Sums) -> Plan {
        let placement = extents
            .iter()
            .map(|x| match x.usage {
                Use::Lookup => Placement::Rows,
                Use::Tile | Use::Always | Use::Expert { .. } => Placement::Pinned,
            })
            .collect();
        sums.pinned_bytes = match input.pinned_in {
            PinnedIn::Mapping => union_pages(&extents).0,
            PinnedIn::Arena => {
                let extents = extents.iter().filter(|x| x.usage != Use::Lookup);
                extents.fold(Cost::default(), |sum, x| sum.plus(cost(x, &input))).bytes
            }
        };
        sums.overhead_bytes = sums.everything_bytes - sums.pinned_bytes;
        Plan {
            extents,
            placement,
            streamed: Vec::new(),
            input,
            sums,
            slots: 0,
            slot_bytes: 0,
            experts: ExpertSlots::default(),
        }
    }

    fn partly_resident(
        extents: Extents,
        input: PlanInput,
        mut sums: Sums,
        chosen: &[bool],
        (slots, slot_bytes): (u32, u64),
        base: u64,
        experts: ExpertSlots,
    ) -> Plan {
        let mut streamed = Vec::new();
        let mut placement = Vec::with_capacity(extents.len());
        let mut pinned = Cost::default();
        let mut chosen = chosen.iter();
        for x in extents.iter() {
            let pin = match x.usage {
                Use::Lookup => {
                    placement.push(Placement::Rows);
                    continue;
                }
                Use::Expert { .. } => {
                    placement.push(Placement::Cached);
                    continue;
                }
                Use::Always => true,
                Use::Tile => chosen.next().copied().unwrap_or(false),
            };
            let cost = cost(x, &input);
            if pin {
                pinned = pinned.plus(cost);
                placement.push(Placement::Pinned);
            } else {
                sums.streamed_bytes += cost.bytes;
                // `push` keeps the number of extents below 2^32.
                placement.push(Placement::Streamed(streamed.len() as u32));
                streamed.push(x.id);
            }
        }
        // More slots than streamed tiles would stay empty.
        let slots = slots.min((streamed.len() as u32).max(input.ring.slots_min));
        let slot_bytes = if slots == 0 { 0 } else { slot_bytes };
        sums.pinned_bytes = pinned.bytes;
        sums.ring_bytes = slot_bytes * u64::from(slots);
        sums.expert_bytes = experts.bytes();
        let overhead = |bytes| ring_cost(bytes, &input) - bytes;
        sums.overhead_bytes =
            base + pinned.overhead + overhead(sums.ring_bytes) + experts.cost(overhead);
        Plan { extents, placement, streamed, input, sums, slots, slot_bytes, experts }
    }

    /// The extents in order of use.
    #[must_use]
    pub fn extents(&self) -> &Extents {
        &self.extents
    }

    /// Where an extent is when it is used.
    #[must_use]
    pub fn placement(&self, id: ExtentId) -> Option<Placement> {
        self.placement.get(id.index()).copied()
    }

    /// The streamed tiles in order of use.
    #[must_use]
    pub fn streamed(&self) -> &[ExtentId] {
        &self.streamed
    }

    /// Whether nothing is streamed.
    #[must_use]
    pub fn is_all_resident(&self) -> bool {
        self.streamed.is_empty() && self.experts.slots == 0
    }

    /// All memory the plan uses: at most the budget for weights it was given.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let Sums { pinned_bytes, ring_bytes, expert_bytes, overhead_bytes, .. } = self.sums;
        pinned_bytes + ring_bytes + expert_bytes + overhead_bytes
    }

    /// Whether rows of lookup extents may stay in the mapping: everything fits there.
    #[must_use]
    pub fn rows_are_resident(&self) -> bool {
        self.input.pinned_in == PinnedIn::Mapping
            && self.input.weights_budget_bytes >= self.sums.everything_bytes
    }

    /// Seconds a pass takes at least on a disk of this bandwidth.
    #[must_use]
    pub fn pass_bound_s(&self, disk_bytes_per_s: f64) -> f64 {
        self.sums.streamed_bytes as f64 / disk_bytes_per_s
    }
}

/// Bytes of ring for tiles of `tiles` bytes in `free`.
fn ring_wanted(free: u64, tiles: u64, ring_min: u64, input: &PlanInput) -> u64 {
    // Continuous in `free` with a slope below 1, so that what is left for pinned tiles never
    // shrinks as the budget grows. Close to "everything fits" little is streamed and a large
    // ring would only push more out.
    let deficit = tiles.saturating_sub(free);
    // All tiles fit, only the rows of lookup extents, or experts, do not: no ring.
    if deficit == 0 {
        return 0;
    }
    (free / input.ring.budget_divisor)
        .min(ring_cost(input.ring.bytes_target, input))
        .min(deficit / 2)
        .max(ring_min)
}

fn check(input: &PlanInput) -> Result<(), PlanError> {
    let bad = |what, why| Err(PlanError::Parameter { what, why });
    match input.ring {
        r if r.slots_min < 2 => bad("slots_min", "one slot in use and one being read are 2"),
        r if r.slots_min > 1 << 16 => bad("slots_min", "more than 65536"),
        r if r.budget_divisor < 2 => bad("budget_divisor", "the ring takes at most half"),
        r if r.queue_depth == 0 => bad("queue_depth", "no read could be under way"),
        _ => Ok(()),
    }
}

/// What an extent takes when it is pinned.
fn cost(x: &Extent, input: &PlanInput) -> Cost {
    let pages = x.aligned(PAGE_BYTES);
    let bytes = pages.end - pages.start;
    let overhead = match (input.pinned_in, input.streaming) {
        // One page table per 2 MiB of huge pages is held back for the day they are split.
        (PinnedIn::Arena, _) => bytes / 512 + 8,
        // The whole file's page tables are part of `base_bytes` already.
        (PinnedIn::Mapping, Streaming::Mapped) => page_cache_overhead(bytes),
        (PinnedIn::Mapping, Streaming::Direct) => {
            let tables = x.aligned(TABLE_SPAN_BYTES);
            (tables.end - tables.start) / 512 + page_cache_overhead(bytes)
        }
    };
    Cost { bytes, overhead }
}

/// The page cache's index: a node of 576 bytes for 64 pages, and its parents.
fn page_cache_overhead(bytes: u64) -> u64 {
    bytes / 448 + if bytes == 0 { 0 } else { 576 }
}

/// Ring bytes with what holds them.
fn ring_cost(bytes: u64, input: &PlanInput) -> u64 {
    bytes.saturating_add(match input.streaming {
        Streaming::Direct => bytes / 512,
        Streaming::Mapped => page_cache_overhead(bytes),
    })
}

/// Costs that do not depend on what is pinned.
fn base_bytes(extents: &Extents, input: &PlanInput) -> u64 {
    /// A huge page of rounding for each of the arenas.
    const HUGE_PAGE_BYTES: u64 = 2 << 20;
    let experts = match input.streaming {
        Streaming::Direct if !extents.units().is_empty() => HUGE_PAGE_BYTES,
        _ => 0,
    };
    let tables = match input.streaming {
        // Dropping pages leaves the tables that pointed to them.
        Streaming::Mapped => union_pages(extents).1,
        Streaming::Direct => HUGE_PAGE_BYTES,
    };
    tables + experts + if input.pinned_in == PinnedIn::Arena { HUGE_PAGE_BYTES } else { 0 }
}

fn total(extents: &Extents, usage: Use, input: &PlanInput) -> Cost {
    let matching = extents.iter().filter(|x| x.usage == usage);
    matching.fold(Cost::default(), |sum, x| sum.plus(cost(x, input)))
}

fn tile_costs(extents: &Extents, input: &PlanInput) -> Vec<u64> {
    extents.iter().filter(|x| x.usage == Use::Tile).map(|x| cost(x, input).all()).collect()
}

fn lookup_bytes(extents: &Extents) -> u64 {
    extents.iter().filter(|x| x.usage == Use::Lookup).fold(0, |sum, x| sum.saturating_add(x.len))
}

/// The largest tile in whole pages: the slot must take any, because which ones are streamed
/// depends on the budget and the ring's size must not.
fn slot_bytes(extents: &Extents) -> u64 {
    let tiles = extents.iter().filter(|x| x.usage == Use::Tile);
    tiles.map(|x| x.aligned(PAGE_BYTES)).map(|r| r.end - r.start).max().unwrap_or(0)
}

fn everything_bytes(extents: &Extents, input: &PlanInput) -> u64 {
    match input.pinned_in {
        PinnedIn::Mapping => {
            let (pages, tables) = union_pages(extents);
            pages.saturating_add(tables).saturating_add(page_cache_overhead(pages))
        }
        PinnedIn::Arena => {
            let used = extents.iter().filter(|x| x.usage != Use::Lookup);
            let sum = used.fold(Cost::default(), |sum, x| sum.plus(cost(x, input)));
            sum.all().saturating_add(base_bytes(extents, input))
        }
    }
}

/// Bytes of the pages that the extents touch, and of the lowest page tables for them, each counted
/// once however many extents share it.
fn union_pages(extents: &Extents) -> (u64, u64) {
    let union = |align| {
        let blocks = joined(extents.iter(), align);
        blocks.iter().fold(0u64, |sum, (_, r)| sum.saturating_add(r.end - r.start))
    };
    (union(PAGE_BYTES), union(TABLE_SPAN_BYTES) / 512)
}
