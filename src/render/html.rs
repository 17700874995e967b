//! A run as one page of HTML that needs no network and no script. It is light or dark as the reader's system is,
//! and can be printed.
//!
//! ```text
//!  page  logs          a run; interval logs
//!  figures ── tables   each chart and its caption; results without a chart
//!  series              values over time: shards, machines, all together
//!  chart ── axis       one drawing; its axes
//! ```

mod axis;
mod chart;
mod figures;
mod logs;
mod page;
mod series;
mod tables;

use crate::error::Result;
use crate::results::document::{ClientDocument, ServerDocument};
use crate::results::logs::LogsDocument;

/// The content of a page.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// The client's result, or the merged result of several.
    pub client: &'a ClientDocument,
    /// The server's result, if it is known.
    pub server: Option<&'a ServerDocument>,
    /// Further facts about the run, each with its name.
    pub notes: &'a [(String, String)],
}

/// The page of a run. Returns an error only if a histogram in the document cannot be read.
pub fn page(run: &Run) -> Result<String> {
    page::page(run)
}

/// The page of interval logs, which hold latencies alone.
pub fn logs(document: &LogsDocument) -> Result<String> {
    logs::page(document)
}
