//! `c1m report`: reads results that earlier runs wrote.

use std::fs::File;
use std::io::{self, Read};
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
use crate::results::{compare as changes, identity, logs, merge};

/// Bytes of a file of results at most. A shard's part of it has some kilobytes; what is larger is something else.
const MAX_DOCUMENT_BYTES: u64 = 64 << 20;

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
    let texts = files.iter().map(|file| read(file)).collect::<Result<Vec<_>>>()?;
    let parts = || files.iter().zip(names(files)).zip(&texts);
    if texts.iter().all(|text| log::is_log(text)) {
        // The document of merged logs is not a log, so it must not replace one.
        output::keep_inputs(&inputs, &[json])?;
        let read = |((file, machine), text): ((&PathBuf, String), &Vec<u8>)| {
            Ok((machine, logs::read(text, &file.display().to_string())?))
        };
        let whose = parts().map(|((file, _), text)| (file.display().to_string(), logs::identities(text)));
        identity::check(whose)?;
        let merged = logs::merge(&parts().map(read).collect::<Result<Vec<_>>>()?)?;
        return show(arguments, &merged, || Ok(render::logs::text(&merged)), || page::logs(&merged));
    }
    if let Some(((file, _), _)) = parts().find(|(_, text)| log::is_log(text)) {
        let means = "interval logs have latencies and no connections, so that the sum would be wrong";
        return Err(CommandError::usage(
            format!("{} is an interval log beside results", file.display()),
            means,
            "merge logs with logs, and what --json wrote with the like",
        ));
    }
    let read = |((file, machine), text): ((&PathBuf, String), &Vec<u8>)| {
        Ok(MachineDocument { machine, result: document::read_client(text, &file.display().to_string())? })
    };
    let results = parts().map(read).collect::<Result<Vec<_>>>()?;
    let whose = files.iter().zip(&results);
    identity::check(whose.map(|(file, part)| (file.display().to_string(), identity::of(&part.result))))?;
    let merged = merge::merge(results)?;
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
    let remarks = changes::remarks(&both.0.client, &both.1.client);
    let target = json.as_deref().map(Target::open).transpose()?;
    let shown = print_beside(&target, || Ok(render::compare::text(&changed, &remarks)));
    if let Some(target) = target {
        let [before, after] = [before, after].map(|file| file.display().to_string());
        target.write_json(&json!({ "before": before, "after": after, "changes": changed, "remarks": remarks }))?;
    }
    shown.map(|()| Ended::Well)
}

fn results(file: &Path) -> Result<Results> {
    let text = read(file)?;
    if log::is_log(&text) {
        return Err(CommandError::usage(
            format!("{} is an interval log", file.display()),
            "it has latencies and no connections",
            "give what `c1m client --json` wrote, or see its latencies with `c1m report merge`",
        ));
    }
    Ok(document::read(&text, &file.display().to_string())?)
}

/// Refuses to read standard input twice: the second result would be empty.
fn reads_stdin_once<'a>(files: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    if files.into_iter().filter(|file| file.as_os_str() == "-").count() < 2 {
        return Ok(());
    }
    Err(CommandError::usage("- is given twice", "standard input has one result", "give the others as files"))
}

/// Reads a file; `-` is standard input.
fn read(path: &Path) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let name = path.display();
    let opened: io::Result<Box<dyn Read>> = if path.as_os_str() == "-" {
        Ok(Box::new(Blocking(io::stdin())))
    } else {
        File::open(path).map(|file| Box::new(file) as Box<dyn Read>)
    };
    opened.and_then(|file| file.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut text)).map_err(|e| {
        CommandError::usage(
            format!("read {name}: {}", Errno::of(&e)),
            "there is no result to read",
            "give another file",
        )
    })?;
    if text.len() as u64 > MAX_DOCUMENT_BYTES {
        let means = format!("a result has less than {}", format::bytes(MAX_DOCUMENT_BYTES));
        return Err(CommandError::usage(format!("{name} is too large"), means, "give another file"));
    }
    // Some editors write it in front of a text in UTF-8.
    let mark = "\u{feff}".as_bytes();
    if text.starts_with(mark) {
        text.drain(..mark.len());
    }
    Ok(text)
}

/// Names for the machines: the files' paths below the folder that all share, without their ending.
fn names(files: &[PathBuf]) -> Vec<String> {
    let folder = files
        .first()
        .and_then(|first| first.ancestors().skip(1).find(|folder| files.iter().all(|file| file.starts_with(folder))));
    let name = |file: &PathBuf| {
        let own = file.strip_prefix(folder.unwrap_or(Path::new(""))).unwrap_or(file).display().to_string();
        let short = [".json", ".hlog"].iter().find_map(|ending| own.strip_suffix(ending)).map(str::to_owned);
        short.unwrap_or(own)
    };
    files.iter().map(name).collect()
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
        assert_eq!(names(&["x/a.json", "/y/b"]), ["x/a", "/y/b"]);
    }
}
