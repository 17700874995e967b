//! Successors that ask a server which has no descriptor free, or which others ask before them.

use std::net::Ipv4Addr;
use std::os::unix::net::{UnixListener, UnixStream};

use c1m::internal::takeover::{Channel, Kind, Terms, of_bytes, to_bytes};

use super::{House, audit, handed_over, terms_of};
use crate::support::*;

/// A server without a free descriptor says so to a successor, and can be taken over once it has some.
#[test(Network)]
fn a_server_without_descriptors_can_be_taken_over_later() {
    in_own_network(|| {
        let house = House::new(Ipv4Addr::LOCALHOST.into(), "");
        let server = house.server("");
        let mut crowd = house.crowd(5);
        let before = limit_descriptors(server.running.pid(), 3);
        let ended = run(&server_arguments(house.port, house.ports, &house.arguments("")));
        ended.fails_with(3, &["hands nothing over", "EMFILE"]);
        limit_descriptors(server.running.pid(), before);
        let next = house.server("");
        assert_eq!(handed_over(server), 5);
        audit(&mut crowd, "later");
        next.stop();
    });
}

/// Those who connect and say nothing do not keep a successor from being answered.
#[test(Network)]
fn silent_ones_do_not_keep_a_successor_waiting_for_long() {
    in_own_network(|| {
        let house = House::new(Ipv4Addr::LOCALHOST.into(), "");
        let server = house.server("");
        let mut crowd = house.crowd(5);
        let silent = [(); 2].map(|()| UnixStream::connect(house.path()).unwrap());
        let next = house.server("");
        assert_eq!(handed_over(server), 5);
        audit(&mut crowd, "behind them");
        drop(silent);
        next.stop();
    });
}

/// A socket tells which process listened when it was connected. A successor that is answered by another one, which has taken
/// that one's place meanwhile, asks anew.
#[test(Network)]
fn who_answers_in_the_place_of_another_is_asked_anew() {
    in_own_network(|| {
        let house = House::new(Ipv4Addr::LOCALHOST.into(), "");
        let listener = UnixListener::bind(house.path()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let next = || {
                    let channel = Channel::over(listener.accept().unwrap().0);
                    let terms = terms_of(of_bytes(&channel.expect(Kind::Hello).unwrap().body).unwrap());
                    (channel, terms)
                };
                let (channel, terms) = next();
                let body = to_bytes(&Terms { process: terms.process + 1, ..terms }).unwrap();
                channel.send(Kind::Terms, &body, &[]).unwrap();
                let (channel, _) = next();
                channel.send(Kind::Refused, b"it was asked anew", &[]).unwrap();
            });
            let ended = run(&server_arguments(house.port, house.ports, &house.arguments("")));
            // Where it has asked once, the thread still waits.
            let _ = UnixStream::connect(house.path());
            ended.fails_with(3, &["hands nothing over: it was asked anew"]);
        });
    });
}

/// Gives a process another limit on its descriptors, and returns the one before.
pub fn limit_descriptors(pid: u32, limit: u64) -> u64 {
    let mut before = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel writes one limit, and reads one.
    unsafe {
        assert_eq!(libc::prlimit(pid as libc::pid_t, libc::RLIMIT_NOFILE, std::ptr::null(), &mut before), 0);
        let limit = libc::rlimit { rlim_cur: limit, ..before };
        assert_eq!(libc::prlimit(pid as libc::pid_t, libc::RLIMIT_NOFILE, &limit, std::ptr::null_mut()), 0);
    }
    before.rlim_cur
}
