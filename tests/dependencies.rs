//! Holds deny.toml with nothing but cargo: which licences dependencies may have, which crates may be there in two
//! versions, and where all come from. Advisories need a network, and cargo-deny.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::Command;

use serde_json::Value;
use toml_edit::{DocumentMut, Item};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What deny.toml says.
fn rules() -> DocumentMut {
    fs::read_to_string(format!("{ROOT}/deny.toml")).unwrap().parse().unwrap()
}

/// The strings of a list, or those that its tables have under `key`.
fn strings(list: &Item, key: Option<&str>) -> Vec<String> {
    let list = list.as_array().expect("a list").iter();
    let one = |value: &toml_edit::Value| match key {
        None => value.as_str().map(str::to_owned),
        Some(key) => value.as_inline_table()?.get(key)?.as_str().map(str::to_owned),
    };
    list.map(|value| one(value).unwrap_or_else(|| panic!("{value:?} has no string {key:?}"))).collect()
}

/// What JSON cargo prints.
fn cargo(arguments: &[&str]) -> Value {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments).current_dir(ROOT);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The packages that c1m needs on Linux, its tests and the lab included, each with its name and version. Those of
/// this repository are left out.
fn packages() -> Vec<(String, String, Value)> {
    let metadata = cargo(&[
        "metadata",
        "--format-version=1",
        "--locked",
        "--offline",
        "--all-features",
        "--filter-platform=x86_64-unknown-linux-gnu",
    ]);
    // `packages` has those of other systems too; `resolve` has not.
    let used: BTreeSet<&str> =
        metadata["resolve"]["nodes"].as_array().unwrap().iter().map(|node| node["id"].as_str().unwrap()).collect();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let foreign = packages.filter(|package| used.contains(package["id"].as_str().unwrap()));
    let text = |package: &Value, key: &str| package[key].as_str().unwrap().to_owned();
    let foreign: Vec<_> = foreign
        .filter(|package| !package["manifest_path"].as_str().unwrap().starts_with(&format!("{ROOT}/")))
        .map(|package| (text(package, "name"), text(package, "version"), package.clone()))
        .collect();
    assert!(foreign.len() > 50, "cargo names {} packages", foreign.len());
    foreign
}

/// Whether one may choose only allowed licences: `AND` asks for all of its parts, `OR` for one of them.
fn permits(expression: &str, allowed: &[String]) -> bool {
    let one = |name: &str| allowed.iter().any(|allowed| allowed == name.trim_matches(['(', ')', ' ']));
    expression.split(" AND ").all(|part| part.replace('/', " OR ").split(" OR ").any(one))
}

#[test]
fn licences_are_those_that_deny_toml_allows() {
    let rules = rules();
    let allowed = strings(&rules["licenses"]["allow"], None);
    let exceptions: BTreeMap<String, Vec<String>> = rules["licenses"]["exceptions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|exception| {
            let exception = exception.as_inline_table().unwrap();
            let more = exception["allow"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
            (exception["crate"].as_str().unwrap().to_owned(), more.collect())
        })
        .collect();
    assert!(permits("(MIT OR GPL-3.0) AND Zlib", &allowed) && !permits("MIT AND GPL-3.0", &allowed));
    for (name, version, package) in packages() {
        let license = package["license"].as_str().unwrap_or_else(|| panic!("{name} {version} names no licence"));
        // MPL-2.0+ is MPL-2.0 or later.
        let license = license.replace('+', "");
        let excepted = exceptions.get(&name).is_some_and(|more| permits(&license, more));
        assert!(permits(&license, &allowed) || excepted, "{name} {version} is licensed under {license}: deny.toml");
    }
}

#[test]
fn a_crate_is_there_once_unless_deny_toml_says_why() {
    let mut versions = BTreeMap::<String, Vec<String>>::new();
    for (name, version, _) in packages() {
        versions.entry(name).or_default().push(version);
    }
    let mut doubled = BTreeSet::new();
    for (name, mut versions) in versions {
        versions
            .sort_by_key(|version| version.split('.').map(|part| part.parse::<u64>().unwrap_or(0)).collect::<Vec<_>>());
        versions.pop();
        doubled.extend(versions.into_iter().map(|version| (name.clone(), version)));
    }
    let rules = rules();
    let skipped = strings(&rules["bans"]["skip"], Some("crate"));
    let reasons = strings(&rules["bans"]["skip"], Some("reason"));
    assert!(reasons.iter().all(|reason| reason.len() > 10), "{reasons:?}");
    let is = |skip: &str, (name, version): &(String, String)| {
        let (skipped, from) = skip.split_once('@').unwrap();
        skipped == name && (version == from || version.starts_with(&format!("{from}.")))
    };
    for old in &doubled {
        let (name, version) = old;
        assert!(skipped.iter().any(|skip| is(skip, old)), "{name} {version} beside a newer one: say why in deny.toml");
    }
    for skip in &skipped {
        assert!(doubled.iter().any(|old| is(skip, old)), "deny.toml skips {skip}, which is no duplicate: take it out");
    }
}

#[test]
fn every_crate_comes_from_one_registry() {
    let sources: BTreeSet<String> = packages()
        .into_iter()
        .map(|(name, _, package)| package["source"].as_str().unwrap_or_else(|| panic!("{name} is a path")).to_owned())
        .collect();
    assert!(sources.len() == 1 && sources.iter().all(|source| source.starts_with("registry+")), "{sources:?}");
}

#[test]
fn an_advisory_that_is_passed_over_has_a_reason() {
    let ignored = &rules()["advisories"]["ignore"];
    let (ids, reasons) = (strings(ignored, Some("id")), strings(ignored, Some("reason")));
    assert!(ids.iter().all(|id| id.starts_with("RUSTSEC-")) && reasons.iter().all(|reason| reason.len() > 20));
}
