//! Compares two files of saved logits: how far is a model from its reference?
//!
//! The files are what `lowtide perplexity --save-logprobs` writes, the format of llama.cpp's
//! `llama-perplexity --save-all-logits`: docs/logits-format.md describes it. Either program's file
//! can stand on either side.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// Eight bytes at the start of every file.
const MAGIC: &[u8; 8] = b"_logits_";
/// A row starts with two f32 (step, lowest log-probability), 4 units of 16 bits.
const ROW_HEADER_UNITS: usize = 4;
/// Below this the reference's probability counts as nothing: stored rows end 16 nats under the best.
const LOGPROB_MIN: f64 = -16.0;

/// What stands before the rows.
#[derive(Debug, PartialEq, Eq)]
struct Header {
    context: usize,
    vocabulary: usize,
    chunks: usize,
    tokens: Vec<u32>,
}

impl Header {
    /// Reads it; every length is checked before anything is allocated on its word.
    fn read(input: &mut impl Read, file_bytes: u64) -> Result<Self> {
        let mut magic = [0; 8];
        input.read_exact(&mut magic).context("the file ends inside its magic")?;
        ensure!(&magic == MAGIC, "not a file of saved logits: it does not start with _logits_");
        let context = read_u32(input).context("context")? as usize;
        let vocabulary = read_u32(input).context("vocabulary")? as usize;
        let chunks = read_u32(input).context("chunks")? as usize;
        ensure!(context >= 4 && vocabulary >= 2, "context {context}, vocabulary {vocabulary}");
        let header = Self { context, vocabulary, chunks, tokens: Vec::new() };
        let wanted = header.file_bytes().context("its header's lengths overflow")?;
        ensure!(wanted == file_bytes, "its header asks for {wanted} bytes, it has {file_bytes}");
        let tokens = (0..context * chunks).map(|_| read_u32(input)).collect::<Result<_>>()?;
        Ok(Self { tokens, ..header })
    }

    /// Positions scored per chunk: the second half, less the last, which has no next token.
    fn scored(&self) -> usize {
        self.context - 1 - self.context / 2
    }

    /// 16-bit units of a row: its header, then one a token, rounded up to an even number.
    fn row_units(&self) -> usize {
        ROW_HEADER_UNITS + self.vocabulary.next_multiple_of(2)
    }

    /// The length a file with this header must have; `None` if that does not fit 64 bits.
    fn file_bytes(&self) -> Option<u64> {
        let tokens = (self.context as u64).checked_mul(self.chunks as u64)?.checked_mul(4)?;
        let rows = (self.scored() as u64).checked_mul(self.chunks as u64)?;
        let rows = rows.checked_mul(self.row_units() as u64)?.checked_mul(2)?;
        tokens.checked_add(rows)?.checked_add(20)
    }

    /// The token that a scored position has to predict.
    fn target(&self, chunk: usize, scored: usize) -> usize {
        self.tokens[chunk * self.context + self.context / 2 + scored + 1] as usize
    }
}

fn read_u32(input: &mut impl Read) -> Result<u32> {
    let mut bytes = [0; 4];
    input.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

/// Log-probabilities of every token at one position.
struct Row {
    bytes: Vec<u8>,
    logprobs: Vec<f64>,
}

impl Row {
    fn new(header: &Header) -> Self {
        Self { bytes: vec![0; 2 * header.row_units()], logprobs: vec![0.0; header.vocabulary] }
    }

    fn read(&mut self, input: &mut impl Read) -> Result<()> {
        input.read_exact(&mut self.bytes).context("the file ends inside a row")?;
        let float = |at: usize| {
            let b = &self.bytes[at..at + 4];
            f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
        };
        let (step, lowest) = (float(0), float(4));
        ensure!(step.is_finite() && lowest.is_finite(), "a row's scale is not finite");
        let codes = self.bytes[2 * ROW_HEADER_UNITS..].chunks_exact(2);
        for (logprob, code) in self.logprobs.iter_mut().zip(codes) {
            *logprob = lowest + step * f64::from(u16::from_le_bytes([code[0], code[1]]));
        }
        Ok(())
    }

    /// The most probable token, the first of equals.
    fn best(&self) -> usize {
        let mut best = 0;
        for (id, &logprob) in self.logprobs.iter().enumerate() {
            if logprob > self.logprobs[best] {
                best = id;
            }
        }
        best
    }
}

/// Sums over positions; the means are what is printed.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Comparison {
    /// Scored positions.
    pub positions: usize,
    /// Mean of KL(reference || model), nats.
    pub mean_kl: f64,
    /// Largest KL of one position, nats.
    pub kl_max: f64,
    /// Share of positions where both like the same token best.
    pub same_top: f64,
    /// Perplexity of the reference.
    pub perplexity_reference: f64,
    /// Perplexity of the model.
    pub perplexity_model: f64,
}

/// Compares position by position. Both must be of the same text, context and vocabulary.
///
/// # Errors
/// A file that is not of the format, or two that do not belong together.
pub fn compare(
    (reference, reference_bytes): (&mut impl Read, u64),
    (model, model_bytes): (&mut impl Read, u64),
) -> Result<Comparison> {
    let header = Header::read(reference, reference_bytes).context("the reference's file")?;
    let other = Header::read(model, model_bytes).context("the model's file")?;
    if header != other {
        bail!(
            "the files are of different runs: context {}/{}, vocabulary {}/{}, chunks {}/{}, same \
             tokens: {}",
            header.context,
            other.context,
            header.vocabulary,
            other.vocabulary,
            header.chunks,
            other.chunks,
            header.tokens == other.tokens
        );
    }
    let (mut p, mut q) = (Row::new(&header), Row::new(&header));
    let mut sum = Comparison::default();
    for chunk in 0..header.chunks {
        for scored in 0..header.scored() {
            p.read(reference)?;
            q.read(model)?;
            let target = header.target(chunk, scored);
            ensure!(target < header.vocabulary, "token {target} is not in the vocabulary");
            add_position(&mut sum, &p, &q, target);
        }
    }
    ensure!(sum.positions > 0, "the files hold no scored position");
    let n = sum.positions as f64;
    Ok(Comparison {
        mean_kl: sum.mean_kl / n,
        same_top: sum.same_top / n,
        perplexity_reference: (sum.perplexity_reference / n).exp(),
        perplexity_model: (sum.perplexity_model / n).exp(),
        ..sum
    })
}

fn add_position(sum: &mut Comparison, p: &Row, q: &Row, target: usize) {
    let mut kl = 0.0;
    for (&lp, &lq) in p.logprobs.iter().zip(&q.logprobs) {
        if lp > LOGPROB_MIN {
            kl += lp.exp() * (lp - lq);
        }
    }
    sum.positions += 1;
    sum.mean_kl += kl;
    sum.kl_max = sum.kl_max.max(kl);
    sum.same_top += f64::from(u8::from(p.best() == q.best()));
    sum.perplexity_reference -= p.logprobs[target];
    sum.perplexity_model -= q.logprobs[target];
}

/// `cargo xtask kl REFERENCE MODEL`.
///
/// # Errors
/// See [`compare`].
pub fn run(reference: &Path, model: &Path) -> Result<()> {
    let open = |path: &Path| -> Result<(BufReader<File>, u64)> {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        let bytes = file.metadata()?.len();
        Ok((BufReader::with_capacity(1 << 20, file), bytes))
    };
    let (mut a, a_bytes) = open(reference)?;
    let (mut b, b_bytes) = open(model)?;
    let result = compare((&mut a, a_bytes), (&mut b, b_bytes))?;
    println!("positions             {}", result.positions);
    println!("mean KL               {:.6}", result.mean_kl);
    println!("largest KL            {:.6}", result.kl_max);
    println!("same best token       {:.3} %", 100.0 * result.same_top);
    println!("perplexity, reference {:.4}", result.perplexity_reference);
    println!("perplexity, model     {:.4}", result.perplexity_model);
    let ratio = result.perplexity_model / result.perplexity_reference;
    println!("perplexity ratio      {ratio:.5}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of one chunk of 4 tokens (so one scored position) over a vocabulary of 3.
    fn file(logits: [f64; 3]) -> Vec<u8> {
        let sum: f64 = logits.iter().map(|x| x.exp()).sum();
        let logprobs = logits.map(|x| x - sum.ln());
        let low = logprobs.iter().copied().fold(f64::INFINITY, f64::min);
        let high = logprobs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let step = (high - low) / 65535.0;
        let mut bytes = MAGIC.to_vec();
        for number in [4_u32, 3, 1, 0, 1, 2, 1] {
            bytes.extend(number.to_le_bytes());
        }
        bytes.extend((step as f32).to_le_bytes());
        bytes.extend((low as f32).to_le_bytes());
        for logprob in logprobs {
            bytes.extend((((logprob - low) / step).round() as u16).to_le_bytes());
        }
        bytes.extend([0, 0]);
        bytes
    }

    fn compared(a: &[u8], b: &[u8]) -> Result<Comparison> {
        compare((&mut &a[..], a.len() as u64), (&mut &b[..], b.len() as u64))
    }

    #[test]
    fn a_file_against_itself_has_no_divergence() {
        let a = file([1.0, 2.0, 3.0]);
        let result = compared(&a, &a).unwrap();
        assert_eq!((result.positions, result.mean_kl, result.same_top), (1, 0.0, 1.0));
        // The target is token 1: exp(2) of exp(1) + exp(2) + exp(3).
        assert!((result.perplexity_reference - 4.0861).abs() < 1e-3, "{result:?}");
    }

    #[test]
    fn divergence_is_the_textbook_sum() {
        // p = (1, 2, 5) / 8, q = (2, 5, 1) / 8, by hand.
        let p = file([1.0, 2.0, 5.0].map(f64::ln));
        let q = file([2.0, 5.0, 1.0].map(f64::ln));
        let by_hand = (0.5_f64.ln() + 2.0 * 0.4_f64.ln() + 5.0 * 5.0_f64.ln()) / 8.0;
        let result = compared(&p, &q).unwrap();
        assert!((result.mean_kl - by_hand).abs() < 1e-3, "{result:?} against {by_hand}");
        assert_eq!(result.same_top, 0.0);
        assert!((result.perplexity_reference - 4.0).abs() < 1e-3);
        assert!((result.perplexity_model - 1.6).abs() < 1e-3);
    }

    #[test]
    fn damaged_and_foreign_files_are_refused() {
        let good = file([1.0, 2.0, 3.0]);
        for length in 0..good.len() {
            assert!(compared(&good, &good[..length]).is_err(), "cut at {length}");
        }
        let mut other_text = good.clone();
        other_text[20] = 2;
        assert!(
            compared(&good, &other_text).unwrap_err().to_string().contains("same tokens: false")
        );
        let mut huge = good.clone();
        huge[8..20].fill(0xff);
        assert!(compared(&huge, &good).is_err());
        let mut magic = good.clone();
        magic[0] = b'x';
        assert!(compared(&magic, &good).is_err());
    }
}
