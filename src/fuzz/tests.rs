//! Each target on its seeds and on bytes like them; and the tests that `tests/sanitize` gives Miri are there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use proptest::sample::Index;

/// The files in `fuzz/seeds/NAME`.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(name);
    let seeds: Vec<_> = fs::read_dir(folder).unwrap().map(|file| fs::read(file.unwrap().path()).unwrap()).collect();
    assert!(!seeds.is_empty(), "no seeds for {name}");
    seeds
}

/// Random bytes, or a seed with some bytes changed and perhaps its end cut off.
fn bytes_like(seeds: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changes = prop::collection::vec(any::<(Index, u8)>(), 0..8);
    let spoiled = (prop::sample::select(seeds), changes, prop::option::of(any::<Index>()));
    let spoiled = spoiled.prop_map(|(mut bytes, changes, cut)| {
        bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len() + 1)));
        if let Some(most) = bytes.len().checked_sub(1) {
            changes.iter().for_each(|(at, byte)| bytes[at.index(most + 1)] = *byte);
        }
        bytes
    });
    prop_oneof![prop::collection::vec(any::<u8>(), 0..300), spoiled]
}

macro_rules! properties {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                let seeds = seeds(stringify!($name));
                seeds.iter().for_each(|seed| super::$name(seed));
                proptest!(|(bytes in bytes_like(seeds))| { super::$name(&bytes); });
            }
        )*

        const PROPERTIES: &[&str] = &[$(stringify!($name)),*];
    };
}

properties!(
    token completions echo pattern words typed histogram results kept host request segments handed frames upgrade requests
    publication server_frames pushes responses target mqtt nats records handshakes chunks pem
);

/// A property that is missing here would be tried by nothing, and its target would not even be built. A target does nothing
/// but try its property: no other test builds it.
#[test]
fn every_target_has_a_property_and_seeds() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let names = |folder: &str| -> BTreeSet<String> {
        let files = fs::read_dir(fuzz.join(folder)).unwrap();
        files.map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    let properties: BTreeSet<String> = PROPERTIES.iter().map(|&name| name.to_owned()).collect();
    assert_eq!(names("fuzz_targets"), properties);
    assert_eq!(names("seeds"), properties);
    let manifest = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    for name in properties {
        let target = format!("libfuzzer_sys::fuzz_target!(|bytes: &[u8]| c1m::internal::fuzz::{name}(bytes));");
        let text = fs::read_to_string(fuzz.join(format!("fuzz_targets/{name}.rs"))).unwrap();
        assert_eq!(text, format!("#![no_main]\n\n{target}\n"));
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name} is not built");
    }
}

/// A name that no test's path has would select nothing, and Miri would say nothing of it.
#[test]
fn each_name_that_selects_tests_for_miri_is_in_the_path_of_one() {
    let script = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sanitize")).unwrap();
    let names = script.split_once("readonly pure=(").unwrap().1.split_once(')').unwrap().0;
    let listed = Command::new(std::env::current_exe().unwrap()).arg("--list").output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let tests: Vec<&str> = listed.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    let missing: Vec<&str> =
        names.split_whitespace().filter(|name| !tests.iter().any(|test| test.contains(name))).collect();
    assert!(missing.is_empty(), "no test has {missing:?} in its path");
}
