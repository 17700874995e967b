use proptest::prelude::*;
use proptest::sample::Index;

use super::super::segment::*;
use super::*;

/// Options that are well formed and no timestamps.
fn others() -> impl Strategy<Value = Vec<u8>> {
    let option = prop_oneof![
        Just(vec![1]),
        (prop_oneof![2..8u8, 9..=255u8], prop::collection::vec(any::<u8>(), 0..6)).prop_map(|(kind, data)| {
            let mut option = vec![kind, data.len() as u8 + 2];
            option.extend(data);
            option
        }),
    ];
    prop::collection::vec(option, 0..4).prop_map(|options| options.concat())
}

fn written() -> impl Strategy<Value = Written> {
    let payload = prop_oneof![prop::collection::vec(any::<u8>(), 0..20), prop::collection::vec(any::<u8>(), 1_000)];
    (any::<(u32, u32, u8, u16)>(), prop::collection::vec(any::<u8>(), 0..=40), payload).prop_map(
        |((sequence, acknowledgement, flags, window), options, payload)| Written {
            sequence,
            acknowledgement,
            flags,
            window,
            options,
            payload,
        },
    )
}

proptest! {
    #[test]
    fn what_was_written_is_read(tuple in tuples(), written in written()) {
        let bytes = written.bytes(&tuple);
        let segment = Segment::parse(&bytes, bytes.len()).unwrap();
        prop_assert_eq!(segment.tuple(tuple.remote.ip(), tuple.local.ip()), tuple);
        let Segment { sequence, acknowledgement, flags, window, .. } = segment;
        prop_assert_eq!(
            (sequence, acknowledgement, flags, window),
            (written.sequence, written.acknowledgement, written.flags, written.window)
        );
        prop_assert_eq!(&bytes[segment.payload()], &written.payload[..]);
    }

    #[test]
    fn timestamps_are_found_among_other_options(before in others(), value: u32, echo: u32, after in others()) {
        let mut options = before;
        options.extend([8, 10]);
        options.extend(value.to_be_bytes());
        options.extend(echo.to_be_bytes());
        options.extend(after);
        options.truncate(40);
        let segment = Written { options: options.clone(), ..Written::default() }.parse(&plain().tuple);
        prop_assert_eq!(segment.timestamps, Some(Timestamps { value, echo }));
        prop_assert_eq!(segment.echo(), value);
    }

    #[test]
    fn no_bytes_make_the_parser_fail(bytes in prop::collection::vec(any::<u8>(), 0..200), whole in 0..400usize) {
        let header = bytes.get(12).map_or(0, |byte| usize::from(byte >> 4) * 4);
        let segment = Segment::parse(&bytes, whole);
        prop_assert_eq!(segment.is_some(), header >= 20 && bytes.len() >= header);
        let Some(segment) = segment else { return Ok(()) };
        prop_assert!((20..=60).contains(&segment.header));
        prop_assert_eq!(segment.payload().end, bytes.len());
    }

    #[test]
    fn the_beginning_of_a_segment_has_no_fin(written in written(), cut: Index) {
        let tuple = plain().tuple;
        let mut bytes = written.bytes(&tuple);
        let whole = bytes.len();
        let header = whole - written.payload.len();
        bytes.truncate(header + cut.index(written.payload.len() + 1));
        let segment = Segment::parse(&bytes, whole).unwrap();
        prop_assert_eq!(segment.payload, bytes.len() - header);
        prop_assert_eq!(segment.has(FIN), written.flags & FIN != 0 && bytes.len() == whole);
        let others = segment.flags | FIN;
        prop_assert_eq!(others, written.flags | FIN);
    }

    #[test]
    fn a_right_checksum_is_right_and_a_changed_bit_makes_it_wrong(
        tuple in tuples(), written in written(), bit: Index,
    ) {
        let mut bytes = written.bytes(&tuple);
        let whole = bytes.len();
        prop_assert!(checksum_is_right(&tuple, &bytes, whole));
        let bit = bit.index(whole * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assume!(bytes[16..18] != naive_pseudo_sum(&tuple, whole).to_be_bytes());
        prop_assert!(!checksum_is_right(&tuple, &bytes, whole));
    }

    #[test]
    fn the_sum_of_the_pseudo_header_is_enough(tuple in tuples(), written in written(), more in 0..500_000usize) {
        let mut bytes = written.bytes(&tuple);
        let whole = bytes.len() + more;
        bytes[16..18].copy_from_slice(&naive_pseudo_sum(&tuple, whole).to_be_bytes());
        prop_assert!(checksum_is_right(&tuple, &bytes, whole));
        let other = naive_pseudo_sum(&tuple, whole + 1);
        bytes[16..18].copy_from_slice(&other.to_be_bytes());
        prop_assume!(naive_sum(naive_pseudo_sum(&tuple, whole), &bytes) != u16::MAX);
        prop_assert!(!checksum_is_right(&tuple, &bytes, whole));
    }

    /// Its end may hold anything, so a checksum over all of it says nothing.
    #[test]
    fn of_the_beginning_of_a_segment_no_full_checksum_is_believed(tuple in tuples(), written in written(), more in 1..9usize) {
        let mut bytes = written.bytes(&tuple);
        let whole = bytes.len() + more;
        bytes[16..18].fill(0);
        let checksum = naive_checksum(&tuple, &bytes, whole);
        bytes[16..18].copy_from_slice(&checksum.to_be_bytes());
        prop_assume!(bytes[16..18] != naive_pseudo_sum(&tuple, whole).to_be_bytes());
        prop_assert!(!checksum_is_right(&tuple, &bytes, whole));
    }

    #[test]
    fn a_checksum_is_the_same_in_two_parts(tuple in tuples(), written in written(), cut: Index) {
        let mut bytes = written.bytes(&tuple);
        let expected = u16::from_be_bytes([bytes[16], bytes[17]]);
        bytes[CHECKSUM].fill(0);
        let (first, second) = bytes.split_at(cut.index(bytes.len() / 2 + 1) * 2);
        prop_assert_eq!(checksum(&tuple, first, second), expected);
    }

    #[test]
    fn of_no_bytes_a_checksum_fails(bytes in prop::collection::vec(any::<u8>(), 0..30), whole in 0..40usize) {
        let right = checksum_is_right(&plain().tuple, &bytes, whole);
        prop_assert!(!right || bytes.len() >= 18);
    }
}

fn timestamps_in(options: &[u8]) -> Option<Timestamps> {
    Written { options: options.to_vec(), ..Written::default() }.parse(&plain().tuple).timestamps
}

#[test]
fn options_behind_one_that_cannot_be_read_are_skipped() {
    let timestamps = [8, 10, 0, 0, 0, 1, 0, 0, 0, 2];
    assert_eq!(timestamps_in(&timestamps), Some(Timestamps { value: 1, echo: 2 }));
    for broken in [&[5, 0][..], &[5, 1], &[0], &[0, 2], &[8, 40], &[3, 9, 1]] {
        assert_eq!(timestamps_in(&[broken, &timestamps].concat()), None, "{broken:?}");
    }
    assert_eq!(timestamps_in(&timestamps[..7]), None);
    assert_eq!(timestamps_in(&[1, 1, 1, 8]), None);
}

#[test]
fn timestamps_of_another_length_are_another_option() {
    assert_eq!(timestamps_in(&[8, 12, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0]), None);
    let (short, timestamps) = ([8, 4, 0, 0], [8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
    assert_eq!(timestamps_in(&[&short[..], &timestamps].concat()), Some(Timestamps { value: 1, echo: 2 }));
}

/// IPv4 addresses that reached an IPv6 socket are those of the packet.
#[test]
fn a_mapped_address_is_the_address_in_the_packet() {
    let segment = Written::default().parse(&plain().tuple);
    let (remote, local) = ("::ffff:192.0.2.1".parse().unwrap(), "::ffff:198.51.100.2".parse().unwrap());
    assert_eq!(segment.tuple(remote, local), plain().tuple);
}
