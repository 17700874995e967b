//! One panel a table: a bar to the median, a line over the range, ours in a colour of its own.

use bench_support::samples::{Row, Spread, Table};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Panels side by side.
const COLUMNS: usize = 2;
/// Pixels of a panel, of its title, of a bar and the room beside it, and what it has for names.
const WIDTH: u32 = 560;
const TITLE: u32 = 44;
const BAR: u32 = 26;
/// The part of the width in which names stand, of that in which bars stand, and what figures need.
const NAMES: f64 = 0.24;
const FIGURES: f64 = 0.34;

const OURS: RGBColor = RGBColor(0xd9, 0x48, 0x01);
const THEIRS: RGBColor = RGBColor(0x6b, 0x8c, 0xae);
const INK: RGBColor = RGBColor(0x22, 0x22, 0x22);

/// All tables as one picture.
pub fn svg(tables: &[Table]) -> String {
    let rows: Vec<Vec<Row>> = tables.iter().map(Table::rows).collect();
    let most = rows.iter().map(Vec::len).max().unwrap_or(1) as u32;
    let height = TITLE + BAR * most;
    let lines = tables.len().div_ceil(COLUMNS).max(1);
    let mut text = String::new();
    {
        let root =
            SVGBackend::with_string(&mut text, (WIDTH * COLUMNS as u32, height * lines as u32)).into_drawing_area();
        root.fill(&WHITE).expect("a string takes everything");
        for ((area, table), rows) in root.split_evenly((lines, COLUMNS)).iter().zip(tables).zip(&rows) {
            panel(area, table, rows, most).expect("a string takes everything");
        }
        root.present().expect("a string takes everything");
    }
    text
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Drawn<'a> = Result<(), DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>>;

fn panel<'a>(area: &Area<'a>, table: &Table, rows: &[Row], lines: u32) -> Drawn<'a> {
    let main = &table.columns[0];
    let (title, bars) = area.split_vertically(TITLE);
    let style = |size: u32, h: HPos| ("sans-serif", size).into_font().color(&INK).pos(Pos::new(h, VPos::Center));
    title.draw(&Text::new(table.title.as_str(), (12, 14), style(15, HPos::Left)))?;
    title.draw(&Text::new(main.title, (12, 32), style(12, HPos::Left)))?;
    let figure = |row: &Row| row.figures[0].unwrap_or(Spread { median: 0.0, least: 0.0, most: 0.0 });
    let longest = rows.iter().map(|row| figure(row).most).fold(0.0, f64::max);
    // In pixels, so that every panel has its names and its bars at the same place.
    let left = 12.0 + f64::from(WIDTH) * NAMES;
    let scale = f64::from(WIDTH) * (1.0 - NAMES - FIGURES) / if longest > 0.0 { longest } else { 1.0 };
    let at = |value: f64| (left + value * scale) as i32;
    for (place, row) in rows.iter().take(lines as usize).enumerate() {
        let (top, bottom) = ((place as u32 * BAR) as i32 + 3, ((place as u32 + 1) * BAR) as i32 - 3);
        let middle = (top + bottom) / 2;
        let Spread { median, least, most } = figure(row);
        let color = if row.peer == "c1m" { OURS } else { THEIRS };
        bars.draw(&Text::new(row.peer, (at(0.0) - 8, middle), style(13, HPos::Right)))?;
        bars.draw(&Rectangle::new([(at(0.0), top), (at(median).max(at(0.0) + 1), bottom)], color.filled()))?;
        bars.draw(&PathElement::new(vec![(at(least), middle), (at(most), middle)], INK.stroke_width(2)))?;
        let ratio = row.ratio.map_or(String::new(), |ratio| format!("  ({:.2} ×)", ratio.median));
        let said = match main.decimals {
            0 => bench_support::compare::thousands(median),
            decimals => format!("{median:.decimals$}"),
        };
        bars.draw(&Text::new(said + &ratio, (at(most.max(median)) + 8, middle), style(12, HPos::Left)))?;
    }
    Ok(())
}
