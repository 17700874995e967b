//! The first thing that a reader asks of a comparison, as one table: from the JSON that a run of `benches/peers/run`
//! writes.

use serde_json::Value;

use crate::compare::thousands;
use crate::samples::Spread;

/// A question, and the figure that answers it.
struct Question {
    /// In words; `{n}` is the number of connections of the table that answers it.
    words: &'static str,
    /// How the title of that table begins and ends.
    title: (&'static str, &'static str),
    /// Its columns by their keys; their sum is the figure.
    keys: &'static [&'static str],
    unit: &'static str,
    decimals: usize,
    better: Better,
}

#[derive(Clone, Copy, PartialEq)]
enum Better {
    Lower,
    Higher,
}

/// One for each measure.
const QUESTIONS: [Question; 5] = [
    Question {
        words: "How much memory does an idle connection take, in the kernel and in the server?",
        title: ("", "idle connections, one core"),
        keys: &["user", "kernel"],
        unit: " B",
        decimals: 0,
        better: Better::Lower,
    },
    Question {
        words: "How many connections a second does one core accept?",
        title: ("Ramp of ", "server on one core, client on the other"),
        keys: &["ours"],
        unit: "",
        decimals: 0,
        better: Better::Higher,
    },
    Question {
        words: "How much processor time does an echo take, with {n} active connections?",
        title: ("Closed loop, 10,000 active", "server on one core, client on the other"),
        keys: &["cpu"],
        unit: " µs",
        decimals: 2,
        better: Better::Lower,
    },
    Question {
        words: "How long do the slowest of 100 echoes take (p99), 20,000 a second over {n} connections?",
        title: ("20,000 echoes/s offered, 10,000 active", ""),
        keys: &["p99"],
        unit: " ms",
        decimals: 2,
        better: Better::Lower,
    },
    Question {
        words: "How many connections does a machine of 512 MiB hold?",
        title: ("A machine of 512 MiB", ""),
        keys: &["held"],
        unit: "",
        decimals: 0,
        better: Better::Higher,
    },
];

/// The table, in Markdown: c1m and the best of the others for each question, medians with their ranges. Questions that
/// the run did not ask are left out.
pub fn table(document: &Value) -> String {
    let mut text = "| question | c1m | best of the others |\n|---|---|---|\n".to_owned();
    for question in &QUESTIONS {
        if let Some((connections, rows)) = answers(question, document)
            && let Some(ours) = rows.iter().find(|row| row["peer"] == "c1m").and_then(|row| question.cell(row))
        {
            let others = rows.iter().filter(|row| !row["peer"].as_str().is_some_and(|name| name.starts_with("c1m")));
            let cells = others.filter_map(|row| Some((row["peer"].as_str()?, question.cell(row)?)));
            let best = cells.min_by(|(_, (one, _)), (_, (other, _))| match question.better {
                Better::Lower => one.median.total_cmp(&other.median),
                Better::Higher => other.median.total_cmp(&one.median),
            });
            let best = best.map_or("nobody else ran".to_owned(), |(name, (_, cell))| format!("{name}: {cell}"));
            let words = question.words.replace("{n}", &thousands(connections));
            text.push_str(&format!("| {words} | {} | {best} |\n", ours.1));
        }
    }
    text
}

/// The rows of the table that answers a question, each with the keys of its columns beside its figures, and the
/// connections that the table was for.
fn answers(question: &Question, document: &Value) -> Option<(f64, Vec<Value>)> {
    let tables = document["report"]["tables"].as_array()?;
    let place = tables.iter().position(|table| {
        let title = table["title"].as_str().unwrap_or_default();
        title.starts_with(question.title.0) && title.ends_with(question.title.1)
    })?;
    let (table, rows) = (&tables[place], document["rows"][place].as_array()?);
    let keys: Vec<&str> = table["columns"].as_array()?.iter().filter_map(|column| column["key"].as_str()).collect();
    let named = |row: &Value| {
        let figures = row["figures"].as_array().into_iter().flatten();
        let figures: serde_json::Map<String, Value> =
            keys.iter().map(|key| (*key).to_owned()).zip(figures.cloned()).collect();
        serde_json::json!({ "peer": row["peer"], "figures": figures })
    };
    Some((table["connections"].as_f64()?, rows.iter().map(named).collect()))
}

impl Question {
    /// A row's figure, and how it is written. `None` where a part of it could not be measured.
    fn cell(&self, row: &Value) -> Option<(Spread, String)> {
        let mut sum = Spread { median: 0.0, least: 0.0, most: 0.0 };
        for key in self.keys {
            let figure = &row["figures"][key];
            sum.median += figure["median"].as_f64()?;
            sum.least += figure["least"].as_f64()?;
            sum.most += figure["most"].as_f64()?;
        }
        // A server that the kernel kills when it is full holds nothing afterwards.
        let end = match row["figures"]["alive"]["median"].as_f64() {
            Some(alive) if alive < 100.0 => ", then it is killed",
            Some(_) => ", and it lives",
            None => "",
        };
        Some((sum, sum.text(self.decimals, self.unit) + end))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/benchmarks");

    /// `C1M_BLESS=1 cargo test -p bench-support` writes the table of a new peers.json.
    #[test]
    fn the_published_table_is_that_of_the_published_run() {
        let page = format!("{FOLDER}/README.md");
        let run = fs::read_to_string(format!("{FOLDER}/peers.json")).unwrap();
        let table = table(&serde_json::from_str(&run).unwrap());
        let text = fs::read_to_string(&page).unwrap();
        let (before, rest) = text.split_once("<!-- questions -->\n").expect("the page has a place for the table");
        let (published, behind) = rest.split_once("<!-- end -->").expect("the place ends");
        if std::env::var_os("C1M_BLESS").is_some() {
            fs::write(&page, format!("{before}<!-- questions -->\n{table}<!-- end -->{behind}")).unwrap();
            return;
        }
        assert_eq!(published, table, "C1M_BLESS=1 cargo test -p bench-support writes the table anew");
    }

    #[test]
    fn the_best_of_the_others_is_named_with_its_range() {
        let spread = |median: f64| serde_json::json!({ "median": median, "least": median, "most": median + 1.0 });
        let document = serde_json::json!({
            "report": { "tables": [{
                "title": "9 idle connections, one core", "connections": 9,
                "columns": [{ "key": "user" }, { "key": "kernel" }],
            }] },
            "rows": [[
                { "peer": "c1m", "figures": [spread(1.0), spread(3000.0)] },
                { "peer": "large", "figures": [spread(900.0), spread(3000.0)] },
                { "peer": "small", "figures": [spread(0.0), spread(3500.0)] },
                { "peer": "unknown", "figures": [spread(0.0), null] },
            ]],
        });
        let line = table(&document).lines().last().unwrap().to_owned();
        assert!(line.ends_with("| 3,001 B (3,001–3,003) | small: 3,500 B (3,500–3,502) |"), "{line}");
        assert_eq!(table(&document).lines().count(), 3, "questions that were not asked are left out");
    }
}
