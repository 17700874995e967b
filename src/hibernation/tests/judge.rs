use proptest::prelude::*;

use super::super::judge::{Reason, Verdict, judge};
use super::super::segment::{ACK, FIN, RST, SYN, URG};
use super::*;

/// A segment and a connection with numbers that never wrap, and so need no modular arithmetic.
#[derive(Debug, Clone)]
struct Case {
    checkpoint: Checkpoint,
    /// The numbers of which the checkpoint has the lower 32 bits.
    received: i64,
    sent: i64,
    /// The segment's.
    sequence: i64,
    acknowledgement: i64,
    flags: u8,
    window: u16,
    payload: usize,
    other_tuple: bool,
}

/// Numbers near the borders at which verdicts change, and anywhere in the half of the space that counts as near.
fn cases() -> impl Strategy<Value = Case> {
    let near = || prop_oneof![4 => -45..=45i64, 1 => -(1i64 << 31)..1i64 << 31];
    let flags = prop_oneof![4 => Just(ACK), 2 => Just(ACK | FIN), 2 => any::<u8>()];
    let numbers = (1i64 << 33..1i64 << 34, 1i64 << 33..1i64 << 34, 0..2i64, near(), 0..2i64, near());
    (checkpoints(), numbers, flags, any::<u16>(), prop_oneof![Just(0), 0..40usize], prop::bool::weighted(0.05))
        .prop_map(|(mut checkpoint, (received, sent, edge, from, oldest, ago), flags, window, payload, other_tuple)| {
            let progress = &mut checkpoint.progress;
            (progress.received, progress.sent) = (received as u32, sent as u32);
            let half = 1 << 31;
            let near = |offset: i64| offset.clamp(-half, half - 1);
            Case {
                received,
                sent,
                sequence: received + near(edge * i64::from(progress.receive_window) + from),
                acknowledgement: sent - near(oldest * i64::from(progress.largest_window) + ago).max(-half + 1),
                flags,
                window,
                payload,
                other_tuple,
                checkpoint,
            }
        })
}

impl Case {
    fn judge(&self) -> Verdict {
        let written = Written {
            sequence: self.sequence as u32,
            acknowledgement: self.acknowledgement as u32,
            flags: self.flags,
            window: self.window,
            options: Vec::new(),
            payload: vec![7; self.payload],
        };
        let mut tuple = self.checkpoint.tuple;
        let segment = written.parse(&tuple);
        if self.other_tuple {
            tuple.remote.set_port(tuple.remote.port() ^ 1);
        }
        judge(&self.checkpoint, &tuple, &segment)
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether the window allows this number.
    fn allows(&self, number: i64) -> bool {
        (self.received..self.received + i64::from(self.checkpoint.progress.receive_window)).contains(&number)
    }

    /// The segment's numbers, one by one.
    fn numbers(&self) -> Vec<i64> {
        (self.sequence..self.sequence + self.payload as i64 + i64::from(self.has(FIN))).collect()
    }

    fn is_old(&self) -> bool {
        self.sequence < self.received && self.numbers().iter().all(|number| *number < self.received)
    }

    fn is_acceptable(&self) -> bool {
        let numbers = self.numbers();
        if numbers.is_empty() {
            let last = self.received + i64::from(self.checkpoint.progress.receive_window);
            return (self.received..=last).contains(&self.sequence);
        }
        let is_next_fin = self.payload == 0 && self.sequence == self.received;
        is_next_fin || numbers.iter().any(|number| self.allows(*number))
    }

    fn acknowledges_well(&self) -> bool {
        let largest = i64::from(self.checkpoint.progress.largest_window);
        self.has(ACK) && (self.sent - largest..=self.sent).contains(&self.acknowledgement)
    }

    /// The progress after the segment.
    fn progress(&self) -> Progress {
        let Checkpoint { negotiated, mut progress, .. } = self.checkpoint;
        progress.received = (self.received + self.numbers().len() as i64) as u32;
        if self.acknowledgement == self.sent {
            let unit = 1u32 << negotiated.scales.map_or(0, |scales| scales.send);
            progress.send_window = u32::from(self.window) * unit;
            progress.largest_window = progress.largest_window.max(progress.send_window);
        }
        progress
    }

    /// What the RFCs ask for, read off line by line.
    fn expected(&self) -> Verdict {
        if self.other_tuple {
            return Verdict::Refuse(Reason::OtherTuple);
        }
        if self.has(RST) {
            return match () {
                () if self.sequence == self.received => Verdict::PeerReset,
                () if self.sequence > self.received && self.is_acceptable() => Verdict::Challenge(Reason::Reset),
                () => Verdict::Refuse(Reason::OutsideWindow),
            };
        }
        if self.has(SYN) {
            return Verdict::Challenge(Reason::Syn);
        }
        if !self.has(ACK) {
            return Verdict::Refuse(Reason::Acknowledgement);
        }
        match (self.is_acceptable(), self.acknowledges_well()) {
            (false, true) if self.is_old() => Verdict::Acknowledge,
            (false, _) => Verdict::Challenge(Reason::OutsideWindow),
            (true, false) => Verdict::Challenge(Reason::Acknowledgement),
            (true, true) => self.accepted(),
        }
    }

    fn accepted(&self) -> Verdict {
        let next = self.sequence == self.received;
        let all_allowed = self.numbers().iter().all(|number| self.allows(*number));
        let reinjected = Verdict::Reinject(Progress { received: self.received as u32, ..self.progress() });
        if self.has(URG) {
            reinjected
        } else if self.numbers().is_empty() {
            Verdict::Update(self.progress())
        } else if self.payload == 0 && next {
            Verdict::PeerEnds(self.progress())
        } else if !self.has(FIN) && next && all_allowed {
            Verdict::Deliver(self.progress())
        } else {
            reinjected
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn verdicts_are_those_of_a_model_without_wrapping_numbers(case in cases()) {
        let verdict = case.judge();
        prop_assert_eq!(verdict, case.expected());
        // The rule that keeps attackers from waking sleepers, in the fewest words.
        let wakes = matches!(verdict, Verdict::Deliver(_) | Verdict::Reinject(_));
        prop_assert!(!wakes || !case.other_tuple && case.is_acceptable() && case.acknowledges_well());
    }
}

fn verdict(change: impl FnOnce(&mut Written)) -> Verdict {
    let checkpoint = plain();
    let mut written = Written::by_peer_of(&checkpoint);
    change(&mut written);
    judge(&checkpoint, &checkpoint.tuple, &written.parse(&checkpoint.tuple))
}

#[test]
fn a_keepalive_probe_is_acknowledged_with_and_without_its_byte() {
    assert_eq!(verdict(|probe| probe.sequence -= 1), Verdict::Acknowledge);
    let with_byte = |probe: &mut Written| (probe.sequence, probe.payload) = (probe.sequence - 1, vec![0]);
    assert_eq!(verdict(with_byte), Verdict::Acknowledge);
    let forged = |probe: &mut Written| (probe.sequence, probe.acknowledgement) = (probe.sequence - 1, 0);
    assert_eq!(verdict(forged), Verdict::Challenge(Reason::OutsideWindow));
}

#[test]
fn payload_is_delivered_if_it_is_next_and_wakes_otherwise() {
    let progress = Progress { send_window: 500, ..plain().progress };
    assert_eq!(verdict(|data| data.payload = vec![1; 100]), Verdict::Deliver(Progress { received: 1_100, ..progress }));
    let reinjected = |change: fn(&mut Written)| {
        let verdict = verdict(|data| {
            data.payload = vec![1; 10];
            change(data);
        });
        assert_eq!(verdict, Verdict::Reinject(progress));
    };
    reinjected(|data| data.flags |= FIN);
    reinjected(|data| data.flags |= URG);
    reinjected(|data| data.sequence += 1);
    reinjected(|data| data.sequence -= 9);
    // It ends after the window.
    reinjected(|data| data.payload = vec![1; 101]);
}

/// What the peer acknowledges may be older than what it acknowledged before, if the network changes the order.
#[test]
fn an_older_acknowledgement_is_accepted_and_changes_no_window() {
    let older = |data: &mut Written| (data.acknowledgement, data.payload) = (4_000, vec![1]);
    assert_eq!(verdict(older), Verdict::Deliver(Progress { received: 1_001, ..plain().progress }));
    assert_eq!(verdict(|ack| ack.acknowledgement = 3_000), Verdict::Update(plain().progress));
    assert_eq!(verdict(|ack| ack.acknowledgement = 2_999), Verdict::Challenge(Reason::Acknowledgement));
    assert_eq!(verdict(|ack| ack.acknowledgement = 5_001), Verdict::Challenge(Reason::Acknowledgement));
}

#[test]
fn a_closed_window_lets_a_fin_in_and_no_payload() {
    let mut checkpoint = plain();
    checkpoint.progress.receive_window = 0;
    let mut written = Written::by_peer_of(&checkpoint);
    let mut judged = |flags, payload| {
        (written.flags, written.payload) = (flags, payload);
        judge(&checkpoint, &checkpoint.tuple, &written.parse(&checkpoint.tuple))
    };
    assert!(matches!(judged(ACK, Vec::new()), Verdict::Update(_)));
    assert!(matches!(judged(ACK | FIN, Vec::new()), Verdict::PeerEnds(_)));
    assert_eq!(judged(ACK, vec![1]), Verdict::Challenge(Reason::OutsideWindow));
    assert_eq!(judged(RST, Vec::new()), Verdict::PeerReset);
}

/// Scopes and flow labels are not in a segment.
#[test]
fn a_link_local_peer_is_known_by_its_address() {
    let mut checkpoint = plain();
    let end = |port| core::net::SocketAddrV6::new("fe80::1".parse().unwrap(), port, 3, 7).into();
    checkpoint.tuple = Tuple { remote: end(1), local: end(2) };
    let segment = Written::by_peer_of(&checkpoint).parse(&checkpoint.tuple);
    let tuple = segment.tuple(checkpoint.tuple.remote.ip(), checkpoint.tuple.local.ip());
    assert_ne!(tuple, checkpoint.tuple);
    assert!(matches!(judge(&checkpoint, &tuple, &segment), Verdict::Update(_)));
}
