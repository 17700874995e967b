//! The doctor's page as text.

use std::fmt::Write;

use crate::format::count;
use crate::results::doctor::Page;
use crate::walls::Verdict;

/// The page as text. Writing to a String cannot fail, so the results of `writeln!` are dropped.
pub fn text(page: &Page) -> String {
    let mut out =
        format!("c1m doctor: {} connections, role {}, {} ports\n\n", count(page.connections), page.role, page.ports);
    let margin = " ".repeat(26);
    for row in page.rows() {
        let verdict = match row.verdict {
            Verdict::Ok => "ok",
            Verdict::Tight => "tight",
            Verdict::Blocks => "BLOCKS",
            Verdict::Unknown => "unknown",
        };
        let _ = writeln!(out, "{:<16}{verdict:<10}have  {}", row.wall, row.have);
        if !row.need.is_empty() {
            let _ = writeln!(out, "{margin}need  {}", row.need);
        }
        for fix in row.fixes.iter().filter(|_| row.verdict != Verdict::Ok) {
            let by = if fix.may_apply { "this process may" } else { "not by this process" };
            let _ = writeln!(out, "{margin}fix   {}   ({by})", fix.command);
        }
    }
    let _ = writeln!(out, "\n{}", page.sentence());
    out
}
