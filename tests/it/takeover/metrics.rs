//! The metrics of servers that take each other's place.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{House, audit, handed_over};
use crate::scrapes::scrape;
use crate::support::*;

/// Where the metrics are.
const AT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9_187);

/// The metrics stay at their address, and tell of takeovers.
#[test(Network)]
fn metrics_stay_where_they_are() {
    in_own_network(|| {
        let house = House::new(Ipv4Addr::LOCALHOST.into(), &format!("--metrics {AT}"));
        let server = house.server("");
        let mut crowd = house.crowd(20);
        let next = house.server("");
        assert_eq!(handed_over(server), 20);
        let text = scrape(AT);
        let counted = |line: &&str| line.starts_with("c1m_takeover_connections_total") && line.contains("taken_over");
        let taken: u64 =
            text.lines().filter(counted).map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum();
        assert_eq!(taken, 20, "{text}");
        audit(&mut crowd, "scraped");
        next.stop();
    });
}

/// A scrape that the first server has accepted is answered before that ends; those that come later go to its successor.
#[test(Network)]
fn no_scrape_is_lost_while_servers_change() {
    in_own_network(|| {
        let house = House::new(Ipv4Addr::LOCALHOST.into(), &format!("--metrics {AT}"));
        let mut server = house.server("");
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _ends = SetAtEnd(&over);
            let scrape_on = || {
                while !over.load(Ordering::Relaxed) {
                    let text = scrape(AT);
                    assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text:?}");
                    std::thread::sleep(Duration::from_millis(1));
                }
            };
            let scrapers: Vec<_> = (0..4).map(|_| scope.spawn(scrape_on)).collect();
            for _ in 0..5 {
                let next = house.server("");
                assert_eq!(handed_over(std::mem::replace(&mut server, next)), 0);
            }
            over.store(true, Ordering::Relaxed);
            scrapers.into_iter().for_each(|scraper| scraper.join().unwrap());
        });
        server.stop();
    });
}
