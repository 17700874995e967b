//! The files that this program writes. A regular file is written under a temporary name beside its place and
//! renamed when it is complete. Its name therefore always leads to a complete document: the earlier one or the new
//! one.
//!
//! The temporary file is reached through its open folder, so it is also removed where that folder was renamed or moved
//! meanwhile. The document is written only if the path still leads there.
//!
//! `Output::open` checks the place before a run begins, and changes nothing there. A pipe, a device or a terminal
//! receives the bytes as they come. A file that cannot be replaced, because its folder takes no new file or because
//! it is a mount point, is rewritten in place at the end.

mod place;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::NamedTempFile;

use crate::command_error::{CommandError, Result};
use crate::error::Errno;

pub use place::{differ, is_stdout, keep_inputs, prints_to_file};

/// A place for one document.
#[derive(Debug)]
pub struct Output {
    /// The path as it was given.
    name: String,
    way: Way,
}

/// How the bytes reach their place.
#[derive(Debug)]
enum Way {
    /// Into a new file in the same folder, which then takes the name.
    Beside(PathBuf),
    /// Into the file itself, because its folder takes no new file.
    InPlace(PathBuf),
    /// Directly, as they come, into a file that is not regular.
    Special(File),
}

impl Output {
    /// Checks a place, and changes nothing there. Returns a usage error if it cannot be written.
    pub fn open(path: &Path) -> Result<Output> {
        let name = path.display().to_string();
        let way = Way::to(path).map_err(|error| {
            CommandError::usage(
                format!("open {name}: {}", Errno::of(&error)),
                "the result could not be written there",
                "choose another file",
            )
        })?;
        Ok(Output { name, way })
    }

    /// Writes a whole document.
    pub fn write(&self, document: &[u8]) -> Result<()> {
        let written = || {
            let mut stream = self.stream()?;
            stream.write_all(document)?;
            stream.finish()
        };
        written().map_err(|error| self.failed(&error))
    }

    /// Begins a document that is written piece by piece. It takes its place when `finish` is called.
    pub fn stream(&self) -> io::Result<Stream> {
        Ok(Stream(match &self.way {
            Way::Beside(path) => Into::Beside(Begun::new(path)?, path.clone()),
            Way::InPlace(path) => Into::Held(Vec::new(), path.clone()),
            Way::Special(file) => Into::Special(file.try_clone()?),
        }))
    }

    /// The error for a document that could not be written there.
    pub fn failed(&self, error: &io::Error) -> CommandError {
        let errno = Errno::of(error);
        let means = match (&self.way, errno) {
            (Way::Special(_), _) => "what came there is incomplete",
            (_, Errno::ENOENT | Errno::ENOTDIR) => "its folder has gone since the run began, and nothing was written",
            (_, Errno::EISDIR) => "a folder has taken its name since the run began, and nothing was written",
            _ => "the new document is incomplete, and what was there before stays",
        };
        CommandError::host(format!("write {}: {errno}", self.name), means, cure(errno))
    }
}

/// What a user can do about a document that could not be written.
pub fn cure(errno: Errno) -> &'static str {
    match errno {
        Errno::EPIPE => "keep its reader until the end",
        Errno::EFBIG => "raise the limit on file sizes (ulimit -f), or choose another file",
        Errno::ENOENT | Errno::ENOTDIR | Errno::EISDIR => "choose a folder that nobody removes or renames meanwhile",
        Errno::EIO => "see the kernel's log (dmesg), or choose another file",
        Errno::EROFS | Errno::EACCES | Errno::EPERM => "choose a file that this user may write to the end",
        Errno::EDQUOT => "free disk space of this user's quota, or choose another file",
        _ => "free disk space or choose another file",
    }
}

impl Way {
    fn to(path: &Path) -> io::Result<Way> {
        let found = match fs::metadata(path) {
            Ok(found) => Some(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        if found.is_none() && path.as_os_str().as_bytes().ends_with(b"/") {
            return Err(io::Error::from_raw_os_error(Errno::EISDIR.0));
        }
        if let Some(found) = &found {
            if found.is_file() && place::is_descriptor(path) {
                // Another process opened the file and may go on writing to it, so the file keeps its name.
                return OpenOptions::new().append(true).open(path).map(Way::Special);
            }
            let file = OpenOptions::new().write(true).open(path)?;
            if !found.is_file() {
                return Ok(Way::Special(file));
            }
        }
        // A symbolic link stays; the file that it leads to is replaced.
        let path = place::end_of_links(path);
        match Begun::new(&path) {
            Ok(_) => Ok(Way::Beside(path)),
            // The file must be readable too: its content is restored if the new document does not fit.
            Err(_) if found.is_some() => File::open(&path).map(|_| Way::InPlace(path)),
            Err(error) => Err(error),
        }
    }
}

/// A document that is being written. If it is dropped before `finish`, it leaves no trace, unless its place is a
/// pipe or a device.
#[derive(Debug)]
pub struct Stream(Into);

#[derive(Debug)]
enum Into {
    /// The new file, and the path that it will take.
    Beside(Begun, PathBuf),
    Held(Vec<u8>, PathBuf),
    Special(File),
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            // Write to the file itself: tempfile's own errors have no errno.
            Into::Beside(begun, _) => begun.new.as_file_mut().write(bytes),
            Into::Held(held, _) => held.write(bytes),
            Into::Special(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream {
    /// Puts the document in its place.
    pub fn finish(self) -> io::Result<()> {
        match self.0 {
            Into::Beside(Begun { new, folder: _open }, path) => {
                synchronise(new.as_file())?;
                match new.persist(&path) {
                    Ok(_) => Ok(()),
                    // A folder may let a file be written but not replaced: /tmp with a file of another user, or a
                    // mount point that is a file.
                    Err(refused) if path.is_file() => overwrite(&path, &fs::read(refused.file.path())?),
                    Err(refused) => Err(refused.error),
                }
            }
            Into::Held(held, path) => overwrite(&path, &held),
            Into::Special(_) => Ok(()),
        }
    }
}

/// Rewrites a file in place. The file is cut off only after the new document is written, so the earlier content
/// keeps its disk space. If the write fails, the earlier content is therefore restored.
fn overwrite(path: &Path, document: &[u8]) -> io::Result<()> {
    let before = fs::read(path)?;
    let mut file = OpenOptions::new().write(true).open(path)?;
    let fill = |file: &mut File, bytes: &[u8], length: usize| {
        file.rewind()?;
        file.write_all(bytes)?;
        file.set_len(length as u64)?;
        synchronise(file)
    };
    fill(&mut file, document, document.len()).inspect_err(|_| {
        let overwritten = document.len().min(before.len());
        let _ = fill(&mut file, &before[..overwritten], before.len());
    })
}

/// Waits until a file is on its disk. Only then does a full disk or an exceeded quota show for certain.
fn synchronise(file: &File) -> io::Result<()> {
    match file.sync_all() {
        // Some file systems do not support fsync.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        done => done,
    }
}

/// The temporary files that this process began. Their names are random, so finished files may stay listed.
static BEGUN: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn begun() -> MutexGuard<'static, Vec<PathBuf>> {
    BEGUN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes the unfinished temporary files, for a process that ends at once. No file can be begun afterwards.
pub fn abandon() {
    let begun = begun();
    for path in begun.iter() {
        let _ = fs::remove_file(path);
    }
    std::mem::forget(begun);
}

/// A new file that is to replace another one.
#[derive(Debug)]
struct Begun {
    /// The file; it is removed when this is dropped. Its path leads through the descriptor of its folder.
    new: NamedTempFile,
    /// Its folder, open as long as the file may have to be removed. `None` where /proc does not show descriptors or
    /// the folder cannot be read: then the file is known by the folder's path.
    folder: Option<File>,
}

impl Begun {
    /// Begins a file that will replace `path`, with the owner and the mode of the earlier one.
    fn new(path: &Path) -> io::Result<Begun> {
        let mut begun = begun();
        let at = place::folder(path);
        let folder = File::open(at).ok();
        let through = folder.as_ref().map(|folder| PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())));
        let through = through.filter(|through| through.exists());
        // The file is opened here, with the mode of any new file: tempfile's own errors have no errno.
        let open = |path: &Path| OpenOptions::new().write(true).create_new(true).open(path);
        let new =
            tempfile::Builder::new().prefix(".c1m-").suffix(".part").make_in(through.as_deref().unwrap_or(at), open)?;
        begun.push(new.path().to_owned());
        if let Ok(earlier) = fs::metadata(path) {
            let file = new.as_file();
            let ours = file.metadata()?;
            if (ours.uid(), ours.gid()) != (earlier.uid(), earlier.gid()) {
                fchown(file, Some(earlier.uid()), Some(earlier.gid()))?;
            }
            file.set_permissions(Permissions::from_mode(earlier.mode() & 0o7777))?;
        }
        Ok(Begun { new, folder })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_document_is_in_its_place_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let [path, link] = ["x", "link"].map(|name| dir.path().join(name));
        let output = Output::open(&path).unwrap();
        assert!(names(dir.path()).is_empty());
        output.write(b"one").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink("x", &link).unwrap();

        let output = Output::open(&link).unwrap();
        let mut stream = output.stream().unwrap();
        stream.write_all(b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one");
        drop(stream);
        assert_eq!((fs::read(&path).unwrap(), names(dir.path())), (b"one".to_vec(), vec!["link".into(), "x".into()]));

        output.write(b"three").unwrap();
        assert_eq!((fs::read(&path).unwrap(), names(dir.path())), (b"three".to_vec(), vec!["link".into(), "x".into()]));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
    }

    #[test]
    fn a_folder_that_moved_meanwhile_keeps_nothing_unfinished() {
        let dir = tempfile::tempdir().unwrap();
        let [folder, moved] = ["folder", "moved"].map(|name| dir.path().join(name));
        for finishes in [false, true] {
            fs::create_dir(&folder).unwrap();
            let output = Output::open(&folder.join("x")).unwrap();
            let mut stream = output.stream().unwrap();
            stream.write_all(b"one").unwrap();
            fs::rename(&folder, &moved).unwrap();
            if finishes {
                let error = stream.finish().unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::NotFound);
                assert!(output.failed(&error).to_string().contains("its folder has gone"), "{error}");
            } else {
                drop(stream);
            }
            assert!(names(&moved).is_empty(), "{:?}", names(&moved));
            fs::remove_dir(&moved).unwrap();
        }
    }

    #[test]
    fn a_file_rewritten_in_place_holds_the_whole_document() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        fs::write(&path, "a long one").unwrap();
        for document in ["new", "a much longer one", "", "new"] {
            overwrite(&path, document.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), document);
        }
    }
}
