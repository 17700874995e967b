use proptest::prelude::*;

use super::super::answer::{Answer, LONGEST};
use super::super::closing::{Closing, Step};
use super::super::judge::{Verdict, judge};
use super::super::segment::{ACK, FIN, RST, SYN};
use super::*;

/// What may happen to an end, told from the peer's side. Numbers count from those of the peer: 0 is the number of its
/// FIN, or of the payload that it sends instead.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// A segment from the first number to before the last one, with these flags and ACK. Whether it acknowledges our
    /// FIN.
    Segment(i32, i32, u8, bool),
    /// The same as far as the numbers go, but with an acknowledgement of what was never sent.
    Forged(i32, i32, u8),
    /// A RST at this number.
    Reset(i32),
    /// A SYN at this number, with or without ACK.
    Syn(i32, bool),
    /// A FIN that acknowledges our FIN, without its ACK, or for another connection.
    WithoutAck,
    OtherTuple,
    /// The time has come, or has not.
    Due,
    Early,
}

use Event::*;

const EVENTS: [Event; 28] = [
    Segment(0, 0, 0, false),
    Segment(0, 0, 0, true),
    Segment(1, 1, 0, true),
    Segment(20, 20, 0, false),
    // The peer's FIN: alone, with old payload, with new payload, with payload missing before it, and one too many.
    Segment(0, 0, FIN, false),
    Segment(0, 0, FIN, true),
    Segment(-3, 0, FIN, false),
    Segment(-3, 0, FIN, true),
    Segment(0, 3, FIN, true),
    Segment(5, 5, FIN, true),
    Segment(1, 1, FIN, false),
    // Payload: new, in part, ahead, old, and a probe.
    Segment(0, 1, 0, false),
    Segment(-2, 2, 0, true),
    Segment(9, 12, 0, true),
    Segment(-3, 0, 0, true),
    Segment(-1, -1, 0, false),
    Segment(500, 501, 0, true),
    Forged(0, 0, FIN),
    Forged(0, 9, 0),
    Forged(-1, -1, 0),
    Reset(0),
    Reset(1),
    Reset(-1),
    Syn(1_000_000, false),
    Syn(-1_000_000, false),
    Syn(1_000_000, true),
    WithoutAck,
    OtherTuple,
];

/// An end as three facts, and when it acts by itself.
#[derive(Debug, Clone, Copy)]
struct Model {
    /// We ended first.
    first: bool,
    /// The peer acknowledged our FIN.
    acknowledged: bool,
    /// The peer's FIN came.
    ended: bool,
    sent_again: u32,
    due: u32,
}

const SENT: u32 = 5_000;
const FINISH: Answer = Answer { flags: ACK | FIN, sequence: SENT };
const ACKNOWLEDGE: Answer = Answer { flags: ACK, sequence: SENT + 1 };
const WINDOW: i32 = 100;

impl Model {
    fn expect(&mut self, event: Event, now: u32) -> Step {
        // The number that is expected next.
        let next = i32::from(self.ended);
        match event {
            WithoutAck | OtherTuple | Early => Step::Wait,
            Forged(..) => Step::Challenge(ACKNOWLEDGE),
            Reset(at) if at == next || at == next - 1 && self.ended => Step::Gone(None),
            Reset(at) if at > next => Step::Challenge(ACKNOWLEDGE),
            Reset(_) => Step::Wait,
            Syn(at, false) if at > next && self.first && self.acknowledged && self.ended => Step::Reopen,
            Syn(..) => Step::Challenge(ACKNOWLEDGE),
            Due if self.acknowledged || self.sent_again == 6 => Step::Gone(None),
            Due => {
                self.sent_again += 1;
                self.due = now + (1_000 << self.sent_again);
                Step::Send(FINISH)
            }
            Segment(from, to, flags, acknowledges) => self.segment(from, to, flags == FIN, acknowledges, now),
        }
    }

    fn segment(&mut self, from: i32, to: i32, fin: bool, acknowledges: bool, now: u32) -> Step {
        let next = i32::from(self.ended);
        let numbers = from..to + i32::from(fin);
        let is_fin = fin && to == 0;
        let is_old = if numbers.is_empty() { from < next } else { numbers.clone().all(|number| number < next) };
        if is_old && !is_fin {
            return Step::Send(ACKNOWLEDGE);
        }
        if from > next + WINDOW {
            return Step::Challenge(ACKNOWLEDGE);
        }
        let brings_payload = !numbers.is_empty() && to > 0;
        if brings_payload && !self.ended {
            return Step::Gone(Some(Answer { flags: ACK | RST, sequence: SENT + u32::from(acknowledges) }));
        }
        if acknowledges && !self.first {
            return Step::Gone(None);
        }
        if acknowledges && !self.acknowledged {
            self.acknowledged = true;
            self.due = now + if self.ended { 4_000 } else { 60_000 };
        }
        if !is_fin {
            return Step::Wait;
        }
        self.ended = true;
        if self.acknowledged {
            self.due = now + 4_000;
        }
        Step::Send(if self.first { ACKNOWLEDGE } else { FINISH })
    }
}

/// A closing beside its model.
#[derive(Debug, Clone, Copy)]
struct Both {
    checkpoint: Checkpoint,
    closing: Closing,
    model: Model,
    now: u32,
    /// The number of the peer's FIN.
    zero: u32,
}

impl Both {
    fn new(first: bool, now: u32) -> Both {
        let mut checkpoint = plain();
        // The numbers wrap within the test.
        checkpoint.progress.received = u32::MAX - 1;
        let zero = checkpoint.progress.received;
        if !first {
            checkpoint.progress.received = zero.wrapping_add(1);
        }
        let (closing, answer) =
            if first { Closing::begin(&checkpoint, now) } else { Closing::answer(&checkpoint, now) };
        assert_eq!(answer, FINISH);
        let model = Model { first, acknowledged: false, ended: !first, sent_again: 0, due: now + 1_000 };
        Both { checkpoint, closing, model, now, zero }
    }

    /// Whether it is not gone.
    fn event(&mut self, event: Event) -> bool {
        self.now = if matches!(event, Due) { self.model.due } else { self.now + 10 };
        let expected = self.model.expect(event, self.now);
        let step = match event {
            Due | Early => self.closing.expired(&self.checkpoint, self.now),
            _ => self.heard(event),
        };
        assert_eq!(step, expected, "{event:?}, {self:?}");
        if matches!(step, Step::Gone(_) | Step::Reopen) {
            return false;
        }
        let Progress { received, sent, .. } = self.checkpoint.progress;
        assert_eq!((received, sent), (self.zero.wrapping_add(u32::from(self.model.ended)), SENT));
        assert_eq!(self.closing.due_in_ms(self.now), self.model.due - self.now, "{event:?}, {self:?}");
        true
    }

    fn heard(&mut self, event: Event) -> Step {
        let segment = |from: i32, to: i32, flags, acknowledgement| Written {
            sequence: self.zero.wrapping_add_signed(from),
            acknowledgement,
            flags,
            payload: vec![1; (to - from) as usize],
            ..Written::default()
        };
        let written = match event {
            Segment(from, to, flags, fin) => segment(from, to, flags | ACK, SENT + u32::from(fin)),
            Forged(from, to, flags) => segment(from, to, flags | ACK, SENT + 2),
            Reset(at) => segment(at, at, RST, 0),
            Syn(at, with_ack) => segment(at, at, if with_ack { SYN | ACK } else { SYN }, SENT),
            WithoutAck => segment(0, 0, FIN, SENT + 1),
            OtherTuple | Due | Early => segment(0, 0, FIN | ACK, SENT + 1),
        };
        let mut tuple = self.checkpoint.tuple;
        let segment = written.parse(&tuple);
        if matches!(event, OtherTuple) {
            tuple.local.set_port(1);
        }
        self.closing.heard(&mut self.checkpoint, &tuple, &segment, self.now)
    }

    /// Tries all events in every order.
    fn all(self, depth: usize) {
        for event in EVENTS.into_iter().chain([Due, Early]) {
            let mut next = self;
            // What comes early comes before its time.
            if matches!(event, Early) && next.model.due <= next.now + 10 {
                continue;
            }
            if next.event(event) && depth > 1 {
                next.all(depth - 1);
            }
        }
    }
}

#[test]
fn events_in_every_order_lead_where_a_model_leads() {
    Both::new(true, 0).all(3);
    Both::new(false, 0).all(3);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn long_lives_lead_where_a_model_leads(
        first: bool, events in prop::collection::vec(prop::sample::select(EVENTS.to_vec()), 0..60), due in 0..60usize,
    ) {
        let mut both = Both::new(first, 7);
        let quiet = |event: &Event| !matches!(event, Reset(_));
        for (at, event) in events.into_iter().filter(quiet).enumerate() {
            let event = if at == due || both.model.due <= both.now + 10 { Due } else { event };
            if !both.event(event) {
                break;
            }
        }
    }
}

/// A peer that is gone costs seven FINs and about two minutes.
#[test]
fn a_fin_that_is_never_acknowledged_is_given_up() {
    for (closing, _) in [Closing::begin(&plain(), u32::MAX), Closing::answer(&plain(), u32::MAX)] {
        let (mut closing, mut waited, mut sent) = (closing, 0, 1);
        loop {
            let now = u32::MAX.wrapping_add(waited);
            let due = closing.due_in_ms(now);
            assert_eq!(closing.expired(&plain(), now.wrapping_add(due - 1)), Step::Wait);
            waited += due;
            match closing.expired(&plain(), now.wrapping_add(due)) {
                Step::Send(answer) => assert_eq!(answer, FINISH),
                step => break assert_eq!(step, Step::Gone(None)),
            }
            sent += 1;
        }
        assert_eq!((sent, waited), (7, 127_000));
    }
}

#[test]
fn a_closing_is_small() {
    assert_eq!(size_of::<Closing>(), 8);
}

/// An end of a connection that sleeps, then closes, then is gone.
struct End {
    checkpoint: Checkpoint,
    closing: Option<Closing>,
    gone: bool,
}

/// Two ends, and a network between them that takes 50 ms and loses some of the first segments.
struct Network {
    ends: [End; 2],
    /// When a segment arrives, at which end, and its bytes.
    under_way: Vec<(u32, usize, Vec<u8>)>,
    /// One bit for each segment, the first one's lowest.
    losses: u32,
    now: u32,
    sent: u32,
    /// FINs that came when the connection was gone.
    missed: u32,
}

impl Network {
    fn new(losses: u32) -> Network {
        let mut ours = plain();
        let mut theirs = plain();
        theirs.tuple = Tuple { remote: ours.tuple.local, local: ours.tuple.remote };
        (theirs.progress.received, theirs.progress.sent) = (ours.progress.sent, ours.progress.received);
        (ours.progress.receive_window, theirs.progress.receive_window) = (2_000, 2_000);
        let end = |checkpoint| End { checkpoint, closing: None, gone: false };
        Network { ends: [end(ours), end(theirs)], under_way: Vec::new(), losses, now: 0, sent: 0, missed: 0 }
    }

    fn begin(&mut self, from: usize) {
        let (closing, answer) = Closing::begin(&self.ends[from].checkpoint, self.now);
        self.ends[from].closing = Some(closing);
        self.send(from, answer);
    }

    fn send(&mut self, from: usize, answer: Answer) {
        let mut buffer = [0; LONGEST];
        let bytes = answer.write(&self.ends[from].checkpoint, self.now, 0, &mut buffer).to_vec();
        if self.losses & 1 == 0 {
            self.under_way.push((self.now + 50, 1 - from, bytes));
        }
        self.losses >>= 1;
        self.sent += 1;
    }

    fn step(&mut self, at: usize, step: Step) {
        match step {
            Step::Wait => {}
            Step::Send(answer) | Step::Challenge(answer) => self.send(at, answer),
            Step::Gone(answer) => {
                self.ends[at].gone = true;
                if let Some(answer) = answer {
                    self.send(at, answer);
                }
            }
            Step::Reopen => panic!("nobody opens"),
        }
    }

    fn arrive(&mut self, at: usize, bytes: &[u8]) {
        let segment = super::super::segment::Segment::parse(bytes, bytes.len()).unwrap();
        let now = self.now;
        let End { checkpoint, closing, gone } = &mut self.ends[at];
        let tuple = checkpoint.tuple;
        if *gone {
            // Here the kernel answers, as it knows no such connection (RFC 9293, 3.10.7.1).
            self.missed += u32::from(segment.has(FIN));
            if !segment.has(RST) {
                self.send(at, Answer { flags: RST, sequence: segment.acknowledgement });
            }
            return;
        }
        let step = match closing {
            Some(closing) => closing.heard(checkpoint, &tuple, &segment, now),
            None => match judge(checkpoint, &tuple, &segment) {
                Verdict::PeerEnds(progress) => {
                    checkpoint.progress = progress;
                    let (begun, answer) = Closing::answer(checkpoint, now);
                    *closing = Some(begun);
                    Step::Send(answer)
                }
                Verdict::PeerReset => Step::Gone(None),
                verdict => panic!("{verdict:?}"),
            },
        };
        self.step(at, step);
    }

    /// Runs until both ends are gone.
    fn run(&mut self) {
        while !self.ends.iter().all(|end| end.gone) {
            let timers = self.ends.iter().filter(|end| !end.gone).filter_map(|end| end.closing);
            let timer = timers.map(|closing| self.now + closing.due_in_ms(self.now)).min();
            let arrival = self.under_way.iter().map(|segment| segment.0).min();
            let Some(next) = timer.into_iter().chain(arrival).min() else { panic!("an end waits for ever") };
            self.now = next;
            if let Some(first) = self.under_way.iter().position(|segment| segment.0 == next) {
                let (_, at, bytes) = self.under_way.remove(first);
                self.arrive(at, &bytes);
            }
            for at in [0, 1] {
                let End { checkpoint, closing: Some(closing), gone: false } = &mut self.ends[at] else { continue };
                let step = closing.expired(checkpoint, next);
                self.step(at, step);
            }
        }
    }
}

/// Whatever is lost, both ends hear the other's FIN, and end. A FIN is sent six times in the 60 s of FIN_WAIT_2, so at
/// most five segments are lost. Up to two losses leave no FIN for the kernel to reset.
#[test]
fn two_ends_close_whatever_is_lost() {
    for losses in (0..1u32 << 10).filter(|losses| losses.count_ones() <= 5) {
        for both in [false, true] {
            let mut network = Network::new(losses);
            network.begin(0);
            if both {
                network.begin(1);
            }
            network.run();
            let heard = network.ends.iter().filter(|end| end.checkpoint.progress.received % 1_000 == 1);
            assert_eq!(heard.count(), 2, "{losses:b} {both}");
            assert!(network.now <= 200_000, "{losses:b} {both}: {}", network.now);
            if losses.count_ones() <= 2 {
                assert_eq!(network.missed, 0, "{losses:b} {both}");
            }
        }
    }
}

/// Three segments end a connection, as always: a FIN, a FIN that acknowledges it, and an acknowledgement.
#[test]
fn nothing_is_sent_that_is_not_needed() {
    let mut network = Network::new(0);
    network.begin(0);
    network.run();
    assert_eq!((network.sent, network.now), (3, 4_100));
    let mut network = Network::new(0);
    network.begin(0);
    network.begin(1);
    network.run();
    assert_eq!(network.sent, 4);
}
