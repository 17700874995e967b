//! What is known of a guest, from the lines it writes.

use c1m::internal::results::AuditResult;
use serde_json::Value;

/// Memory of a guest at one moment, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Vitals {
    /// All that its kernel manages (MemTotal).
    pub total: u64,
    /// Free pages (MemFree).
    pub free: u64,
    /// What the kernel believes it could free (MemAvailable).
    pub available: u64,
    /// Kernel objects (Slab).
    pub slab: u64,
    /// Resident memory of its program (VmRSS).
    pub resident: u64,
}

/// One cache of kernel objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// Its name in /proc/slabinfo; caches of one size share a name.
    pub name: String,
    /// Objects in use.
    pub objects: u64,
    /// Bytes of its slabs, unused objects and waste included.
    pub bytes: u64,
}

/// Bytes of a page of the guests.
const PAGE: u64 = 4096;

/// Console lines that count as progress: those of a boot. A guest that complains without end does not get on.
const MOST_LINES: u64 = 400;

/// What a guest told so far.
#[derive(Debug, Default)]
pub struct Machine {
    /// Its system is up.
    pub booted: bool,
    /// A client reached the server, or the server accepts.
    pub ready: bool,
    /// Connections that the doctor said it could hold, and the wall that decides.
    pub doctor: Option<(u64, String)>,
    /// What its client does: `ramp`, `hold`, `audit`, `close`.
    pub phase: String,
    /// Lines on its console.
    pub console_lines: u64,
    /// Open connections; of a client, those that were open when its close phase began.
    pub live: u64,
    /// Connections proved in all audits.
    proved: u64,
    /// The most that `live` ever was.
    pub most_live: u64,
    /// Sockets of its system, less the listeners, at most.
    pub most_held: u64,
    /// What its server holds is known from its sockets alone.
    pub counts_not: bool,
    /// Connections that failed.
    pub failed: u64,
    /// Connections proved in the current audit.
    pub audited: u64,
    /// Connections closed in the close phase.
    pub closed: u64,
    /// Connections that the server refused.
    pub refused: u64,
    /// Those of them that it refused to keep memory free.
    pub refused_for_memory: u64,
    /// Audits that are complete.
    pub audits: Vec<AuditResult>,
    /// What its program came to, at its end or when it was asked last.
    pub document: Option<Value>,
    /// The exit code of its program.
    pub exit: Option<i64>,
    /// Its program was asked to close its connections, or to stop: it is to end.
    pub may_end: bool,
    /// Its QEMU has ended.
    pub ended: bool,
    /// Its memory, as last told.
    pub vitals: Vitals,
    /// The least free memory it told of.
    pub least_free: Option<u64>,
    /// Every complete dump of its caches.
    pub caches: Vec<Vec<Cache>>,
    dump: Vec<Cache>,
}

impl Machine {
    /// Takes in a line of the control port. What is not JSON is an echo of the boot; it is skipped.
    pub fn hear(&mut self, line: &str) {
        let Ok(said) = serde_json::from_str::<Value>(line) else { return };
        let number = |name: &str| said.get(name).and_then(Value::as_u64);
        let Some(event) = said.get("event").and_then(Value::as_str) else {
            self.document = Some(said);
            return;
        };
        match event {
            "booted" => self.booted = true,
            "linked" | "ready" => self.ready = true,
            "sockets" => {
                let held = number("held").unwrap_or(0);
                self.most_held = self.most_held.max(held);
                if self.counts_not {
                    self.live = held;
                }
                self.most_live = self.most_live.max(self.live);
            }
            "doctor" => self.doctor = doctor(&said["page"]),
            "stats" | "progress" => {
                let proved = self.audited;
                if let Some(phase) = said.get("phase").and_then(Value::as_str) {
                    self.phase = phase.to_owned();
                }
                for (name, figure) in [
                    ("live", &mut self.live),
                    ("failed", &mut self.failed),
                    ("audited", &mut self.audited),
                    ("closed", &mut self.closed),
                    ("refused", &mut self.refused),
                    ("refused_for_memory", &mut self.refused_for_memory),
                ] {
                    *figure = number(name).unwrap_or(*figure);
                }
                self.most_live = self.most_live.max(self.live);
                // A new audit begins at 0.
                self.proved = self.proved.saturating_add(self.audited.saturating_sub(proved));
            }
            "report" => self.document = said.get("result").cloned(),
            "audit" => self.audits.extend(serde_json::from_value::<AuditResult>(said)),
            "exited" => self.exit = said.get("code").and_then(Value::as_i64),
            _ => {}
        }
    }

    /// Takes in a line of the port with memory figures.
    pub fn feel(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("vitals") => self.vital(words),
            Some("slab") => self.dump.extend(cache(words)),
            Some("slabs-end") => self.caches.push(std::mem::take(&mut self.dump)),
            _ => {}
        }
    }

    /// `MemTotal:4015000 MemFree:…`, in KiB.
    fn vital<'a>(&mut self, words: impl Iterator<Item = &'a str>) {
        let mut vitals = Vitals::default();
        for (name, value) in words.filter_map(|word| word.split_once(':')) {
            let Ok(bytes) = value.parse::<u64>().map(|kib| kib.saturating_mul(1024)) else { return };
            match name {
                "MemTotal" => vitals.total = bytes,
                "MemFree" => vitals.free = bytes,
                "MemAvailable" => vitals.available = bytes,
                "Slab" => vitals.slab = bytes,
                "VmRSS" => vitals.resident = bytes,
                _ => {}
            }
        }
        if vitals.total > 0 {
            if vitals.resident == 0 {
                // Its program has ended, or not begun.
                vitals.resident = self.vitals.resident;
            }
            self.vitals = vitals;
            self.least_free = Some(self.least_free.map_or(vitals.free, |least| least.min(vitals.free)));
        }
    }

    /// The exit code of a program that ended when nobody had asked for it, or that says it could not do its work. With 1 a
    /// client says that connections failed, which its document tells too.
    pub fn ended_early(&self) -> Option<i64> {
        self.exit.filter(|code| !(self.may_end && matches!(code, 0 | 1)))
    }

    /// How far it has come: steps of its boot and its end, and connections opened, failed, proved, closed and
    /// gone. It grows while a run goes well. What may repeat without end (refusals, which a client answers by
    /// another connect) is no part of it.
    pub fn progress(&self) -> u64 {
        let steps = [self.booted, self.ready, self.document.is_some(), self.exit.is_some(), self.ended];
        let steps = steps.iter().filter(|step| **step).count() + self.caches.len() + self.audits.len();
        let gone = self.most_live.saturating_sub(self.live);
        [steps as u64, self.console_lines.min(MOST_LINES), self.most_live, gone, self.failed, self.proved, self.closed]
            .into_iter()
            .fold(0, u64::saturating_add)
    }
}

/// What a doctor's page comes to.
fn doctor(page: &Value) -> Option<(u64, String)> {
    Some((page["holds"].as_u64()?, page["decides"].as_str()?.to_owned()))
}

/// `name objects bytes-an-object objects-a-slab pages-a-slab slabs`.
fn cache<'a>(words: impl Iterator<Item = &'a str>) -> Option<Cache> {
    let words: Vec<&str> = words.collect();
    let number = |at: usize| words.get(at)?.parse::<u64>().ok();
    let pages = number(4)?.saturating_mul(number(5)?);
    Some(Cache { name: (*words.first()?).to_owned(), objects: number(1)?, bytes: pages.saturating_mul(PAGE) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the ports of real guests said in a run of 300 connections.
    const CLIENT: &str = include_str!("../fixtures/client.control.log");
    const SERVER: &str = include_str!("../fixtures/server.control.log");
    const VITALS: &str = include_str!("../fixtures/server.vitals.log");

    #[test]
    fn a_client_is_followed_to_its_end() {
        let mut client = Machine::default();
        let mut phases = Vec::new();
        for line in CLIENT.lines() {
            let before = client.progress();
            client.hear(line);
            phases.push(client.phase.clone());
            // It gets on with all it says, and never goes back.
            assert!(client.progress() >= before, "{line}");
        }
        phases.dedup();
        // 100 opened, proved twice, and closed; its boot and its end.
        assert!(client.progress() >= 400, "{}", client.progress());
        assert!(client.booted && client.ready && !client.ended);
        // What its close phase closes was live, and stays counted so.
        assert_eq!((client.live, client.failed, client.closed, client.exit), (100, 0, 100, Some(0)));
        assert_eq!(client.audits.iter().map(|audit| audit.live).collect::<Vec<_>>(), [100, 100]);
        assert_eq!(client.document.unwrap()["requested"], 100);
        assert!(phases.ends_with(&["audit", "hold", "close"].map(str::to_owned)), "{phases:?}");
    }

    #[test]
    fn a_server_is_followed_to_its_end() {
        let mut server = Machine::default();
        SERVER.lines().for_each(|line| server.hear(line));
        assert!(server.booted && server.ready);
        assert_eq!((server.exit, server.refused_for_memory), (Some(0), 0));
        assert_eq!(server.document.unwrap()["peak_live"], 300);
    }

    #[test]
    fn a_program_that_ends_unasked_is_a_fault_whatever_it_says() {
        for (code, asked, unasked) in
            [(0, None, Some(0)), (1, None, Some(1)), (2, Some(2), Some(2)), (139, Some(139), Some(139))]
        {
            let mut client = Machine::default();
            client.hear(&format!("{{\"event\":\"exited\",\"code\":{code}}}"));
            assert_eq!(client.ended_early(), unasked, "{code}");
            client.may_end = true;
            assert_eq!(client.ended_early(), asked, "{code}");
        }
        assert_eq!(Machine::default().ended_early(), None);
    }

    #[test]
    fn only_what_comes_to_an_end_is_progress() {
        let mut server = Machine::default();
        server.hear(r#"{"event":"stats","live":500,"refused":3}"#);
        let before = server.progress();
        server.hear(r#"{"event":"stats","live":500,"refused":300000}"#);
        assert_eq!(server.progress(), before);
        // Connections that go are progress of a close; they count once.
        server.hear(r#"{"event":"stats","live":100}"#);
        assert_eq!(server.progress(), before + 400);
        server.hear(r#"{"event":"stats","live":500}"#);
        assert_eq!(server.progress(), before);

        // A boot gets on with its console, a guest that complains for ever does not.
        server.console_lines = MOST_LINES;
        let booted = server.progress();
        server.console_lines = 100 * MOST_LINES;
        assert!(booted > before && server.progress() == booted);
    }

    #[test]
    fn memory_and_caches_are_read() {
        let mut server = Machine::default();
        VITALS.lines().for_each(|line| server.feel(line));
        assert_eq!(server.caches.len(), 2);
        let tcp = |dump: &[Cache]| dump.iter().find(|cache| cache.name == "TCP").unwrap().clone();
        let (before, after) = (tcp(&server.caches[0]), tcp(&server.caches[1]));
        assert!(after.objects - before.objects >= 300 && after.bytes > before.bytes, "{before:?} {after:?}");
        assert_eq!(after.bytes % PAGE, 0);
        assert!(server.vitals.free < server.vitals.total && server.vitals.resident > 1 << 20, "{:?}", server.vitals);
        assert!(server.least_free.unwrap() <= server.vitals.free);
    }

    /// A line that a busy console cut or mixed is no figure.
    #[test]
    fn a_garbled_line_is_skipped() {
        let mut machine = Machine::default();
        for line in ["vitals MemTotal:40x MemFree:1", "vitals", "slab TCP 1 2", "slab", "", "{\"event\":"] {
            machine.feel(line);
            machine.hear(line);
        }
        assert_eq!((machine.vitals, machine.least_free, machine.dump.len()), (Vitals::default(), None, 0));
    }
}
