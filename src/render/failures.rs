//! For each cause of failed connections one sentence for people.

mod mqtt;
mod nats;

use crate::error::{Alert, CertificateProblem, Errno, TlsFailure};
use crate::failure::{Cause, HandshakeFault};
use crate::results::document::ClientDocument;

/// What the cause usually means to a client of this protocol, and what to do. No protocol takes the options of all.
pub fn sentence(cause: Cause, protocol: &str) -> &'static str {
    let own = match protocol {
        "send-expect" => send_expect(cause),
        "websocket" => websocket(cause),
        "http" => http(cause),
        "mqtt" | "nats" => of_topics(cause, protocol),
        _ => None,
    };
    own.unwrap_or_else(|| match cause {
        Cause::Silent if !matches!(protocol, RAW | "") => {
            "the target accepts and acknowledges but does not answer, or not to the end, within --reply-timeout: it stalls, speaks another protocol, or wants TLS; check the protocol, the port and --tls"
        }
        cause => general(cause),
    })
}

/// The protocol of plain bytes, whose audit need not ask. Results of an earlier version do not name it.
const RAW: &str = "raw";

/// What a cause means where its answer is what was typed.
fn send_expect(cause: Cause) -> Option<&'static str> {
    Some(match cause {
        Cause::Silent => {
            "the target accepts and acknowledges but does not answer, or not to the end, within --reply-timeout; it stalls or speaks another protocol: look at one answer, and end --expect with what ends it"
        }
        Cause::Unread => UNREAD_AS_TYPED,
        Cause::WrongAnswer => {
            "the answer is not what --expect says; the server speaks differently, or it mixes up connections: look at one answer, and use * in --expect for what varies"
        }
        Cause::AnswerTooLong => {
            "the answer has 64 KiB and has not ended; look at one answer, and end --expect with what ends it"
        }
        Cause::Unasked => {
            "the server sent bytes while nothing was asked, or behind the end of an answer; a * at the end of --expect, or at its beginning, allows that"
        }
        _ => return None,
    })
}

/// That the server does not read, where the length of messages follows from what was typed.
const UNREAD_AS_TYPED: &str = "the server reads nothing while we send, and our bytes for it pile up; it stalls, or send fewer messages, or shorter ones";

/// What a cause means to a client of WebSocket.
fn websocket(cause: Cause) -> Option<&'static str> {
    Some(match cause {
        Cause::Silent => {
            "the target accepts and acknowledges but does not answer, or not to the end, within --reply-timeout: it stalls, speaks another protocol, wants TLS (--tls), or sends no messages back (--proof echo)"
        }
        Cause::AnswerTooLong => {
            "what the server sent is longer than the client follows: 16 KiB and 64 fields for the answer to the upgrade, 4 GiB for a frame; look at what it sends"
        }
        Cause::HttpStatus(200..300) => {
            "the server answered the request and upgraded nothing: no WebSocket is at that path; check the path"
        }
        Cause::HttpStatus(405) => "the server takes no request for WebSocket there; check the path",
        _ => return None,
    })
}

/// What a cause means to a client of HTTP.
fn http(cause: Cause) -> Option<&'static str> {
    Some(match cause {
        Cause::Unread => UNREAD_AS_TYPED,
        Cause::AnswerTooLong => {
            "the answer is longer than the client follows: 16 KiB and 64 fields for its head, 4 GiB for a body or a chunk, 8 KiB for what stands around chunks; look at one answer"
        }
        _ => return None,
    })
}

/// What a cause means to a client that publishes to topics.
fn of_topics(cause: Cause, protocol: &str) -> Option<&'static str> {
    Some(match cause {
        Cause::WrongAnswer => {
            "the answer is not the one to what was asked; the server mixes up connections, or another client has connections of the same numbers: give each client machine its own --first-number"
        }
        Cause::AnswerTooLong if protocol == "nats" => {
            "what the server sent is longer than the client follows: 4,096 bytes for a line, 64 KiB for an INFO, 64 MiB for a message; look at what it sends"
        }
        _ => return None,
    })
}

/// What a cause means to a client of any protocol.
fn general(cause: Cause) -> &'static str {
    match cause {
        Cause::Errno(errno) => errno_sentence(errno),
        Cause::Tls(failure) => tls(failure),
        Cause::ConnectTimeout => {
            "no answer to the SYN within --connect-timeout: a firewall drops it, conntrack or the accept queue is full, or the server is overloaded"
        }
        Cause::Silent => {
            "the target accepts and acknowledges but does not answer, or not to the end; it is no echo server or speaks another protocol: use --audit state of `c1m client`, or --service echo of `c1m server`"
        }
        Cause::Ghost => {
            "connect succeeded, but the server never accepted it (our last ACK was dropped by a full accept queue); raise its --backlog and net.core.somaxconn, or lower --concurrency"
        }
        Cause::Unanswered => {
            "it answered before and did not within --reply-timeout; the server stalls or its host lost the connection"
        }
        Cause::Unread => {
            "the server reads nothing while we send, and our bytes for it pile up; it stalls, or send less: fewer messages, or shorter ones (--payload)"
        }
        Cause::WrongEcho => {
            "bytes came back that are not ours; the target is no echo server, or it mixes up connections; for other servers there is --protocol send-expect"
        }
        Cause::WrongAnswer => {
            "the answer is not the one to what was asked; the server speaks differently, or it mixes up connections: look at one answer"
        }
        Cause::AnswerTooLong => "the answer is longer than the client follows; look at one answer",
        Cause::AlteredPublication => {
            "a publication came with other bytes than it was published with, or cut off; the server, or a proxy, changes what it carries"
        }
        Cause::Unasked => {
            "the server sent bytes while nothing was asked, or behind the end of an answer; look at what it sends"
        }
        Cause::Malformed => {
            "the server broke the rules of the protocol, or speaks another one, such as TLS; look at what it sends, and check the protocol, the port and --tls"
        }
        Cause::TooManyIncomplete => {
            "more answers were incomplete at the same time than this client follows (131,072 a core, and 16 MiB of their bytes); lower --concurrency or the rate, or use more cores"
        }
        Cause::HttpStatus(status) => status_sentence(status),
        Cause::NotKept => {
            "the server answered and does not keep the connection (Connection: close); raise its limit on requests of a connection (nginx: keepalive_requests, keepalive_timeout), or ask something that it keeps the connection for"
        }
        Cause::Handshake(fault) => handshake_sentence(fault),
        Cause::CloseCode(code) => close_sentence(code),
        Cause::Mqtt(reason) => mqtt::sentence(reason),
        Cause::Nats(error) => nats::sentence(error),
        Cause::NoSession => {
            "the server has no session of this client identifier to resume: it never had one, lost it, or let it expire, which may be sooner than --session-expiry asks for; make it with --session keep, and look at what the server allows"
        }
        Cause::ShorterKeepalive => {
            "the server demands a packet more often than --mqtt-keepalive says, or at all where that is not given; give at most what the server asks for, or raise that"
        }
        Cause::LowerQos => "the server takes messages of quality of service 0 alone; use --qos 0",
        Cause::ShorterPackets => {
            "the server takes only packets that are shorter than ours; lower --payload or raise its limit"
        }
        Cause::ClosedByServer => {
            "the server closed it (FIN): an idle timeout (--keepalive-interval below it prevents that), a limit, or its end; read its log. If it closed at the first message, check the protocol and --tls"
        }
        Cause::ConnectedToItself => {
            "nothing listens on that port of this host, and it was a source port too, so TCP connected the socket to itself or to another one that dials; start the server, and keep its ports out of net.ipv4.ip_local_port_range (net.ipv4.ip_local_reserved_ports)"
        }
    }
}

/// What to know of connections that were refused while others stood: nothing may listen at one of several addresses, such as
/// the IPv6 address of `localhost`.
pub fn refused_in_part(document: &ClientDocument) -> Option<&'static str> {
    let refused = document.errors.contains_key(&Cause::Errno(Errno::ECONNREFUSED));
    // Addresses are separated by commas there.
    let has_several = document.target.contains(',');
    (refused && has_several && document.ramped > 0).then_some(
        "connections go to all addresses of the target: where nothing listens at one of them, leave it out (--target-ip), or have the server listen there too (`c1m server` on :: takes IPv4 and IPv6)",
    )
}

/// What an error of the kernel means for a connection.
fn errno_sentence(errno: Errno) -> &'static str {
    match errno {
        Errno::ECONNREFUSED => {
            "nothing listens there, or the accept queue overflowed with tcp_abort_on_overflow=1; start the server, or check the ports"
        }
        Errno::ETIMEDOUT => {
            "the peer or the way to it stayed silent; look for a firewall, a full conntrack table, or an overloaded server"
        }
        Errno::EADDRNOTAVAIL => {
            "no source port is free for that target and port (TIME_WAIT counts too), or a --source-ip is not on this host; give more --source-ip or widen net.ipv4.ip_local_port_range"
        }
        Errno::ECONNRESET => {
            "the server reset it: it is full, it died, or its accept queue overflowed; read its log. If it did so at the first message, check the protocol and --tls"
        }
        Errno::EPIPE => "the server closed it while we were sending; read its log",
        Errno::EMFILE => "this process may open no more files; raise the limit (ulimit -n) or lower --concurrency",
        Errno::ENFILE => "this host may open no more files; raise fs.file-max",
        Errno::ENOBUFS | Errno::ENOMEM => {
            "this host has no memory for another socket; free memory, or look at net.ipv4.tcp_mem and the cgroup's limit"
        }
        Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EHOSTDOWN => {
            "there is no way to that address; check it, and `ip route get`"
        }
        Errno::EACCES | Errno::EPERM => {
            "a firewall rule or a seccomp filter of this host forbids it; look at nft list ruleset, and at the profile of the container or unit"
        }
        Errno::ENOSYS => {
            "a seccomp filter hides a call that connecting needs; look at the profile of the container or unit"
        }
        Errno::EINVAL => {
            "source and target cannot be combined (one is IPv6, or one is loopback); check --source-ip and the target"
        }
        _ => "the kernel gave this error; see errno(3)",
    }
}

/// What a status of HTTP means that was not expected.
fn status_sentence(status: u16) -> &'static str {
    match status {
        400 => "the server did not understand the request; check the path and --header",
        401 | 403 => "the server wants to know who asks; give it --header 'Authorization: ...' or a cookie",
        404 => "the server has nothing at that path; check the path",
        405 => "the server does not take that method there; check --method and the path",
        408 => {
            "the server waited too long for the request; it is overloaded, or it closes silent connections (--keepalive-interval)"
        }
        426 => "the server wants another protocol on this path; check the protocol, or what it names in Upgrade",
        429 => {
            "the server limits how fast, or how many, clients connect; connect more slowly, use more --source-ip, or raise its limit"
        }
        431 => "the headers are too long for the server; shorten --header or the path",
        502 | 504 => "the gateway did not reach the service behind it; look at the service, and at the gateway's log",
        503 => "the server has no room, or is being started or stopped; read its log and its limits on connections",
        _ => match status / 100 {
            1 => "the server answered with an interim status that was not asked for",
            2 => "the server answered with another success than was expected; check --status and the path",
            3 => "the server sends its clients elsewhere; give the address that it names",
            4 => "the server refuses the request; read its log",
            5 => "the server failed at the request; read its log",
            _ => "this is no status that HTTP knows; the server speaks differently",
        },
    }
}

/// What is wrong with a server's answer to a request for WebSocket.
fn handshake_sentence(fault: HandshakeFault) -> &'static str {
    match fault {
        HandshakeFault::Upgrade => {
            "the server says that it changes the protocol, and not to WebSocket (RFC 6455, 4.2.2); it is another server than you think, or a proxy between does not know the upgrade"
        }
        HandshakeFault::Accept => {
            "the server's Sec-WebSocket-Accept does not follow from our key (RFC 6455, 4.2.2), so it has not read our request; a cache answers for it, or it is no server of WebSocket"
        }
        HandshakeFault::Extension => {
            "the server chose an extension of WebSocket, and none was offered; turn its compression off (permessage-deflate)"
        }
        HandshakeFault::Subprotocol => {
            "the server chose a subprotocol that was not offered; offer it with --subprotocol"
        }
    }
}

/// What a close code of WebSocket means that the server sent.
fn close_sentence(code: u16) -> &'static str {
    match code {
        1000 => "the server closed it in order and thinks that all is said; is it a time limit?",
        1001 => "the server goes away: it stops, restarts, or closes idle connections; read its log",
        1002 => "the server found a breach of the protocol in what we sent; please report it with its log",
        1003 => "the server does not take this kind of data; try --message-type text or binary",
        1005 => "the server closed it without a reason; read its log",
        1006 => {
            "the server, or a proxy between, closed the connection without a Close of WebSocket: it died, or an idle timeout passed (--keepalive-interval)"
        }
        1007 => "the server found data that is not what its type says; try --message-type binary",
        1008 => "the server's policy forbids it; read its log",
        1009 => "the message is too big for the server; lower --payload or raise its limit",
        1010 => {
            "the server wants an extension, and this client has none; let the server do without (permessage-deflate)"
        }
        1011 => "the server failed; read its log",
        1012 => "the server restarts; connect again once it runs",
        1013 => "the server is overloaded and wants clients to try later; connect more slowly",
        1014 => "the gateway did not reach the service behind it; look at the service",
        3000..=4999 => "the server closed it with a code of its own; look there for what it means",
        _ => "the server closed it with a code that is not for that (RFC 6455, 7.4); look at its log",
    }
}

/// What a failure of TLS means.
fn tls(failure: TlsFailure) -> &'static str {
    match failure {
        TlsFailure::PeerAlert(Alert::CLOSE_NOTIFY) => "the server closed it within the TLS handshake; read its log",
        TlsFailure::PeerAlert(Alert(70)) => {
            "the server speaks no version of TLS that the client may speak; have it speak 1.3, or 1.2 and give --tls-min 1.2"
        }
        TlsFailure::PeerAlert(Alert::HANDSHAKE_FAILURE) => {
            "the server found no suite, group or signature in common; look at those that it allows. With TLS 1.2 it may want a certificate of the client (--cert and --key)"
        }
        TlsFailure::PeerAlert(Alert(112)) => "the server knows no such name; check --sni",
        TlsFailure::PeerAlert(Alert::NO_APPLICATION_PROTOCOL) => {
            "the server speaks none of the protocols; check --alpn"
        }
        TlsFailure::PeerAlert(Alert(116)) => "the server wants a certificate of the client; give --cert and --key",
        TlsFailure::PeerAlert(Alert(42 | 43 | 44 | 45 | 46 | 48)) => {
            "the server does not accept the client's certificate; check --cert and --key, and whom the server trusts"
        }
        TlsFailure::PeerAlert(Alert::INTERNAL_ERROR) => "the server could not go on; read its log",
        TlsFailure::PeerAlert(_) => {
            "the server ended the TLS connection by this alert (RFC 8446, section 6); read its log"
        }
        TlsFailure::OwnAlert(Alert::BAD_RECORD_MAC) => {
            "a record did not decrypt: something between the ends changes bytes, or the server's TLS is wrong"
        }
        TlsFailure::OwnAlert(_) => {
            "what the server sent is no TLS, or none of what was offered: does it speak TLS on this port? If TLS 1.2, give --tls-min 1.2; a NATS server must have handshake_first set"
        }
        TlsFailure::Certificate(problem) => certificate(problem),
        TlsFailure::HandshakeTimeout => {
            "the TLS handshake was not over within --handshake-timeout: the server is overloaded, or speaks no TLS"
        }
        TlsFailure::RecordTimeout => {
            "the beginning of a record came, and not the rest within --handshake-timeout: the server or the way to it stalls"
        }
        TlsFailure::NoRoom => {
            "more bytes of incomplete records came than a sixteenth of the memory that was left, which this client keeps; lower --concurrency or the rate, or free memory"
        }
        TlsFailure::KeyUsedUp => {
            "the connection has sent 16,777,216 records with one key, the most that TLS 1.2 allows; send fewer messages, or have the server speak TLS 1.3"
        }
    }
}

/// What is wrong with a server's certificate.
fn certificate(problem: CertificateProblem) -> &'static str {
    match problem {
        CertificateProblem::Expired => "the server's certificate has expired; renew it, or check this host's clock",
        CertificateProblem::NotValidYet => "the server's certificate is not valid yet; check this host's clock",
        CertificateProblem::UnknownIssuer => {
            "no authority that is trusted signed the server's certificate; give it with --ca, or trust anyone with --insecure"
        }
        CertificateProblem::WrongName => {
            "the server's certificate is not for this name (its subjectAltName counts, and no CN); give one of its names with --sni, or have it made for this one"
        }
        CertificateProblem::Revoked => "the server's certificate was revoked; the server needs another one",
        CertificateProblem::BadSignature => {
            "the server's certificate or its proof has a wrong signature, or a key of RSA with less than 2,048 bits; look at it with openssl s_client"
        }
        CertificateProblem::WrongPurpose => {
            "the server's certificate is an authority's own (openssl req -x509 makes those; add -addext basicConstraints=critical,CA:FALSE), or is not for servers"
        }
        CertificateProblem::OldVersion => {
            "the server's certificate is of X.509 version 1 (openssl x509 -req makes those without -extfile), and version 3 is taken here; have it made anew, or trust anyone with --insecure"
        }
        CertificateProblem::UnknownSignature => {
            "the server's certificate, or one above it, is signed in a way that is not taken here, such as by SHA-1; have it signed anew, or trust anyone with --insecure"
        }
        _ => "the server's certificate cannot be used; look at it with openssl s_client",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::{MqttPacket, MqttReason, NatsError};
    use crate::protocol::Protocol;

    /// Causes that connections of a protocol may fail for.
    fn causes(protocol: &str) -> Vec<Cause> {
        let statuses = || (100..1000).map(Cause::HttpStatus);
        let own: Vec<Cause> = match protocol {
            "raw" => vec![Cause::WrongEcho],
            "http" => statuses().chain([Cause::NotKept]).collect(),
            "websocket" => {
                use HandshakeFault::{Accept, Extension, Subprotocol, Upgrade};
                let handshakes = [Upgrade, Accept, Extension, Subprotocol].map(Cause::Handshake);
                statuses().chain(handshakes).chain((1000..5000).map(Cause::CloseCode)).collect()
            }
            "mqtt" => {
                use MqttPacket::{Connack, Disconnect, Puback, Suback};
                let reasons = |packet| (0..=255).map(move |code| Cause::Mqtt(MqttReason { packet, code }));
                let limits = [Cause::NoSession, Cause::ShorterKeepalive, Cause::LowerQos, Cause::ShorterPackets];
                [Connack, Suback, Puback, Disconnect].into_iter().flat_map(reasons).chain(limits).collect()
            }
            "nats" => NatsError::all().map(Cause::Nats).collect(),
            _ => Vec::new(),
        };
        let all = [
            Cause::ConnectTimeout,
            Cause::Silent,
            Cause::Ghost,
            Cause::Unanswered,
            Cause::Unread,
            Cause::WrongAnswer,
            Cause::AnswerTooLong,
            Cause::Unasked,
            Cause::Malformed,
            Cause::TooManyIncomplete,
            Cause::ClosedByServer,
            Cause::ConnectedToItself,
        ];
        let of_all = all.into_iter().chain((1..133).map(|number| Cause::Errno(Errno(number))));
        let of_tls = (0..=255).map(Alert).flat_map(|alert| [TlsFailure::PeerAlert(alert), TlsFailure::OwnAlert(alert)]);
        of_all.chain(of_tls.map(Cause::Tls)).chain(own).collect()
    }

    /// What to do names no option that the protocol refuses.
    #[test]
    fn advice_can_be_taken() {
        for protocol in Protocol::NAMES {
            for cause in causes(protocol) {
                let said = sentence(cause, protocol);
                let words = said.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
                for option in words.filter_map(|word| word.strip_prefix("--")) {
                    let takers = Protocol::taking(option);
                    let is_taken = takers.is_empty() || takers.contains(protocol);
                    assert!(is_taken, "--{option} of {} with {protocol}: {said}", cause.name());
                    let is_refused = option == "audit" && *protocol != RAW;
                    assert!(!is_refused, "--audit of {} with {protocol}: {said}", cause.name());
                }
            }
        }
    }
}
