//! Quantisation with NEON: the same bits as the scalar code.

use super::{BLOCK, XBlock, best_scale, scales};
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
    let Some((d, inverse)) = scales(max) else {
        return XBlock::new(f32::NAN, [0; BLOCK]);
    };
    let inverse = neon::floats(inverse);
    let y = eight!(|I| neon::mul(x[I], inverse));
    let words = eight!(|I| neon::to_words(y[I]));
    let (mut low, mut high) = (neon::floats(0.0), neon::floats(0.0));
    let mut squares = neon::words(0);
    for (y, words) in y.as_chunks::<2>().0.iter().zip(words.as_chunks::<2>().0) {
        low = neon::add(low, neon::mul(y[0], neon::to_floats(words[0])));
        high = neon::add(high, neon::mul(y[1], neon::to_floats(words[1])));
        squares = neon::mul_add_words(squares, words[0], words[0]);
        squares = neon::mul_add_words(squares, words[1], words[1]);
    }
    let dot = neon::sum(neon::add(low, high));
    let d = best_scale(d, dot, neon::sum_words(squares));
    let mut codes = [0; BLOCK];
    for (words, codes) in words.as_chunks().0.iter().zip(codes.as_chunks_mut().0) {
        *codes = neon::narrow(words);
    }
    XBlock::new(d, codes)
}
