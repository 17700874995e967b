//! What a terminal shows in place of lines: a bar for the phase and a line for each shard, which
//! change where they stand.

use std::collections::VecDeque;
use std::io::IsTerminal;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::out;

/// Rates that a shard's trend shows.
const TREND: usize = 20;

/// The steps of a trend, from nothing to the highest rate in it.
const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Lines that stay at the end of a terminal until they are closed.
pub struct Live {
    lines: MultiProgress,
    head: ProgressBar,
    shards: Vec<(ProgressBar, VecDeque<u64>)>,
}

impl Live {
    /// Lines for `shards`, if standard output is a terminal; the first one has a bar if there is a
    /// `goal` to reach.
    pub fn open(goal: Option<u64>, shards: usize) -> Option<Live> {
        if !std::io::stdout().is_terminal() {
            return None;
        }
        let lines = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
        let line = |goal: u64, template| {
            let line = lines.add(ProgressBar::new(goal));
            // A template that does not parse would only cost the line its looks.
            if let Ok(style) = ProgressStyle::with_template(template) {
                line.set_style(style);
            }
            line
        };
        let head = match goal {
            Some(goal) => line(goal, "{bar:14.cyan} {wide_msg}"),
            None => line(0, "{prefix:.cyan} {wide_msg}").with_prefix("in all "),
        };
        let shards = (0..shards).map(|shard| {
            let bar = line(0, "{prefix:.cyan} {wide_msg}").with_prefix(format!("shard {shard}"));
            (bar, VecDeque::new())
        });
        let shards = shards.collect();
        Some(Live { lines, head, shards })
    }

    /// Gives the last shard's line another name.
    pub fn name_last(&self, name: &'static str) {
        self.shards.iter().last().into_iter().for_each(|(line, _)| line.set_prefix(name));
    }

    /// Changes the first line.
    pub fn head(&self, position: u64, text: String) {
        self.head.set_position(position);
        self.head.set_message(text);
    }

    /// Changes a shard's line, and adds a rate to its trend.
    pub fn shard(&mut self, shard: usize, text: &str, rate: u64) {
        let Some((line, trend)) = self.shards.get_mut(shard) else { return };
        if trend.len() == TREND {
            trend.pop_front();
        }
        trend.push_back(rate);
        line.set_message(format!("{text}  {}", drawn(trend)));
    }

    /// Prints a warning above them.
    pub fn warn(&self, line: &str) {
        self.lines.suspend(|| out::warn(line));
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // A terminal that cannot be written to shows nothing anyway.
        let _ = self.lines.clear();
    }
}

/// A trend as a row of blocks.
fn drawn(trend: &VecDeque<u64>) -> String {
    let most = trend.iter().copied().max().unwrap_or(0).max(1);
    let top = STEPS.len() as u64 - 1;
    let step = |rate: &u64| (u128::from(*rate) * u128::from(top)).div_ceil(u128::from(most)) as usize;
    trend.iter().map(|rate| STEPS[step(rate)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trend_reaches_from_nothing_to_its_highest_rate() {
        let of = |rates: &[u64]| drawn(&rates.iter().copied().collect());
        assert_eq!(of(&[]), "");
        assert_eq!(of(&[0, 0]), "▁▁");
        assert_eq!(of(&[0, 1, 50, 100]), "▁▂▅█");
        assert_eq!(of(&[u64::MAX]), "█");
    }
}
