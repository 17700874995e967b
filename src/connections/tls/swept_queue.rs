//! A queue some of whose entries are over before they are the first, as the connections that they are of have ended.

use std::collections::VecDeque;

/// Entries that are looked at for each one that is pushed.
const LOOKS_PER_PUSH: usize = 2;

/// Entries whose memory is kept while there are fewer.
const KEPT_ENTRIES: usize = 1_024;

/// A queue in the order of its pushes. Each push calls for a look at two entries; the looks go from the first entry to the
/// last, and then begin anew. So when as many have been pushed as there were, each entry has been looked at. Those that are
/// over are dropped then, and at most about half of the entries are such ones.
#[derive(Debug)]
pub(super) struct SweptQueue<T> {
    /// The first entries, which were looked at.
    looked_at: VecDeque<T>,
    /// Those behind them.
    others: VecDeque<T>,
    /// Looks that pushes have called for.
    looks: usize,
}

impl<T> Default for SweptQueue<T> {
    fn default() -> SweptQueue<T> {
        SweptQueue { looked_at: VecDeque::new(), others: VecDeque::new(), looks: 0 }
    }
}

impl<T> SweptQueue<T> {
    pub fn is_empty(&self) -> bool {
        self.looked_at.is_empty() && self.others.is_empty()
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.looked_at.len() + self.others.len()
    }

    pub fn push(&mut self, entry: T) {
        self.others.push_back(entry);
        self.looks += LOOKS_PER_PUSH;
    }

    pub fn first(&self) -> Option<&T> {
        self.looked_at.front().or(self.others.front())
    }

    pub fn pop(&mut self) -> Option<T> {
        take_first(&mut self.looked_at).or_else(|| take_first(&mut self.others))
    }

    /// Looks at as many entries as pushes have called for, but not at more than `most`. Drops those that do not go on.
    pub fn sweep(&mut self, most: usize, mut goes_on: impl FnMut(&T) -> bool) {
        for _ in 0..self.looks.min(most) {
            if self.others.is_empty() {
                std::mem::swap(&mut self.looked_at, &mut self.others);
            }
            let Some(entry) = take_first(&mut self.others) else {
                self.looks = 0;
                break;
            };
            self.looks -= 1;
            if goes_on(&entry) {
                self.looked_at.push_back(entry);
            }
        }
    }
}

/// Takes the first entry, and gives the memory back that a crowd has left.
fn take_first<T>(queue: &mut VecDeque<T>) -> Option<T> {
    let first = queue.pop_front();
    if queue.capacity() > KEPT_ENTRIES && queue.len() < queue.capacity() / 4 {
        queue.shrink_to(KEPT_ENTRIES.max(queue.len() * 2));
    }
    first
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, Copy)]
    enum Step {
        Push,
        Pop,
        /// One of the entries is over.
        End(usize),
        Sweep(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Push),
            1 => Just(Step::Pop),
            2 => any::<usize>().prop_map(Step::End),
            2 => (0usize..20).prop_map(Step::Sweep),
        ]
    }

    proptest! {
        /// Those that go on leave in the order in which they came, and none is lost.
        #[test]
        fn entries_that_go_on_leave_in_order(steps in prop::collection::vec(step(), 1..400)) {
            let (mut queue, mut model, mut over, mut next) = (SweptQueue::default(), VecDeque::new(), HashSet::new(), 0u32);
            for step in steps {
                match step {
                    Step::Push => {
                        queue.push(next);
                        model.push_back(next);
                        next += 1;
                    }
                    Step::Pop => {
                        prop_assert_eq!(queue.is_empty(), queue.first().is_none());
                        let first = std::iter::from_fn(|| queue.pop()).find(|entry| !over.contains(entry));
                        prop_assert_eq!(first, model.pop_front());
                    }
                    Step::End(at) => {
                        if let Some(at) = at.checked_rem(model.len()) {
                            over.extend(model.remove(at));
                        }
                    }
                    Step::Sweep(most) => queue.sweep(most, |entry| !over.contains(entry)),
                }
            }
        }
    }

    /// Some stay for ever, and many come behind them and are over at once.
    #[test]
    fn what_is_over_takes_no_more_room_than_what_goes_on() {
        const STAY: u32 = 5_000;
        let mut queue = SweptQueue::default();
        for entry in 0..50 * STAY {
            queue.push(entry);
            queue.sweep(2, |entry| *entry < STAY);
            assert!(queue.len() <= 2 * STAY as usize + 2, "{} entries after {entry}", queue.len());
        }
        // The crowd is gone, and so is its memory.
        queue.looks = usize::MAX;
        queue.sweep(4 * STAY as usize, |_| false);
        assert!(queue.is_empty() && queue.looked_at.capacity().max(queue.others.capacity()) <= 2 * KEPT_ENTRIES);
    }
}
