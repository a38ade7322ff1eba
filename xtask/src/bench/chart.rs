//! Charts of benchmarks as SVG files that can be read on light and on dark pages: panels of bars, and of lines over a
//! logarithmic size. It does not know what any figure means.

use anyhow::{Context, anyhow};
use plotters::coord::Shift;
use plotters::element::{Drawable, PointCollection};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::spread::Spread;

const WIDTH: i32 = 920;
const MARGIN: i32 = 20;
const HEADER: i32 = 56;
const COLUMNS: i32 = 2;
const LABELS: i32 = 112;
const VALUES: i32 = 96;
const BAR: i32 = 22;
const TITLE: i32 = 34;
const LINES_HEIGHT: i32 = 220;

/// A colour on light pages and its likeness on dark ones.
struct Tone {
    light: RGBColor,
    dark: &'static str,
}

const SURFACE: Tone = Tone { light: RGBColor(0xff, 0xff, 0xff), dark: "#0D1117" };
const INK: Tone = Tone { light: RGBColor(0x1f, 0x23, 0x28), dark: "#E6EDF3" };
const MUTED: Tone = Tone { light: RGBColor(0x59, 0x63, 0x6e), dark: "#9198A1" };
const GRID: Tone = Tone { light: RGBColor(0xd1, 0xd9, 0xe0), dark: "#3D444D" };
const OURS: Tone = Tone { light: RGBColor(0x09, 0x69, 0xda), dark: "#4493F8" };
const SECOND: Tone = Tone { light: RGBColor(0xbc, 0x4c, 0x00), dark: "#DB6D28" };
const OTHERS: Tone = Tone { light: RGBColor(0xaf, 0xb8, 0xc1), dark: "#57606A" };
const TONES: [&Tone; 7] = [&SURFACE, &INK, &MUTED, &GRID, &OURS, &SECOND, &OTHERS];

/// A bar.
pub(super) struct Bar {
    pub(super) name: String,
    pub(super) spread: Spread,
    /// What stands at its end.
    pub(super) text: String,
    /// Whether it is the one that is looked for.
    pub(super) ours: bool,
}

/// A line over sizes.
pub(super) struct Line {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

/// A part of a chart.
pub(super) enum Panel {
    /// Bars from zero.
    Bars(&'static str, Vec<Bar>),
    /// At most two lines from zero, over a logarithmic axis.
    Lines(&'static str, Vec<Line>),
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

impl Panel {
    fn height(&self) -> i32 {
        match self {
            Self::Bars(_, bars) => TITLE + BAR * i32::try_from(bars.len()).unwrap_or(0) + MARGIN,
            Self::Lines(..) => LINES_HEIGHT + MARGIN,
        }
    }
}

/// The text of an SVG file.
pub(super) fn draw(title: &str, subtitle: &str, panels: &[Panel]) -> anyhow::Result<String> {
    let rows: Vec<&[Panel]> = panels.chunks(COLUMNS as usize).collect();
    let row_height = |row: &[Panel]| row.iter().map(Panel::height).max().unwrap_or(0);
    let height = HEADER + rows.iter().map(|row| row_height(row)).sum::<i32>();
    let mut text = String::new();
    {
        let size = (WIDTH.unsigned_abs(), height.unsigned_abs());
        let area = SVGBackend::with_string(&mut text, size).into_drawing_area();
        let drawn = draw_all(&area, title, subtitle, &rows, &row_height)
            .and_then(|()| area.present().map_err(|error| anyhow!("{error}")));
        drawn.context("cannot draw the chart")?;
    }
    Ok(text.replacen('>', &format!(">\n{}", style()), 1))
}

fn draw_all(
    area: &Area,
    title: &str,
    subtitle: &str,
    rows: &[&[Panel]],
    row_height: &dyn Fn(&[Panel]) -> i32,
) -> anyhow::Result<()> {
    area.fill(&SURFACE.light).map_err(|error| anyhow!("{error}"))?;
    write(area, title, (MARGIN, 20), 17, &INK, HPos::Left)?;
    write(area, subtitle, (MARGIN, 41), 12, &MUTED, HPos::Left)?;
    let width = (WIDTH - MARGIN * (COLUMNS + 1)) / COLUMNS;
    let mut y = HEADER;
    for row in rows {
        for (column, panel) in (0..).zip(row.iter()) {
            let x = MARGIN + column * (width + MARGIN);
            match panel {
                Panel::Bars(title, bars) => draw_bars(area, title, bars, (x, y), width)?,
                Panel::Lines(title, lines) => draw_lines(area, title, lines, (x, y), width)?,
            }
        }
        y += row_height(row);
    }
    Ok(())
}

fn draw_bars(area: &Area, title: &str, bars: &[Bar], (x, y): (i32, i32), width: i32) -> anyhow::Result<()> {
    write(area, title, (x, y + 12), 13, &INK, HPos::Left)?;
    let longest = bars.iter().map(|bar| bar.spread.max).fold(f64::MIN_POSITIVE, f64::max);
    let (left, room) = (x + LABELS, width - LABELS - VALUES);
    let at = |value: f64| left + pixels(value / longest, room);
    for (place, bar) in (0..).zip(bars) {
        let middle = y + TITLE + BAR * place + BAR / 2 - 4;
        let tone = if bar.ours { &OURS } else { &OTHERS };
        write(area, &bar.name, (left - 8, middle), 12, if bar.ours { &INK } else { &MUTED }, HPos::Right)?;
        let ends = [(left, middle - 7), (at(bar.spread.median).max(left + 1), middle + 7)];
        paint(area, &Rectangle::new(ends, tone.light.filled()))?;
        let whisker = [(at(bar.spread.min), middle), (at(bar.spread.max), middle)];
        paint(area, &PathElement::new(whisker, INK.light.stroke_width(1)))?;
        let beside = at(bar.spread.max).max(at(bar.spread.median)) + 7;
        write(area, &bar.text, (beside, middle), 12, &INK, HPos::Left)?;
    }
    Ok(())
}

fn draw_lines(
    area: &Area,
    title: &str,
    lines: &[Line],
    (x, y): (i32, i32),
    width: i32,
) -> anyhow::Result<()> {
    write(area, title, (x, y + 12), 13, &INK, HPos::Left)?;
    let points = || lines.iter().flat_map(|line| line.points.iter());
    let (first, last) = points()
        .fold((f64::INFINITY, f64::MIN_POSITIVE), |(low, high), (size, _)| (low.min(*size), high.max(*size)));
    let highest = round_above(points().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max));
    let (left, bottom) = (x + 48, y + LINES_HEIGHT - 24);
    let (across, up) = (width - 48 - 84, LINES_HEIGHT - 24 - TITLE);
    let span = (last / first).ln().max(f64::MIN_POSITIVE);
    let at = |(size, value): (f64, f64)| {
        (left + pixels((size / first).ln() / span, across), bottom - pixels(value / highest, up))
    };
    for quarter in 0..=2 {
        let value = highest * f64::from(quarter) / 2.0;
        let level = at((first, value)).1;
        paint(area, &PathElement::new([(left, level), (left + across, level)], GRID.light.stroke_width(1)))?;
        write(area, &short(value), (left - 6, level), 11, &MUTED, HPos::Right)?;
    }
    for (size, _) in lines.first().map_or(&[][..], |line| &line.points) {
        write(area, &grouped(*size), (at((*size, 0.0)).0, bottom + 13), 11, &MUTED, HPos::Center)?;
    }
    for (line, tone) in lines.iter().zip([&OURS, &SECOND]) {
        let path: Vec<(i32, i32)> = line.points.iter().map(|point| at(*point)).collect();
        paint(area, &PathElement::new(path.clone(), tone.light.stroke_width(2)))?;
        for point in &path {
            paint(area, &Circle::new(*point, 3, tone.light.filled()))?;
        }
        if let (Some(end), Some((_, value))) = (path.last(), line.points.last()) {
            let label =
                if line.name.is_empty() { short(*value) } else { format!("{} {}", line.name, short(*value)) };
            write(area, &label, (end.0 + 8, end.1), 12, &INK, HPos::Left)?;
        }
    }
    Ok(())
}

/// The next number that begins with 1, 2, 4 or 6: its half is short as well.
fn round_above(value: f64) -> f64 {
    let decade = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 4.0, 6.0, 10.0]
        .map(|step| step * decade)
        .into_iter()
        .find(|step| *step >= value)
        .unwrap_or(value)
}

#[expect(clippy::cast_possible_truncation, reason = "a part of a few hundred pixels")]
fn pixels(part: f64, room: i32) -> i32 {
    (part.clamp(0.0, 1.0) * f64::from(room)).round() as i32
}

/// Two digits that mean something.
pub(super) fn short(value: f64) -> String {
    match value {
        0.0 => "0".into(),
        value if value >= 1000.0 => grouped(value),
        value if value >= 10.0 => format!("{value:.0}"),
        value if value >= 1.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// A whole number, its thousands apart.
pub(super) fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

fn write(
    area: &Area,
    text: &str,
    at: (i32, i32),
    size: u32,
    tone: &Tone,
    anchor: HPos,
) -> anyhow::Result<()> {
    let style = ("sans-serif", size).into_font().color(&tone.light).pos(Pos::new(anchor, VPos::Center));
    paint(area, &Text::new(text.to_owned(), at, style))
}

fn paint<'a, 'e, E>(area: &Area<'a>, element: &'e E) -> anyhow::Result<()>
where
    &'e E: PointCollection<'e, (i32, i32)>,
    E: Drawable<SVGBackend<'a>>,
{
    area.draw(element).map_err(|error| anyhow!("{error}"))
}

/// A style sheet wins over the colours in the elements: on dark pages it gives each its likeness.
fn style() -> String {
    let rules: Vec<String> = TONES
        .iter()
        .map(|tone| {
            let RGBColor(red, green, blue) = tone.light;
            let light = format!("#{red:02X}{green:02X}{blue:02X}");
            let dark = tone.dark;
            format!("[fill=\"{light}\"]{{fill:{dark}}}[stroke=\"{light}\"]{{stroke:{dark}}}")
        })
        .collect();
    format!("<style>@media (prefers-color-scheme: dark) {{{}}}</style>", rules.join(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_has_every_text_and_a_dark_likeness_of_every_colour() {
        let spread = Spread { median: 2.0, min: 1.0, max: 3.0 };
        let bar = Bar { name: "Segue".into(), spread, text: "2 000/s".into(), ours: true };
        let line = Line { name: "random".into(), points: vec![(100.0, 1.0), (100_000.0, 4.0)] };
        let panels = [Panel::Bars("bars", vec![bar]), Panel::Lines("lines", vec![line])];
        let text = draw("title", "sub", &panels).unwrap();
        for wanted in ["title", "sub", "bars", "lines", "Segue", "2 000/s", "random 4.0", "100 000", "</svg>"]
        {
            assert!(text.contains(wanted), "no {wanted} in {text}");
        }
        let colours = text.split("ll=\"#").skip(1).map(|rest| &rest[..6]);
        for colour in colours {
            assert!(text.contains(&format!("[fill=\"#{colour}\"]")), "{colour} stays as it is on dark pages");
        }
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.0, 0.123, 1.26, 23.4, 12_345.0].map(short), ["0", "0.12", "1.3", "23", "12 345"]);
        assert_eq!(grouped(100_000.0), "100 000");
        assert_eq!([1_507.0, 0.3, 4.0, 73.0].map(round_above).map(short), ["2 000", "0.40", "4.0", "100"]);
    }
}
