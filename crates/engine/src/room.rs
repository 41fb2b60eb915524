//! What is known of memory and context before there is a plan: how much text may come in, how long an
//! answer may become.

use lowtide_kernels::attention::TILE_POSITIONS;
use lowtide_mapping::{MemoryLimits, ProcessMemory, claimed_bytes};

use crate::budget::{KERNEL_RESERVE_BYTES, MemoryLimit};
use crate::engine::LoadOptions;
use crate::error::Error;
use crate::model_file::Model;
use crate::planner;

/// A budget, and what is left of it at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// The budget.
    pub budget_bytes: u64,
    /// Less what the process holds now and the reserve for the kernel's side. A plan claims all of it; until
    /// then it may be used for what is let go of before.
    pub left_bytes: u64,
}

impl Room {
    /// As it is now.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn read(memory: MemoryLimit) -> Result<Self, Error> {
        let budget_bytes = match memory {
            MemoryLimit::Bytes(bytes) => bytes,
            MemoryLimit::Auto => {
                let limits = MemoryLimits::read()?;
                planner::auto_budget(&limits, claimed_bytes(&limits))
            }
        };
        let process = ProcessMemory::read()?;
        let held = process.anonymous_bytes + process.file_bytes + KERNEL_RESERVE_BYTES;
        Ok(Self { budget_bytes, left_bytes: budget_bytes.saturating_sub(held) })
    }
}

impl Model {
    /// Tokens that the context of a plan with these options holds at most.
    #[must_use]
    pub fn context_max(&self, options: &LoadOptions) -> usize {
        let needed = options.tokens_needed.next_multiple_of(TILE_POSITIONS);
        let free = needed.max(planner::CONTEXT_DEFAULT).min(self.config.context_length as usize);
        options.context.unwrap_or(free).max(1)
    }
}
