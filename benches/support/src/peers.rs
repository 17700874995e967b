//! The servers that a comparison starts: their programs, and which of them are compared.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;

/// What every comparison is told by its command line.
#[derive(Debug, Args)]
pub struct Comparison {
    /// The folder of the programs; the script `run` of the comparison names it.
    #[arg(long, value_name = "FOLDER", hide = true)]
    pub programs: PathBuf,
    /// Small sizes and one round, to see that everything works; the figures mean nothing.
    #[arg(long)]
    pub quick: bool,
    /// Rounds; in each every peer has its turn, in the opposite order of the round before. 5 by default.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: Option<u32>,
    /// Only these peers, separated by commas.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub only: Vec<String>,
}

impl Comparison {
    /// The servers to compare: those asked for, or all, as far as their programs are here. c1m is always among them.
    pub fn chosen<S: Server>(&self, all: &'static [S]) -> Vec<&'static S> {
        for name in &self.only {
            assert!(all.iter().any(|server| server.name() == name), "no peer is called {name}");
        }
        let is_wanted = |server: &&S| {
            server.name() == "c1m" || self.only.is_empty() || self.only.iter().any(|name| name == server.name())
        };
        all.iter().filter(is_wanted).filter(|server| server.is_here(&self.programs)).collect()
    }
}

/// Makes the folder of this comparison's results below `out`. Its name is the time.
pub fn new_folder(out: &Path) -> PathBuf {
    let stamp = humantime::format_rfc3339_seconds(SystemTime::now()).to_string().replace(':', "-");
    let folder = out.join(stamp);
    fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    folder
}

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
