//! The initramfs of one guest: busybox, c1m with its libraries, modules, and the scripts of its role.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use c1m::internal::command_error::{CommandError, Result};
use cpio::newc::{Builder, ModeFileType, trailer};

use crate::libraries;

/// The first process of every guest.
const INIT: &str = include_str!("init.sh");

/// What a guest is told to be.
#[derive(Debug, Clone)]
pub struct Role {
    /// `server`, `client` or `probe`.
    pub name: &'static str,
    /// Its addresses, one a network card, such as 10.0.1.1/24.
    pub addresses: Vec<String>,
    /// Whom a client must reach before it is ready.
    pub server: String,
    /// What it runs: programs, the first of which leads.
    pub programs: Vec<PathBuf>,
    /// Whether that one counts connections and tells of them.
    pub counts: bool,
    /// The command line of its program.
    pub command: String,
    /// The shell commands that tune it.
    pub tune: String,
}

/// What goes into every guest.
#[derive(Debug)]
pub struct Tools<'a> {
    /// The static busybox.
    pub busybox: &'a Path,
    /// Modules in loading order.
    pub modules: &'a [PathBuf],
}

/// Writes the archive to `path`.
pub fn write(path: &Path, role: &Role, tools: &Tools) -> Result<()> {
    let failed = |e: io::Error| {
        CommandError::host(
            format!("write {}: {e}", path.display()),
            "a guest cannot boot",
            "free disk space, or choose --out",
        )
    };
    let mut shared = BTreeSet::new();
    for program in &role.programs {
        shared.extend(libraries::of(program)?);
    }
    let out = io::BufWriter::new(fs::File::create(path).map_err(failed)?);
    let mut archive = Archive { out, inodes: 0, folders: BTreeSet::new() };
    fill(&mut archive, role, tools, &shared).and_then(|()| archive.finish()).map_err(failed)
}

fn fill(archive: &mut Archive<impl Write>, role: &Role, tools: &Tools, shared: &BTreeSet<PathBuf>) -> io::Result<()> {
    for folder in ["bin", "lab", "dev"] {
        archive.folder(Path::new(folder))?;
    }
    for library in shared {
        let place = library.strip_prefix("/").unwrap_or(library);
        archive.folder(place.parent().unwrap_or(place))?;
        archive.file(&place.to_string_lossy(), 0o755, &fs::read(library)?)?;
    }
    archive.file("init", 0o755, INIT.as_bytes())?;
    archive.file("bin/busybox", 0o755, &fs::read(tools.busybox)?)?;
    for file in &role.programs {
        archive.file(&format!("bin/{}", name(file)), 0o755, &fs::read(file)?)?;
    }
    let mut names = Vec::new();
    for module in tools.modules {
        let name = name(module);
        archive.file(&format!("lab/{name}"), 0o644, &fs::read(module)?)?;
        names.push(name);
    }
    let plan = format!(
        "ROLE={}\nPROGRAM={}\nCOUNTS={}\nADDRESSES='{}'\nSERVER={}\nMODULES='{}'\n",
        role.name,
        role.programs.first().map_or_else(String::new, |file| name(file)),
        role.counts,
        role.addresses.join(" "),
        role.server,
        names.join(" ")
    );
    archive.file("lab/plan", 0o644, plan.as_bytes())?;
    archive.file("lab/tune", 0o644, role.tune.as_bytes())?;
    archive.file("lab/command", 0o644, format!("exec {}\n", role.command).as_bytes())
}

/// What a file is called in a guest.
pub fn name(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

struct Archive<W: Write> {
    out: W,
    inodes: u32,
    folders: BTreeSet<PathBuf>,
}

impl<W: Write> Archive<W> {
    /// A folder, after the folders above it. The kernel makes none that an archive does not name.
    fn folder(&mut self, folder: &Path) -> io::Result<()> {
        if folder.as_os_str().is_empty() || self.folders.contains(folder) {
            return Ok(());
        }
        folder.parent().map_or(Ok(()), |above| self.folder(above))?;
        self.entry(&folder.to_string_lossy(), ModeFileType::Directory, 0o755, &[])?;
        self.folders.insert(folder.to_owned());
        Ok(())
    }

    fn file(&mut self, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        self.entry(name, ModeFileType::Regular, mode, bytes)
    }

    fn entry(&mut self, name: &str, kind: ModeFileType, mode: u32, bytes: &[u8]) -> io::Result<()> {
        self.inodes += 1;
        let size = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let builder = Builder::new(name).ino(self.inodes).nlink(1).mode(mode).set_mode_file_type(kind);
        let mut entry = builder.write(&mut self.out, size);
        entry.write_all(bytes)?;
        entry.finish().map(drop)
    }

    fn finish(self) -> io::Result<()> {
        trailer(self.out)?.flush()
    }
}

impl Role {
    /// A guest that powers off as soon as it has booted.
    pub fn probe() -> Role {
        Role {
            name: "probe",
            addresses: Vec::new(),
            server: String::new(),
            programs: Vec::new(),
            counts: true,
            command: "true".to_owned(),
            tune: String::new(),
        }
    }
}
