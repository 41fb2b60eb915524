//! The picture in letters: as wide as the terminal, with colour where that is wanted.

use std::io::{self, Write};

use super::kind::Group;
use super::layout::Layout;
use super::picture::percent;
use super::strip::{Cell, Row, columns, grid};
use super::survey::Survey;
use crate::human;

/// Columns for labels at the left.
const LABEL: usize = 15;

/// How the picture is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    /// Columns there are.
    pub width: usize,
    /// Whether escape sequences may be written.
    pub coloured: bool,
}

impl Style {
    /// For standard output.
    pub fn of_stdout() -> Self {
        Self { width: crate::output::width(), coloured: crate::output::is_coloured() }
    }

    fn plot(self) -> usize {
        self.width - LABEL - 1
    }

    fn painted(self, text: &str, colour: u8) -> String {
        if self.coloured { format!("\x1b[38;5;{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Writes strip and grid.
pub fn draw(
    out: &mut impl Write,
    layout: &Layout,
    survey: &Survey,
    style: Style,
) -> io::Result<()> {
    let by_process = survey.mappings().next().is_some();
    let columns = columns(layout, survey, style.plot());
    let runs = columns.chunk_by(|a, b| a.group == b.group);
    let tensors: String = runs.map(|run| symbols(run[0].group, run.len(), style)).collect();
    writeln!(out, "{:LABEL$} {tensors}", "tensors")?;
    let cached: String = columns.iter().map(|column| shade(column.cached)).collect();
    writeln!(out, "{:LABEL$} {}", "page cache", style.painted(&cached, 75))?;
    if by_process {
        let mapped: String = columns.iter().map(|column| shade(column.mapped)).collect();
        writeln!(out, "{:LABEL$} {}", "page tables", style.painted(&mapped, 75))?;
        if survey.buffers.is_some() {
            let buffered: String = columns.iter().map(|column| shade(column.buffered)).collect();
            writeln!(out, "{:LABEL$} {}", "own buffers", style.painted(&buffered, 75))?;
        }
    }
    writeln!(out, "{:LABEL$} {}", "", axis(layout.file_bytes(), style.plot()))?;
    let there = |group: &Group| layout.parts.iter().any(|part| part.kind.group() == *group);
    let legend = Group::ALL.into_iter().filter(there);
    let legend: Vec<String> =
        legend.map(|group| format!("{} {}", symbols(group, 1, style), group.label())).collect();
    writeln!(out, "{:LABEL$} {}\n", "", legend.join("  "))?;
    let whose = if by_process { survey.places() } else { "in the page cache".to_owned() };
    let shades = [0.0, 0.2, 0.4, 0.7, 1.0].map(shade);
    let [none, some, half, most, all] = shades;
    writeln!(
        out,
        "{whose}, by kind and layer   {none} none {some} <1/3 {half} <2/3 {most} more {all} all"
    )?;
    for row in grid(layout, survey, by_process) {
        write_row(out, &row, layout.layers, style)?;
    }
    writeln!(out, "{:LABEL$} {}", "layer", layers_axis(layout.layers, style))
}

fn symbols(group: Group, count: usize, style: Style) -> String {
    match style.coloured {
        true => style.painted(&"█".repeat(count), group.terminal_colour()),
        false => group.letter().to_string().repeat(count),
    }
}

/// How full, in five steps; the first and the last mean none and all.
fn shade(share: f64) -> char {
    match share {
        s if s <= 0.0 => '·',
        s if s < 1.0 / 3.0 => '░',
        s if s < 2.0 / 3.0 => '▒',
        s if s < 1.0 - 1e-9 => '▓',
        _ => '█',
    }
}

fn axis(total: u64, width: usize) -> String {
    let end = human::bytes(total);
    let middle = human::bytes(total / 2);
    let mut line: Vec<char> = vec![' '; width];
    let mut put = |at: usize, text: &str| {
        for (place, c) in line.iter_mut().skip(at).zip(text.chars()) {
            *place = c;
        }
    };
    put(0, "0");
    put((width / 2).saturating_sub(middle.len() / 2), &middle);
    put(width.saturating_sub(end.len()), &end);
    line.into_iter().collect::<String>().trim_end().to_owned()
}

/// How many columns the layers take, and how many a figure at the end needs.
fn layer_columns(layers: u32, style: Style) -> usize {
    let room = style.plot().saturating_sub("  100.0 %  18.4 GB".len() + 3).max(8);
    let layers = layers as usize;
    // As many columns each as there is room for, or several layers to a column.
    if layers <= room { layers * (room / layers.max(1)).clamp(1, 3) } else { room }
}

fn write_row(out: &mut impl Write, row: &Row, layers: u32, style: Style) -> io::Result<()> {
    let count = layer_columns(layers, style);
    let outside = row.cells.first().copied().unwrap_or_default();
    let inside = row.cells.get(1..).unwrap_or(&[]);
    let cell = |i: usize| -> Option<f64> {
        let (from, to) = (i * inside.len() / count, ((i + 1) * inside.len()).div_ceil(count));
        let cells = &inside[from..to.clamp(from + 1, inside.len())];
        let sum = cells.iter().fold(Cell::default(), |sum, cell| Cell {
            bytes: sum.bytes + cell.bytes,
            held: sum.held + cell.held,
        });
        sum.share()
    };
    let blank_or = |share: Option<f64>| share.map_or(' ', shade);
    let mut line = String::from(blank_or(outside.share()));
    line.push(' ');
    if !inside.is_empty() {
        line.extend((0..count).map(|i| blank_or(cell(i))));
    }
    let sum = row.sum();
    let figures = format!(" {:>12}  {:>7}", percent(sum.held, sum.bytes), human::bytes(sum.bytes));
    let label = row.kind.label();
    writeln!(out, "{label:LABEL$} {}{figures}", style.painted(&line, 75))
}

fn layers_axis(layers: u32, style: Style) -> String {
    let count = layer_columns(layers, style);
    let last = layers.saturating_sub(1).to_string();
    if layers == 0 {
        return "-".to_owned();
    }
    let gap = count.saturating_sub(1 + last.len());
    format!("- 0{}{}", " ".repeat(gap), if layers > 1 { last } else { String::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_is_full_and_only_nothing_is_empty() {
        assert_eq!([0.0, 1e-6, 0.5, 0.999_999, 1.0].map(shade), ['·', '░', '▒', '▓', '█']);
    }

    #[test]
    fn the_axis_is_as_wide_as_the_strip() {
        let line = axis(18_356_381_184, 60);
        assert!(line.starts_with('0') && line.ends_with("18.4 GB") && line.contains("9.18 GB"));
        assert_eq!(line.chars().count(), 60);
    }
}
