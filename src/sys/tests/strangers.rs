//! Connections that the programs take for one that sleeps, as both have the same tag.

use std::collections::HashMap;
use std::thread;

use socket2::{Domain, Socket, Type};

use super::*;

/// A scene with a table of one bucket, and two source ports that are free. The ends that `of` makes of a source port and the
/// listener have the same tag for both.
fn scene_with_strangers(ip: IpAddr, of: impl Fn(SocketAddr, SocketAddr) -> Tuple) -> (Scene, [Socket; 2]) {
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < PATIENCE, "no two connections have the same tag");
        // The keys are new each time. With two in three sets of keys two of these ports have the same tag.
        let scene = Scene::for_connections(ip, 1);
        let local = scene.listener.local_addr().unwrap();
        let mut ports = HashMap::new();
        for port in 1_024..=u16::MAX {
            let tag = scene.catcher.tag(&of((ip, port).into(), local));
            if let Some(other) = ports.insert(tag, port)
                && let [Ok(first), Ok(second)] = [other, port].map(|port| bound(ip, port))
            {
                return (scene, [first, second]);
            }
        }
    }
}

/// A socket at a source port, if that is free.
fn bound(ip: IpAddr, port: u16) -> std::io::Result<Socket> {
    let address = SocketAddr::new(ip, port);
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Runs a test over IPv4 and over IPv6 with such a scene, in which segments without a listener are led to sinks.
fn with_strangers(of: impl Fn(SocketAddr, SocketAddr) -> Tuple + Copy, test: impl Fn(Scene, [Socket; 2], SocketAddr)) {
    if !may_sleep() {
        return;
    }
    for ip in LOOPBACKS {
        let (scene, sockets) = scene_with_strangers(ip, of);
        let _steering = scene.catcher.steer(&|_| false).unwrap();
        let address = scene.listener.local_addr().unwrap();
        test(scene, sockets, address);
    }
}

/// The SYN of a connection that passes for a sleeping one is caught. Once the catcher was told of that it is let go, and the
/// connection is accepted.
#[test]
fn a_connection_that_passes_for_a_sleeping_one_is_accepted() {
    with_strangers(
        |remote, local| Tuple { remote, local },
        |mut scene, [first, second], address| {
            first.connect(&address.into()).unwrap();
            let (mut peer, sleeper) = scene.accepted(first.into());
            let sleeper = scene.put_to_sleep(sleeper, 5);

            let dial = thread::spawn(move || second.connect_timeout(&address.into(), PATIENCE).map(|()| second));
            let kept = scene.next_caught();
            assert_eq!((kept.index, kept.tuple == sleeper.tuple), (5, false));
            scene.catcher.exempt(&kept.tuple).unwrap();
            scene.reinject(&kept);
            let dialed = dial.join().unwrap().expect("the listener answers");
            // The acknowledgement that ends the handshake is caught too, as it also reaches the listener.
            let acknowledgement = scene.next_caught();
            assert_eq!(acknowledgement.tuple, kept.tuple);
            scene.reinject(&acknowledgement);
            let (mut theirs, mut stranger) = scene.accepted(dialed.into());

            // The other one sleeps on.
            peer.write_all(b"still?").unwrap();
            let kept = scene.next_caught();
            assert_eq!((kept.index, kept.tuple, kept.payload()), (5, sleeper.tuple, &b"still?"[..]));
            let mut awake = scene.wake(&sleeper, 5);
            scene.reinject(&kept);
            hear(&mut awake, b"still?");
            exchange(&mut theirs, &mut stranger);
        },
    );
}

/// A stranger that sleeps itself, once the other does no more, is a stranger no longer: its segments are caught.
#[test]
fn a_stranger_may_sleep_later() {
    with_strangers(
        |local, remote| Tuple { remote, local },
        |mut scene, [dialed, other], address| {
            let sleeper = Tuple { remote: address, local: other.local_addr().unwrap().as_socket().unwrap() };
            scene.catcher.insert(&sleeper, 0, 5).unwrap();
            dialed.connect(&address.into()).unwrap();
            let (ours, mut theirs) = scene.accepted(dialed.into());
            scene.catcher.exempt(&tuple_of(&ours)).unwrap();
            scene.catcher.remove(&sleeper, 0, 5);

            scene.catcher.attach(&ours).unwrap();
            scene.put_to_sleep(ours, 6);
            theirs.write_all(b"you?").unwrap();
            let kept = scene.next_caught();
            assert_eq!((kept.index, kept.payload()), (6, &b"you?"[..]));
        },
    );
}

/// Only strangers are kept: what else was caught by mistake takes no place.
#[test]
fn those_that_pass_for_none_take_no_place() {
    on_loopback(|scene| {
        let local = scene.listener.local_addr().unwrap();
        for port in 1..=u16::MAX {
            scene.catcher.exempt(&Tuple { remote: (local.ip(), port).into(), local }).unwrap();
        }
    });
}
