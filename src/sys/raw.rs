//! Segments that this process makes, without a socket of TCP: answers to the peers of sleeping connections, and caught
//! segments that are to arrive after all.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::catcher::MARK;
use super::{RawAddress, set_option};
use crate::hibernation::Tuple;

/// Bytes of the headers of IP without options.
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// The longest packet of IPv4 (RFC 791, 3.1), and the longest payload of IPv6 (RFC 8200, 3).
const LONGEST: usize = 65_535;

/// Hops that a packet may take: the default of Linux (`ip_default_ttl`, ip(7)).
const HOPS: u8 = 64;

/// Bytes of payload of a piece that fits any interface: IPv6 demands 1,280 bytes (RFC 8200, 5), of which 40 are its
/// header and up to 60 that of TCP.
const PIECE: usize = 1_180;

/// Bytes of a TCP header, and the places of its fields (RFC 9293, 3.1).
const TCP_HEADER: usize = 20;
const SEQUENCE: usize = 4;
const OFFSET: usize = 12;
const FLAGS: usize = 13;
const CHECKSUM: usize = 16;
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;

/// Sends segments of TCP with headers of IP that it makes itself (IP_HDRINCL, raw(7)).
#[derive(Debug)]
pub struct RawSender {
    v4: OwnedFd,
    /// `None` on a host without IPv6.
    v6: Option<OwnedFd>,
}

impl RawSender {
    /// Opens raw sockets whose segments carry the catcher's mark: for segments that are to arrive here after all. Fails
    /// with EPERM without CAP_NET_RAW, or without CAP_NET_ADMIN.
    pub fn new() -> io::Result<RawSender> {
        RawSender::with_mark(MARK)
    }

    /// Opens raw sockets whose segments are caught like others: for answers, whose receiver may sleep on this host too.
    /// Fails with EPERM without CAP_NET_RAW.
    pub fn without_mark() -> io::Result<RawSender> {
        RawSender::with_mark(0)
    }

    fn with_mark(mark: u32) -> io::Result<RawSender> {
        let v6 = match raw_socket(libc::AF_INET6, mark) {
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            socket => Some(socket?),
        };
        Ok(RawSender { v4: raw_socket(libc::AF_INET, mark)?, v6 })
    }

    /// Sends a segment, whose checksum is right, from one address to another of the same family.
    ///
    /// Fails with the error of sendmsg(2): EMSGSIZE if it does not fit the interface, EAGAIN or ENOBUFS if the
    /// interface has no room, EPERM if a rule forbids it, EAFNOSUPPORT for families that this host does not have.
    pub fn send(&self, from: IpAddr, to: IpAddr, segment: &[u8]) -> io::Result<()> {
        self.send_parts(from, to, segment, &[])
    }

    /// Lets a caught segment arrive: sends it to this host itself, with its ends as they were. The checksum is computed
    /// anew. `whole_len` is the length of the segment, of which `bytes` is all or the beginning.
    ///
    /// A segment that is too long for one packet, or for the loopback device, arrives in pieces. If only its beginning
    /// was caught, the peer sends the rest again. Fails like `send`; the peer then sends again what is missing. Bytes
    /// that are no segment are an error (EINVAL).
    pub fn reinject(&self, tuple: &Tuple, bytes: &[u8], whole_len: usize) -> io::Result<()> {
        let longest = LONGEST - IPV4_HEADER;
        match self.send_pieces(tuple, bytes, whole_len, longest) {
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                self.send_pieces(tuple, bytes, whole_len, PIECE)
            }
            sent => sent,
        }
    }

    pub(super) fn send_pieces(&self, tuple: &Tuple, bytes: &[u8], whole_len: usize, longest: usize) -> io::Result<()> {
        let invalid = || io::Error::from_raw_os_error(libc::EINVAL);
        let length = usize::from(bytes.get(OFFSET).ok_or_else(invalid)? >> 4) * 4;
        let (header, payload) = bytes.split_at_checked(length.max(TCP_HEADER)).ok_or_else(invalid)?;
        let (from, to) = (tuple.remote.ip().to_canonical(), tuple.local.ip().to_canonical());
        let [s0, s1, s2, s3] = *header[SEQUENCE..].first_chunk().ok_or_else(invalid)?;
        let sequence = u32::from_be_bytes([s0, s1, s2, s3]);
        let most = longest.saturating_sub(header.len()).max(1);
        let mut at = 0;
        loop {
            let piece = &payload[at..(at + most).min(payload.len())];
            let is_last = at + piece.len() == payload.len() && bytes.len() == whole_len;
            let mut copy = [0; 60];
            let copy = copy.get_mut(..header.len()).ok_or_else(invalid)?;
            copy.copy_from_slice(header);
            copy[SEQUENCE..SEQUENCE + 4].copy_from_slice(&sequence.wrapping_add(at as u32).to_be_bytes());
            if !is_last {
                copy[FLAGS] &= !(FIN | PSH);
            }
            copy[CHECKSUM..CHECKSUM + 2].fill(0);
            let sum = checksum(from, to, copy, piece);
            copy[CHECKSUM..CHECKSUM + 2].copy_from_slice(&sum.to_be_bytes());
            self.send_parts(from, to, copy, piece)?;
            at += piece.len();
            if at >= payload.len() {
                return Ok(());
            }
        }
    }

    /// Sends a segment of two parts.
    fn send_parts(&self, from: IpAddr, to: IpAddr, first: &[u8], second: &[u8]) -> io::Result<()> {
        let error = io::Error::from_raw_os_error;
        let length = first.len() + second.len();
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let header = ipv4_header(from, to, length).ok_or_else(|| error(libc::EMSGSIZE))?;
                send(&self.v4, SocketAddr::from((to, 0)), [&header, first, second])
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let socket = self.v6.as_ref().ok_or_else(|| error(libc::EAFNOSUPPORT))?;
                let header = ipv6_header(from, to, length).ok_or_else(|| error(libc::EMSGSIZE))?;
                send(socket, SocketAddr::from((to, 0)), [&header, first, second])
            }
            _ => Err(error(libc::EAFNOSUPPORT)),
        }
    }
}

/// A raw socket on which nothing arrives (IPPROTO_RAW), and whose sender writes the header of IP.
fn raw_socket(family: libc::c_int, mark: u32) -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers; the result is checked before it is owned.
    let fd = unsafe { libc::socket(family, kind, libc::IPPROTO_RAW) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just made and nobody else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    if mark != 0 {
        set_option(&socket, libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed())?;
    }
    Ok(socket)
}

/// The kernel fills in the length, the identification and the checksum of an IPv4 header (raw(7)).
fn ipv4_header(from: Ipv4Addr, to: Ipv4Addr, segment: usize) -> Option<[u8; IPV4_HEADER]> {
    /// Version 4, five words; and the flag that forbids fragments.
    const VERSION_AND_WORDS: u8 = 0x45;
    const DO_NOT_FRAGMENT: u8 = 0x40;
    let length = u16::try_from(IPV4_HEADER + segment).ok()?.to_be_bytes();
    let mut header = [0; IPV4_HEADER];
    header[0] = VERSION_AND_WORDS;
    header[2..4].copy_from_slice(&length);
    header[6] = DO_NOT_FRAGMENT;
    header[8] = HOPS;
    header[9] = libc::IPPROTO_TCP as u8;
    header[12..16].copy_from_slice(&from.octets());
    header[16..20].copy_from_slice(&to.octets());
    Some(header)
}

fn ipv6_header(from: Ipv6Addr, to: Ipv6Addr, segment: usize) -> Option<[u8; IPV6_HEADER]> {
    /// Version 6.
    const VERSION: u8 = 0x60;
    let length = u16::try_from(segment).ok()?.to_be_bytes();
    let mut header = [0; IPV6_HEADER];
    header[0] = VERSION;
    header[4..6].copy_from_slice(&length);
    header[6] = libc::IPPROTO_TCP as u8;
    header[7] = HOPS;
    header[8..24].copy_from_slice(&from.octets());
    header[24..40].copy_from_slice(&to.octets());
    Some(header)
}

/// The checksum of a segment of two parts (RFC 9293, 3.1), the first of which has an even length.
fn checksum(from: IpAddr, to: IpAddr, first: &[u8], second: &[u8]) -> u16 {
    let address = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => sum(&ip.octets()),
        IpAddr::V6(ip) => sum(&ip.octets()),
    };
    let pseudo = address(from) + address(to) + libc::IPPROTO_TCP as u64 + (first.len() + second.len()) as u64;
    let mut sum = pseudo + sum(first) + sum(second);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// The sum of 32-bit words, of which the last may be shorter. Modulo 65,535 it is the sum of 16-bit words (RFC 1071).
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    words.iter().chain([&last]).map(|word| u64::from(u32::from_be_bytes(*word))).sum()
}

fn send(socket: &OwnedFd, to: SocketAddr, parts: [&[u8]; 3]) -> io::Result<()> {
    let address = RawAddress::from(to);
    let mut parts = parts.map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() });
    // SAFETY: msghdr is plain integers and pointers, for which zero is valid.
    let mut message = unsafe { std::mem::zeroed::<libc::msghdr>() };
    message.msg_name = address.as_ptr().cast_mut().cast();
    message.msg_namelen = address.length();
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len();
    // SAFETY: the kernel reads the address and the parts, which outlive the call, and writes to none of them.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
