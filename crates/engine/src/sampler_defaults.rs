//! Sampling parameters that a file recommends (`general.sampling.*`). What the user gives wins.

use lowtide_gguf::Gguf;

/// The recommendations; `None` where the file says nothing (or nothing usable: they are hints).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct SamplerDefaults {
    /// `general.sampling.temp`, at least 0.
    pub temperature: Option<f32>,
    /// `general.sampling.top_k`, tokens.
    pub top_k: Option<u32>,
    /// `general.sampling.top_p`, 0 to 1.
    pub top_p: Option<f32>,
    /// `general.sampling.min_p`, 0 to 1.
    pub min_p: Option<f32>,
    /// `general.sampling.penalty_last_n`, tokens.
    pub penalty_last_n: Option<u32>,
    /// `general.sampling.penalty_repeat`, above 0.
    pub penalty_repeat: Option<f32>,
}

impl SamplerDefaults {
    /// Reads them from metadata.
    #[must_use]
    pub fn read(gguf: &Gguf<'_>) -> Self {
        let float = |key: &str, min: f32, max: f32| {
            let value = gguf.get_f32(&format!("general.sampling.{key}")).ok().flatten();
            value.filter(|v| (min..=max).contains(v))
        };
        let count = |key: &str| gguf.get_u32(&format!("general.sampling.{key}")).ok().flatten();
        Self {
            temperature: float("temp", 0.0, f32::MAX),
            top_k: count("top_k"),
            top_p: float("top_p", 0.0, 1.0),
            min_p: float("min_p", 0.0, 1.0),
            penalty_last_n: count("penalty_last_n"),
            penalty_repeat: float("penalty_repeat", f32::MIN_POSITIVE, f32::MAX),
        }
    }
}
