//! The reference for weights that are floats: 16 partial sums and a tree.

use super::job::RowJob;
use crate::quantize::LANES;

pub(super) fn rows<const N: usize>(mut job: RowJob<'_>, value: fn([u8; N]) -> f32) {
    for row in 0..job.rows.len() {
        let weights = job.row(row).as_chunks::<N>().0;
        for col in 0..job.x.cols() {
            let mut lanes = [0.0f32; LANES];
            let (x, _) = job.x.float_column(col).as_chunks::<LANES>();
            for (x, weights) in x.iter().zip(weights.chunks(LANES)) {
                for (lane, sum) in lanes.iter_mut().enumerate() {
                    let w = weights.get(lane).map_or(0.0, |w| value(*w));
                    *sum = w.mul_add(x[lane], *sum);
                }
            }
            job.out(col, row..row + 1)[0] = tree(lanes);
        }
    }
}

/// Lanes 8 apart, then 4, 2, 1.
fn tree(mut lanes: [f32; LANES]) -> f32 {
    for distance in [8, 4, 2, 1] {
        for lane in 0..distance {
            lanes[lane] += lanes[lane + distance];
        }
    }
    lanes[0]
}
