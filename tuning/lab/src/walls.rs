//! Which wall a guest ran into, told by its console.

use std::fmt;
use std::path::Path;
use std::time::Duration;

/// Why a guest is no more what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wall {
    /// The kernel had no memory left and killed a process.
    OutOfMemory(String),
    /// The kernel gave up.
    Panic(String),
    /// A network card took no more packets.
    Link(String),
    /// Its clock runs at another speed: it measured its processor's counter on a busy host.
    Clock(String),
    /// Nothing came of its boot.
    NoBoot(Duration),
    /// Next to nothing moved any more.
    Stalled(&'static str, Duration),
    /// Its program ended, with this code.
    Exited(i64),
    /// QEMU ended.
    Ended(String),
    /// The whole run took longer than was asked for.
    Deadline(&'static str, Duration),
    /// A signal came.
    Interrupted,
}

impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wall::OutOfMemory(line) => write!(f, "out of memory: the kernel killed a process ({line})"),
            Wall::Panic(line) => write!(f, "the kernel panicked ({line})"),
            Wall::Link(line) => write!(f, "a network card stopped sending ({line})"),
            Wall::Clock(line) => write!(f, "its clock runs at another speed ({line})"),
            Wall::NoBoot(limit) => write!(f, "it did not boot: nothing moved for {} s", limit.as_secs()),
            Wall::Stalled(what, limit) => write!(f, "{what}: next to nothing moved for {} s", limit.as_secs()),
            Wall::Exited(code) => write!(f, "its program ended with code {code}"),
            Wall::Ended(how) => write!(f, "QEMU ended ({how})"),
            Wall::Deadline(what, limit) => write!(f, "{what}: not done within --deadline {} s", limit.as_secs()),
            Wall::Interrupted => f.write_str("interrupted by a signal"),
        }
    }
}

/// The wall that a console line tells of.
type Told = fn(String) -> Wall;

/// The kernel's own words, and what they mean. The first that matches wins, so those that cause
/// others stand first.
const FATAL: [(&str, Told); 6] = [
    ("calibration deviates from", Wall::Clock),
    ("Out of memory: Killed process", Wall::OutOfMemory),
    ("Out of memory and no killable processes", Wall::OutOfMemory),
    ("Memory cgroup out of memory", Wall::OutOfMemory),
    ("NETDEV WATCHDOG", Wall::Link),
    ("Kernel panic", Wall::Panic),
];

/// What is worth telling although nothing ended.
const NOTES: [&str; 4] =
    ["TCP: out of memory", "too many orphaned sockets", "page allocation failure", "blocked for more than"];

/// The wall that a console tells of, if it tells of one. Of a network card behind which nobody is any more
/// nothing counts: QEMU never tells it that its last packet is gone, and the kernel finds it stuck.
pub fn fatal(console: &str, dead_card: Option<&str>) -> Option<Wall> {
    let of_dead_card = |line: &str| dead_card.is_some_and(|card| line.contains(card));
    FATAL.iter().find_map(|(words, wall)| {
        let line = console.lines().find(|line| line.contains(words) && !of_dead_card(line))?;
        Some(wall(without_time(line).to_owned()))
    })
}

/// The notable lines, each kind once.
pub fn notes(console: &str) -> Vec<String> {
    NOTES.iter().filter_map(|words| line_with(console, words)).collect()
}

fn line_with(console: &str, words: &str) -> Option<String> {
    console.lines().find(|line| line.contains(words)).map(|line| without_time(line).to_owned())
}

/// A console line without the kernel's time stamp.
fn without_time(line: &str) -> &str {
    match line.split_once("] ") {
        Some((stamp, rest)) if stamp.starts_with('[') => rest.trim(),
        _ => line.trim(),
    }
}

/// The last lines of a log.
pub fn tail(log: &Path, lines: usize) -> Vec<String> {
    let text = read(log);
    let all: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect()
}

/// What a log holds so far; nothing if there is none. Serial lines may carry any byte.
pub fn read(log: &Path) -> String {
    std::fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The consoles of guests that died in real runs.
    const OUT_OF_MEMORY: &str = include_str!("../fixtures/oom.console.log");
    const PANIC: &str = include_str!("../fixtures/panic.console.log");
    const WELL: &str = include_str!("../fixtures/well.console.log");

    #[test]
    fn each_console_tells_its_wall() {
        let Some(Wall::OutOfMemory(line)) = fatal(OUT_OF_MEMORY, None) else { panic!("no wall") };
        assert!(line.starts_with("Out of memory: Killed process 112 (c1m)"), "{line}");
        let Some(Wall::Panic(line)) = fatal(PANIC, None) else { panic!("no wall") };
        assert!(line.starts_with("Kernel panic - not syncing: IO-APIC + timer doesn't work!"), "{line}");
        assert_eq!((fatal(WELL, None), notes(WELL)), (None, Vec::new()));
        // Of a guest that was started while both cores of its host were busy.
        let fast = "[    0.004000] tsc: PIT calibration deviates from HPET: 188179 2443225\n[    0.004000] tsc: Detected 188.179 MHz";
        let Some(Wall::Clock(line)) = fatal(fast, None) else { panic!("no wall") };
        assert_eq!(line, "tsc: PIT calibration deviates from HPET: 188179 2443225");
    }

    #[test]
    fn a_card_that_lost_its_other_end_may_be_stuck() {
        const STUCK: &str =
            "[  726.104355] virtio_net virtio2 eth2: NETDEV WATCHDOG: CPU: 0: transmit queue 0 timed out 6048 ms";
        assert_eq!(fatal(STUCK, Some("eth2")), None);
        for dead in [None, Some("eth1")] {
            assert!(matches!(fatal(STUCK, dead), Some(Wall::Link(_))), "{dead:?}");
        }
    }

    /// A machine that panics for want of memory ran out of memory.
    #[test]
    fn the_cause_comes_before_what_it_caused() {
        let both = format!("{PANIC}{OUT_OF_MEMORY}");
        assert!(matches!(fatal(&both, None), Some(Wall::OutOfMemory(_))));
    }

    #[test]
    fn a_tail_is_the_last_lines_that_say_something() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        std::fs::write(&log, b"one\r\n\r\ntwo\xff\r\nthree\r\n").unwrap();
        assert_eq!(tail(&log, 2), ["two\u{fffd}", "three"]);
        assert!(tail(&folder.path().join("none"), 2).is_empty());
    }
}
