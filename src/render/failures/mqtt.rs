//! For each reason code of MQTT one sentence for people. Codes that only a client may send are not among them.

use crate::failure::{MqttPacket, MqttReason};

/// What the reason usually means, and what to do.
pub fn sentence(reason: MqttReason) -> &'static str {
    match (reason.packet, reason.code) {
        (_, 0x84) => "the server does not speak this version of MQTT; choose the other one with --mqtt-version",
        (_, 0x85) => {
            "the server does not take the client's identifier; use letters and digits in --client-id, 23 characters at most"
        }
        (_, 0x86) => "the server does not know this user with this password; check --user and --password",
        (MqttPacket::Suback, 0x87) => {
            "the server does not let the client subscribe to one of its topics; check its access rules, --topic and --subscribe"
        }
        (MqttPacket::Puback, 0x87) => {
            "the server does not let the client publish to its topic; check its access rules, and the topic"
        }
        (_, 0x87) => {
            "the server does not let the client in; check its access rules, --user, --password and --client-id"
        }
        (_, 0x88) => "the server is there and serves no client at present; read its log",
        (_, 0x89) => "the server has too much to do; lower --concurrency or the rate",
        (_, 0x8a) => "the server has banned this client; read its log",
        (_, 0x8b) => "the server shuts down; connect again once it runs",
        (_, 0x8c) => "the server wants another way of authentication, and the client has none but user and password",
        (_, 0x8d) => {
            "the server heard nothing for one and a half times the keepalive; raise --mqtt-keepalive, or look for what holds up the client"
        }
        (_, 0x8e) => {
            "another connection has the same client identifier: --client-id needs {n}, and each client machine its own --first-number"
        }
        (_, 0x8f) => "the server does not take one of the topic filters; check --topic and --subscribe",
        (_, 0x90) => "the server does not take the topic; check --topic",
        (MqttPacket::Puback, 0x10) => {
            "the server knows no subscription to the topic, though the client has made one; a resumed session may have lost it"
        }
        (_, 0x91 | 0x92) => {
            "the server holds the packet's identifier for another message; a resumed session may have one of an earlier run: use --session clean"
        }
        (_, 0x93 | 0x96) => "the client sends faster than the server allows; send less often, or raise its limit",
        (_, 0x95) => "a packet is longer than the server takes; lower --payload or raise its limit",
        (_, 0x97) => "a quota of the server is used up: connections, subscriptions or messages; raise it",
        (_, 0x98) => "the server's administrator, or a rule, ended it; read its log",
        (_, 0x99) => "the server takes no messages of this form; read its log",
        (_, 0x9a) => "the server keeps no retained messages",
        (_, 0x9b) => "the server does not take this quality of service; try --qos 0",
        (_, 0x9c | 0x9d) => {
            "the server names another one to use instead; ask it for its name, and make that the target"
        }
        (_, 0x9e) => "the server has no shared subscriptions; leave $share out of --subscribe",
        (_, 0x9f) => "clients connect faster than the server allows; connect more slowly, or raise its limit",
        (_, 0xa0) => "the connection is as old as the server lets one become; raise that limit",
        (_, 0xa2) => "the server has no wildcards; leave + and # out of --subscribe",
        (_, 0x81 | 0x82) => {
            "the server finds our packet malformed or out of order; it may speak another version: try the other --mqtt-version"
        }
        (MqttPacket::Suback, 0x80) => {
            "the server refuses one of the subscriptions without a reason; check its access rules, --topic and --subscribe"
        }
        (MqttPacket::Disconnect, 0x00) => "the server ended the connection in order; read its log",
        _ => "the server says no more than that; read its log",
    }
}
