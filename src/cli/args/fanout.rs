//! The arguments of `c1m fanout`.

use std::time::Duration;

use clap::Args;

use super::client::{ConnectionArguments, LoadArguments};
use super::protocol::made;
use super::{duration, rate};
use crate::client::{Audit, Course, Fanout, Workload};
use crate::command_error::Result;
use crate::connections::CloseMode;
use crate::protocol::publication;
use crate::protocol::{Protocol, Role, Settings};

#[derive(Debug, Args)]
pub struct FanoutArguments {
    /// Connections that subscribe.
    #[arg(long, value_name = "N")]
    pub subscribers: u64,
    /// Connections that publish, in turn. They do not subscribe.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub publishers: u64,
    /// Publications per second in all, evenly.
    #[arg(long, value_name = "N/s", default_value = "1", value_parser = rate)]
    pub rate: f64,
    /// How long to publish.
    #[arg(long = "for", value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub lasting: Duration,
    /// The longest that a receipt may take. A subscriber that has not got the publication by then has missed it.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub wait: Duration,
    /// Start N connections per second, evenly; latency of connects then counts from the intended start.
    #[arg(long, value_name = "N/s", value_parser = rate)]
    pub connect_rate: Option<f64>,
    /// What a publisher says. websocket: a text with {payload} in it, which is the whole text by default. mqtt, nats: the
    /// topic, or subject, that it publishes to; the subscribers subscribe to it too, unless --subscribe says otherwise.
    #[arg(long, value_name = "TEMPLATE")]
    pub publish: Option<String>,
    /// websocket: the path that publishers ask for; /publish by default, or with --publish that of the subscribers.
    #[arg(long, value_name = "TEMPLATE")]
    pub publish_path: Option<String>,
    /// Close by FIN rather than RST at the end. The side that closes first by FIN keeps the source port in TIME_WAIT for
    /// a minute.
    #[arg(long)]
    pub fin: bool,
    #[command(flatten)]
    pub connection: ConnectionArguments,
}

/// The protocol of plain bytes is, in a fan-out, that of the push service's frames.
const PLAIN: &str = "raw";
const FRAMES: &str = "push";

/// The topic where none is named, of the protocols that have topics.
const TOPICS: [(&str, &str); 2] = [("mqtt", "c1m/fanout"), ("nats", "c1m.fanout")];

impl FanoutArguments {
    pub fn workload(&self) -> Result<Workload> {
        let (course, payload) = (self.course(), self.connection.protocol.payload);
        let typed = self.connection.protocol.name(self.connection.target.as_ref())?;
        let name = if typed == PLAIN { FRAMES } else { typed };
        let load = LoadArguments {
            connections: self.subscribers.saturating_add(self.publishers),
            rate: self.connect_rate,
            interval: None,
        };
        let mut publisher = None;
        let close = if self.fin { CloseMode::Immediate } else { CloseMode::Abort };
        let protocol = |seen: &super::client::Reached| -> Result<Protocol> {
            let target = self.connection.target.as_ref();
            let settings = self.connection.protocol.settings(target, seen.all())?;
            // That of a publication is none of the protocol's own messages.
            let settings = self.settings(name, Settings { payload: None, ..settings });
            publisher = Some(made(name, &Settings { role: Role::Publisher, ..settings.clone() }, target)?);
            made(name, &Settings { role: Role::Subscriber, ..settings }, target)
        };
        let course = Course::Fanout(Fanout { payload: payload_bytes(payload), ..course });
        let workload = self.connection.workload_with(&load, course, Audit::Answer, close, protocol)?;
        Ok(Workload { publisher, ..workload })
    }

    /// The settings of both roles.
    fn settings(&self, name: &str, mut settings: Settings) -> Settings {
        settings.publish.clone_from(&self.publish);
        settings.publish_path.clone_from(&self.publish_path);
        if let Some((_, topic)) = TOPICS.iter().find(|(protocol, _)| *protocol == name) {
            let topic = settings.publish.get_or_insert_with(|| (*topic).to_owned()).clone();
            if settings.subscribe.is_empty() {
                settings.subscribe.push(topic);
            }
        }
        settings
    }

    fn course(&self) -> Fanout {
        let period = Duration::try_from_secs_f64(1.0 / self.rate).unwrap_or(Duration::MAX);
        let publications = publications(self.rate, self.lasting);
        Fanout { publishers: self.publishers, publications, period, wait: self.wait, payload: 0 }
    }
}

/// How many publications are due in a time, the first at its beginning and the last before its end.
fn publications(rate: f64, time: Duration) -> u32 {
    // The product of two rounded numbers may be a little more than the whole number that it should be.
    const ROUNDING: f64 = 4.0 * f64::EPSILON;
    (rate * time.as_secs_f64() * (1.0 - ROUNDING)).ceil() as u32
}

/// Bytes of a publication. A number that it cannot have is refused with the workload.
fn payload_bytes(typed: Option<usize>) -> u32 {
    typed.map_or(publication::LENGTH as u32, |bytes| u32::try_from(bytes).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_whole_number_of_publications_is_not_exceeded() {
        for (rate, seconds, due) in [(1.1, 100, 110), (0.55, 100, 55), (2.2, 100, 220), (8.3, 30, 249), (0.1, 10, 1)] {
            assert_eq!(publications(rate, Duration::from_secs(seconds)), due, "{rate} x {seconds}");
        }
        // The first is due at once, and one that is due at the end is not published.
        let of = |rate, millis| publications(rate, Duration::from_millis(millis));
        assert_eq!((of(1.0, 1), of(1.0, 1_000), of(1.0, 1_001), of(3.0, 1_000)), (1, 1, 2, 3));
    }

    proptest! {
        /// With a rate of three decimals, as whole numbers reckon it.
        #[test]
        fn publications_are_those_of_exact_arithmetic(thousandths in 1u64..=100_000_000, millis in 1u64..=100_000_000) {
            let exact = (u128::from(thousandths) * u128::from(millis)).div_ceil(1_000_000);
            prop_assume!(exact <= u128::from(u32::MAX));
            let counted = publications(thousandths as f64 / 1e3, Duration::from_millis(millis));
            prop_assert_eq!(u128::from(counted), exact);
        }
    }
}
