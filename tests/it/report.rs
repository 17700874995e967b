//! Results are read back and merged.

use std::path::Path;
use std::time::{Duration, SystemTime};

use c1m::internal::latency::Latency;
use c1m::internal::latency::log::{Log, Measure, Series};
use serde_json::{Value, json};

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
    let document = document(json);
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
    let demo: Value = document(demo);

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

/// The result of a client of 50 connections, in the folder's file `sound.json`.
fn sound(dir: &Path) -> Value {
    let server = Server::start(2, "");
    let result = result_at(&dir.join("sound.json"), &format!("{} --connections 50", server.at()));
    server.stop();
    result
}

#[test]
fn a_result_that_no_run_can_have_is_refused_with_the_number() {
    let dir = tempfile::tempdir().unwrap();
    let sound = sound(dir.path());
    let file = dir.path().join("wrong.json");
    for (at, value, words) in [
        ("/live", json!(51), "requested is 50, and live + failed + not_tried are 51"),
        ("/live", json!(u64::MAX), "requested is 50"),
        ("/ghosts", json!(3), "ghosts is 3, and the errors have 0"),
        ("/retransmitted", json!(7), "retransmitted is 7"),
        ("/ramped", json!(51), "ramped is 51, and requested is 50"),
        ("/ramp_seconds", json!(-3.0), "ramp_seconds is -3.0, and can only be between 0 and 1e9"),
        ("/close_seconds", json!(1e308), "close_seconds is 1e308"),
        ("/suspended_seconds", json!(-0.1), "suspended_seconds is -0.1"),
        ("/connects_per_second", json!(1e308), "connects_per_second is 1"),
        ("/audits/1/lost", json!(51), "lost of audit 2 is 51, and requested is 50"),
        ("/shards/0/live", json!(0), "live is 50, and its shards have"),
        ("/timeline/samples/0/client/cpu_user_seconds", json!(-1.0), "cpu_user_seconds of its timeline is -1.0"),
    ] {
        let mut wrong = sound.clone();
        *wrong.pointer_mut(at).unwrap() = value;
        std::fs::write(&file, wrong.to_string()).unwrap();
        let finished = run(&format!("report merge {}", file.display()));
        finished.fails_with(2, &[&file.display().to_string(), words]);
        assert_eq!(finished.out, "", "{at}");
    }
}

/// A page has the date of the run.
#[test]
fn a_result_with_a_date_that_cannot_be_written_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut result = sound(dir.path());
    let file = dir.path().join("r.json");
    let html = format!("report html {} -o {}", file.display(), dir.path().join("page.html").display());
    for (seconds, has_date) in [(0.0, true), (253_402_300_799.0, true), (253_402_300_800.0, false), (1e308, false)] {
        result["timeline"]["began_unix_seconds"] = json!(seconds);
        std::fs::write(&file, result.to_string()).unwrap();
        let finished = run(&html);
        if has_date {
            assert_eq!((finished.code(), finished.err.as_str()), (0, ""), "{seconds}");
        } else {
            finished.fails_with(2, &["began_unix_seconds of its timeline"]);
        }
    }
}

/// What a client wrote may have come from anywhere since.
#[test]
fn commands_to_a_terminal_in_a_result_are_shown_and_not_obeyed() {
    const EVIL: &str = "x\x1b[2J\r\n\u{9b}y";
    let dir = tempfile::tempdir().unwrap();
    let mut result = sound(dir.path());
    for name in ["protocol", "proof", "target"] {
        result[name] = json!(EVIL);
    }
    result["counters"] = json!({ EVIL: 1 });
    result["walls"] = json!([{ "wall": EVIL, "saw": EVIL, "means": EVIL, "cure": EVIL }]);
    let file = dir.path().join(EVIL);
    std::fs::write(&file, result.to_string()).unwrap();
    let mut command = c1m();
    command.args(["report", "merge"]).arg(&file);
    let finished = Running::start(command).wait();
    assert_eq!(finished.code(), 0, "{}", finished.err);
    assert!(!finished.out.contains(|letter: char| letter.is_control() && letter != '\n'), "{:?}", finished.out);
    let shown = r"x\u{1b}[2J\r\n\u{9b}y";
    let lines =
        |start: &str| finished.out.lines().filter(|line| line.starts_with(start) && line.contains(shown)).count();
    assert_eq!(lines(&format!("  {shown}: 50 requested")), 1, "{}", finished.out);
    assert_eq!(lines(&format!("  {shown}: {shown}: ")), 1, "{}", finished.out);
    assert_eq!(["counters of ", "target ", "protocol "].map(lines), [1, 1, 1], "{}", finished.out);
}

/// A paced connect counts from its intended start, and a gateway's answer comes sooner than that of the service behind it.
#[test]
fn a_comparison_tells_that_figures_were_measured_differently() {
    let dir = tempfile::tempdir().unwrap();
    let sound = sound(dir.path());
    let path = |name: &str| dir.path().join(name).display().to_string();
    let [before, after, changes] = ["sound.json", "other.json", "changes.json"].map(path);
    for (field, value, remark) in [
        ("paced", json!(true), Some("connects were not paced before, and paced after")),
        ("proof", json!("gateway"), Some("the proof of a connection is end-to-end before, and gateway after")),
        ("proof", json!(""), None),
    ] {
        let mut later = sound.clone();
        later["about"]["run_id"] = json!("another");
        later[field] = value;
        std::fs::write(&after, later.to_string()).unwrap();
        let compared = run(&format!("report compare {before} {after} --json {changes}"));
        assert_eq!(compared.code(), 0, "{}", compared.err);
        let told: Value = document(&changes);
        let remarks = told["remarks"].as_array().unwrap();
        assert_eq!(remarks.len(), usize::from(remark.is_some()), "{field}: {remarks:?}");
        assert!(remark.is_none_or(|remark| compared.out.contains(remark)), "{field}: {}", compared.out);
    }
}

#[test]
fn a_document_of_another_kind_is_told_as_such() {
    let dir = tempfile::tempdir().unwrap();
    let sound = sound(dir.path());
    let path = |name: &str| dir.path().join(name).display().to_string();
    let [doctor, changes, other] = ["doctor.json", "changes.json", "other.json"].map(path);
    run(&format!("doctor --connections 100 --json {doctor}"));
    let mut later = sound.clone();
    later["about"]["run_id"] = json!("another");
    later["echo_source"] = json!("messages");
    later["protocol"] = json!("websocket");
    std::fs::write(&other, later.to_string()).unwrap();
    let compared = run(&format!("report compare {} {other} --json {changes}", path("sound.json")));
    assert_eq!(compared.code(), 0, "{}", compared.err);
    assert!(
        compared.out.contains("echo latencies are those of audits before, and of messages after"),
        "{}",
        compared.out
    );
    assert!(compared.out.contains("before spoke raw, after websocket"), "{}", compared.out);
    let told: Value = document(&changes);
    assert_eq!(told["remarks"].as_array().unwrap().len(), 2);
    std::fs::write(&other, "{}").unwrap();
    for (file, what) in [
        (&doctor, "it is a verdict of `c1m doctor`"),
        (&changes, "it is a comparison of two results"),
        (&other, "it is not the result of a run"),
    ] {
        run(&format!("report merge {file}")).fails_with(2, &[file, what]);
    }
}

#[test]
fn standard_input_is_a_result_too() {
    let dir = tempfile::tempdir().unwrap();
    let sound = sound(dir.path());
    let mut command = c1m();
    command.args(["report", "merge", "-"]);
    let mut merging = Running::with_input(command);
    merging.say(&sound.to_string());
    merging.end_input();
    let finished = merging.wait();
    assert_eq!(finished.code(), 0, "{}", finished.err);
    assert!(finished.out.contains("50 requested = 50 live"), "{}", finished.out);
}

/// An interval log in which one latency was measured: its head, the line of that latency with the tag `receipt-0`, its end.
fn log_of_one() -> [String; 3] {
    let (mut text, mut latency) = (Vec::new(), Latency::new().unwrap());
    latency.record(Duration::from_micros(300));
    let mut log = Log::begin(&mut text, SystemTime::now(), "a test", "4f").unwrap();
    let series = Series { measure: Measure::Receipt, number: 0 };
    log.write(series, &latency, Duration::ZERO, Duration::from_secs(1)).unwrap();
    log.end().unwrap();
    let text = String::from_utf8(text).unwrap();
    let (head, rest) = text.split_at(text.find("Tag=").unwrap());
    let (line, end) = rest.split_at(rest.find('\n').unwrap() + 1);
    [head, line, end].map(str::to_owned)
}

/// The log of a fan-out has a series for each publication, a hundred thousand at most.
#[test]
fn a_log_of_many_series_takes_the_memory_of_a_few() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("fanout.hlog");
    let [head, line, end] = log_of_one();
    let lines: String = (0..2_500).map(|number| line.replacen("receipt-0", &format!("receipt-{number}"), 1)).collect();
    std::fs::write(&file, [head, lines, end].concat()).unwrap();
    let mut command = c1m_after("ulimit -v 262144");
    command.args(["report", "merge"]).arg(&file);
    let finished = Running::start(command).wait();
    assert_eq!((finished.code(), finished.err.as_str()), (0, ""), "{}", finished.out);
    assert!(finished.out.contains("2,500"), "{}", finished.out);
}

/// A run of many hours has a long log.
#[test]
fn a_log_may_have_any_length() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("long.hlog");
    let [head, line, end] = log_of_one();
    let comments = format!("#{}\n", "-".repeat(1 << 16)).repeat(65 << 4);
    std::fs::write(&file, [head, comments, line, end].concat()).unwrap();
    assert!(std::fs::metadata(&file).unwrap().len() > 65 << 20);
    let finished = run(&format!("report merge {}", file.display()));
    assert_eq!((finished.code(), finished.err.as_str()), (0, ""), "{}", finished.out);
    assert!(finished.out.contains("receipt latency"), "{}", finished.out);
}

/// A server's result is refused as a client's is. Of another program's server nothing is known.
#[test]
fn a_servers_result_is_doubted_and_told_of_where_it_is_not_compared() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let [demo, wrong, client, page] = ["demo.json", "wrong.json", "client.json", "page.html"].map(path);
    assert_eq!(run(&format!("demo --connections 20 --hold 0s {} --json {demo}", at(free_ports(1), 1))).code(), 0);
    let sound: Value = document(&demo);
    for (field, value, words) in [
        ("resident_bytes", json!(-1), "its server is not the result of a server: invalid value: integer `-1`"),
        ("refused_for_memory", json!(1), "its server: its numbers do not add up: refused_for_memory is 1"),
    ] {
        let mut document = sound.clone();
        document["server"][field] = value;
        std::fs::write(&wrong, document.to_string()).unwrap();
        run(&format!("report html {wrong} -o {page}")).fails_with(2, &[&wrong, words]);
    }
    let mut foreign = sound.clone();
    foreign["server"] = json!({ "requests": -1 });
    foreign["client"]["about"]["run_id"] = json!("another");
    std::fs::write(&client, foreign.to_string()).unwrap();
    assert_eq!(run(&format!("report html {client} -o {page}")).code(), 0);
    let compared = run(&format!("report compare {demo} {client}"));
    assert_eq!(compared.code(), 0, "{}", compared.err);
    assert!(compared.out.contains("only before has the result of a server: "), "{}", compared.out);
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
    run("report merge - -").fails_with(2, &["- is given twice", "standard input"]);
    run("report compare - -").fails_with(2, &["- is given twice", "standard input"]);
    run(&format!("report merge {sound} /nonexistent/x.json")).fails_with(2, &["/nonexistent/x.json", "ENOENT"]);
    // Some editors write a byte order mark.
    let marked = dir.path().join("marked.json");
    std::fs::write(&marked, format!("\u{feff}{}", std::fs::read_to_string(&sound).unwrap())).unwrap();
    assert_eq!(run(&format!("report merge {}", marked.display())).code(), 0);
    std::fs::write(&marked, "#[Histogram log format version 1.3]\n").unwrap();
    run(&format!("report html {} -o x", marked.display())).fails_with(2, &["is an interval log", "`c1m report merge`"]);
    run("report merge /dev/zero").fails_with(2, &["/dev/zero", "it is not JSON"]);
    run(&format!("report merge {sound} --json /nonexistent/x.json")).fails_with(2, &["/nonexistent/x.json", "ENOENT"]);
}
