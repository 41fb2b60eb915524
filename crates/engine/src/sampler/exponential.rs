//! e^x with plain IEEE additions and multiplications: the system's library differs between systems in
//! the last place, and a sampled answer must not.

/// 1 / k! for k = 13 down to 0.
const INVERSE_FACTORIALS: [f64; 14] = [
    1.0 / 6_227_020_800.0,
    1.0 / 479_001_600.0,
    1.0 / 39_916_800.0,
    1.0 / 3_628_800.0,
    1.0 / 362_880.0,
    1.0 / 40_320.0,
    1.0 / 5_040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    0.5,
    1.0,
    1.0,
];

/// e^x for x <= 0, relative error below 2e-15; 0 below -700 and for minus infinity.
///
/// Without branches or calls, so that a loop over a vocabulary becomes SIMD code.
#[inline]
pub(crate) fn exp_nonpositive(x: f64) -> f64 {
    /// 1.5 * 2^52: adding it rounds to an integer, left in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    // A NaN is no less than anything: it goes on and comes out as NaN.
    let clamped = if x < -700.0 { -700.0 } else { x };
    let rounded = clamped * std::f64::consts::LOG2_E + ROUND;
    let n = rounded - ROUND;
    // ln 2 in two parts; n has at most 10 bits, so the first product is exact.
    let rest = clamped - n * 0.693_147_180_369_123_8 - n * 1.908_214_929_270_587_7e-10;
    // Taylor's series by Horner's rule; |rest| <= 0.35, so the first omitted term is below 1e-17.
    let mut sum = 0.0;
    for c in INVERSE_FACTORIALS {
        sum = sum * rest + c;
    }
    let power = f64::from_bits(rounded.to_bits().wrapping_add(1023) << 52);
    if x < -700.0 { 0.0 } else { sum * power }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_library() {
        for i in 0..200_000 {
            let x = -f64::from(i) * 0.003_4;
            let exact = x.exp();
            assert!((exp_nonpositive(x) - exact).abs() <= 2e-15 * exact, "{x}");
        }
        assert_eq!(exp_nonpositive(0.0), 1.0);
        assert_eq!(exp_nonpositive(-1e30), 0.0);
        assert_eq!(exp_nonpositive(f64::NEG_INFINITY), 0.0);
        assert!(exp_nonpositive(f64::NAN).is_nan());
    }
}
