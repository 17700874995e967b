//! Which subscribers of a shard got which publication, how often and when.
//!
//! A publication under way has a bit for each subscriber of the shard, and one histogram; nothing is kept of a receipt.
//! Both are given up when the last awaited subscriber has got it, or when its time is over.

use std::time::Duration;

use crate::clock::Mark;
use crate::error::Result;
use crate::latency::Latency;
use crate::results::Receipts;

/// The receipts of one shard's subscribers.
#[derive(Debug)]
pub struct Ledger {
    subscribers: u32,
    /// Publishers of the whole run: a publication and the one so many later are of the same.
    publishers: u32,
    /// The time of a publication.
    patience: Duration,
    /// All publications from the first to the latest that was heard of.
    pages: Vec<Page>,
    /// The first of them that may be under way: all before it are closed.
    first: usize,
    /// Those that were closed since they were last taken.
    closed: Vec<(u32, Option<Latency>)>,
}

/// One publication.
#[derive(Debug, Default)]
struct Page {
    state: State,
    receipts: Receipts,
}

#[derive(Debug, Default)]
enum State {
    /// It was not published yet.
    #[default]
    Ahead,
    UnderWay(UnderWay),
    /// Every subscriber that is left has got it.
    Complete,
    /// Its time is over, and some have missed it.
    Over,
    /// It will never be published.
    Never,
}

/// What is known of a publication until it is closed. The first receipt allocates it.
#[derive(Debug)]
struct UnderWay {
    since: Mark,
    /// Live subscribers that have not got it.
    awaited: u32,
    got: Bits,
    /// Those that got it more than once.
    again: Bits,
    latency: Option<Latency>,
}

/// A bit for each subscriber; none is set before the first is.
#[derive(Debug, Default)]
struct Bits(Box<[u64]>);

impl Bits {
    fn has(&self, index: u32) -> bool {
        self.0.get(index as usize / 64).is_some_and(|word| word >> (index % 64) & 1 == 1)
    }

    /// Sets a bit of `of`. `false` if it was set before.
    fn set(&mut self, index: u32, of: u32) -> bool {
        if self.0.is_empty() {
            self.0 = vec![0; (of as usize).div_ceil(64)].into();
        }
        let Some(word) = self.0.get_mut(index as usize / 64) else { return false };
        let bit = 1 << (index % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

impl Ledger {
    /// A ledger of a shard with so many subscribers, of a run with so many publishers, at least one. The time of each
    /// publication is over after `patience`.
    pub fn new(subscribers: u32, publishers: u32, patience: Duration) -> Ledger {
        Ledger { subscribers, publishers, patience, pages: Vec::new(), first: 0, closed: Vec::new() }
    }

    fn page(&mut self, number: u32) -> &mut Page {
        let number = number as usize;
        if number >= self.pages.len() {
            self.pages.resize_with(number + 1, Page::default);
        }
        &mut self.pages[number]
    }

    /// A publication was published, `since` then its time runs, and `live` subscribers of this shard shall get it.
    pub fn published(&mut self, number: u32, live: u32, since: Mark) {
        let page = self.page(number);
        if !matches!(page.state, State::Ahead) {
            return;
        }
        page.receipts.expected = live.into();
        let (got, again) = Default::default();
        page.state = State::UnderWay(UnderWay { since, awaited: live, got, again, latency: None });
        self.close_if_complete(number);
    }

    /// A publication will never be published.
    pub fn never_published(&mut self, number: u32) {
        let page = self.page(number);
        if matches!(page.state, State::Ahead) {
            page.state = State::Never;
            self.closed.push((number, None));
            self.go_on();
        }
    }

    /// A subscriber got a publication `now`, so long after the instant that was intended for it. `is_repeated`: the server
    /// says that it may have sent it to this subscriber before.
    pub fn received(
        &mut self,
        now: Mark,
        (number, subscriber): (u32, u32),
        after: Duration,
        is_repeated: bool,
    ) -> Result<()> {
        self.close_if_late(number, now);
        let (of, before_next) = (self.subscribers, self.has_next(number, subscriber));
        let Page { state, receipts } = self.page(number);
        match state {
            State::UnderWay(under_way) => {
                if under_way.got.set(subscriber, of) {
                    under_way.awaited -= 1;
                    receipts.received += 1;
                    receipts.out_of_order += u64::from(before_next);
                    receipts.last = receipts.last.max(after);
                    let latency = match &mut under_way.latency {
                        Some(latency) => latency,
                        none => none.insert(Latency::new()?),
                    };
                    latency.record(after);
                    self.close_if_complete(number);
                } else {
                    receipts.extra += 1;
                    receipts.repeated += u64::from(is_repeated);
                    receipts.twice += u64::from(under_way.again.set(subscriber, of));
                }
            }
            // Each that is left has got it before. It is not known any more whether this one has got it three times.
            State::Complete => {
                receipts.extra += 1;
                receipts.repeated += u64::from(is_repeated);
                receipts.twice += 1;
            }
            // It may be the first or a further one of this subscriber, which is not known any more.
            State::Ahead | State::Over | State::Never => receipts.late += 1,
        }
        Ok(())
    }

    /// Whether a subscriber has the next publication of the same publisher.
    fn has_next(&self, number: u32, subscriber: u32) -> bool {
        let next = (number as usize).checked_add(self.publishers as usize);
        match next.and_then(|next| self.pages.get(next)).map(|page| &page.state) {
            Some(State::UnderWay(under_way)) => under_way.got.has(subscriber),
            Some(State::Complete) => true,
            _ => false,
        }
    }

    /// A live subscriber is gone: what it has not got yet it cannot miss any more.
    pub fn lost(&mut self, subscriber: u32) {
        for number in self.first..self.pages.len() {
            let Page { state: State::UnderWay(under_way), receipts } = &mut self.pages[number] else { continue };
            if !under_way.got.has(subscriber) {
                under_way.awaited = under_way.awaited.saturating_sub(1);
                receipts.lost += 1;
                self.close_if_complete(number as u32);
            }
        }
    }

    /// Closes the publications whose time is over.
    pub fn close_late(&mut self, now: Mark) {
        for number in self.first..self.pages.len() {
            self.close_if_late(number as u32, now);
        }
    }

    /// Closes a publication if its time is over: subscribers that have not got it have missed it.
    fn close_if_late(&mut self, number: u32, now: Mark) {
        let patience = self.patience;
        let Page { state, receipts } = self.page(number);
        let State::UnderWay(under_way) = state else { return };
        if now.since(under_way.since) >= patience {
            receipts.missed = under_way.awaited.into();
            let latency = under_way.latency.take();
            *state = State::Over;
            self.closed.push((number, latency));
            self.go_on();
        }
    }

    /// The run ends. What is still under way is neither received by all nor missed by any.
    pub fn abandon(&mut self) {
        for (number, page) in self.pages.iter_mut().enumerate().skip(self.first) {
            if let State::UnderWay(under_way) = &mut page.state {
                let latency = under_way.latency.take();
                page.state = State::Over;
                self.closed.push((number as u32, latency));
            }
        }
        self.go_on();
    }

    fn close_if_complete(&mut self, number: u32) {
        let page = self.page(number);
        let State::UnderWay(under_way) = &mut page.state else { return };
        if under_way.awaited == 0 {
            let latency = under_way.latency.take();
            page.state = State::Complete;
            self.closed.push((number, latency));
            self.go_on();
        }
    }

    /// Passes over those that are closed.
    fn go_on(&mut self) {
        let is_open = |page: &Page| matches!(page.state, State::Ahead | State::UnderWay(_));
        let closed = self.pages[self.first..].iter().take_while(|page| !is_open(page)).count();
        self.first += closed;
    }

    /// The publication before which all are closed.
    pub fn first_open(&self) -> u32 {
        self.first as u32
    }

    /// Whether something is known of a publication: it is published, or never will be.
    pub fn knows(&self, number: u32) -> bool {
        self.pages.get(number as usize).is_some_and(|page| !matches!(page.state, State::Ahead))
    }

    /// Whether some were closed since they were last taken.
    pub fn has_closed(&self) -> bool {
        !self.closed.is_empty()
    }

    /// Those that were closed since this was last asked, with their latencies, if there was a receipt.
    pub fn take_closed(&mut self) -> Vec<(u32, Option<Latency>)> {
        std::mem::take(&mut self.closed)
    }

    /// The counts of all publications so far, from the first on.
    pub fn receipts(&self) -> Vec<Receipts> {
        self.pages.iter().map(|page| page.receipts).collect()
    }

    /// Bytes of the bitmaps of all publications under way.
    #[cfg(test)]
    fn bitmap_bytes(&self) -> usize {
        let bits = |page: &Page| match &page.state {
            State::UnderWay(under_way) => under_way.got.0.len() + under_way.again.0.len(),
            _ => 0,
        };
        self.pages.iter().map(bits).sum::<usize>() * size_of::<u64>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};
    use std::ops::RangeInclusive;

    #[derive(Debug, Clone)]
    enum Step {
        Publish(u32),
        Never(u32),
        Receive(u32, u32, u64, bool),
        Lose(u32),
        /// Time goes by, and whose time is over is closed.
        Wait(u64),
        /// Time goes by.
        Sleep(u64),
    }

    const PATIENCE: Duration = Duration::from_secs(10);

    /// What everybody knows: each receipt, in a list.
    #[derive(Default)]
    struct Model {
        now: u64,
        live: BTreeSet<u32>,
        published: BTreeMap<u32, Published>,
        never: BTreeSet<u32>,
        /// Receipts of what was never or not yet published.
        stray: BTreeMap<u32, u64>,
    }

    #[derive(Default)]
    struct Published {
        at: u64,
        expected: u64,
        awaited: BTreeSet<u32>,
        receipts: BTreeMap<u32, Vec<u64>>,
        lost: u64,
        /// No subscriber is awaited any more.
        complete: bool,
        over: bool,
        twice: u64,
        extra: u64,
        repeated: u64,
        late: u64,
        out_of_order: u64,
    }

    impl Model {
        /// Closes the publications of these numbers whose time is over.
        fn close_late(&mut self, numbers: RangeInclusive<u32>) {
            for (_, publication) in self.published.range_mut(numbers) {
                publication.over |= !publication.complete && self.now - publication.at >= PATIENCE.as_secs();
            }
        }

        fn step(&mut self, step: &Step, publishers: u32) {
            match *step {
                Step::Publish(number) if !self.published.contains_key(&number) && !self.never.contains(&number) => {
                    let (at, awaited, expected) = (self.now, self.live.clone(), self.live.len() as u64);
                    self.published.insert(number, Published { at, awaited, expected, ..Published::default() });
                }
                Step::Never(number) if !self.published.contains_key(&number) => {
                    self.never.insert(number);
                }
                Step::Receive(number, subscriber, after, is_repeated) if self.live.contains(&subscriber) => {
                    self.close_late(number..=number);
                    let next = number.checked_add(publishers).and_then(|next| self.published.get(&next));
                    let has_next = next.is_some_and(|next| !next.over && next.receipts.contains_key(&subscriber));
                    // What is complete was got by each that is left.
                    let has_next = has_next || next.is_some_and(|next| next.complete);
                    let Some(publication) = self.published.get_mut(&number) else {
                        *self.stray.entry(number).or_default() += 1;
                        return;
                    };
                    let receipts = publication.receipts.entry(subscriber).or_default();
                    if publication.over {
                        publication.late += 1;
                    } else if publication.awaited.remove(&subscriber) {
                        receipts.push(after);
                        publication.out_of_order += u64::from(has_next);
                    } else {
                        receipts.push(after);
                        publication.extra += 1;
                        publication.repeated += u64::from(is_repeated);
                        publication.twice += u64::from(publication.complete || receipts.len() == 2);
                    }
                }
                Step::Lose(subscriber) if self.live.remove(&subscriber) => {
                    for publication in self.published.values_mut().filter(|publication| !publication.over) {
                        publication.lost += u64::from(publication.awaited.remove(&subscriber));
                    }
                }
                Step::Wait(seconds) => {
                    self.now += seconds;
                    self.close_late(0..=u32::MAX);
                }
                Step::Sleep(seconds) => self.now += seconds,
                _ => {}
            }
            for publication in self.published.values_mut().filter(|publication| !publication.over) {
                publication.complete |= publication.awaited.is_empty();
            }
        }
    }

    /// A number of subscribers, few enough that some publications are complete, or more than a word has bits; and steps.
    fn run() -> impl Strategy<Value = (u32, Vec<Step>)> {
        prop_oneof![1u32..5, 60u32..70].prop_flat_map(|subscribers| {
            let number = 0u32..8;
            let step = prop_oneof![
                3 => number.clone().prop_map(Step::Publish),
                1 => number.clone().prop_map(Step::Never),
                20 => (number, 0..subscribers, 1u64..1_000_000, any::<bool>())
                    .prop_map(|(a, b, c, d)| Step::Receive(a, b, c, d)),
                1 => (0..subscribers).prop_map(Step::Lose),
                1 => (0u64..6).prop_map(Step::Wait),
                1 => (0u64..6).prop_map(Step::Sleep),
            ];
            (Just(subscribers), prop::collection::vec(step, 0..400))
        })
    }

    proptest! {
        #[test]
        fn a_ledger_counts_what_a_list_of_all_receipts_counts(
            (subscribers, steps) in run(), publishers in 1u32..4,
        ) {
            let mut model = Model { live: (0..subscribers).collect(), ..Model::default() };
            let mut ledger = Ledger::new(subscribers, publishers, PATIENCE);
            for step in &steps {
                let live = model.live.len() as u32;
                let mark = Mark::default().after(Duration::from_secs(model.now));
                match *step {
                    Step::Publish(number) => ledger.published(number, live, mark),
                    Step::Never(number) => ledger.never_published(number),
                    Step::Receive(number, subscriber, after, is_repeated) if model.live.contains(&subscriber) => {
                        ledger.received(mark, (number, subscriber), Duration::from_micros(after), is_repeated).unwrap();
                    }
                    Step::Lose(subscriber) if model.live.contains(&subscriber) => ledger.lost(subscriber),
                    Step::Wait(seconds) => ledger.close_late(mark.after(Duration::from_secs(seconds))),
                    _ => {}
                }
                model.step(step, publishers);
                let open = model.published.values().filter(|publication| !publication.complete && !publication.over);
                prop_assert!(ledger.bitmap_bytes() <= 2 * 8 * subscribers.div_ceil(64) as usize * open.count());
            }
            let closed: BTreeMap<u32, Option<Latency>> = ledger.take_closed().into_iter().collect();
            let is_closed = |number: &u32| {
                let publication = model.published.get(number);
                model.never.contains(number) || publication.is_some_and(|one| one.complete || one.over)
            };
            prop_assert_eq!(ledger.first_open(), (0..8).find(|number| !is_closed(number)).unwrap_or(8));
            for (number, receipts) in ledger.receipts().into_iter().enumerate() {
                let number = number as u32;
                prop_assert_eq!(closed.contains_key(&number), is_closed(&number));
                let stray = model.stray.get(&number).copied().unwrap_or(0);
                let Some(publication) = model.published.get(&number) else {
                    prop_assert_eq!(receipts, Receipts { late: stray, ..Receipts::default() });
                    continue;
                };
                let firsts: Vec<u64> = publication.receipts.values().filter_map(|all| all.first().copied()).collect();
                prop_assert_eq!(receipts, Receipts {
                    expected: publication.expected,
                    received: firsts.len() as u64,
                    lost: publication.lost,
                    missed: if publication.over { publication.awaited.len() as u64 } else { 0 },
                    twice: publication.twice,
                    extra: publication.extra,
                    repeated: publication.repeated,
                    late: publication.late + stray,
                    out_of_order: publication.out_of_order,
                    last: Duration::from_micros(firsts.iter().copied().max().unwrap_or(0)),
                });
                if is_closed(&number) {
                    prop_assert_eq!(receipts.expected, receipts.received + receipts.lost + receipts.missed);
                    let counted = closed[&number].as_ref().map_or(0, Latency::count);
                    prop_assert_eq!(counted, receipts.received);
                }
            }
        }
    }

    /// The latencies of what was under way are those of its receipts, so the numbers add up.
    #[test]
    fn a_run_that_is_stopped_has_missed_nothing() {
        let (mut ledger, now) = (Ledger::new(3, 1, PATIENCE), Mark::default());
        (0..3).for_each(|number| ledger.published(number, 3, now));
        (0..3).for_each(|subscriber| ledger.received(now, (1, subscriber), Duration::ZERO, false).unwrap());
        ledger.received(now, (2, 0), Duration::ZERO, false).unwrap();
        ledger.abandon();
        let closed: Vec<_> =
            ledger.take_closed().into_iter().map(|(number, one)| (number, one.map(|all| all.count()))).collect();
        assert_eq!(closed, [(1, Some(3)), (0, None), (2, Some(1))]);
        assert_eq!(
            ledger.receipts().iter().map(|one| (one.received, one.missed)).collect::<Vec<_>>(),
            [(0, 0), (3, 0), (1, 0)]
        );
        assert_eq!((ledger.first_open(), ledger.bitmap_bytes()), (3, 0));
    }

    /// The bitmap of a million subscribers has 125,000 bytes, and a closed publication has none.
    #[test]
    fn a_bitmap_is_given_back() {
        let (mut ledger, now) = (Ledger::new(1_000_000, 1, PATIENCE), Mark::default());
        ledger.published(0, 2, now);
        assert_eq!(ledger.bitmap_bytes(), 0, "nobody has got it");
        ledger.received(now, (0, 999_999), Duration::ZERO, false).unwrap();
        assert_eq!(ledger.bitmap_bytes(), 125_000);
        ledger.received(now, (0, 7), Duration::ZERO, false).unwrap();
        assert_eq!((ledger.bitmap_bytes(), ledger.first_open()), (0, 1));
    }
}
