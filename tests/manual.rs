//! The manual pages in docs/man and the shell completions in docs/completions are generated from the definition of the
//! command line, and must agree with it. `C1M_BLESS=1 cargo test --test manual` rewrites them.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use clap_complete::Shell;

/// Checks that a folder of docs/ holds exactly these files, or rewrites it with C1M_BLESS=1.
fn holds(folder: &str, files: &[(String, Vec<u8>)]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(folder);
    if std::env::var_os("C1M_BLESS").is_some() {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        files.iter().for_each(|(name, text)| fs::write(folder.join(name), text).unwrap());
    }
    let entries = fs::read_dir(&folder).into_iter().flatten();
    let found: BTreeSet<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(found, files.iter().map(|(name, _)| name.clone()).collect(), "the files of {}", folder.display());
    for (name, text) in files {
        let same = fs::read(folder.join(name)).unwrap() == *text;
        assert!(same, "{name} differs from the command line: C1M_BLESS=1 cargo test --test manual rewrites it");
    }
}

/// The files that `make` writes into an empty folder.
fn made(make: impl FnOnce(&Path)) -> Vec<(String, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    make(folder.path());
    let file = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())
    };
    fs::read_dir(folder.path()).unwrap().map(file).collect()
}

#[test]
fn manual_pages_agree_with_the_command_line() {
    let command = c1m::internal::cli::command().disable_help_subcommand(true);
    let pages = made(|folder| clap_mangen::generate_to(command, folder).unwrap());
    assert!(pages.len() > 8, "{}", pages.len());
    holds("man", &pages);
}

#[test]
fn completions_agree_with_the_command_line() {
    holds(
        "completions",
        &made(|folder| {
            for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
                clap_complete::generate_to(shell, &mut c1m::internal::cli::command(), "c1m", folder).unwrap();
            }
        }),
    );
}
