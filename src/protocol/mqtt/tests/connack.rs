//! CONNACK: what a server may say in it, and what it must not.

use super::*;

#[test]
fn the_session_is_the_one_that_was_asked_for() {
    let connack = |session| Said::Connack { session, code: 0 };
    for version in [Version::V3, Version::V5] {
        for (session, present, verdict) in [
            ("clean", false, Verdict::Proof),
            ("clean", true, Verdict::Wrong(Cause::Malformed)),
            ("keep", false, Verdict::Proof),
            ("keep", true, Verdict::Proof),
            ("resume", false, Verdict::Ended(Cause::NoSession)),
            ("resume", true, Verdict::Proof),
        ] {
            let dialect = made(MqttSettings { session: Some(session.to_owned()), ..settings(version, 0) });
            let bytes = connack(present).bytes(version, &[]);
            assert_eq!(heard(&dialect, Some(exchange(Purpose::Open(0))), &bytes), verdict, "{session} {present}");
        }
    }
}

/// A property of the server's own may come several times, and a text may be cut within a character.
#[test]
fn what_a_server_may_say_in_connack() {
    let v5 = made(settings(Version::V5, 0));
    let user = [0x26, 0, 2, 0xc3, 0xa9, 0, 2, 0xc3, 0xa9];
    let properties = [&user[..], &user, &[0x1f, 0, 2, 0xc3, 0xa9, 0x12, 0, 0]].concat();
    let length = properties.len() as u8;
    let bytes = [&[0x20, length + 3, 0, 0, length], &properties[..]].concat();
    for each in 1..bytes.len() {
        let asked = [Some(exchange(Purpose::Open(0)))];
        let cuts = std::iter::repeat_n(each, bytes.len());
        assert_eq!(follow(&v5, &asked, &bytes, cuts).0, [Verdict::Proof]);
    }
}

/// A server may set limits that the client's settings do not keep.
#[test]
fn limits_of_the_server_are_checked() {
    let mqtt = MqttSettings { keepalive: Some(60), ..settings(Version::V5, 1) };
    let dialect = Mqtt::new(&Settings { mqtt, payload: Some(1_000), ..Settings::default() }).unwrap();
    let longest = dialect.longest_packet(7) as u32;
    let limit = |set: &dyn Fn(&mut v5::ConnackProperties)| {
        let mut connack = v5::Connack::new(false, v5::ConnectReasonCode::Success);
        set(&mut connack.properties);
        let bytes = v5::Packet::Connack(connack).encode().unwrap().as_ref().to_vec();
        heard(&dialect, Some(exchange(Purpose::Open(0))), &bytes)
    };
    for (keepalive, verdict) in
        [(59, Verdict::Ended(Cause::ShorterKeepalive)), (60, Verdict::Proof), (0, Verdict::Proof)]
    {
        assert_eq!(limit(&|properties| properties.server_keep_alive = Some(keepalive)), verdict, "{keepalive}");
    }
    for (size, verdict) in [
        (longest - 1, Verdict::Ended(Cause::ShorterPackets)),
        (longest, Verdict::Proof),
        (0x0001_0000, Verdict::Proof),
        (u32::MAX, Verdict::Proof),
    ] {
        assert_eq!(limit(&|properties| properties.max_packet_size = Some(size)), verdict, "{size}");
    }
    // Who promises nothing is silent for any time. mosquitto names its longest time then, which is 18 hours.
    let silent = made(settings(Version::V5, 0));
    for (seconds, verdict) in
        [(60_u16, Verdict::Ended(Cause::ShorterKeepalive)), (0, Verdict::Proof), (u16::MAX, Verdict::Proof)]
    {
        let [high, low] = seconds.to_be_bytes();
        let bytes = [0x20, 6, 0, 0, 3, 0x13, high, low];
        assert_eq!(heard(&silent, Some(exchange(Purpose::Open(0))), &bytes), verdict, "{seconds}");
    }
    assert_eq!(limit(&|properties| properties.max_qos = Some(QoS::Level0)), Verdict::Ended(Cause::LowerQos));
    assert_eq!(limit(&|properties| properties.max_qos = Some(QoS::Level1)), Verdict::Proof);
    assert_eq!(limit(&|properties| properties.receive_max = Some(1)), Verdict::Proof);
}

/// A server that speaks another version refuses the client in that one, and some write codes of MQTT 5 without properties.
#[test]
fn a_refusal_may_come_in_the_other_version() {
    let (v3, v5) = (made(settings(Version::V3, 0)), made(settings(Version::V5, 0)));
    for (dialect, bytes, code) in [
        (&v5, &[0x20, 2, 0, 1][..], 0x84),
        (&v5, &[0x20, 2, 0, 5], 0x87),
        (&v5, &[0x20, 2, 0, 0x84], 0x84),
        (&v3, &[0x20, 2, 0, 0x84], 0x84),
        (&v3, &[0x20, 3, 0, 0x84, 0], 0x84),
        (&v3, &[0x20, 7, 0, 0x87, 4, 0x1f, 0, 1, b'a'], 0x87),
    ] {
        for each in 1..=bytes.len() {
            let cuts = std::iter::repeat_n(each, bytes.len());
            let verdicts = follow(dialect, &[Some(exchange(Purpose::Open(0)))], bytes, cuts).0;
            assert_eq!(verdicts, [reason(MqttPacket::Connack, code)], "{bytes:x?} in pieces of {each}");
        }
    }
}

#[test]
fn what_no_server_may_say_in_connack() {
    let (v3, v5) = (made(settings(Version::V3, 1)), made(settings(Version::V5, 1)));
    let connect = Some(exchange(Purpose::Open(0)));
    let malformed: [(&Mqtt, &[u8]); 24] = [
        (&v3, &[0x20, 3, 0, 0, 0]),
        (&v3, &[0x20, 3, 0, 1, 0]),
        (&v5, &[0x20, 2, 0, 6]),
        (&v3, &[0x20, 2, 2, 0]),
        (&v3, &[0x20, 2, 0, 6]),
        (&v3, &[0x21, 2, 0, 0]),
        (&v5, &[0x20, 2, 0, 0]),
        (&v5, &[0x20, 3, 0, 1, 0]),
        (&v5, &[0x20, 3, 0, 0, 1]),
        (&v5, &[0x20, 5, 0, 0, 2, 0x01, 0]),
        (&v5, &[0x20, 5, 0, 0, 2, 0x13, 0]),
        (&v5, &[0x20, 8, 0, 0, 5, 0x1f, 0, 3, b'a', b'b']),
        (&v5, &[0x20, 6, 0, 0, 3, 0x21, 0, 0]),
        (&v5, &[0x20, 8, 0, 0, 5, 0x27, 0, 0, 0, 0]),
        (&v5, &[0x20, 5, 0, 0, 2, 0x24, 2]),
        (&v5, &[0x20, 5, 0, 0, 2, 0x25, 2]),
        (&v5, &[0x20, 7, 0, 0, 4, 0x28, 1, 0x28, 1]),
        (&v5, &[0x20, 12, 0, 0, 9, 0x22, 0, 1, 0x1f, 0, 0, 0x22, 0, 2]),
        (&v5, &[0x20, 7, 0, 0, 4, 0x15, 0, 1, b'a']),
        (&v5, &[0x20, 7, 0, 0, 4, 0x1f, 0, 1, 0xff]),
        (&v5, &[0x20, 7, 0, 0, 4, 0x1f, 0, 1, 0]),
        (&v5, &[0x20, 9, 0, 0, 6, 0x26, 0, 1, 0xc3, 0, 0]),
        (&v5, &[0x20, 0x83, 0x00, 0, 0, 0]),
        (&v5, &[0x20, 0xff, 0xff, 0xff, 0xff]),
    ];
    for (dialect, bytes) in malformed {
        let bytes = [bytes, &[0; 3]].concat();
        assert_eq!(heard(dialect, connect, &bytes), Verdict::Wrong(Cause::Malformed), "{bytes:x?}");
    }
}
