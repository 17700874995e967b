//! BPF as far as this program needs it: the system call bpf(2) (include/uapi/linux/bpf.h), memory of maps, and an
//! assembler for programs (RFC 9669).

mod program;

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

pub use program::{ADD, EXCHANGE, FRAME, Instruction, Label, OR, Program, Register, helper};

/// Kinds of maps (`enum bpf_map_type`).
pub const HASH: u32 = 1;
pub const ARRAY: u32 = 2;
pub const ARRAY_OF_MAPS: u32 = 12;
pub const SOCKET_MAP: u32 = 15;
pub const RING_BUFFER: u32 = 27;

/// A flag of arrays: user space can map their memory (`BPF_F_MMAPABLE`).
pub const MMAPABLE: u32 = 1 << 10;

/// A flag of hash maps: each element gets its memory when it is put in (`BPF_F_NO_PREALLOC`).
pub const ALLOCATES_LATE: u32 = 1;

/// Kinds of programs (`enum bpf_prog_type`).
pub const SOCKET_FILTER: u32 = 1;
pub const SOCKET_LOOKUP: u32 = 30;

/// Where programs of the kind `SOCKET_LOOKUP` are attached (`enum bpf_attach_type`).
const AT_SOCKET_LOOKUP: u32 = 36;

/// Commands (`enum bpf_cmd`).
const MAP_CREATE: libc::c_long = 0;
const MAP_UPDATE_ELEM: libc::c_long = 2;
const MAP_DELETE_ELEM: libc::c_long = 3;
const PROG_LOAD: libc::c_long = 5;
const LINK_CREATE: libc::c_long = 28;

/// How often a load that fails with EAGAIN is tried again.
const LOAD_AGAIN: usize = 10;

#[repr(C)]
struct MapAttributes {
    kind: u32,
    key_bytes: u32,
    value_bytes: u32,
    entries: u32,
    flags: u32,
    inner_map: RawFd,
}

#[repr(C)]
struct ElementAttributes {
    map: RawFd,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
struct ProgramAttributes {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_bytes: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_to: u32,
}

#[repr(C)]
struct LinkAttributes {
    program: RawFd,
    target: RawFd,
    attach_to: u32,
    flags: u32,
}

/// Creates a map. Fails with EPERM without CAP_BPF.
pub fn create_map(kind: u32, key_bytes: u32, value_bytes: u32, entries: u32, flags: u32) -> io::Result<OwnedFd> {
    make(MAP_CREATE, &MapAttributes { kind, key_bytes, value_bytes, entries, flags, inner_map: 0 })
}

/// Creates an array of maps, all of which are like `first`.
pub fn create_array_of_maps(entries: u32, first: &OwnedFd) -> io::Result<OwnedFd> {
    let inner_map = first.as_raw_fd();
    make(MAP_CREATE, &MapAttributes { kind: ARRAY_OF_MAPS, key_bytes: 4, value_bytes: 4, entries, flags: 0, inner_map })
}

/// Puts a descriptor, of a map or of a socket, into an array of maps or a map of sockets.
pub fn put(map: &OwnedFd, at: u32, descriptor: &impl AsRawFd) -> io::Result<()> {
    let value = descriptor.as_raw_fd();
    let (key, value) = (&raw const at as u64, &raw const value as u64);
    call(MAP_UPDATE_ELEM, &ElementAttributes { map: map.as_raw_fd(), key, value, flags: 0 }).map(drop)
}

/// Adds a key to a hash map with values of 4 bytes, which mean nothing. Fails with E2BIG where the map is full, and with
/// ENOMEM.
pub fn add_key<const BYTES: usize>(map: &OwnedFd, key: &[u8; BYTES]) -> io::Result<()> {
    let value = 0u32;
    let (key, value) = (key.as_ptr() as u64, &raw const value as u64);
    call(MAP_UPDATE_ELEM, &ElementAttributes { map: map.as_raw_fd(), key, value, flags: 0 }).map(drop)
}

/// Removes a key from a hash map. Fails with ENOENT where the map does not have it.
pub fn remove_key<const BYTES: usize>(map: &OwnedFd, key: &[u8; BYTES]) -> io::Result<()> {
    let key = key.as_ptr() as u64;
    call(MAP_DELETE_ELEM, &ElementAttributes { map: map.as_raw_fd(), key, value: 0, flags: 0 }).map(drop)
}

/// Loads a program of a kind. Fails with EPERM without CAP_BPF, and with EACCES or EPERM if the verifier refuses the
/// program, as it does without CAP_PERFMON.
pub fn load(kind: u32, instructions: &[Instruction]) -> io::Result<OwnedFd> {
    let attributes = ProgramAttributes {
        kind,
        instruction_count: instructions.len() as u32,
        instructions: instructions.as_ptr() as u64,
        // The helpers in use are available under any license.
        license: c"Dual MIT/GPL".as_ptr() as u64,
        log_level: 0,
        log_bytes: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name: [0; 16],
        interface: 0,
        attach_to: if kind == SOCKET_LOOKUP { AT_SOCKET_LOOKUP } else { 0 },
    };
    // The verifier gives up with EAGAIN when a signal or other work is pending for the thread, such as a ring's.
    for _ in 0..LOAD_AGAIN {
        match make(PROG_LOAD, &attributes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            loaded => return loaded,
        }
    }
    make(PROG_LOAD, &attributes)
}

/// Attaches a program of the kind `SOCKET_LOOKUP` to a network namespace. It stays attached as long as the returned
/// descriptor is open.
pub fn attach_to_namespace(program: &OwnedFd, namespace: &impl AsRawFd) -> io::Result<OwnedFd> {
    let (program, target) = (program.as_raw_fd(), namespace.as_raw_fd());
    make(LINK_CREATE, &LinkAttributes { program, target, attach_to: AT_SOCKET_LOOKUP, flags: 0 })
}

/// Calls bpf(2) for a command that makes a descriptor. All descriptors of bpf(2) are closed on exec.
fn make<T>(command: libc::c_long, attributes: &T) -> io::Result<OwnedFd> {
    let fd = call(command, attributes)?;
    // SAFETY: `fd` was just made and nothing else has it.
    RawFd::try_from(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).map_err(io::Error::other)
}

fn call<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads the attributes, and what they point to: instructions, a license, a key or a value, all
    // of which outlive the call. It writes nothing without a log.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Memory shared with the kernel, or with another process. They write to it at any time, so it is read and written
/// through atomics alone.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<AtomicU64>,
    bytes: usize,
}

impl Mapping {
    /// Maps `bytes` bytes of a map, or of a file, from `offset` on.
    pub fn new(map: &OwnedFd, offset: usize, bytes: usize, protection: libc::c_int) -> io::Result<Mapping> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no memory of ours.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                protection,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                offset as libc::off_t,
            )
        };
        match NonNull::new(start.cast::<AtomicU64>()) {
            Some(start) if start.as_ptr().cast() != libc::MAP_FAILED => Ok(Mapping { start, bytes }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Word number `at`. A word of a read-only mapping may only be loaded, and only with `Relaxed`.
    pub fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at < self.bytes / 8, "word {at} of a mapping of {} bytes", self.bytes);
        // SAFETY: within the mapping, aligned as the mapping is to a page, and valid as any bits are; it is
        // unmapped when `self` is dropped.
        unsafe { self.start.add(at).as_ref() }
    }

    /// All its words. Those of a read-only mapping may only be loaded, and only with `Relaxed`.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping begins at a page, has so many words, any bits of which are valid, and is unmapped when
        // `self` is dropped.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes / 8) }
    }

    /// Bytes of the mapping.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where `length` bytes from byte `at` on are. A caller that reads them must know that nothing writes to them
    /// meanwhile.
    pub fn range(&self, at: usize, length: usize) -> *const [u8] {
        assert!(at <= self.bytes && length <= self.bytes - at, "{length} bytes at {at} of {} bytes", self.bytes);
        std::ptr::slice_from_raw_parts(self.start.as_ptr().cast::<u8>().wrapping_add(at), length)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and there is no reference into it any more.
        let _ = unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes) };
    }
}

// SAFETY: atomics in memory that does not depend on the thread.
unsafe impl Send for Mapping {}
// SAFETY: as above; threads share nothing but atomics.
unsafe impl Sync for Mapping {}
