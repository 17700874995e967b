//! A run as one page of HTML that needs nothing else: no network, no script. Light and dark as the
//! reader's system is, and fit for paper.
//!
//! ```text
//!  page  logs          a run; interval logs
//!  figures ── tables   what each chart shows; everything without a chart
//!  series              what is drawn over time: shards, machines, all
//!  chart ── axis       one drawing; its marks
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

/// What a page tells of.
#[derive(Debug, Clone, Copy)]
pub struct Run<'a> {
    /// The client's result, or that of several.
    pub client: &'a ClientDocument,
    /// The server's, where it is known.
    pub server: Option<&'a ServerDocument>,
    /// What else is known of the run, by name.
    pub notes: &'a [(String, String)],
}

/// The page of a run. An error only if a histogram of a document is none.
pub fn page(run: &Run) -> Result<String> {
    page::page(run)
}

/// The page of what interval logs hold: latencies, and nothing else.
pub fn logs(document: &LogsDocument) -> Result<String> {
    logs::page(document)
}
