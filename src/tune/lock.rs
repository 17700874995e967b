//! One process at a time changes this host's settings: two at once could each take what the other has set for what was there
//! before.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Result as IoResult};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::durable::{failed, make_folder};
use crate::command_error::Result;
use crate::host::Host;
use crate::sys;

/// The file that is locked, below the host's root. It is there while a process has it, or was killed with it.
const FILE: &str = "var/lib/c1m/tune.lock";

/// How often the folder may vanish before the file in it is opened.
const MOST_VANISHED: usize = 1_000;

/// The right to change settings and their state. Other processes wait until it is dropped.
pub struct Lock {
    path: PathBuf,
    /// The kernel unlocks the file when it is closed.
    _file: File,
}

impl Lock {
    /// Waits for the lock.
    pub fn take(host: &Host) -> Result<Lock> {
        let path = host.path(FILE);
        let mut vanished = 0;
        loop {
            match Lock::of(&path) {
                Ok(Some(lock)) => return Ok(lock),
                Ok(None) => {}
                // A process that is done removes the folder too.
                Err(error)
                    if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists)
                        && vanished < MOST_VANISHED =>
                {
                    vanished += 1;
                }
                Err(error) => return Err(failed("lock", &path, &error)),
            }
        }
    }

    /// Waits for the lock on the file that is there now. `None` if the process that had it has removed it: another one may
    /// have a new file by now.
    fn of(path: &Path) -> IoResult<Option<Lock>> {
        make_folder(path.parent().unwrap_or(Path::new("/")))?;
        // Only root may open it, so nobody else can make it wait.
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        sys::lock(&file)?;
        let ours = file.metadata()?;
        let is_there = fs::metadata(path).is_ok_and(|there| (there.dev(), there.ino()) == (ours.dev(), ours.ino()));
        Ok(is_there.then(|| Lock { path: path.to_owned(), _file: file }))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        // The folder stays while there is a state in it.
        let _ = self.path.parent().map(fs::remove_dir);
    }
}
