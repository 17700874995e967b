//! Which file a path leads to, so that two paths to one file are recognised.

use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io;
use std::iter;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::command_error::{CommandError, Result};

/// The most symbolic links that a path may lead through, as in the kernel (`MAXSYMLINKS`).
const MOST_LINKS: usize = 40;

/// Linux's device number of /dev/null, which is never full: major 1, minor 3.
const NULL_DEVICE: u64 = 1 << 8 | 3;

/// The file or name that a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Place {
    /// An existing file: file system and inode.
    There(u64, u64),
    /// A name in a folder, for a file that does not exist yet.
    New(u64, u64, OsString),
}

impl Place {
    fn of(found: &Metadata) -> Place {
        Place::There(found.dev(), found.ino())
    }
}

/// The place of a path; `-` is standard output. `None` for /dev/null, and for paths where nothing can be written.
fn place(path: &Path) -> Option<Place> {
    let found = if path.as_os_str() == "-" { stdout_metadata() } else { fs::metadata(path) };
    if let Ok(found) = found {
        let is_null = found.file_type().is_char_device() && found.rdev() == NULL_DEVICE;
        return (!is_null).then(|| Place::of(&found));
    }
    let path = end_of_links(path);
    let folder = fs::metadata(folder(&path)).ok()?;
    Some(Place::New(folder.dev(), folder.ino(), path.file_name()?.to_owned()))
}

fn stdout_metadata() -> io::Result<Metadata> {
    metadata_of(&io::stdout())
}

fn metadata_of(stream: &impl AsFd) -> io::Result<Metadata> {
    stream.as_fd().try_clone_to_owned().and_then(|fd| File::from(fd).metadata())
}

/// The folder that holds a path's last name.
pub(super) fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A path, and each path that its symbolic links lead to.
fn links(path: &Path) -> impl Iterator<Item = PathBuf> {
    let next = |at: &PathBuf| Some(folder(at).join(fs::read_link(at).ok()?));
    iter::successors(Some(path.to_owned()), next).take(MOST_LINKS)
}

/// The path at the end of a path's symbolic links.
pub(super) fn end_of_links(path: &Path) -> PathBuf {
    links(path).last().unwrap_or_else(|| path.to_owned())
}

/// Whether a path leads through a process's descriptors, such as /dev/stderr or /dev/fd/3.
pub(super) fn is_descriptor(path: &Path) -> bool {
    let is_one = |at: PathBuf| {
        folder(&at).canonicalize().is_ok_and(|folder| folder.starts_with("/proc") && folder.ends_with("fd"))
    };
    links(path).any(is_one)
}

/// Whether a path is standard output: `-`, or a path such as /dev/stdout that leads to this process's own
/// descriptor 1.
pub fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-" || is_own(path, "1")
}

/// Whether a path leads to this process's own descriptor of that number.
fn is_own(path: &Path, descriptor: &str) -> bool {
    let ours = fs::canonicalize("/proc/self/fd").ok();
    let is_it = |at: PathBuf| {
        at.file_name().is_some_and(|name| name == descriptor)
            && ours.is_some()
            && folder(&at).canonicalize().ok() == ours
    };
    links(path).any(is_it)
}

/// Whether standard output leads to a regular file.
pub fn prints_to_file() -> bool {
    stdout_metadata().is_ok_and(|found| found.is_file())
}

/// Checks that outputs, each given with its option, are different places. Any number of them may be /dev/null. If
/// standard output or standard error is a regular file, that file counts as the place of the printed text, which both of
/// them may share. Returns a usage error for two outputs with one place.
pub fn differ(outputs: &[(&str, Option<&Path>)]) -> Result<()> {
    let one_place = |other: &str, flag: &str, path: &Path| {
        Err(CommandError::usage(
            format!("{other} and {flag} {} are one place", path.display()),
            "one would overwrite the other",
            "give each a file of its own",
        ))
    };
    let mut given: Vec<(&str, &Path)> = outputs.iter().filter_map(|(flag, path)| Some((*flag, (*path)?))).collect();
    let stderr = metadata_of(&io::stderr()).ok().filter(Metadata::is_file).map(|found| Place::of(&found));
    let is_stderr = |path: &Path| !is_stdout(path) && !is_own(path, "2") && place(path) == stderr;
    if let Some((flag, path)) = given.iter().find(|(_, path)| stderr.is_some() && is_stderr(path)) {
        return one_place("standard error", flag, path);
    }
    if prints_to_file() && !given.iter().any(|(_, path)| is_stdout(path)) {
        given.push(("standard output", Path::new("-")));
    }
    for (at, (flag, path)) in given.iter().enumerate() {
        let is_same = |other: &Path| {
            (is_stdout(path) && is_stdout(other)) || place(path).is_some_and(|one| Some(one) == place(other))
        };
        if let Some((other_flag, other)) = given[..at].iter().find(|(_, other)| is_same(other)) {
            return one_place(&format!("{other_flag} {}", other.display()), flag, path);
        }
    }
    Ok(())
}

/// Checks that no output would replace one of the input files with a document of another kind. Returns a usage
/// error otherwise.
pub fn keep_inputs(inputs: &[&Path], outputs: &[(&str, Option<&Path>)]) -> Result<()> {
    let is_file = |path: &&&Path| fs::metadata(path).is_ok_and(|found: Metadata| found.is_file());
    for input in inputs.iter().filter(is_file) {
        let is_same = |path: &Path| place(path).is_some_and(|one| Some(one) == place(input));
        let given = outputs.iter().filter_map(|(flag, path)| Some((*flag, (*path)?)));
        if let Some((flag, path)) = given.into_iter().find(|(_, path)| is_same(path)) {
            return Err(CommandError::usage(
                format!("{flag} {} is the file {} that is read", path.display(), input.display()),
                "a document of another kind would replace it",
                "write to a file of its own",
            ));
        }
    }
    Ok(())
}
