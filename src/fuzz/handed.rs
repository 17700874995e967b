//! What a server is told by one that hands over, or by one that asks.

use crate::hibernation::closing::Closing;
use crate::protocol::websocket::{Assembly, Role, Rules};
use crate::service::rewritten;
use crate::takeover::format::{Batch, KnownSleepers, Sleepers};
use crate::takeover::{Hello, Terms, of_bytes, to_bytes};

/// Any message, and what is in it: it is read as it was written, or not at all. The first byte says which it is.
pub fn handed(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    match kind % 8 {
        0 => {
            let Some(sleepers) = Sleepers::decode(body) else { return };
            assert_eq!(sleepers.encode()[..], *body);
            for (_, numbers) in &sleepers.surrendered.closings {
                assert!(Closing::of_numbers(*numbers).is_none_or(|closing| closing.to_numbers() == *numbers));
            }
        }
        1 => {
            let Some(batch) = Batch::decode(body) else { return };
            assert_eq!(batch.encode()[..], *body);
        }
        2 => {
            let Ok(terms) = of_bytes::<Terms>(body) else { return };
            // The same terms always fit, but for sleepers where none may be awake.
            let fits = terms.check(&terms);
            assert!(fits.is_ok() || terms.catcher.is_some(), "{fits:?}");
            assert_eq!(of_bytes::<Terms>(&to_bytes(&terms).unwrap()).unwrap(), terms);
        }
        3 => {
            let Some(sleepers) = KnownSleepers::decode(body) else { return };
            let mut known = KnownSleepers::default();
            sleepers.iter().for_each(|sleeper| known.push(sleeper));
            assert_eq!(known.encode()[..], *body);
        }
        #[cfg(feature = "tls")]
        4 => session(body),
        5 => {
            let Some(assembly) = Assembly::read(body) else { return };
            let mut written = Vec::new();
            assembly.write(&mut written);
            assert_eq!(written, body);
            goes_on(assembly, body);
        }
        6 => rewritten(body).into_iter().for_each(|written| assert_eq!(written, body)),
        _ => {
            let Ok(hello) = of_bytes::<Hello>(body) else { return };
            assert_eq!(of_bytes::<Hello>(&to_bytes(&hello).unwrap()).unwrap(), hello);
        }
    }
}

/// A TLS session: it is kept as it was written, and opens and seals without a panic.
#[cfg(feature = "tls")]
fn session(bytes: &[u8]) {
    use crate::tls::carried::Carried;
    use crate::tls::record::Side;
    use crate::tls::sessions::Sessions;
    use crate::token::ConnId;
    use crate::wiped::Wiped;

    let Some(carried) = Carried::read(bytes) else { return };
    assert_eq!(carried.write()[..], *bytes);
    for side in [Side::Server, Side::Client] {
        let (mut sessions, name) = (Sessions::default(), ConnId::new(0, 3, 9));
        if sessions.bring(name, side, carried.session).is_none() {
            continue;
        }
        assert!(sessions.has(name));
        let mut again = Wiped::default();
        assert!(sessions.carry(name, &mut again));
        assert_eq!(again[..], *carried.session);
        assert!(!sessions.has(name) && !sessions.carry(name, &mut again));
        sessions.bring(name, side, carried.session).unwrap();
        let _ = sessions.open(name, &mut [23, 3, 3, 0, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let _ = sessions.seal(name, b"hello", &mut Vec::new());
    }
}

/// An assembly of messages goes on with any bytes.
fn goes_on(mut assembly: Assembly, bytes: &[u8]) {
    let (rules, mut bytes, mut at) = (Rules { from: Role::Client, longest: 100 }, bytes.to_vec(), 0);
    while let Ok(Some(_)) = assembly.next(rules, &mut bytes, &mut at) {}
}
