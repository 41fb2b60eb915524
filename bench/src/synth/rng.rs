//! The random numbers of synthetic weights: fast, seeded by what they are for, the same on every machine.

/// SplitMix64 (Steele, Lea, Flood 2014): one multiplication-xor chain per 64 bits, any seed is a good one.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Rng {
    /// The stream that belongs to `parts`, such as (seed, tensor, piece): equal parts, equal stream.
    pub(crate) fn of(parts: &[u64]) -> Rng {
        let mut rng = Rng(0);
        for &part in parts {
            let mixed = rng.next();
            rng = Rng(mixed ^ part);
        }
        rng
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A whole number below `n`, which is not 0. The bias of the remainder is below 2^-32 for the sizes used here.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// Uniform in 0..1.
    pub(crate) fn unit(&mut self) -> f32 {
        // 24 bits are exact in f32.
        (self.next() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// Either sign.
    pub(crate) fn sign(&mut self) -> f32 {
        if self.next() & 1 == 0 { 1.0 } else { -1.0 }
    }

    /// Mean 0, standard deviation 1, within 3.5: the sum of four 16-bit uniforms (Irwin-Hall), close enough to normal for weights.
    pub(crate) fn normal(&mut self) -> f32 {
        let bits = self.next();
        let sum = (bits & 0xffff) + (bits >> 16 & 0xffff) + (bits >> 32 & 0xffff) + (bits >> 48);
        // Four uniforms of 0..65536 have mean 4 * 32767.5 and variance 4 * 65536^2 / 12.
        (sum as f32 - 131_070.0) / 37_837.23
    }

    pub(crate) fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            chunk.copy_from_slice(&self.next().to_le_bytes()[..chunk.len()]);
        }
    }
}
