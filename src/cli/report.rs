//! `c1m report`: reads results that earlier runs wrote.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Chain, Cursor, Read};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use super::args::{CompareArguments, HtmlArguments, MergeArguments};
use super::out::{Target, print_beside};
use super::{Blocking, Ended};
use crate::command_error::{CommandError, Result};
use crate::error::{self, Errno};
use crate::format;
use crate::latency::log;
use crate::output;
use crate::render::{self, html as page, text};
use crate::results::document::{self, MachineDocument, Results};
use crate::results::logs::MachineLog;
use crate::results::{compare as changes, identity, logs, merge};

/// Bytes of a document at most; what is larger is something else. A fan-out of 100,000 publications has 50 MB, and 16 machines
/// of 64 shards each have 70 MB together.
const MAX_DOCUMENT_BYTES: u64 = 1 << 30;

/// What some editors write in front of a text in UTF-8.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Bytes at the beginning of a file that tell what it is.
const HEAD_BYTES: u64 = 5;

/// Merges the results of several machines. The exit code says whether they could be merged; the results do not
/// change it.
pub fn merge(arguments: &MergeArguments) -> Result<Ended> {
    let files = &arguments.results;
    reads_stdin_once(files)?;
    let (json, html) = (("--json", arguments.json.as_deref()), ("--html", arguments.html.as_deref()));
    output::differ(&[json, html])?;
    let inputs: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    // The merged result may replace one of the results that it was made from.
    output::keep_inputs(&inputs, &[html])?;
    let (mut logs, mut results) = (Vec::new(), Vec::new());
    for (file, machine) in files.iter().zip(names(files)) {
        let input = Input::open(file)?;
        let name = input.name.clone();
        if input.is_log {
            let log = logs::read(input.text, &name)?;
            logs.push((name, (machine, log)));
        } else {
            let result = document::read_client(&input.whole()?, &name)?;
            results.push((name, MachineDocument { machine, result }));
        }
    }
    match (logs.first(), results.is_empty()) {
        (None, _) => merge_results(arguments, results),
        (Some(_), true) => {
            // The document of merged logs is not a log, so it must not replace one.
            output::keep_inputs(&inputs, &[json])?;
            merge_logs(arguments, logs)
        }
        (Some((log, _)), false) => Err(CommandError::usage(
            format!("{log} is an interval log beside results"),
            "interval logs have latencies and no connections, so that the sum would be wrong",
            "merge logs with logs, and what --json wrote with the like",
        )),
    }
}

fn merge_logs(arguments: &MergeArguments, logs: Vec<(String, (String, MachineLog))>) -> Result<Ended> {
    identity::check(logs.iter().map(|(name, (_, log))| (name.clone(), log.runs.clone())))?;
    let merged = logs::merge(logs.into_iter().map(|(_, log)| log).collect())?;
    show(arguments, &merged, || Ok(render::logs::text(&merged)), || page::logs(&merged))
}

fn merge_results(arguments: &MergeArguments, results: Vec<(String, MachineDocument)>) -> Result<Ended> {
    identity::check(results.iter().map(|(name, part)| (name.clone(), identity::of(&part.result))))?;
    let merged = merge::merge(results.into_iter().map(|(_, part)| part).collect())?;
    let draw = || page::page(&page::Run { client: &merged, server: None, notes: &[] });
    show(arguments, &merged, || text::client(&merged), draw)
}

/// Writes the merged document to the requested places.
fn show(
    arguments: &MergeArguments,
    merged: &impl Serialize,
    text: impl FnOnce() -> error::Result<String>,
    draw: impl FnOnce() -> error::Result<String>,
) -> Result<Ended> {
    let target = arguments.json.as_deref().map(Target::open).transpose()?;
    let drawn = arguments.html.as_deref().map(Target::open).transpose()?;
    // If one file cannot be written, the others are written all the same.
    let shown = print_beside([&target, &drawn].into_iter().flatten(), text);
    let written = target.map_or(Ok(()), |target| target.write_json(merged));
    let drawn = drawn.map_or(Ok(()), |target| target.write(draw()?.as_bytes()));
    shown.and(written).and(drawn).map(|()| Ended::Well)
}

/// Draws a result that an earlier run wrote.
pub fn html(arguments: &HtmlArguments) -> Result<Ended> {
    output::keep_inputs(&[&arguments.result], &[("--output", Some(&arguments.output))])?;
    let Results { client, server } = results(&arguments.result)?;
    let drawn = page::page(&page::Run { client: &client, server: server.as_ref(), notes: &[] })?;
    Target::open(&arguments.output)?.write(drawn.as_bytes())?;
    Ok(Ended::Well)
}

/// Compares two results. The changes do not affect the exit code.
pub fn compare(arguments: &CompareArguments) -> Result<Ended> {
    let CompareArguments { before, after, json } = arguments;
    let outputs = [("--json", json.as_deref())];
    reads_stdin_once([before, after])?;
    output::differ(&outputs)?;
    output::keep_inputs(&[before, after], &outputs)?;
    let both = (results(before)?, results(after)?);
    if identity::of(&both.0.client) == identity::of(&both.1.client) {
        return Err(CommandError::usage(
            format!("{} and {} are given to compare: they hold the same run", before.display(), after.display()),
            "nothing can have changed",
            "give the results of two runs",
        ));
    }
    let changed = changes::compare(&both.0, &both.1);
    let remarks = changes::remarks(&both.0, &both.1);
    let target = json.as_deref().map(Target::open).transpose()?;
    let shown = print_beside(&target, || Ok(render::compare::text(&changed, &remarks)));
    if let Some(target) = target {
        let [before, after] = [before, after].map(|file| file.display().to_string());
        target.write_json(&json!({ "before": before, "after": after, "changes": changed, "remarks": remarks }))?;
    }
    shown.map(|()| Ended::Well)
}

fn results(file: &Path) -> Result<Results> {
    let input = Input::open(file)?;
    let name = input.name.clone();
    if input.is_log {
        return Err(CommandError::usage(
            format!("{name} is an interval log"),
            "it has latencies and no connections",
            "give what `c1m client --json` wrote, or see its latencies with `c1m report merge`",
        ));
    }
    Ok(document::read(&input.whole()?, &name)?)
}

/// Refuses to read standard input twice: the second result would be empty.
fn reads_stdin_once<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    if files.into_iter().filter(|file| file.as_os_str() == "-").count() < 2 {
        return Ok(());
    }
    Err(CommandError::usage("- is given twice", "standard input has one result", "give the others as files"))
}

/// A file of results, of which the beginning was read.
struct Input {
    name: String,
    /// Whether it is an interval log.
    is_log: bool,
    text: Chain<Cursor<Vec<u8>>, BufReader<Box<dyn Read>>>,
}

impl Input {
    /// Opens a file; `-` is standard input.
    fn open(path: &Path) -> Result<Input> {
        let name = path.display().to_string();
        let opened: io::Result<Box<dyn Read>> = if path.as_os_str() == "-" {
            Ok(Box::new(Blocking(io::stdin())))
        } else {
            File::open(path).map(|file| Box::new(file) as Box<dyn Read>)
        };
        let mut head = Vec::new();
        let begun = opened.and_then(|mut file| file.by_ref().take(HEAD_BYTES).read_to_end(&mut head).map(|_| file));
        let file = begun.map_err(|e| unreadable(&name, &e))?;
        if head.starts_with(BYTE_ORDER_MARK) {
            head.drain(..BYTE_ORDER_MARK.len());
        }
        Ok(Input { name, is_log: log::is_log(&head), text: Cursor::new(head).chain(BufReader::new(file)) })
    }

    /// The whole text of a document.
    fn whole(self) -> Result<Vec<u8>> {
        let Input { name, text: from, .. } = self;
        let begin = from.get_ref().0.get_ref().trim_ascii_start().first();
        if begin.is_some_and(|byte| *byte != b'{') {
            // It may be a device without an end.
            let means = "it is not JSON: a result begins with {";
            return Err(CommandError::usage(name, means, "give what `c1m client --json` or `c1m demo --json` wrote"));
        }
        let mut text = Vec::new();
        from.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut text).map_err(|e| unreadable(&name, &e))?;
        if text.len() as u64 > MAX_DOCUMENT_BYTES {
            let means = format!("a result has less than {}", format::bytes(MAX_DOCUMENT_BYTES));
            return Err(CommandError::usage(format!("{name} is too large"), means, "give another file"));
        }
        Ok(text)
    }
}

fn unreadable(name: &str, error: &io::Error) -> CommandError {
    let saw = format!("read {name}: {}", Errno::of(error));
    CommandError::usage(saw, "there is no result to read", "give another file")
}

/// Names for the machines: the files' paths below the folder that all share, without their ending where that leaves all of
/// them different.
fn names(files: &[PathBuf]) -> Vec<String> {
    let folder = files
        .first()
        .and_then(|first| first.ancestors().skip(1).find(|folder| files.iter().all(|file| file.starts_with(folder))));
    let folder = folder.unwrap_or(Path::new(""));
    let own = |file: &PathBuf| file.strip_prefix(folder).unwrap_or(file).display().to_string();
    let whole: Vec<String> = files.iter().map(own).collect();
    let short = |name: &String| {
        [".json", ".hlog"].iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name).to_owned()
    };
    let short: Vec<String> = whole.iter().map(short).collect();
    if short.iter().collect::<BTreeSet<_>>().len() < short.len() { whole } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_named_after_the_parts_of_paths_that_differ() {
        let names = |files: &[&str]| names(&files.iter().map(PathBuf::from).collect::<Vec<_>>());
        assert_eq!(names(&["a.json", "b.json"]), ["a", "b"]);
        assert_eq!(names(&["/x/10.0.0.1/r.json", "/x/10.0.0.2/r.json"]), ["10.0.0.1/r", "10.0.0.2/r"]);
        assert_eq!(names(&["x/a.json"]), ["a"]);
        assert_eq!(names(&["x/a.json", "x/a", "x/b.json"]), ["a.json", "a", "b.json"]);
        assert_eq!(names(&["x/a.json", "/y/b"]), ["x/a", "/y/b"]);
    }
}
