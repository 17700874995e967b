//! Turns knobs, and turns them back: every change is written down in a state file before it is
//! made, so that `revert` restores exactly what was there, whatever happened in between.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Errno, Error, Result};
use crate::host::Host;
use crate::knobs::{Limits, Setting};

/// Where the state stands, below the host's root.
const STATE: &str = "var/lib/c1m/tune.json";

/// The files of `--persist`, below the host's root.
const SYSCTL_FILE: &str = "etc/sysctl.d/99-c1m.conf";
const LIMITS_FILE: &str = "etc/security/limits.d/99-c1m.conf";

/// What was there before the first change.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct State {
    settings: Vec<Turned>,
    files: Vec<Written>,
}

/// A sysctl that was turned, or is about to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Turned {
    name: String,
    was: String,
    then: String,
    reason: String,
}

/// A file that was written, or is about to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    path: String,
    was: Option<String>,
}

/// What `revert` did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reverted {
    /// Sysctls set back, with the value restored.
    pub settings: Vec<(String, String)>,
    /// Sysctls that this host no longer has, such as those of a module that is gone.
    pub gone: Vec<String>,
    /// Files restored or removed.
    pub files: Vec<PathBuf>,
}

/// Sets all of these or none, and writes them to /etc for the next boot if `persist` says so.
///
/// Fails with a host error, everything as it was, when this process may not write one of them, or
/// when the kernel does not take a value.
pub fn apply(host: &Host, settings: &[Setting], persist: Option<Limits>) -> Result<()> {
    if let Some(setting) = settings.iter().find(|setting| !host.may_write_sysctl(setting.name)) {
        return Err(Error::host(
            format!("{} cannot be written", setting.name),
            "nothing was changed: this process lacks the right, or a network namespace or container hides it",
            "run it as root, in the host's own network namespace",
        ));
    }
    let before = State::read(host)?;
    let mut state = before.clone().unwrap_or_default();
    settings.iter().for_each(|setting| state.remember(setting));
    let files = persist.map(|limits| files(&state, limits)).unwrap_or_default();
    for (path, _) in &files {
        state.remember_file(host, path)?;
    }
    state.write(host)?;
    let done =
        turn(host, settings).and_then(|()| files.iter().try_for_each(|(path, text)| replace(&host.path(path), text)));
    if let Err(error) = done {
        for setting in settings {
            // The first error is the one to tell.
            let _ = host.write_sysctl(setting.name, &setting.now);
        }
        match before {
            Some(before) => before.write(host)?,
            None => {
                state.restore_files(host)?;
                remove(&host.path(STATE))?;
            }
        }
        return Err(error);
    }
    Ok(())
}

fn turn(host: &Host, settings: &[Setting]) -> Result<()> {
    for setting in settings {
        host.write_sysctl(setting.name, &setting.then)?;
        let taken = host.sysctl_text(setting.name).unwrap_or_default();
        if !at_least(&taken, &setting.then) {
            return Err(Error::host(
                format!("{} is {taken} after {} was written", setting.name, setting.then),
                "the kernel does not take that value; everything was set back",
                "ask for fewer connections, or set it by hand",
            ));
        }
    }
    Ok(())
}

/// Whether what the kernel took is what was asked for; a single number it may have rounded up.
fn at_least(taken: &str, asked: &str) -> bool {
    let more = || Some(taken.parse::<u64>().ok()? >= asked.parse::<u64>().ok()?);
    taken.split_whitespace().eq(asked.split_whitespace()) || more().unwrap_or(false)
}

/// Restores what was there before the first `apply`; `None` if nothing was applied.
///
/// Fails with a host error when something could not be restored; the state is then kept, and
/// another `revert` tries again.
pub fn revert(host: &Host) -> Result<Option<Reverted>> {
    let Some(state) = State::read(host)? else { return Ok(None) };
    let mut reverted = Reverted::default();
    for turned in state.settings.iter().rev() {
        if host.sysctl_text(&turned.name).is_none() {
            reverted.gone.push(turned.name.clone());
            continue;
        }
        host.write_sysctl(&turned.name, &turned.was)?;
        reverted.settings.push((turned.name.clone(), turned.was.clone()));
    }
    reverted.files = state.restore_files(host)?;
    remove(&host.path(STATE))?;
    Ok(Some(reverted))
}

/// The sysctl file of these settings: name, value, and a comment with the reason.
pub fn sysctl_conf<'a>(settings: impl Iterator<Item = (&'a str, &'a str, &'a str)>) -> String {
    let line =
        |(name, then, reason): (&str, &str, &str)| format!("\n# {reason}\n{name} = {}\n", then.replace('\t', " "));
    settings.map(line).collect()
}

fn files(state: &State, limits: Limits) -> Vec<(&'static str, String)> {
    let settings = state.settings.iter().map(|turned| (&*turned.name, &*turned.then, &*turned.reason));
    let header = "# Written by `c1m tune --persist`; `c1m tune --revert` removes it.\n";
    let mut files = vec![(SYSCTL_FILE, format!("{header}{}", sysctl_conf(settings)))];
    let lines = limits.lines();
    if !lines.is_empty() {
        files.push((LIMITS_FILE, format!("{header}{lines}")));
    }
    files
}

impl State {
    fn read(host: &Host) -> Result<Option<State>> {
        let path = host.path(STATE);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path, &error)),
        };
        serde_json::from_str(&text).map(Some).map_err(|error| {
            Error::host(
                format!("{}: {error}", path.display()),
                "it is not the state that c1m tune writes, so nothing was changed",
                "look at it; remove it if what it names is set back by hand",
            )
        })
    }

    fn write(&self, host: &Host) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| Error::bug(format!("JSON: {e}")))?;
        replace(&host.path(STATE), &text)
    }

    /// Keeps what was there before the first change, and the newest value wanted.
    fn remember(&mut self, setting: &Setting) {
        let (then, reason) = (setting.then.clone(), setting.reason.clone());
        match self.settings.iter_mut().find(|turned| turned.name == setting.name) {
            Some(known) => (known.then, known.reason) = (then, reason),
            None => {
                self.settings.push(Turned { name: setting.name.to_owned(), was: setting.now.clone(), then, reason })
            }
        }
    }

    fn remember_file(&mut self, host: &Host, path: &str) -> Result<()> {
        if self.files.iter().any(|written| written.path == path) {
            return Ok(());
        }
        let was = match std::fs::read_to_string(host.path(path)) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed("read", &host.path(path), &error)),
        };
        self.files.push(Written { path: path.to_owned(), was });
        Ok(())
    }

    fn restore_files(&self, host: &Host) -> Result<Vec<PathBuf>> {
        let restore = |written: &Written| {
            let path = host.path(&written.path);
            match &written.was {
                Some(text) => replace(&path, text)?,
                None => remove(&path)?,
            }
            Ok(path)
        };
        self.files.iter().map(restore).collect()
    }
}

/// Writes a file so that it is either the old or the new one, also after a crash.
fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(folder)?;
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|error| failed("write", path, &error))
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed("remove", path, &error)),
        _ => Ok(()),
    }
}

fn failed(what: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::host(
        format!("{what} {}: {}", path.display(), Errno::of(error)),
        "c1m tune keeps there what was before, and does nothing without it",
        "run it as root, on a file system that can be written",
    )
}
