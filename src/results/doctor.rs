//! The doctor's page: one row for each wall, and the number of connections that the host can hold.

use serde::Serialize;

use crate::format::count;
use crate::plan::{Goal, Role};
use crate::walls::Verdict;

/// A host judged against a goal.
#[derive(Debug, Clone, Serialize)]
pub struct Page {
    /// The goal's role: `server`, `client` or `both`.
    pub role: &'static str,
    /// Connections that the goal asks for.
    pub connections: u64,
    /// Number of ports that the goal serves or connects to.
    pub ports: usize,
    rows: Vec<Row>,
    /// Connections that fit, judged by every wall that could be read.
    holds: u64,
    /// The wall that permits the fewest connections.
    decides: Option<&'static str>,
    /// Walls that could not be read.
    unread: Vec<&'static str>,
    fits: bool,
}

/// One wall.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// The wall's name.
    pub wall: &'static str,
    /// The verdict on the wall for the goal.
    pub verdict: Verdict,
    /// The value that the host has.
    pub have: String,
    /// The value that the goal needs.
    pub need: String,
    /// Connections that fit; `None` for a wall that sets no number.
    pub holds: Option<u64>,
    /// The changes that would move the wall.
    pub fixes: Vec<Advice>,
}

/// A change that would move a wall.
#[derive(Debug, Clone, Serialize)]
pub struct Advice {
    /// A command to type, or an arrangement to make.
    pub command: String,
    /// Whether this process may apply the change itself.
    pub may_apply: bool,
}

impl Page {
    /// The page with these rows.
    pub fn new(goal: &Goal, rows: Vec<Row>) -> Page {
        let counted = rows.iter().filter_map(|row| Some((row.holds?, row.wall)));
        let lowest = counted.min_by_key(|(holds, _)| *holds);
        Page {
            role: match goal.role {
                Role::Server => "server",
                Role::Client => "client",
                Role::Both => "both",
            },
            connections: goal.connections,
            ports: goal.routes.ports.count(),
            holds: lowest.map_or(0, |(holds, _)| holds),
            decides: lowest.map(|(_, wall)| wall),
            unread: rows.iter().filter(|row| row.verdict == Verdict::Unknown).map(|row| row.wall).collect(),
            fits: rows.iter().all(|row| row.verdict != Verdict::Blocks),
            rows,
        }
    }

    /// Whether no wall blocks the goal.
    pub fn fits(&self) -> bool {
        self.fits
    }

    /// Connections that fit, judged by every wall that could be read.
    pub fn holds(&self) -> u64 {
        self.holds
    }

    /// The page's rows.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The wall that permits the fewest connections.
    pub fn decisive(&self) -> Option<&Row> {
        self.rows.iter().find(|row| Some(row.wall) == self.decides)
    }

    /// A sentence that says how many connections this host can hold, and which wall decides.
    pub fn sentence(&self) -> String {
        let role = match self.role {
            "both" => "at both ends".to_owned(),
            role => format!("as {role}"),
        };
        let decides = self.decides.map(|wall| format!("; the wall that decides: {wall}")).unwrap_or_default();
        let unread = match self.unread.as_slice() {
            [] => String::new(),
            walls => format!("; not readable here, and so not counted: {}", walls.join(", ")),
        };
        format!("this host can hold {} connections {role}{decides}{unread}", count(self.holds))
    }
}
