//! The random numbers of sampling: xoshiro256++ (Blackman and Vigna 2019), seeded by SplitMix64.
//!
//! Written out here so that a seed gives the same answer with every version, on every machine.

/// A generator; equal seeds give equal sequences for all time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Random {
    state: [u64; 4],
}

impl Random {
    pub(crate) fn new(mut seed: u64) -> Random {
        let state = std::array::from_fn(|_| {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = seed;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        });
        Random { state }
    }

    pub(crate) fn bits(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (c, d) = (c ^ a, d ^ b);
        let (b, a) = (b ^ c, a ^ d);
        self.state = [a, b, c ^ (self.state[1] << 17), d.rotate_left(45)];
        result
    }

    /// In 0..1, a multiple of 2^-53.
    pub(crate) fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / 9_007_199_254_740_992.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first outputs for the state 1, 2, 3, 4, as the authors' C code prints them (and
    /// `rand_xoshiro`'s tests have them).
    #[test]
    fn is_xoshiro256_plus_plus() {
        let mut random = Random { state: [1, 2, 3, 4] };
        let expected: [u64; 5] = [
            41_943_041,
            58_720_359,
            3_588_806_011_781_223,
            3_591_011_842_654_386,
            9_228_616_714_210_784_205,
        ];
        assert_eq!(std::array::from_fn(|_| random.bits()), expected);
    }

    #[test]
    fn units_are_uniform_enough() {
        let mut random = Random::new(0);
        let mut counts = [0; 10];
        for _ in 0..100_000 {
            counts[(random.unit() * 10.0) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }
}
