//! Connections between two layers in memory, and on their way to another process.

use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::tls::handshake::tests::{ends, old_ends};
use crate::tls::record::{LARGEST_RECORD, Opened};

fn name() -> ConnId {
    ConnId::new(0, 3, 1)
}

/// The layers of a server and of a client whose connection is established, and one of the same server in another process.
fn layers((acceptor, connector): (Acceptor, Connector)) -> [Layer; 3] {
    let layer = |endpoint| Layer::new(LayerConfig::new(endpoint, 1));
    let [mut server, successor] = [(); 2].map(|()| layer(Endpoint::Server(acceptor.clone())));
    let mut client = layer(Endpoint::Client(connector));
    let mut to_server = Vec::new();
    client.begin(name(), IpAddr::V4(Ipv4Addr::LOCALHOST), &mut to_server).unwrap();
    while !to_server.is_empty() {
        let (came, mut to_client) = (std::mem::take(&mut to_server), Vec::new());
        server.shake(name(), &came, &mut to_client).unwrap();
        if !client.sessions.has(name()) {
            client.shake(name(), &to_client, &mut to_server).unwrap();
        }
    }
    [server, client, successor]
}

/// Any beginning of any record of data goes with its connection, and the rest of it is opened by the successor.
#[test]
fn the_beginning_of_a_record_goes_with_its_connection() {
    for (ends, longest) in [(ends(), LARGEST_RECORD), (old_ends(), LARGEST_CONTENT + MOST_AROUND)] {
        let [mut server, mut client, mut successor] = layers(ends);
        let content = vec![7; LARGEST_CONTENT];
        for cut in [1, 4, 5, 6, longest - 1] {
            let mut record = Vec::new();
            client.sessions.seal(name(), &content, &mut record).unwrap();
            assert_eq!(record.len(), longest);
            let (first, rest) = record.split_at(cut);
            server.keep(name(), first.to_vec(), Mark::default()).unwrap();
            let carried = server.carry(name(), Mark::default()).unwrap();
            successor.bring(name(), &carried, Mark::default()).unwrap();
            let joined = successor.join(name(), rest).unwrap();
            let Joined::Whole(mut whole, used) = joined else { panic!("{joined:?} behind {cut} bytes") };
            assert_eq!((used, whole.len()), (rest.len(), longest));
            let opened = successor.sessions.open(name(), &mut whole).unwrap();
            let Opened::Data(place) = opened else { panic!("{opened:?} behind {cut} bytes") };
            assert!(whole[place] == content);
            std::mem::swap(&mut server, &mut successor);
        }
    }
}

/// What is brought is judged by the rules of its own session.
#[test]
fn only_the_beginning_of_a_record_is_taken_over() {
    let (alert, whole) = (&[21, 3, 3][..], &[23, 3, 3, 0, 2, 1, 2][..]);
    let (old_longest, too_long) = (&[23, 3, 3, 0x40, 0x18, 1][..], &[23, 3, 3, 0x40, 0x19, 1][..]);
    for (is_old, record, is_taken) in [
        (true, alert, true),
        (false, alert, false),
        (true, old_longest, true),
        (false, old_longest, false),
        (true, too_long, false),
        (true, whole, false),
        (false, whole, false),
        (true, &[20], false),
    ] {
        let [mut server, _, mut successor] = layers(if is_old { old_ends() } else { ends() });
        server.keep(name(), record.to_vec(), Mark::default()).unwrap();
        let carried = server.carry(name(), Mark::default()).unwrap();
        let taken = successor.bring(name(), &carried, Mark::default());
        assert_eq!(taken.is_some(), is_taken, "{record:?}, TLS 1.2: {is_old}");
        assert_eq!((successor.sessions.has(name()), successor.record_due().is_some()), (is_taken, is_taken));
    }
}
