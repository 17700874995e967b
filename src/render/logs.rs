//! Interval logs as text.

use super::text;
use crate::latency::log::Measure;
use crate::results::logs::LogsDocument;

/// A table for each measure.
pub fn text(document: &LogsDocument) -> String {
    let mut out = String::new();
    for measure in Measure::ALL {
        text::table(&mut out, measure.title(), "machine", document.rows(measure));
    }
    out
}
