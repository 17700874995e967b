//! The round-trip time of restored sockets.

use super::*;
use crate::sys::round_trip::{Restored, restore, restore_and_tell};

/// A round trip that no connection of this host takes.
pub(super) const TOLD: Duration = Duration::from_millis(126);

/// The round-trip time that a socket knows, and for how long it waits for an acknowledgement.
fn times(ours: &TcpStream) -> [Duration; 2] {
    let info = whole_info(ours);
    [info.tcpi_rtt, info.tcpi_rto].map(|micros| Duration::from_micros(micros.into()))
}

impl Scene {
    /// A sleeping connection on which a round trip took long: the peer's end, and what is kept of ours.
    fn sleeper_with_round_trip(&mut self) -> (TcpStream, Checkpoint) {
        let (theirs, ours) = self.connection();
        let mut checkpoint = self.put_to_sleep(ours, 3);
        assert!(checkpoint.progress.round_trip.is_some(), "the kernel had measured one: {checkpoint:?}");
        checkpoint.progress.round_trip = Some(TOLD);
        (theirs, checkpoint)
    }

    /// Wakes a connection whose peer counts as one of another host. Whether the socket could be told its time.
    pub(super) fn wake_from_afar(
        &self,
        checkpoint: &Checkpoint,
        index: u32,
        seen: u32,
        sender: &RawSender,
    ) -> (TcpStream, bool) {
        self.catcher.begin_transit();
        let Restored { socket, told } = restore_and_tell(checkpoint, &self.wish(), None, sender, seen).unwrap();
        (self.awake(checkpoint, index, socket), told.unwrap())
    }
}

/// The peer gets no segment of it.
#[test]
fn a_woken_connection_knows_how_long_a_round_trip_takes() {
    at(&[LOOPBACKS[0], LOOPBACKS[1], Ipv6Addr::UNSPECIFIED.into()], |mut scene| {
        let (mut theirs, checkpoint) = scene.sleeper_with_round_trip();
        let before = whole_info(&theirs).tcpi_segs_in;
        let (mut ours, told) = scene.wake_from_afar(&checkpoint, 3, 0, &scene.raw);
        assert!(told);
        // A slow machine may be late with the segment, and the time is longer then.
        let [round_trip, wait] = times(&ours);
        assert!(round_trip >= TOLD, "{round_trip:?}");
        assert!(wait >= round_trip * 5 / 2 && wait <= round_trip * 7 / 2, "{wait:?} for {round_trip:?}");
        assert_eq!(whole_info(&theirs).tcpi_segs_in, before, "a segment was sent");
        assert_eq!(info(&ours).unacknowledged, 0);
        for _ in 0..3 {
            exchange(&mut theirs, &mut ours);
        }
        assert!(times(&ours)[0] < round_trip, "real round trips are measured as ever");
    });
}

/// What tells the time does not arrive: here it is caught, as it lacks the mark.
#[test]
fn a_connection_wakes_also_where_its_socket_cannot_be_told() {
    on_loopbacks(|mut scene| {
        let (mut theirs, checkpoint) = scene.sleeper_with_round_trip();
        let before = whole_info(&theirs).tcpi_segs_in;
        let (mut ours, told) = scene.wake_from_afar(&checkpoint, 3, 0, &RawSender::without_mark().unwrap());
        assert!(!told);
        assert_eq!(times(&ours)[0], Duration::ZERO);
        assert_eq!((whole_info(&theirs).tcpi_segs_in, info(&ours).unacknowledged), (before, 0));
        // It comes late.
        scene.reinject_all();
        for _ in 0..3 {
            exchange(&mut theirs, &mut ours);
        }
    });
}

/// Within a host nothing is lost, so nothing is told.
#[test]
fn connections_within_a_host_are_told_nothing() {
    on_loopbacks(|mut scene| {
        let (mut theirs, checkpoint) = scene.sleeper_with_round_trip();
        scene.catcher.begin_transit();
        let Restored { socket, told } = restore(&checkpoint, &scene.wish(), None, &scene.raw, 0).unwrap();
        let mut ours = scene.awake(&checkpoint, 3, socket);
        assert_eq!((told, times(&ours)[0]), (None, Duration::ZERO));
        exchange(&mut theirs, &mut ours);
    });
}
