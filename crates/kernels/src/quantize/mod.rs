//! Activations as matrix products take them: 8-bit codes with a scale per 32 values, or floats.
//!
//! A block of 32 values of one token becomes
//! - `amax`, the largest magnitude, and `y = x * (127 / amax)`;
//! - codes `q = round_half_even(y * r)`, which lie in -127..=127, with that one of four ratios `r` (`LARGEST / 127`) that
//!   leaves the least `|y * r - q|^2 / r^2`, the first of equals: 10 to 13 % less than the first alone (heavy-tailed to
//!   normal values), as which of them happen to lie near a code changes with the ratio;
//! - the scale `d = amax / 127 * (y.q / q.q)`: of all scales the one that leaves the least squared error with these
//!   codes. `amax / (127 r)` itself leaves 1/32 more on the average, as one of 32 directions of the error is taken out;
//! - the sums of the first and the last 16 codes, and `s = d * (sum of all codes)`.
//!
//! `y.q` and the sum of squares are sums of floats, so their order is part of the definition: eight lanes, lane `l` over the
//! values `l + 8 i` with `i` rising, products rounded; then lanes `l` and `l + 4`, and of those four the neighbours, twice.
//!
//! If `amax` is below 2^-119, the block counts as zero (127 / amax would overflow). If a value is
//! infinite or no number, `d` is NaN and the codes are 0, so that every product with the block is NaN:
//! a poisoned activation must become an error upstream, not an answer.
//!
//! Scales are `f32`, not half precision: it costs two bytes in memory nobody is short of.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;

use crate::compute::Compute;
use crate::disjoint::Disjoint;
use crate::isa::Isa;
use crate::matmul::MatmulError;

/// Values per block of codes.
pub const BLOCK: usize = 32;

/// Float columns are padded with zeros to a multiple of this many values.
pub const LANES: usize = 16;

/// The code that the largest magnitude of a block gets, in the order in which they are tried. Whole numbers, as then it
/// is met exactly; the next four would lower the error by 5 % more and cost as much again.
const LARGEST: [f32; 4] = [127.0, 126.0, 124.0, 121.0];

/// `r`: `LARGEST` as a factor of what is 127 at most.
const RATIOS: [f32; 4] =
    [1.0, LARGEST[1] / LARGEST[0], LARGEST[2] / LARGEST[0], LARGEST[3] / LARGEST[0]];

/// `1 / r^2`.
const WEIGHTS: [f32; 4] = [
    1.0,
    1.0 / (RATIOS[1] * RATIOS[1]),
    1.0 / (RATIOS[2] * RATIOS[2]),
    1.0 / (RATIOS[3] * RATIOS[3]),
];

/// Magnitudes below 2^-119 quantise to zero.
const AMAX_MIN: f32 = f32::from_bits((127 - 119) << 23);

/// 32 quantised activations of one token.
#[derive(Copy, Clone, Debug, Default, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct XBlock {
    /// The codes, four to a word, the first in the lowest byte.
    pub(crate) quads: [i32; 8],
    /// The scale.
    pub(crate) d: f32,
    /// `d * (sum of codes)`.
    pub(crate) s: f32,
    /// Sum of the first 16 codes (low half, signed) and of the last 16 (high half, signed).
    pub(crate) sums: i32,
    /// `-START` times the sum of codes 0, 1, 4 and 5 of each eight (low half, as many bits of it as fit) and of codes
    /// 2, 3, 6 and 7: what sums of products in 16 bits start with for weights that were made larger by `START`.
    pub(crate) starts: [i32; 4],
}

/// See [`XBlock::starts`].
pub(crate) const START: i16 = 64;

impl XBlock {
    pub(crate) fn codes(&self) -> [i8; BLOCK] {
        let mut codes = [0; BLOCK];
        for (codes, quad) in codes.as_chunks_mut::<4>().0.iter_mut().zip(self.quads) {
            *codes = quad.to_le_bytes().map(u8::cast_signed);
        }
        codes
    }

    fn new(d: f32, codes: [i8; BLOCK]) -> XBlock {
        let sum = |codes: &[i8]| codes.iter().map(|&c| i32::from(c)).sum::<i32>();
        let (low, high) = (sum(&codes[..16]), sum(&codes[16..]));
        XBlock {
            quads: std::array::from_fn(|i| {
                i32::from_le_bytes(std::array::from_fn(|j| codes[4 * i + j].cast_unsigned()))
            }),
            d,
            s: d * (low + high) as f32,
            sums: (low & 0xffff) | (high << 16),
            starts: std::array::from_fn(|i| {
                let start = |j: usize| {
                    -i32::from(START) * sum(&[0, 1, 4, 5].map(|k| codes[8 * i + 2 * j + k]))
                };
                (start(0) & 0xffff) | (start(1) << 16)
            }),
        }
    }
}

/// Which form of the activations to keep.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Keep {
    /// Codes, for all block formats.
    Codes,
    /// Floats, for `F32`, `F16` and `BF16` weights.
    Floats,
    /// Both.
    Both,
}

impl Keep {
    fn codes(self) -> bool {
        self != Keep::Floats
    }

    fn floats(self) -> bool {
        self != Keep::Codes
    }

    /// What products need if some of the weights are floats and some are blocks.
    #[must_use]
    pub fn for_formats(formats: impl IntoIterator<Item = crate::format::Format>) -> Keep {
        let (mut codes, mut floats) = (false, false);
        for format in formats {
            *(if format.is_float() { &mut floats } else { &mut codes }) = true;
        }
        match (codes, floats) {
            (true, true) => Keep::Both,
            (false, true) => Keep::Floats,
            _ => Keep::Codes,
        }
    }
}

/// The right-hand side of matrix products: columns (tokens) of `k` values.
pub struct Activations {
    keep: Keep,
    k: usize,
    cols: usize,
    blocks: Vec<XBlock>,
    floats: Vec<f32>,
    max_blocks: usize,
    max_floats: usize,
}

impl Activations {
    /// Room for `max_cols` columns of `max_k` values (or any other shape that takes no more), in the
    /// forms to keep. This is the only allocation.
    #[must_use]
    pub fn new(max_k: usize, max_cols: usize, keep: Keep) -> Activations {
        let blocks = if keep.codes() { max_k.div_ceil(BLOCK) * max_cols } else { 0 };
        let floats = if keep.floats() { max_k.next_multiple_of(LANES) * max_cols } else { 0 };
        Activations {
            keep,
            k: 0,
            cols: 0,
            blocks: vec![XBlock::default(); blocks],
            floats: vec![0.0; floats],
            max_blocks: blocks,
            max_floats: floats,
        }
    }

    /// How many bytes [`Activations::new`] allocates, for the memory budget.
    #[must_use]
    pub fn bytes_for(max_k: usize, max_cols: usize, keep: Keep) -> usize {
        let blocks = if keep.codes() { max_k.div_ceil(BLOCK) * size_of::<XBlock>() } else { 0 };
        let floats = if keep.floats() { max_k.next_multiple_of(LANES) * 4 } else { 0 };
        (blocks + floats).saturating_mul(max_cols)
    }

    /// Values per column.
    #[must_use]
    pub fn k(&self) -> usize {
        self.k
    }

    /// Number of columns.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Which forms it keeps.
    #[must_use]
    pub fn keep(&self) -> Keep {
        self.keep
    }

    /// Takes `cols` columns of `k` values each, `x[col * k + i]`, and quantises them if codes are
    /// kept. If `k` is no multiple of 32, there are no codes (no block format has such rows).
    ///
    /// # Errors
    /// [`MatmulError::ActivationLength`] unless `x` has `k * cols` values;
    /// [`MatmulError::ActivationRoom`] if they are more than [`Activations::new`] was asked for.
    pub fn set(
        &mut self,
        compute: &Compute,
        x: &[f32],
        k: usize,
        cols: usize,
    ) -> Result<(), MatmulError> {
        if k.checked_mul(cols) != Some(x.len()) {
            return Err(MatmulError::ActivationLength { k, cols, values: x.len() });
        }
        self.shape(k, cols)?;
        // A chunk of about 16 Ki values takes a few microseconds.
        let grain = (16384 / k.max(1)).max(1);
        if self.keep.floats() {
            let stride = k.next_multiple_of(LANES);
            for (out, x) in self.floats.chunks_mut(stride.max(1)).zip(x.chunks(k.max(1))) {
                out[..k].copy_from_slice(x);
                out[k..].fill(0.0);
            }
        }
        if self.keep.codes() && k.is_multiple_of(BLOCK) {
            let isa = compute.isa();
            let blocks = Disjoint::new(&mut self.blocks[..k / BLOCK * cols]);
            compute.pool().run_ranges(cols, grain, &|cols, _| {
                let x = &x[cols.start * k..cols.end * k];
                quantize_part(isa, x, &blocks, cols.start * (k / BLOCK));
            });
        }
        Ok(())
    }

    /// Takes the chosen columns of `other`, in that order: for experts that see some of the tokens.
    ///
    /// # Errors
    /// [`MatmulError::ActivationColumn`] if a column is not there, [`MatmulError::ActivationKeep`] if
    /// `other` lacks a form that this one keeps, [`MatmulError::ActivationRoom`] as in
    /// [`set`](Activations::set).
    pub fn gather(&mut self, other: &Activations, columns: &[u32]) -> Result<(), MatmulError> {
        if let Some(&column) = columns.iter().find(|&&c| c as usize >= other.cols) {
            return Err(MatmulError::ActivationColumn { column, cols: other.cols });
        }
        if (self.keep.codes() && !other.keep.codes())
            || (self.keep.floats() && !other.keep.floats())
        {
            return Err(MatmulError::ActivationKeep { needed: self.keep, kept: other.keep });
        }
        self.shape(other.k, columns.len())?;
        for (to, &from) in columns.iter().enumerate() {
            if self.keep.codes() {
                let len = self.k / BLOCK;
                self.blocks[to * len..][..len].copy_from_slice(other.column(from as usize));
            }
            if self.keep.floats() {
                let len = self.k.next_multiple_of(LANES);
                self.floats[to * len..][..len].copy_from_slice(other.float_column(from as usize));
            }
        }
        Ok(())
    }

    fn shape(&mut self, k: usize, cols: usize) -> Result<(), MatmulError> {
        let room = |per_column: usize, max: usize| {
            per_column.checked_mul(cols).is_some_and(|needed| needed <= max)
        };
        let codes_fit = !self.keep.codes() || room(k.div_ceil(BLOCK), self.max_blocks);
        let floats_fit = !self.keep.floats()
            || k.checked_next_multiple_of(LANES).is_some_and(|k| room(k, self.max_floats));
        if !codes_fit || !floats_fit {
            return Err(MatmulError::ActivationRoom { k, cols });
        }
        (self.k, self.cols) = (k, cols);
        Ok(())
    }

    /// The `k / 32` blocks of a column; `k` is a multiple of 32 and codes are kept.
    #[inline]
    pub(crate) fn column(&self, col: usize) -> &[XBlock] {
        let len = self.k / BLOCK;
        &self.blocks[col * len..][..len]
    }

    /// The values of a column, padded with zeros to a multiple of 16; floats are kept.
    #[inline]
    pub(crate) fn float_column(&self, col: usize) -> &[f32] {
        let len = self.k.next_multiple_of(LANES);
        &self.floats[col * len..][..len]
    }
}

#[allow(unsafe_code, reason = "threads write disjoint parts of one slice")]
fn quantize_part(isa: Isa, x: &[f32], blocks: &Disjoint<'_, XBlock>, first: usize) {
    // SAFETY: `run_ranges` gives each range of columns to one call, and a range of columns owns the
    // blocks from its first column's on, one per 32 of its values.
    let blocks = unsafe { blocks.part(first..first + x.len() / BLOCK) };
    quantize(isa, x, blocks);
}

fn quantize(isa: Isa, x: &[f32], blocks: &mut [XBlock]) {
    #[cfg(target_arch = "x86_64")]
    if let Some(token) = isa.avx2() {
        return avx2::quantize(token, x, blocks);
    }
    match isa {
        #[cfg(target_arch = "aarch64")]
        Isa::Neon(_) | Isa::NeonDot(_) | Isa::NeonI8mm(_) => neon::quantize(x, blocks),
        _ => {
            for (x, block) in x.as_chunks().0.iter().zip(blocks) {
                *block = quantize_block(x);
            }
        }
    }
}

fn quantize_block(x: &[f32; BLOCK]) -> XBlock {
    // Magnitudes compare like their bits, and NaN is larger than everything.
    let amax = x.iter().map(|x| x.to_bits() & 0x7fff_ffff).max().unwrap_or(0);
    let amax = f32::from_bits(amax);
    if let Some(block) = unusual(amax) {
        return block;
    }
    let inverse = 127.0 / amax;
    let y = x.map(|x| x * inverse);
    let ratio = best_ratio(RATIOS.map(|ratio| {
        sum_by_lanes(&y.map(|y| {
            let left = y * ratio - (y * ratio).round_ties_even();
            left * left
        }))
    }));
    let codes = y.map(|y| (y * ratio).round_ties_even() as i8);
    let dot = sum_by_lanes(&std::array::from_fn(|i| y[i] * f32::from(codes[i])));
    let squares = codes.iter().map(|&c| i32::from(c) * i32::from(c)).sum();
    XBlock::new(best_scale(amax, dot, squares), codes)
}

fn sum_by_lanes(x: &[f32; BLOCK]) -> f32 {
    let mut lanes = [0.0; 8];
    for x in x.as_chunks::<8>().0 {
        for (lane, x) in lanes.iter_mut().zip(x) {
            *lane += x;
        }
    }
    let fours: [f32; 4] = std::array::from_fn(|l| lanes[l] + lanes[l + 4]);
    (fours[0] + fours[1]) + (fours[2] + fours[3])
}

/// The ratio that leaves the least, given the sums of squares that each leaves in units of its own codes.
#[inline]
fn best_ratio(left: [f32; 4]) -> f32 {
    let left: [f32; 4] = std::array::from_fn(|i| left[i] * WEIGHTS[i]);
    RATIOS[(1..4).fold(0, |best, i| if left[i] < left[best] { i } else { best })]
}

/// The scale with the least squared error, for `y . q` and `q . q`; the latter is below 2^19, so exact as a float.
#[inline]
fn best_scale(amax: f32, dot: f32, squares: i32) -> f32 {
    amax / 127.0 * (dot / squares as f32)
}

/// The block of values whose largest magnitude is not finite, or counts as zero.
#[inline]
fn unusual(amax: f32) -> Option<XBlock> {
    if !amax.is_finite() {
        Some(XBlock { d: f32::NAN, s: f32::NAN, ..XBlock::default() })
    } else if amax < AMAX_MIN {
        Some(XBlock::default())
    } else {
        None
    }
}

#[cfg(test)]
mod tests;
