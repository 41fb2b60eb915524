//! What requests need to know of a model while the engine's thread has the model itself.

use std::sync::{Arc, OnceLock};

use lowtide_engine::sampler::SamplerParams;
use lowtide_engine::{Budget, Engine, SamplerDefaults};
use lowtide_tokenizer::{ChatTemplate, Tokenizer};
use serde_json::{Value, json};

use crate::constraint::Grammars;
use crate::error::ApiError;
use crate::format::Format;

/// A loaded model as requests see it.
pub struct ModelFace {
    /// Its name in requests.
    pub id: Arc<str>,
    /// The family.
    pub architecture: String,
    /// Bytes of its files.
    pub file_bytes: u64,
    /// Layers.
    pub layers: u32,
    /// Tokens that prompt and answer have together at most.
    pub context: usize,
    /// Items of a hidden state: the dimensions of an embedding.
    pub width: usize,
    /// Answers that are made together.
    pub sequences: usize,
    /// Logits a token gives.
    pub vocabulary: usize,
    /// Text to ids and back.
    pub tokenizer: Arc<Tokenizer>,
    /// Its way to write conversations.
    pub template: Option<ChatTemplate>,
    /// Its way to write calls of tools and thoughts.
    pub format: Format,
    /// What is sampled with where a request does not say.
    pub defaults: SamplerParams,
    /// The split of the budget.
    pub budget: Budget,
    /// The tide picture's rows.
    pub layout: crate::tide::Layout,
    /// Answers that are kept to a shape at a time.
    shapes: usize,
    grammars: OnceLock<Result<Arc<Grammars>, ApiError>>,
}

impl ModelFace {
    /// The face of the model in `engine`, with `shapes` answers kept to a shape at a time.
    ///
    /// # Errors
    /// Its chat template cannot be read.
    pub fn new(id: &str, engine: &Engine, shapes: usize) -> Result<Self, ApiError> {
        let model = engine.model();
        let template = model
            .chat_template()
            .map(|source| ChatTemplate::new(source, model.tokenizer()))
            .transpose()
            .map_err(|error| ApiError::internal(error.to_string()))?;
        let config = engine.config();
        Ok(Self {
            id: id.into(),
            architecture: config.family.name.to_owned(),
            file_bytes: model.file_bytes(),
            layers: config.layers,
            context: engine.context(),
            width: usize::try_from(config.embedding_length).unwrap_or(0),
            sequences: engine.sequences(),
            vocabulary: engine.vocabulary_length(),
            tokenizer: model.shared_tokenizer(),
            format: Format::of(template.as_ref().map(ChatTemplate::source)),
            template,
            defaults: defaults(model.sampler_defaults()),
            budget: *engine.budget(),
            layout: crate::tide::Layout::of(engine),
            shapes,
            grammars: OnceLock::new(),
        })
    }

    /// Constraints for its vocabulary.
    ///
    /// # Errors
    /// The vocabulary is not one the library can use.
    pub fn grammars(&self) -> Result<&Arc<Grammars>, ApiError> {
        let made = self.grammars.get_or_init(|| {
            Grammars::new(&self.tokenizer, self.vocabulary, self.shapes).map(Arc::new)
        });
        made.as_ref().map_err(Clone::clone)
    }

    /// The body of `/props`.
    pub fn props(&self, version: &str) -> Value {
        let budget = &self.budget;
        let fixed = &budget.fixed;
        let p = &self.defaults;
        json!({
            "model": &*self.id,
            "architecture": self.architecture,
            "file_bytes": self.file_bytes,
            "layers": self.layers,
            "context": self.context,
            "parallel": self.sequences,
            "budget": {
                "total_bytes": budget.total_bytes,
                "pinned_bytes": budget.pinned_bytes,
                "ring_bytes": budget.ring_bytes,
                "expert_cache_bytes": budget.expert_cache_bytes,
                "kv_bytes": fixed.kv_bytes,
                "scratch_bytes": fixed.scratch_bytes,
                "vocab_bytes": fixed.vocabulary_bytes,
                "reserve_bytes": fixed.reserve_bytes() + budget.table_bytes,
            },
            "sampling": {
                "temperature": round(p.temperature),
                "top_k": p.top_k,
                "top_p": round(p.top_p),
                "min_p": round(p.min_p),
                "typical_p": round(p.typical_p),
                "top_n_sigma": round(p.top_n_sigma),
                "repeat_penalty": round(p.repeat_penalty),
                "presence_penalty": round(p.presence_penalty),
                "frequency_penalty": round(p.frequency_penalty),
                "repeat_last_n": p.penalty_last_n,
            },
            "chat_template": self.template.is_some(),
            "version": version,
        })
    }
}

/// As it was typed: 0.95, not 0.949999988079071.
fn round(value: f32) -> f64 {
    value.to_string().parse().unwrap_or(f64::from(value))
}

/// The file's recommendation, and common practice where it has none.
fn defaults(file: &SamplerDefaults) -> SamplerParams {
    let usual = SamplerParams::default();
    SamplerParams {
        temperature: file.temperature.unwrap_or(usual.temperature),
        top_k: file.top_k.unwrap_or(usual.top_k),
        top_p: file.top_p.unwrap_or(usual.top_p),
        min_p: file.min_p.unwrap_or(usual.min_p),
        repeat_penalty: file.penalty_repeat.unwrap_or(usual.repeat_penalty),
        penalty_last_n: file.penalty_last_n.unwrap_or(usual.penalty_last_n),
        ..usual
    }
}
