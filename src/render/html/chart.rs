//! One chart as inline SVG, drawn by plotters. The drawing gives each role a colour of its own, and the page's
//! style maps that colour to one for light screens, dark screens and paper.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::axis::Axis;
use crate::error::{Error, Result};

/// Units of the drawing for each pixel. plotters rounds to whole units, so they must be small.
const UNITS_PER_PIXEL: i32 = 4;

/// Width of a chart in pixels.
const WIDTH: i32 = 820;

/// Height of a chart in pixels.
const HEIGHT: i32 = 300;

/// The least room for the marks to the left of a chart, in pixels.
const LEFT_MARGIN: i32 = 84;

/// Size of letters in pixels, and the average width of a letter as a share of that.
const LETTERS: i32 = 13;
const LETTER_WIDTH: f64 = 0.56;

/// plotters draws letters smaller than the requested size by this factor.
const FONT_SCALE: f64 = 1.24;

/// Number of series with a colour of their own.
pub const SERIES: usize = 6;

/// The role of a colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ink {
    /// The line of all sources together.
    All,
    /// Text.
    Words,
    /// Axes and marks.
    Rule,
    /// The background of every other phase.
    Band,
    /// Failures.
    Bad,
    /// One of many lines, too many for colours of their own.
    Each,
    /// A series, by its number.
    Series(usize),
}

impl Ink {
    /// All roles.
    pub fn every() -> impl Iterator<Item = Ink> {
        let fixed = [Ink::All, Ink::Words, Ink::Rule, Ink::Band, Ink::Bad, Ink::Each];
        fixed.into_iter().chain((0..SERIES).map(Ink::Series))
    }

    /// The name of the role's colour in the page's style.
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

    /// The role's colour in the drawing, which no other role has.
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

    /// The rule of style that maps the drawing's colour to the page's.
    pub fn style(self) -> String {
        let (RGBColor(red, ..), name) = (self.colour(), self.name());
        let drawn = format!("#{red:02X}0000");
        format!("svg [fill=\"{drawn}\"]{{fill:var(--{name})}}svg [stroke=\"{drawn}\"]{{stroke:var(--{name})}}\n")
    }
}

/// A line through points. Two points with one x make a step.
#[derive(Debug, Clone)]
pub struct Line {
    /// The line's colour.
    pub ink: Ink,
    /// The line's width in pixels.
    pub width: f64,
    /// The points of the line.
    pub points: Vec<(f64, f64)>,
}

/// A stretch of time with a name.
#[derive(Debug, Clone)]
pub struct Band {
    /// The name.
    pub name: String,
    /// The start, as a value of the x axis.
    pub start: f64,
    /// The end, as a value of the x axis.
    pub end: f64,
}

/// A filled rectangle.
#[derive(Debug, Clone)]
pub struct Cell {
    /// Two opposite corners.
    pub corners: [(f64, f64); 2],
    /// The strength of the fill, from 0 to 1.
    pub share: f64,
}

/// The contents of a chart.
#[derive(Debug, Clone)]
pub struct Chart {
    /// The x axis, from left to right.
    pub x: Axis,
    /// The y axis, from below.
    pub y: Axis,
    /// The bands, behind everything else.
    pub bands: Vec<Band>,
    /// The cells, behind the lines.
    pub cells: Vec<Cell>,
    /// The lines; the last one is on top.
    pub lines: Vec<Line>,
}

/// An axis for plotters, which draws its marks and no others.
struct Scale(Axis);

impl Ranged for Scale {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    /// A value beyond the axis is drawn at its end. A file may tell of phases that no drawing reaches.
    fn map(&self, value: &f64, (first, last): (i32, i32)) -> i32 {
        let share = ((value - self.0.low) / (self.0.high - self.0.low)).clamp(0.0, 1.0);
        first + (share * f64::from(last - first)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        // plotters may ask for minor marks too; there are none.
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
    /// An empty chart.
    pub fn new(x: Axis, y: Axis) -> Chart {
        Chart { x, y, bands: Vec::new(), cells: Vec::new(), lines: Vec::new() }
    }

    /// The drawing as SVG.
    pub fn svg(&self) -> Result<String> {
        let mut svg = String::new();
        let size = ((WIDTH * UNITS_PER_PIXEL) as u32, (HEIGHT * UNITS_PER_PIXEL) as u32);
        let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        self.draw(&area).map_err(|e| Error::bug(format!("drawing a chart: {e}")))?;
        drop(area);
        Ok(svg)
    }

    fn draw(&self, area: &DrawingArea<SVGBackend, Shift>) -> std::result::Result<(), Failed> {
        let longest = self.y.marks.iter().map(|(_, words)| words.chars().count()).max().unwrap_or(0);
        let beside = (longest as f64 * f64::from(LETTERS) * LETTER_WIDTH) as i32 + 16;
        // Charts one below the other begin at the same x position, unless their numbers are too long.
        let beside = beside.max(LEFT_MARGIN);
        let mut chart = ChartBuilder::on(area)
            .margin_top(if self.bands.is_empty() { 10 } else { 26 } * UNITS_PER_PIXEL)
            .margin_right(38 * UNITS_PER_PIXEL)
            .margin_bottom(2 * UNITS_PER_PIXEL)
            .x_label_area_size(26 * UNITS_PER_PIXEL)
            .y_label_area_size(beside * UNITS_PER_PIXEL)
            .build_cartesian_2d(Scale(self.x.clone()), Scale(self.y.clone()))?;
        self.draw_bands(&mut chart)?;
        self.draw_axes(&mut chart)?;
        self.draw_cells(&mut chart)?;
        for line in &self.lines {
            let style =
                ShapeStyle::from(line.ink.colour()).stroke_width((line.width * f64::from(UNITS_PER_PIXEL)) as u32);
            chart.draw_series(LineSeries::new(line.points.iter().copied(), style))?;
        }
        self.name_bands(area, &chart)?;
        area.present()
    }

    fn draw_bands(&self, chart: &mut Context) -> std::result::Result<(), Failed> {
        let every_other = self.bands.iter().skip(1).step_by(2);
        let fields = every_other.map(|band| {
            let corners = [(band.start, self.y.low), (band.end, self.y.high)];
            Rectangle::new(corners, Ink::Band.colour().filled())
        });
        chart.draw_series(fields)?;
        let rule = ShapeStyle::from(Ink::Rule.colour()).stroke_width(UNITS_PER_PIXEL as u32);
        let begins = |band: &Band| PathElement::new(vec![(band.start, self.y.low), (band.start, self.y.high)], rule);
        chart.draw_series(self.bands.iter().map(begins)).map(drop)
    }

    fn draw_axes(&self, chart: &mut Context) -> std::result::Result<(), Failed> {
        let rule = ShapeStyle::from(Ink::Rule.colour()).stroke_width(UNITS_PER_PIXEL as u32);
        let letters = (f64::from(LETTERS * UNITS_PER_PIXEL) * FONT_SCALE) as i32;
        let words = ("sans-serif", letters).into_font().color(&Ink::Words.colour());
        chart
            .configure_mesh()
            .disable_x_mesh()
            .axis_style(rule)
            .bold_line_style(rule)
            .label_style(words)
            .set_all_tick_mark_size(4 * UNITS_PER_PIXEL)
            .x_label_formatter(&|at| self.x.words(*at))
            .y_label_formatter(&|at| self.y.words(*at))
            .draw()
    }

    fn draw_cells(&self, chart: &mut Context) -> std::result::Result<(), Failed> {
        let fields = self.cells.iter().map(|cell| {
            // The eye cannot tell more than 100 shades apart.
            let share = (cell.share.clamp(0.0, 1.0) * 100.0).round() / 100.0;
            Rectangle::new(cell.corners, Ink::Series(0).colour().mix(share).filled())
        });
        chart.draw_series(fields).map(drop)
    }

    /// Writes the names of bands above the chart, where there is room.
    fn name_bands(&self, area: &DrawingArea<SVGBackend, Shift>, chart: &Context) -> std::result::Result<(), Failed> {
        let letters = (f64::from((LETTERS - 1) * UNITS_PER_PIXEL) * FONT_SCALE) as i32;
        let style =
            ("sans-serif", letters).into_font().color(&Ink::Words.colour()).pos(Pos::new(HPos::Left, VPos::Bottom));
        let mut free = i32::MIN;
        for band in &self.bands {
            let (left, top) = chart.backend_coord(&(band.start, self.y.high));
            let (right, _) = chart.backend_coord(&(band.end, self.y.high));
            let rule = ShapeStyle::from(Ink::Rule.colour()).stroke_width(UNITS_PER_PIXEL as u32);
            area.draw(&PathElement::new(vec![(left, top - 6 * UNITS_PER_PIXEL), (left, top)], rule))?;
            let width = (band.name.chars().count() as f64 * f64::from(LETTERS * UNITS_PER_PIXEL) * LETTER_WIDTH) as i32;
            let begins = left + 4 * UNITS_PER_PIXEL;
            if begins >= free && begins + width <= right {
                area.draw(&Text::new(band.name.clone(), (begins, top - 2 * UNITS_PER_PIXEL), style.clone()))?;
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
    fn what_lies_far_beyond_an_axis_is_drawn_at_its_end() {
        let mut chart = Chart::new(Axis::time(10.0), Axis::counts(10.0));
        chart.bands.push(Band { name: "late".to_owned(), start: 9e8, end: 1e9 });
        chart.lines.push(Line { ink: Ink::All, width: 2.0, points: vec![(-1e300, 0.0), (1e300, f64::NAN)] });
        assert!(chart.svg().unwrap().trim_end().ends_with("</svg>"));
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
