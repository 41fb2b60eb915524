//! A picture as SVG.

use std::io::{self, Write};

use super::picture::{Anchor, Picture, Shape, WIDTH};

/// Writes the document, shape by shape: a picture of a long answer has 250,000.
pub fn svg(picture: &Picture, out: &mut impl Write) -> io::Result<()> {
    let height = picture.height;
    write!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" shape-rendering=\"crispEdges\" \
         font-family=\"'Noto Sans Mono', 'DejaVu Sans Mono', monospace\">\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" fill=\"#ffffff\"/>\n"
    )?;
    for shape in &picture.shapes {
        match shape {
            Shape::Fill { x, y, width, height, colour } => writeln!(
                out,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" fill=\"{}\"/>",
                hex(*colour)
            ),
            Shape::Text { x, y, size, anchor, colour, text } => {
                let anchor = match anchor {
                    Anchor::Start => "start",
                    Anchor::Middle => "middle",
                    Anchor::End => "end",
                };
                // SVG means the base line; a line's height is more than its letters'.
                let (base, letters) = (y + size * 13 / 16, size * 7 / 8);
                writeln!(
                    out,
                    "<text x=\"{x}\" y=\"{base}\" font-size=\"{letters}\" text-anchor=\"{anchor}\" fill=\"{}\">{}</text>",
                    hex(*colour),
                    escaped(text)
                )
            }
        }?;
    }
    writeln!(out, "</svg>")
}

fn hex([r, g, b]: [u8; 3]) -> String {
    format!("#{r:02x}{g:02x}{b:02x}")
}

/// Names of files and families may hold anything.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            // XML forbids most control characters even as references.
            c if c.is_control() => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_stay_text() {
        assert_eq!(escaped("<a&b>\u{1b}"), "&lt;a&amp;b&gt;?");
    }
}
