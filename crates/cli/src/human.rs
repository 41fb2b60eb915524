//! Figures for people: sizes, counts, durations, and tables whose columns line up.

use std::io::{self, Write};

/// `98.4 MB`: decimal units, three significant digits; the units the project speaks in.
pub fn bytes(bytes: u64) -> String {
    scaled(bytes, 1000.0, &["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

/// `93.8 MiB`: binary units, where the power of two is the point (page tables).
pub fn bytes_binary(bytes: u64) -> String {
    scaled(bytes, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

/// `134.5 M`: a count of parameters.
pub fn count(count: u64) -> String {
    scaled(count, 1000.0, &["", "k", "M", "G", "T", "P", "E"]).trim_end().to_owned()
}

fn scaled(value: u64, base: f64, units: &[&str]) -> String {
    let mut scaled = value as f64;
    let mut power = 0;
    // 999.5 would print as 1000: the next unit says it better.
    while scaled >= base * 0.9995 && power + 1 < units.len() {
        scaled /= base;
        power += 1;
    }
    let unit = units[power];
    match power {
        0 => format!("{value} {unit}"),
        _ if scaled < 9.995 => format!("{scaled:.2} {unit}"),
        _ if scaled < 99.95 => format!("{scaled:.1} {unit}"),
        _ => format!("{scaled:.0} {unit}"),
    }
}

/// `12,345,678`.
pub fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `0.12 s`, `12.3 s`, `2 min 05 s`.
pub fn seconds(seconds: f64) -> String {
    if seconds < 10.0 {
        format!("{seconds:.2} s")
    } else if seconds < 120.0 {
        format!("{seconds:.1} s")
    } else {
        format!("{} min {:02} s", (seconds / 60.0) as u64, (seconds % 60.0) as u64)
    }
}

/// Which side of a column its cells stand at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Align {
    /// Words.
    Left,
    /// Figures.
    Right,
}

/// Rows of cells, as wide as their widest.
pub struct Table {
    columns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows; every row has as many cells as there are columns.
    pub fn new(columns: &[Align]) -> Self {
        Self { columns: columns.to_vec(), rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        let cells: Vec<String> = cells.into_iter().map(Into::into).collect();
        assert_eq!(cells.len(), self.columns.len(), "a row has a cell for every column");
        self.rows.push(cells);
    }

    fn widths(&self) -> Vec<usize> {
        let mut widths = vec![0; self.columns.len()];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        widths
    }

    /// Columns two spaces apart, each line after `indent`, no spaces at line ends.
    pub fn write(&self, out: &mut impl Write, indent: &str) -> io::Result<()> {
        let widths = self.widths();
        for row in &self.rows {
            let line = self.line(row, &widths, "  ");
            writeln!(out, "{indent}{}", line.trim_end())?;
        }
        Ok(())
    }

    /// The same as a Markdown table; the first row is its head.
    pub fn write_markdown(&self, out: &mut impl Write) -> io::Result<()> {
        let widths = self.widths();
        for (i, row) in self.rows.iter().enumerate() {
            writeln!(out, "| {} |", self.line(row, &widths, " | "))?;
            if i == 0 {
                let rules = self.columns.iter().zip(&widths).map(|(align, width)| match align {
                    Align::Left => "-".repeat(width + 2),
                    Align::Right => "-".repeat(width + 1) + ":",
                });
                writeln!(out, "|{}|", rules.collect::<Vec<_>>().join("|"))?;
            }
        }
        Ok(())
    }

    fn line(&self, row: &[String], widths: &[usize], gap: &str) -> String {
        let mut line = String::new();
        for (i, cell) in row.iter().enumerate() {
            if i > 0 {
                line.push_str(gap);
            }
            let padding = " ".repeat(widths[i] - cell.chars().count());
            match self.columns[i] {
                Align::Left => line.extend([cell.as_str(), &padding]),
                Align::Right => line.extend([padding.as_str(), cell]),
            }
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_and_never_a_thousand() {
        for (value, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_996, "10.0 kB"),
            (98_362_432, "98.4 MB"),
            (999_600_000, "1.00 GB"),
            (6_800_000_000, "6.80 GB"),
            (253_113_024, "253 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(value), text);
        }
        assert_eq!(bytes_binary(42_024_960), "40.1 MiB");
        assert_eq!(count(134_515_008), "135 M");
        assert_eq!(count(7), "7");
        assert_eq!(grouped(98_362_432), "98,362,432");
        assert_eq!(grouped(1), "1");
        assert_eq!(seconds(125.0), "2 min 05 s");
    }

    #[test]
    fn columns_line_up_and_lines_end_clean() {
        let mut table = Table::new(&[Align::Left, Align::Right, Align::Left]);
        table.row(["test", "tok/s", "x"]);
        table.row(["pp512", "1234.5", ""]);
        let mut plain = Vec::new();
        table.write(&mut plain, "  ").unwrap();
        assert_eq!(String::from_utf8(plain).unwrap(), "  test    tok/s  x\n  pp512  1234.5\n");
        let mut markdown = Vec::new();
        table.write_markdown(&mut markdown).unwrap();
        assert_eq!(
            String::from_utf8(markdown).unwrap(),
            "| test  |  tok/s | x |\n|-------|-------:|---|\n| pp512 | 1234.5 |   |\n"
        );
    }
}
