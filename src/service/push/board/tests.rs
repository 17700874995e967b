//! The board alone: its messages are taken out of mailboxes by hand.

use super::*;
use crate::mailbox::{Inbox, mailbox};
use crate::sys::Doorbell;
use proptest::prelude::*;

/// A shard that sends nothing.
struct Mute {
    counters: Counters,
    view: ShardView,
}

impl Shard for Mute {
    fn view(&self) -> ShardView {
        self.view
    }

    fn counters(&self) -> &Counters {
        &self.counters
    }

    fn spread(&mut self, _: Arc<[u8]>, _: &Members) -> bool {
        true
    }
}

/// One shard of a server, and what it knows.
type One = (Board, Mute, Inbox<PushMessage>);

/// All shards of a server, whose mailboxes hold so many messages each.
fn shards<const N: usize>(capacity: usize) -> [One; N] {
    let doorbells = [(); N].map(|()| Doorbell::new().unwrap());
    let (mailbox, inboxes) = mailbox(&doorbells, capacity);
    let mut inboxes = inboxes.into_iter();
    std::array::from_fn(|shard| {
        let view = ShardView { shard, shards: N, is_divided: false };
        (Board::new(mailbox.clone()), Mute { counters: Counters::default(), view }, inboxes.next().unwrap())
    })
}

/// The only shard of a server.
fn alone() -> One {
    let [one] = shards(8_192);
    one
}

fn conn(slot: u32) -> ConnId {
    ConnId::new(0, slot, 1)
}

/// Hears what is in the mailbox now. Returns the receipts, and for whom they are.
fn hear(board: &mut Board, shard: &mut Mute, inbox: &mut Inbox<PushMessage>) -> Vec<Tell> {
    let messages: Vec<PushMessage> = std::iter::from_fn(|| inbox.take()).collect();
    messages.into_iter().flat_map(|message| board.hear(shard, message)).collect()
}

/// Hears all that is in the mailbox, and what comes meanwhile. Returns the numbers of the receipts, and for whom they are.
fn hear_all(board: &mut Board, shard: &mut Mute, inbox: &mut Inbox<PushMessage>) -> Vec<(ConnId, u64)> {
    let told = std::iter::from_fn(|| inbox.take()).flat_map(|message| board.hear(shard, message));
    told.map(|(conn, receipt)| (conn, receipt.number)).collect()
}

#[test]
fn only_those_who_register_are_publishers() {
    let (mut board, mut shard, mut inbox) = alone();
    // Posted, and of a publisher that is gone before connections are in one process again.
    assert!(board.publish(&shard, None, Arc::from(*b"posted")));
    board.register(conn(1));
    shard.view.is_divided = true;
    assert!(board.publish(&shard, Some(conn(1)), Arc::from(*b"held")));
    board.closed(conn(1));
    shard.view.is_divided = false;
    assert!(board.united(&shard).is_empty());
    assert_eq!(hear_all(&mut board, &mut shard, &mut inbox), [(conn(1), 0)]);
    assert!(board.publishers.is_empty() && board.pending.is_empty());
    assert_eq!((board.load, board.posted), (Load::default(), Load::default()));
}

#[test]
fn a_publisher_with_too_much_under_way_is_refused_and_the_others_are_not() {
    let (mut board, mut shard, mut inbox) = alone();
    let (flood, honest) = (conn(1), conn(2));
    [flood, honest].into_iter().for_each(|conn| board.register(conn));
    let most = Load::MOST_OF_ONE.publications;
    assert!((0..most).all(|_| board.publish(&shard, Some(flood), Arc::from(*b""))));
    assert!(!board.publish(&shard, Some(flood), Arc::from(*b"")));
    assert!(board.publish(&shard, Some(honest), Arc::from(*b"")) && board.publish(&shard, None, Arc::from(*b"")));
    let receipts = hear_all(&mut board, &mut shard, &mut inbox);
    assert_eq!(receipts.iter().filter(|(conn, _)| *conn == flood).count(), most);
    assert_eq!(receipts.last(), Some(&(honest, 1)));
    // So are its bytes, of which all together have a bound too. A single publication is never too much.
    let half: Arc<[u8]> = vec![0; Load::MOST_OF_ONE.bytes / 2 + 1].into();
    let many = (3..100).map(conn).find(|conn| {
        board.register(*conn);
        assert!(board.publish(&shard, Some(flood), half.clone()) == (*conn == self::conn(3)));
        !board.publish(&shard, Some(*conn), half.clone())
    });
    assert_eq!(many, Some(conn(3 + 6)));
    hear_all(&mut board, &mut shard, &mut inbox);
    assert!(board.publish(&shard, Some(flood), vec![0; Load::MOST_OF_ALL.bytes + 1].into()));
}

#[test]
fn what_waits_counts_for_its_publisher_wherever_it_goes() {
    let (mut board, mut shard, _inbox) = alone();
    shard.view.is_divided = true;
    board.register(conn(1));
    assert!(board.publish(&shard, Some(conn(1)), Arc::from(*b"four")));
    assert!(board.publish(&shard, None, Arc::from(*b"posted")));
    let (handover, rest) = (board.depart(conn(1)), board.depart_last());
    assert_eq!((board.load, board.posted), (Load::default(), Load::default()));
    board.arrive(conn(1), handover);
    board.arrive_last(rest);
    assert_eq!(board.load, Load { publications: 2, bytes: 10 });
    assert_eq!(board.load_of(Some(conn(1))), Some(&mut Load { publications: 1, bytes: 4 }));
    assert_eq!(board.posted, Load { publications: 1, bytes: 6 });
}

#[test]
fn a_publication_for_which_a_mailbox_has_no_room_is_counted_as_missed() {
    let [(mut board, mut shard, mut inbox)] = shards(1);
    board.register(conn(1));
    assert!((0..2).all(|_| board.publish(&shard, Some(conn(1)), Arc::from(*b"news"))));
    assert_eq!(shard.counters.snapshot().pushes_missed, 1);
    let receipts = [(), ()].map(|()| hear(&mut board, &mut shard, &mut inbox));
    let receipt = |number, missed| vec![(conn(1), Receipt { number, subscribers: 0, missed })];
    assert_eq!(receipts, [receipt(1, 0), receipt(2, 1)]);
}

/// The other shard has no room for the third publication, which is therefore complete before the others are.
#[test]
fn receipts_go_out_in_the_order_of_the_publications() {
    let [(mut board, mut shard, mut inbox), (mut other_board, mut other_shard, mut other_inbox)] = shards(2);
    let (ordered, gone) = (conn(1), conn(2));
    [ordered, gone].into_iter().for_each(|conn| board.register(conn));
    for publisher in [ordered, gone, ordered, gone] {
        assert!(board.publish(&shard, Some(publisher), Arc::from(*b"news")));
        assert_eq!(hear(&mut board, &mut shard, &mut inbox), []);
    }
    assert!(board.pending.values().filter(|pending| pending.shards_left == 0).count() == 2, "{:?}", board.pending);
    // What waits for others of a publisher that has gone is forgotten with it.
    board.closed(gone);
    assert_eq!(board.load, Load { publications: 3, bytes: 12 });
    assert_eq!(hear(&mut other_board, &mut other_shard, &mut other_inbox), []);
    let receipt = |number, missed| Receipt { number, subscribers: 0, missed };
    let receipts = hear(&mut board, &mut shard, &mut inbox);
    assert_eq!(receipts, [(ordered, receipt(1, 0)), (ordered, receipt(2, 1)), (gone, receipt(1, 0))]);
    assert!(board.pending.is_empty());
    assert_eq!(board.load, Load::default());
}

/// A shard that cannot tell its neighbour something looks again when it hears one message of its own, however many it hears
/// meanwhile.
#[test]
fn a_full_neighbour_fills_no_other_mailbox() {
    const CAPACITY: usize = 32;
    let [(mut board, mut shard, mut inbox), (mut full_board, mut full_shard, mut full)] = shards(CAPACITY);
    let author = Author { shard: 1, publication: 1 };
    while board.mailbox.try_send(1, PushMessage(Told::Quiet(0, false))).is_ok() {}
    for _ in 0..10 {
        let publication = PushMessage(Told::Publication(Arc::from(*b"news"), author));
        assert_eq!(board.hear(&mut shard, publication), []);
    }
    let messages: Vec<PushMessage> = std::iter::from_fn(|| inbox.take()).collect();
    assert!(matches!(messages[..], [PushMessage(Told::Again)]), "{messages:?}");
    // It still cannot, and looks once more.
    let again = |board: &mut Board, shard: &mut Mute| board.hear(shard, PushMessage(Told::Again));
    assert_eq!(again(&mut board, &mut shard), []);
    assert!(matches!(inbox.take(), Some(PushMessage(Told::Again))));
    assert_eq!(hear(&mut full_board, &mut full_shard, &mut full), []);
    assert_eq!(again(&mut board, &mut shard), []);
    assert!(board.late.is_empty() && inbox.take().is_none());
    assert_eq!(std::iter::from_fn(|| full.take()).count(), 10);
}

proptest! {
    #[test]
    fn a_handover_is_read_as_it_was_written_or_not_at_all(
        subscribes: bool, published: Option<u64>, cut: prop::sample::Index,
        held in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..4)
    ) {
        let handover = Handover { subscribes, published, held: held.into_iter().map(Into::into).collect() };
        let mut bytes = Vec::new();
        handover.write(&mut bytes);
        let cut = &bytes[..cut.index(bytes.len())];
        prop_assert_eq!(Handover::read(cut), None);
        bytes.push(7);
        prop_assert_eq!(Handover::read(&bytes), Some((handover, &[7][..])));
    }
}
