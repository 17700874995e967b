//! What this host had before the first change, kept in a file until it is restored.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::durable::{failed, remove, replace, scrap};
use super::values::higher;
use crate::command_error::{CommandError, Result};
use crate::host::{Host, Reading};
use crate::walls::{Limits, Setting};

/// The file of the state, below the host's root.
const FILE: &str = "var/lib/c1m/tune.json";

/// The version of the file's form. A file of a later version is refused, and not touched. Version 1 had no limits.
const VERSION: u32 = 2;

/// What was there before the first change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    version: u32,
    place: Place,
    settings: Vec<Turned>,
    /// The hard limits that are wanted from the next login on. Once they are in force no later step asks for them.
    #[serde(default)]
    limits: Limits,
    files: Vec<Written>,
    /// Folders that did not exist, outermost first.
    folders: Vec<String>,
}

/// The boot and the network namespace in which settings were changed. Many settings belong to one network namespace,
/// whose name means nothing after the next boot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Place {
    boot: Option<String>,
    network: Option<String>,
}

/// A sysctl that was changed, or is about to be.
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
    was: Option<Content>,
}

/// A file's text and permissions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    text: String,
    mode: u32,
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

impl State {
    /// The values and files that are there now, where these settings, limits and files are to be.
    pub fn now(host: &Host, settings: &[Setting], limits: Limits, paths: &[&str]) -> Result<State> {
        let turned = |setting: &Setting| Turned {
            name: setting.name.to_owned(),
            was: host.sysctl_text(setting.name).unwrap_or_else(|| setting.now.clone()),
            then: setting.then.clone(),
            reason: setting.reason.clone(),
        };
        let written = |path: &&str| Ok(Written { path: (*path).to_owned(), was: Content::read(&host.path(path))? });
        let missing = |path: &&str| {
            let above = Path::new(path).ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
            let folders = above.filter(|folder| !host.path(&folder.to_string_lossy()).exists());
            let mut folders: Vec<String> = folders.map(|folder| folder.to_string_lossy().into_owned()).collect();
            folders.reverse();
            folders
        };
        Ok(State {
            version: VERSION,
            place: Place::here(host),
            settings: settings.iter().map(turned).collect(),
            limits,
            files: paths.iter().map(written).collect::<Result<_>>()?,
            folders: paths.iter().flat_map(missing).collect(),
        })
    }

    /// Several steps as one: what was there before the first step, the value that the last step wants of each setting, and
    /// the highest of each limit.
    pub fn merged(before: Option<State>, step: &State) -> State {
        let Some(mut all) = before else { return step.clone() };
        (all.version, all.place) = (VERSION, step.place.clone());
        all.limits = all.limits.higher(step.limits);
        for new in &step.settings {
            match all.settings.iter_mut().find(|turned| turned.name == new.name) {
                Some(known) => (known.then, known.reason) = (new.then.clone(), new.reason.clone()),
                None => all.settings.push(new.clone()),
            }
        }
        for new in &step.files {
            if all.files.iter().all(|known| known.path != new.path) {
                all.files.push(new.clone());
            }
        }
        let fresh: Vec<_> = step.folders.iter().filter(|folder| !all.folders.contains(folder)).cloned().collect();
        all.folders.extend(fresh);
        all
    }

    /// The same, but for settings that are none of the step's: of each the value wanted gives no less than the one in force. The
    /// host's administrator may have raised it since it was applied, and the file of `--persist` is read last at the next boot.
    pub fn never_lower(mut self, host: &Host, step: &[Setting]) -> State {
        let others = self.settings.iter_mut().filter(|kept| step.iter().all(|setting| setting.name != kept.name));
        for kept in others {
            if let Some(now) = host.sysctl_text(&kept.name) {
                kept.then = higher(&kept.name, &kept.then, &now);
            }
        }
        self
    }

    /// Whether the state knows what was there before a file.
    pub fn knows(&self, path: &str) -> bool {
        self.files.iter().any(|written| written.path == path)
    }

    /// Restores these files.
    pub fn restore_files(&self, host: &Host, paths: &[&str]) -> Result<()> {
        let mut mine = self.files.iter().filter(|written| paths.contains(&written.path.as_str()));
        mine.try_for_each(|written| written.restore(host).map(drop))
    }

    /// The hard limits that are wanted.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Name, wanted value and reason of each setting.
    pub fn wanted(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.settings.iter().map(|turned| (&*turned.name, &*turned.then, &*turned.reason))
    }

    /// Whether there may be a state, or what a process has left that was killed before it had written one: their folder is
    /// there.
    pub fn may_be_there(host: &Host) -> bool {
        host.path(FILE).parent().is_some_and(Path::exists)
    }

    /// The state that was written, if there is one.
    ///
    /// Fails when the file is not a state of c1m's, or when it belongs to another network namespace.
    pub fn read(host: &Host) -> Result<Option<State>> {
        let path = host.path(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", &path, &error)),
        };
        let refuse = |why: String, cure: &str| {
            let means = "it is not the state that this c1m tune writes, so nothing was changed";
            // The reason may quote the file, and an error is one line.
            CommandError::host(format!("{}: {}", path.display(), why.replace(char::is_control, " ")), means, cure)
        };
        let by_hand = "look at it; remove it if what it names is set back by hand";
        let document: serde_json::Value = serde_json::from_str(&text).map_err(|e| refuse(e.to_string(), by_hand))?;
        if let Some(version) = document["version"].as_u64().filter(|version| *version > VERSION.into()) {
            return Err(refuse(format!("version {version}"), "use the c1m that wrote it"));
        }
        let state: State = serde_json::from_value(document).map_err(|e| refuse(e.to_string(), by_hand))?;
        let here = Place::here(host);
        if state.place.boot == here.boot && state.place.network != here.network {
            return Err(CommandError::host(
                format!("{}: settings of {:?}", path.display(), state.place.network.unwrap_or_default()),
                "they were made in another network namespace, so nothing was changed",
                "run it there (nsenter, ip netns exec)",
            ));
        }
        Ok(Some(state))
    }

    /// Writes the state into its file. It is there after a power cut.
    pub fn write(&self, host: &Host) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|e| CommandError::bug(format!("JSON: {e}")))?;
        replace(&host.path(FILE), &text, None)
    }

    /// Removes the file: everything is restored.
    pub fn forget(host: &Host) -> Result<()> {
        remove(&host.path(FILE))?;
        State::clear_away(host);
        Ok(())
    }

    /// Removes the incomplete file that a killed process may have left. If it cannot be removed it does no harm.
    pub fn clear_away(host: &Host) {
        let path = host.path(FILE);
        let _ = fs::remove_file(scrap(&path));
        // The folder stays if somebody else has a file in it.
        let _ = path.parent().map(fs::remove_dir);
    }

    /// Restores every setting, file and folder.
    ///
    /// Fails with the first error, after everything else is restored.
    pub fn restore(&self, host: &Host) -> Result<Reverted> {
        let mut reverted = Reverted::default();
        let mut failures = Vec::new();
        for turned in self.settings.iter().rev() {
            match turned.restore(host) {
                Ok(Restored::Changed) => reverted.settings.push((turned.name.clone(), turned.was.clone())),
                Ok(Restored::Gone) => reverted.gone.push(turned.name.clone()),
                Ok(Restored::Same) => {}
                Err(error) => failures.push(error),
            }
        }
        for written in &self.files {
            match written.restore(host) {
                Ok(true) => reverted.files.push(host.path(&written.path)),
                Ok(false) => {}
                Err(error) => failures.push(error),
            }
        }
        for folder in self.folders.iter().rev() {
            // Somebody else may have put something there.
            let _ = fs::remove_dir(host.path(folder));
        }
        failures.into_iter().next().map_or(Ok(reverted), Err)
    }
}

impl Place {
    fn here(host: &Host) -> Place {
        let boot = match host.reading("proc/sys/kernel/random/boot_id") {
            Reading::Text(text) => Some(text),
            _ => None,
        };
        Place { boot, network: host.network_namespace() }
    }
}

/// The outcome of restoring a sysctl.
enum Restored {
    Changed,
    Same,
    Gone,
}

impl Turned {
    fn restore(&self, host: &Host) -> Result<Restored> {
        match host.sysctl_reading(&self.name) {
            Reading::Absent => return Ok(Restored::Gone),
            Reading::Text(now) if now == self.was => return Ok(Restored::Same),
            Reading::Text(_) | Reading::Refused(_) => {}
        }
        super::set(host, &self.name, &self.was)?;
        match host.sysctl_text(&self.name) {
            Some(now) if now != self.was => Err(CommandError::host(
                format!("{} is {now} after {} was written", self.name, self.was),
                "the kernel does not take the value it had before",
                "set it by hand, then run c1m tune --revert again",
            )),
            _ => Ok(Restored::Changed),
        }
    }
}

impl Written {
    /// Returns whether there was anything to do.
    fn restore(&self, host: &Host) -> Result<bool> {
        let path = host.path(&self.path);
        remove(&scrap(&path))?;
        if Content::read(&path).ok() == Some(self.was.clone()) {
            return Ok(false);
        }
        match &self.was {
            Some(content) => replace(&path, &content.text, Some(content.mode))?,
            None => remove(&path)?,
        }
        Ok(true)
    }
}

impl Content {
    /// Reads a file; `None` where there is none. Fails for anything but a plain text file, which could not be restored
    /// exactly.
    fn read(path: &Path) -> Result<Option<Content>> {
        let found = match fs::symlink_metadata(path) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed("read", path, &error)),
        };
        let refuse = || {
            let means = "c1m tune could not put it back as it was, so nothing was changed";
            CommandError::host(format!("{} is no plain text file", path.display()), means, "move it away")
        };
        if !found.is_file() {
            return Err(refuse());
        }
        let bytes = fs::read(path).map_err(|error| failed("read", path, &error))?;
        let text = String::from_utf8(bytes).map_err(|_| refuse())?;
        Ok(Some(Content { text, mode: found.permissions().mode() & 0o7777 }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A step: for each name the value found and the value wanted, the limits wanted, and the files found.
    fn step(settings: &[(u8, u8, u8)], limits: Limits, files: &[(u8, Option<u8>)]) -> State {
        let turned = |(name, was, then): &(u8, u8, u8)| Turned {
            name: name.to_string(),
            was: was.to_string(),
            then: then.to_string(),
            reason: String::new(),
        };
        let written = |(path, was): &(u8, Option<u8>)| Written {
            path: path.to_string(),
            was: was.map(|text| Content { text: text.to_string(), mode: 0o644 }),
        };
        State {
            version: VERSION,
            place: Place::default(),
            settings: settings.iter().map(turned).collect(),
            limits,
            files: files.iter().map(written).collect(),
            folders: Vec::new(),
        }
    }

    proptest! {
        /// However many steps: each name once, with the first value found and the last one wanted; and of the limits the
        /// highest.
        #[test]
        fn the_first_value_is_kept_and_the_last_one_wanted(
            steps in prop::collection::vec((prop::collection::btree_map(0u8..6, (any::<u8>(), any::<u8>()), 0..6), any::<(Option<u64>, Option<u64>)>(), prop::collection::btree_map(0u8..3, any::<Option<u8>>(), 0..3)), 1..8)
        ) {
            let mut all = None;
            for (settings, (nofile, memlock), files) in &steps {
                let settings: Vec<_> = settings.iter().map(|(name, (was, then))| (*name, *was, *then)).collect();
                let files: Vec<_> = files.iter().map(|(path, was)| (*path, *was)).collect();
                let limits = Limits { files: *nofile, memory: *memlock };
                all = Some(State::merged(all, &step(&settings, limits, &files)));
            }
            let all = all.unwrap();
            for name in 0..6u8 {
                let seen: Vec<_> = steps.iter().filter_map(|(settings, ..)| settings.get(&name)).collect();
                let kept: Vec<_> = all.settings.iter().filter(|turned| turned.name == name.to_string()).collect();
                prop_assert_eq!(kept.len(), usize::from(!seen.is_empty()));
                if let (Some(kept), Some(first), Some(last)) = (kept.first(), seen.first(), seen.last()) {
                    prop_assert_eq!((&kept.was, &kept.then), (&first.0.to_string(), &last.1.to_string()));
                }
            }
            let files = steps.iter().filter_map(|(_, (nofile, _), _)| *nofile).max();
            let memory = steps.iter().filter_map(|(_, (_, memlock), _)| *memlock).max();
            prop_assert_eq!(all.limits(), Limits { files, memory });
            for path in 0..3u8 {
                let first = steps.iter().find_map(|(.., files)| files.get(&path));
                let kept: Vec<_> = all.files.iter().filter(|written| written.path == path.to_string()).collect();
                prop_assert_eq!(kept.len(), usize::from(first.is_some()));
                if let (Some(kept), Some(first)) = (kept.first(), first) {
                    prop_assert_eq!(kept.was.as_ref().map(|content| content.text.clone()), first.map(|text| text.to_string()));
                }
            }
        }
    }
}
