//! What kernels need besides slices: the instruction set, the threads, and memory to work in.

use crate::isa::Isa;
use crate::matmul::Scratch;
use crate::pool::{PoolError, ThreadPool};

/// An instruction set, a pool of threads, and scratch memory for each of them.
///
/// Kernels take it by mutable reference where they need the scratch: one product at a time.
pub struct Compute {
    isa: Isa,
    pool: ThreadPool,
    scratch: Scratch,
}

impl Compute {
    /// Starts `threads` threads (the caller included) and allocates their scratch, a few hundred KiB
    /// each. Products allocate nothing later.
    ///
    /// # Errors
    /// [`PoolError`] if the number of threads is senseless or the system refuses one.
    pub fn new(isa: Isa, threads: usize) -> Result<Compute, PoolError> {
        let pool = ThreadPool::new(threads)?;
        let scratch = Scratch::new(isa, threads);
        Ok(Compute { isa, pool, scratch })
    }

    /// The instruction set all kernels use.
    #[must_use]
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The threads.
    #[must_use]
    pub fn pool(&self) -> &ThreadPool {
        &self.pool
    }

    /// How many threads take part.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Bytes of scratch of all threads together, for the memory budget.
    #[must_use]
    pub fn scratch_bytes(&self) -> usize {
        self.scratch.bytes()
    }

    pub(crate) fn parts(&mut self) -> (Isa, &ThreadPool, &mut Scratch) {
        (self.isa, &self.pool, &mut self.scratch)
    }
}
