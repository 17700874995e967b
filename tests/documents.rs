//! Holds the documents: links between them lead somewhere, what they quote is there, and README stays short.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// README's longest length, in words.
const README_WORDS: usize = 1_900;

/// Folders without documents of ours.
const ELSEWHERE: [&str; 4] = ["target", ".git", "node_modules", "corpus"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Markdown file below a folder.
fn documents(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && !ELSEWHERE.contains(&name.as_str()) {
            documents(&path, into);
        } else if name.ends_with(".md") {
            into.push(path);
        }
    }
}

/// The text without blocks and spans of code.
fn prose(text: &str) -> String {
    let outside = text.split("```").step_by(2).collect::<String>();
    outside.split('`').step_by(2).collect()
}

/// The anchors of a document's headings, as GitHub makes them: lower case, blanks as hyphens, no punctuation.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
    headings.map(|heading| heading.to_lowercase().chars().filter(kept).collect::<String>().replace(' ', "-")).collect()
}

/// Where the links of a text lead.
fn links(prose: &str) -> impl Iterator<Item = &str> {
    prose.split("](").skip(1).filter_map(|rest| rest.split(')').next())
}

#[test]
fn links_between_documents_lead_somewhere() {
    let mut paths = Vec::new();
    documents(root(), &mut paths);
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for path in &paths {
        let text = fs::read_to_string(path).unwrap();
        let prose = prose(&text);
        for target in links(&prose) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            seen += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let file = if file.is_empty() { path.clone() } else { path.parent().unwrap().join(file) };
            let found = file.exists()
                && (anchor.is_empty() || fs::read_to_string(&file).is_ok_and(|text| anchors(&text).contains(anchor)));
            if !found {
                wrong.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(seen > 40, "{seen} links in {} documents", paths.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// ARCHITECTURE.md names files and tests in code spans.
#[test]
fn what_architecture_names_is_there() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let outside = text.split("```").step_by(2).collect::<String>();
    let spans: Vec<&str> = outside.split('`').skip(1).step_by(2).collect();
    let mut sources = String::new();
    for folder in ["src", "tests"] {
        every_rust_file(&root().join(folder), &mut sources);
    }
    let missing: Vec<&&str> = spans
        .iter()
        .filter(|span| match **span {
            path if path.starts_with("src/") || path.starts_with("tests/") || path.starts_with("benches/") => {
                !root().join(path).exists()
            }
            // The name of a test: a sentence.
            name if name.matches('_').count() > 2 => !sources.contains(&format!("fn {name}(")),
            _ => false,
        })
        .collect();
    assert!(spans.len() > 80 && missing.is_empty(), "{missing:?} of {} names", spans.len());
}

/// Programs of the guides that are compiled and tested elsewhere, word by word: the guide, the file, and the first words
/// that are quoted. Tests at the end of the file are not.
const QUOTED: [(&str, &str, &str); 2] = [
    ("docs/guide/protocols.md", "src/protocol/tests/session.rs", "use super::"),
    ("docs/guide/services.md", "examples/farewell.rs", "use std::"),
];

#[test]
fn guides_quote_programs_that_are_tested() {
    for (guide, file, from) in QUOTED {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let program = text.split("#[cfg(test)]").next().unwrap();
        let program = &program[program.find(from).unwrap()..];
        let guide_text = fs::read_to_string(root().join(guide)).unwrap();
        assert!(guide_text.contains(program.trim()), "copy {file} into {guide}");
    }
}

/// The text of every Rust file below a folder.
fn every_rust_file(folder: &Path, into: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            every_rust_file(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            into.push_str(&fs::read_to_string(&path).unwrap());
        }
    }
}

/// The section of a guide below a heading.
fn section(guide: &str, heading: &str) -> String {
    let text = fs::read_to_string(root().join("docs/guide").join(guide)).unwrap();
    let found = text.split("\n## ").find(|section| section.lines().next() == Some(heading));
    found.unwrap_or_else(|| panic!("{guide} has no section {heading}")).to_owned()
}

/// What stands in the code between `before` and `after`, on each line that has both.
fn named<'a>(code: &'a str, before: &str, after: &str) -> Vec<&'a str> {
    let between = |line: &'a str| line.split_once(before)?.1.split_once(after).map(|(name, _)| name);
    code.lines().filter_map(between).collect()
}

fn is_explained(names: &[&str], text: &str, least: usize) {
    assert!(names.len() >= least, "{names:?}");
    let missing: Vec<_> = names.iter().filter(|name| !text.contains(&format!("`{name}`"))).collect();
    assert!(missing.is_empty(), "docs/guide/reports.md explains no {missing:?}");
}

/// Programs read events and results: the guide has each event, and each field of a result.
#[test]
fn the_guide_explains_every_event_and_field() {
    let mut printing = String::new();
    every_rust_file(&root().join("src/cli"), &mut printing);
    is_explained(&named(&printing, "\"event\": \"", "\""), &section("reports.md", "Events"), 10);
    is_explained(&named(&printing, "told[\"event\"] = \"", "\""), &section("reports.md", "Events"), 1);
    let code = fs::read_to_string(root().join("src/results/document.rs")).unwrap();
    let results = section("reports.md", "Results");
    for (part, field, least) in [
        ("ClientDocument", "    pub ", 30),
        ("Latencies", "    #[serde(rename = \"", 5),
        ("ServerDocument", "    pub ", 15),
    ] {
        let from = code.find(&format!("pub struct {part} {{")).unwrap();
        let body = code[from..].split("\n}").next().unwrap();
        let names = named(body, field, if part == "Latencies" { "\")]" } else { ":" });
        // The fields of these two stand in the place of one that they have.
        let names: Vec<_> = names.into_iter().filter(|name| !["latencies", "spoken"].contains(name)).collect();
        is_explained(&names, &results, least);
    }
    let spoken = fs::read_to_string(root().join("src/results/spoken.rs")).unwrap();
    let from = spoken.find("pub struct SpokenDocument {").unwrap();
    is_explained(&named(spoken[from..].split("\n}").next().unwrap(), "    pub ", ":"), &results, 3);
}

/// The guides have each metric under the name that Prometheus shows.
#[test]
fn the_guides_explain_every_metric() {
    let code = fs::read_to_string(root().join("src/metrics/families.rs")).unwrap();
    let code = code.split("#[cfg(test)]").next().unwrap();
    let shown = |name: &str, rest: &str| {
        let kind = rest.split("MetricType::").nth(1).unwrap();
        let ending = if kind.starts_with("Counter") { "_total" } else { "" };
        format!("{name}{}", if kind.starts_with("Info") { "_info" } else { ending })
    };
    let quoted = |mark: &'static str| code.split(mark).skip(1).filter_map(|rest: &str| rest.split_once('"'));
    let all: Vec<String> =
        quoted("name: \"").chain(quoted("encode_descriptor(\"")).map(|(name, rest)| shown(name, rest)).collect();
    assert!(all.len() >= 45, "{all:?}");
    let mut paths = Vec::new();
    documents(&root().join("docs/guide"), &mut paths);
    let guides: String = paths.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let is_there = |name: &String| ["`", "{"].iter().any(|end| guides.contains(&format!("`{name}{end}")));
    let missing: Vec<_> = all.iter().filter(|name| !is_there(name)).collect();
    assert!(missing.is_empty(), "no guide explains {missing:?}");
}

#[test]
fn readme_stays_short() {
    let words = fs::read_to_string(root().join("README.md")).unwrap().split_whitespace().count();
    assert!(words <= README_WORDS, "README.md has {words} words; move what only some need to docs/guide");
}

/// Each README has a link to the other one, and all other links are the same.
#[test]
fn both_readmes_lead_to_the_same_places() {
    let places = |name: &str, other: &str| -> BTreeSet<String> {
        let text = prose(&fs::read_to_string(root().join(name)).unwrap());
        links(&text).filter(|link| *link != other).map(str::to_owned).collect()
    };
    assert_eq!(places("README.md", "README.zh-CN.md"), places("README.zh-CN.md", "README.md"));
}

/// What is not prose is the same in both languages.
#[test]
fn both_readmes_show_the_same_code() {
    let blocks = |name: &str| -> Vec<String> {
        let text = fs::read_to_string(root().join(name)).unwrap();
        let blocks = text.split("```").skip(1).step_by(2);
        // Comments of commands are translated.
        blocks.map(|block| if block.starts_with("sh") { String::new() } else { block.to_owned() }).collect()
    };
    assert_eq!(blocks("README.md"), blocks("README.zh-CN.md"));
}
