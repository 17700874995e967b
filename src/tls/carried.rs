//! The TLS of an established connection on its way from process to process, as bytes: its session, and the beginning of a
//! record. A handshake cannot go: all that is known of it lies in rustls.

use std::time::Duration;

use crate::wiped::Wiped;

/// What goes.
#[derive(Debug, PartialEq, Eq)]
pub struct Carried<'a> {
    /// The session, as `Sessions::carry` has written it.
    pub session: &'a [u8],
    /// The beginning of a record, and how soon it must be whole.
    pub record: Option<(Duration, &'a [u8])>,
}

impl<'a> Carried<'a> {
    /// As bytes: the length of the session and the session; then the time in milliseconds and the bytes of the record.
    pub fn write(&self) -> Wiped {
        let mut into = Wiped::default();
        into.extend(&(self.session.len() as u32).to_le_bytes());
        into.extend(self.session);
        if let Some((left, bytes)) = self.record {
            into.extend(&u32::try_from(left.as_millis()).unwrap_or(u32::MAX).to_le_bytes());
            into.extend(bytes);
        }
        into
    }

    /// Reads what `write` has written; `None` for anything else. Whether the record can be one is for its session to say:
    /// suites differ in that.
    pub fn read(bytes: &'a [u8]) -> Option<Carried<'a>> {
        let (length, rest) = bytes.split_first_chunk()?;
        let (session, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        if rest.is_empty() {
            return Some(Carried { session, record: None });
        }
        let (left, record) = rest.split_first_chunk()?;
        let left = Duration::from_millis(u32::from_le_bytes(*left).into());
        (!record.is_empty()).then_some(Carried { session, record: Some((left, record)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_carried_is_read_as_it_was_written(
            session in prop::collection::vec(any::<u8>(), 0..120), left in prop::option::of(any::<u32>()), length in 1usize..60
        ) {
            let record: Vec<u8> = (0..60).take(length).collect();
            let record = left.map(|left| (Duration::from_millis(left.into()), &record[..]));
            let carried = Carried { session: &session, record };
            let written = carried.write();
            prop_assert_eq!(Carried::read(&written), Some(carried));
            prop_assert_eq!(Carried::read(&written[..written.len().min(session.len() + 3)]), None);
        }
    }

    #[test]
    fn a_record_without_a_byte_is_refused() {
        let written = Carried { session: b"session", record: Some((Duration::ZERO, &[])) }.write();
        assert_eq!(Carried::read(&written), None);
    }
}
