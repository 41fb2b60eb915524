//! What is to be multiplied, and the checks that make everything below sure of its slices.
#![allow(unsafe_code, reason = "threads write disjoint rows of one result")]

use std::ops::Range;

use crate::format::Format;
use crate::quantize::{Activations, Keep};

/// Why a product or its activations are refused.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MatmulError {
    /// The slice of activations has another length than its shape says.
    #[error("activations: {cols} columns of {k} values are not {values} values")]
    ActivationLength {
        /// Values per column.
        k: usize,
        /// Columns.
        cols: usize,
        /// Length of the slice.
        values: usize,
    },
    /// More activations than there is room for.
    #[error("activations: no room for {cols} columns of {k} values")]
    ActivationRoom {
        /// Values per column.
        k: usize,
        /// Columns.
        cols: usize,
    },
    /// A column to gather does not exist.
    #[error("activations: column {column} asked for, there are {cols}")]
    ActivationColumn {
        /// The column asked for.
        column: u32,
        /// How many there are.
        cols: usize,
    },
    /// The form of the activations that is needed is not kept.
    #[error("activations are kept as {kept:?}, {needed:?} is needed")]
    ActivationKeep {
        /// What is needed.
        needed: Keep,
        /// What there is.
        kept: Keep,
    },
    /// The activations have another length of column than the weights have of row.
    #[error("job {job}: rows of {k} weights, columns of {activations} activations")]
    InnerLength {
        /// Index of the job.
        job: usize,
        /// Weights per row.
        k: usize,
        /// Activations per column.
        activations: usize,
    },
    /// The weights are not `rows` rows of `k` (more than 0) values of the format.
    #[error("job {job}: {bytes} bytes are not {rows} rows of {k} values of {format}")]
    WeightLength {
        /// Index of the job.
        job: usize,
        /// Format of the weights.
        format: Format,
        /// Rows.
        rows: usize,
        /// Values per row.
        k: usize,
        /// Bytes given.
        bytes: usize,
    },
    /// The result does not fit into `out`, or its columns overlap.
    #[error(
        "job {job}: {rows} rows from {row0} on in {cols} columns with stride {stride} do not fit into {len} values"
    )]
    OutLength {
        /// Index of the job.
        job: usize,
        /// Rows.
        rows: usize,
        /// First row in a column of `out`.
        row0: usize,
        /// Columns.
        cols: usize,
        /// Distance of columns in `out`.
        stride: usize,
        /// Length of `out`.
        len: usize,
    },
}

/// A product of a matrix of weights (`rows` x `k`) with activations (`k` x columns).
pub struct MatmulJob<'a> {
    /// The format of the weights.
    pub format: Format,
    /// `rows * format.row_bytes(k)` bytes, row after row; any alignment.
    pub weights: &'a [u8],
    /// How many rows the matrix has.
    pub rows: usize,
    /// How many values a row has.
    pub k: usize,
    /// The columns; codes for block formats, floats for float formats (see [`Keep`]).
    pub x: &'a Activations,
    /// Where the result goes: `out[col * out_stride + out_row0 + row]`.
    pub out: &'a mut [f32],
    /// Distance between the columns of the result.
    pub out_stride: usize,
    /// First row of the result within a column of `out`.
    pub out_row0: usize,
}

impl MatmulJob<'_> {
    pub(super) fn check(&self, job: usize) -> Result<(), MatmulError> {
        let MatmulJob { format, rows, k, x, .. } = *self;
        if x.k() != k {
            return Err(MatmulError::InnerLength { job, k, activations: x.k() });
        }
        let bytes = self.weights.len();
        let row_bytes = format.row_bytes(k);
        if k == 0 || row_bytes.and_then(|row| row.checked_mul(rows)) != Some(bytes) {
            return Err(MatmulError::WeightLength { job, format, rows, k, bytes });
        }
        let needed = if format.is_float() { Keep::Floats } else { Keep::Codes };
        if x.keep() != needed && x.keep() != Keep::Both {
            return Err(MatmulError::ActivationKeep { needed, kept: x.keep() });
        }
        let (cols, stride, row0, len) = (x.cols(), self.out_stride, self.out_row0, self.out.len());
        let fits = || {
            let column = row0.checked_add(rows)?;
            let last = (cols - 1).checked_mul(stride)?.checked_add(column)?;
            (last <= len && (cols == 1 || column <= stride)).then_some(())
        };
        if cols > 0 && rows > 0 && fits().is_none() {
            return Err(MatmulError::OutLength { job, rows, row0, cols, stride, len });
        }
        Ok(())
    }
}

/// Where the rows of one job go: its `out`, as threads share it.
#[derive(Copy, Clone)]
pub(super) struct Out {
    start: *mut f32,
    stride: usize,
}

// SAFETY: the only access is `rows`, whose callers keep rows of different threads apart.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

impl Out {
    /// For a job that [`MatmulJob::check`] accepted.
    pub(super) fn new(job: &mut MatmulJob<'_>) -> Out {
        let row0 = job.out_row0.min(job.out.len());
        Out { start: job.out[row0..].as_mut_ptr(), stride: job.out_stride }
    }

    /// Rows `rows` of column `col`.
    ///
    /// # Safety
    /// They are rows and a column of the job, whose `out` is still borrowed, and no other reference
    /// to any of them is alive.
    #[inline]
    pub(super) unsafe fn rows<'a>(&self, col: usize, rows: Range<usize>) -> &'a mut [f32] {
        // SAFETY: `check` made sure that all rows of all columns lie in `out`.
        let first = unsafe { self.start.add(col * self.stride + rows.start) };
        // SAFETY: in range as above, and the caller promises that it is the only reference.
        unsafe { std::slice::from_raw_parts_mut(first, rows.len()) }
    }
}

/// Some rows of a job: what one chunk computes.
pub(super) struct RowJob<'a> {
    pub(super) format: Format,
    /// The bytes of these rows only.
    pub(super) weights: &'a [u8],
    pub(super) row_bytes: usize,
    /// Which rows of the job these are.
    pub(super) rows: Range<usize>,
    pub(super) x: &'a Activations,
    pub(super) out: Out,
    /// Where the weights begin that this thread probably reads next.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "nothing asks for bytes ahead there")
    )]
    pub(super) then: *const u8,
}

impl<'a> RowJob<'a> {
    /// # Safety
    /// `out` belongs to `job`, which was checked, and no other chunk that runs now has any of
    /// these rows.
    pub(super) unsafe fn new(
        job: &MatmulJob<'a>,
        out: Out,
        rows: Range<usize>,
        then: Option<*const u8>,
    ) -> RowJob<'a> {
        let row_bytes = job.weights.len() / job.rows;
        let weights = &job.weights[rows.start * row_bytes..rows.end * row_bytes];
        let then = then.unwrap_or(weights.as_ptr_range().end);
        RowJob { format: job.format, weights, row_bytes, rows, x: job.x, out, then }
    }

    #[cfg(target_arch = "x86_64")]
    /// The address behind the `count` rows from `first` on, and that of the bytes which are read after them: the same
    /// but for the last rows.
    #[inline]
    pub(super) fn after(&self, first: usize, count: usize) -> (usize, usize) {
        let rows = (first + count).min(self.rows.len());
        let behind = self.weights.as_ptr().addr() + rows * self.row_bytes;
        (behind, if rows < self.rows.len() { behind } else { self.then.addr() })
    }

    /// The bytes of row `row` of these.
    #[inline]
    pub(super) fn row(&self, row: usize) -> &'a [u8] {
        &self.weights[row * self.row_bytes..][..self.row_bytes]
    }

    /// The results of rows `rows` (of these) in column `col`.
    #[inline]
    pub(super) fn out(&mut self, col: usize, rows: Range<usize>) -> &mut [f32] {
        assert!(col < self.x.cols() && rows.end <= self.rows.len(), "row or column out of range");
        let rows = self.rows.start + rows.start..self.rows.start + rows.end;
        // SAFETY: `new`'s caller gave these rows to this value alone; the row and the column are in
        // range, and the reference borrows `self` mutably.
        unsafe { self.out.rows(col, rows) }
    }
}
