//! `cargo xtask goldens`: regenerates `tests/golden` with llama.cpp as the oracle.
//!
//! llama.cpp is built by the person who regenerates; neither it nor its build is part of this
//! repository or of CI. For each model:
//!
//! 1. `llama-quantize` writes the same weights dequantised to F32: the reference's weights.
//! 2. `tests/golden/oracle.c`, compiled against llama.cpp's public header, runs both and prints JSON.
//! 3. What it printed is written beside a head that says what it was made from, and by what command.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::command::{command, output, run as run_command, target_dir};

mod tiny;

/// Models that have goldens: the name of the data, the name of the file.
const MODELS: [(&str, &str); 2] = [
    ("smollm2-135m-q4_1", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    ("gemma3-270m-q4_k_m", "gemma-3-270m-q4_k_m.gguf"),
];
/// Tokens of a chunk of text; llama-perplexity's convention.
const CONTEXT: &str = "512";
/// Of how many scored positions one keeps its best tokens.
const SAMPLE_EVERY: &str = "8";
/// Tokens of a greedy answer.
const GREEDY_TOKENS: &str = "64";
/// The version of the layout of these files; tests/golden/README.md describes it.
const FORMAT: u32 = 1;

/// Fields of a golden, in order.
type Fields<'a> = Vec<(&'a str, Value)>;

/// What the arguments say.
struct Options {
    llama_bin: PathBuf,
    llama_src: PathBuf,
    models: PathBuf,
    only: Option<String>,
}

impl Options {
    fn parse(args: &[String]) -> Result<Self> {
        let (mut bin, mut src, mut models, mut only) = (None, None, None, None);
        let mut args = args.iter();
        while let Some(name) = args.next() {
            let value = args.next().with_context(|| format!("{name} wants a value"))?;
            match name.as_str() {
                "--llama-bin" => bin = Some(value.into()),
                "--llama-src" => src = Some(value.into()),
                "--models" => models = Some(value.into()),
                "--only" => only = Some(value.clone()),
                _ => bail!("goldens knows no {name}"),
            }
        }
        Ok(Self {
            llama_bin: bin.context("--llama-bin: where llama-quantize and libllama.so are")?,
            llama_src: src.context("--llama-src: llama.cpp's source tree, for llama.h")?,
            models: models.context("--models: where the models are")?,
            only,
        })
    }
}

/// The oracle, compiled.
struct Oracle {
    program: PathBuf,
    scratch: PathBuf,
    golden: PathBuf,
    llama: Value,
}

/// Regenerates everything, or one golden.
///
/// # Errors
/// If a program, a model or a text is missing, or the oracle fails.
pub fn run(root: &Path, args: &[String]) -> Result<()> {
    let options = Options::parse(args)?;
    let oracle = Oracle::build(root, &options)?;
    for (name, file) in MODELS {
        if options.only.as_deref().is_none_or(|only| only == name) {
            real_model(&oracle, &options, name, file)?;
        }
    }
    for tiny in tiny::all() {
        if options.only.as_deref().is_none_or(|only| only == "tiny" || only == tiny.name) {
            tiny.make(&oracle, &options)?;
        }
    }
    Ok(())
}

impl Oracle {
    fn build(root: &Path, options: &Options) -> Result<Self> {
        let golden = root.join("tests/golden");
        let scratch = target_dir(root)?.join("goldens");
        fs::create_dir_all(&scratch).with_context(|| scratch.display().to_string())?;
        let program = scratch.join("oracle");
        let source = &options.llama_src;
        let mut cc = command("cc", &["-O2", "-Wall", "-o"]);
        cc.arg(&program).arg(golden.join("oracle.c"));
        cc.arg("-I").arg(source.join("include")).arg("-I").arg(source.join("ggml/include"));
        cc.arg("-L").arg(&options.llama_bin).args(["-lllama", "-lggml", "-lggml-base", "-lm"]);
        cc.arg(format!("-Wl,-rpath,{}", options.llama_bin.display()));
        run_command(&mut cc)?;
        Ok(Self { program, scratch, golden, llama: llama_version(source) })
    }

    /// Writes the same weights as F32.
    fn dequantize(&self, options: &Options, name: &str, model: &Path) -> Result<PathBuf> {
        let reference = self.scratch.join(format!("{name}.f32.gguf"));
        let program = options.llama_bin.join("llama-quantize");
        let mut quantize = command(program, &["--allow-requantize"]);
        quantize.arg(model).arg(&reference).arg("F32");
        quantize.stdout(Stdio::null()).stderr(Stdio::null());
        run_command(&mut quantize)?;
        Ok(reference)
    }

    /// Runs the oracle and parses what it prints.
    fn ask(&self, args: &[&Path]) -> Result<Value> {
        let out = output(&mut command(&self.program, args))?;
        serde_json::from_slice(&out).context("the oracle's answer is not JSON")
    }

    /// Writes one golden: `head` first, then the oracle's `data`, an array or number a line.
    fn write(&self, path: &str, head: &[(&str, Value)], data: &[(&str, Value)]) -> Result<()> {
        let mut text = String::from("{\n");
        let fields = head.iter().chain(data);
        let lines: Vec<String> = fields.map(|(name, value)| field(name, value)).collect();
        text.push_str(&lines.join(",\n"));
        text.push_str("\n}\n");
        let path = self.golden.join(path);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        eprintln!("xtask: wrote {}", path.display());
        Ok(())
    }
}

/// A field with a list's elements on lines of their own, so that a change shows in a diff.
fn field(name: &str, value: &Value) -> String {
    match value {
        Value::Array(items) if items.first().is_some_and(Value::is_object) => {
            let items: Vec<String> = items.iter().map(Value::to_string).collect();
            format!("\"{name}\": [\n{}\n]", items.join(",\n"))
        }
        value => format!("\"{name}\": {value}"),
    }
}

/// What the source tree says about itself: the last commit, where git knows, and the package.
fn llama_version(source: &Path) -> Value {
    let package = source.ancestors().find_map(|folder| {
        let name = folder.file_name()?.to_str()?;
        name.starts_with("llama_cpp_python-").then(|| name.to_owned())
    });
    json!(package.unwrap_or_else(|| "llama.cpp, version unknown".to_owned()))
}

fn sha256(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    Ok(Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect())
}

fn real_model(oracle: &Oracle, options: &Options, name: &str, file: &str) -> Result<()> {
    let model = options.models.join(file);
    let reference = oracle.dequantize(options, name, &model)?;
    let head = |command: &str| -> Result<Fields<'_>> {
        Ok(vec![
            ("format", json!(FORMAT)),
            ("command", json!(format!("oracle {command}"))),
            ("oracle", oracle.llama.clone()),
            ("model", json!(file)),
            ("model_sha256", json!(sha256(&model)?)),
        ])
    };
    let text = oracle.golden.join("text/alice.txt");
    let answer = oracle.ask(&[
        "text".as_ref(),
        &reference,
        &model,
        &text,
        CONTEXT.as_ref(),
        SAMPLE_EVERY.as_ref(),
    ])?;
    let mut top = head(&format!("text {name}.f32.gguf {file} alice.txt {CONTEXT} {SAMPLE_EVERY}"))?;
    top.push(("text", json!("text/alice.txt")));
    top.push(("text_sha256", json!(sha256(&text)?)));
    let keys = [
        "context",
        "first_scored",
        "positions",
        "sampled",
        "perplexity_reference",
        "perplexity_model",
        "mean_kl",
        "mean_coarse_kl",
        "same_top",
        "chunks",
    ];
    let data = keys.map(|key| (key, answer[key].clone()));
    oracle.write(&format!("text/{name}.json"), &top, &data)?;
    greedy(oracle, &head, name, file, (&reference, &model))
}

fn greedy<'a>(
    oracle: &Oracle,
    head: &dyn Fn(&str) -> Result<Fields<'a>>,
    name: &str,
    file: &str,
    (reference, model): (&Path, &Path),
) -> Result<()> {
    let prompts_file = oracle.golden.join("prompts.txt");
    let prompts = fs::read_to_string(&prompts_file).context("prompts.txt")?;
    let mut answers = oracle.ask(&[
        "greedy".as_ref(),
        reference,
        model,
        &prompts_file,
        GREEDY_TOKENS.as_ref(),
    ])?;
    let list = answers.as_array_mut().context("the oracle's answer is no list")?;
    for (answer, prompt) in list.iter_mut().zip(prompts.lines()) {
        answer["prompt"] = json!(prompt);
    }
    let noise = gap_noise(list)?;
    let top = head(&format!("greedy {name}.f32.gguf {file} prompts.txt {GREEDY_TOKENS}"))?;
    let data = [("gap_noise_p99", json!(noise)), ("answers", answers)];
    oracle.write(&format!("greedy/{name}.json"), &top, &data)
}

/// How far the gap between the two best logits moves when activations are quantised: the 99th
/// percentile of |gap of the model - gap of the reference| over all steps. A gap smaller than this
/// is decided by rounding, so two right engines may differ there.
fn gap_noise(answers: &[Value]) -> Result<f64> {
    let mut noise = Vec::new();
    for answer in answers {
        for step in answer["steps"].as_array().context("an answer without steps")? {
            let gap = |i: usize| step[i].as_f64().context("a step without gaps");
            noise.push((gap(1)? - gap(2)?).abs());
        }
    }
    noise.sort_by(f64::total_cmp);
    let at = noise.len() * 99 / 100;
    let value = noise.get(at).context("no steps at all")?;
    Ok((value * 1e4).round() / 1e4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_the_99th_percentile() {
        let steps: Vec<Value> = (0..100).map(|i| json!([7, f64::from(i), 0.0])).collect();
        let answers = [json!({"steps": steps})];
        assert_eq!(gap_noise(&answers).unwrap(), 99.0);
        assert!(gap_noise(&[]).is_err());
        assert!(gap_noise(&[json!({})]).is_err());
    }

    #[test]
    fn fields_are_one_object_a_line() {
        assert_eq!(field("a", &json!([1, 2])), "\"a\": [1,2]");
        assert_eq!(field("b", &json!([{"c": 1}, {"c": 2}])), "\"b\": [\n{\"c\":1},\n{\"c\":2}\n]");
    }

    #[test]
    fn options_are_complete_or_refused() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(Options::parse(&words("--llama-bin a --llama-src b --models c")).is_ok());
        assert!(Options::parse(&words("--llama-bin a --llama-src b")).is_err());
        assert!(Options::parse(&words("--llama-bin")).is_err());
        assert!(Options::parse(&words("--other a")).is_err());
    }
}
