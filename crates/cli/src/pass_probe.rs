//! How long the arithmetic of a pass takes: a model's own products, by shape and format, over memory
//! that stands for its weights.

use std::time::{Duration, Instant};

use anyhow::Result;
use lowtide_engine::{Product, ProductGroup};
use lowtide_kernels::compute::Compute;
use lowtide_kernels::matmul::{MatmulError, MatmulJob, matmul};
use lowtide_kernels::quantize::{Activations, Keep};
use lowtide_mapping::{MapRequest, Mapping};

use crate::failure::{Failure, STATUS_RUNNING};
use crate::probe::FILL;

/// Times that a group is computed at least.
const TIMES_MIN: usize = 5;
/// Bytes of weights that a group is computed with at most; the rest of a larger one takes as long in
/// proportion. Far more than what a barrier costs.
const GROUP_BYTES_MAX: usize = 32 << 20;

/// Seconds of a pass of one token.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PassTimes {
    /// Every group at its fastest.
    pub fast_s: f64,
    /// The middle.
    pub typical_s: f64,
    /// A quarter of the times were slower.
    pub slow_s: f64,
}

/// Memory that stands for weights: beyond the caches, so that it is read as weights are.
pub struct PassProbe<'g> {
    groups: &'g [ProductGroup],
    weights: Mapping,
    /// Where the next product's weights begin.
    at: usize,
}

impl<'g> PassProbe<'g> {
    /// Claims `bytes` of memory, or what a row of each product takes: in pages of the size that a file's
    /// have, for the translation of addresses takes its share of the time.
    pub fn new(groups: &'g [ProductGroup], bytes: usize) -> Result<Self> {
        let refused = |error: lowtide_mapping::Error| Failure::from_lines(&error, STATUS_RUNNING);
        let least = |group: &ProductGroup| group.products.iter().map(row_bytes).sum::<usize>();
        let bytes = groups.iter().map(least).fold(bytes, usize::max);
        let request = MapRequest::anonymous(bytes).huge_pages(false);
        let mut weights = request.map().map_err(refused)?;
        weights.as_mut_slice().map_err(refused)?.fill(FILL);
        Ok(Self { groups, weights, at: 0 })
    }

    /// Times each group, all of them in about `seconds`.
    pub fn run(&mut self, compute: &mut Compute, seconds: f64) -> Result<PassTimes> {
        let groups = self.groups;
        let total: u64 = groups.iter().map(work).sum();
        let mut sum = PassTimes::default();
        for group in groups {
            let share = seconds * work(group) as f64 / total.max(1) as f64;
            let mut times = self.times(compute, group, Duration::from_secs_f64(share))?;
            times.sort_by(f64::total_cmp);
            let at = |share: usize| times[times.len() * share / 4] * f64::from(group.times);
            sum.fast_s += at(0);
            sum.typical_s += at(2);
            sum.slow_s += at(3);
        }
        Ok(sum)
    }

    /// Seconds of one group, several times; the first does not count.
    fn times(
        &mut self,
        compute: &mut Compute,
        group: &ProductGroup,
        budget: Duration,
    ) -> Result<Vec<f64>> {
        let broken = |error: MatmulError| Failure::from_lines(&error, STATUS_RUNNING);
        let columns = group.products.first().map_or(0, |product| product.columns);
        let keep = Keep::for_formats(group.products.iter().map(|product| product.format));
        let mut x = Activations::new(columns, 1, keep);
        let values: Vec<f32> = (0..columns).map(|i| (i % 17) as f32 - 8.0).collect();
        let (rows, share) = self.fitting(group);
        let mut outs: Vec<Vec<f32>> = rows.iter().map(|rows| vec![0.0; *rows]).collect();
        let mut times = Vec::new();
        let begun = Instant::now();
        while times.len() <= TIMES_MIN || begun.elapsed() < budget {
            let ranges = self.next_weights(&group.products, &rows);
            let pass = Instant::now();
            // Part of every product of a pass, as the norm before it is not.
            x.set(compute, &values, columns, 1).map_err(broken)?;
            let products = group.products.iter().zip(&rows).zip(ranges).zip(&mut outs);
            let mut jobs: Vec<MatmulJob<'_>> = products
                .map(|(((product, rows), range), out)| MatmulJob {
                    format: product.format,
                    weights: &self.weights.as_slice()[range],
                    rows: *rows,
                    k: product.columns,
                    x: &x,
                    out,
                    out_stride: *rows,
                    out_row0: 0,
                })
                .collect();
            matmul(compute, &mut jobs).map_err(broken)?;
            times.push(pass.elapsed().as_secs_f64() / share);
        }
        Ok(times.split_off(1))
    }

    /// Rows of each product that are computed, and which share of all that is.
    fn fitting(&self, group: &ProductGroup) -> (Vec<usize>, f64) {
        let all = group.bytes() as f64;
        let most = self.weights.len().min(GROUP_BYTES_MAX) as f64;
        let share = (most / all.max(1.0)).min(1.0);
        let rows = |p: &Product| ((p.rows as f64 * share) as usize).max(1);
        let rows: Vec<usize> = group.products.iter().map(rows).collect();
        let bytes: usize =
            group.products.iter().zip(&rows).map(|(p, rows)| row_bytes(p) * rows).sum();
        (rows, bytes as f64 / all.max(1.0))
    }

    /// The next stretch of memory for each product: by the time a stretch comes again it has left the
    /// caches.
    fn next_weights(
        &mut self,
        products: &[Product],
        rows: &[usize],
    ) -> Vec<std::ops::Range<usize>> {
        let bytes = |(p, rows): (&Product, &usize)| row_bytes(p) * rows;
        let all: usize = products.iter().zip(rows).map(bytes).sum();
        if self.at + all > self.weights.len() {
            self.at = 0;
        }
        let range = |pair| {
            let start = self.at;
            self.at += bytes(pair);
            start..self.at
        };
        products.iter().zip(rows).map(range).collect()
    }
}

fn work(group: &ProductGroup) -> u64 {
    group.bytes() * u64::from(group.times)
}

fn row_bytes(product: &Product) -> usize {
    product.format.row_bytes(product.columns).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lowtide_kernels::format::Format;

    const BYTES: usize = 8 << 20;

    #[test]
    fn a_pass_is_the_sum_of_its_groups() {
        let product = Product { format: Format::Q4_0, rows: 96, columns: 256 };
        let groups = [
            ProductGroup { products: vec![product; 3], times: 2 },
            ProductGroup { products: vec![product], times: 1 },
        ];
        let mut compute = Compute::new(lowtide_kernels::isa::Isa::Scalar, 1).unwrap();
        let times = PassProbe::new(&groups, BYTES).unwrap().run(&mut compute, 0.01).unwrap();
        assert!(0.0 < times.fast_s && times.fast_s <= times.typical_s, "{times:?}");
        assert!(times.typical_s <= times.slow_s, "{times:?}");
        // A group that is larger than the memory is computed in part and reckoned whole.
        let huge = ProductGroup { products: vec![Product { rows: 1 << 22, ..product }], times: 1 };
        let groups = [huge];
        let probe = PassProbe::new(&groups, BYTES).unwrap();
        let (rows, share) = probe.fitting(&groups[0]);
        assert!(rows[0] * 144 <= probe.weights.len() && share < 1.0);
        assert!((rows[0] as f64 / f64::from(1 << 22) - share).abs() < 1e-9);
        // A row of each product there is, however little memory is given.
        assert!(PassProbe::new(&groups, 1).unwrap().weights.len() >= 144);
    }
}
