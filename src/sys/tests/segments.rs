//! Segments that are made without a socket, and grace periods.

use super::*;

/// A segment that is longer than a packet may be arrives in pieces, and of a beginning its FIN does not.
#[test]
fn a_segment_arrives_in_pieces() {
    on_loopbacks(|mut scene| {
        let (mut theirs, ours) = scene.connection();
        let checkpoint = scene.put_to_sleep(ours, 0);
        let sent: Vec<u8> = (0..10_000u32).map(|at| at.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
        theirs.write_all(&sent).unwrap();
        let mut kept = scene.next_caught();
        assert_eq!(kept.payload(), sent);
        let mut ours = scene.wake(&checkpoint, 0);
        kept.bytes[13] |= 1;
        scene.raw.send_pieces(&kept.tuple, &kept.bytes, kept.whole_len + 1, 1_000).unwrap();
        hear(&mut ours, &sent);
        exchange(&mut theirs, &mut ours);
    });
}

#[test]
fn what_is_no_segment_is_not_sent() {
    if !may_sleep() {
        return;
    }
    let raw = RawSender::new().unwrap();
    let tuple = Tuple { remote: "127.0.0.1:1".parse().unwrap(), local: "127.0.0.1:2".parse().unwrap() };
    let mut long = [0; 40];
    long[12] = 0xf0;
    for mut bytes in [&[][..], &[0; 12], &[0; 19], &long].map(<[u8]>::to_vec) {
        let length = bytes.len();
        let error = raw.reinject(&tuple, &mut bytes, length).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{length} bytes");
    }
    let [v4, v6] = LOOPBACKS;
    assert_eq!(raw.send(v4, v6, &[0; 20]).unwrap_err().raw_os_error(), Some(libc::EAFNOSUPPORT));
    assert_eq!(raw.send(v4, v4, &[0; 65_516]).unwrap_err().raw_os_error(), Some(libc::EMSGSIZE));
}

#[test]
fn grace_periods_pass_in_their_order() {
    let grace = GracePeriods::new().unwrap();
    let mut last = 0;
    for _ in 0..5 {
        let epoch = grace.request();
        // One that has not begun is shared.
        assert!(epoch > last && grace.request() - epoch <= 1);
        until("the grace period passes", || grace.passed(epoch));
        last = epoch;
    }
    let unfinished = grace.request();
    drop(grace);
    assert!(unfinished > last);
}
