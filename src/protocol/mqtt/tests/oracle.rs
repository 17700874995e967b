//! Packets of both versions by the codec of others, mqtt-proto. Those of MQTT 3.1.1 are given as the packets of MQTT 5
//! that mean the same. The broker of `tests/it` is built on this file too.

use mqtt_proto::{Protocol, QoS, v3, v5};

/// The packet at the beginning of what a client says, and its length. `None` if it is incomplete.
pub fn read(version: Protocol, bytes: &[u8]) -> Option<(v5::Packet, usize)> {
    if version == Protocol::V500 {
        let packet = v5::Packet::decode(bytes).unwrap()?;
        let length = packet.encode_len().unwrap();
        return Some((packet, length));
    }
    let packet = v3::Packet::decode(bytes).unwrap()?;
    let length = packet.encode().unwrap().as_ref().len();
    Some((as_v5(packet), length))
}

/// What a server says, as bytes.
pub fn write(version: Protocol, packet: &v5::Packet) -> Vec<u8> {
    match version {
        Protocol::V500 => packet.encode().unwrap().as_ref().to_vec(),
        _ => {
            let mut bytes = as_v3(packet.clone()).encode().unwrap().as_ref().to_vec();
            if let v5::Packet::Suback(suback) = packet {
                // mqtt-proto 0.4.0 writes its number of the variant for a failure.
                let codes = bytes.len() - suback.topics.len();
                bytes[codes..].iter_mut().filter(|code| **code == 3).for_each(|code| *code = 0x80);
            }
            bytes
        }
    }
}

/// How our client subscribes.
pub fn options(max_qos: QoS) -> v5::SubscriptionOptions {
    v5::SubscriptionOptions { retain_as_published: false, ..v5::SubscriptionOptions::new(max_qos) }
}

fn as_v5(packet: v3::Packet) -> v5::Packet {
    match packet {
        v3::Packet::Connect(connect) => {
            let mut same = v5::Connect::new(connect.client_id, connect.keep_alive);
            (same.protocol, same.clean_start) = (connect.protocol, connect.clean_session);
            same.last_will = connect.last_will.map(|will| v5::LastWill::new(will.qos, will.topic_name, will.message));
            (same.username, same.password) = (connect.username, connect.password);
            v5::Packet::Connect(same)
        }
        v3::Packet::Subscribe(subscribe) => {
            let topics = subscribe.topics.into_iter().map(|(filter, qos)| (filter, options(qos)));
            v5::Packet::Subscribe(v5::Subscribe::new(subscribe.pid, topics.collect()))
        }
        v3::Packet::Publish(publish) => {
            v5::Packet::Publish(v5::Publish::new(publish.qos_pid, publish.topic_name, publish.payload))
        }
        v3::Packet::Puback(pid) => v5::Packet::Puback(v5::Puback::new_success(pid)),
        v3::Packet::Pingreq => v5::Packet::Pingreq,
        v3::Packet::Disconnect => v5::Packet::Disconnect(v5::Disconnect::new_normal()),
        other => panic!("no client says {other:?}"),
    }
}

fn as_v3(packet: v5::Packet) -> v3::Packet {
    match packet {
        v5::Packet::Connack(connack) => {
            use {v3::ConnectReturnCode as Code, v5::ConnectReasonCode as Reason};
            let code = match connack.reason_code {
                Reason::Success => Code::Accepted,
                Reason::UnsupportedProtocolVersion => Code::UnacceptableProtocolVersion,
                Reason::ClientIdentifierNotValid => Code::IdentifierRejected,
                Reason::ServerUnavailable => Code::ServerUnavailable,
                Reason::BadUserNameOrPassword => Code::BadUserNameOrPassword,
                Reason::NotAuthorized => Code::NotAuthorized,
                other => panic!("MQTT 3.1.1 has no {other:?}"),
            };
            v3::Packet::Connack(v3::Connack::new(connack.session_present, code))
        }
        v5::Packet::Suback(suback) => {
            use {v3::SubscribeReturnCode as Code, v5::SubscribeReasonCode as Reason};
            let code = |reason| match reason {
                Reason::GrantedQoS0 => Code::MaxLevel0,
                Reason::GrantedQoS1 => Code::MaxLevel1,
                Reason::GrantedQoS2 => Code::MaxLevel2,
                _ => Code::Failure,
            };
            v3::Packet::Suback(v3::Suback { pid: suback.pid, topics: suback.topics.into_iter().map(code).collect() })
        }
        v5::Packet::Puback(puback) => v3::Packet::Puback(puback.pid),
        v5::Packet::Publish(publish) => v3::Packet::Publish(v3::Publish {
            dup: publish.dup,
            retain: publish.retain,
            qos_pid: publish.qos_pid,
            topic_name: publish.topic_name,
            payload: publish.payload,
        }),
        v5::Packet::Pingresp => v3::Packet::Pingresp,
        other => panic!("no server says {other:?} in MQTT 3.1.1"),
    }
}
