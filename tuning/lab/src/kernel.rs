//! A distribution's kernel package, unpacked: its image, and the modules a guest loads.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use c1m::internal::command_error::{CommandError, Result};

/// What a guest needs a driver for: the bus of its network cards, and the cards.
const WANTED: [&str; 2] = ["virtio_pci", "virtio_net"];

/// A kernel and its modules.
#[derive(Debug)]
pub struct Kernel {
    /// The compressed image that QEMU boots.
    pub image: PathBuf,
    /// Its release, such as 6.1.0-48-cloud-amd64.
    pub release: String,
    /// Modules in the order in which they must be loaded.
    pub modules: Vec<PathBuf>,
}

impl Kernel {
    /// The kernel unpacked in `folder`, or the newest that tuning/lab/setup unpacked.
    pub fn find(folder: Option<&Path>) -> Result<Kernel> {
        let folder = folder.map_or_else(newest, |folder| Ok(folder.to_owned()))?;
        // QEMU runs in another folder.
        let folder = folder.canonicalize().map_err(|e| lacking(format!("{}: {e}", folder.display())))?;
        let boot = folder.join("boot");
        let Some((image, release)) = entries(&boot).into_iter().rev().find_map(|image| {
            let release = image.file_name()?.to_str()?.strip_prefix("vmlinuz-")?.to_owned();
            Some((image, release))
        }) else {
            return Err(lacking(format!("no vmlinuz-* in {}", boot.display())));
        };
        let modules = modules(&folder.join("lib/modules").join(&release))?;
        Ok(Kernel { image, release, modules })
    }
}

fn lacking(saw: String) -> CommandError {
    CommandError::host(saw, "the guests need a kernel to boot", "run tuning/lab/setup, or name one with --kernel")
}

fn newest() -> Result<PathBuf> {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or(home).unwrap_or_default().join("c1m-lab");
    let built = |folder: &PathBuf| fs::metadata(folder.join("boot")).and_then(|boot| boot.modified()).ok();
    let found = entries(&cache).into_iter().filter(|folder| folder.join("boot").is_dir()).max_by_key(built);
    found.ok_or_else(|| lacking(format!("no kernel in {}", cache.display())))
}

/// What is in a folder, sorted; nothing if there is no such folder.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    all.sort();
    all
}

/// The wanted modules behind all that they depend on. A driver without a file is part of the image.
fn modules(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = BTreeMap::new();
    walk(folder, &mut files);
    let mut ordered = Vec::new();
    for name in WANTED {
        load(name, &files, &mut ordered)?;
    }
    Ok(ordered)
}

fn walk(folder: &Path, files: &mut BTreeMap<String, PathBuf>) {
    for path in entries(folder) {
        if path.is_dir() {
            walk(&path, files);
        } else if let Some(name) = path.file_name().and_then(|name| name.to_str()?.strip_suffix(".ko")) {
            files.insert(name.replace('-', "_"), path);
        }
    }
}

fn load(name: &str, files: &BTreeMap<String, PathBuf>, ordered: &mut Vec<PathBuf>) -> Result<()> {
    let Some(path) = files.get(name) else { return Ok(()) };
    if ordered.contains(path) {
        return Ok(());
    }
    let bytes = fs::read(path).map_err(|e| lacking(format!("read {}: {e}", path.display())))?;
    for needed in depends(&bytes) {
        load(&needed, files, ordered)?;
    }
    ordered.push(path.clone());
    Ok(())
}

/// The names in a module's own `depends=` field (its .modinfo section: strings that end in NUL).
fn depends(module: &[u8]) -> Vec<String> {
    const FIELD: &[u8] = b"\0depends=";
    let Some(at) = module.windows(FIELD.len()).position(|bytes| bytes == FIELD) else { return Vec::new() };
    let value = module[at + FIELD.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value);
    names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(folder: &Path, name: &str, depends: &str) {
        let text = format!("\x7fELF license=GPL\0depends={depends}\0retpoline=Y\0");
        fs::write(folder.join(format!("{name}.ko")), text).unwrap();
    }

    /// Names with dashes and underscores are the same; what is built in has no file.
    #[test]
    fn a_module_comes_behind_what_it_needs() {
        let folder = tempfile::tempdir().unwrap();
        module(folder.path(), "virtio_net", "net-failover,virtio,virtio_ring");
        module(folder.path(), "net_failover", "failover");
        module(folder.path(), "failover", "");
        module(folder.path(), "virtio_ring", "virtio");
        module(folder.path(), "virtio", "");
        let found = modules(folder.path()).unwrap();
        let names: Vec<_> = found.iter().map(|path| path.file_stem().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["failover", "net_failover", "virtio", "virtio_ring", "virtio_net"]);
    }

    #[test]
    fn a_missing_kernel_names_the_cure() {
        let folder = tempfile::tempdir().unwrap();
        let error = Kernel::find(Some(folder.path())).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("tuning/lab/setup"), "{error}");
    }
}
