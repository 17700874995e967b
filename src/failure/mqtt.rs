//! Reason codes by which an MQTT server refuses something (MQTT 5.0, section 2.4), each with its name.

/// The packet that holds a reason code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MqttPacket {
    /// The answer to CONNECT.
    Connack,
    /// The answer to SUBSCRIBE.
    Suback,
    /// The answer to PUBLISH.
    Puback,
    /// The server ends the connection.
    Disconnect,
}

/// A reason code and the packet that holds it. The return codes of MQTT 3.1.1 are given as the codes of MQTT 5 that
/// mean the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MqttReason {
    /// The packet.
    pub packet: MqttPacket,
    /// The code.
    pub code: u8,
}

/// Names begin with it.
const PREFIX: &str = "mqtt_";

/// The packets and their names.
const PACKETS: [(MqttPacket, &str); 4] = [
    (MqttPacket::Connack, "connack"),
    (MqttPacket::Suback, "suback"),
    (MqttPacket::Puback, "puback"),
    (MqttPacket::Disconnect, "disconnect"),
];

/// The codes by which a server refuses or ends something, and their names.
const CODES: [(u8, &str); 37] = [
    (0x00, "normal"),
    (0x10, "no_matching_subscribers"),
    (0x80, "unspecified_error"),
    (0x81, "malformed_packet"),
    (0x82, "protocol_error"),
    (0x83, "implementation_specific_error"),
    (0x84, "unsupported_protocol_version"),
    (0x85, "client_identifier_not_valid"),
    (0x86, "bad_user_name_or_password"),
    (0x87, "not_authorized"),
    (0x88, "server_unavailable"),
    (0x89, "server_busy"),
    (0x8a, "banned"),
    (0x8b, "server_shutting_down"),
    (0x8c, "bad_authentication_method"),
    (0x8d, "keep_alive_timeout"),
    (0x8e, "session_taken_over"),
    (0x8f, "topic_filter_invalid"),
    (0x90, "topic_name_invalid"),
    (0x91, "packet_identifier_in_use"),
    (0x92, "packet_identifier_not_found"),
    (0x93, "receive_maximum_exceeded"),
    (0x94, "topic_alias_invalid"),
    (0x95, "packet_too_large"),
    (0x96, "message_rate_too_high"),
    (0x97, "quota_exceeded"),
    (0x98, "administrative_action"),
    (0x99, "payload_format_invalid"),
    (0x9a, "retain_not_supported"),
    (0x9b, "qos_not_supported"),
    (0x9c, "use_another_server"),
    (0x9d, "server_moved"),
    (0x9e, "shared_subscriptions_not_supported"),
    (0x9f, "connection_rate_exceeded"),
    (0xa0, "maximum_connect_time"),
    (0xa1, "subscription_identifiers_not_supported"),
    (0xa2, "wildcard_subscriptions_not_supported"),
];

impl MqttReason {
    /// The name under which reports count it: `mqtt_connack_server_busy`, or `mqtt_connack_0xff` for a code that MQTT
    /// 5.0 does not have.
    pub fn name(self) -> String {
        let packet = PACKETS.iter().find(|(packet, _)| *packet == self.packet).map_or("", |(_, name)| *name);
        match CODES.iter().find(|(code, _)| *code == self.code) {
            Some((_, code)) => format!("{PREFIX}{packet}_{code}"),
            None => format!("{PREFIX}{packet}_0x{:02x}", self.code),
        }
    }

    /// The reason of this name.
    pub fn named(name: &str) -> Option<MqttReason> {
        let (packet, code) = name.strip_prefix(PREFIX)?.split_once('_')?;
        let (packet, _) = PACKETS.into_iter().find(|(_, name)| *name == packet)?;
        let known = CODES.iter().find(|(_, name)| *name == code).map(|(code, _)| *code);
        let code = known.or_else(|| u8::from_str_radix(code.strip_prefix("0x")?, 16).ok())?;
        Some(MqttReason { packet, code })
    }
}
