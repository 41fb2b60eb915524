//! Inverse frequencies of rotary position embeddings, plain and scaled: pure arithmetic in f64.

/// How a model stretches its rotary embedding beyond the context it was first trained on.
#[derive(Copy, Clone, PartialEq, Debug)]
pub enum RopeScaling {
    /// Angles are position times frequency.
    None,
    /// Positions are divided by `factor` ("position interpolation").
    Linear {
        /// At least 1 in practice; must be positive.
        factor: f64,
    },
    /// YaRN ("NTK by parts"): slow pairs are interpolated, fast pairs kept, a linear ramp between.
    /// Paper: Peng et al. 2023, arXiv 2309.00071.
    Yarn {
        /// Context after scaling by context before.
        factor: f64,
        /// Context before scaling, in tokens.
        original_context: f64,
        /// Pairs that turn more often than this in the original context are kept. 32 in the paper.
        beta_fast: f64,
        /// Pairs that turn less often than this are interpolated. 1 in the paper.
        beta_slow: f64,
        /// How much of the ramp is applied: 1 for YaRN, 0 leaves linear scaling.
        extrapolation: f64,
    },
    /// Llama 3.1's rule: like YaRN's by parts, with the ramp linear in the number of turns.
    Llama3 {
        /// Divisor of the slow frequencies.
        factor: f64,
        /// Pairs that turn less often than this in the original context are slow.
        low_frequency_factor: f64,
        /// Pairs that turn more often than this are kept.
        high_frequency_factor: f64,
        /// Context before scaling, in tokens.
        original_context: f64,
    },
}

/// The angle per position of each of the `dims / 2` pairs: `base^(-2 i / dims)` scaled.
///
/// `factors` (the tensor `rope_freqs`, where a model has one) divide the unscaled frequencies; pairs
/// beyond its end count as factor 1.
#[must_use]
pub fn inverse_frequencies(
    dims: usize,
    base: f64,
    scaling: RopeScaling,
    factors: Option<&[f32]>,
) -> Vec<f64> {
    let factor_of = |pair: usize| {
        factors.and_then(|factors| factors.get(pair)).map_or(1.0, |factor| f64::from(*factor))
    };
    (0..dims / 2)
        .map(|pair| {
            let plain = base.powf(-2.0 * pair as f64 / dims as f64) / factor_of(pair);
            scaled(plain, pair, dims, base, scaling)
        })
        .collect()
}

fn scaled(plain: f64, pair: usize, dims: usize, base: f64, scaling: RopeScaling) -> f64 {
    match scaling {
        RopeScaling::None => plain,
        RopeScaling::Linear { factor } => plain / factor,
        RopeScaling::Yarn { factor, original_context, beta_fast, beta_slow, extrapolation } => {
            let low = yarn_dimension(dims, original_context, beta_fast, base).floor().max(0.0);
            let high = yarn_dimension(dims, original_context, beta_slow, base).ceil();
            let high = high.min(dims as f64 - 1.0);
            // 1 where the plain frequency is kept (fast pairs), 0 where it is interpolated.
            let ramp = 1.0 - ((pair as f64 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
            let keep = ramp * extrapolation;
            plain / factor * (1.0 - keep) + plain * keep
        }
        RopeScaling::Llama3 {
            factor,
            low_frequency_factor,
            high_frequency_factor,
            original_context,
        } => {
            let turns = original_context * plain / std::f64::consts::TAU;
            let span = high_frequency_factor - low_frequency_factor;
            if turns < low_frequency_factor {
                plain / factor
            } else if turns > high_frequency_factor {
                plain
            } else {
                let smooth = (turns - low_frequency_factor) / span;
                plain * ((1.0 - smooth) / factor + smooth)
            }
        }
    }
}

/// The (fractional) pair that turns `turns` times within `context` positions: the solution of
/// `context * base^(-2 i / dims) = 2 pi turns` for i.
fn yarn_dimension(dims: usize, context: f64, turns: f64, base: f64) -> f64 {
    dims as f64 * (context / (turns * std::f64::consts::TAU)).ln() / (2.0 * base.ln())
}

/// YaRN's temperature as a factor on the rotated vectors: `1 + 0.1 ln(factor)` for factors above 1,
/// divided by the same with `log_multiplier` where the file gives one, times the file's own factor.
#[must_use]
pub fn yarn_magnitude(factor: f64, log_multiplier: Option<f64>, attention_factor: f64) -> f64 {
    let magnitude = |multiplier: f64| {
        if factor <= 1.0 { 1.0 } else { 0.1 * multiplier * factor.ln() + 1.0 }
    };
    let divisor = log_multiplier.filter(|m| *m != 0.0).map_or(1.0, magnitude);
    magnitude(1.0) / divisor * attention_factor
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() <= 1e-12 * b.abs()
    }

    #[test]
    fn plain_linear_and_factors() {
        let plain = inverse_frequencies(8, 10_000.0, RopeScaling::None, None);
        assert_eq!(plain.len(), 4);
        for (got, expected) in plain.iter().zip([1.0, 0.1, 0.01, 0.001]) {
            assert!(close(*got, expected), "{got}");
        }
        let linear = inverse_frequencies(8, 10_000.0, RopeScaling::Linear { factor: 4.0 }, None);
        assert!(linear.iter().zip(&plain).all(|(a, b)| close(*a, b / 4.0)));
        let divided = inverse_frequencies(8, 10_000.0, RopeScaling::None, Some(&[1.0, 2.0, 8.0]));
        assert!(close(divided[1], 0.05) && close(divided[2], 0.00125) && close(divided[3], 0.001));
    }

    /// Figures of the reference Python of Llama 3.1 (factor 8, low 1, high 4, context 8192, base
    /// 500000, 128 dimensions), by hand: pair 0 turns 1303 times and is kept; pair 63 turns 0.003
    /// times and is divided by 8; pair 32 turns 1.844 times and is mixed.
    #[test]
    fn llama3_keeps_fast_pairs_and_divides_slow_ones() {
        let scaling = RopeScaling::Llama3 {
            factor: 8.0,
            low_frequency_factor: 1.0,
            high_frequency_factor: 4.0,
            original_context: 8192.0,
        };
        let got = inverse_frequencies(128, 500_000.0, scaling, None);
        let plain = inverse_frequencies(128, 500_000.0, RopeScaling::None, None);
        assert!(close(got[0], 1.0) && close(got[20], plain[20]));
        assert!(close(got[63], plain[63] / 8.0) && close(got[40], plain[40] / 8.0));
        let turns = 8192.0 / 500_000.0_f64.sqrt() / std::f64::consts::TAU;
        let smooth = (turns - 1.0) / 3.0;
        assert!((turns - 1.843_85).abs() < 1e-4, "{turns}");
        assert!(close(got[32], plain[32] * ((1.0 - smooth) / 8.0 + smooth)));
    }

    /// Qwen's setting (factor 4 of 32768, base 1e6, 128 dimensions): the ramp's ends by the formula are
    /// pairs 23 (23.59 rounded down) and 40 (39.65 rounded up).
    #[test]
    fn yarn_ramps_between_the_two_pairs() {
        let yarn = |extrapolation| RopeScaling::Yarn {
            factor: 4.0,
            original_context: 32_768.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            extrapolation,
        };
        let got = inverse_frequencies(128, 1e6, yarn(1.0), None);
        let plain = inverse_frequencies(128, 1e6, RopeScaling::None, None);
        for pair in 0..64 {
            let keep = 1.0 - ((pair as f64 - 23.0) / 17.0).clamp(0.0, 1.0);
            let expected = plain[pair] * (keep + (1.0 - keep) / 4.0);
            assert!(close(got[pair], expected), "pair {pair}: {} {expected}", got[pair]);
        }
        let linear = inverse_frequencies(128, 1e6, RopeScaling::Linear { factor: 4.0 }, None);
        let flat = inverse_frequencies(128, 1e6, yarn(0.0), None);
        assert!(flat.iter().zip(&linear).all(|(a, b)| close(*a, *b)));
    }

    #[test]
    fn yarn_magnitude_by_its_formula() {
        assert!(close(yarn_magnitude(4.0, None, 1.0), 1.0 + 0.1 * 4.0_f64.ln()));
        assert!(close(yarn_magnitude(1.0, None, 1.0), 1.0));
        assert!(close(yarn_magnitude(40.0, Some(1.0), 1.0), 1.0));
        let expected = (1.0 + 0.1 * 40.0_f64.ln()) / (1.0 + 0.0707 * 40.0_f64.ln()) * 1.5;
        assert!(close(yarn_magnitude(40.0, Some(0.707), 1.5), expected));
    }
}
