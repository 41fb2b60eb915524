//! Quantisation with NEON: the same bits as the scalar code.

use super::{BLOCK, RATIOS, XBlock, best_ratio, best_scale, unusual};
use crate::neon;

pub(super) fn quantize(x: &[f32], blocks: &mut [XBlock]) {
    for (x, block) in x.as_chunks().0.iter().zip(blocks) {
        *block = quantize_block(x);
    }
}

#[inline(always)]
fn quantize_block(x: &[f32; BLOCK]) -> XBlock {
    let (parts, _) = x.as_chunks::<4>();
    let x = eight!(|I| neon::load(&parts[I]));
    let mut max = neon::bits(neon::floats(0.0));
    for x in x {
        max = neon::max_bits(max, neon::bits(neon::abs(x)));
    }
    let max = neon::largest(max);
    let amax = f32::from_bits(max);
    if let Some(block) = unusual(amax) {
        return block;
    }
    let inverse = neon::floats(127.0 / amax);
    let y = eight!(|I| neon::mul(x[I], inverse));
    let ratio = neon::floats(best_ratio(RATIOS.map(|ratio| what_is_left(&y, ratio))));
    let words = eight!(|I| neon::to_words(neon::mul(y[I], ratio)));
    let (mut low, mut high) = (neon::floats(0.0), neon::floats(0.0));
    let mut squares = neon::words(0);
    for (y, words) in y.as_chunks::<2>().0.iter().zip(words.as_chunks::<2>().0) {
        low = neon::add(low, neon::mul(y[0], neon::to_floats(words[0])));
        high = neon::add(high, neon::mul(y[1], neon::to_floats(words[1])));
        squares = neon::mul_add_words(squares, words[0], words[0]);
        squares = neon::mul_add_words(squares, words[1], words[1]);
    }
    let dot = neon::sum(neon::add(low, high));
    let d = best_scale(amax, dot, neon::sum_words(squares));
    let mut codes = [0; BLOCK];
    for (words, codes) in words.as_chunks().0.iter().zip(codes.as_chunks_mut().0) {
        *codes = neon::narrow(words);
    }
    XBlock::new(d, codes)
}

/// The sum of squares that a ratio leaves.
#[inline(always)]
fn what_is_left(y: &[neon::F32; 8], ratio: f32) -> f32 {
    let ratio = neon::floats(ratio);
    let (mut low, mut high) = (neon::floats(0.0), neon::floats(0.0));
    for [first, second] in y.as_chunks::<2>().0 {
        let left = |y: neon::F32| {
            let y = neon::mul(y, ratio);
            let left = neon::sub(y, neon::to_floats(neon::to_words(y)));
            neon::mul(left, left)
        };
        low = neon::add(low, left(*first));
        high = neon::add(high, left(*second));
    }
    neon::sum(neon::add(low, high))
}
