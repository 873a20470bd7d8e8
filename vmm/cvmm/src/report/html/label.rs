//! Labels on bars: the longest that fits, for each width of the window. So nothing needs a legend.

use std::fmt::Write;

use super::axis::percent;
use super::markup::Text;

/// Classes of the three widths, and how wide a chart is then at least. `page.css` shows one at a time.
const WIDTHS: [(&str, f64); 3] = [("n", 330.0), ("m", 640.0), ("x", 1000.0)];

/// How wide a character is at most, at 12 px.
const CHARACTER: f64 = 7.0;

/// Writes the first of `variants` that fits onto a bar from `begin` to `end`.
pub fn inside(out: &mut String, (begin, end): (f64, f64), baseline: u32, variants: &[String]) {
    inside_part(out, (begin, end), baseline, variants, 1.0);
}

/// The same where a chart takes a part of the width.
pub fn inside_part(
    out: &mut String,
    (begin, end): (f64, f64),
    baseline: u32,
    variants: &[String],
    part: f64,
) {
    let fitting = WIDTHS.map(|(class, width)| {
        let room = (end - begin) * width * part - 10.0;
        let fits = |text: &&String| text.chars().count() as f64 * CHARACTER <= room;
        (class, variants.iter().find(fits))
    });
    let x = percent(begin);
    let mut at = 0;
    while let Some((_, text)) = fitting.get(at) {
        let same = fitting[at..].iter().take_while(|(_, other)| other == text);
        let classes: Vec<&str> = same.map(|(class, _)| *class).collect();
        at += classes.len();
        if let Some(text) = text {
            let classes = classes.join(" ");
            let _ = write!(
                out,
                "<text class=\"on {classes}\" x={x} dx=5 y={baseline}>{}</text>",
                Text(text)
            );
        }
    }
}
