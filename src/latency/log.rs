//! HdrHistogram's interval log (`.hlog`): one line for each interval and tag, with its histogram in the standard V2
//! compressed form. HistogramLogProcessor, HdrHistogram's plotter and its packages for other languages read it.

use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::io::{self, BufRead, Read, Write};
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{
    IntervalLogIterator, IntervalLogWriterBuilder, IntervalLogWriterError, LogEntry, Tag,
};

use super::{DecodeError, Latency};
use crate::error::Errno;

/// A latency that a client measures over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// Connects without a retransmission, counted from the intended start.
    Connect,
    /// Connects for which a SYN or ACK was retransmitted.
    Retransmitted,
    /// TLS handshakes with a certificate, from the end of the connect.
    Handshake,
    /// TLS handshakes that resumed a session, from the end of the connect.
    Resumption,
    /// Echoes of audits.
    Audit,
    /// Echoes of messages, counted from the intended start.
    Echo,
    /// Receipts of a fan-out's publication, counted from the instant at which it was due.
    Receipt,
}

impl Measure {
    /// All measures.
    pub const ALL: [Measure; 7] = [
        Measure::Connect,
        Measure::Retransmitted,
        Measure::Handshake,
        Measure::Resumption,
        Measure::Audit,
        Measure::Echo,
        Measure::Receipt,
    ];

    /// Its name in headings.
    pub fn title(self) -> &'static str {
        match self {
            Measure::Connect => "connect latency",
            Measure::Retransmitted => "retransmitted connects",
            Measure::Handshake => "TLS handshakes (full)",
            Measure::Resumption => "TLS handshakes (resumed)",
            Measure::Audit => "echo latency (audits)",
            Measure::Echo => "echo latency (messages)",
            Measure::Receipt => "receipt latency (publications)",
        }
    }

    /// The word with which its tags begin.
    pub fn name(self) -> &'static str {
        match self {
            Measure::Connect => "connect",
            Measure::Retransmitted => "retransmitted",
            Measure::Handshake => "handshake",
            Measure::Resumption => "resumption",
            Measure::Audit => "audit",
            Measure::Echo => "echo",
            Measure::Receipt => "receipt",
        }
    }
}

/// The lines of one measure of one shard, such as `connect-0` in the file, or the line of one publication's receipts, such
/// as `receipt-17`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Series {
    /// The measure.
    pub measure: Measure,
    /// Number of the shard, or of the publication.
    pub number: usize,
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.measure.name(), self.number)
    }
}

impl Series {
    /// The series of a tag; `None` for a tag that is not ours.
    fn of_tag(tag: &str) -> Option<Series> {
        let (name, number) = tag.split_once('-')?;
        let measure = Measure::ALL.into_iter().find(|measure| measure.name() == name)?;
        Some(Series { measure, number: number.parse().ok()? })
    }
}

/// The beginning of the comment that holds the run's identity.
const RUN: &str = "[Run ";

/// The comment at the beginning of a log that tells how it ends, and the comment with which it ends. Without that one something is
/// missing. A log of an earlier version has neither.
const ENDS: &str = "[The last line of this log is #[End]]";
const END: &str = "[End]";

/// Bytes of a line at most. The longest histogram takes a third of that.
const LONGEST_LINE: u64 = 1 << 20;

/// A log that is being written.
#[derive(Debug)]
pub struct Log<W: Write> {
    into: W,
}

impl<W: Write> Log<W> {
    /// Begins a log of a run that began at `started`. The times of intervals count from then.
    pub fn begin(mut into: W, started: SystemTime, made_by: &str, run: &str) -> io::Result<Log<W>> {
        let mut head = IntervalLogWriterBuilder::new();
        head.add_comment("[Histogram log format version 1.3]").add_comment(&format!("[Logged with {made_by}]"));
        head.add_comment(
            "Latencies in microseconds; a tag is what was measured, and the number of the shard or publication",
        );
        if !run.is_empty() {
            head.add_comment(&format!("{RUN}{run}]"));
        }
        head.add_comment(ENDS);
        head.with_start_time(started).with_base_time(started);
        head.begin_log_with(&mut into, &mut V2DeflateSerializer::new())?;
        Ok(Log { into })
    }

    /// Writes the latencies that a series recorded in an interval, which began `from` after the start of the run.
    pub fn write(&mut self, series: Series, latency: &Latency, from: Duration, length: Duration) -> io::Result<()> {
        let tag = series.to_string();
        let mut packer = V2DeflateSerializer::new();
        // The library's writer borrows its target, so it cannot be kept. A writer without a head costs nothing.
        let mut line = IntervalLogWriterBuilder::new().begin_log_with(&mut self.into, &mut packer)?;
        line.write_histogram(&latency.0, from, length, Tag::new(&tag)).map_err(|e| match e {
            IntervalLogWriterError::IoError(e) => e,
            IntervalLogWriterError::SerializeError(e) => io::Error::other(e),
        })
    }

    /// Ends and flushes the log, and returns its target.
    pub fn end(mut self) -> io::Result<W> {
        writeln!(self.into, "#{END}")?;
        self.into.flush()?;
        Ok(self.into)
    }
}

/// Whether a file claims to be an interval log. A log of this program claims it in its first line.
pub fn is_log(text: &[u8]) -> bool {
    text.starts_with(b"#[")
}

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Its text cannot be read.
    #[error("it cannot be read to its end: {}", Errno::of(.0))]
    Io(#[from] io::Error),
    /// Its text is no log of this program.
    #[error(transparent)]
    Content(#[from] DecodeError),
}

/// A log of this program that is read line by line, however long it is.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    line: Vec<u8>,
    runs: Vec<String>,
    /// Logs that begin in the text and tell how they end, and logs that end. A text may hold several, one behind the other.
    begun: usize,
    ended: usize,
    content: DefaultHasher,
}

impl<R: BufRead> Reader<R> {
    /// A reader of this text.
    pub fn new(from: R) -> Reader<R> {
        let (line, runs, content) = (Vec::new(), Vec::new(), DefaultHasher::new());
        Reader { from, line, runs, begun: 0, ended: 0, content }
    }

    /// The latencies of the next interval and their series; `None` after the last one.
    pub fn next_interval(&mut self) -> std::result::Result<Option<(Series, Latency)>, LogError> {
        loop {
            self.line.clear();
            if (&mut self.from).take(LONGEST_LINE).read_until(b'\n', &mut self.line)? == 0 {
                break;
            }
            self.content.write(&self.line);
            self.note();
            let Some(entry) = IntervalLogIterator::new(&self.line).next() else { continue };
            let entry = entry.map_err(|_| DecodeError("it is no interval log"))?;
            if let LogEntry::Interval(line) = entry {
                let series = line.tag().and_then(|tag| Series::of_tag(tag.as_str()));
                let series = series.ok_or(DecodeError("a tag is not one of this program's, such as connect-0"))?;
                return Ok(Some((series, Latency::decode(line.encoded_histogram())?)));
            }
        }
        if self.ended < self.begun {
            return Err(DecodeError("it is cut off: its last line is missing").into());
        }
        Ok(None)
    }

    /// Takes what a comment tells of its log.
    fn note(&mut self) {
        let comment = std::str::from_utf8(&self.line).ok().and_then(|line| line.trim_ascii_end().strip_prefix('#'));
        match comment {
            Some(ENDS) => self.begun += 1,
            Some(END) => self.ended += 1,
            Some(comment) => {
                let run = comment.strip_prefix(RUN).and_then(|rest| rest.strip_suffix(']'));
                self.runs.extend(run.map(str::to_owned));
            }
            None => {}
        }
    }

    /// The identities of the runs whose logs were read to the end. A log of an earlier version has none; a hash of the text
    /// serves as one.
    pub fn into_runs(self) -> Vec<String> {
        if self.runs.is_empty() { vec![format!("{:016x}", self.content.finish())] } else { self.runs }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    /// Each series of a log with its intervals merged, and the runs.
    fn read(text: &[u8]) -> std::result::Result<(BTreeMap<Series, Latency>, Vec<String>), LogError> {
        let (mut log, mut all) = (Reader::new(text), BTreeMap::<Series, Latency>::new());
        while let Some((series, piece)) = log.next_interval()? {
            all.entry(series).or_insert_with(|| Latency::new().unwrap()).merge(&piece).unwrap();
        }
        Ok((all, log.into_runs()))
    }

    fn latency(values: &[u64]) -> Latency {
        let mut latency = Latency::new().unwrap();
        values.iter().for_each(|us| latency.record(Duration::from_micros(*us)));
        latency
    }

    fn log(intervals: &[(Series, Latency)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut log = Log::begin(&mut bytes, SystemTime::now(), "a test", "4f").unwrap();
        for (second, (series, latency)) in intervals.iter().enumerate() {
            log.write(*series, latency, Duration::from_secs(second as u64), Duration::from_secs(1)).unwrap();
        }
        log.end().unwrap();
        bytes
    }

    fn series() -> impl Strategy<Value = Series> {
        (0usize..7, 0usize..3).prop_map(|(at, number)| Series { measure: Measure::ALL[at], number })
    }

    proptest! {
        /// A log written interval by interval is read back complete.
        #[test]
        fn a_written_log_is_read_back(intervals in prop::collection::vec((series(), prop::collection::vec(1u64..9_000_000, 1..9)), 0..8)) {
            let intervals: Vec<_> = intervals.into_iter().map(|(series, values)| (series, latency(&values))).collect();
            let (read, runs) = read(&log(&intervals)).unwrap();
            prop_assert_eq!(runs, ["4f"]);
            for (series, whole) in &read {
                let mut together = Latency::new().unwrap();
                for (_, piece) in intervals.iter().filter(|(one, _)| one == series) {
                    together.merge(piece).unwrap();
                }
                prop_assert_eq!(&whole.0, &together.0);
            }
            prop_assert!(intervals.iter().all(|(series, _)| read.contains_key(series)));
        }

        #[test]
        fn reading_survives_any_file(bytes: Vec<u8>, at: prop::sample::Index, byte: u8) {
            let _ = read(&bytes);
            let mut text = log(&[(Series { measure: Measure::Echo, number: 0 }, latency(&[1, 2]))]);
            let at = at.index(text.len());
            text[at] = byte;
            let _ = read(&text);
        }
    }

    /// Wherever a log is cut, nobody takes it for a whole one; nor what two logs are, of which one is cut.
    #[test]
    fn a_log_that_is_cut_off_is_no_log() {
        let whole = log(&[(Series { measure: Measure::Echo, number: 0 }, latency(&[1, 2]))]);
        let head = whole.windows(ENDS.len()).position(|part| part == ENDS.as_bytes()).unwrap() + ENDS.len();
        for cut in head..whole.len() - 1 {
            assert!(read(&whole[..cut]).is_err(), "{}", String::from_utf8_lossy(&whole[..cut]));
        }
        let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        let cut = lines[..lines.len() - 1].concat();
        assert!(read(&cut).unwrap_err().to_string().contains("cut off"));
        assert!(read(&[&whole[..], &whole].concat()).is_ok() && read(&[&cut[..], &whole].concat()).is_err());
        let earlier = lines.iter().filter(|line| !line.starts_with(b"#[The last") && !line.starts_with(b"#[End"));
        assert!(read(&earlier.copied().collect::<Vec<_>>().concat()).is_ok(), "one of an earlier version");
    }

    /// A log of an earlier version does not name its run, and is known by its text.
    #[test]
    fn a_log_that_names_no_run_is_known_by_its_text() {
        let runs = |text: &str| read(text.as_bytes()).unwrap().1;
        assert_eq!(runs("#[a]\n#[b]\n"), runs("#[a]\n#[b]\n"));
        assert_ne!(runs("#[a]\n#[b]\n"), runs("#[a]\n#[c]\n"));
        assert_eq!(runs("#[Run 4f]\n#[b]\n#[Run 50]\n"), ["4f", "50"]);
    }

    /// A device without an end has no lines.
    #[test]
    fn a_line_without_an_end_is_refused() {
        let mut log = Reader::new(io::BufReader::new(io::repeat(b'#')));
        assert!(log.next_interval().unwrap_err().to_string().contains("no interval log"));
    }

    #[test]
    fn the_error_of_a_foreign_log_says_what_is_wrong() {
        let error = |text: &[u8]| read(text).unwrap_err().to_string();
        assert!(error(b"Tag=web,0.1,1.0,2.7,AAAA\n").contains("tag"));
        assert!(error(b"0.1,1.0,2.7,AAAA\n").contains("tag"));
        assert!(error(b"Tag=echo-0,0.1,1.0,2.7,AAAA\n").contains("V2 compressed"));
        assert!(error(b"{}").contains("no interval log"));
    }
}
