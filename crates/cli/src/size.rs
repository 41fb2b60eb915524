//! Sizes as people write them: `6.8GB`, `6.8GiB`, `6.8G`, `6800000000`.
//!
//! `6.8GB` is 6.8e9 bytes, `6.8GiB` is 6.8 * 2^30; a bare letter is binary, as cgroups and systemd
//! read it; a bare number is bytes. Fractions of a byte are dropped. Everything is computed in
//! integers, so that `6.8GB` is 6,800,000,000 and not a neighbour of it.

use std::fmt;

/// No machine maps more than this (2^62 bytes); larger figures are typing errors.
const BYTES_MAX: u128 = 1 << 62;
/// More digits than any size needs, few enough that `u128` cannot overflow.
const DIGITS_MAX: usize = 20;

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SizeError {
    /// Not `number` or `number unit`.
    Malformed(String),
    /// The unit is none of B, K, KB, KiB, ... PiB.
    Unit(String),
    /// Zero bytes, also after dropping a fraction.
    Zero,
    /// Beyond 2^62 bytes.
    TooLarge,
}

impl fmt::Display for SizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(text) => write!(
                f,
                "{text:?} is not a size: write 6.8GB (10^9), 6.8GiB or 6.8G (2^30), or bytes"
            ),
            Self::Unit(unit) => write!(
                f,
                "{unit:?} is not a unit: use KB, MB, GB, TB (10^3 ...) or KiB, MiB, GiB, TiB, K, M, G, T (2^10 ...)"
            ),
            Self::Zero => f.write_str("a size must be at least one byte"),
            Self::TooLarge => f.write_str("a size must be below 4 EiB (2^62 bytes)"),
        }
    }
}

impl std::error::Error for SizeError {}

/// Reads a size; the result is between 1 and 2^62 bytes.
pub fn parse(text: &str) -> Result<u64, SizeError> {
    let text = text.trim();
    let malformed = || SizeError::Malformed(text.to_owned());
    let unit_at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || (number.contains('.') && fraction.is_empty()) || fraction.contains('.') {
        return Err(malformed());
    }
    let unit = unit.trim_start();
    if !unit.chars().all(|c| c.is_ascii_alphabetic()) {
        return Err(malformed());
    }
    let factor = unit_bytes(unit).ok_or_else(|| SizeError::Unit(unit.to_owned()))?;
    if whole.trim_start_matches('0').len() > DIGITS_MAX {
        return Err(SizeError::TooLarge);
    }
    // Digits past the 15th of a fraction are worth less than a byte even of a PiB.
    let fraction = &fraction[..fraction.len().min(15)];
    let digits = |s: &str| s.bytes().fold(0_u128, |n, b| n * 10 + u128::from(b - b'0'));
    let scale = 10_u128.pow(fraction.len() as u32);
    let bytes = digits(whole.trim_start_matches('0'))
        .checked_mul(factor)
        .and_then(|b| b.checked_add(digits(fraction) * factor / scale))
        .ok_or(SizeError::TooLarge)?;
    match bytes {
        0 => Err(SizeError::Zero),
        b if b > BYTES_MAX => Err(SizeError::TooLarge),
        b => Ok(b as u64),
    }
}

fn unit_bytes(unit: &str) -> Option<u128> {
    let unit = unit.to_ascii_lowercase();
    if unit.is_empty() || unit == "b" {
        return Some(1);
    }
    let power = "kmgtp".find(unit.chars().next()?)? as u32 + 1;
    match &unit[1..] {
        "b" => Some(1000_u128.pow(power)),
        "" | "ib" => Some(1024_u128.pow(power)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_mean_what_the_interface_says() {
        for (text, bytes) in [
            ("6.8GB", 6_800_000_000),
            ("6.8GiB", 7_301_444_403),
            ("6.8G", 7_301_444_403),
            ("6.8g", 7_301_444_403),
            ("20GiB", 20 << 30),
            ("700MB", 700_000_000),
            ("700 MB", 700_000_000),
            ("4096", 4096),
            ("4096B", 4096),
            ("1.5K", 1536),
            ("0.5TiB", 1 << 39),
            ("1P", 1 << 50),
            ("0.3333333333333333333333333GB", 333_333_333),
            ("000000000000000000000000000001", 1),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn nonsense_is_refused_by_its_kind() {
        for text in ["", ".", "-3", "+3", "inf", "nan", "1e30", "1..2", "1.", ".5G", "6,8GB", "٣GB"]
        {
            assert!(
                matches!(parse(text), Err(SizeError::Malformed(_) | SizeError::Unit(_))),
                "{text}: {:?}",
                parse(text)
            );
        }
        assert_eq!(parse("6.8XB"), Err(SizeError::Unit("XB".to_owned())));
        assert_eq!(parse("0"), Err(SizeError::Zero));
        assert_eq!(parse("0.0GB"), Err(SizeError::Zero));
        assert_eq!(parse("0.5"), Err(SizeError::Zero));
        assert_eq!(parse("99999999999999999999999999"), Err(SizeError::TooLarge));
        assert_eq!(parse("99999999999999999999P"), Err(SizeError::TooLarge));
        assert_eq!(parse("5000PiB"), Err(SizeError::TooLarge));
    }
}
