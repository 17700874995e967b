//! Values of sysctls compared: which one gives less, and one that gives no less than two others.

use std::ops::RangeInclusive;

use crate::host::SourcePorts;

/// The sysctl whose value is a list of ports and ranges of them.
const RESERVED_PORTS: &str = "net.ipv4.ip_local_reserved_ports";

/// The sysctl whose value is the first and the last port of a range.
const PORT_RANGE: &str = "net.ipv4.ip_local_port_range";

/// The sysctl whose numbers are no amounts: 2 is for loopback alone, 1 for all interfaces.
const TIME_WAIT_REUSE: &str = "net.ipv4.tcp_tw_reuse";

fn numbers(text: &str) -> Option<Vec<u64>> {
    text.split_whitespace().map(|word| word.parse().ok()).collect()
}

/// Whether a value of a sysctl gives less than another one.
pub fn is_less(name: &str, value: &str, wanted: &str) -> bool {
    match name {
        RESERVED_PORTS => {
            let theirs = SourcePorts::reserved_in(value);
            let kept = |ports: &RangeInclusive<u64>| {
                theirs.iter().any(|range| range.contains(ports.start()) && range.contains(ports.end()))
            };
            !SourcePorts::reserved_in(wanted).iter().all(kept)
        }
        PORT_RANGE => match (numbers(value).as_deref(), numbers(wanted).as_deref()) {
            (Some([low, high]), Some([first, last])) => low > first || high < last,
            _ => true,
        },
        TIME_WAIT_REUSE => value != wanted,
        _ => match (numbers(value), numbers(wanted)) {
            (Some(theirs), Some(ours)) => {
                theirs.len() != ours.len() || theirs.iter().zip(&ours).any(|(theirs, ours)| theirs < ours)
            }
            _ => true,
        },
    }
}

/// A value that gives no less than `wanted` and, where the two can be compared, no less than `now`.
pub fn higher(name: &str, wanted: &str, now: &str) -> String {
    let text = |numbers: &[u64]| numbers.iter().map(u64::to_string).collect::<Vec<_>>().join("\t");
    match name {
        RESERVED_PORTS => {
            let reserved = SourcePorts::reserved_in(&format!("{wanted},{now}"));
            SourcePorts { reserved, ..SourcePorts::DEFAULT }.reserved_text()
        }
        TIME_WAIT_REUSE => wanted.to_owned(),
        _ => match (numbers(wanted).as_deref(), numbers(now).as_deref()) {
            (Some([first, last]), Some([low, high])) if name == PORT_RANGE => text(&[*first.min(low), *last.max(high)]),
            (Some(ours), Some(theirs)) if ours.len() == theirs.len() => {
                text(&ours.iter().zip(theirs).map(|(ours, theirs)| *ours.max(theirs)).collect::<Vec<_>>())
            }
            _ => wanted.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn less_is_told_from_more() {
        for (name, value, wanted, less) in [
            ("net.core.somaxconn", "128", "4096", true),
            ("net.core.somaxconn", "4096", "4096", false),
            ("net.core.somaxconn", "65535", "4096", false),
            ("net.ipv4.tcp_rmem", "4096 8192 99999999", "4096\t131072\t6291456", true),
            ("net.ipv4.tcp_rmem", "4096 131072 99999999", "4096\t131072\t6291456", false),
            ("net.ipv4.ip_local_port_range", "1024 65535", "15536\t65535", false),
            ("net.ipv4.ip_local_port_range", "32768 60999", "15536\t65535", true),
            ("net.ipv4.ip_local_reserved_ports", "80,8000-9000", "8888-8987", false),
            ("net.ipv4.ip_local_reserved_ports", "", "8888-8987", true),
            ("net.ipv4.tcp_tw_reuse", "2", "1", true),
        ] {
            assert_eq!(is_less(name, value, wanted), less, "{name} = {value} after {wanted}");
        }
    }

    #[test]
    fn the_higher_of_two_values() {
        for (name, wanted, now, higher_one) in [
            ("net.core.somaxconn", "4096", "60000", "60000"),
            ("net.core.somaxconn", "4096", "128", "4096"),
            ("net.core.somaxconn", "4096", "a word", "4096"),
            ("net.ipv4.tcp_rmem", "4096\t131072\t6291456", "8192 8192 99999999", "8192\t131072\t99999999"),
            ("net.ipv4.ip_local_port_range", "15536\t65535", "1024 60999", "1024\t65535"),
            ("net.ipv4.ip_local_reserved_ports", "8888-8987", "80,8000-8900,9000", "80,8000-8987,9000"),
            ("net.ipv4.ip_local_reserved_ports", "8888-8987", "", "8888-8987"),
            ("net.ipv4.tcp_tw_reuse", "1", "2", "1"),
        ] {
            assert_eq!(higher(name, wanted, now), higher_one, "{name}: {wanted} and {now}");
        }
    }

    proptest! {
        #[test]
        fn the_higher_one_is_less_than_none(
            which in 0..3usize,
            wanted in (any::<u16>(), any::<u16>()),
            now in (any::<u16>(), any::<u16>()),
        ) {
            let name = ["net.ipv4.tcp_rmem", PORT_RANGE, RESERVED_PORTS][which];
            let text = |(a, b): (u16, u16)| {
                let between = if name == RESERVED_PORTS { "-" } else { "\t" };
                format!("{}{between}{}", a.min(b), a.max(b))
            };
            let both = higher(name, &text(wanted), &text(now));
            prop_assert!(!is_less(name, &both, &text(wanted)) && !is_less(name, &both, &text(now)), "{}", both);
        }
    }
}
