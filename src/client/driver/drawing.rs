//! The connections that an audit asks, where it does not ask all of them: a sample, drawn at random.

/// Draws a sample from connections that are visited one after the other. Each connection has the same chance, and the
/// sample has exactly the wanted size (D. E. Knuth, The Art of Computer Programming, volume 2, section 3.4.2,
/// algorithm S): a connection is drawn with the chance wanted / left.
#[derive(Debug)]
pub struct Drawing {
    /// Connections that are still to be drawn.
    wanted: u64,
    /// Connections that are still to be visited.
    left: u64,
    random: fastrand::Rng,
}

impl Drawing {
    /// Draws this many of as many connections, or all of them if there are no more.
    pub fn new(wanted: u64, connections: u64) -> Drawing {
        Drawing { wanted: wanted.min(connections), left: connections, random: fastrand::Rng::new() }
    }

    /// Whether the connection that is visited now is drawn.
    pub fn draws(&mut self) -> bool {
        if self.left == 0 {
            return false;
        }
        let is_drawn = self.random.u64(..self.left) < self.wanted;
        self.left -= 1;
        self.wanted -= u64::from(is_drawn);
        is_drawn
    }
}

#[cfg(test)]
mod tests {
    use super::Drawing;
    use proptest::prelude::*;

    /// The places of those drawn.
    fn drawn(wanted: u64, connections: u64) -> Vec<u64> {
        let mut drawing = Drawing::new(wanted, connections);
        (0..connections).filter(|_| drawing.draws()).collect()
    }

    proptest! {
        #[test]
        fn a_sample_has_the_wanted_size(wanted in 0_u64..300, connections in 0_u64..300) {
            prop_assert_eq!(drawn(wanted, connections).len() as u64, wanted.min(connections));
        }
    }

    /// 20,000 times 3 of 12: each place is drawn 5,000 times on average, with a standard deviation of 61.
    #[test]
    fn each_connection_has_the_same_chance() {
        let mut times = [0_u32; 12];
        for place in (0..20_000).flat_map(|_| drawn(3, 12)) {
            times[place as usize] += 1;
        }
        assert!(times.iter().all(|times| times.abs_diff(5_000) < 8 * 61), "{times:?}");
    }

    /// A connection that came later is not asked, as there is no chance left for it.
    #[test]
    fn more_connections_than_were_counted_draw_no_more() {
        let mut drawing = Drawing::new(2, 2);
        assert_eq!([drawing.draws(), drawing.draws(), drawing.draws()], [true, true, false]);
    }
}
