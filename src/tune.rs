//! Turns knobs, and turns them back: every change is written down in a state file before it is
//! made, so that `revert` restores exactly what was there, whatever happened in between.

mod durable;
mod overrides;
pub(crate) mod state;

use crate::command_error::{CommandError, Result};
use crate::error::Errno;
use crate::host::Host;
use crate::walls::{Limits, Setting};
use durable::{remove, replace};
use state::State;

pub use state::Reverted;

/// The files of `--persist`, below the host's root. Both are read in the order of their names, and what is
/// read last counts: Debian's 99-sysctl.conf comes before them.
pub const SYSCTL_FILE: &str = "etc/sysctl.d/zz-c1m.conf";
/// See `SYSCTL_FILE`.
pub const LIMITS_FILE: &str = "etc/security/limits.d/zz-c1m.conf";

/// What they were called before; such a file of ours gives way to the new one.
const EARLIER: [&str; 2] = ["etc/sysctl.d/99-c1m.conf", "etc/security/limits.d/99-c1m.conf"];

/// How a file of ours begins.
const HEADER: &str = "# Written by `c1m tune --persist`; `c1m tune --revert` removes it.\n";

/// The files of ours with an earlier name that are there.
fn earlier(host: &Host) -> Vec<&'static str> {
    EARLIER.into_iter().filter(|path| is_ours(host, path)).collect()
}

/// Whether `--persist` wrote a file.
fn is_ours(host: &Host, path: &str) -> bool {
    std::fs::read_to_string(host.path(path)).is_ok_and(|text| text.starts_with(HEADER))
}

/// One line for each setting that somebody else sets to less after the files of `--persist` are read, at the
/// next boot or login, with the file that does.
pub fn overridden(host: &Host, limits: Limits) -> Result<Vec<String>> {
    let kept = State::read(host)?;
    let wanted = kept.iter().flat_map(State::wanted).map(|(name, then, _)| (name, then));
    let mut lines = overrides::of_sysctls(host, SYSCTL_FILE, wanted);
    lines.extend(overrides::of_limits(host, LIMITS_FILE, limits));
    Ok(lines)
}

/// Sets all of these or none, and writes them to /etc for the next boot if `persist` says so,
/// together with those that an earlier `apply` set. Returns whether there was anything to do.
///
/// Fails with a host error, everything as it was, when this process may not write one of them, or
/// when the kernel does not take a value.
pub fn apply(host: &Host, settings: &[Setting], persist: Option<Limits>) -> Result<bool> {
    if let Some(setting) = settings.iter().find(|setting| !host.may_write_sysctl(setting.name)) {
        return Err(CommandError::host(
            format!("{} cannot be written", setting.name),
            "nothing was changed: this process lacks the right, or a network namespace or container hides it",
            "run it as root, in the host's own network namespace",
        ));
    }
    let before = State::read(host)?;
    // Those of an earlier name are taken over from the state that knows what was there before them.
    let known = |path: &&str| before.as_ref().is_some_and(|before| before.knows(path));
    let replaced: Vec<&str> = earlier(host).into_iter().filter(|path| persist.is_some() && known(path)).collect();
    let own: &[&str] = if persist.is_some() { &[SYSCTL_FILE, LIMITS_FILE] } else { &[] };
    let step = State::now(host, settings, &[own, &replaced].concat())?;
    let kept = State::merged(before.clone(), &step);
    let files = persist.map(|limits| files(&kept, limits)).unwrap_or_default();
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

/// Whether what the kernel took is what was asked for; a single number it may have rounded up.
fn at_least(taken: &str, asked: &str) -> bool {
    let more = || Some(taken.parse::<u64>().ok()? >= asked.parse::<u64>().ok()?);
    taken.split_whitespace().eq(asked.split_whitespace()) || more().unwrap_or(false)
}

/// The failure of an `apply`, and whether what it had done is undone. A bug among them stays one.
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

/// Restores what was there before the first `apply`; `None` if nothing was applied.
///
/// Fails with a host error when something could not be restored; all else is restored, the state
/// is kept, and another `revert` tries again.
pub fn revert(host: &Host) -> Result<Option<Reverted>> {
    let Some(state) = State::read(host)? else {
        // Killed before its first state was complete, an `apply` leaves a scrap and nothing else.
        State::clear_away(host);
        // A file of ours whose state was lost has nothing to go back to.
        let lost: Vec<_> =
            [SYSCTL_FILE, LIMITS_FILE].into_iter().filter(|path| is_ours(host, path)).chain(earlier(host)).collect();
        let removed =
            lost.iter().map(|path| remove(&host.path(path)).map(|()| host.path(path))).collect::<Result<Vec<_>>>()?;
        return Ok((!removed.is_empty()).then(|| Reverted { files: removed, ..Reverted::default() }));
    };
    let reverted = state.restore(host)?;
    State::forget(host)?;
    Ok(Some(reverted))
}

/// The sysctl file of these settings: name, value, and a comment with the reason.
pub fn sysctl_conf<'a>(settings: impl Iterator<Item = (&'a str, &'a str, &'a str)>) -> String {
    let line = |(name, then, reason): (&str, &str, &str)| {
        // Conntrack's are there once its module is loaded, which at boot may be later.
        let lenient = if name.starts_with("net.netfilter.") { "-" } else { "" };
        format!("\n# {reason}\n{lenient}{name} = {}\n", then.replace('\t', " "))
    };
    settings.map(line).collect()
}

fn files(kept: &State, limits: Limits) -> Vec<(&'static str, String)> {
    let (settings, limits) = (sysctl_conf(kept.wanted()), limits.lines());
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
