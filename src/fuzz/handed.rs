//! What a server is told by one that hands over, or by one that asks.

use crate::hibernation::closing::Closing;
use crate::takeover::format::{Batch, Sleepers};
use crate::takeover::{Hello, Terms, of_bytes, to_bytes};

/// Any message: it is read as it was written, or not at all. The first byte says which it is.
pub fn handed(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    match kind % 4 {
        0 => {
            let Some(sleepers) = Sleepers::decode(body) else { return };
            assert_eq!(sleepers.encode(), body);
            for (_, numbers) in &sleepers.surrendered.closings {
                assert!(Closing::of_numbers(*numbers).is_none_or(|closing| closing.to_numbers() == *numbers));
            }
        }
        1 => {
            let Some(batch) = Batch::decode(body) else { return };
            assert_eq!(batch.encode(), body);
        }
        2 => {
            let Ok(terms) = of_bytes::<Terms>(body) else { return };
            // The same terms always fit, but for sleepers where none may be awake.
            let fits = terms.check(&terms);
            assert!(fits.is_ok() || terms.catcher.is_some(), "{fits:?}");
            assert_eq!(of_bytes::<Terms>(&to_bytes(&terms).unwrap()).unwrap(), terms);
        }
        _ => {
            let Ok(hello) = of_bytes::<Hello>(body) else { return };
            assert_eq!(of_bytes::<Hello>(&to_bytes(&hello).unwrap()).unwrap(), hello);
        }
    }
}
