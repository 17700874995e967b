//! Storms of a client whose connections sleep.

use crate::storm::Storm;
use crate::support::*;

/// A victim is woken to stop reading, and cannot fall asleep again. The survivors leave few slots: most victims find none,
/// and so they ask for nothing. That is no fault of the server.
#[test(Network, Hibernation)]
fn slow_readers_that_find_no_slot_sleep_on() {
    /// What each victim with a slot asks for.
    const ASKED: u64 = 256 * 1024;
    in_own_network(|| {
        let server = Server::start(1, "--bind 127.0.0.1 --cores 1 --json -");
        // There are slots for twice as many as may be awake.
        let sleeps = "--cores 1 --hibernate 500ms --awake 15";
        let times = "--interval 100ms --calm 3s --for 3s";
        let words = format!("slow-readers --connections 60 --share 40 {sleeps} {times}");
        let run = Storm::start(&server.at(), &words).finish();
        run.kept([60, 20]);
        let totals = server.stop().last_document();
        assert!(number(&totals, "bytes") < 40 * ASKED, "each victim had a slot: {totals}");
    });
}
