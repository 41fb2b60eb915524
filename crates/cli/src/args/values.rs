//! How single values are read.

use std::num::ParseIntError;

use crate::size;

/// `--memory`: a size, or what the machine and its limits allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// The smallest of the limits and of what is available, less a reserve.
    Auto,
    /// So many bytes.
    Bytes(u64),
}

/// A size as a number of bytes.
pub fn size(text: &str) -> Result<u64, size::SizeError> {
    size::parse(text)
}

/// A size or `auto`.
pub fn memory(text: &str) -> Result<Memory, size::SizeError> {
    if text.eq_ignore_ascii_case("auto") {
        return Ok(Memory::Auto);
    }
    size::parse(text).map(Memory::Bytes)
}

/// A finite number that is not negative.
pub fn non_negative(text: &str) -> Result<f32, String> {
    match finite(text) {
        Ok(value) if value >= 0.0 => Ok(value),
        _ => Err(format!("{text:?} is not a number of 0 or more")),
    }
}

/// A number from 0 to 1.
pub fn fraction(text: &str) -> Result<f32, String> {
    match finite(text) {
        Ok(value) if (0.0..=1.0).contains(&value) => Ok(value),
        _ => Err(format!("{text:?} is not a number from 0 to 1")),
    }
}

/// A number greater than 0.
pub fn positive(text: &str) -> Result<f32, String> {
    match finite(text) {
        Ok(value) if value > 0.0 => Ok(value),
        _ => Err(format!("{text:?} is not a number greater than 0")),
    }
}

/// Any finite number.
pub fn finite(text: &str) -> Result<f32, String> {
    match text.trim().parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err(format!("{text:?} is not a finite number")),
    }
}

/// `ID=BIAS`: a token id and what is added to its logit; `-inf` forbids the token.
pub fn logit_bias(text: &str) -> Result<(u32, f32), String> {
    let wrong = || format!("{text:?} is not ID=BIAS, as in 15043=-2.5 or 15043=-inf");
    let (id, bias) = text.split_once('=').ok_or_else(wrong)?;
    let id = id.trim().parse().map_err(|_| wrong())?;
    match bias.trim().parse::<f32>() {
        Ok(bias) if bias.is_finite() || bias == f32::NEG_INFINITY => Ok((id, bias)),
        _ => Err(wrong()),
    }
}

/// A token id; there may be blanks around it, as in a list that was copied.
pub fn token_id(text: &str) -> Result<u32, ParseIntError> {
    text.trim().parse()
}

/// A text of at least one character.
pub fn not_empty(text: &str) -> Result<String, String> {
    match text {
        "" => Err("it is empty".to_owned()),
        text => Ok(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_finite_and_in_range() {
        assert_eq!(memory("AUTO"), Ok(Memory::Auto));
        assert_eq!(memory("1K"), Ok(Memory::Bytes(1024)));
        for bad in ["nan", "inf", "-inf", "-0.1", "x", ""] {
            assert!(non_negative(bad).is_err(), "{bad}");
        }
        assert!(fraction("1.01").is_err() && fraction("1").is_ok());
        assert!(positive("0").is_err());
        assert_eq!(token_id(" 5 "), Ok(5));
        assert_eq!(logit_bias("5=-inf"), Ok((5, f32::NEG_INFINITY)));
        for bad in ["5", "5=", "=1", "5=nan", "5=inf", "-1=2", "4294967296=1"] {
            assert!(logit_bias(bad).is_err(), "{bad}");
        }
    }
}
