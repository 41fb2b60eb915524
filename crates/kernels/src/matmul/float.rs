//! The reference for weights that are floats: 16 partial sums and a tree.

use super::job::RowJob;
use crate::quantize::LANES;

/// A float format of weights, as loops that load some at a time see it.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) trait Stored {
    /// The bytes of a weight.
    type Bytes: Copy + 'static;
    /// Zero.
    const ZERO: Self::Bytes;
    /// The bytes of a row as weights.
    fn weights(row: &[u8]) -> &[Self::Bytes];
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! stored {
    ($($name:ident $bytes:literal;)+) => {
        $(
            pub(super) struct $name;

            impl Stored for $name {
                type Bytes = [u8; $bytes];
                const ZERO: [u8; $bytes] = [0; $bytes];

                fn weights(row: &[u8]) -> &[[u8; $bytes]] {
                    row.as_chunks().0
                }
            }
        )+
    };
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
stored! { Single 4; Half 2; Brain 2; }

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
