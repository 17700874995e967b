//! One chart as inline SVG, drawn by plotters. Its colours are roles: each role has a colour of its own
//! in the drawing, and the page's style says what that looks like in light, in dark and on paper.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axis::Axis;
use crate::error::{Error, Result};

/// Units of the drawing for each pixel it is meant to be shown with: plotters rounds to whole units.
const FINE: i32 = 4;

/// Width of a chart in pixels.
const WIDTH: i32 = 820;

/// Its height.
const HEIGHT: i32 = 300;

/// Room for the marks beside it, at the least.
const BESIDE: i32 = 84;

/// Size of its letters in pixels, and how much of that a letter is wide on average.
const LETTERS: i32 = 13;
const LETTER_WIDTH: f64 = 0.56;

/// plotters writes letters smaller than they were asked for by this much.
const FONT_SCALE: f64 = 1.24;

/// Series that have colours of their own.
pub const SERIES: usize = 6;

/// What a colour is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// The line of all together.
    All,
    /// Words.
    Words,
    /// Axes and marks.
    Rule,
    /// The ground of every other phase.
    Band,
    /// What failed.
    Bad,
    /// One of many, of which none matters alone.
    Each,
    /// A series, by its number.
    Series(usize),
}

impl Ink {
    /// All of them.
    pub fn every() -> impl Iterator<Item = Ink> {
        let fixed = [Ink::All, Ink::Words, Ink::Rule, Ink::Band, Ink::Bad, Ink::Each];
        fixed.into_iter().chain((0..SERIES).map(Ink::Series))
    }

    /// The name of its colour in the style.
    pub fn name(self) -> String {
        match self {
            Ink::All => "all".to_owned(),
            Ink::Words => "words".to_owned(),
            Ink::Rule => "rule".to_owned(),
            Ink::Band => "band".to_owned(),
            Ink::Bad => "bad".to_owned(),
            Ink::Each => "each".to_owned(),
            Ink::Series(number) => format!("series-{}", number % SERIES),
        }
    }

    /// Its colour in the drawing, which no other role has.
    fn colour(self) -> RGBColor {
        let number = match self {
            Ink::All => 1,
            Ink::Words => 2,
            Ink::Rule => 3,
            Ink::Band => 4,
            Ink::Bad => 5,
            Ink::Each => 6,
            Ink::Series(number) => 16 + (number % SERIES) as u8,
        };
        RGBColor(number, 0, 0)
    }

    /// The rule that gives the drawing's colour its looks.
    pub fn style(self) -> String {
        let (RGBColor(red, ..), name) = (self.colour(), self.name());
        let drawn = format!("#{red:02X}0000");
        format!("svg [fill=\"{drawn}\"]{{fill:var(--{name})}}svg [stroke=\"{drawn}\"]{{stroke:var(--{name})}}\n")
    }
}

/// A line through points; a step where it says so.
#[derive(Debug, Clone)]
pub struct Line {
    /// Its colour.
    pub ink: Ink,
    /// Its width in pixels.
    pub width: f64,
    /// Where it goes.
    pub points: Vec<(f64, f64)>,
}

/// A stretch of time with a name.
#[derive(Debug, Clone)]
pub struct Band {
    /// Its name.
    pub name: String,
    /// Its begin.
    pub start: f64,
    /// Its end.
    pub end: f64,
}

/// A filled field.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Its corners.
    pub corners: [(f64, f64); 2],
    /// How much it is filled, up to 1.
    pub share: f64,
}

/// What stands in a chart.
#[derive(Debug, Clone)]
pub struct Chart {
    /// From left to right.
    pub x: Axis,
    /// From below.
    pub y: Axis,
    /// Behind everything.
    pub bands: Vec<Band>,
    /// Behind the lines.
    pub cells: Vec<Cell>,
    /// The last one is on top.
    pub lines: Vec<Line>,
}

/// An axis as plotters takes it: marked where we say, and nowhere else.
struct Scale(Axis);

impl Ranged for Scale {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        let share = (value - self.0.low) / (self.0.high - self.0.low);
        first + (share * f64::from(last - first)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // There are no marks between marks.
        let wanted = !hint.weight().allow_light_points();
        self.0.marks.iter().filter(|_| wanted).map(|(at, _)| *at).collect()
    }

    fn range(&self) -> Range<f64> {
        self.0.low..self.0.high
    }
}

type Coordinates = Cartesian2d<Scale, Scale>;
type Context<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Coordinates>;
type Failed = DrawingAreaErrorKind<std::io::Error>;

impl Chart {
    /// A chart without anything in it.
    pub fn new(x: Axis, y: Axis) -> Chart {
        Chart { x, y, bands: Vec::new(), cells: Vec::new(), lines: Vec::new() }
    }

    /// The drawing.
    pub fn svg(&self) -> Result<String> {
        let mut svg = String::new();
        let size = ((WIDTH * FINE) as u32, (HEIGHT * FINE) as u32);
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        self.draw(&area).map_err(|e| Error::bug(format!("drawing a chart: {e}")))?;
        drop(area);
        Ok(svg)
    }

    fn draw(&self, area: &DrawingArea<SVGBackend, Shift>) -> std::result::Result<(), Failed> {
        let longest = self.y.marks.iter().map(|(_, words)| words.chars().count()).max().unwrap_or(0);
        let beside = (longest as f64 * f64::from(LETTERS) * LETTER_WIDTH) as i32 + 16;
        // Charts that stand one below the other begin at the same place, if their numbers are not too long.
        let beside = beside.max(BESIDE);
        let mut chart = ChartBuilder::on(area)
            .margin_top(if self.bands.is_empty() { 10 } else { 26 } * FINE)
            .margin_right(38 * FINE)
            .margin_bottom(2 * FINE)
            .x_label_area_size(26 * FINE)
            .y_label_area_size(beside * FINE)
            .build_cartesian_2d(Scale(self.x.clone()), Scale(self.y.clone()))?;
        self.draw_bands(&mut chart)?;
        self.draw_axes(&mut chart)?;
        self.draw_cells(&mut chart)?;
        for line in &self.lines {
            let style = ShapeStyle::from(line.ink.colour()).stroke_width((line.width * f64::from(FINE)) as u32);
            chart.draw_series(LineSeries::new(line.points.iter().copied(), style))?;
        }
        self.name_bands(area, &chart)?;
        area.present()
    }

    fn draw_bands(&self, chart: &mut Context) -> std::result::Result<(), Failed> {
        let every_other = self.bands.iter().skip(1).step_by(2);
        let fields = every_other.map(|band| {
            let corners = [(band.start, self.y.low), (band.end.min(self.x.high), self.y.high)];
            Rectangle::new(corners, Ink::Band.colour().filled())
        });
        chart.draw_series(fields)?;
        let rule = ShapeStyle::from(Ink::Rule.colour()).stroke_width(FINE as u32);
        let begins = |band: &Band| PathElement::new(vec![(band.start, self.y.low), (band.start, self.y.high)], rule);
        chart.draw_series(self.bands.iter().map(begins)).map(drop)
    }

    fn draw_axes(&self, chart: &mut Context) -> std::result::Result<(), Failed> {
        let rule = ShapeStyle::from(Ink::Rule.colour()).stroke_width(FINE as u32);
        let letters = (f64::from(LETTERS * FINE) * FONT_SCALE) as i32;
        let words = ("sans-serif", letters).into_font().color(&Ink::Words.colour());
        chart
            .configure_mesh()
            .disable_x_mesh()
            .axis_style(rule)
            .bold_line_style(rule)
            .label_style(words)
            .set_all_tick_mark_size(4 * FINE)
            .x_label_formatter(&|at| self.x.words(*at))
            .y_label_formatter(&|at| self.y.words(*at))
            .draw()
    }

    fn draw_cells(&self, chart: &mut Context) -> std::result::Result<(), Failed> {
        let fields = self.cells.iter().map(|cell| {
            // Two digits tell as much as an eye sees.
            let share = (cell.share.clamp(0.0, 1.0) * 100.0).round() / 100.0;
            Rectangle::new(cell.corners, Ink::Series(0).colour().mix(share).filled())
        });
        chart.draw_series(fields).map(drop)
    }

    /// The names of bands stand above the chart, where they have room.
    fn name_bands(&self, area: &DrawingArea<SVGBackend, Shift>, chart: &Context) -> std::result::Result<(), Failed> {
        let letters = (f64::from((LETTERS - 1) * FINE) * FONT_SCALE) as i32;
        let style =
            ("sans-serif", letters).into_font().color(&Ink::Words.colour()).pos(Pos::new(HPos::Left, VPos::Bottom));
        let mut free = i32::MIN;
        for band in &self.bands {
            let (left, top) = chart.backend_coord(&(band.start, self.y.high));
            let (right, _) = chart.backend_coord(&(band.end.min(self.x.high), self.y.high));
            let rule = ShapeStyle::from(Ink::Rule.colour()).stroke_width(FINE as u32);
            area.draw(&PathElement::new(vec![(left, top - 6 * FINE), (left, top)], rule))?;
            let width = (band.name.chars().count() as f64 * f64::from(LETTERS * FINE) * LETTER_WIDTH) as i32;
            let begins = left + 4 * FINE;
            if begins >= free && begins + width <= right {
                area.draw(&Text::new(band.name.clone(), (begins, top - 2 * FINE), style.clone()))?;
                free = begins + width;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_two_roles_share_a_colour() {
        let colours: BTreeSet<_> = Ink::every().map(|ink| ink.colour().0).collect();
        assert_eq!(colours.len(), Ink::every().count());
    }

    #[test]
    fn names_are_never_markup() {
        let mut chart = Chart::new(Axis::time(10.0), Axis::counts(10.0));
        chart.bands.push(Band { name: "<b>".to_owned(), start: 0.0, end: 10.0 });
        chart.lines.push(Line { ink: Ink::All, width: 2.0, points: vec![(0.0, 0.0), (10.0, 10.0)] });
        let svg = chart.svg().unwrap();
        assert!(svg.contains("&lt;b&gt;") && !svg.contains("<b>"), "{svg}");
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
    }
}
