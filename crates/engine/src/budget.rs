//! One memory budget for the whole process, as arithmetic: what is fixed is added up, and the rest
//! goes to the weights.

use std::fmt;

use crate::error::Error;

/// Kernel memory a process like this is charged for: page tables of the heap, sockets, io_uring's
/// rings, file handles; and slack for what the allocator keeps.
pub(crate) const KERNEL_RESERVE_BYTES: u64 = 12 << 20;

/// Less than this is no megabyte worth telling of.
const SHOWN_BYTES_MIN: u64 = 50_000;

/// By how much a process differs from the one before when the plan is made: 0.4 MB was seen.
const START_BYTES: u64 = 500_000;

/// How much memory lowtide may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryLimit {
    /// What the machine and its control groups leave, less a reserve.
    Auto,
    /// Bytes.
    Bytes(u64),
}

/// What does not depend on how many weights are resident, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FixedCosts {
    /// Heap and stacks once the vocabulary is loaded, measured (the vocabulary included).
    pub process_bytes: u64,
    /// The vocabulary's part of them.
    pub vocabulary_bytes: u64,
    /// The program and its libraries: pages of their files count while they run.
    pub program_bytes: u64,
    /// The KV cache, all of it.
    pub kv_bytes: u64,
    /// What passes work in: activations, logits, scratch of the threads.
    pub scratch_bytes: u64,
    /// Norms and biases, kept as f32.
    pub vector_bytes: u64,
    /// What the caller claims later.
    pub caller_bytes: u64,
}

impl FixedCosts {
    /// All of them, with the reserve for the kernel's side.
    #[must_use]
    pub fn total(&self) -> u64 {
        [
            self.process_bytes,
            self.program_bytes,
            self.kv_bytes,
            self.scratch_bytes,
            self.vector_bytes,
            self.caller_bytes,
            KERNEL_RESERVE_BYTES,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }

    /// The part that is neither KV cache, scratch nor vocabulary.
    #[must_use]
    pub fn reserve_bytes(&self) -> u64 {
        self.total()
            - self.kv_bytes
            - self.scratch_bytes
            - self.vocabulary_bytes.min(self.process_bytes)
    }
}

/// The split of the budget as it was decided, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Budget {
    /// The promise: charge and RSS stay at or below.
    pub total_bytes: u64,
    /// Whether the user gave it; otherwise it was found.
    pub given: bool,
    /// Weights that stay.
    pub pinned_bytes: u64,
    /// The ring that streamed weights pass through.
    pub ring_bytes: u64,
    /// The cache of experts.
    pub expert_cache_bytes: u64,
    /// Page tables and bookkeeping for the above.
    pub table_bytes: u64,
    /// What does not depend on the weights.
    pub fixed: FixedCosts,
    /// Weights read anew in every pass.
    pub streamed_bytes: u64,
}

impl Budget {
    /// What does not give way to others once it is there: all but the pinned weights, which are pages of the file
    /// and may be others' as well.
    pub(crate) fn firm_bytes(&self) -> u64 {
        [self.ring_bytes, self.expert_cache_bytes, self.table_bytes]
            .into_iter()
            .fold(self.fixed.total(), u64::saturating_add)
    }
}

/// The refusal of a budget below the floor: three lines, with the arithmetic and the mend.
#[derive(Debug)]
pub(crate) struct BelowFloor {
    pub budget_bytes: u64,
    /// Whether it was set, and not found.
    pub given: bool,
    pub floor_bytes: u64,
    pub weights_floor_bytes: u64,
    pub fixed: FixedCosts,
    pub context: usize,
    pub context_min: usize,
}

impl fmt::Display for BelowFloor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mb = |bytes: u64| match bytes {
            0 => "0.0 MB".to_owned(),
            1..1_000 => format!("{bytes} bytes"),
            1_000..100_000 => format!("{:.1} kB", bytes as f64 / 1e3),
            _ => format!("{:.1} MB", bytes as f64 / 1e6),
        };
        writeln!(
            f,
            "{} of memory{} is below the floor of {} for this model",
            mb(self.budget_bytes),
            if self.given { "" } else { " (what is free here, less a reserve)" },
            // Rounded up: a floor is never the budget that is below it.
            format_args!("{:.1} MB", self.floor_bytes.div_ceil(100_000) as f64 / 10.0)
        )?;
        let fixed = &self.fixed;
        writeln!(
            f,
            "  floor = weights in the smallest ring {} + KV cache for {} tokens {} + scratch {} + vocabulary {} + program, norms and reserve {}{}",
            mb(self.weights_floor_bytes),
            self.context,
            mb(fixed.kv_bytes),
            mb(fixed.scratch_bytes),
            mb(fixed.vocabulary_bytes),
            mb(fixed.reserve_bytes().saturating_sub(fixed.caller_bytes)),
            match fixed.caller_bytes {
                0..SHOWN_BYTES_MIN => String::new(),
                bytes => format!(" + texts and answers {}", mb(bytes)),
            }
        )?;
        // What the process has in use at its start differs by some hundred kilobytes from run to run.
        let enough = self.floor_bytes.saturating_add(START_BYTES).div_ceil(1_000_000);
        write!(f, "  give at least --memory {enough}MB")?;
        if self.context > self.context_min {
            write!(f, ", or a shorter --ctx (now {}), or --kv q8_0", self.context)?;
        }
        Ok(())
    }
}

impl From<BelowFloor> for Error {
    fn from(refusal: BelowFloor) -> Self {
        Self::Budget(refusal.to_string())
    }
}
