//! The part of the bytes that a driver was given and sends back must be one.

use super::*;

/// Sends back a part of what comes, from one place to another. It may send all of it before.
struct Parting {
    part: (usize, usize),
    sends_before: bool,
    was_asked: bool,
}

impl Driver for Parting {
    type State = ();

    fn opened(&mut self, _: &mut Connections<()>, _: ConnId) -> Result<()> {
        Ok(())
    }

    fn received(&mut self, connections: &mut Connections<()>, conn: ConnId, data: &mut [u8]) -> Result<Reply> {
        self.was_asked = true;
        if self.sends_before {
            connections.send(conn, data)?;
        }
        Ok(Reply::Back(self.part.0..self.part.1))
    }

    fn ended(&mut self, _: &mut Connections<()>, _: ConnId, _: CloseReason) -> Result<()> {
        Ok(())
    }

    fn turn(&mut self, _: &mut Connections<()>, _: Instant, _: u32) -> Result<Schedule> {
        Ok(Schedule::OnEvent)
    }
}

/// What a shard comes to whose driver sends back this part of four bytes.
fn outcome(part: (usize, usize), sends_before: bool) -> Result<()> {
    let doorbell = Doorbell::new().unwrap();
    let mut connections = Connections::new(ConnectionsConfig::new(vec![8], 4), &doorbell, Arc::default()).unwrap();
    let listener = Arc::new(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
    let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    connections.listen(vec![listener], 2).unwrap();
    peer.write_all(b"word").unwrap();
    let mut reactor = Reactor::new(connections, Parting { part, sends_before, was_asked: false });
    while !reactor.driver.was_asked {
        reactor.pass(Instant::now(), || {})?;
    }
    Ok(())
}

#[test]
fn a_part_that_is_none_of_what_came_is_a_bug_and_no_panic() {
    for sends_before in [false, true] {
        for (start, end) in [(3, 1), (0, 5), (5, 5), (9, 2)] {
            let error = outcome((start, end), sends_before).unwrap_err();
            let said = format!("service replies with bytes {start}..{end} of 4");
            assert!(matches!(&error, Error::Bug(saw) if *saw == said), "{error}");
        }
        for part in [(0, 4), (1, 3), (4, 4)] {
            outcome(part, sends_before).unwrap();
        }
    }
}
