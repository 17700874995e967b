//! Results are read back and merged.

use std::path::Path;

use serde_json::Value;

use crate::support::*;

/// Runs a client that writes its result to `path`.
fn result_at(path: &Path, arguments: &str) -> Value {
    let run = client(arguments);
    std::fs::write(path, run.json.to_string()).unwrap();
    run.json
}

/// Merges files of a folder, and reads the merged result.
fn merged(dir: &Path, files: &[&str]) -> (Finished, Value) {
    let paths: Vec<String> = files.iter().map(|file| dir.join(file).display().to_string()).collect();
    let json = dir.join("merged");
    let finished = run(&format!("report merge {} --json {}", paths.join(" "), json.display()));
    assert_eq!((finished.code(), finished.err.as_str()), (0, ""), "{}", finished.out);
    let document = serde_json::from_str(&std::fs::read_to_string(json).unwrap()).unwrap();
    has_merged_names(&document);
    (finished, document)
}

#[test]
fn several_machines_are_reported_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(2, "");
    let first = result_at(&dir.path().join("first.json"), &format!("{} --connections 300", server.at()));
    // The other results: a client that finds no server, a client without audits, and a demo.
    let nowhere = at(free_ports(1), 1);
    let second = result_at(&dir.path().join("second.json"), &format!("{nowhere} --connections 20 --cores 1"));
    let third = format!("{} --connections 200 --cores 1 --audit off", server.at());
    let third = result_at(&dir.path().join("third.json"), &third);
    let demo = dir.path().join("demo.json");
    let arguments = format!("demo --connections 100 --hold 0s {} --json {}", at(free_ports(2), 2), demo.display());
    assert_eq!(run(&arguments).code(), 0);
    let demo: Value = serde_json::from_str(&std::fs::read_to_string(demo).unwrap()).unwrap();

    let (finished, all) = merged(dir.path(), &["first.json", "second.json", "third.json", "demo.json"]);
    let parts = [&first, &second, &third, &demo["client"]];
    for name in ["requested", "live", "failed", "not_tried", "ghosts", "retransmitted", "ramped"] {
        assert_eq!(number(&all, name), parts.iter().map(|part| number(part, name)).sum::<u64>(), "{name}");
    }
    assert_eq!([number(&all, "requested"), number(&all, "failed")], [620, 20], "{all}");
    assert_eq!((all["complete"].as_bool(), all["errors"]["ECONNREFUSED"].as_u64()), (Some(false), Some(20)));
    let longest = parts.iter().map(|part| part["ramp_seconds"].as_f64().unwrap()).fold(0.0, f64::max);
    assert_eq!(all["ramp_seconds"].as_f64(), Some(longest));
    for name in ["connect_latency_us", "echo_latency_us"] {
        let figure = |figure: &'static str| parts.iter().map(move |part| number(&part[name], figure));
        assert_eq!(number(&all[name], "count"), figure("count").sum::<u64>(), "{name}");
        assert_eq!(number(&all[name], "max"), figure("max").max().unwrap(), "{name}");
    }
    // The client without audits and the client without a server contribute none.
    let audits: Vec<u64> = all["audits"].as_array().unwrap().iter().map(|audit| number(audit, "live")).collect();
    assert_eq!(audits, [400, 400], "{all}");
    for line in [
        "620 requested = 600 live + 20 failed + 0 not tried",
        "  first: 300 requested = 300 live + 0 failed + 0 not tried; ramp ",
        "audit 2: 400 live, 0 lost, 0 wrong, of 2 of 4 machines",
        "ECONNREFUSED: nothing listens there",
    ] {
        assert!(finished.out.contains(line), "no {line:?} in {}", finished.out);
    }
    let rows: Vec<&str> =
        finished.out.lines().skip_while(|line| *line != "connect latency").skip(1).take(6).map(first_word).collect();
    assert_eq!(rows, ["machine", "first", "second", "third", "demo", "all"], "{}", finished.out);
    server.stop();
}

fn first_word(line: &str) -> &str {
    line.split_whitespace().next().unwrap_or_default()
}

/// Merging step by step, or all at once, gives the same machines and the same numbers.
#[test]
fn a_merged_result_can_be_merged_again() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(2, "");
    for name in ["a.json", "b.json", "c.json"] {
        result_at(&dir.path().join(name), &format!("{} --connections 50", server.at()));
    }
    let (_, at_once) = merged(dir.path(), &["a.json", "b.json", "c.json"]);
    let (_, two) = merged(dir.path(), &["a.json", "b.json"]);
    std::fs::write(dir.path().join("two.json"), two.to_string()).unwrap();
    let (_, in_turn) = merged(dir.path(), &["two.json", "c.json"]);
    assert_eq!(at_once, in_turn);
    server.stop();
}

#[test]
fn a_file_that_is_no_result_is_named_with_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(2, "--json -");
    let sound = result_at(&dir.path().join("sound.json"), &format!("{} --connections 50", server.at())).to_string();
    let totals = server.stop().last_document().to_string();
    let later = sound.replace(concat!(r#""version":""#, env!("CARGO_PKG_VERSION")), r#""version":"99.0.0"#);
    let histogram = serde_json::from_str::<Value>(&sound).unwrap()["connect_latency_us"]["histogram"].to_string();
    for (text, words) in [
        (String::new(), "it holds no document"),
        ("not a result".to_owned(), "it is not JSON"),
        (sound[..sound.len() - 9].to_owned(), "it is not JSON"),
        (totals, "it is the result of a server"),
        (format!("\u{feff}{}", &sound[..9]), "it is not JSON: EOF"),
        (sound.replace(r#""live":50"#, r#""live":51"#), "its numbers do not add up"),
        (sound.replace(r#""count":50"#, r#""count":49"#), "its figures are not those of its histogram"),
        (sound.replace(&histogram, r#""AAAA""#), "it is not in HdrHistogram's V2 compressed form"),
        (sound.replace(r#""audits","#, r#""a\nb","#), "it is not the result of a client"),
        (format!("{sound}\n{sound}"), "the results of 2 runs"),
        (later.replace(r#""errors":{}"#, r#""errors":{"new":0}"#), "written by c1m 99.0.0: this is c1m "),
    ] {
        let file = dir.path().join("wrong.json");
        std::fs::write(&file, text).unwrap();
        let finished = run(&format!("report merge {}/sound.json {}", dir.path().display(), file.display()));
        finished.fails_with(2, &[&file.display().to_string(), words]);
        assert_eq!(finished.out, "");
    }
    let sound = dir.path().join("sound.json").display().to_string();
    run(&format!("report merge {sound} {sound}")).fails_with(2, &[&sound, "given twice"]);
    run(&format!("report merge {sound} /nonexistent/x.json")).fails_with(2, &["/nonexistent/x.json", "ENOENT"]);
    // Some editors write a byte order mark.
    let marked = dir.path().join("marked.json");
    std::fs::write(&marked, format!("\u{feff}{}", std::fs::read_to_string(&sound).unwrap())).unwrap();
    assert_eq!(run(&format!("report merge {}", marked.display())).code(), 0);
    std::fs::write(&marked, "#[Histogram log format version 1.3]\n").unwrap();
    run(&format!("report html {} -o x", marked.display())).fails_with(2, &["is an interval log", "`c1m report merge`"]);
    run("report merge /dev/zero").fails_with(2, &["/dev/zero", "too large"]);
    run(&format!("report merge {sound} --json /nonexistent/x.json")).fails_with(2, &["/nonexistent/x.json", "ENOENT"]);
}
