//! `tests/foreign/run` does what it says, also where it was run before.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// A script that Python runs leaves a folder beside what it imports.
#[test]
fn foreign_programs_can_be_tested_twice() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("tests/foreign");
    fs::create_dir_all(folder.join("__pycache__")).unwrap();
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign/run"), folder.join("run")).unwrap();
    for (name, text) in [("clients", "#!/bin/sh\necho tested \"$1\"\n"), ("clients.py", ""), ("crowds", "")] {
        fs::write(folder.join(name), text).unwrap();
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let run = Command::new("sh").arg(folder.join("run")).arg("c1m").output().unwrap();
    let [said, errors] = [run.stdout, run.stderr].map(|text| String::from_utf8(text).unwrap());
    assert_eq!((said.as_str(), errors.as_str()), ("== tests/foreign/clients\ntested c1m\n", ""));
}
