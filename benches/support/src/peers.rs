//! The servers that a comparison starts: their programs, and which of them are compared.

use std::fs;
use std::path::Path;

/// A server to compare. That of c1m is called `c1m`; the others are held against it.
pub trait Server: 'static {
    fn name(&self) -> &'static str;

    /// A description in a few words.
    fn what(&self) -> &'static str;

    /// Its program, in the folder of programs.
    fn program(&self) -> String {
        if self.name() == "c1m" { self.name().to_owned() } else { format!("peer-{}", self.name()) }
    }

    /// Whether its program is on this machine.
    fn is_here(&self, programs: &Path) -> bool {
        programs.join(self.program()).is_file()
    }
}

/// The servers to compare: those asked for, or all, as far as their programs are here. c1m is always among them.
pub fn chosen<S: Server>(all: &'static [S], only: &[String], programs: &Path) -> Vec<&'static S> {
    for name in only {
        assert!(all.iter().any(|server| server.name() == name), "no peer is called {name}");
    }
    let is_wanted =
        |server: &&S| server.name() == "c1m" || only.is_empty() || only.iter().any(|name| name == server.name());
    all.iter().filter(is_wanted).filter(|server| server.is_here(programs)).collect()
}

/// The description of the server with this name.
pub fn what<S: Server>(all: &[S], name: &str) -> String {
    let server = all.iter().find(|server| server.name() == name);
    server.map_or(name.to_owned(), |server| server.what().to_owned())
}

/// Writes a file of a folder of results.
pub fn keep(folder: &Path, name: &str, text: &str) {
    let file = folder.join(name);
    fs::write(&file, text).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
}
