//! Interfaces, addresses and routes of the calling thread's network namespace. They are set over netlink, so the
//! tests need no `ip`.

use std::ffi::CStr;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsRawFd;

use netlink_bindings::rt_addr::{self, Ifaddrmsg};
use netlink_bindings::rt_link::{self, IfinfoFlags, Ifinfomsg};
use netlink_bindings::rt_route::{self, RtmType, Rtmsg};
use netlink_bindings::rt_rule::{self, FibRuleHdr, FrAct};
use netlink_socket2::NetlinkSocket;

/// Constants of linux/rtnetlink.h: the table of ordinary routes, the scope of a link, and the protocol of an
/// administrator's routes.
const RT_TABLE_MAIN: u8 = 254;
const RT_SCOPE_LINK: u8 = 253;
const RTPROT_STATIC: u8 = 4;

/// Switches an interface on: `ip link set NAME up`.
pub fn up(name: &CStr) {
    switch(name, IfinfoFlags::Up as u32);
}

/// Switches an interface off: `ip link set NAME down`.
pub fn down(name: &CStr) {
    switch(name, 0);
}

fn switch(name: &CStr, flags: u32) {
    let change = IfinfoFlags::Up as u32;
    let header =
        Ifinfomsg { ifi_index: index(name) as i32, ifi_flags: flags, ifi_change: change, ..Default::default() };
    let request = rt_link::Request::new().op_setlink_do(&header);
    NetlinkSocket::new().request(&request).unwrap().recv_ack().unwrap();
}

/// Gives an interface an address that can be used at once: `ip address add ADDRESS/PREFIX dev NAME nodad`.
pub fn address(name: &CStr, address: impl Into<IpAddr>, prefix: u8) {
    let address = address.into();
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let flags = if address.is_ipv4() { 0 } else { libc::IFA_F_NODAD as u8 };
    let header = Ifaddrmsg {
        ifa_family: family as u8,
        ifa_prefixlen: prefix,
        ifa_flags: flags,
        ifa_index: index(name),
        ..Default::default()
    };
    let mut request = rt_addr::Request::new().set_create().set_excl().op_newaddr_do(&header);
    request.encode().push_local(address);
    NetlinkSocket::new().request(&request).unwrap().recv_ack().unwrap();
}

/// Removes an address from an interface: `ip address del ADDRESS/PREFIX dev NAME`.
pub fn remove_address(name: &CStr, address: impl Into<IpAddr>, prefix: u8) {
    let address = address.into();
    let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let header =
        Ifaddrmsg { ifa_family: family as u8, ifa_prefixlen: prefix, ifa_index: index(name), ..Default::default() };
    let mut request = rt_addr::Request::new().op_deladdr_do(&header);
    request.encode().push_local(address);
    NetlinkSocket::new().request(&request).unwrap().recv_ack().unwrap();
}

/// Routes a block to an interface: `ip route add BLOCK/PREFIX dev NAME`.
pub fn route(name: &CStr, block: impl Into<IpAddr>, prefix: u8) {
    route_by(RT_TABLE_MAIN, name, block, prefix);
}

/// Has a table of its own for what comes from an address: `ip rule add from ADDRESS table TABLE`.
pub fn rule(address: impl Into<IpAddr>, table: u8) {
    let address = address.into();
    let (family, bits) = if address.is_ipv4() { (libc::AF_INET, 32) } else { (libc::AF_INET6, 128) };
    let header =
        FibRuleHdr { family: family as u8, src_len: bits, table, action: FrAct::ToTbl as u8, ..Default::default() };
    let mut request = rt_rule::Request::new().set_create().set_excl().op_newrule_do(&header);
    request.encode().push_src(address);
    NetlinkSocket::new().request(&request).unwrap().recv_ack().unwrap();
}

/// Routes a block to an interface in a table: `ip route add BLOCK/PREFIX dev NAME table TABLE`.
pub fn route_by(table: u8, name: &CStr, block: impl Into<IpAddr>, prefix: u8) {
    let block = block.into();
    let header = Rtmsg {
        rtm_family: if block.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 } as u8,
        rtm_dst_len: prefix,
        rtm_table: table,
        rtm_protocol: RTPROT_STATIC,
        rtm_scope: RT_SCOPE_LINK,
        rtm_type: RtmType::Unicast as u8,
        ..Default::default()
    };
    let mut request = rt_route::Request::new().set_create().set_excl().op_newroute_do(&header);
    request.encode().push_dst(block).push_oif(index(name));
    NetlinkSocket::new().request(&request).unwrap().recv_ack().unwrap();
}

/// Makes a pair of connected interfaces: `near` in this network namespace, and `far` in the namespace of the file
/// `there`, or in this one too.
pub fn cable(near: &CStr, far: &CStr, there: Option<&File>) {
    let mut socket = NetlinkSocket::new();
    let mut request = rt_link::Request::new().set_create().set_excl().op_newlink_do(&Ifinfomsg::new());
    request.encode().push_ifname(near).nested_linkinfo().push_kind(c"veth");
    socket.request(&request).unwrap().recv_ack().unwrap();
    // The kernel chose the other interface's name. Its number is the link of `near`.
    let header = Ifinfomsg { ifi_index: index(near) as i32, ..Default::default() };
    let request = rt_link::Request::new().op_getlink_do(&header);
    let other = socket.request(&request).unwrap().recv_one().unwrap().1.get_link().unwrap();
    let header = Ifinfomsg { ifi_index: other as i32, ..Default::default() };
    let mut request = rt_link::Request::new().op_setlink_do(&header);
    request.encode().push_ifname(far);
    if let Some(there) = there {
        request.encode().push_net_ns_fd(there.as_raw_fd() as u32);
    }
    socket.request(&request).unwrap().recv_ack().unwrap();
}

/// The number of an interface.
pub fn index(name: &CStr) -> u32 {
    // SAFETY: the kernel reads the name, which ends with a zero byte.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert_ne!(index, 0, "no interface {name:?}: {}", std::io::Error::last_os_error());
    index
}
