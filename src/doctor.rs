//! The doctor judges whether a host fits a goal, wall by wall. It reads, and writes nothing.

use crate::host::Host;
use crate::plan::Goal;
use crate::results::doctor::{Advice, Page, Row};
use crate::walls::{SLEEP, WALLS};

/// Judges whether a host fits a goal.
pub fn examine(host: &Host, goal: &Goal) -> Page {
    let row = |wall: &crate::walls::Wall| {
        let finding = wall.judge(host, goal);
        let advice = |fix: &crate::walls::Fix| Advice { command: fix.command(), may_apply: fix.may(host) };
        Row {
            wall: wall.name,
            verdict: finding.verdict,
            fixes: finding.fixes.iter().map(advice).collect(),
            have: finding.have,
            need: finding.need,
            holds: finding.holds,
        }
    };
    let sleep = goal.awake.map(|_| &SLEEP);
    Page::new(goal, WALLS.iter().chain(sleep).map(row).collect())
}
