//! What a user may set about sampling.

/// How a token is chosen from logits. Fields that are off leave candidates alone.
///
/// Order of application: bias, penalties, `top_n_sigma`, `top_k`, `typical_p`, `top_p`, `min_p`,
/// temperature, the draw; llama.cpp's default order.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplerParams {
    /// Logits are divided by it; 0: always the best token (the lowest id among equals).
    pub temperature: f32,
    /// Only so many best tokens; 0: off.
    pub top_k: u32,
    /// Only the best tokens that together have this probability; 1: off.
    pub top_p: f32,
    /// Only tokens of at least this share of the best one's probability; 0: off.
    pub min_p: f32,
    /// Only the tokens whose information is closest to the expected one and that together have this
    /// probability (Meister et al. 2022); 1: off.
    pub typical_p: f32,
    /// Only tokens within so many standard deviations of the best logit; 0: off.
    pub top_n_sigma: f32,
    /// Logits of recent tokens are divided by it if positive, multiplied if negative; 1: off.
    pub repeat_penalty: f32,
    /// Subtracted from logits of recent tokens; 0: off.
    pub presence_penalty: f32,
    /// Subtracted from logits of recent tokens once for each occurrence; 0: off.
    pub frequency_penalty: f32,
    /// How many tokens are recent, the prompt's included; 0: none.
    pub penalty_last_n: u32,
    /// Added to the logits of these tokens; minus infinity bans one.
    pub logit_bias: Vec<(u32, f32)>,
    /// Equal seeds (and parameters, and logits) give equal tokens; `None`: a new one each time.
    pub seed: Option<u64>,
}

impl Default for SamplerParams {
    /// Temperature 0.8, top 40, top-p 0.95, min-p 0.05, the rest off: llama.cpp's defaults.
    fn default() -> SamplerParams {
        SamplerParams {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            min_p: 0.05,
            typical_p: 1.0,
            top_n_sigma: 0.0,
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            penalty_last_n: 64,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

/// What is wrong with sampling's parameters, or with what it was given.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SamplerError {
    /// A parameter is not a number, or outside its range.
    #[error("{name} is {value}, it must be {allowed}")]
    Parameter {
        /// The field of [`SamplerParams`].
        name: &'static str,
        /// Its value.
        value: f32,
        /// What would do.
        allowed: &'static str,
    },
    /// A bias for a token that does not exist.
    #[error("logit_bias names token {id}, the vocabulary has {vocabulary}")]
    BiasId {
        /// The token.
        id: u32,
        /// Tokens of the vocabulary.
        vocabulary: usize,
    },
    /// A logit is NaN or infinite: weights or activations are broken.
    #[error("the logit of token {index} is not a finite number: the model's weights are damaged")]
    NonFiniteLogits {
        /// The token.
        index: usize,
    },
    /// Another number of logits than the vocabulary has.
    #[error("{got} logits for a vocabulary of {vocabulary}")]
    Length {
        /// Logits given.
        got: usize,
        /// Tokens of the vocabulary.
        vocabulary: usize,
    },
    /// Biases ban every token.
    #[error("logit_bias bans every token")]
    NoCandidate,
}

impl SamplerParams {
    /// Whether penalties can change anything.
    pub(super) fn penalises(&self) -> bool {
        #[expect(clippy::float_cmp, reason = "exactly these values mean off")]
        let neutral = self.repeat_penalty == 1.0
            && self.presence_penalty == 0.0
            && self.frequency_penalty == 0.0;
        !neutral && self.penalty_last_n != 0
    }

    /// Checks every field against its range, and biases against the vocabulary.
    ///
    /// # Errors
    /// The first field that is not a number or outside its range.
    pub fn validate(&self, vocabulary: usize) -> Result<(), SamplerError> {
        let check = |name, value: f32, good: bool, allowed| {
            if good { Ok(()) } else { Err(SamplerError::Parameter { name, value, allowed }) }
        };
        let nonnegative = |name, value: f32| {
            check(name, value, value.is_finite() && value >= 0.0, "0 or a positive number")
        };
        let share =
            |name, value: f32| check(name, value, (0.0..=1.0).contains(&value), "from 0 to 1");
        nonnegative("temperature", self.temperature)?;
        share("top_p", self.top_p)?;
        share("min_p", self.min_p)?;
        share("typical_p", self.typical_p)?;
        nonnegative("top_n_sigma", self.top_n_sigma)?;
        let repeat = self.repeat_penalty;
        let positive = repeat.is_finite() && repeat > 0.0;
        check("repeat_penalty", repeat, positive, "a positive number")?;
        nonnegative("presence_penalty", self.presence_penalty)?;
        nonnegative("frequency_penalty", self.frequency_penalty)?;
        for &(id, bias) in &self.logit_bias {
            if usize::try_from(id).is_ok_and(|id| id >= vocabulary) {
                return Err(SamplerError::BiasId { id, vocabulary });
            }
            let good = bias < f32::INFINITY;
            check("logit_bias", bias, good, "a number (minus infinity bans a token)")?;
        }
        Ok(())
    }
}
