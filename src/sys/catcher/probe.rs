//! Whether connections can sleep here, and if not, what is missing.

use std::io;
use std::os::unix::net::UnixDatagram;

use super::Catcher;
use crate::error::Errno;
use crate::sys::{RawSender, bpf, repair};

/// What is missing for connections to sleep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lack {
    /// CAP_BPF, for maps and programs.
    Bpf,
    /// CAP_PERFMON, for programs that compute addresses.
    Perfmon,
    /// CAP_NET_ADMIN in the user namespace of this network namespace, for TCP_REPAIR.
    NetAdmin,
    /// CAP_NET_RAW in the same, for answers without a socket.
    NetRaw,
    /// The kernel refuses for another reason, as one that is too old or lacks a feature does.
    Kernel {
        /// What it refuses.
        what: &'static str,
        /// Its error.
        errno: Errno,
    },
}

impl Lack {
    /// For want of `right` if the error is one of rights.
    fn of(error: &io::Error, right: Lack, what: &'static str) -> Lack {
        match Errno::of(error) {
            Errno::EPERM | Errno::EACCES => right,
            errno => Lack::Kernel { what, errno },
        }
    }
}

impl Catcher {
    /// Checks that connections can sleep here. Nothing is sent, and no port is taken.
    pub fn probe() -> Result<(), Lack> {
        let map = bpf::create_map(bpf::ARRAY, 4, 4, 1, 0);
        map.map_err(|error| Lack::of(&error, Lack::Bpf, "maps of BPF"))?;
        let catcher = Catcher::new(1, 1, 0).map_err(|error| Lack::of(&error, Lack::Perfmon, "programs of BPF"))?;
        // Any socket takes a filter, and a pair of Unix sockets takes no port.
        let attached = UnixDatagram::pair().and_then(|(socket, _)| catcher.attach(&socket));
        attached.map_err(|error| Lack::of(&error, Lack::Bpf, "filters of sockets"))?;
        repair::probe().map_err(|error| Lack::of(&error, Lack::NetAdmin, "TCP_REPAIR"))?;
        RawSender::new().map_err(|error| Lack::of(&error, Lack::NetRaw, "raw sockets"))?;
        Ok(())
    }
}
