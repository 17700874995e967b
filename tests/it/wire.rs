//! A wire between two network namespaces that loses, duplicates, delays and reorders packets. Both of its ends are TUN
//! devices, and a thread of the test carries the packets, so the kernel needs no netem.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ffi::CStr;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The request that makes a TUN device of an open /dev/net/tun (TUNSETIFF of linux/if_tun.h).
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
/// Packets are read and written whole, without Ethernet and without a header of their own.
const LAYER_3: libc::c_int = libc::IFF_TUN | libc::IFF_NO_PI;
/// More than the largest packet of a device with an MTU of 1,500.
const LONGEST_PACKET: usize = 2_048;
/// Packets that are on the wire in one direction at most; what comes beyond is lost, as in a router's full queue.
const MOST_ON_THE_WIRE: usize = 10_000;

/// What happens to packets, in parts of a thousand, and how long they are on their way.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    pub lost: u32,
    pub duplicated: u32,
    /// Each packet is on its way for a random time up to this. Packets that follow each other closely change places.
    pub longest_delay: Duration,
}

/// One end of a wire: a TUN device of the network namespace in which it was made.
pub fn end(name: &CStr) -> File {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")
        .unwrap();
    // SAFETY: all zeros are a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let bytes = name.to_bytes_with_nul();
    assert!(bytes.len() <= request.ifr_name.len(), "{name:?} is too long");
    for (into, byte) in request.ifr_name.iter_mut().zip(bytes) {
        *into = *byte as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = LAYER_3 as libc::c_short;
    // SAFETY: the kernel reads and writes one request, which outlives the call.
    let made = unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, &raw mut request) };
    assert_eq!(made, 0, "a TUN device: {}", std::io::Error::last_os_error());
    device
}

/// What a wire did.
#[derive(Debug, Default, Clone, Copy)]
pub struct Carried {
    pub packets: u64,
    pub lost: u64,
    pub duplicated: u64,
    /// Packets that arrived before one that was sent earlier.
    pub overtaking: u64,
}

/// Carries packets between two ends until `stop`. The same `seed` makes the same decisions.
pub fn carry(ends: [&File; 2], faults: Faults, seed: u64, stop: &AtomicBool) -> Carried {
    let mut random = Random(seed);
    let mut carried = Carried::default();
    let mut directions = [Direction::default(), Direction::default()];
    while !stop.load(Ordering::Acquire) {
        for (from, direction) in directions.iter_mut().enumerate() {
            direction.collect(ends[from], faults, &mut random, &mut carried);
            direction.deliver(ends[1 - from], &mut carried);
        }
        let due = directions.iter().filter_map(Direction::next_due).min();
        wait(ends, due);
    }
    carried
}

/// Packets on their way from one end to the other: when each is due, its number, and its bytes.
#[derive(Default)]
struct Direction {
    on_the_wire: BinaryHeap<Reverse<(Instant, u64, Vec<u8>)>>,
    sent: u64,
    /// The highest number that has arrived.
    arrived: u64,
}

impl Direction {
    /// Takes what was sent into one end.
    fn collect(&mut self, end: &File, faults: Faults, random: &mut Random, carried: &mut Carried) {
        let mut packet = [0; LONGEST_PACKET];
        let mut end = end;
        loop {
            let len = match end.read(&mut packet) {
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("a wire's end: {error}"),
            };
            carried.packets += 1;
            let copies = match random.below(1_000) {
                drawn if drawn < faults.lost => 0,
                drawn if drawn < faults.lost + faults.duplicated => 2,
                _ => 1,
            };
            carried.lost += u64::from(copies == 0);
            carried.duplicated += u64::from(copies == 2);
            for _ in 0..copies {
                if self.on_the_wire.len() >= MOST_ON_THE_WIRE {
                    carried.lost += 1;
                    continue;
                }
                let delay = Duration::from_micros(random.below(faults.longest_delay.as_micros() as u32 + 1).into());
                self.sent += 1;
                self.on_the_wire.push(Reverse((Instant::now() + delay, self.sent, packet[..len].to_vec())));
            }
        }
    }

    /// Hands to the other end what is due.
    fn deliver(&mut self, end: &File, carried: &mut Carried) {
        let now = Instant::now();
        let mut end = end;
        while self.next_due().is_some_and(|due| due <= now) {
            let Some(Reverse((_, number, packet))) = self.on_the_wire.pop() else { return };
            carried.overtaking += u64::from(self.arrived > number);
            self.arrived = self.arrived.max(number);
            // A namespace that is short of memory, or whose device is down, loses the packet.
            if end.write(&packet).is_err() {
                carried.lost += 1;
            }
        }
    }

    fn next_due(&self) -> Option<Instant> {
        self.on_the_wire.peek().map(|Reverse((due, ..))| *due)
    }
}

/// Waits until an end has a packet, or until `due`; 10 ms at most.
fn wait(ends: [&File; 2], due: Option<Instant>) {
    const LONGEST: Duration = Duration::from_millis(10);
    let mut polls = ends.map(|end| libc::pollfd { fd: end.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    let time = due.map_or(LONGEST, |due| due.saturating_duration_since(Instant::now()).min(LONGEST));
    let time = libc::timespec { tv_sec: 0, tv_nsec: time.subsec_nanos().into() };
    // SAFETY: the kernel reads and writes two entries and reads a time, which outlive the call.
    unsafe { libc::ppoll(polls.as_mut_ptr(), 2, &time, std::ptr::null()) };
}

/// Numbers that look random and follow from a seed (xorshift64, Marsaglia 2003).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (((self.0 >> 32) * u64::from(limit)) >> 32) as u32
    }
}
