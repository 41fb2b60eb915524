//! lowtide against llama.cpp: what it answers stands in `tests/golden` as data, see its README.
//!
//! The two programs round differently, so equality is not the measure. The measure is the *reference*:
//! the same weights, dequantised, with f32 activations. lowtide must be no further from it than
//! llama.cpp is, and may differ from llama.cpp only where rounding decides.

use std::path::{Path, PathBuf};

use lowtide_bench::synth::{self, Mix, Rope, Shape, Spec};
use lowtide_engine::{Engine, LoadOptions, Logits, Model, Session};
use lowtide_tokenizer::EncodeOptions;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// A mean over a few hundred positions scatters; so much above llama.cpp's own figure is let pass.
const SCATTER: f64 = 1.05;
/// Largest difference of mean negative log-likelihood from the reference, nats: llama.cpp's default
/// settings are up to 0.0075 away, its other settings 0.002 to 0.005.
const MEAN_NLL_OFF_MAX: f64 = 0.006;
/// Most steps of greedy answers in which rounding may prefer another token. For llama.cpp itself
/// against the reference it is 2.6 % of them.
const OTHER_CHOICES_MAX: f64 = 0.04;
/// What 1,280 steps let the 99th percentile of a gap's error scatter.
const GAP_SCATTER: f64 = 1.25;
/// Tokens of the longest prompt and answer together, and of a chunk of text.
const CONTEXT: usize = 512;
/// Relative error that an f16 KV cache and another order of sums may make in a model without
/// quantised weights; where llama.cpp's own is larger, that and [`TINY_SCATTER`] is the measure.
const TINY_ERROR_MAX: f64 = 1e-3;
/// One model with 768 logits scatters more than a text.
const TINY_SCATTER: f64 = 1.25;

#[test]
fn smollm2_predicts_the_text_as_well_as_llama_cpp() {
    text("smollm2-135m-q4_1");
}

#[test]
fn gemma3_predicts_the_text_as_well_as_llama_cpp() {
    text("gemma3-270m-q4_k_m");
}

#[test]
fn smollm2_answers_as_llama_cpp() {
    greedy("smollm2-135m-q4_1");
}

#[test]
fn gemma3_answers_as_llama_cpp() {
    greedy("gemma3-270m-q4_k_m");
}

#[test]
fn small_models_of_every_family_rope_and_format_agree() {
    let folder = golden_folder().join("tiny");
    let mut names: Vec<String> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    for shape in Shape::NAMES.iter().filter(|name| name.ends_with("-tiny")) {
        assert!(names.contains(&format!("{shape}-f32")), "{shape} has no golden");
    }
    for name in names {
        tiny(&name);
    }
}

fn golden_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden")
}

fn golden(kind: &str, name: &str) -> Value {
    let path = golden_folder().join(kind).join(format!("{name}.json"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn load(path: &Path) -> Engine {
    let options =
        LoadOptions { context: Some(CONTEXT), logit_rows: CONTEXT / 2, ..LoadOptions::default() };
    Engine::new(Model::open(path).unwrap(), &options).unwrap()
}

/// The engine on the golden's model; `None`, with a line that says so, where no folder is given.
fn engine(golden: &Value) -> Option<Engine> {
    let Some(folder) = std::env::var_os("LOWTIDE_TEST_MODELS") else {
        println!("not run: LOWTIDE_TEST_MODELS names no folder with models");
        return None;
    };
    Some(load(&Path::new(&folder).join(golden["model"].as_str().unwrap())))
}

fn ids(value: &Value) -> Vec<u32> {
    let id = |v: &Value| u32::try_from(v.as_u64().unwrap()).unwrap();
    value.as_array().unwrap().iter().map(id).collect()
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    max + logits.iter().map(|&x| (f64::from(x) - max).exp()).sum::<f64>().ln()
}

/// The largest logit's id, the first of equals.
fn best(logits: &[f32]) -> usize {
    (1..logits.len()).fold(0, |best, id| if logits[id] > logits[best] { id } else { best })
}

/// Sums over scored positions.
#[derive(Default)]
struct Likelihood {
    nll: f64,
    nll_reference: f64,
    scored: usize,
    coarse_kl: f64,
    sampled: usize,
}

impl Likelihood {
    /// One sampled position, `[position, [id, ln p], ...]`: the divergence over the reference's best
    /// tokens and, as one more, all others together.
    fn sample(&mut self, top: &Value, logits: &[f32]) {
        let sum = log_sum_exp(logits);
        let (mut kl, mut p_rest, mut q_rest) = (0.0, 1.0, 1.0);
        for pair in &top.as_array().unwrap()[1..] {
            let id = usize::try_from(pair[0].as_u64().unwrap()).unwrap();
            let (lp, lq) = (pair[1].as_f64().unwrap(), f64::from(logits[id]) - sum);
            kl += lp.exp() * (lp - lq);
            p_rest -= lp.exp();
            q_rest -= lq.exp();
        }
        if p_rest > 1e-9 && q_rest > 1e-9 {
            kl += p_rest * (p_rest / q_rest).ln();
        }
        self.coarse_kl += kl;
        self.sampled += 1;
    }

    fn chunk(&mut self, engine: &mut Engine, session: &mut Session, chunk: &Value, first: usize) {
        let tokens = ids(&chunk["tokens"]);
        let mut input = tokens.clone();
        let tokenizer = engine.tokenizer();
        if let Some(bos) = tokenizer.special().bos.filter(|_| tokenizer.adds_bos()) {
            input[0] = bos;
        }
        let top = chunk["top"].as_array().unwrap();
        let at = |entry: &Value| usize::try_from(entry[0].as_u64().unwrap()).unwrap();
        session.reset();
        session
            .forward(engine, &input, Logits::From(first), &mut |position, logits| {
                let Some(&next) = tokens.get(position + 1) else { return };
                self.nll += log_sum_exp(logits) - f64::from(logits[next as usize]);
                let reference = &chunk["nll_reference"][position - first];
                self.nll_reference += reference.as_f64().unwrap();
                self.scored += 1;
                if let Some(entry) = top.iter().find(|entry| at(entry) == position) {
                    self.sample(entry, logits);
                }
            })
            .unwrap();
    }
}

fn text(name: &str) {
    let golden = golden("text", name);
    let Some(mut engine) = engine(&golden) else { return };
    let mut session = Session::new(&engine).unwrap();
    let first = usize::try_from(golden["first_scored"].as_u64().unwrap()).unwrap();
    let chunks = golden["chunks"].as_array().unwrap();

    let text = std::fs::read_to_string(golden_folder().join("text/alice.txt")).unwrap();
    let expected: Vec<u32> = chunks.iter().flat_map(|chunk| ids(&chunk["tokens"])).collect();
    let encoded = encode(&engine, text.trim_end_matches('\n'));
    assert_eq!(encoded[..expected.len()], expected, "the text is tokenized differently");

    let mut ours = Likelihood::default();
    for chunk in chunks {
        ours.chunk(&mut engine, &mut session, chunk, first);
    }
    assert_eq!(ours.scored as u64, golden["positions"].as_u64().unwrap());
    assert_eq!(ours.sampled as u64, golden["sampled"].as_u64().unwrap());
    let kl = ours.coarse_kl / ours.sampled as f64;
    let kl_llama = golden["mean_coarse_kl"].as_f64().unwrap();
    let nll_off = (ours.nll - ours.nll_reference) / ours.scored as f64;
    println!("{name}: perplexity {:.4}", (ours.nll / ours.scored as f64).exp());
    println!("{name}: llama.cpp {}", golden["perplexity_model"]);
    println!("{name}: reference {}", golden["perplexity_reference"]);
    println!("{name}: mean coarse KL {kl:.6}, llama.cpp's {kl_llama:.6}");
    assert!(kl <= kl_llama * SCATTER, "mean coarse KL {kl}, llama.cpp's {kl_llama}");
    assert!(nll_off.abs() <= MEAN_NLL_OFF_MAX, "mean likelihood is off by {nll_off} nats");
}

/// Tokens with BOS in front where the vocabulary asks for one; special tokens are plain text.
fn encode(engine: &Engine, text: &str) -> Vec<u32> {
    let options = EncodeOptions { add_special: true, parse_special: false };
    engine.tokenizer().encode(text, options)
}

/// A step at which lowtide likes another token best.
struct Other {
    what: String,
    /// How far the difference of the two tokens' logits is from the reference's, where the golden
    /// has it; else the difference itself.
    off: f64,
}

/// Greedy answers compared step by step, along llama.cpp's answer: so the steps after a difference
/// are compared too.
#[derive(Default)]
struct Choices {
    /// Per step, how far the difference of the two best logits is from the reference's.
    off: Vec<f64>,
    others: Vec<Other>,
}

impl Choices {
    fn step(&mut self, what: &str, theirs: usize, step: &Value, logits: &[f32]) {
        let second = usize::try_from(step[0].as_u64().unwrap()).unwrap();
        let (gap_llama, gap_reference) = (step[1].as_f64().unwrap(), step[2].as_f64().unwrap());
        let off = (f64::from(logits[theirs] - logits[second]) - gap_reference).abs();
        self.off.push(off);
        let ours = best(logits);
        if ours == theirs {
            return;
        }
        let gap = f64::from(logits[ours] - logits[theirs]);
        let what = format!(
            "{what}: {ours} by {gap:.3}; llama.cpp {theirs} by {gap_llama:.3}, reference by \
             {gap_reference:.3}"
        );
        self.others.push(Other { what, off: if ours == second { off } else { gap } });
    }

    fn off_p99(&mut self) -> f64 {
        self.off.sort_by(f64::total_cmp);
        self.off[self.off.len() * 99 / 100]
    }
}

fn greedy(name: &str) {
    let golden = golden("greedy", name);
    let Some(mut engine) = engine(&golden) else { return };
    let mut session = Session::new(&engine).unwrap();
    let noise = golden["gap_noise_p99"].as_f64().unwrap();
    let mut choices = Choices::default();
    for answer in golden["answers"].as_array().unwrap() {
        let prompt = answer["prompt"].as_str().unwrap();
        let (prompt_ids, answer_ids) = (ids(&answer["prompt_ids"]), ids(&answer["ids"]));
        assert_eq!(encode(&engine, prompt), prompt_ids, "{prompt:?} is tokenized differently");
        let input = [&prompt_ids[..], &answer_ids[..answer_ids.len() - 1]].concat();
        let first = prompt_ids.len() - 1;
        session.reset();
        session
            .forward(&mut engine, &input, Logits::From(first), &mut |position, logits| {
                let step = position - first;
                let what = format!("{prompt:?} step {step}");
                choices.step(&what, answer_ids[step] as usize, &answer["steps"][step], logits);
            })
            .unwrap();
    }
    let (steps, off_p99) = (choices.off.len(), choices.off_p99());
    assert_eq!(steps, 20 * 64, "steps are missing");
    println!("{name}: {} of {steps} steps choose another token", choices.others.len());
    println!(
        "{name}: 99 % of gaps are within {off_p99:.3} of the reference's, llama.cpp's {noise}"
    );
    for other in &choices.others {
        println!("{}", other.what);
    }
    assert!(off_p99 <= noise * GAP_SCATTER, "gaps are off by {off_p99}, llama.cpp's by {noise}");
    // Both programs round, and of 1,280 steps a dozen are beyond the 99th percentile of one of them.
    let mutual = noise + off_p99;
    for Other { what, off } in &choices.others {
        assert!(*off <= mutual, "{what}: off by {off}, no rounding");
    }
    assert!(choices.others.len() as f64 <= OTHER_CHOICES_MAX * steps as f64);
}

/// The spec that `cargo xtask goldens` used, from its names.
fn spec(golden: &Value) -> Spec {
    let mut shape = Shape::named(golden["shape"].as_str().unwrap()).unwrap();
    shape.rope = match golden["rope"].as_str() {
        None => shape.rope,
        Some("linear-4") => Rope::Linear(4.0),
        Some("linear-8") => Rope::Linear(8.0),
        Some("yarn-4-16") => Rope::Yarn(4.0, 16),
        Some(other) => panic!("no rope is called {other}"),
    };
    Spec::new(shape, Mix::named(golden["mix"].as_str().unwrap()).unwrap())
}

fn tiny(name: &str) {
    let golden = golden("tiny", name);
    let bytes = synth::to_bytes(&spec(&golden)).unwrap();
    let sum: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(sum, golden["model_sha256"].as_str().unwrap(), "{name} is written differently now");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.gguf"));
    std::fs::write(&path, &bytes).unwrap();
    let mut engine = load(&path);
    let mut session = Session::new(&engine).unwrap();
    let positions = golden["positions"].as_array().unwrap();
    let (mut difference, mut size, mut compared) = (0.0, 0.0, 0);
    session
        .forward(&mut engine, &ids(&golden["ids"]), Logits::From(0), &mut |position, logits| {
            let kept = positions.iter().find(|p| p["position"].as_u64() == Some(position as u64));
            let Some(kept) = kept else { return };
            let expected = kept["logits"].as_array().unwrap();
            assert_eq!(expected.len(), logits.len());
            for (expected, &found) in expected.iter().zip(logits) {
                let expected = expected.as_f64().unwrap();
                difference += (expected - f64::from(found)).powi(2);
                size += expected.powi(2);
                compared += 1;
            }
        })
        .unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(compared, 384 * positions.len());
    let error = (difference / size).sqrt();
    let llama = golden["llama_relative_error"].as_f64().unwrap();
    println!("{name}: relative error {error:.6}, llama.cpp's {llama:.6}");
    let most = TINY_ERROR_MAX.max(llama * TINY_SCATTER);
    assert!(error <= most, "{name}: relative error {error}, at most {most}");
}
