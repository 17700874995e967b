//! What /proc and the cgroups say, whatever that is: the doctor judges it wall by wall. Parts of the
//! input, parted by zero bytes, are the contents of these files in turn.
#![no_main]

use std::cell::RefCell;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use c1m::host::Host;
use c1m::knobs::WALLS;
use c1m::plan::{Goal, Ports, Role, Routes};
use libfuzzer_sys::fuzz_target;

const FILES: [&str; 24] = [
    "proc/meminfo",
    "proc/zoneinfo",
    "proc/slabinfo",
    "proc/cgroups",
    "proc/self/cgroup",
    "proc/self/mountinfo",
    "proc/self/status",
    "proc/net/netstat",
    "proc/net/softnet_stat",
    "proc/net/sockstat",
    "proc/net/stat/nf_conntrack",
    "proc/sys/fs/file-nr",
    "proc/sys/fs/file-max",
    "proc/sys/vm/min_free_kbytes",
    "proc/sys/kernel/osrelease",
    "proc/sys/net/ipv4/ip_local_port_range",
    "proc/sys/net/ipv4/ip_local_reserved_ports",
    "proc/sys/net/ipv4/tcp_mem",
    "proc/sys/net/ipv4/tcp_max_orphans",
    "proc/sys/net/core/somaxconn",
    "sys/fs/cgroup/memory.max",
    "sys/fs/cgroup/memory.current",
    "sys/fs/cgroup/memory.stat",
    "sys/fs/cgroup/memory.events",
];

thread_local! {
    static ROOT: RefCell<tempfile::TempDir> = RefCell::new(tempfile::tempdir().unwrap());
}

fn goal() -> Goal {
    let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let routes = Routes { targets: vec![here], ports: Ports::ARTICLE, sources: Vec::new() };
    Goal { role: Role::Both, connections: 1_000_000, routes, cores: vec![0, 1] }
}

fuzz_target!(|bytes: &[u8]| {
    ROOT.with_borrow(|root| {
        let mut parts = bytes.split(|byte| *byte == 0);
        for file in FILES {
            let path = root.path().join(file);
            let Some(text) = parts.next() else {
                let _ = fs::remove_file(path);
                continue;
            };
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let host = Host::below(root.path());
        let goal = goal();
        // That of io_uring asks the kernel, not a file.
        for wall in WALLS.iter().filter(|wall| wall.name != "io_uring") {
            let finding = wall.judge(&host, &goal);
            assert!(!finding.have.contains('\n'), "{}: a finding is one line", wall.name);
        }
        let _ = (host.memory(), host.net_counters(), host.resident(1), host.cpu_seconds(1), host.cpu_quota());
        if let Some(ports) = host.source_ports() {
            assert!(ports.covers(&(0..=65_535)) == ports.count());
        }
    });
});
