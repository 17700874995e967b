//! Connections that were dialed: their segments find no listener.

use super::*;

#[test]
fn a_dialed_connection_sleeps_and_wakes() {
    on_loopbacks(|mut scene| {
        let _steering = scene.catcher.steer(&|_| false).unwrap();
        let (ours, mut theirs) = scene.connection();
        scene.catcher.attach(&ours).unwrap();
        let expected = tuple_of(&ours);
        let before = whole_info(&theirs).tcpi_segs_in;
        let checkpoint = scene.put_to_sleep(ours, 11);
        assert_eq!(checkpoint.tuple, expected);
        theirs.write_all(b"push").unwrap();
        let kept = scene.next_caught();
        assert_eq!((kept.index, kept.tuple, kept.payload()), (11, expected, &b"push"[..]));
        assert_eq!(whole_info(&theirs).tcpi_segs_in, before, "a segment was sent in its sleep");
        let mut ours = scene.wake(&checkpoint, 11);
        scene.reinject(&kept);
        hear(&mut ours, b"push");
        exchange(&mut ours, &mut theirs);
        scene.catcher.remove(&expected, 0, 11);
        // Other connections are found as ever.
        let (mut other, mut other_theirs) = scene.connection();
        exchange(&mut other, &mut other_theirs);
    });
}

/// Both ends of a connection, in one process and one table.
#[test]
fn both_ends_sleep() {
    on_loopbacks(|mut scene| {
        let _steering = scene.catcher.steer(&|_| false).unwrap();
        let (dialed, accepted) = scene.connection();
        scene.catcher.attach(&dialed).unwrap();
        let accepted = scene.put_to_sleep(accepted, 1);
        let dialed = scene.put_to_sleep(dialed, 2);
        assert_eq!((dialed.tuple.local, dialed.tuple.remote), (accepted.tuple.remote, accepted.tuple.local));
        assert_eq!(
            (dialed.progress.sent, dialed.progress.received),
            (accepted.progress.received, accepted.progress.sent)
        );
        let mut near = scene.wake(&dialed, 2);
        near.write_all(b"ping").unwrap();
        let kept = scene.next_caught();
        assert_eq!((kept.index, kept.payload()), (1, &b"ping"[..]));
        let mut far = scene.wake(&accepted, 1);
        scene.reinject(&kept);
        hear(&mut far, b"ping");
        exchange(&mut near, &mut far);
    });
}
