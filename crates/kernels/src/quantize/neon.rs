//! Quantisation with NEON: the same bits as the scalar code.

use super::{BLOCK, XBlock, scales};
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
    let words = eight!(|I| neon::to_words(neon::mul(x[I], inverse)));
    let mut codes = [0; BLOCK];
    for (words, codes) in words.as_chunks().0.iter().zip(codes.as_chunks_mut().0) {
        *codes = neon::narrow(words);
    }
    XBlock::new(d, codes)
}
