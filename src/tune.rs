//! Sets what a goal needs of this host, and sets it back. Every change is written into a state file before it is made,
//! so that `revert` restores exactly what was there, whatever happened in between.

mod durable;
mod lock;
mod overrides;
pub(crate) mod state;
mod values;

use crate::command_error::{CommandError, Result};
use crate::error::Errno;
use crate::host::Host;
use crate::walls::{Limits, Setting};
use durable::{remove, replace};
use lock::Lock;
use state::State;

pub use state::Reverted;

/// The files that `--persist` writes, below the host's root. The programs that read them take a folder's files in the
/// order of their names, and the last value counts. So the names come after Debian's 99-sysctl.conf.
pub const SYSCTL_FILE: &str = "etc/sysctl.d/zz-c1m.conf";
/// See `SYSCTL_FILE`.
pub const LIMITS_FILE: &str = "etc/security/limits.d/zz-c1m.conf";

/// The names of these files in an earlier version, whose files are replaced.
const EARLIER: [&str; 2] = ["etc/sysctl.d/99-c1m.conf", "etc/security/limits.d/99-c1m.conf"];

/// The first line of every file that `--persist` writes.
const HEADER: &str = "# Written by `c1m tune --persist`; `c1m tune --revert` removes it.\n";

/// The files of an earlier version that exist.
fn earlier(host: &Host) -> Vec<&'static str> {
    EARLIER.into_iter().filter(|path| is_ours(host, path)).collect()
}

/// Whether `--persist` wrote a file: it then begins with the header.
fn is_ours(host: &Host, path: &str) -> bool {
    std::fs::read_to_string(host.path(path)).is_ok_and(|text| text.starts_with(HEADER))
}

/// One line for each setting that another file lowers at the next boot or login, after the files of `--persist` are
/// read. The line names that file.
pub fn overridden(host: &Host) -> Result<Vec<String>> {
    let Some(kept) = State::read(host)? else { return Ok(Vec::new()) };
    let wanted = kept.wanted().map(|(name, then, _)| (name, then));
    let mut lines = overrides::of_sysctls(host, SYSCTL_FILE, wanted);
    lines.extend(overrides::of_limits(host, LIMITS_FILE, kept.limits()));
    Ok(lines)
}

/// Sets all settings or none. With `persist` it also writes them and these limits to /etc for the next boot, together with
/// those that an earlier `apply` set. Returns whether there was anything to do. Another process that changes settings is
/// waited for.
///
/// Fails when this process may not write one of the settings, when another process has changed one since it was judged, or
/// when the kernel does not take a value. Everything is then as it was, or the error says that it is not.
pub fn apply(host: &Host, settings: &[Setting], persist: Option<Limits>) -> Result<bool> {
    if let Some(setting) = settings.iter().find(|setting| !host.may_write_sysctl(setting.name)) {
        return Err(CommandError::host(
            format!("{} cannot be written", setting.name),
            "nothing was changed: this process lacks the right, or a network namespace or container hides it",
            "run it as root, in the host's own network namespace",
        ));
    }
    let wants_no_limit = persist.is_none_or(|limits| limits == Limits::default());
    if settings.is_empty() && wants_no_limit && (persist.is_none() || State::read(host)?.is_none()) {
        return Ok(false);
    }
    let _lock = Lock::take(host)?;
    check_unchanged(host, settings)?;
    let before = State::read(host)?;
    // A file with an earlier name is taken over if the state knows what was there before it.
    let known = |path: &&str| before.as_ref().is_some_and(|before| before.knows(path));
    let replaced: Vec<&str> = earlier(host).into_iter().filter(|path| persist.is_some() && known(path)).collect();
    let own: &[&str] = if persist.is_some() { &[SYSCTL_FILE, LIMITS_FILE] } else { &[] };
    let step = State::now(host, settings, persist.unwrap_or_default(), &[own, &replaced].concat())?;
    let kept = State::merged(before.clone(), &step).never_lower(host, settings);
    let files = persist.map(|_| files(&kept)).unwrap_or_default();
    if settings.is_empty() && files.is_empty() {
        return Ok(false);
    }
    if let Err(error) = kept.write(host) {
        State::clear_away(host);
        return Err(error);
    }
    let written = || {
        files.iter().try_for_each(|(path, text)| replace(&host.path(path), text, None))?;
        kept.restore_files(host, &replaced)
    };
    turn(host, settings).and_then(|()| written()).map_err(|error| {
        let undone = step.restore(host).and_then(|_| match before {
            Some(before) => before.write(host),
            None => State::forget(host),
        });
        with_aftermath(error, undone)
    })?;
    Ok(true)
}

/// Fails where a setting is no more what it was when the goal was judged: the value that was found to suffice then may be a
/// lower one now.
fn check_unchanged(host: &Host, settings: &[Setting]) -> Result<()> {
    for setting in settings {
        if let Some(now) = host.sysctl_text(setting.name).filter(|now| *now != setting.now) {
            return Err(CommandError::host(
                format!("{} is {now}, and was {} a moment ago", setting.name, setting.now).replace('\t', " "),
                "another program changes settings too, so nothing was changed",
                "run it again",
            ));
        }
    }
    Ok(())
}

fn turn(host: &Host, settings: &[Setting]) -> Result<()> {
    for setting in settings {
        set(host, setting.name, &setting.then)?;
        let taken = host.sysctl_text(setting.name).unwrap_or_default();
        if !at_least(&taken, &setting.then) {
            return Err(CommandError::host(
                format!("{} is {taken} after {} was written", setting.name, setting.then),
                "the kernel does not take that value",
                "ask for fewer connections, or set it by hand",
            ));
        }
    }
    Ok(())
}

/// Sets a sysctl.
fn set(host: &Host, name: &str, value: &str) -> Result<()> {
    host.write_sysctl(name, value).map_err(|error| {
        CommandError::host(
            format!("set {name} to {value}: {}", Errno::of(&error)),
            "the kernel refuses it, or this process may not",
            "run it as root, in the host's own network namespace",
        )
    })
}

/// Whether the kernel took what was asked for. It may have rounded a single number up.
fn at_least(taken: &str, asked: &str) -> bool {
    let more = || Some(taken.parse::<u64>().ok()? >= asked.parse::<u64>().ok()?);
    taken.split_whitespace().eq(asked.split_whitespace()) || more().unwrap_or(false)
}

/// The failure of an `apply`, with a word on whether its changes were undone. A bug in either stays a bug.
fn with_aftermath(mut error: CommandError, undone: Result<()>) -> CommandError {
    match undone {
        Ok(()) => error.told.means += "; everything was set back",
        Err(second) => {
            error.blame = error.blame.max(second.blame);
            error.told.means += &format!("; not everything could be set back ({})", second.told.saw);
            error.told.cure += ", and run c1m tune --revert";
        }
    }
    error
}

/// Restores what was there before the first `apply`; `None` if nothing was applied. Another process that changes settings is
/// waited for.
///
/// Fails when something could not be restored. All else is restored then, the state is kept, and another `revert` tries
/// again.
pub fn revert(host: &Host) -> Result<Option<Reverted>> {
    if !State::may_be_there(host) && written(host).is_empty() {
        return Ok(None);
    }
    let _lock = Lock::take(host)?;
    let Some(state) = State::read(host)? else {
        // An `apply` that was killed before its first state was complete leaves an incomplete file, and nothing else.
        State::clear_away(host);
        // Without its state it is not known what was there before a file of ours, so the file is removed.
        let remove = |path: &str| remove(&host.path(path)).map(|()| host.path(path));
        let removed = written(host).into_iter().map(remove).collect::<Result<Vec<_>>>()?;
        return Ok((!removed.is_empty()).then(|| Reverted { files: removed, ..Reverted::default() }));
    };
    let reverted = state.restore(host)?;
    State::forget(host)?;
    Ok(Some(reverted))
}

/// The files that `--persist` wrote.
fn written(host: &Host) -> Vec<&'static str> {
    [SYSCTL_FILE, LIMITS_FILE].into_iter().filter(|path| is_ours(host, path)).chain(earlier(host)).collect()
}

/// The text of a sysctl file: name and value of each setting, and its reason as a comment.
pub fn sysctl_conf<'a>(settings: impl Iterator<Item = (&'a str, &'a str, &'a str)>) -> String {
    let line = |(name, then, reason): (&str, &str, &str)| {
        // The settings of connection tracking exist once its module is loaded, which may be later in the boot. The
        // minus makes a missing one no error.
        let lenient = if name.starts_with("net.netfilter.") { "-" } else { "" };
        format!("\n# {reason}\n{lenient}{name} = {}\n", then.replace('\t', " "))
    };
    settings.map(line).collect()
}

fn files(kept: &State) -> Vec<(&'static str, String)> {
    let (settings, limits) = (sysctl_conf(kept.wanted()), kept.limits().lines());
    [(SYSCTL_FILE, settings), (LIMITS_FILE, limits)]
        .into_iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(path, text)| (path, format!("{HEADER}{text}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_error::Blame;

    #[test]
    fn what_follows_a_failure_does_not_make_it_less() {
        let host = || CommandError::host("a", "b", "c");
        let bug = || CommandError::bug("d");
        let told = |error, undone| with_aftermath(error, undone);
        assert_eq!(told(host(), Ok(())).to_string(), "a: b; everything was set back; c");
        let both = told(host(), Err(bug()));
        assert_eq!((both.blame, both.told.means.as_str()), (Blame::Bug, "b; not everything could be set back (d)"));
        assert_eq!(told(bug(), Err(host())).blame, Blame::Bug);
        assert_eq!(told(bug(), Ok(())).exit_code(), 70);
        assert_eq!(told(host(), Err(host())).exit_code(), 3);
    }
}
