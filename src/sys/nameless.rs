//! Files without a name, which the kernel removes with the last descriptor of them.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, linkat};

/// Opens a new file without a name in a folder, for writing. Fails with EOPNOTSUPP where the file system has none.
pub fn open_nameless(folder: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).custom_flags(libc::O_TMPFILE).open(folder)
}

/// Gives a file its first name. Fails with EEXIST if another file has that name.
pub fn give_name(file: &File, path: &Path) -> io::Result<()> {
    Ok(linkat(CWD, path_of(file), CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

/// The path of an open file through its descriptor. It leads to the file even if that has no other name.
pub fn path_of(file: &impl AsFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
}
