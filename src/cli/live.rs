//! The display on a terminal: a bar for the phase and a line for each shard, which are rewritten in place.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use terminal_size::{Height, Width, terminal_size_of};

use super::out::{self, STDERR, STDOUT};
use crate::format;
use crate::shard::ShardHandle;
use crate::stats::{DurationCounts, ROUND_BOUNDS, WakeCounts};

/// With fewer columns the lines would lose their figures.
const LEAST_COLUMNS: u16 = 60;

/// Number of rates in a shard's trend.
const TREND: usize = 20;

/// The steps of a trend, from 0 to the highest rate in it.
const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// How often a second the lines are drawn at most.
const DRAWS_PER_SECOND: u8 = 20;

/// Lines at the bottom of a terminal that are rewritten in place until this value is dropped. While the terminal takes
/// nothing, as after Ctrl-S, nothing is drawn.
pub struct Live {
    lines: MultiProgress,
    head: ProgressBar,
    shards: Vec<(ProgressBar, VecDeque<u64>)>,
}

impl Live {
    /// Lines for `shards`, if standard output is a terminal with room for them. The first line has a bar if there
    /// is a `goal` to reach.
    pub fn open(goal: Option<u64>, shards: usize) -> Option<Live> {
        if !moves(shards) {
            return None;
        }
        let screen = ProgressDrawTarget::term_like_with_hz(Box::new(Screen::default()), DRAWS_PER_SECOND);
        let lines = MultiProgress::with_draw_target(screen);
        let line = |goal: u64, template| {
            let line = lines.add(ProgressBar::new(goal));
            // If a template does not parse, the line keeps its default style.
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

    /// Renames the last shard's line.
    pub fn name_last(&self, name: &'static str) {
        self.shards.iter().last().into_iter().for_each(|(line, _)| line.set_prefix(name));
    }

    /// Whether the terminal takes what is drawn. A warning that waits for that is printed first.
    fn is_read(&self) -> bool {
        let read = STDOUT.lock().is_read();
        if read && STDERR.lock().lags() {
            self.clear();
            // Of a warning that cannot be written nothing is said.
            let _ = STDERR.lock().catch_up(Duration::ZERO);
        }
        read
    }

    /// Clears the lines, which appear again with their next change. The library's own `suspend` panics if the terminal is
    /// gone.
    fn clear(&self) {
        let _ = self.lines.clear();
    }

    /// Changes the first line.
    pub fn head(&self, position: u64, text: String) {
        if self.is_read() {
            self.head.set_position(position);
            self.head.set_message(text);
        }
    }

    /// Changes a shard's line, and adds a rate to its trend.
    pub fn shard(&mut self, shard: usize, text: &str, rate: u64) {
        let is_read = self.is_read();
        let Some((line, trend)) = self.shards.get_mut(shard) else { return };
        if trend.len() == TREND {
            trend.pop_front();
        }
        trend.push_back(rate);
        if is_read {
            line.set_message(format!("{text}  {}", drawn(trend)));
        }
    }

    /// Prints a warning above the lines.
    pub fn warn(&self, line: &str) {
        if self.is_read() {
            self.clear();
        }
        out::warn(line);
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if self.is_read() {
            self.clear();
        }
        // The bars would draw themselves once more.
        self.lines.set_draw_target(ProgressDrawTarget::hidden());
    }
}

/// Standard output as the library draws on it: what it writes up to a flush is one picture.
#[derive(Debug, Default)]
struct Screen(Mutex<String>);

impl Screen {
    fn picture(&self) -> MutexGuard<'_, String> {
        // A thread that panicked has left a text behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves the cursor (CUU, CUD, CUF and CUB of ECMA-48).
    fn move_cursor(&self, cells: usize, direction: char) -> io::Result<()> {
        if cells > 0 { self.write_str(&format!("\x1b[{cells}{direction}")) } else { Ok(()) }
    }
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        terminal_size_of(io::stdout()).map_or(LEAST_COLUMNS, |(Width(columns), _)| columns)
    }

    fn height(&self) -> u16 {
        terminal_size_of(io::stdout()).map_or(0, |(_, Height(rows))| rows)
    }

    fn move_cursor_up(&self, lines: usize) -> io::Result<()> {
        self.move_cursor(lines, 'A')
    }

    fn move_cursor_down(&self, lines: usize) -> io::Result<()> {
        self.move_cursor(lines, 'B')
    }

    fn move_cursor_right(&self, columns: usize) -> io::Result<()> {
        self.move_cursor(columns, 'C')
    }

    fn move_cursor_left(&self, columns: usize) -> io::Result<()> {
        self.move_cursor(columns, 'D')
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.write_str(&format!("{text}\n"))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.picture().push_str(text);
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.write_str("\r\x1b[2K")
    }

    fn flush(&self) -> io::Result<()> {
        STDOUT.lock().write_all(std::mem::take(&mut *self.picture()).as_bytes())
    }
}

/// Whether standard output is a terminal that can rewrite lines in place, with room for the lines of all `shards`.
/// Otherwise lines are printed one after the other, as into a pipe.
fn moves(shards: usize) -> bool {
    let is_dumb = std::env::var_os("TERM").is_none_or(|name| name.is_empty() || name == "dumb");
    // `None` also for a terminal that does not report its size.
    let size = terminal_size_of(std::io::stdout());
    let fits = |(Width(columns), Height(rows))| columns >= LEAST_COLUMNS && usize::from(rows) > shards + 1;
    !is_dumb && size.is_some_and(fits)
}

/// A trend as a row of blocks.
fn drawn(trend: &VecDeque<u64>) -> String {
    let most = trend.iter().copied().max().unwrap_or(0).max(1);
    let top = STEPS.len() as u64 - 1;
    let step = |rate: &u64| (u128::from(*rate) * u128::from(top)).div_ceil(u128::from(most)) as usize;
    trend.iter().map(|rate| STEPS[step(rate)]).collect()
}

/// The durations of a shard, as they were at the last report: of its rounds, and of the wakes of its connections.
pub struct Recent {
    handle: ShardHandle,
    rounds: DurationCounts<{ ROUND_BOUNDS.len() }>,
    wakes: WakeCounts,
}

impl Recent {
    /// As they are now.
    pub fn of(handle: ShardHandle) -> Recent {
        let (rounds, wakes) = (handle.rounds().read(), handle.wakes().read());
        Recent { handle, rounds, wakes }
    }

    /// The 99th percentiles since the last report; of the wakes where connections may sleep.
    pub fn p99(&mut self, sleeps: bool) -> String {
        let rounds = self.handle.rounds().read();
        let mut text = format!("rounds p99 {:>7}", p99(&rounds.since(&self.rounds)));
        self.rounds = rounds;
        if sleeps {
            let wakes = self.handle.wakes().read();
            text += &wakes_p99(&wakes.since(&self.wakes));
            self.wakes = wakes;
        }
        text
    }
}

/// The 99th percentile of wakes, behind what else a shard's line says.
pub fn wakes_p99(wakes: &WakeCounts) -> String {
    format!("  wakes p99 {:>7}", p99(wakes))
}

/// The upper bound of the bucket that holds the 99th percentile.
fn p99<const N: usize>(counts: &DurationCounts<N>) -> String {
    match counts.percentile(99) {
        None => "-".to_owned(),
        Some(Some(bound)) => format!("<{}", format::time(bound.as_micros() as u64)),
        Some(None) => "longer".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trend_reaches_from_zero_to_its_highest_rate() {
        let of = |rates: &[u64]| drawn(&rates.iter().copied().collect());
        assert_eq!(of(&[]), "");
        assert_eq!(of(&[0, 0]), "▁▁");
        assert_eq!(of(&[0, 1, 50, 100]), "▁▂▅█");
        assert_eq!(of(&[u64::MAX]), "█");
    }
}
