//! The page of interval logs.

use maud::{Markup, html};

use super::page::whole;
use super::{figures, tables};
use crate::error::Result;
use crate::latency::log::Measure;
use crate::results::logs::LogsDocument;

/// A section for each measure.
pub fn page(document: &LogsDocument) -> Result<String> {
    let sections = Measure::ALL.map(|measure| section(document, measure)).into_iter().collect::<Result<Vec<_>>>()?;
    let title = format!("latencies of {} interval logs", document.machines.len());
    let body = html! {
        header { h1 { (title) } }
        main { @for section in sections { (section) } }
    };
    Ok(whole(&title, &body))
}

fn section(document: &LogsDocument, measure: Measure) -> Result<Markup> {
    let rows = document.rows(measure);
    let mut each = rows.clone();
    let all = each.pop();
    let each = if each.len() > 1 { each } else { Vec::new() };
    let drawn = figures::percentiles(measure.title(), "All intervals and shards together.", each, all)?;
    Ok(html! { @if let Some(drawn) = drawn { section { (drawn) (tables::percentiles("machine", rows.into_iter())) } } })
}
