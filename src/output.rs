//! The files that this program writes. A regular file is written without a name in the folder of its place (`O_TMPFILE`,
//! open(2)), and takes its name when it is complete. Its name therefore always leads to a complete document: the earlier
//! one or the new one. However the process ends before that, the kernel removes what has no name.
//!
//! Some file systems, such as NFS, have no files without names. There a file has a temporary name meanwhile, and a
//! process that is killed leaves the file behind. A file that replaces an earlier one has such a name too, between
//! link(2) and rename(2).
//!
//! The temporary file is reached through its open folder, so it is also removed where that folder was renamed or moved
//! meanwhile. The document is written only if the path still leads there.
//!
//! A filter of system calls or a security module may forbid to link or to rename. Then the document is written under its
//! name, and removed from there if it does not fit.
//!
//! `Output::open` checks the place before a run begins, and changes nothing there. A pipe, a device or a terminal
//! receives the bytes as they come. A file that cannot be replaced, because its folder takes no new file or because
//! it is a mount point, is rewritten in place at the end.

mod place;

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::NamedTempFile;

use crate::command_error::{CommandError, Result};
use crate::error::Errno;
use crate::sys;

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
            Way::Beside(path) => Sink::Beside(Begun::new(path)?, path.clone()),
            Way::InPlace(path) => Sink::Held(Vec::new(), path.clone()),
            Way::Special(file) => Sink::Special(file.try_clone()?),
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
        Errno::ENOENT | Errno::ENOTDIR | Errno::EISDIR => {
            "choose a folder that is neither removed nor renamed meanwhile"
        }
        Errno::EIO => "see the kernel's log (dmesg), or choose another file",
        Errno::EROFS | Errno::EACCES | Errno::EPERM => "choose a file that this user may write to the end",
        Errno::ENOSYS => "allow this call in the seccomp filter, or choose another file",
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
pub struct Stream(Sink);

/// Where its bytes go meanwhile.
#[derive(Debug)]
enum Sink {
    /// The new file, and the path that it will take.
    Beside(Begun, PathBuf),
    /// The bytes themselves, and the path of the file that they will be written to.
    Held(Vec<u8>, PathBuf),
    /// The pipe, the device or the terminal.
    Special(File),
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            // Write to the file itself: tempfile's own errors have no errno.
            Sink::Beside(begun, _) => begun.new.file().write(bytes),
            Sink::Held(held, _) => held.write(bytes),
            Sink::Special(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream {
    /// The pipe, the device or the terminal that it is, whose reader may have it wait.
    pub fn device(&self) -> Option<&File> {
        match &self.0 {
            Sink::Special(file) => Some(file),
            Sink::Beside(..) | Sink::Held(..) => None,
        }
    }

    /// Puts the document in its place.
    pub fn finish(self) -> io::Result<()> {
        match self.0 {
            Sink::Beside(begun, path) => {
                synchronise(begun.new.file())?;
                begun.replace(&path)
            }
            Sink::Held(held, path) => overwrite(&path, &held),
            Sink::Special(_) => Ok(()),
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
        // Some file systems do not support fsync (EINVAL). EPERM and ENOSYS come from a filter of system calls that forbids
        // it: fsync(2) itself returns neither.
        Err(error) if matches!(Errno::of(&error), Errno::EINVAL | Errno::EPERM | Errno::ENOSYS) => Ok(()),
        done => done,
    }
}

/// The names of the temporary files that this process began. They are random, so finished files may stay listed.
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
    new: New,
    folder: Folder,
}

/// A file that does not have its name yet.
#[derive(Debug)]
enum New {
    Nameless(File),
    /// With a temporary name; it is removed when this is dropped.
    Named(NamedTempFile),
}

impl New {
    fn file(&self) -> &File {
        match self {
            New::Nameless(file) => file,
            New::Named(named) => named.as_file(),
        }
    }
}

/// The folder in which a file is begun.
#[derive(Debug)]
struct Folder {
    /// A path to it, through its descriptor if there is one.
    path: PathBuf,
    /// Its descriptor, open as long as a file may have to be removed. `None` where /proc does not show descriptors or the
    /// folder cannot be read.
    open: Option<File>,
}

impl Folder {
    fn of(path: &Path) -> Folder {
        let at = place::folder(path);
        let open = File::open(at).ok().map(|folder| (sys::path_of(&folder), folder));
        match open.filter(|(through, _)| through.exists()) {
            Some((path, folder)) => Folder { path, open: Some(folder) },
            None => Folder { path: at.to_owned(), open: None },
        }
    }

    /// Whether it was removed, as the folder may be in which a process was started. A file without a name can be begun
    /// there, but no name can be given to it.
    fn is_removed(&self) -> bool {
        self.open.as_ref().and_then(|folder| folder.metadata().ok()).is_some_and(|found| found.nlink() == 0)
    }

    /// Gives a file a temporary name there, which `make` makes: tempfile's own errors have no errno.
    fn name<T>(&self, make: impl FnMut(&Path) -> io::Result<T>) -> io::Result<NamedTempFile<T>> {
        let mut begun = begun();
        let named = tempfile::Builder::new().prefix(".c1m-").suffix(".part").make_in(&self.path, make)?;
        begun.push(named.path().to_owned());
        Ok(named)
    }
}

impl Begun {
    /// Begins a file that will replace `path`, with the owner and the mode of the earlier one.
    fn new(path: &Path) -> io::Result<Begun> {
        let folder = Folder::of(path);
        if folder.is_removed() {
            return Err(io::Error::from_raw_os_error(Errno::ENOENT.0));
        }
        // Without /proc it could not be given a name.
        let nameless = folder.open.as_ref().and_then(|_| sys::open_nameless(&folder.path).ok());
        let named = || folder.name(|path| OpenOptions::new().write(true).create_new(true).open(path)).map(New::Named);
        let new = nameless.map_or_else(named, |file| Ok(New::Nameless(file)))?;
        if let Ok(earlier) = fs::metadata(path) {
            let file = new.file();
            let ours = file.metadata()?;
            if (ours.uid(), ours.gid()) != (earlier.uid(), earlier.gid()) {
                fchown(file, Some(earlier.uid()), Some(earlier.gid()))?;
            }
            file.set_permissions(Permissions::from_mode(earlier.mode() & 0o7777))?;
        }
        Ok(Begun { new, folder })
    }

    /// Gives the file its name, or else writes its content there. A folder may let a file be written but not replaced: /tmp
    /// with a file of another user, or a mount point that is a file.
    fn replace(self, path: &Path) -> io::Result<()> {
        let named = match self.new {
            New::Named(named) => named.into_temp_path(),
            New::Nameless(file) => match self.folder.name(|path| sys::give_name(&file, path)) {
                Ok(named) => named.into_temp_path(),
                Err(refused) => return write_there(path, &sys::path_of(&file), refused),
            },
        };
        named.persist(path).or_else(|refused| write_there(path, &refused.path, refused.error))
    }
}

/// Writes the content of `from` to `path`, as the kernel `refused` to give that file the name.
fn write_there(path: &Path, from: &Path, refused: io::Error) -> io::Result<()> {
    if path.is_file() {
        return overwrite(path, &fs::read(from)?);
    }
    // Where no file can be made either, the first reason says more.
    let Ok(mut new) = OpenOptions::new().write(true).create_new(true).open(path) else { return Err(refused) };
    let copied = io::copy(&mut File::open(from)?, &mut new).and_then(|_| synchronise(&new));
    copied.inspect_err(|_| drop(fs::remove_file(path)))
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
