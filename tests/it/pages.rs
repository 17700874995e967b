//! Pages, interval logs and comparisons agree with the result of the same run.

use std::collections::BTreeMap;
use std::path::Path;

use c1m::internal::format;
use c1m::internal::latency::Latency;
use c1m::internal::latency::log::{Measure, Reader, Series};
use serde_json::Value;

use crate::support::*;

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// A time in the format of a page.
fn time(us: u64) -> String {
    let text = format::time(us);
    let unit = text.find(char::is_alphabetic).unwrap();
    format!("{}\u{a0}{}", &text[..unit], text[unit..].replace('u', "µ"))
}

/// Checks that a page loads nothing from elsewhere, has exactly these charts, names the protocol and the
/// strength of its proof, and shows the latencies of a result.
fn check_page(page: &str, result: &Value, charts: &[&str]) {
    let elsewhere = page.replace("http://www.w3.org/2000/svg", "");
    for outside in ["http:", "https:", "src=", "<script", "<link", "url(", "@import"] {
        assert!(!elsewhere.contains(outside), "{outside} in the page");
    }
    for chart in charts {
        assert!(page.contains(&format!(">{chart}</h2>")), "no chart {chart}");
    }
    assert_eq!(page.matches("<svg ").count(), charts.len());
    let [protocol, proof] = ["protocol", "proof"].map(|name| result[name].as_str().unwrap());
    assert!(page.contains(&format!("protocol {protocol}, proof {proof}")), "the page does not say what was proved");
    for name in ["requested", "live", "failed"] {
        let value = format::count(number(result, name));
        assert!(page.contains(&format!("<dd>{value}</dd>")), "{name} is {value}, which is not in the page");
    }
    let shards = result["shards"].as_array().unwrap().iter();
    for part in shards.chain([result]) {
        for name in ["connect_latency_us", "echo_latency_us"].map(|name| &part[name]) {
            if number(name, "count") == 0 {
                continue;
            }
            let figures =
                ["min", "p50", "p90", "p99", "p999", "p9999", "max"].map(|name_of| time(number(name, name_of)));
            let cells = [vec![format::count(number(name, "count"))], figures.to_vec()].concat().join("</td><td>");
            assert!(page.contains(&format!("<td>{cells}</td>")), "{cells} is not in the page");
        }
    }
}

/// Checks that a timeline has exactly these phases, and agrees with the counts of its result.
fn check_timeline(result: &Value, phases: &[&str]) {
    let timeline = &result["timeline"];
    let names: Vec<&str> =
        timeline["phases"].as_array().unwrap().iter().map(|one| one["phase"].as_str().unwrap()).collect();
    assert_eq!(names, phases);
    let sum = |sample: &Value, name: &str| -> u64 {
        sample["shards"].as_array().unwrap().iter().map(|shard| number(shard, name)).sum()
    };
    let samples = timeline["samples"].as_array().unwrap();
    assert_eq!(samples.iter().map(|sample| sum(sample, "live")).max(), Some(number(result, "live")), "{timeline}");
    assert_eq!(sum(samples.last().unwrap(), "stood"), number(result, "ramped"), "{timeline}");
    let counts = timeline["connects"].as_array().unwrap().iter().flat_map(|one| one["counts"].as_array().unwrap());
    let connects = number(&result["connect_latency_us"], "count") + number(result, "retransmitted");
    assert_eq!(counts.map(|count| count.as_u64().unwrap()).sum::<u64>(), connects, "{timeline}");
}

/// Checks that an interval log holds the latencies of each shard.
fn check_log(log: &Path, result: &Value) {
    let text = text(log);
    let (mut log, mut read) = (Reader::new(text.as_bytes()), BTreeMap::<Series, Latency>::new());
    while let Some((series, piece)) = log.next_interval().unwrap() {
        read.entry(series).or_insert_with(|| Latency::new().unwrap()).merge(&piece).unwrap();
    }
    let echo = if result["echo_source"] == "audits" { Measure::Audit } else { Measure::Echo };
    for (shard, part) in result["shards"].as_array().unwrap().iter().enumerate() {
        for (measure, name) in [(Measure::Connect, "connect_latency_us"), (echo, "echo_latency_us")] {
            let expected = Latency::decode(part[name]["histogram"].as_str().unwrap()).unwrap();
            let logged = read.get(&Series { measure, number: shard }).unwrap();
            assert_eq!(logged.encode().unwrap(), expected.encode().unwrap(), "{name} of shard {shard}");
        }
    }
}

#[test]
fn a_demo_is_shown_and_logged_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    // The file name contains markup, which the page must escape.
    let [json, page, log] = ["a.json", "<i>a&b.html", "a.hlog"].map(|name| dir.path().join(name));
    let files = format!("--json {} --report {} --hlog {}", json.display(), page.display(), log.display());
    let finished = run(&format!("demo --connections 2000 --hold 2s {} {files}", at(free_ports(4), 4)));
    assert_eq!((finished.code(), finished.errors().as_str()), (0, ""), "{}", finished.out);
    let whole = document(&json);
    let (result, server) = (&whole["client"], &whole["server"]);
    check_timeline(result, &["ramp", "audit 1", "hold", "audit 2", "close"]);
    check_log(&log, result);
    let page = text(&page);
    let rates = ["Live connections", "Connects per second", "Echoes per second"];
    let samples = result["timeline"]["samples"].as_array().unwrap().iter();
    let slab: Vec<u64> = samples.map(|sample| number(&sample["host"], "slab_bytes")).collect();
    // On a busy host others may give back more of it than the run takes, and there is nothing to draw.
    let kernel = if slab.iter().any(|bytes| *bytes > slab[0]) { &["Kernel memory"][..] } else { &[] };
    let rest = ["Connect latency over time", "Memory", "Processors", "Connect latency", "Echo latency"];
    check_page(&page, result, &[&rates[..], &rest, kernel].concat());
    assert!(page.contains("2,000 of 2,000 connections live") && page.contains("No connection failed."), "{page}");
    assert!(
        page.contains("server process") && page.contains(&format::bytes(number(server, "resident_bytes"))),
        "{page}"
    );
    assert!(page.contains("&lt;i&gt;a&amp;b.html") && !page.contains("<i>"), "{page}");
    let kernel = text(Path::new("/proc/sys/kernel/osrelease"));
    assert!(page.contains(kernel.trim()) && page.contains("demo --connections 2000 --hold 2s"), "{page}");
    // A page drawn from the result later is the same.
    let again = dir.path().join("again.html");
    assert_eq!(run(&format!("report html {} -o {}", json.display(), again.display())).code(), 0);
    assert_eq!(text(&again), page);
}

#[test]
fn failures_and_messages_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    let [nowhere, page] = ["nowhere.html", "page.html"].map(|name| dir.path().join(name));
    let run = client(&format!("{} --connections 20 --report {}", at(free_ports(1), 1), nowhere.display()));
    let page_of_failures = text(&nowhere);
    assert!(
        page_of_failures.contains("<b>20</b> ECONNREFUSED") && page_of_failures.contains("nothing listens there"),
        "{page_of_failures}"
    );
    assert_eq!(run.number("failed"), 20);

    let server = Server::start(2, "");
    let arguments = format!("{} --connections 200 --rate 2000 --interval 50ms --hold 1s", server.at());
    let run = client(&format!("{arguments} --report {} --hlog {}", page.display(), dir.path().join("hlog").display()));
    run.held(200);
    check_log(&dir.path().join("hlog"), &run.json);
    let page = text(&page);
    for chart in ["Echoes per second", "Connect latency, uncorrected", "Echo latency, uncorrected"] {
        assert!(page.contains(&format!(">{chart}</h2>")), "no chart {chart}");
    }
    server.stop();
}

#[test]
fn several_logs_and_results_are_shown_as_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let server = Server::start(2, "");
    let mut connects = Latency::new().unwrap();
    for (name, connections) in [("a", 300), ("b", 200)] {
        let run = client(&format!("{} --connections {connections} --hlog {}.hlog", server.at(), file(name).display()));
        std::fs::write(file(&format!("{name}.json")), run.json.to_string()).unwrap();
        let part = run.json["connect_latency_us"]["histogram"].as_str().unwrap().to_owned();
        connects.merge(&Latency::decode(&part).unwrap()).unwrap();
    }
    server.stop();
    let merge = |ending: &str| {
        let paths = ["a", "b"].map(|name| format!("{}.{ending}", file(name).display())).join(" ");
        let to = ["m.json", "m.html"].map(|name| file(name).display().to_string());
        let finished = run(&format!("report merge {paths} --json {} --html {}", to[0], to[1]));
        assert_eq!((finished.code(), finished.errors().as_str()), (0, ""), "{}", finished.out);
        (document(file("m.json")), text(&file("m.html")))
    };
    let (result, page) = merge("json");
    assert_eq!(number(&result, "live"), 500);
    for words in ["500 of 500 connections live", "<th scope=\"row\">a</th>", "<h3>b</h3>", "Live connections"] {
        assert!(page.contains(words), "no {words}: {page}");
    }
    let (result, page) = merge("hlog");
    assert_eq!(result["measures"]["connect"]["histogram"].as_str().unwrap(), connects.encode().unwrap());
    assert!(page.contains("latencies of 2 interval logs") && page.contains(&time(connects.max())), "{page}");
    let [a, b] = ["a.hlog", "b.json"].map(|name| file(name).display().to_string());
    run(&format!("report merge {a} {b}")).fails_with(2, &[&a, "beside results"]);
}

#[test]
fn changes_are_reported_as_ratios() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(2, "");
    let [before, after, to] = ["before", "after", "to"].map(|name| dir.path().join(name).display().to_string());
    for (path, connections) in [(&before, 100), (&after, 300)] {
        let run = client(&format!("{} --connections {connections}", server.at()));
        std::fs::write(path, run.json.to_string()).unwrap();
    }
    server.stop();
    let finished = run(&format!("report compare {before} {after} --json {to}"));
    assert_eq!((finished.code(), finished.errors().as_str()), (0, ""), "{}", finished.out);
    let live = finished.out.lines().find(|line| line.trim_start().starts_with("live ")).unwrap();
    assert_eq!(live.split_whitespace().collect::<Vec<_>>(), ["live", "100", "300", "3.00"], "{}", finished.out);
    let comparison = document(Path::new(&to));
    let change = |name: &str| {
        comparison["changes"].as_array().unwrap().iter().find(|change| change["figure"] == name).unwrap().clone()
    };
    assert_eq!(change("live")["ratio"].as_f64(), Some(3.0));
    let results = [&before, &after].map(|path| document(Path::new(path)));
    let p50 = |result: &Value| number(&result["connect_latency_us"], "p50") as f64;
    assert_eq!(change("connect p50")["ratio"].as_f64(), Some(p50(&results[1]) / p50(&results[0])), "{comparison}");
    run(&format!("report compare {before} /nonexistent/x.json")).fails_with(2, &["/nonexistent/x.json", "ENOENT"]);
}

#[test]
fn a_file_that_cannot_be_written_is_reported_before_the_run() {
    for option in ["--report", "--hlog"] {
        let finished = run(&format!("demo --connections 10 --hold 60s {option} /nonexistent/x"));
        finished.fails_with(2, &["/nonexistent/x", "ENOENT"]);
    }
}
