//! Segments that this process makes, without a socket of TCP: answers to the peers of sleeping connections, and caught
//! segments that are to arrive after all.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::catcher::MARK;
use super::{RawAddress, set_option};
use crate::hibernation::Tuple;
use crate::hibernation::segment::{self, FITS_ANYWHERE, Segment};

/// Bytes of the headers of IP without options.
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// Bytes of the send buffers, which the kernel doubles. A segment counts for about 1 KiB of them until it has left.
const SEND_BUFFER: libc::c_int = 4 << 20;

/// Hops that a packet may take: the default of Linux (`ip_default_ttl`, ip(7)).
const HOPS: u8 = 64;

/// Where a TCP header has its sequence number (RFC 9293, 3.1).
const SEQUENCE: Range<usize> = 4..8;

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

    /// Sends a segment as `send` does, from an address of this host. It takes the route that a socket's segments would take:
    /// rules may choose it by that address.
    pub fn answer(&self, from: IpAddr, to: IpAddr, segment: &[u8]) -> io::Result<()> {
        match self.send_by(Some(&Source::of(from)), from, to, segment) {
            // The kernel refuses a source that no interface has, although it may be an address of this host (`ip -6 route add
            // local`).
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.send(from, to, segment),
            sent => sent,
        }
    }

    /// Sends a segment, whose checksum is right, from one address to another of the same family.
    ///
    /// Fails with the error of sendmsg(2): EMSGSIZE if it does not fit the interface, EAGAIN or ENOBUFS if the
    /// interface has no room, EPERM if a rule forbids it, EAFNOSUPPORT for families that this host does not have.
    pub fn send(&self, from: IpAddr, to: IpAddr, segment: &[u8]) -> io::Result<()> {
        self.send_by(None, from, to, segment)
    }

    fn send_by(&self, source: Option<&Source>, from: IpAddr, to: IpAddr, segment: &[u8]) -> io::Result<()> {
        let error = io::Error::from_raw_os_error;
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let header = ipv4_header(from, to, segment.len()).ok_or_else(|| error(libc::EMSGSIZE))?;
                send(&self.v4, SocketAddr::from((to, 0)), [&header, segment], source)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let socket = self.v6.as_ref().ok_or_else(|| error(libc::EAFNOSUPPORT))?;
                let header = ipv6_header(from, to, segment.len()).ok_or_else(|| error(libc::EMSGSIZE))?;
                send(socket, SocketAddr::from((to, 0)), [&header, segment], source)
            }
            _ => Err(error(libc::EAFNOSUPPORT)),
        }
    }

    /// Lets a caught segment arrive: sends it to this host itself, with its ends as they were. Its checksum is made
    /// right. `whole_len` is the length of the segment, of which `bytes` is all or the beginning.
    ///
    /// A segment that is too long for one packet, or for the loopback device, arrives in pieces. If only its beginning
    /// was caught, the peer sends the rest again. Fails like `send`; the peer then sends again what is missing. Bytes
    /// that are no segment are an error (EINVAL).
    pub fn reinject(&self, tuple: &Tuple, bytes: &mut [u8], whole_len: usize) -> io::Result<()> {
        if Segment::parse(bytes, whole_len).is_none() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        segment::restore(tuple, bytes, whole_len);
        match self.send(tuple.remote.ip(), tuple.local.ip(), bytes) {
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                self.send_pieces(tuple, bytes, whole_len, FITS_ANYWHERE)
            }
            sent => sent,
        }
    }

    /// Sends a segment as several with at most so many bytes of payload. The last alone has the segment's FIN.
    pub(super) fn send_pieces(&self, tuple: &Tuple, bytes: &[u8], whole_len: usize, most: usize) -> io::Result<()> {
        let Some(segment) = Segment::parse(bytes, whole_len) else { return Ok(()) };
        let (header, payload) = bytes.split_at(segment.header);
        for (at, part) in (0..).step_by(most).zip(payload.chunks(most)) {
            let mut piece = [header, part].concat();
            piece[SEQUENCE].copy_from_slice(&segment.sequence.wrapping_add(at).to_be_bytes());
            let rest = whole_len - header.len() - at as usize;
            segment::restore(tuple, &mut piece, header.len() + rest);
            self.send(tuple.remote.ip(), tuple.local.ip(), &piece)?;
        }
        Ok(())
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
    // SAFETY: `fd` was just made and nothing else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // Answers to a mass disconnect come in bursts. Where this may not be set, some of them are lost, and their peers ask
    // again.
    let _ = set_option(&socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SEND_BUFFER);
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

/// A control message (cmsg(3)) that names the source of a segment, so that its route is chosen by that too. The kernel
/// does not look for it in the header of IP (`raw_sendmsg` in net/ipv4/raw.c).
#[repr(C)]
struct Source {
    header: libc::cmsghdr,
    info: Info,
}

#[repr(C)]
union Info {
    v4: libc::in_pktinfo,
    v6: libc::in6_pktinfo,
}

impl Source {
    /// Interface 0 is any one.
    fn of(source: IpAddr) -> Source {
        let (len, cmsg_level, cmsg_type, info) = match source {
            IpAddr::V4(source) => {
                let [ipi_spec_dst, ipi_addr] =
                    [u32::from_ne_bytes(source.octets()), 0].map(|s_addr| libc::in_addr { s_addr });
                let v4 = libc::in_pktinfo { ipi_ifindex: 0, ipi_spec_dst, ipi_addr };
                (size_of_val(&v4), libc::IPPROTO_IP, libc::IP_PKTINFO, Info { v4 })
            }
            IpAddr::V6(source) => {
                let v6 = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: source.octets() }, ipi6_ifindex: 0 };
                (size_of_val(&v6), libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, Info { v6 })
            }
        };
        let cmsg_len = (size_of::<libc::cmsghdr>() + len) as _;
        Source { header: libc::cmsghdr { cmsg_len, cmsg_level, cmsg_type }, info }
    }
}

fn send(socket: &OwnedFd, to: SocketAddr, parts: [&[u8]; 2], source: Option<&Source>) -> io::Result<()> {
    let address = RawAddress::from(to);
    let mut parts = parts.map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() });
    // SAFETY: msghdr is plain integers and pointers, for which zero is valid.
    let mut message = unsafe { std::mem::zeroed::<libc::msghdr>() };
    message.msg_name = address.as_ptr().cast_mut().cast();
    message.msg_namelen = address.length();
    message.msg_iov = parts.as_mut_ptr();
    message.msg_iovlen = parts.len();
    if let Some(source) = source {
        message.msg_control = (&raw const *source).cast_mut().cast();
        message.msg_controllen = source.header.cmsg_len;
    }
    // SAFETY: the kernel reads the address, the parts and the source, which outlive the call, and writes to none of them.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
