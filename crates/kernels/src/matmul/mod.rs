//! Matrix products: quantised weights, in place, times quantised activations.
//!
//! # The one order of summation
//! Every element of a result is one chain of operations, fixed by the format alone:
//! - block formats: the row's blocks of 32 in order, each as [`crate::format::canonical`] defines it:
//!   an exact integer sum, then one fused multiply-add (and one more for a minimum);
//! - float formats: 16 partial sums, lane `j` taking `k = j, j + 16, ...` with fused multiply-adds,
//!   (the row padded with zeros to a multiple of 16), then added as a tree: lanes 8 apart, then 4, 2, 1.
//!
//! So the lanes of a vector register are *rows* wherever floats are added up, and the result has the
//! same bits for any number of columns, any number of threads and any instruction set. A result that
//! is no number (NaN) is no number everywhere, but the bits of a NaN are not promised.
//!
//! # How it is done
//! Rows are taken in groups. A group's blocks are unpacked into a tile: bytes of codes with 8 (or 16)
//! rows side by side, four codes of one row to a lane. A tile stays in the first-level cache while
//! all columns pass over it, four codes of a column spread to all lanes at a time. Formats only differ in how
//! they unpack. With one column (decoding) a tile would be used once: formats then go from memory through
//! registers into the sums (`x86/direct`), with the same operations on floats in the same order.
//! On Arm four rows go side by side, and with one column no format needs a tile (see `arm`).

#[cfg(target_arch = "aarch64")]
mod arm;
mod float;
mod job;
mod scalar;
mod scratch;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use job::{MatmulError, MatmulJob};
pub(crate) use scratch::Scratch;

use crate::compute::Compute;
use crate::disjoint::Disjoint;
use crate::format::dequantize::bfloat;
use crate::format::{Format, blocks, with_block};
use crate::isa::Isa;
use job::RowJob;
use scratch::{ThreadScratch, find};

/// Computes all jobs, in parallel: one barrier at the end.
///
/// For each job, `out[col * out_stride + out_row0 + row]` becomes the product of row `row` of the
/// weights and column `col` of the activations; nothing else in `out` changes.
///
/// # Errors
/// [`MatmulError`] if the slices of a job do not fit its numbers; then nothing was computed.
#[allow(unsafe_code, reason = "chunks of rows and scratch memory are dealt out to threads")]
pub fn matmul(compute: &mut Compute, jobs: &mut [MatmulJob<'_>]) -> Result<(), MatmulError> {
    for (index, job) in jobs.iter().enumerate() {
        job.check(index)?;
    }
    let (isa, pool, scratch) = compute.parts();
    let chunks = scratch.plan(jobs);
    let plan = &scratch.plan[..];
    let threads = Disjoint::new(&mut scratch.threads);
    let jobs = &*jobs;
    pool.run(chunks, &|chunk, thread| {
        let (planned, rows) = find(plan, jobs, chunk);
        let then = (chunk + 1 < chunks).then(|| {
            let (planned, rows) = find(plan, jobs, chunk + 1);
            let job = &jobs[planned.job];
            job.weights[rows.start * (job.weights.len() / job.rows)..].as_ptr()
        });
        // SAFETY: the plan has the `Out` of this job, checked above and borrowed until `run` returns;
        // chunks are disjoint ranges of rows, and each is run once.
        let job = unsafe { RowJob::new(&jobs[planned.job], planned.out, rows, then) };
        // SAFETY: within a call of `run` no two threads have the same number, and `compute` is
        // borrowed mutably, so there is no other call.
        let scratch = unsafe { threads.part(thread..thread + 1) };
        compute_rows(isa, job, &mut scratch[0]);
    });
    scratch.plan.clear();
    Ok(())
}

fn compute_rows(isa: Isa, job: RowJob<'_>, scratch: &mut ThreadScratch) {
    #[cfg(target_arch = "x86_64")]
    if let Some(avx2) = isa.avx2() {
        return x86::rows(isa, avx2, job, &mut scratch.tile);
    }
    match isa {
        #[cfg(target_arch = "aarch64")]
        Isa::Neon(token) => arm::rows(token, job, &mut scratch.tile),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonDot(token) => arm::rows(token, job, &mut scratch.tile),
        #[cfg(target_arch = "aarch64")]
        Isa::NeonI8mm(token) => arm::rows(token, job, &mut scratch.tile),
        _ => compute_rows_scalar(job),
    }
}

fn compute_rows_scalar(job: RowJob<'_>) {
    match job.format {
        Format::F32 => float::rows(job, f32::from_le_bytes),
        Format::F16 => float::rows(job, blocks::half),
        Format::BF16 => float::rows(job, bfloat),
        format => with_block!(format, B => scalar::rows::<B>(job), float => {}),
    }
}

#[cfg(test)]
mod tests;
