//! What all shards of a fan-out know together: which publications were said, and when.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::results::Published;

/// The time between the beginning of the phase and the first publication: all shards have begun it then.
const LEAD: Duration = Duration::from_millis(100);

/// What a shard finds of a publication.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// It is still to be published.
    NotYet,
    /// It never will be: its publisher is gone, or could not take it in time.
    Never,
    /// It was handed to its publisher's connection.
    At(Published),
}

/// Marks in place of an instant.
const NOT_YET: u64 = 0;
const NEVER: u64 = u64::MAX;

/// Instants of a publication, in nanoseconds since the first one is due.
#[derive(Debug, Default)]
struct Post {
    intended: AtomicU64,
    /// One more than the instant, or a mark. It is written last.
    said: AtomicU64,
}

/// The publications of a run. Each is said by one shard, and read by all.
#[derive(Debug)]
pub struct Board {
    run: u64,
    origin: OnceLock<Instant>,
    posts: Box<[Post]>,
    /// Publications from the first on of which something may have been said.
    heard_of: AtomicU32,
    /// Of each shard: the publication before which it has closed all.
    closed: Box<[AtomicU32]>,
    /// Publications that may be under way.
    most_under_way: u32,
}

impl Board {
    /// The board of a run of that identity, with so many publications and shards. At most `most_under_way` of them are
    /// under way.
    pub fn new(run: u64, publications: u32, shards: usize, most_under_way: u32) -> Board {
        Board {
            run,
            origin: OnceLock::new(),
            posts: std::iter::repeat_with(Post::default).take(publications as usize).collect(),
            heard_of: AtomicU32::new(0),
            closed: std::iter::repeat_with(AtomicU32::default).take(shards).collect(),
            most_under_way,
        }
    }

    /// The identity of the run.
    pub fn run(&self) -> u64 {
        self.run
    }

    /// How many publications there are.
    pub fn publications(&self) -> u32 {
        self.posts.len() as u32
    }

    /// When the first publication is due. The first shard that asks decides.
    pub fn origin(&self, now: Instant) -> Instant {
        *self.origin.get_or_init(|| now + LEAD)
    }

    /// When the first publication was due, or will be; `None` before any shard has asked.
    pub fn origin_if_known(&self) -> Option<Instant> {
        self.origin.get().copied()
    }

    /// Whether one more publication may be under way, as far as memory goes.
    pub fn has_room(&self, number: u32) -> bool {
        let slowest = self.closed.iter().map(|closed| closed.load(Ordering::Relaxed)).min().unwrap_or(0);
        number - slowest.min(number) < self.most_under_way
    }

    /// A shard has closed all publications before this one.
    pub fn closed(&self, shard: usize, before: u32) {
        self.closed[shard].store(before, Ordering::Relaxed);
    }

    /// A publication is about to be handed to its publisher's connection.
    pub fn say(&self, number: u32, published: Published) {
        let Some(post) = self.posts.get(number as usize) else { return };
        let nanoseconds = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(NEVER).min(NEVER - 2);
        post.intended.store(nanoseconds(published.intended), Ordering::Relaxed);
        post.said.store(nanoseconds(published.said) + 1, Ordering::Release);
        self.heard_of.fetch_max(number + 1, Ordering::Release);
    }

    /// A publication will never be published.
    pub fn never(&self, number: u32) {
        let Some(post) = self.posts.get(number as usize) else { return };
        post.said.store(NEVER, Ordering::Release);
        self.heard_of.fetch_max(number + 1, Ordering::Release);
    }

    /// Publications from the first on of which something may have been said.
    pub fn heard_of(&self) -> u32 {
        self.heard_of.load(Ordering::Acquire)
    }

    /// What was said of a publication.
    pub fn said(&self, number: u32) -> Said {
        let Some(post) = self.posts.get(number as usize) else { return Said::Never };
        match post.said.load(Ordering::Acquire) {
            NOT_YET => Said::NotYet,
            NEVER => Said::Never,
            said => Said::At(Published {
                intended: Duration::from_nanos(post.intended.load(Ordering::Relaxed)),
                said: Duration::from_nanos(said - 1),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A look at the board decides nothing: if it did, the first publication could be overdue when the shards begin.
    #[test]
    fn the_first_shard_that_begins_decides_when_publications_are_due() {
        let board = Board::new(7, 3, 2, 2);
        assert_eq!(board.origin_if_known(), None);
        let now = Instant::now();
        let origin = board.origin(now);
        assert_eq!(origin, now + LEAD);
        assert_eq!((board.origin_if_known(), board.origin(now + LEAD)), (Some(origin), origin));
    }

    #[test]
    fn what_is_said_is_read() {
        let board = Board::new(7, 3, 2, 2);
        let published = Published { intended: Duration::ZERO, said: Duration::from_nanos(5) };
        assert_eq!((board.said(0), board.heard_of()), (Said::NotYet, 0));
        board.say(0, published);
        board.never(2);
        assert_eq!(
            [0, 1, 2, 3].map(|number| board.said(number)),
            [Said::At(published), Said::NotYet, Said::Never, Said::Never]
        );
        assert_eq!((board.heard_of(), board.publications(), board.run()), (3, 3, 7));
    }

    /// The slowest shard decides.
    #[test]
    fn publications_under_way_are_bounded() {
        let board = Board::new(7, 9, 2, 2);
        assert!(board.has_room(1) && !board.has_room(2));
        board.closed(0, 5);
        assert!(!board.has_room(2));
        board.closed(1, 4);
        assert!(board.has_room(3) && board.has_room(5) && !board.has_room(6));
    }

    #[test]
    fn all_shards_begin_at_the_same_time() {
        let (board, now) = (Board::new(7, 1, 1, 1), Instant::now());
        let origin = board.origin(now);
        assert!(origin > now);
        assert_eq!(board.origin(now + Duration::from_secs(1)), origin);
    }
}
