//! The changes between two results, as text.

use std::fmt::Write;

use crate::format::{Escaped, bytes, count, time};
use crate::results::compare::{Change, Figure, Unit};

/// A table of changes, and remarks. Writing to a String cannot fail, so the results of `writeln!` are dropped.
pub fn text(changes: &[Change], remarks: &[String]) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{:>20}  {:>26}  {:>26}  {:>6}", "", "before", "after", "ratio");
    for change in changes {
        let ratio = change.ratio.map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        let [before, after] = [&change.before, &change.after].map(|figure| words(figure, change.unit));
        let _ = write!(out, "{:>20}  {before:>26}  {after:>26}  {ratio:>6}", change.figure);
        if let (Some((least, most)), Some(beyond)) = (change.ratio_range, change.is_beyond_range()) {
            let verdict = if beyond { "beyond the range" } else { "within the range" };
            let _ = write!(out, "  ({least:.2} to {most:.2}, {verdict})");
        }
        let _ = writeln!(out);
    }
    let _ = writeln!(out, "ranges are over the shards of each result, or over its machines");
    for remark in remarks {
        let _ = writeln!(out, "{}", Escaped(remark));
    }
    out
}

fn words(figure: &Figure, unit: Unit) -> String {
    let value = quantity(unit, figure.value);
    match figure.range {
        Some((least, most)) => format!("{value} ({} to {})", quantity(unit, least), quantity(unit, most)),
        None => value,
    }
}

fn quantity(unit: Unit, value: f64) -> String {
    match unit {
        Unit::Count => count(value as u64),
        Unit::Seconds => format!("{value:.2} s"),
        Unit::Microseconds => time(value as u64),
        Unit::Bytes => bytes(value as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_without_a_ratio_shows_a_dash() {
        let figure = |value| Figure { value, range: Some((value, value)) };
        let (before, after) = (figure(0.0), figure(5.0));
        let change =
            Change { figure: "it".to_owned(), unit: Unit::Count, before, after, ratio: None, ratio_range: None };
        assert!(text(&[change], &[]).contains("  -\n"));
    }
}
