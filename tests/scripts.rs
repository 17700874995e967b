//! Scripts get over a first run that failed, and name what they lack.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A folder that every user may read.
fn open_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755)).unwrap();
    folder
}

/// Makes a program of these commands of the shell.
fn program(path: &Path, commands: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, format!("#!/bin/sh\n{commands}\n")).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

/// Stands in for python3 with `-m venv FOLDER`. Without ensurepip it fails after it has made the interpreter.
const PYTHON: &str = r#"for folder; do :; done
mkdir -p "$folder/bin" && : >"$folder/bin/python" && chmod 755 "$folder/bin/python"
[ -e "$0.ensurepip" ] || exit 1
: >"$folder/bin/pip" && chmod 755 "$folder/bin/pip""#;

#[test]
fn an_environment_of_python_that_was_half_made_is_made_anew() {
    let folders = ["tests", "tests/foreign"].map(|folder| fs::read_dir(root().join(folder)).unwrap());
    let files: Vec<PathBuf> = folders.into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
    let mut scripts = 0;
    for script in files.iter().filter(|path| path.is_file()) {
        let text = fs::read_to_string(script).unwrap();
        if !text.starts_with("#!") {
            continue;
        }
        for line in text.lines().filter(|line| line.contains("python3 -m venv")) {
            scripts += 1;
            let folder = open_folder();
            let (python, made) = (folder.path().join("bin/python3"), folder.path().join("made"));
            program(&python, PYTHON);
            let path = format!("{}:{}", python.parent().unwrap().display(), std::env::var("PATH").unwrap());
            let run = || {
                let line = format!("venv=$1 home=$1\n{line}");
                let status = Command::new("sh").args(["-euc", &line, "sh"]).arg(&made).env("PATH", &path).status();
                status.unwrap().success()
            };
            assert!(!run(), "{}: {line}", script.display());
            fs::write(python.with_extension("ensurepip"), "").unwrap();
            assert!(run(), "{}: {line}", script.display());
            let has_pip = ["bin/pip", "python/bin/pip"].iter().any(|pip| made.join(pip).exists());
            assert!(has_pip, "{}: {line}", script.display());
        }
    }
    assert!(scripts >= 7, "{scripts}");
}

/// Runs tuning/lab/setup where apt has no packages and what else it needs is there but for `lacks`. Returns whether it
/// succeeded, and what it said and asked apt for.
fn set_up_lab(lacks: &[&str], as_root: bool) -> (bool, String) {
    let folder = open_folder();
    let at = |name: &str| folder.path().join(name);
    fs::copy(root().join("tuning/lab/setup"), at("setup")).unwrap();
    for name in ["qemu-system-x86_64", "busybox", "setpriv", "xz", "zstd", "ldd"] {
        // ldd fails for what needs no library.
        program(&at("bin").join(name), "exit 1");
    }
    program(&at("bin/apt-cache"), "exit 0");
    program(&at("bin/apt-get"), "echo \"apt-get $*\" >&2; exit 100");
    for name in ["env", "sed", "head"] {
        let real =
            ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(name)).into_iter().find(|path| path.exists());
        symlink(real.unwrap(), at("bin").join(name)).unwrap();
    }
    lacks.iter().for_each(|name| fs::remove_file(at("bin").join(name)).unwrap());
    let mut command = Command::new("/bin/bash");
    command.arg(at("setup")).env("PATH", at("bin")).env("XDG_CACHE_HOME", at("cache"));
    if !as_root && is_root() {
        command.uid(65_534).gid(65_534);
    }
    let done = command.output().unwrap();
    (done.status.success(), String::from_utf8(done.stderr).unwrap())
}

fn is_root() -> bool {
    // SAFETY: no memory.
    unsafe { libc::geteuid() == 0 }
}

/// What unpacks a kernel's modules is named before anything is downloaded.
#[test]
fn the_lab_names_what_unpacks_modules() {
    for as_root in [false, true] {
        let (done, said) = set_up_lab(&["xz", "zstd"], as_root);
        assert!(!done && said.contains("install") && said.contains("xz-utils zstd"), "{said}");
    }
}

/// Where no package list has a kernel an ordinary user is told that only root can fetch new ones.
#[test]
fn the_lab_tells_who_can_fetch_package_lists() {
    let (done, said) = set_up_lab(&[], false);
    assert!(!done && said.contains("no kernel package found") && said.contains("sudo apt-get update"), "{said}");
    if is_root() {
        let (done, said) = set_up_lab(&[], true);
        assert!(!done && said.contains("no kernel package found") && !said.contains("sudo"), "{said}");
    }
}
