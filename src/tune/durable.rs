//! Files that are either the old or the new one, also after a crash or a power cut.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{ErrorKind, Result as IoResult, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::command_error::{CommandError, Result};
use crate::error::Errno;

/// The name of the new file until it is complete. No program reads a file of that name in the folders of sysctl.d(5)
/// and limits.d.
pub fn scrap(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// Writes a file, and makes the folders that are missing.
pub fn replace(path: &Path, text: &str, mode: Option<u32>) -> Result<()> {
    let write = || -> IoResult<()> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        make_folder(folder)?;
        let new = scrap(path);
        let fill = || -> IoResult<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(&new)?;
            if let Some(mode) = mode {
                file.set_permissions(Permissions::from_mode(mode))?;
            }
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&new, path)
        };
        fill().inspect_err(|_| drop(fs::remove_file(&new)))?;
        sync(folder)
    };
    write().map_err(|error| failed("write", path, &error))
}

/// Removes a file, if it exists. It stays removed after a power cut.
pub fn remove(path: &Path) -> Result<()> {
    // A read-only file system refuses to remove what is not even there.
    if fs::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return Ok(());
    }
    let gone = fs::remove_file(path).and_then(|()| sync(path.parent().unwrap_or(Path::new("/"))));
    gone.map_err(|error| failed("remove", path, &error))
}

/// Makes a folder, and those above it that are missing.
pub fn make_folder(folder: &Path) -> IoResult<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder.parent().unwrap_or(Path::new("/"));
    make_folder(above)?;
    match fs::create_dir(folder) {
        // Another process was faster.
        Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        made => made.and_then(|()| sync(above)),
    }
}

/// A name in a folder outlives a power cut only once the folder is synchronised.
fn sync(folder: &Path) -> IoResult<()> {
    File::open(folder)?.sync_all()
}

/// The error of a file that `tune` depends on and cannot read or write.
pub fn failed(what: &str, path: &Path, error: &std::io::Error) -> CommandError {
    CommandError::host(
        format!("{what} {}: {}", path.display(), Errno::of(error)),
        "c1m tune keeps there what was before, and does nothing without it",
        "run it as root, on a file system that can be written",
    )
}
