//! Taking an idle connection out of its socket, and making an equal socket later (TCP_REPAIR, tcp(7)). The peer sees
//! nothing of either.
//!
//! A socket in repair mode sends nothing when it is closed or disconnected, tells how far its queues have come, and
//! connects without a handshake. Leaving repair mode sends nothing with the value -1 (`TCP_REPAIR_OFF_NO_WP`, Linux
//! 4.20), and a window probe with 0.
//!
//! Repair mode needs CAP_NET_ADMIN in the user namespace of the socket's network namespace.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::{RawAddress, set_option};
use crate::hibernation::{Checkpoint, Negotiated, Progress, Scales, Tuple};

/// Names and values that libc lacks (include/uapi/linux/tcp.h, include/uapi/asm-generic/socket.h).
const TCP_REPAIR_WINDOW: libc::c_int = 29;
const REPAIR_ON: libc::c_int = 1;
const REPAIR_OFF_SILENTLY: libc::c_int = -1;
const RECEIVE_QUEUE: libc::c_int = 1;
const SEND_QUEUE: libc::c_int = 2;
const SO_MEMINFO: libc::c_int = 55;

/// The state of an established connection (include/net/tcp_states.h).
const ESTABLISHED: u8 = 1;

/// Bits of `tcpi_options`.
const HAS_TIMESTAMPS: u8 = 1;
const HAS_SACK: u8 = 2;
const HAS_SCALES: u8 = 4;
/// Its timestamps count microseconds (Linux 6.7).
const HAS_MICROSECONDS: u8 = 64;

/// The numbers of options in a SYN (RFC 9293, 3.2, RFC 7323, RFC 2018), by which TCP_REPAIR_OPTIONS knows them.
const MSS: u32 = 2;
const SCALES: u32 = 3;
const SACK: u32 = 4;
const TIMESTAMPS: u32 = 8;
/// The option that only fills (RFC 9293, 3.2). The kernel skips it.
const NOTHING: u32 = 1;

/// The smallest and the largest segment that TCP_MAXSEG takes (`TCP_MIN_MSS` and `MAX_TCP_WINDOW`,
/// include/net/tcp.h).
const LEAST_MSS: u16 = 88;
const MOST_MSS: u16 = 32_767;

/// How often a time is read anew because a millisecond ended meanwhile. Twice in a row takes a pause of the thread each
/// time; the timestamp is then off by as much.
const READ_AGAIN: usize = 4;

/// `struct tcp_repair_window`, as numbers: the sequence number of the segment that updated the peer's window last, that
/// window, the largest that it ever was, our window, and the sequence number up to which we have acknowledged, from
/// where our window counts.
type Window = [u32; 5];

/// What SO_MEMINFO tells (`enum` in include/uapi/linux/sock_diag.h), in bytes.
pub(super) type MemoryInfo = [u32; 9];
/// Memory of segments that were received, in order or not, and not yet read.
const RECEIVED: usize = 0;
/// Memory of segments that were sent and not acknowledged, or are to be sent.
const TO_BE_SENT: usize = 5;
/// Memory of segments that wait for the owner of the socket.
const BACKLOG: usize = 7;

/// What a restored socket needs that its checkpoint does not tell: what a listener gives to accepted sockets.
#[derive(Debug, Clone, Copy)]
pub struct Wish<'a> {
    /// The socket filter, which must have the catcher's part.
    pub program: BorrowedFd<'a>,
    /// Answers do not wait for acknowledgements (TCP_NODELAY).
    pub no_delay: bool,
    /// Probes for a peer that is silent (SO_KEEPALIVE).
    pub keepalive: Option<Keepalive>,
}

/// Probes for a peer that is silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe, 1 to 32,767 seconds (TCP_KEEPIDLE).
    pub time: Duration,
    /// The time between probes, 1 to 32,767 seconds (TCP_KEEPINTVL).
    pub interval: Duration,
    /// Probes without an answer after which the kernel gives the connection up, 1 to 127 (TCP_KEEPCNT).
    pub probes: u32,
}

/// A socket that had a connection and is empty now, in repair mode. It keeps its filter and its options, and so serves
/// `restore` for the same `Wish` at less cost than a new one.
///
/// A softirq may have found the socket for a segment of its former connection. Use it only after a grace period
/// (`grace.rs`).
#[derive(Debug)]
pub struct Blank {
    socket: OwnedFd,
    is_v6: bool,
    /// The local end of its former connection, to which it may still be bound.
    local: Option<SocketAddr>,
}

impl Blank {
    /// Whether it can serve a connection with this local end: it must be that of its former connection.
    pub fn fits(&self, local: SocketAddr) -> bool {
        self.local.is_none_or(|former| former == local)
    }
}

/// What a connection is identified by, and what its handshake agreed on. `None` if it cannot be put to sleep: it is not
/// established, it is no connection over IP, it has a link-local address or timestamps in microseconds, or its peer
/// takes less than 88 bytes in a segment.
///
/// Fails with EPERM without CAP_NET_ADMIN. SO_REUSEADDR is set afterwards.
pub fn identify(socket: &impl AsRawFd) -> io::Result<Option<(Tuple, Negotiated)>> {
    let info = tcp_info(socket)?;
    if info.tcpi_state != ESTABLISHED || info.tcpi_options & HAS_MICROSECONDS != 0 {
        return Ok(None);
    }
    let (Some(remote), Some(local)) = (address(socket, libc::getpeername)?, address(socket, libc::getsockname)?) else {
        return Ok(None);
    };
    let tuple = Tuple { remote: canonical(remote), local: canonical(local) };
    if is_link_local(tuple.remote.ip()) || is_link_local(tuple.local.ip()) {
        return Ok(None);
    }
    // Only in repair mode TCP_MAXSEG is what the peer takes, and not what one segment holds at the moment.
    set(socket, libc::TCP_REPAIR, REPAIR_ON)?;
    let mss = get(socket, libc::TCP_MAXSEG);
    leave(socket)?;
    let mss = u16::try_from(mss?).unwrap_or(u16::MAX);
    let has = |option: u8| info.tcpi_options & option != 0;
    let timestamp_offset = if has(HAS_TIMESTAMPS) { Some(timestamp_offset(socket)?) } else { None };
    let scales = has(HAS_SCALES).then(|| scales(info.tcpi_snd_rcv_wscale));
    let negotiated = Negotiated { mss, scales, sack: has(HAS_SACK), timestamp_offset };
    Ok((mss >= LEAST_MSS).then_some((tuple, negotiated)))
}

/// Takes an established connection's progress, if it has nothing in flight: all that was sent is acknowledged, all that
/// was received is read and acknowledged. Then the socket is in repair mode, in which its last close is silent, and
/// `blank` too. Otherwise (`None`) the socket is left as it was, but that SO_REUSEADDR is set.
///
/// Its segments must be caught since a grace period, or one that arrives now is lost.
pub fn checkpoint(socket: &impl AsRawFd) -> io::Result<Option<Progress>> {
    set(socket, libc::TCP_REPAIR, REPAIR_ON)?;
    match progress(socket) {
        Ok(Some(progress)) => Ok(Some(progress)),
        refused => leave(socket).and(refused),
    }
}

/// The progress of a socket in repair mode; `None` if something is in flight.
fn progress(socket: &impl AsRawFd) -> io::Result<Option<Progress>> {
    let info = tcp_info(socket)?;
    if info.tcpi_state != ESTABLISHED || info.tcpi_unacked != 0 || info.tcpi_notsent_bytes != 0 {
        return Ok(None);
    }
    // Segments out of order are in no queue that TCP_INFO or SIOCINQ count.
    let memory = memory_info(socket)?;
    if [RECEIVED, TO_BE_SENT, BACKLOG].iter().any(|at| memory[*at] != 0) {
        return Ok(None);
    }
    let window: Window = get_option(socket, libc::IPPROTO_TCP, TCP_REPAIR_WINDOW)?;
    let [_, send_window, largest_window, receive_window, acknowledged] = window;
    set(socket, libc::TCP_REPAIR_QUEUE, RECEIVE_QUEUE)?;
    let received = get(socket, libc::TCP_QUEUE_SEQ)?.cast_unsigned();
    // Later segments are not yet acknowledged.
    if received != acknowledged {
        return Ok(None);
    }
    set(socket, libc::TCP_REPAIR_QUEUE, SEND_QUEUE)?;
    let sent = get(socket, libc::TCP_QUEUE_SEQ)?.cast_unsigned();
    // A socket that has sent nothing since it was restored knows what it was told.
    let round_trip = (info.tcpi_data_segs_out > 0).then(|| Duration::from_micros(info.tcpi_rtt.into()));
    Ok(Some(Progress { received, sent, send_window, receive_window, largest_window, round_trip }))
}

/// Empties a socket, of which `checkpoint` has taken the progress of the connection `tuple`, without a segment.
pub fn blank(socket: OwnedFd, tuple: &Tuple) -> io::Result<Blank> {
    connect(&socket, &RawAddress::unspecified())?;
    // A socket that is disconnected in repair mode has an error (`tcp_disconnect`), which the first receive of its next
    // connection would bring. Asking for it takes it away.
    let _: libc::c_int = get_option(&socket, libc::SOL_SOCKET, libc::SO_ERROR)?;
    let is_v6 = matches!(address(&socket, libc::getsockname)?, Some(SocketAddr::V6(_)));
    Ok(Blank { socket, is_v6, local: Some(tuple.local) })
}

/// Makes a socket of a connection that was taken out of its own: a new one, or the blank one if it fits. An IPv4-mapped
/// connection gets a socket of IPv4. Nothing is sent.
///
/// The connection's segments must be caught meanwhile: before it returns the socket is found by them, and knows neither
/// its timestamps nor its windows.
///
/// Fails with the error of the system call: EADDRNOTAVAIL if the local address is gone or the connection has a
/// socket already, ENETUNREACH or EHOSTUNREACH if the peer has no route, EMFILE, ENOMEM, ENOBUFS, and EPERM without
/// CAP_NET_ADMIN. The checkpoint stays valid then.
pub fn restore(checkpoint: &Checkpoint, wish: &Wish<'_>, blank: Option<Blank>) -> io::Result<OwnedFd> {
    let socket = connected(checkpoint, fitting(checkpoint, wish, blank)?)?;
    complete(&socket, checkpoint)?;
    Ok(socket)
}

/// Like `restore`, but that the last byte that was sent still waits for its acknowledgement. The peer has it, and what it
/// was is not known any more: it is 0 now. It is to be acknowledged, or the socket given up (`abandon`), before the kernel
/// sends it again, after 0.2 s or later. A peer that gets it drops it, as it has the byte.
pub(super) fn restore_unacknowledged(
    checkpoint: &Checkpoint,
    wish: &Wish<'_>,
    blank: Option<Blank>,
) -> io::Result<OwnedFd> {
    let sent = checkpoint.progress.sent.wrapping_sub(1);
    let earlier = Checkpoint { progress: Progress { sent, ..checkpoint.progress }, ..*checkpoint };
    let socket = connected(&earlier, fitting(checkpoint, wish, blank)?)?;
    put_back(&socket, &[0])?;
    complete(&socket, &earlier)?;
    Ok(socket)
}

/// Gives a restored socket up without a segment, at once and also where another process has a copy of its descriptor.
pub(super) fn abandon(socket: &OwnedFd) -> io::Result<()> {
    set(socket, libc::TCP_REPAIR, REPAIR_ON)?;
    connect(socket, &RawAddress::unspecified())
}

/// The blank socket if it fits the connection, or else a new one.
fn fitting(checkpoint: &Checkpoint, wish: &Wish<'_>, blank: Option<Blank>) -> io::Result<Blank> {
    let blank = blank.filter(|blank| blank.fits(checkpoint.tuple.local));
    blank.map_or_else(|| new_socket(&checkpoint.tuple, wish), Ok)
}

/// Sets what the connection is made of, and makes it. Segments find the socket from now on.
pub(super) fn connected(checkpoint: &Checkpoint, blank: Blank) -> io::Result<OwnedFd> {
    let Checkpoint { tuple, negotiated, progress } = checkpoint;
    let Blank { socket, is_v6, local: former } = blank;
    // An acknowledgement with a wrong timestamp would have the peer refuse all later ones (PAWS). And only TCP_MAXSEG
    // at this time lets full segments be sent.
    set(&socket, libc::TCP_MAXSEG, negotiated.mss.clamp(LEAST_MSS, MOST_MSS).into())?;
    if let Some(offset) = negotiated.timestamp_offset {
        set_timestamp(&socket, offset)?;
    }
    match bind(&socket, &raw(tuple.local, is_v6)) {
        // A blank socket that was accepted has lost its port, and one that was restored is still bound to it.
        Err(error) if former.is_some() && error.raw_os_error() == Some(libc::EINVAL) => {}
        bound => bound?,
    }
    for (queue, sequence) in [(RECEIVE_QUEUE, progress.received), (SEND_QUEUE, progress.sent)] {
        set(&socket, libc::TCP_REPAIR_QUEUE, queue)?;
        set(&socket, libc::TCP_QUEUE_SEQ, sequence.cast_signed())?;
    }
    connect(&socket, &raw(tuple.remote, is_v6))?;
    Ok(socket)
}

/// Sets what can be set only when the connection is made, and leaves repair mode.
pub(super) fn complete(socket: &OwnedFd, checkpoint: &Checkpoint) -> io::Result<()> {
    set_agreed(socket, &checkpoint.negotiated)?;
    set_words(socket, TCP_REPAIR_WINDOW, &window(&checkpoint.progress))?;
    leave(socket)
}

/// The windows of a restored socket. The kernel refuses a largest window below the present one, and windows that begin
/// later than what was received (`tcp_repair_set_window`).
fn window(progress: &Progress) -> Window {
    // The peer's next segment is newer than this one, so it updates the window.
    let updated_by = progress.received.wrapping_sub(1);
    let largest = progress.largest_window.max(progress.send_window);
    [updated_by, progress.send_window, largest, progress.receive_window, progress.received]
}

/// A new socket in repair mode.
pub(super) fn in_repair(family: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; the result is checked before it is owned.
    let fd = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `fd` was just made and nothing else has it.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set(&socket, libc::TCP_REPAIR, REPAIR_ON)?;
    Ok(socket)
}

/// A new socket in repair mode, with what is wished.
pub(super) fn new_socket(tuple: &Tuple, wish: &Wish<'_>) -> io::Result<Blank> {
    let is_v6 = tuple.local.is_ipv6();
    let socket = in_repair(if is_v6 { libc::AF_INET6 } else { libc::AF_INET })?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, wish.program.as_raw_fd())?;
    if wish.no_delay {
        set(&socket, libc::TCP_NODELAY, 1)?;
    }
    if let Some(keepalive) = wish.keepalive {
        let seconds = |time: Duration| libc::c_int::try_from(time.as_secs()).unwrap_or(libc::c_int::MAX);
        set(&socket, libc::TCP_KEEPIDLE, seconds(keepalive.time))?;
        set(&socket, libc::TCP_KEEPINTVL, seconds(keepalive.interval))?;
        set(&socket, libc::TCP_KEEPCNT, libc::c_int::try_from(keepalive.probes).unwrap_or(libc::c_int::MAX))?;
        set_option(&socket, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    }
    Ok(Blank { socket, is_v6, local: None })
}

/// Sets what the handshake agreed on.
fn set_agreed(socket: &OwnedFd, negotiated: &Negotiated) -> io::Result<()> {
    // A socket without the option of scales would still shift the windows that it announces, by what it would have
    // offered itself (`tcp_connect_init`). With shifts of 0 it does not.
    let scales = negotiated.scales.unwrap_or(Scales { send: 0, receive: 0 });
    let scales = u32::from(scales.send) | u32::from(scales.receive) << 16;
    // Pairs of a number and a value (`struct tcp_repair_opt`). NOTHING is skipped.
    let sack = if negotiated.sack { SACK } else { NOTHING };
    let timestamps = if negotiated.timestamp_offset.is_some() { TIMESTAMPS } else { NOTHING };
    let options = [MSS, negotiated.mss.into(), SCALES, scales, sack, 0, timestamps, 0];
    set_words(socket, libc::TCP_REPAIR_OPTIONS, &options)
}

/// Leaves repair mode without a segment. That clears SO_REUSEADDR, without which no listener could be bound to the
/// port as long as this connection lives.
fn leave(socket: &impl AsRawFd) -> io::Result<()> {
    set(socket, libc::TCP_REPAIR, REPAIR_OFF_SILENTLY)?;
    set_option(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)
}

/// The kernel's clock for timestamps: CLOCK_MONOTONIC in milliseconds, modulo 2^32 (`tcp_clock_ts`).
pub fn timestamp_clock() -> u32 {
    (super::monotonic_time().as_millis() & u128::from(u32::MAX)) as u32
}

/// What is added to the clock in a socket's timestamps, or 1 more.
///
/// Later timestamps of the connection must not be less than those that the peer has seen, which would refuse them
/// (PAWS). Since Linux 6.7 TCP_TIMESTAMP hides bit 0, so it is taken as set.
fn timestamp_offset(socket: &impl AsRawFd) -> io::Result<u32> {
    let read = || get(socket, libc::TCP_TIMESTAMP).map(|value| value.cast_unsigned() | 1);
    within_one_millisecond(read).map(|(now, value)| value.wrapping_sub(now))
}

/// Has the timestamps of a socket run `offset` milliseconds ahead of the clock, or one more: an odd value would switch
/// to microseconds (Linux 6.7), and the peer would refuse them.
fn set_timestamp(socket: &impl AsRawFd, offset: u32) -> io::Result<()> {
    let even = |now: u32| now.wrapping_add(offset).wrapping_add(1) & !1;
    let write = || set(socket, libc::TCP_TIMESTAMP, even(timestamp_clock()).cast_signed());
    within_one_millisecond(write).map(drop)
}

/// Calls `f` within one millisecond of the clock, and returns which. It is called again when a millisecond has ended
/// meanwhile.
fn within_one_millisecond<T>(f: impl Fn() -> io::Result<T>) -> io::Result<(u32, T)> {
    let mut now = timestamp_clock();
    let mut result = f()?;
    for _ in 0..READ_AGAIN {
        let after = timestamp_clock();
        if after == now {
            break;
        }
        (now, result) = (after, f()?);
    }
    Ok((now, result))
}

/// The shifts in `tcpi_snd_wscale` and `tcpi_rcv_wscale`, two fields of four bits in the order of the host's bytes.
fn scales(fields: u8) -> Scales {
    let (low, high) = (fields & 0xf, fields >> 4);
    if cfg!(target_endian = "little") {
        Scales { send: low, receive: high }
    } else {
        Scales { send: high, receive: low }
    }
}

/// An IPv4-mapped address as the IPv4 address that is in the packets. A flow label and a scope are none of a tuple's.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Whether an address is valid on one link only, which a tuple does not name.
fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

/// An address for a socket of a family.
fn raw(address: SocketAddr, is_v6: bool) -> RawAddress {
    match address {
        SocketAddr::V4(v4) if is_v6 => {
            SocketAddr::V6(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0)).into()
        }
        address => address.into(),
    }
}

type NameCall = unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

fn raw_address(socket: &impl AsRawFd, call: NameCall) -> io::Result<RawAddress> {
    let mut address = RawAddress::to_be_written();
    let (room, length) = address.as_mut_ptrs();
    // SAFETY: getsockname or getpeername, which write at most `length` bytes of an address, and its length. Both outlive
    // the call.
    let done = unsafe { call(socket.as_raw_fd(), room, length) };
    if done == 0 { Ok(address) } else { Err(io::Error::last_os_error()) }
}

/// An end of a connection; `None` if it is not of IP.
fn address(socket: &impl AsRawFd, call: NameCall) -> io::Result<Option<SocketAddr>> {
    raw_address(socket, call).map(|address| address.socket_addr())
}

fn bind(socket: &impl AsRawFd, to: &RawAddress) -> io::Result<()> {
    // SAFETY: the kernel reads the address, which outlives the call.
    let done = unsafe { libc::bind(socket.as_raw_fd(), to.as_ptr(), to.length()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Puts bytes into the queue of what was sent and is not acknowledged. The socket is in repair mode, and that queue is the
/// one that was chosen last (`SEND_QUEUE`). Nothing is sent.
fn put_back(socket: &impl AsRawFd, bytes: &[u8]) -> io::Result<()> {
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: the kernel reads the bytes, which outlive the call.
    let put = unsafe { libc::send(socket.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
    if put < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn connect(socket: &impl AsRawFd, to: &RawAddress) -> io::Result<()> {
    // SAFETY: the kernel reads the address, which outlives the call.
    let done = unsafe { libc::connect(socket.as_raw_fd(), to.as_ptr(), to.length()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub(super) fn tcp_info(socket: &impl AsRawFd) -> io::Result<libc::tcp_info> {
    get_option(socket, libc::IPPROTO_TCP, libc::TCP_INFO)
}

/// A value that may have any bits.
///
/// # Safety
///
/// The type is plain integers.
pub(super) unsafe trait Plain {}
// SAFETY: integers.
unsafe impl Plain for libc::c_int {}
// SAFETY: integers.
unsafe impl Plain for libc::tcp_info {}
// SAFETY: integers.
unsafe impl<const N: usize> Plain for [u32; N] {}

/// Reads SO_MEMINFO.
pub(super) fn memory_info(socket: &impl AsRawFd) -> io::Result<MemoryInfo> {
    get_option(socket, libc::SOL_SOCKET, SO_MEMINFO)
}

/// Reads an option. What the kernel does not write is 0.
pub(super) fn get_option<T: Plain>(socket: &impl AsRawFd, level: libc::c_int, name: libc::c_int) -> io::Result<T> {
    // SAFETY: plain integers, for which zero is valid.
    let mut value = unsafe { std::mem::zeroed::<T>() };
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into `value`, for which any bits are valid; both outlive the call.
    let done = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) };
    if done == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

pub(super) fn get(socket: &impl AsRawFd, name: libc::c_int) -> io::Result<libc::c_int> {
    get_option(socket, libc::IPPROTO_TCP, name)
}

fn set(socket: &impl AsRawFd, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    set_option(socket, libc::IPPROTO_TCP, name, value)
}

/// Sets an option of TCP that takes an array of numbers.
fn set_words(socket: &impl AsRawFd, name: libc::c_int, words: &[u32]) -> io::Result<()> {
    let len = size_of_val(words) as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes of `words`, which outlives the call.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, name, words.as_ptr().cast(), len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
