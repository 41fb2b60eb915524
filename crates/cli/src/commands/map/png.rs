//! A picture as PNG.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use super::picture::{Anchor, Picture, Shape, WIDTH};

/// The file's bytes.
pub fn png(picture: &Picture) -> Result<Vec<u8>, png::EncodingError> {
    let mut canvas = Canvas::new(WIDTH as usize, picture.height as usize);
    for shape in &picture.shapes {
        match shape {
            Shape::Fill { x, y, width, height, colour } => {
                canvas.fill([*x, *y, *width, *height].map(|v| v as usize), *colour);
            }
            Shape::Text { x, y, size, anchor, colour, text } => {
                canvas.text(*x as usize, *y as usize, *size, *anchor, *colour, text);
            }
        }
    }
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, WIDTH, picture.height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&canvas.pixels)?;
    writer.finish()?;
    Ok(file)
}

/// Red, green and blue of each pixel, row after row.
struct Canvas {
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Canvas {
    fn new(width: usize, height: usize) -> Self {
        Self { width, height, pixels: vec![0xff; width * height * 3] }
    }

    /// Blends a pixel; outside the picture nothing happens.
    fn blend(&mut self, x: usize, y: usize, colour: [u8; 3], weight: u8) {
        if x >= self.width || y >= self.height {
            return;
        }
        let at = (y * self.width + x) * 3;
        for (pixel, colour) in self.pixels[at..at + 3].iter_mut().zip(colour) {
            let (old, new, weight) = (u32::from(*pixel), u32::from(colour), u32::from(weight));
            // At most 255: a mean of two bytes.
            *pixel = ((old * (255 - weight) + new * weight + 127) / 255) as u8;
        }
    }

    fn fill(&mut self, [x, y, width, height]: [usize; 4], colour: [u8; 3]) {
        for row in y..y + height {
            for column in x..x + width {
                self.blend(column, row, colour, 255);
            }
        }
    }

    fn text(&mut self, x: usize, y: usize, size: u32, anchor: Anchor, colour: [u8; 3], text: &str) {
        let height = if size >= 20 { RasterHeight::Size20 } else { RasterHeight::Size16 };
        let advance = get_raster_width(FontWeight::Regular, height);
        let length = text.chars().count() * advance;
        let mut left = match anchor {
            Anchor::Start => x,
            Anchor::Middle => x.saturating_sub(length / 2),
            Anchor::End => x.saturating_sub(length),
        };
        for c in text.chars() {
            // The letters are ASCII; what else a name may hold shows as a question mark.
            let letter = get_raster(c, FontWeight::Regular, height)
                .or_else(|| get_raster('?', FontWeight::Regular, height));
            for (dy, row) in letter.iter().flat_map(|letter| letter.rows().enumerate()) {
                for (dx, &weight) in row.iter().enumerate() {
                    self.blend(left + dx, y + dy, colour, weight);
                }
            }
            left += advance;
        }
    }
}
