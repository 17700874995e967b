//! Answers that lie in the receive buffer, one behind the other.

use std::ops::Range;

use crate::protocol::websocket::{Header, LONGEST_HEADER, Opcode};

/// Makes the payload that lies at `payload` an answer, behind those that lie at `held` already. Its header takes the
/// place of the client's, which is longer by the mask. `false` if it does not fit, as where the client's header began in
/// an earlier buffer.
pub(super) fn hold(data: &mut [u8], held: &mut Range<usize>, opcode: Opcode, payload: Range<usize>) -> bool {
    let mut header = [0; LONGEST_HEADER];
    let length = Header::whole(opcode, payload.len() as u64, None).write(&mut header);
    let first = Range::is_empty(held);
    let at = if first { payload.start.checked_sub(length) } else { Some(held.end) };
    let Some(at) = at.filter(|at| at + length <= payload.start) else { return false };
    data[at..at + length].copy_from_slice(&header[..length]);
    if at + length < payload.start {
        data.copy_within(payload.clone(), at + length);
    }
    *held = if first { at } else { held.start }..at + length + payload.len();
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::websocket::Role;
    use proptest::prelude::*;

    proptest! {
        /// Frames that follow each other in a buffer become answers with the same payloads, in their order.
        #[test]
        fn answers_follow_each_other_in_the_buffer(
            payloads in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..200), any::<bool>()), 1..8),
            before in 0usize..20, key: [u8; 4]
        ) {
            let mut data = vec![0; before];
            let mut ranges = Vec::new();
            for (payload, _) in &payloads {
                Header::whole(Opcode::Binary, payload.len() as u64, Some(key)).append(&mut data);
                ranges.push(data.len()..data.len() + payload.len());
                data.extend_from_slice(payload);
            }
            let (mut held, mut expected) = (0..0, Vec::new());
            for ((payload, answered), range) in payloads.iter().zip(ranges) {
                if *answered {
                    prop_assert!(hold(&mut data, &mut held, Opcode::Binary, range));
                    expected.push(payload);
                }
            }
            let mut rest = &data[held];
            for payload in expected {
                let (header, length) = Header::read(rest, Role::Server).unwrap().unwrap();
                let (now, later) = rest[length..].split_at(header.length as usize);
                prop_assert_eq!(now, payload);
                rest = later;
            }
            prop_assert!(rest.is_empty());
        }
    }

    #[test]
    fn without_room_for_a_header_nothing_is_held() {
        let (mut data, mut held) = ([1, 2, 3], 0..0);
        assert!(!hold(&mut data, &mut held, Opcode::Text, 1..3));
        assert_eq!((data, held), ([1, 2, 3], 0..0));
    }
}
