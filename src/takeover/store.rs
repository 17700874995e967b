//! The service manager's store of descriptors (FDSTORE in sd_notify(3), FileDescriptorStoreMax= in systemd.service(5)).
//! What is in it outlives this process, and is given to the next one.

use std::collections::BTreeMap;
use std::env;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use crate::sys::{given_descriptors, tell_datagram};

/// What the names of our descriptors begin with there.
const PREFIX: &str = "c1m-";

/// A service manager that keeps descriptors.
#[derive(Debug, Clone)]
pub struct Store {
    socket: String,
}

/// The manager that has started this process, if it wants to be told (NOTIFY_SOCKET).
pub fn store() -> Option<Store> {
    env::var("NOTIFY_SOCKET").ok().filter(|socket| !socket.is_empty()).map(|socket| Store { socket })
}

impl Store {
    /// Leaves a descriptor with the manager under a name. One that it has already it keeps once.
    pub fn keep(&self, name: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        // The manager would poll each descriptor that it keeps, and drop one whose poll fails. The poll of a BPF map
        // fails, so FDPOLL=0 turns that off.
        let text = format!("FDSTORE=1\nFDNAME={PREFIX}{name}\nFDPOLL=0");
        tell_datagram(&self.socket, &text, &[descriptor])
    }

    /// Has the manager forget the descriptors of these names. One that takes no message is not waited for again.
    pub fn forget(&self, names: &[String]) -> io::Result<()> {
        let forget = |name: &String| format!("FDSTOREREMOVE=1\nFDNAME={PREFIX}{name}");
        names.iter().try_for_each(|name| tell_datagram(&self.socket, &forget(name), &[]))
    }
}

/// Tells the manager that this process is the service now, and serves.
pub fn tell_ready() {
    if let Some(Store { socket }) = store() {
        // A manager that has gone needs to know nothing.
        let _ = tell_datagram(&socket, &format!("READY=1\nMAINPID={}", std::process::id()), &[]);
    }
}

/// The descriptors that an earlier process has left with the manager, by name. Of several with one name it is the newest,
/// which systemd gives first. A second call finds none.
pub fn left_descriptors() -> BTreeMap<String, OwnedFd> {
    let mut left = BTreeMap::new();
    for (name, descriptor) in given_descriptors(PREFIX) {
        if let Some(name) = name.strip_prefix(PREFIX) {
            left.entry(name.to_owned()).or_insert(descriptor);
        }
    }
    left
}
