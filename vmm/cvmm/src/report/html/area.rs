//! A stack of areas over time: amounts that add up to the same at every moment.

use std::fmt::Write;

use super::axis;
use super::markup::Text;
use crate::report::number::fraction;

const HEIGHT: f64 = 190.0;
/// A band lower than this has no room for its name.
const LABEL: f64 = 15.0;

/// One band of the stack, from the bottom up.
pub struct Band<'a> {
    /// What is counted in it.
    pub name: &'a str,
    /// Its colour.
    pub class: &'a str,
    /// The amount from each moment on.
    pub values: Vec<u64>,
}

/// Draws the stack. `moments` says when; `end` is the end of the axis.
pub fn chart(
    out: &mut String,
    spoken: &str,
    moments: &[u64],
    bands: &[Band],
    end: u64,
    show: fn(u64) -> String,
) {
    let whole = (0..moments.len()).map(|at| sum(bands, at)).max().unwrap_or(0);
    let ticks = axis::times(end);
    let _ = write!(
        out,
        "<svg class=chart tabindex=0 role=img height={} aria-label=\"{}\"><svg height={HEIGHT} width=100% \
         viewBox=\"0 0 1000 {HEIGHT}\" preserveAspectRatio=none>",
        HEIGHT + 24.0,
        Text(spoken),
    );
    let mut below = vec![0u64; moments.len()];
    let mut labels = String::new();
    for band in bands {
        let top: Vec<u64> =
            below.iter().zip(&band.values).map(|(a, b)| a.saturating_add(*b)).collect();
        area(out, band, moments, &below, &top, (whole, end));
        name(&mut labels, band, moments, &below, (whole, end), show);
        below = top;
    }
    out.push_str("</svg>");
    let _ = write!(out, "<svg height={HEIGHT}>");
    axis::grid(out, &ticks);
    let _ = write!(out, "</svg>{labels}");
    axis::labels(out, &ticks, (HEIGHT + 16.0) as u32);
    out.push_str("</svg>");
}

fn sum(bands: &[Band], at: usize) -> u64 {
    bands.iter().filter_map(|band| band.values.get(at)).copied().fold(0, u64::saturating_add)
}

fn y(value: u64, whole: u64) -> f64 {
    HEIGHT * (1.0 - fraction(value, whole))
}

/// Amounts change at once: the upper edge is a stair, and so is the lower one on the way back.
fn area(
    out: &mut String,
    band: &Band,
    moments: &[u64],
    below: &[u64],
    top: &[u64],
    (whole, end): (u64, u64),
) {
    if band.values.iter().all(|value| *value == 0) {
        return;
    }
    let x = |at: usize| moments.get(at).map_or(1000.0, |moment| fraction(*moment, end) * 1000.0);
    let _ = write!(out, "<path class={} d=\"M{:.1} {:.1}", band.class, x(0), y(below[0], whole));
    for (at, value) in top.iter().enumerate() {
        let _ = write!(out, "V{:.1}H{:.1}", y(*value, whole), x(at + 1));
    }
    for (at, value) in below.iter().enumerate().rev() {
        let _ = write!(out, "V{:.1}H{:.1}", y(*value, whole), x(at));
    }
    out.push_str("Z\" />");
}

/// Names a band where it stays high enough for longest.
fn name(
    out: &mut String,
    band: &Band,
    moments: &[u64],
    below: &[u64],
    (whole, end): (u64, u64),
    show: fn(u64) -> String,
) {
    let height = |at: usize| fraction(band.values[at], whole) * HEIGHT;
    let mut best: Option<(u64, u64, usize)> = None;
    let mut at = 0;
    while at < moments.len() {
        if height(at) < LABEL {
            at += 1;
            continue;
        }
        // As long as it stays about where it is.
        let last = (at..moments.len())
            .take_while(|next| {
                height(*next) >= LABEL
                    && below[*next].abs_diff(below[at]) as f64 <= 0.02 * whole as f64
            })
            .last()
            .unwrap_or(at);
        let until = moments.get(last + 1).copied().unwrap_or(end);
        let span = (moments[at], until, last);
        if best
            .is_none_or(|(from, to, _)| until.saturating_sub(moments[at]) > to.saturating_sub(from))
        {
            best = Some(span);
        }
        at = last + 1;
    }
    let Some((from, to, at)) = best else { return };
    let middle = y(below[at].saturating_add(band.values[at] / 2), whole) + 4.0;
    let text = format!("{} {}", band.name, show(band.values[at]));
    let place = (fraction(from, end), fraction(to, end));
    // What is long on a phone is at least named.
    super::label::inside(out, place, middle as u32, &[text, band.name.to_owned()]);
}
