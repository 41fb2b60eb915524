//! Activations of several products that run together and read different columns: of a few experts, of
//! a few heads. Many small sets for few tokens, where one product alone would not keep the threads
//! busy; one large set for a whole batch, where it does.

use lowtide_kernels::quantize::{Activations, Keep};

/// Products that run together at most.
pub(crate) const TOGETHER_MAX: usize = 16;

/// Columns of one small set: what a step of decoding has, speculation included.
const SMALL_COLUMNS: usize = 8;

/// The sets.
pub(crate) struct Slots {
    small: Vec<Activations>,
    large: [Activations; 1],
    small_columns: usize,
}

impl Slots {
    /// Sets for columns of at most `max_k` values.
    pub(crate) fn new(max_k: usize, batch: usize, keep: Keep) -> Self {
        let small_columns = small_columns(batch);
        let small = || Activations::new(max_k, small_columns, keep);
        Self {
            small: (0..TOGETHER_MAX).map(|_| small()).collect(),
            large: [Activations::new(max_k, batch, keep)],
            small_columns,
        }
    }

    /// Bytes [`Slots::new`] allocates.
    pub(crate) fn bytes_for(max_k: usize, batch: usize, keep: Keep) -> usize {
        let small = Activations::bytes_for(max_k, small_columns(batch), keep);
        small * TOGETHER_MAX + Activations::bytes_for(max_k, batch, keep)
    }

    /// Columns up to which products can run together.
    pub(crate) fn small_columns(&self) -> usize {
        self.small_columns
    }

    /// The sets that hold `columns` columns each: many if those are few.
    pub(crate) fn holding(&mut self, columns: usize) -> &mut [Activations] {
        if columns <= self.small_columns { &mut self.small } else { &mut self.large }
    }

    /// The one for a whole batch.
    pub(crate) fn large(&mut self) -> &mut Activations {
        &mut self.large[0]
    }
}

fn small_columns(batch: usize) -> usize {
    SMALL_COLUMNS.min(batch)
}

/// Rows of results that products running together give at most.
pub(crate) fn rows_together(batch: usize) -> usize {
    batch.max(TOGETHER_MAX * small_columns(batch))
}
