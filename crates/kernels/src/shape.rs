//! What is wrong with the slices of a call.

/// The slices given to a kernel do not fit each other; nothing was computed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ShapeError {
    /// A slice has another length than the others ask for.
    #[error("{what}: {got} items given, {needed} needed")]
    Length {
        /// Which slice.
        what: &'static str,
        /// How many items it must have.
        needed: usize,
        /// How many it has.
        got: usize,
    },
    /// A slice is not a whole number of rows (or rows have no items).
    #[error("{what}: {items} items are not whole rows of {row}")]
    Rows {
        /// Which slice.
        what: &'static str,
        /// Its items.
        items: usize,
        /// Items of a row.
        row: usize,
    },
    /// Query heads must be a positive multiple of key/value heads.
    #[error("{heads} query heads cannot share {kv_heads} key/value heads")]
    Heads {
        /// Query heads.
        heads: usize,
        /// Key/value heads.
        kv_heads: usize,
    },
    /// A number is outside its range.
    #[error("{what} is {got}, it must be from {min} to {max}")]
    Range {
        /// Which number.
        what: &'static str,
        /// Its value.
        got: usize,
        /// The smallest allowed.
        min: usize,
        /// The largest allowed.
        max: usize,
    },
    /// Attention needs positions that the cache cannot hold at once.
    #[error("positions {first}..{end} do not fit the KV cache of {capacity} positions")]
    Capacity {
        /// The first position that is visible to a query or stored.
        first: usize,
        /// One past the last.
        end: usize,
        /// Positions the cache holds.
        capacity: usize,
    },
}

impl ShapeError {
    pub(crate) fn length(what: &'static str, needed: usize, got: usize) -> Result<(), ShapeError> {
        if needed == got { Ok(()) } else { Err(ShapeError::Length { what, needed, got }) }
    }

    /// How many rows of `row` items `items` are.
    pub(crate) fn rows(what: &'static str, items: usize, row: usize) -> Result<usize, ShapeError> {
        if row == 0 || !items.is_multiple_of(row) {
            return Err(ShapeError::Rows { what, items, row });
        }
        Ok(items / row)
    }

    pub(crate) fn range(
        what: &'static str,
        got: usize,
        allowed: std::ops::RangeInclusive<usize>,
    ) -> Result<(), ShapeError> {
        if allowed.contains(&got) {
            return Ok(());
        }
        Err(ShapeError::Range { what, got, min: *allowed.start(), max: *allowed.end() })
    }
}
