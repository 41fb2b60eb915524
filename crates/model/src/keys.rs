//! Metadata keys of one family: `KEY` stands for `ARCHITECTURE.KEY`, and every value is checked
//! against a range before it is handed on.

use lowtide_gguf::split::TensorTable;
use lowtide_gguf::{Gguf, Value};

use crate::{Error, limits};

pub(crate) struct Keys<'g, 'a> {
    gguf: &'g Gguf<'a>,
    architecture: &'a str,
}

impl<'g, 'a> Keys<'g, 'a> {
    pub(crate) fn new(gguf: &'g Gguf<'a>) -> Result<Self, Error> {
        let key = "general.architecture";
        let architecture = gguf
            .get_str(key)
            .map_err(|e| bad(key, "not a string", &e))?
            .ok_or_else(|| missing(key, "it says which family of models this is"))?;
        Ok(Self { gguf, architecture })
    }

    pub(crate) fn architecture(&self) -> &'a str {
        self.architecture
    }

    pub(crate) fn general_name(&self) -> Option<String> {
        self.gguf.get_str("general.name").ok().flatten().map(str::to_owned)
    }

    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    pub(crate) fn missing(&self, key: &str, why: &'static str) -> Error {
        missing(&self.full(key), why)
    }

    pub(crate) fn invalid(&self, key: &str, value: impl ToString, why: String) -> Error {
        Error::Invalid { key: self.full(key), value: value.to_string(), why }
    }

    /// The key is there.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.gguf.get(&self.full(key)).is_some()
    }

    /// An integer in `min..=max`, if the key is there.
    pub(crate) fn optional(&self, key: &str, min: u64, max: u64) -> Result<Option<u64>, Error> {
        let full = self.full(key);
        let value = self.gguf.get_u64(&full).map_err(|e| bad(&full, "unusable", &e))?;
        match value {
            Some(v) if v < min || v > max => {
                Err(self.invalid(key, v, format!("it must be between {min} and {max}")))
            }
            other => Ok(other),
        }
    }

    pub(crate) fn required(&self, key: &str, min: u64, max: u64) -> Result<u64, Error> {
        self.optional(key, min, max)?
            .ok_or_else(|| self.missing(key, "every model of this family has it"))
    }

    /// One integer for all layers, or an array with one for each.
    pub(crate) fn per_layer_optional(
        &self,
        key: &str,
        layers: u32,
        max: u64,
    ) -> Result<Option<Vec<u64>>, Error> {
        let full = self.full(key);
        if self.gguf.get(&full).is_none() {
            return Ok(None);
        }
        let mut values = Vec::with_capacity(layers as usize);
        for layer in 0..layers {
            let value = self
                .gguf
                .get_u32_of_layer(&full, layer)
                .map_err(|e| bad(&full, "unusable", &e))?
                .map_or(0, u64::from);
            if value == 0 || value > max {
                let why = format!("it must be between 1 and {max} (layer {layer})");
                return Err(self.invalid(key, value, why));
            }
            values.push(value);
        }
        Ok(Some(values))
    }

    /// As `per_layer`, but all layers must agree: no family here varies its heads.
    pub(crate) fn uniform(&self, key: &str, layers: u32, max: u64) -> Result<Option<u64>, Error> {
        let Some(values) = self.per_layer_optional(key, layers, max)? else { return Ok(None) };
        if values.windows(2).any(|w| w[0] != w[1]) {
            return Err(Error::Unsupported {
                what: format!("\"{}\" that differs between layers", self.full(key)),
                why: "the KV cache here has one shape for all layers".to_owned(),
            });
        }
        Ok(values.first().copied())
    }

    /// A finite number > 0.
    pub(crate) fn positive(&self, key: &str) -> Result<Option<f32>, Error> {
        match self.float(key)? {
            Some(v) if !(v.is_finite() && v > 0.0) => {
                Err(self.invalid(key, v, "it must be a finite number above 0".to_owned()))
            }
            other => Ok(other),
        }
    }

    /// A finite number >= 0, where 0 means "none".
    pub(crate) fn positive_or_zero(&self, key: &str) -> Result<Option<f32>, Error> {
        match self.float(key)? {
            Some(v) if !(v.is_finite() && v >= 0.0) => {
                Err(self.invalid(key, v, "it must be a finite number, 0 or above".to_owned()))
            }
            other => Ok(other.filter(|v| *v > 0.0)),
        }
    }

    /// True or false, if the key is there.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, Error> {
        let full = self.full(key);
        self.gguf.get_bool(&full).map_err(|e| bad(&full, "unusable", &e))
    }

    /// Tokens the file lists.
    pub(crate) fn tokens(&self) -> u64 {
        let tokens = self.gguf.get_array("tokenizer.ggml.tokens").ok().flatten();
        tokens.map_or(0, |t| t.len())
    }

    fn float(&self, key: &str) -> Result<Option<f32>, Error> {
        let full = self.full(key);
        self.gguf.get_f32(&full).map_err(|e| bad(&full, "unusable", &e))
    }

    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, Error> {
        let full = self.full(key);
        self.gguf.get_str(&full).map_err(|e| bad(&full, "unusable", &e))
    }

    /// Tokens of the vocabulary: the embedding's rows, which the token list must not exceed.
    pub(crate) fn vocabulary(&self, table: &TensorTable<'_>) -> Result<u64, Error> {
        let name = "token_embd.weight";
        let tensor = table.find(name).map(|t| t.tensor).ok_or_else(|| Error::Tensor {
            name: name.to_owned(),
            problem: "is missing".to_owned(),
            why: "every family here looks its tokens up in it".to_owned(),
        })?;
        let rows = tensor.rows();
        let tokens = self.tokens();
        if rows == 0 || rows > limits::VOCABULARY_MAX || tokens > rows {
            return Err(Error::Tensor {
                name: name.to_owned(),
                problem: format!("has {rows} rows"),
                why: format!(
                    "it needs one for each of the {tokens} tokens, at most {}",
                    limits::VOCABULARY_MAX
                ),
            });
        }
        Ok(rows)
    }

    /// A position has several parts, for time, height and width (M-RoPE).
    pub(crate) fn have_sections(&self) -> Result<bool, Error> {
        let full = self.full("rope.dimension_sections");
        let Some(Value::Array(array)) = self.gguf.get(&full) else { return Ok(false) };
        let mut ints = array.ints().map_err(|e| bad(&full, "unusable", &e))?;
        Ok(ints.next().is_some_and(|n| n > 0) && ints.next().is_some_and(|n| n > 0))
    }

    /// Which layers slide: an array of booleans, or the period (all but each n-th), or `default`.
    pub(crate) fn sliding_pattern(&self, layers: u32, default: u32) -> Result<Vec<bool>, Error> {
        const KEY: &str = "attention.sliding_window_pattern";
        let full = self.full(KEY);
        if let Some(Value::Array(array)) = self.gguf.get(&full) {
            let flags: Vec<bool> = match array.bools() {
                Ok(flags) => flags.collect(),
                Err(_) => {
                    array.ints().map_err(|e| bad(&full, "unusable", &e))?.map(|v| v != 0).collect()
                }
            };
            if flags.len() < layers as usize {
                let why = format!("it must have an entry for each of the {layers} layers");
                return Err(self.invalid(KEY, format!("{} entries long", flags.len()), why));
            }
            return Ok(flags[..layers as usize].to_vec());
        }
        let period = self.optional(KEY, 1, limits::LAYERS_MAX)?.unwrap_or(u64::from(default));
        Ok((0..u64::from(layers)).map(|layer| layer % period < period - 1).collect())
    }
}

fn missing(key: &str, why: &'static str) -> Error {
    Error::Missing { key: key.to_owned(), why }
}

fn bad(key: &str, value: &str, source: &lowtide_gguf::Error) -> Error {
    let why = source.to_string();
    let why = why.lines().next().unwrap_or_default().to_owned();
    Error::Invalid { key: key.to_owned(), value: value.to_owned(), why }
}
