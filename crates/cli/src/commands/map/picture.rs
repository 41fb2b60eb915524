//! The picture as shapes, drawn the same by SVG and PNG: the strip of the file, and the grid of kinds
//! by layers.

use super::kind::Group;
use super::layout::Layout;
use super::strip::{Row, columns, grid};
use super::survey::Survey;
use crate::human;

/// Width in pixels.
pub const WIDTH: u32 = 1200;
/// Where the plots begin and end.
pub const LEFT: u32 = 190;
pub const RIGHT: u32 = 1170;
/// Height of a row of the grid.
const ROW: u32 = 26;

pub const BLACK: [u8; 3] = [0x1a, 0x1a, 0x1a];
pub const GREY: [u8; 3] = [0x59, 0x59, 0x59];
pub const FRAME: [u8; 3] = [0xbb, 0xbb, 0xbb];
/// Where there is no tensor.
const NOTHING: [u8; 3] = [0xff, 0xff, 0xff];

/// Which point of a text its position means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    Start,
    Middle,
    End,
}

/// Something to draw. Positions in pixels from the top left.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// A filled rectangle.
    Fill { x: u32, y: u32, width: u32, height: u32, colour: [u8; 3] },
    /// A line of text of which `y` is the top; 16 or 20 pixels high.
    Text { x: u32, y: u32, size: u32, anchor: Anchor, colour: [u8; 3], text: String },
}

/// All shapes, back to front.
pub struct Picture {
    /// In pixels.
    pub height: u32,
    /// What is drawn.
    pub shapes: Vec<Shape>,
}

/// White to dark blue in equal steps of lightness: one hue, so that only lightness counts.
pub fn ramp(share: f64) -> [u8; 3] {
    const STOPS: [[f64; 3]; 5] = [
        [239.0, 239.0, 239.0],
        [189.0, 215.0, 231.0],
        [107.0, 174.0, 214.0],
        [33.0, 113.0, 181.0],
        [8.0, 48.0, 107.0],
    ];
    let at = share.clamp(0.0, 1.0) * (STOPS.len() - 1) as f64;
    let low = (at as usize).min(STOPS.len() - 2);
    let part = at - low as f64;
    let mix = |i: usize| STOPS[low][i] + (STOPS[low + 1][i] - STOPS[low][i]) * part;
    [0, 1, 2].map(|i| mix(i).round() as u8)
}

/// Draws.
pub fn picture(layout: &Layout, survey: &Survey) -> Picture {
    let by_process = survey.mappings().next().is_some();
    let mut picture = Picture { height: 0, shapes: Vec::new() };
    picture.head(layout, survey, by_process);
    let mut y = picture.strip(layout, survey, by_process, 92);
    y = picture.offsets(layout.file_bytes(), y);
    y = picture.groups(layout, y + 14);
    let title = match by_process {
        true => format!("I{}, by tensor kind and layer", &survey.places()[1..]),
        false => "In the page cache, by tensor kind and layer".to_owned(),
    };
    picture.text(20, y + 22, 20, Anchor::Start, BLACK, title);
    y = picture.grid(&grid(layout, survey, by_process), layout.layers, y + 58);
    picture.shares(y + 16, "share in memory");
    picture.height = y + 60;
    picture
}

impl Picture {
    /// A rectangle.
    pub fn fill(&mut self, x: u32, y: u32, width: u32, height: u32, colour: [u8; 3]) {
        self.shapes.push(Shape::Fill { x, y, width, height, colour });
    }

    /// A line of text.
    pub fn text(
        &mut self,
        x: u32,
        y: u32,
        size: u32,
        anchor: Anchor,
        colour: [u8; 3],
        text: impl Into<String>,
    ) {
        self.shapes.push(Shape::Text { x, y, size, anchor, colour, text: text.into() });
    }

    fn head(&mut self, layout: &Layout, survey: &Survey, by_process: bool) {
        let path = layout.shards.first().map(|file| file.path().to_owned()).unwrap_or_default();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let total = layout.file_bytes();
        let title = format!(
            "{name}: {}, {}, {} layers, {} tensors",
            human::bytes(total),
            layout.architecture,
            layout.layers,
            layout.tensors()
        );
        self.text(20, 16, 20, Anchor::Start, BLACK, title);
        let share = |bytes: u64| format!("{} ({})", human::bytes(bytes), percent(bytes, total));
        let mut line = format!("in the page cache: {}", share(survey.cached_bytes()));
        if by_process {
            let present = share(survey.present_bytes());
            let tables = human::bytes(survey.tables().bytes());
            line.push_str(&format!(
                "; in the page tables of {} ({}): {present}, {tables} of tables",
                survey.process, survey.program
            ));
            if survey.buffers.is_some() {
                line.push_str(&format!("; in its buffers: {}", share(survey.buffered_bytes())));
            }
        }
        self.text(20, 48, 16, Anchor::Start, GREY, line);
    }

    /// The file from left to right, two to four times over; gives the y below.
    fn strip(&mut self, layout: &Layout, survey: &Survey, by_process: bool, y: u32) -> u32 {
        let columns = columns(layout, survey, (RIGHT - LEFT) as usize);
        let mut bands: Vec<(&str, u32, Vec<[u8; 3]>)> = vec![
            ("tensors", 44, columns.iter().map(|c| c.group.colour()).collect()),
            ("page cache", 32, columns.iter().map(|c| ramp(c.cached)).collect()),
        ];
        if by_process {
            bands.push(("page tables", 32, columns.iter().map(|c| ramp(c.mapped)).collect()));
            if survey.buffers.is_some() {
                bands.push(("own buffers", 32, columns.iter().map(|c| ramp(c.buffered)).collect()));
            }
        }
        let mut top = y;
        for (label, height, colours) in bands {
            self.band(label, top, height, &colours);
            top += height + 6;
        }
        top
    }

    /// A strip across the file, a colour for each column.
    pub fn band(&mut self, label: &str, top: u32, height: u32, colours: &[[u8; 3]]) {
        self.text(LEFT - 14, top + height / 2 - 8, 16, Anchor::End, BLACK, label);
        self.fill(LEFT - 1, top - 1, RIGHT - LEFT + 2, height + 2, FRAME);
        self.runs(top, height, colours);
    }

    /// Columns of the file; runs of one colour are one rectangle.
    pub fn runs(&mut self, top: u32, height: u32, colours: &[[u8; 3]]) {
        let mut x = LEFT;
        for run in colours.chunk_by(|a, b| a == b) {
            self.fill(x, top, run.len() as u32, height, run[0]);
            x += run.len() as u32;
        }
    }

    /// The axis below the strip: bytes from the beginning.
    pub fn offsets(&mut self, total: u64, y: u32) -> u32 {
        let (unit, name) = if total >= 2_000_000_000 { (1e9, "GB") } else { (1e6, "MB") };
        let step = nice_step(total as f64 / unit / 12.0);
        let mut value = 0.0;
        while value * unit <= total as f64 {
            let x = LEFT + ((RIGHT - LEFT) as f64 * value * unit / total as f64) as u32;
            self.fill(x.min(RIGHT - 1), y, 1, 6, BLACK);
            let text = if step < 1.0 { format!("{value:.1}") } else { format!("{value:.0}") };
            self.text(x, y + 9, 16, Anchor::Middle, BLACK, text);
            value += step;
        }
        self.text(LEFT - 14, y + 9, 16, Anchor::End, GREY, format!("offset in {name}"));
        y + 28
    }

    /// What the colours mean; only those that are there.
    pub fn groups(&mut self, layout: &Layout, y: u32) -> u32 {
        let mut x = LEFT;
        for group in Group::ALL {
            if !layout.parts.iter().any(|part| part.kind.group() == group) {
                continue;
            }
            self.fill(x, y, 16, 16, group.colour());
            self.text(x + 22, y, 16, Anchor::Start, BLACK, group.label());
            x += 22 + 9 * group.label().len() as u32 + 22;
        }
        y + 20
    }

    fn grid(&mut self, rows: &[Row], layers: u32, y: u32) -> u32 {
        let width = RIGHT - LEFT;
        // What is in no layer stands at the left, two columns wide.
        let slots = layers + 3;
        let edge = |slot: u32| LEFT + width * slot / slots;
        for (i, row) in rows.iter().enumerate() {
            let top = y + i as u32 * ROW;
            self.fill(20, top + 5, 10, ROW - 10, row.kind.group().colour());
            self.text(LEFT - 14, top + 5, 16, Anchor::End, BLACK, row.kind.label());
            for (at, cell) in row.cells.iter().enumerate() {
                let (from, to) = match at {
                    0 => (0, 2),
                    layer => (layer as u32 + 2, layer as u32 + 3),
                };
                let colour = cell.share().map_or(NOTHING, ramp);
                if cell.bytes > 0 {
                    let gap = u32::from(edge(to) - edge(from) > 3);
                    self.fill(edge(from), top + 1, edge(to) - edge(from) - gap, ROW - 2, colour);
                }
            }
        }
        let below = y + rows.len() as u32 * ROW;
        self.fill(LEFT, below + 2, width, 1, BLACK);
        let centre = |slot: u32, to: u32| (edge(slot) + edge(to)) / 2;
        self.text(centre(0, 2), below + 8, 16, Anchor::Middle, BLACK, "none");
        let step = (nice_step(f64::from(layers) / 12.0) as u32).max(1);
        for layer in (0..layers).step_by(step as usize) {
            let x = centre(layer + 3, layer + 4);
            self.fill(x, below + 2, 1, 6, BLACK);
            self.text(x, below + 8, 16, Anchor::Middle, BLACK, layer.to_string());
        }
        self.text(LEFT - 14, below + 8, 16, Anchor::End, GREY, "layer");
        below + 28
    }

    /// What the shades mean.
    pub fn shares(&mut self, y: u32, label: &str) {
        self.text(LEFT - 14, y, 16, Anchor::End, GREY, label);
        let steps = 100;
        for step in 0..=steps {
            let colour = ramp(f64::from(step) / f64::from(steps));
            self.fill(LEFT + 36 + 3 * step, y, 3, 16, colour);
        }
        self.text(LEFT, y, 16, Anchor::Start, BLACK, "0 %");
        self.text(LEFT + 36 + 3 * (steps + 1) + 8, y, 16, Anchor::Start, BLACK, "100 %");
    }
}

/// `37.1 %`; never 0.0 or 100.0 where it is not.
pub fn percent(part: u64, whole: u64) -> String {
    let percent = part as f64 / whole.max(1) as f64 * 100.0;
    match percent {
        p if part > 0 && p < 0.05 => "under 0.1 %".to_owned(),
        p if part < whole && p > 99.9 => "over 99.9 %".to_owned(),
        p => format!("{p:.1} %"),
    }
}

/// The next of 1, 2, 5, 10, 20, ... at or above.
pub fn nice_step(least: f64) -> f64 {
    let power = 10f64.powf(least.max(1e-9).log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|s| *s >= least).unwrap_or(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_and_percentages() {
        for (least, step) in [(0.9, 1.0), (1.1, 2.0), (2.3, 5.0), (7.0, 10.0), (0.03, 0.05)] {
            assert!((nice_step(least) - step).abs() < 1e-9, "{least}: {}", nice_step(least));
        }
        assert_eq!(percent(0, 10), "0.0 %");
        assert_eq!(percent(1, 1_000_000), "under 0.1 %");
        assert_eq!(percent(999_999, 1_000_000), "over 99.9 %");
        assert_eq!(percent(5, 5), "100.0 %");
    }

    /// Lightness has to grow strictly: that is what a colour-blind reader goes by.
    #[test]
    fn the_ramp_darkens_all_the_way() {
        let light = |share: f64| {
            let [r, g, b] = ramp(share).map(f64::from);
            0.2126 * r + 0.7152 * g + 0.0722 * b
        };
        for step in 0..20 {
            let (from, to) = (f64::from(step) / 20.0, f64::from(step + 1) / 20.0);
            assert!(light(from) > light(to) + 2.0, "{from}");
        }
    }
}
