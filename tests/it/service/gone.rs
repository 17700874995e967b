//! Peers that are gone without a word.

use socket2::SockFilter;

use super::*;

/// A peer from which nothing comes any more. The kernel gives the connection up, and says why.
fn is_told_to_be_given_up(policy: IdlePolicy) {
    let here = Here::start(1, |builder| builder.idle_policy(policy).keepalive(Duration::from_secs(1)));
    let mut stream = here.connect();
    let (conn, _) = here.opened();
    ask(&mut stream, b"hello");
    let drop_all = SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0);
    SockRef::from(&stream).attach_filter(&[drop_all]).unwrap();
    assert_eq!(here.next(), Told::Closed(conn, CloseReason::Failed(Errno::ETIMEDOUT)));
}

#[test(ClassicFilter)]
fn a_peer_that_is_gone_is_told_from_one_that_resets_in_polls() {
    is_told_to_be_given_up(IdlePolicy::Poll);
}

#[test(ClassicFilter, SocketFilter)]
fn a_peer_that_is_gone_is_told_from_one_that_resets_behind_a_filter() {
    is_told_to_be_given_up(IdlePolicy::Filter);
}
