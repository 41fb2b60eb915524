//! The answer as text.

use std::io::{self, Write};

use super::Document;
use crate::failure::one_line;
use crate::human::{self, Align, Table};
use crate::report::BudgetReport;

/// Three digits.
fn digits(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}

/// `0.41 to 0.62`.
fn range([low, high]: [f64; 2]) -> String {
    format!("{} to {}", digits(low), digits(high))
}

/// All of it, for a person.
pub fn text(out: &mut impl Write, document: &Document) -> io::Result<()> {
    let name = one_line(&document.model);
    writeln!(out, "{name}  {}", human::bytes(document.file_bytes))?;
    if let Some(fetched) = document.fetched_bytes {
        writeln!(
            out,
            "on a hub: {} of header fetched, the rest stays there",
            human::bytes(fetched)
        )?;
    }
    writeln!(out)?;
    let memory = human::bytes(document.memory_bytes);
    match &document.reason {
        None => writeln!(out, "it fits into {memory}")?,
        Some(reason) => writeln!(out, "it does not fit into {memory}: {reason}")?,
    }
    let mut table = Table::new(&[Align::Left, Align::Right, Align::Left]);
    let mut row = |label: &str, figure: String, note: &str| {
        table.row([label.to_owned(), figure, note.to_owned()]);
    };
    row("floor", human::bytes(document.floor_bytes), "the least that runs");
    row("everything stays", human::bytes(document.resident_bytes), "more brings nothing");
    if let Some(expected) = document.decode_expected_tok_s {
        row("answer", digits(expected), "tokens/s to be expected");
    }
    if let (Some(decode), Some(prefill)) = (document.decode_tok_s, document.prefill_tok_s) {
        row("", range(decode), "tokens/s, at least to at most");
        row("prompt", range(prefill), "tokens/s");
    }
    if let Some(hits) = document.expert_hit_share {
        let [least, expected, most] = hits.map(|part| part * 100.0);
        let note =
            format!("of its experts are in memory, {expected:.0} % expected: its routers decide");
        row("a token's hits", format!("{least:.0} to {most:.0} %"), &note);
    }
    if let Some(bytes) = document.read_bytes_per_token {
        row("read from disk", human::bytes(bytes), "for every token");
    }
    if let Some(context) = document.context {
        row("context", human::grouped(context as u64), "tokens");
    }
    if let Some(most) = document.context_max {
        row("largest context", human::grouped(most as u64), "tokens, in this memory (--ctx)");
    }
    table.write(out, "  ")?;
    if let Some(budget) = &document.budget {
        write_split(out, budget)?;
    }
    write_steps(out, document)?;
    write_probe(out, document)
}

fn write_probe(out: &mut impl Write, document: &Document) -> io::Result<()> {
    let gb = |rate: f64| format!("{} GB/s", digits(rate / 1e9));
    let probe = &document.probe;
    writeln!(out, "\nmeasured")?;
    let mut table = Table::new(&[Align::Left, Align::Left]);
    if let Some(disk) = &probe.disk {
        let request = human::bytes_binary(disk.request_bytes);
        table.row([
            "disk".to_owned(),
            format!(
                "{} at first, {} again, {} while computing ({} reads of {request} at a time)",
                gb(disk.first_bytes_per_s),
                gb(disk.again_bytes_per_s),
                gb(disk.while_computing_bytes_per_s),
                disk.depth,
            ),
        ]);
        table.row(["", &format!("spread over {}", one_line(&disk.path))]);
        if let Some(burst) = &disk.burst {
            table.row([
                "experts".to_owned(),
                format!(
                    "{:.0} read at once in {:.1} ms at first, {:.1} ms again",
                    burst.experts,
                    burst.first_s * 1e3,
                    burst.again_s * 1e3,
                ),
            ]);
        }
    }
    let [fast, typical, _] = probe.pass_s.map(|seconds| format!("{:.1} ms", seconds * 1e3));
    table.row([
        "products".to_owned(),
        format!(
            "{typical} a token ({fast} at best), {} G weights/s of a prompt",
            range(probe.prefill_weights_per_s.map(|rate| rate / 1e9)),
        ),
    ]);
    let [low, high] = probe.memory_bytes_per_s;
    table.row(["memory".to_owned(), format!("{} to {}", digits(low / 1e9), gb(high))]);
    table.write(out, "  ")
}

fn write_split(out: &mut impl Write, budget: &BudgetReport) -> io::Result<()> {
    writeln!(out, "\nthe split")?;
    let mut table = Table::new(&[Align::Left, Align::Right, Align::Left]);
    for (label, bytes, note) in [
        ("weights that stay", budget.pinned_bytes, ""),
        ("ring", budget.ring_bytes, "buffers that the other weights pass through"),
        ("experts", budget.expert_cache_bytes, "cache of the experts in use"),
        ("KV cache", budget.kv_bytes, ""),
        ("scratch", budget.scratch_bytes, ""),
        ("vocabulary", budget.vocab_bytes, ""),
        ("reserve", budget.reserve_bytes, "program, norms, page tables, the kernel's side"),
    ] {
        table.row([label.to_owned(), human::bytes(bytes), note.to_owned()]);
    }
    table.write(out, "  ")
}

fn write_steps(out: &mut impl Write, document: &Document) -> io::Result<()> {
    writeln!(out, "\nwhat memory brings")?;
    let mut table =
        Table::new(&[Align::Right, Align::Right, Align::Right, Align::Right, Align::Left]);
    table.row(["memory", "read per token", "answer tok/s", "prompt tok/s", ""]);
    for step in &document.steps {
        let note = match step.memory_bytes {
            bytes if bytes == document.memory_bytes => "as asked",
            bytes if bytes > document.allowed_bytes => "more than this machine allows",
            bytes if bytes == document.floor_bytes => "the floor",
            bytes if bytes == document.resident_bytes => "everything stays",
            _ => "",
        };
        table.row([
            human::bytes(step.memory_bytes),
            human::bytes(step.read_bytes_per_token),
            digits(step.speeds.decode_expected_tok_s),
            range(step.speeds.prefill_tok_s),
            note.to_owned(),
        ]);
    }
    table.write(out, "  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_three_digits() {
        assert_eq!(range([0.414, 12.34]), "0.41 to 12.3");
        assert_eq!(range([99.96, 1234.5]), "100.0 to 1234");
    }
}
