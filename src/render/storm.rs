//! A storm as text.

use std::fmt::Write;

use crate::format::{Escaped, count, measured, time};
use crate::results::StormDocument;

/// Writes the text of a storm. Writing to a String cannot fail, so the results of `writeln!` are dropped.
pub(super) fn text(out: &mut String, storm: &StormDocument) {
    let [survivors, closed, by_server, redialed, stood, lost, wrong] = [
        storm.survivors,
        storm.closed,
        storm.closed_by_server,
        storm.redialed,
        storm.stood_anew,
        storm.lost,
        storm.wrong,
    ]
    .map(count);
    let _ = writeln!(out, "\nstorm {}: {survivors} survivors' echo latency", Escaped(&storm.scenario));
    let _ = writeln!(out, " stage   seconds        count       p50       p99     p99.9       max");
    for (name, stage) in storm.stages() {
        let echo = &stage.echo;
        let [p50, p99, p999, max] = [echo.p50, echo.p99, echo.p999, echo.max].map(|us| measured(echo.count, time(us)));
        let (seconds, number) = (stage.seconds, count(echo.count));
        let _ = writeln!(out, "{name:>6}  {seconds:>8.1}  {number:>11}  {p50:>8}  {p99:>8}  {p999:>8}  {max:>8}");
    }
    let _ = writeln!(out, "closed by the storm {closed}, {by_server} of them by the server");
    if storm.redialed > 0 {
        let _ = writeln!(out, "dialed in the storm {redialed}, {stood} of them proved live");
    }
    let _ = writeln!(out, "lost {lost}, wrong {wrong}");
    match storm.absorbed_seconds {
        None => _ = writeln!(out, "absorbed: not known, as no echo was measured before the storm, or none since"),
        Some(0.0) => _ = writeln!(out, "absorbed at once: no echo was slower than the slowest before the storm"),
        Some(seconds) => {
            _ = writeln!(
                out,
                "absorbed after {seconds:.2} s: no echo was slower than the slowest before the storm for a second then"
            )
        }
    }
    costs(out, storm);
}

fn costs(out: &mut String, storm: &StormDocument) {
    let spent = storm.stages().map(|(name, stage)| {
        let (user, system) = (stage.server_cpu_user_seconds?, stage.server_cpu_system_seconds?);
        Some(format!("{user:.2} s user + {system:.2} s system {name}"))
    });
    if let [Some(before), Some(during), Some(after)] = spent {
        let each = storm.server_cpu_us_per_closed.map(|us| format!("; {us:.1} us per closed connection during it"));
        let _ = writeln!(out, "server cpu: {before}, {during}, {after}{}", each.unwrap_or_default());
    }
}
