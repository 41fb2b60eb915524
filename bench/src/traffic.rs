//! Which experts tokens use: recorded traces, and made-up traffic of several kinds.
//!
//! What is published of real routers: training balances the load, so over much text all experts are used
//! about equally; but within a text the traffic is local. Mixtral's paper (arXiv 2401.04088, section 5)
//! reports that the same expert is first choice for two tokens in a row clearly more often than by chance in
//! the middle and last layers, and hardly so in the first. Qwen3's and DeepSeek's reports balance over
//! whole batches of sequences, not within one, so single topics may be skewed. Liang et al. (arXiv 2505.16056)
//! find in 20 models that tokens near each other use similar experts, to degrees that differ from model to
//! model, and that this goes together with balance over all text; Skliar et al. (arXiv 2412.00099) build on
//! the same in DeepSeek-V2-Lite, Qwen and Mixtral. In numbers: a trace of OLMoE over 49,152 tokens (data set
//! `mkvn/quantization-cache-amplification`) fits Zipf's law with exponents of 0.45 to 0.84 by layer, 0.65 in
//! all, and a token repeats 25 to 47 % of the last one's experts, where 12.5 % is chance; for Qwen3-30B-A3B the
//! handbook of `gpu-container` counts 58 of 128 experts for 90 % of the uses over 8,000 tokens of Python, and
//! 65 over mixed text, as many as Zipf's law gives with exponents of 1.1 to 1.2. [`Kind::Local`] follows that:
//! a text has favourites, and a token repeats part of the last one's experts.

use std::io::{self, BufRead};

use lowtide_residency::experts::replay::Trace;

use crate::synth::Rng;

/// A kind of traffic.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Kind {
    /// All experts alike, tokens independent: the worst there is for a cache.
    Uniform,
    /// Each layer has favourites (Zipf with this exponent), and a token keeps each of the last one's experts
    /// with this probability.
    Local {
        /// Of Zipf's law.
        exponent: f64,
        /// Probability of keeping an expert.
        repeat: f64,
    },
    /// The same, with new favourites after so many tokens.
    Shifting {
        /// Of Zipf's law.
        exponent: f64,
        /// Probability of keeping an expert.
        repeat: f64,
        /// Tokens of one topic.
        topic_tokens: usize,
    },
}

impl Kind {
    /// The kinds that are replayed, with their names.
    pub const NAMED: [(&'static str, Kind); 5] = [
        ("uniform", Kind::Uniform),
        ("zipf 0.6, repeats 20 %", Kind::Local { exponent: 0.6, repeat: 0.2 }),
        ("zipf 1.0, repeats 20 %", Kind::Local { exponent: 1.0, repeat: 0.2 }),
        ("zipf 1.0, repeats 40 %", Kind::Local { exponent: 1.0, repeat: 0.4 }),
        (
            "zipf 1.0, repeats 20 %, topic of 200",
            Kind::Shifting { exponent: 1.0, repeat: 0.2, topic_tokens: 200 },
        ),
    ];

    /// Traffic of `tokens` tokens through `layers` layers of `experts` experts, `used` at a time.
    #[must_use]
    pub fn trace(
        self,
        (layers, experts, used): (u32, u32, u32),
        tokens: usize,
        seed: u64,
    ) -> Trace {
        let mut rng = Rng::of(&[seed]);
        let (exponent, repeat, topic) = match self {
            Kind::Uniform => (0.0, 0.0, usize::MAX),
            Kind::Local { exponent, repeat } => (exponent, repeat, usize::MAX),
            Kind::Shifting { exponent, repeat, topic_tokens } => (exponent, repeat, topic_tokens),
        };
        let mut sums = Vec::new();
        let mut sum = 0.0;
        for rank in 1..=experts {
            sum += f64::from(rank).powf(-exponent);
            sums.push(sum);
        }
        let mut trace = Trace::new(layers, experts, used);
        let mut favourites: Vec<Vec<u32>> = vec![(0..experts).collect(); layers as usize];
        let mut last: Vec<Vec<u32>> = vec![Vec::new(); layers as usize];
        for token in 0..tokens {
            if token % topic.max(1) == 0 {
                favourites.iter_mut().for_each(|order| shuffle(order, &mut rng));
            }
            let mut picks = Vec::new();
            for (order, last) in favourites.iter().zip(&mut last) {
                last.retain(|_| unit(&mut rng) < repeat);
                while last.len() < used as usize {
                    let at = unit(&mut rng) * sum;
                    let rank = sums.partition_point(|&s| s <= at).min(experts as usize - 1);
                    if !last.contains(&order[rank]) {
                        last.push(order[rank]);
                    }
                }
                last.sort_unstable();
                picks.extend_from_slice(last);
            }
            trace.push(&picks);
        }
        trace
    }
}

/// In [0, 1).
fn unit(rng: &mut Rng) -> f64 {
    (rng.next() >> 11) as f64 / (1u64 << 53) as f64
}

fn shuffle(order: &mut [u32], rng: &mut Rng) {
    for i in (1..order.len()).rev() {
        let other = rng.below(i as u64 + 1) as usize;
        order.swap(i, other);
    }
}

/// Reads what `lowtide run --trace` wrote. Tokens that did not pass all layers (those of a prompt but for
/// its last) are left out.
///
/// # Errors
/// Reading fails, or a line is not what it should be; its number is said.
pub fn read(input: impl BufRead) -> io::Result<Trace> {
    let mut trace = None;
    for (number, line) in (1..).zip(input.lines()) {
        let line = line?;
        let wrong = |why: &str| io::Error::other(format!("line {number}: {why}"));
        let value: serde_json::Value =
            serde_json::from_str(&line).map_err(|error| wrong(&error.to_string()))?;
        let Some(trace) = &mut trace else {
            let number = |key: &str| {
                let found = value.get(key).and_then(serde_json::Value::as_u64);
                found.and_then(|n| u32::try_from(n).ok()).filter(|n| (1..1 << 16).contains(n))
            };
            let sizes = number("layers").zip(number("experts")).zip(number("used"));
            let ((layers, experts), used) =
                sizes.ok_or_else(|| wrong("no layers, experts and used"))?;
            trace = Some(Trace::new(layers, experts, used));
            continue;
        };
        let layers = value.get("experts").and_then(serde_json::Value::as_array);
        let layers = layers.ok_or_else(|| wrong("no experts"))?;
        if layers.len() < trace.layers as usize {
            continue;
        }
        let ids = layers.iter().filter_map(serde_json::Value::as_array).flatten();
        let picks: Vec<u32> = ids
            .map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok()).unwrap_or(u32::MAX))
            .collect();
        if !trace.push(&picks) {
            return Err(wrong("experts that the first line does not allow"));
        }
    }
    trace.ok_or_else(|| io::Error::other("an empty trace"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skewed_traffic_repeats_more_than_uniform() {
        let repeats = |kind: Kind| {
            let trace = kind.trace((4, 32, 4), 300, 1);
            let tokens: Vec<&[u32]> = trace.picks().chunks(16).collect();
            let mut all = 0;
            for pair in tokens.windows(2) {
                for (a, b) in pair[0].chunks(4).zip(pair[1].chunks(4)) {
                    all += a.iter().filter(|expert| b.contains(expert)).count();
                }
            }
            let all = f64::from(u32::try_from(all).unwrap());
            all / (299.0 * 16.0)
        };
        let (uniform, local) = (repeats(Kind::Uniform), repeats(Kind::NAMED[3].1));
        assert!((uniform - 0.125).abs() < 0.02, "{uniform}");
        assert!(local > 0.4, "{local}");
    }

    #[test]
    fn traces_are_read_back_and_nonsense_is_refused() {
        let text = "{\"lowtide_trace\":1,\"layers\":2,\"experts\":4,\"used\":2}\n\
            {\"position\":0,\"experts\":[[0,1]]}\n{\"position\":1,\"experts\":[[0,1],[2,3]]}\n";
        let trace = read(text.as_bytes()).unwrap();
        assert_eq!((trace.tokens(), trace.picks()), (1, &[0, 1, 2, 3][..]));
        for (from, to) in
            [("[2,3]", "[2,9]"), ("[2,3]", "[2]"), ("\"used\":2", "\"x\":1"), ("}", "")]
        {
            assert!(read(text.replace(from, to).as_bytes()).is_err(), "{to}");
        }
    }
}
