//! Files that are read after those of `--persist`, at boot or login, and set the same things to less. A line that sets
//! the same value or a more generous one does no harm.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::values::is_less;
use crate::host::Host;
use crate::walls::Limits;

/// The folders of sysctl.d(5). A file in one of them hides a file of the same name in the later ones.
const SYSCTL_FOLDERS: [&str; 5] =
    ["etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d", "lib/sysctl.d"];

/// The file that `sysctl --system` of procps reads last, whatever the names of the others.
const SYSCTL_CONF: &str = "etc/sysctl.conf";

/// The file that pam_limits reads first, and the folder whose files it reads then.
const LIMITS_CONF: &str = "etc/security/limits.conf";
const LIMITS_FOLDER: &str = "etc/security/limits.d";

/// The files of all folders that are read after `file`, in the order in which they are read.
fn later(host: &Host, folders: &[&str], file: &str) -> Vec<PathBuf> {
    let mut files: BTreeMap<OsString, PathBuf> = BTreeMap::new();
    for folder in folders {
        for entry in fs::read_dir(host.path(folder)).into_iter().flatten().flatten() {
            files.entry(entry.file_name()).or_insert_with(|| entry.path());
        }
    }
    let own = PathBuf::from(file).file_name().map(ToOwned::to_owned).unwrap_or_default();
    let read = |name: &OsString| name.to_string_lossy().ends_with(".conf");
    files.into_iter().filter(|(name, _)| read(name) && *name > own).map(|(_, path)| path).collect()
}

/// Bytes of a file that are read: far more than any file of settings has.
const LONGEST_FILE: u64 = 1 << 20;

/// The text of a regular file. A pipe or a device has none, as it may never end. Bytes that are not UTF-8 are
/// replaced, as a comment may have them.
fn text_of(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    // The kind of file is looked at first: opening a pipe waits for a process that writes to it.
    fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
    File::open(path).ok()?.take(LONGEST_FILE).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The value that a file of sysctls leaves in force for one of them; `None` if it does not set that one.
fn value_in(text: &str, name: &str) -> Option<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    let mut set = lines.filter_map(|line| {
        let (key, value) = line.trim_start_matches('-').split_once('=')?;
        // A name may be written with dots or with slashes.
        (key.trim().replace('/', ".") == name).then(|| value.split_whitespace().collect::<Vec<_>>().join(" "))
    });
    set.next_back()
}

/// One line for each of these sysctls (name and value) that a file sets to less after `file`.
pub fn of_sysctls<'a>(host: &Host, file: &str, wanted: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<String> {
    let by_name = later(host, &SYSCTL_FOLDERS, file);
    let last = host.path(SYSCTL_CONF);
    let mut lines = Vec::new();
    for (name, then) in wanted {
        let in_file = |path: &PathBuf| Some((path.clone(), value_in(&text_of(path)?, name)?));
        // systemd-sysctl reads the folders alone; procps reads one file more.
        let systemd = by_name.iter().filter_map(in_file).next_back();
        let procps = in_file(&last).or_else(|| systemd.clone());
        let mut said = None;
        for (path, value) in [systemd, procps].into_iter().flatten() {
            if is_less(name, &value, then) && said.as_ref() != Some(&path) {
                lines.push(format!(
                    "{} sets {name} = {value} after /{file}: the next boot has that, and not {}; remove the line there, or raise it",
                    path.display(),
                    then.replace('\t', " ")
                ));
                said = Some(path);
            }
        }
    }
    lines
}

/// One line for each entry of pam_limits that allows less than `file` does. An entry for a user or a group comes before
/// one for `*`, wherever they stand; of two for `*` or for root the later one counts.
pub fn of_limits(host: &Host, file: &str, limits: Limits) -> Vec<String> {
    let before = later(host, &[LIMITS_FOLDER], "").into_iter();
    let after = later(host, &[LIMITS_FOLDER], file);
    let own = host.path(file);
    let all = std::iter::once(host.path(LIMITS_CONF)).chain(before).filter(|path| *path != own);
    let mut lines = Vec::new();
    for path in all {
        let text = text_of(&path).unwrap_or_default();
        for line in text.lines().map(|line| line.split('#').next().unwrap_or_default()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [who, kind, item, value] = words[..] else { continue };
            let wanted = limits.items().into_iter().find(|(name, _)| *name == item).and_then(|(_, value)| value);
            let counts = after.contains(&path) || !matches!(who, "*" | "root");
            // A value that is no number is "unlimited".
            let less = wanted.zip(value.parse::<u64>().ok()).is_some_and(|(wanted, value)| value < wanted);
            if less && counts && matches!(kind, "-" | "hard" | "soft") {
                lines.push(format!(
                    "{} sets {who} {kind} {item} {value}, which counts before what /{file} sets; remove the line there, or raise it",
                    path.display()
                ));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_sysctl_reads_them() {
        let text =
            "# net.core.somaxconn = 1\n; net.core.somaxconn=2\n-net/core/somaxconn = 3\n net.core.somaxconn=4 \n";
        assert_eq!(value_in(text, "net.core.somaxconn").as_deref(), Some("4"));
        assert_eq!(value_in("net/ipv4/tcp_rmem = 1\t2 3\n", "net.ipv4.tcp_rmem").as_deref(), Some("1 2 3"));
        assert_eq!(value_in(text, "net.core.somaxconn2"), None);
    }
}
