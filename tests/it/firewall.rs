//! Packet filters and connection tracking in a test's own network.

use std::io;

use netlink_bindings::nftables::{
    self, CmpOps, CtKeys, Nfgenmsg, PayloadBase, PushExprListAttrs, PushRuleAttrs, Registers, VerdictCode,
};
use netlink_socket2::NetlinkSocket;
use socket2::{Domain, Protocol, Socket, Type};

/// Bytes of a packet that a rule compares: the bytes from `at` on, masked with `mask`, must equal `are`.
pub struct Bytes {
    pub of: PayloadBase,
    pub at: u32,
    pub mask: &'static [u8],
    pub are: Vec<u8>,
}

/// Drops IPv4 packets that come in to this network and match all of `packets`.
pub fn drop_incoming(packets: &[Bytes]) {
    let added = add_rule(|mut list| {
        let register = Registers::Reg1 as u32;
        for Bytes { of, at, mask, are } in packets {
            let len = are.len() as u32;
            let load = list.nested_elem().nested_data_payload().push_dreg(register).push_base(*of as u32);
            list = load.push_offset(*at).push_len(len).end_nested().end_nested();
            let and = list.nested_elem().nested_data_bitwise().push_sreg(register).push_dreg(register).push_len(len);
            let and = and.nested_mask().push_value(mask).end_nested();
            list = and.nested_xor().push_value(&vec![0; are.len()]).end_nested().end_nested().end_nested();
            let equal = list.nested_elem().nested_data_cmp().push_sreg(register).push_op(CmpOps::Eq as u32);
            list = equal.nested_data().push_value(are).end_nested().end_nested().end_nested();
        }
        let verdict = list.nested_elem().nested_data_immediate().push_dreg(Registers::RegVerdict as u32);
        verdict.nested_data().nested_verdict().push_code(VerdictCode::Drop as u32);
    });
    added.unwrap();
}

/// Makes the kernel track the connections of this network, in both directions. A rule that asks for a packet's
/// state does that.
pub fn track() {
    try_to_track().unwrap();
}

/// Makes the kernel track connections, where that may fail.
pub fn try_to_track() -> io::Result<()> {
    add_rule(|list| {
        let state = list.nested_elem().nested_data_ct();
        state.push_dreg(Registers::Reg1 as u32).push_key(CtKeys::State as u32);
    })
}

/// The expressions of a rule.
pub type Expressions<'rule> = PushExprListAttrs<PushRuleAttrs<&'rule mut Vec<u8>>>;

/// Adds a rule for incoming IPv4 packets to the calling thread's network. It uses netlink, so the tests need no
/// `nft`.
pub fn add_rule(write: impl FnOnce(Expressions<'_>)) -> io::Result<()> {
    /// Constants of linux/netfilter.h and linux/netfilter/nfnetlink.h.
    const LOCAL_IN: u32 = 1;
    const SUBSYSTEM_NFTABLES: u16 = 10;
    let mut batch = Nfgenmsg::new();
    batch.set_res_id(SUBSYSTEM_NFTABLES);
    let ip = Nfgenmsg { nfgen_family: libc::AF_INET as u8, ..Default::default() };
    let (table, chain) = (c"tests", c"incoming");
    let mut socket = NetlinkSocket::new();
    let mut requests = nftables::Chained::new(socket.reserve_seq(256));
    requests.request().op_batch_begin_do(&batch);
    requests.request().set_create().op_newtable_do(&ip).encode().push_name(table);
    let mut new_chain = requests.request().set_create().op_newchain_do(&ip);
    let named = new_chain.encode().push_table(table).push_name(chain).push_type(c"filter");
    named.nested_hook().push_num(LOCAL_IN).push_priority(0);
    let mut new_rule = requests.request().set_create().set_append().op_newrule_do(&ip);
    write(new_rule.encode().push_table(table).push_chain(chain).nested_expressions());
    requests.request().op_batch_end_do(&batch);
    socket.request_chained(&requests.finalize())?.recv_all()?;
    Ok(())
}

/// The number of entries of connection tracking in this network, and the size of the table.
pub fn tracked() -> (u64, u64) {
    let [entries, most] = ["count", "max"].map(|name| {
        let path = format!("/proc/sys/net/netfilter/nf_conntrack_{name}");
        std::fs::read_to_string(path).unwrap().trim().parse().unwrap()
    });
    (entries, most)
}

/// Fills the table of connection tracking with entries of connections that do not exist. The size of the table is
/// one number for the whole host, and stays as it is. The entries belong to this network, and are gone with it.
pub fn fill_tracking() {
    let (_, most) = tracked();
    let socket =
        Socket::new(Domain::from(libc::AF_NETLINK), Type::RAW, Some(Protocol::from(NETLINK_NETFILTER))).unwrap();
    for first in (0..most as u32).step_by(1_000) {
        let batch: Vec<u8> = (first..first + 1_000).flat_map(new_entry).collect();
        assert_eq!(socket.send(&batch).unwrap(), batch.len());
    }
    // The last batch may exceed the table, and real connections of the test may already have entries.
    assert_eq!(tracked(), (most, most));
}

/// A constant of linux/netlink.h.
const NETLINK_NETFILTER: i32 = 12;

/// A netlink message that adds an established connection whose address and port are made from `number`
/// (IPCTNL_MSG_CT_NEW of linux/netfilter/nfnetlink_conntrack.h).
fn new_entry(number: u32) -> Vec<u8> {
    const NEW: u16 = 1 << 8;
    const REQUEST_CREATE_EXCLUSIVE: u16 = 0x1 | 0x400 | 0x200;
    // IPS_CONFIRMED, IPS_ASSURED, IPS_SEEN_REPLY: as the entry was seen in both directions, the kernel does not
    // drop it early for a new one.
    const STATUS: u32 = 8 | 4 | 2;
    const SECONDS: u32 = 600;
    const ESTABLISHED: u8 = 3;
    let (theirs, ours) = ([10, (number >> 24) as u8, (number >> 16) as u8, 1], [192, 0, 2, 1]);
    let (port, served) = (number as u16, 9);
    let body = [
        nested(1, &tuple(theirs, port, ours, served)),        // CTA_TUPLE_ORIG
        nested(2, &tuple(ours, served, theirs, port)),        // CTA_TUPLE_REPLY
        attribute(3, &STATUS.to_be_bytes()),                  // CTA_STATUS
        attribute(7, &SECONDS.to_be_bytes()),                 // CTA_TIMEOUT
        nested(4, &nested(1, &attribute(1, &[ESTABLISHED]))), // CTA_PROTOINFO, _TCP, _TCP_STATE
    ]
    .concat();
    let family = [libc::AF_INET as u8, 0, 0, 0];
    let length = (16 + family.len() + body.len()) as u32;
    let header = [length.to_ne_bytes(), two(NEW, REQUEST_CREATE_EXCLUSIVE), [0; 4], [0; 4]].concat();
    [header, family.to_vec(), body].concat()
}

/// One direction of a TCP connection (CTA_TUPLE_IP, CTA_TUPLE_PROTO).
fn tuple(from: [u8; 4], from_port: u16, to: [u8; 4], to_port: u16) -> Vec<u8> {
    let addresses = [attribute(1, &from), attribute(2, &to)].concat();
    let ports = [attribute(2, &from_port.to_be_bytes()), attribute(3, &to_port.to_be_bytes())].concat();
    [nested(1, &addresses), nested(2, &[attribute(1, &[libc::IPPROTO_TCP as u8]), ports].concat())].concat()
}

/// A netlink attribute, padded to four bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = two(4 + value.len() as u16, kind).to_vec();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// An attribute that holds others (NLA_F_NESTED).
fn nested(kind: u16, value: &[u8]) -> Vec<u8> {
    attribute(1 << 15 | kind, value)
}

fn two(a: u16, b: u16) -> [u8; 4] {
    let ([a, b], [c, d]) = (a.to_ne_bytes(), b.to_ne_bytes());
    [a, b, c, d]
}
