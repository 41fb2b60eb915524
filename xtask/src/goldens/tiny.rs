//! Goldens of small synthetic models: families, ropes and formats that no real model here has.
//!
//! The tests write the same models again (same spec, same bytes: the golden holds the checksum), so
//! nothing but logits is kept.

use std::path::Path;

use anyhow::{Context, Result};
use lowtide_bench::synth::{self, Mix, Rope, Shape, Spec};
use serde_json::{Value, json};

use super::{FORMAT, Fields, Options, Oracle, sha256};

/// Ids that are run: longer than the sliding window of the shapes that have one.
const IDS: usize = 40;
/// Every so many ids the logits are kept.
const EVERY: usize = 20;

/// A model to make a golden of.
pub struct Tiny {
    /// The golden's name.
    pub name: String,
    shape: &'static str,
    mix: &'static str,
    rope: Option<(&'static str, Rope)>,
}

/// All of them: families and ropes in F32, where only the order of sums differs from llama.cpp; and
/// each format.
pub fn all() -> Vec<Tiny> {
    let shapes = Shape::NAMES.iter().filter(|name| name.ends_with("-tiny"));
    let ropes = [
        ("llama-tiny", ("linear-4", Rope::Linear(4.0))),
        ("qwen3-tiny", ("yarn-4-16", Rope::Yarn(4.0, 16))),
        ("gemma3-tiny", ("linear-8", Rope::Linear(8.0))),
    ];
    let formats =
        ["f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q4_k", "q5_k", "q6_k", "q4_k_m"];
    let plain = shapes.map(|shape| Tiny::new(shape, "f32", None));
    let scaled = ropes.into_iter().map(|(shape, rope)| Tiny::new(shape, "f32", Some(rope)));
    let mixed = formats.into_iter().map(|mix| Tiny::new("qwen3-tiny", mix, None));
    // Where rounding makes a router choose another expert, no error is small: models and formats in
    // which that happens at a kept position say nothing.
    let experts = [("gpt-oss-tiny", "mxfp4_moe"), ("qwen3moe-tiny", "q4_k_m")];
    let experts = experts.into_iter().map(|(shape, mix)| Tiny::new(shape, mix, None));
    plain.chain(scaled).chain(mixed).chain(experts).collect()
}

impl Tiny {
    fn new(shape: &'static str, mix: &'static str, rope: Option<(&'static str, Rope)>) -> Self {
        let name = match rope {
            Some((rope, _)) => format!("{shape}-{rope}-{mix}"),
            None => format!("{shape}-{mix}"),
        };
        Self { name, shape, mix, rope }
    }

    fn spec(&self) -> Result<Spec> {
        let mut shape = Shape::named(self.shape)?;
        if let Some((_, rope)) = self.rope {
            shape.rope = rope;
        }
        Ok(Spec::new(shape, Mix::named(self.mix)?))
    }

    /// Writes the model and its golden.
    ///
    /// # Errors
    /// If the model cannot be written or the oracle fails.
    pub fn make(&self, oracle: &Oracle, options: &Options) -> Result<()> {
        let model = oracle.scratch.join(format!("{}.gguf", self.name));
        let spec = self.spec()?;
        synth::write_file(&spec, &model, &mut |_| ())?;
        let exact = if self.mix == "f32" {
            ask(oracle, "exact", &model, spec.shape.vocabulary)?
        } else {
            let reference = oracle.dequantize(options, &self.name, &model)?;
            ask(oracle, "exact", &reference, spec.shape.vocabulary)?
        };
        let default = ask(oracle, "default", &model, spec.shape.vocabulary)?;
        let head: Fields<'_> = vec![
            ("format", json!(FORMAT)),
            ("command", json!(format!("oracle logits exact {}.f32.gguf {EVERY} IDS", self.name))),
            ("oracle", oracle.llama.clone()),
            ("shape", json!(self.shape)),
            ("mix", json!(self.mix)),
            ("rope", json!(self.rope.map(|(name, _)| name))),
            ("model_sha256", json!(sha256(&model)?)),
        ];
        let data = [
            ("llama_relative_error", json!(relative_error(&exact, &default)?)),
            ("ids", exact["ids"].clone()),
            ("positions", exact["positions"].clone()),
        ];
        oracle.write(&format!("tiny/{}.json", self.name), &head, &data)
    }
}

/// Ids that visit the vocabulary without a pattern a model could fall into.
fn ids(vocabulary: u64) -> impl Iterator<Item = String> {
    (0..IDS as u64).map(move |i| ((i * i * 7 + i * 37 + 11) % vocabulary).to_string())
}

fn ask(oracle: &Oracle, how: &str, model: &Path, vocabulary: u64) -> Result<Value> {
    let every = EVERY.to_string();
    let ids: Vec<String> = ids(vocabulary).collect();
    let mut args: Vec<&Path> = vec!["logits".as_ref(), how.as_ref(), model, every.as_ref()];
    args.extend(ids.iter().map(|id| Path::new(id.as_str())));
    oracle.ask(&args)
}

/// Root mean square of the difference, in parts of the root mean square of what is expected.
fn relative_error(expected: &Value, found: &Value) -> Result<f64> {
    let logits = |value: &Value| -> Result<Vec<f64>> {
        let positions = value["positions"].as_array().context("no positions")?;
        let all = positions.iter().flat_map(|at| at["logits"].as_array().into_iter().flatten());
        all.map(|x| x.as_f64().context("a logit that is no number")).collect()
    };
    let (expected, found) = (logits(expected)?, logits(found)?);
    let sum = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>();
    let difference = sum(&mut expected.iter().zip(&found).map(|(a, b)| a - b));
    let error = (difference / sum(&mut expected.iter().copied())).sqrt();
    Ok((error * 1e8).round() / 1e8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spec_can_be_made_and_names_differ() {
        let all = all();
        for tiny in &all {
            tiny.spec().unwrap();
            assert_eq!(all.iter().filter(|other| other.name == tiny.name).count(), 1);
        }
    }

    #[test]
    fn error_is_relative() {
        let of = |a: f64, b: f64| json!({"positions": [{"logits": [a]}, {"logits": [b]}]});
        assert_eq!(relative_error(&of(3.0, 4.0), &of(3.0, 4.0)).unwrap(), 0.0);
        assert_eq!(relative_error(&of(3.0, 4.0), &of(3.0, 3.5)).unwrap(), 0.1);
    }
}
