//! For each cause of failed connections one sentence for people.

use crate::error::Errno;
use crate::failure::Cause;

/// What the cause usually means, and what to do.
pub fn sentence(cause: Cause) -> &'static str {
    match cause {
        Cause::Errno(Errno::ECONNREFUSED) => {
            "nothing listens there, or the accept queue overflowed with tcp_abort_on_overflow=1; start the server, check --port and --ports"
        }
        Cause::Errno(Errno::ETIMEDOUT) => {
            "the peer or the way to it stayed silent; look for a firewall, a full conntrack table, or an overloaded server"
        }
        Cause::Errno(Errno::EADDRNOTAVAIL) => {
            "no source port is free for that target and port (TIME_WAIT counts too), or a --source-ip is not on this host; give more --source-ip or widen net.ipv4.ip_local_port_range"
        }
        Cause::Errno(Errno::ECONNRESET) => {
            "the server reset it: it is full, it died, or its accept queue overflowed; read its log"
        }
        Cause::Errno(Errno::EPIPE) => "the server closed it while we were sending; read its log",
        Cause::Errno(Errno::EMFILE) => {
            "this process may open no more files; raise the limit (ulimit -n) or lower --concurrency"
        }
        Cause::Errno(Errno::ENFILE) => "this host may open no more files; raise fs.file-max",
        Cause::Errno(Errno::ENOBUFS | Errno::ENOMEM) => {
            "this host has no memory for another socket; free memory, or look at net.ipv4.tcp_mem and the cgroup's limit"
        }
        Cause::Errno(Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EHOSTDOWN) => {
            "there is no way to that address; check --target-ip and `ip route get`"
        }
        Cause::Errno(Errno::EACCES | Errno::EPERM) => {
            "a firewall rule of this host forbids it; look at nft list ruleset"
        }
        Cause::Errno(Errno::EINVAL) => {
            "source and target cannot be combined (one is IPv6, or one is loopback); check --source-ip and --target-ip"
        }
        Cause::Errno(_) => "the kernel gave this error; see errno(3)",
        Cause::ConnectTimeout => {
            "no answer to the SYN within --connect-timeout: a firewall drops it, conntrack or the accept queue is full, or the server is overloaded"
        }
        Cause::Silent => {
            "the target accepts and acknowledges but does not answer, or not to the end; it is no echo server or speaks another --protocol: use --audit state, or --service echo on a c1m server"
        }
        Cause::Ghost => {
            "connect succeeded, but the server never accepted it (our last ACK was dropped by a full accept queue); raise its --backlog and net.core.somaxconn, or lower --concurrency"
        }
        Cause::Unanswered => {
            "it answered before and did not within --reply-timeout; the server stalls or its host lost the connection"
        }
        Cause::Unread => {
            "the server reads nothing while we send, and our bytes for it pile up; it stalls, or lower --payload or raise --interval"
        }
        Cause::WrongEcho => {
            "bytes came back that are not ours; the target is no echo server, or it mixes up connections; for other servers there is --protocol send-expect"
        }
        Cause::WrongAnswer => {
            "the answer is not what --expect says; the server speaks differently, or it mixes up connections: look at one answer, and use * for what varies"
        }
        Cause::AnswerTooLong => {
            "64 KiB came without the end of what --expect says; the server talks on, or its answer is another: look at one, and end --expect with what ends it"
        }
        Cause::Unasked => {
            "the server sent bytes while nothing was asked, or more than --expect says; a * at the end of --expect, or at its beginning, allows that"
        }
        Cause::ClosedByServer => "the server closed it (FIN): an idle timeout, a limit, or its end; read its log",
        Cause::ConnectedToItself => {
            "nothing listens on that port of this host, and it was a source port too, so TCP connected the socket to itself or to another one that dials; start the server, and keep its ports out of net.ipv4.ip_local_port_range (net.ipv4.ip_local_reserved_ports)"
        }
    }
}
