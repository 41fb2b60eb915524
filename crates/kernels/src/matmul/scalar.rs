//! The reference: block formats exactly as the definition says, one row and one column at a time.

use super::job::RowJob;
use crate::format::blocks::as_blocks;
use crate::format::canonical::{Block32, Canonical, Min};
use crate::quantize::XBlock;

/// Columns that share the unpacking of a row.
const COLUMNS: usize = 16;

pub(super) fn rows<B: Canonical>(mut job: RowJob<'_>) {
    for row in 0..job.rows.len() {
        let blocks = as_blocks::<B>(job.row(row));
        for first in (0..job.x.cols()).step_by(COLUMNS) {
            let cols = COLUMNS.min(job.x.cols() - first);
            let mut sums = [0.0f32; COLUMNS];
            for (index, block) in blocks.iter().enumerate() {
                for g in 0..B::GROUPS {
                    let group = block.group(g);
                    for (col, sum) in sums[..cols].iter_mut().enumerate() {
                        let x = &job.x.column(first + col)[index * B::GROUPS + g];
                        *sum = step::<B>(&group, x, *sum);
                    }
                }
            }
            for (col, sum) in sums[..cols].iter().enumerate() {
                job.out(first + col, row..row + 1)[0] = *sum;
            }
        }
    }
}

/// What one block does to the sum (see [`crate::format::canonical`]).
fn step<B: Canonical>(w: &Block32, x: &XBlock, sum: f32) -> f32 {
    let codes = x.codes();
    let dot = |half: usize| {
        let range = half * 16..half * 16 + 16;
        let pairs = w.codes[range.clone()].iter().zip(&codes[range]);
        i32::from(w.scale[half]) * pairs.map(|(&w, &x)| i32::from(w) * i32::from(x)).sum::<i32>()
    };
    let sum = if B::SPLIT {
        let low = (dot(0) as f32).mul_add(w.d * x.d, sum);
        (dot(1) as f32).mul_add(w.d_high * x.d, low)
    } else {
        ((dot(0) + dot(1)) as f32).mul_add(w.d * x.d, sum)
    };
    match B::MIN {
        Min::None => sum,
        Min::Value => w.min.mul_add(x.s, sum),
        Min::Scaled => {
            let (low, high) = (i32::from(x.sums as i16), x.sums >> 16);
            let msum = i32::from(w.min_scale[0]) * low + i32::from(w.min_scale[1]) * high;
            (msum as f32).mul_add(w.min * x.d, sum)
        }
    }
}
