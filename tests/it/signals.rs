//! Signals: one that would end a process ends a run in order, or does nothing.

use std::os::unix::process::CommandExt;
use std::time::{Duration, Instant};

use crate::support::*;

/// Other programs print figures or open their logs again at these.
#[test]
fn a_signal_that_asks_for_no_end_ends_nothing() {
    let mut server = Server::start(1, "--stats-interval 100ms");
    let mut client = Client::start(&format!("{} --connections 20 --hold 1h", server.at()));
    client.running.until("it holds", |out| out.contains("\nhold "));
    for running in [&mut client.running, &mut server.running] {
        for signal in [libc::SIGUSR1, libc::SIGUSR2, libc::SIGUSR1] {
            running.signal(signal);
        }
        let before = running.out().lines().count();
        running.until("it goes on", |out| out.lines().count() > before);
    }
    client.running.signal(libc::SIGTERM);
    let run = client.finish();
    assert_eq!((run.number("live"), run.number("failed"), run.finished.err.as_str()), (20, 0, ""));
    server.stop();
}

#[test]
fn every_other_signal_ends_a_run_in_order() {
    let others = [libc::SIGALRM, libc::SIGVTALRM, libc::SIGPROF, libc::SIGPWR, libc::SIGIO, libc::SIGSTKFLT];
    for signal in others.into_iter().chain([libc::SIGRTMIN(), libc::SIGRTMAX()]) {
        let server = Server::start(1, "--json -");
        let mut held = connected(server.port);
        echoes(&mut held);
        server.running.signal(signal);
        let finished = server.running.wait();
        assert_eq!((finished.code(), finished.err.as_str()), (0, ""), "signal {signal}: {}", finished.out);
        assert_eq!(number(&finished.last_document(), "accepted"), 1, "signal {signal}");
    }
}

/// timeout(1) signals the process and then its group, and programs that start others pass on what the terminal sends to all
/// of them. The run still ends in order.
#[test]
fn a_signal_that_comes_again_at_once_is_the_same_wish() {
    const MOMENT: Duration = Duration::from_millis(50);
    let server = Server::start(1, "");
    let held = || {
        let mut client = Client::start(&format!("{} --connections 20 --hold 1h", server.at()));
        client.running.until("it holds", |out| out.contains("\nhold "));
        client
    };
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGQUIT] {
        let in_a_moment = (0..20).find_map(|_| {
            let (client, began) = (held(), Instant::now());
            while began.elapsed() < MOMENT {
                client.running.signal(signal);
            }
            // If this process had to wait for a core, its signals were more than one wish.
            (began.elapsed() < 2 * MOMENT).then_some(client)
        });
        let run = in_a_moment.expect("this process had a core for 50 ms").finish();
        assert_eq!((run.finished.code(), run.number("live"), run.number("failed")), (1, 20, 0), "{}", run.json);
    }
    server.stop();
}

/// A run needs neither send(2) nor recv(2) of its own, so a filter may forbid them.
#[test]
fn a_signal_ends_a_server_that_may_call_neither_send_nor_recv() {
    for call in [libc::SYS_sendto, libc::SYS_recvfrom, libc::SYS_sendmsg, libc::SYS_recvmsg] {
        for answer in [libc::EPERM, libc::ENOSYS] {
            let mut command = c1m();
            refuse(&mut command, call..=call, None, answer);
            let server = Server::start_as(command, 1, "--json -");
            client(&format!("{} --connections 5", server.at())).held(5);
            let finished = server.stop();
            assert_eq!(finished.err, "", "{call}");
            assert_eq!(number(&finished.last_document(), "accepted"), 5, "{call}");
        }
    }
}

/// A process may be started by a thread that blocks all signals, and that is inherited.
#[test]
fn a_signal_that_was_blocked_ends_a_server() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
        let mut command = c1m();
        // SAFETY: all three are async-signal-safe, and the set is filled before it is used.
        unsafe {
            command.pre_exec(|| {
                let mut all = std::mem::MaybeUninit::uninit();
                libc::sigfillset(all.as_mut_ptr());
                libc::sigprocmask(libc::SIG_BLOCK, all.as_ptr(), std::ptr::null_mut());
                Ok(())
            });
        }
        let server = Server::start_as(command, 1, "--json -");
        server.running.signal(signal);
        let finished = server.running.wait();
        assert_eq!((finished.code(), finished.err.as_str()), (0, ""), "{signal}");
        assert_eq!(number(&finished.last_document(), "live"), 0);
    }
}
