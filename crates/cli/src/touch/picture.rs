//! Time by file as a picture: the tensors above, a row for each token, the whole answer below.

use super::Summary;
use super::heat::{COLUMNS, Heat, ROWS_MAX};
use crate::commands::map::layout::Layout;
use crate::commands::map::picture::{
    Anchor, BLACK, FRAME, GREY, LEFT, Picture, RIGHT, Shape, nice_step, percent, ramp,
};
use crate::commands::map::strip::groups;
use crate::human;

/// Height of all rows together, about.
const PLOT: u32 = 400;

/// A shape for each column of each row, where no two beside each other have one colour. The list doubles as it
/// grows.
pub const BYTES_MAX: u64 = (2 * ROWS_MAX * COLUMNS * size_of::<Shape>()) as u64;

/// Draws.
pub fn picture(layout: &Layout, heat: &Heat, ever: &[f32], summary: &Summary) -> Picture {
    let mut picture = Picture { height: 0, shapes: Vec::new() };
    let path = layout.shards.first().map(|file| file.path().to_owned()).unwrap_or_default();
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let title = format!(
        "{name}: which bytes each token uses ({}, {})",
        human::bytes(summary.file_bytes),
        layout.architecture
    );
    picture.text(20, 16, 20, Anchor::Start, BLACK, title);
    let of =
        |bytes: u64| format!("{} ({})", human::bytes(bytes), percent(bytes, summary.file_bytes));
    let line = format!(
        "a token: {}; all {} tokens together: {}",
        of(summary.bytes_per_token),
        summary.tokens,
        of(summary.bytes)
    );
    picture.text(20, 48, 16, Anchor::Start, GREY, line);
    let colours: Vec<_> = groups(layout, COLUMNS).iter().map(|group| group.colour()).collect();
    picture.band("tensors", 92, 44, &colours);
    let mut y = rows(&mut picture, heat, 150);
    let colours: Vec<_> = ever.iter().map(|share| ramp(f64::from(*share))).collect();
    picture.band("all together", y + 12, 32, &colours);
    y = picture.offsets(layout.file_bytes(), y + 50);
    y = picture.groups(layout, y + 14);
    picture.shares(y + 12, "share used");
    picture.height = y + 52;
    picture
}

/// A row for each token, later ones below; gives the y below.
fn rows(picture: &mut Picture, heat: &Heat, top: u32) -> u32 {
    let count = heat.rows.len().max(1) as u32;
    let height = (PLOT / count).clamp(1, 24);
    let bottom = top + height * count;
    picture.fill(LEFT - 1, top - 1, RIGHT - LEFT + 2, bottom - top + 2, FRAME);
    for (i, row) in heat.rows.iter().enumerate() {
        let colours: Vec<_> = row.shares.iter().map(|share| ramp(f64::from(*share))).collect();
        // A line of white between rows that are high enough to spare it.
        let gap = u32::from(height > 6);
        picture.runs(top + i as u32 * height, height - gap, &colours);
    }
    // Labels need 20 pixels each.
    let step = nice_step((20.0 / f64::from(height)).max(1.0)) as usize;
    for (i, row) in heat.rows.iter().enumerate().step_by(step) {
        let middle = (top + i as u32 * height + height / 2).saturating_sub(8);
        let label = if row.token == 0 { "prompt".to_owned() } else { row.token.to_string() };
        picture.text(LEFT - 92, middle, 16, Anchor::End, BLACK, label);
        picture.text(LEFT - 14, middle, 16, Anchor::End, GREY, time(row.seconds));
    }
    picture.text(LEFT - 92, top - 24, 16, Anchor::End, GREY, "token");
    picture.text(LEFT - 14, top - 24, 16, Anchor::End, GREY, "time");
    bottom
}

fn time(seconds: f64) -> String {
    match seconds {
        s if s < 100.0 => format!("{s:.2} s"),
        s if s < 1000.0 => format!("{s:.1} s"),
        s => format!("{s:.0} s"),
    }
}
