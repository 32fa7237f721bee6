//! Bar charts as SVG: one for each row of the table, readable on light and dark pages alike.

use std::fmt::Write;

/// One bar.
pub(super) struct Bar<'a> {
    pub(super) name: &'a str,
    pub(super) value: f64,
    pub(super) colour: &'static str,
}

/// What draws the eye: this repository's own.
pub(super) const OWN: &str = "#2f81f7";
/// What it is compared with.
pub(super) const OTHER: &str = "#8b949e";
/// What the machine gives.
pub(super) const LIMIT: &str = "#3fb950";

const WIDTH: f64 = 720.0;
const LEFT: f64 = 130.0;
const RIGHT: f64 = 90.0;
const BAR: f64 = 22.0;
const GAP: f64 = 10.0;
const TOP: f64 = 36.0;
const BOTTOM: f64 = 26.0;

/// A chart of bars from the left, with a dashed line at the goal.
pub(super) fn svg(title: &str, bars: &[Bar<'_>], goal: f64) -> String {
    let longest = bars.iter().map(|bar| bar.value).fold(goal, f64::max);
    let scale = if longest > 0.0 {
        (WIDTH - LEFT - RIGHT) / longest
    } else {
        0.0
    };
    #[expect(clippy::cast_precision_loss, reason = "a few bars")]
    let bottom = TOP + bars.len() as f64 * (BAR + GAP);
    let height = bottom + BOTTOM;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"13\" fill=\"#6e7781\" role=\"img\">\n<title>{title}</title>\n\
         <text x=\"8\" y=\"20\" font-weight=\"bold\">{title}</text>\n",
        title = escape(title)
    );
    for (place, bar) in bars.iter().enumerate() {
        #[expect(clippy::cast_precision_loss, reason = "a few bars")]
        let top = TOP + place as f64 * (BAR + GAP);
        let middle = top + BAR * 0.7;
        let width = (bar.value * scale).max(1.0);
        // Writing to a string can't fail.
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LEFT}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{middle:.1}\">{}</text>",
            LEFT - 8.0,
            escape(bar.name),
            bar.colour,
            LEFT + width + 6.0,
            short(bar.value),
        );
    }
    let at = LEFT + goal * scale;
    let _ = writeln!(
        text,
        "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{}\" y2=\"{bottom:.1}\" stroke=\"#f85149\" stroke-dasharray=\"4 3\"/>\
         <text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#f85149\">to reach: {}</text>\n</svg>",
        TOP - 6.0,
        bottom + 16.0,
        short(goal)
    );
    text
}

/// As many digits as a reader needs.
fn short(value: f64) -> String {
    if value >= 100.0 {
        super::plan::thousands(value)
    } else if value >= 10.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_bar_fills_the_width_and_names_are_escaped() {
        let bars = [
            Bar {
                name: "a & b",
                value: 50.0,
                colour: OWN,
            },
            Bar {
                name: "c",
                value: 100.0,
                colour: OTHER,
            },
        ];
        let text = svg("x < y", &bars, 25.0);
        assert!(text.contains("a &amp; b") && text.contains("x &lt; y"));
        assert!(text.contains("width=\"500.0\"") && text.contains("width=\"250.0\""));
        // The goal's line, a quarter of the way.
        assert!(text.contains("x1=\"255.0\""));
    }

    #[test]
    fn nothing_at_all_can_be_drawn() {
        assert!(svg("t", &[], 0.0).ends_with("</svg>\n"));
    }
}
