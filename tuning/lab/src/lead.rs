//! Leads the guests through a run: boot, ramp, audits, a kill, close, stop. Every wait watches for
//! walls.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use c1m::internal::clock::Clock;
use c1m::internal::format::{bytes, count};

use crate::args::Plan;
use crate::guest::{Guest, Heard};
use crate::machine::Machine;
use crate::patience::Patience;
use crate::story::{Proof, Story};
use crate::walls::{self, Wall};

/// The server's place among the guests; client k stands at place k.
pub const SERVER: usize = 0;

/// How long a boot may stand still.
const BOOT: Duration = Duration::from_secs(120);

/// How long any other step may stand still; a client gives up on a connect or a reply after 60 s.
const STILL: Duration = Duration::from_secs(90);

/// How long the server's count may stand still before it shows what the clients know.
const AGREE: Duration = Duration::from_secs(30);

/// How often walls are looked for.
const LOOK: Duration = Duration::from_millis(500);

/// How often a line is shown.
const SHOW: Duration = Duration::from_secs(5);

/// A wall, and the guest that ran into it if it was one.
#[derive(Debug)]
pub struct Failure {
    /// Its place.
    pub guest: Option<usize>,
    /// What it ran into.
    pub wall: Wall,
}

/// A step as people call it, and the parts it consists of.
type Work = (&'static str, u64);

/// The parts of a step whose every part is progress.
const FEW: u64 = 1;

type Step = std::result::Result<(), Failure>;

/// The guests of a run and what is known of them.
pub struct Lab {
    plan: Plan,
    guests: Vec<Guest>,
    /// What each guest told.
    pub machines: Vec<Machine>,
    vitals: Vec<u64>,
    heard: mpsc::Receiver<Heard>,
    started: Instant,
    looked: Instant,
    shown: (Instant, Vec<u64>),
    /// While we do not run we hear of nothing.
    clock: Clock,
    killed: Option<usize>,
}

impl Lab {
    /// A lab of guests that were just started.
    pub fn new(plan: Plan, guests: Vec<Guest>, heard: mpsc::Receiver<Heard>, started: Instant) -> Lab {
        let now = Instant::now();
        let mut machines: Vec<Machine> = guests.iter().map(|_| Machine::default()).collect();
        machines[SERVER].counts_not = !plan.programs.count();
        Lab {
            plan,
            machines,
            vitals: vec![0; guests.len()],
            shown: (now, vec![0; guests.len()]),
            guests,
            heard,
            started,
            looked: now,
            clock: Clock::begin(now),
            killed: None,
        }
    }

    /// The whole run. What was proved is in `story`, also when a wall ends it.
    pub fn run(&mut self, story: &mut Story) -> Step {
        let connections = self.plan.connections();
        let all: Vec<usize> = (0..self.guests.len()).collect();
        self.wait(("boot", FEW), &all, |guest| guest.ready)?;
        story.boot_seconds = self.started.elapsed().as_secs_f64();

        let clients = all[1..].to_vec();
        let ramp = Instant::now();
        self.tell(&clients, "go");
        self.wait(("ramp", connections), &clients, |client| client.phase == "hold")?;
        story.ramp_seconds = ramp.elapsed().as_secs_f64();

        let audit = Instant::now();
        story.all = Some(self.audit(&clients)?);
        story.audit_seconds = audit.elapsed().as_secs_f64();
        let dumps = self.machines[SERVER].caches.len();
        self.tell(&[SERVER], "caches");
        self.wait(("slab figures", FEW), &[SERVER], |server| server.caches.len() > dumps)?;
        story.peak = Some(self.machines[SERVER].vitals);

        let mut kept = clients;
        if self.plan.kill
            && let Some(victim) = kept.pop()
        {
            if self.plan.programs.dials_with_c1m() {
                // What it measured would be gone with it.
                self.tell(&[victim], "report");
                self.wait(("report", FEW), &[victim], |client| client.document.is_some())?;
            }
            story.survivors = Some(self.audit_with_a_kill(&kept, victim)?);
            story.killed = Some(self.guests[victim].spec.name.clone());
        }
        let close = Instant::now();
        self.tell(&kept, "close");
        self.wait(("close", connections), &kept, |client| client.exit.is_some())?;
        // A machine that is gone can close nothing; the server still counts its connections.
        let survived = story.survivors.as_ref().map_or(story.proved(), |proof| proof.live);
        let rest = story.proved().saturating_sub(survived);
        self.wait(("close", connections), &[SERVER], |server| server.live <= rest)?;
        story.close_seconds = close.elapsed().as_secs_f64();
        self.tell(&[SERVER], "stop");
        self.wait(("stop", FEW), &[SERVER], |server| server.exit.is_some())?;
        kept.push(SERVER);
        self.tell(&kept, "off");
        self.wait(("power off", FEW), &kept, |guest| guest.ended)
    }

    fn tell(&mut self, places: &[usize], word: &str) {
        for place in places {
            self.machines[*place].may_end |= matches!(word, "close" | "stop");
            self.guests[*place].tell(word);
        }
    }

    /// The first audit of these clients, all at once. The server must count what they prove.
    fn audit(&mut self, clients: &[usize]) -> std::result::Result<Proof, Failure> {
        let connections = self.plan.connections();
        self.tell(clients, "audit");
        self.wait(("audit", connections), clients, |client| client.audits.len() == 1)?;
        let proof = self.proof(clients);
        let mut patience = Patience::new(AGREE, FEW, self.now());
        while self.machines[SERVER].live != proof.live && patience.lasts(self.progress(), self.now()) {
            self.listen("the server's count")?;
        }
        Ok(Proof { server: Some(self.machines[SERVER].live), ..proof })
    }

    /// The second audit of these clients, during which another is killed outright.
    fn audit_with_a_kill(&mut self, clients: &[usize], victim: usize) -> std::result::Result<Proof, Failure> {
        let connections = self.plan.connections();
        self.tell(clients, "audit");
        self.wait(("audit", connections), clients, |client| client.phase == "audit" || client.audits.len() == 2)?;
        self.killed = Some(victim);
        self.guests[victim].kill();
        self.say(&format!("killed {}", self.guests[victim].spec.name));
        self.wait(("audit", connections), clients, |client| client.audits.len() == 2)?;
        Ok(self.proof(clients))
    }

    /// What the last audits of these clients proved.
    fn proof(&self, clients: &[usize]) -> Proof {
        let last = clients.iter().map(|place| self.machines[*place].audits.last().copied());
        let audits: Vec<_> = last.flatten().collect();
        Proof { live: audits.iter().map(|audit| audit.live).fold(0, u64::saturating_add), audits, server: None }
    }

    /// Waits until each of these guests is `done`; a wall, the deadline, a signal, or standing still for `limit`
    /// end it.
    fn wait(&mut self, (what, work): Work, of: &[usize], done: impl Fn(&Machine) -> bool) -> Step {
        let limit = if what == "boot" { BOOT } else { STILL };
        let mut patience = Patience::new(limit, work, self.now());
        while let Some(late) = of.iter().copied().find(|place| !done(&self.machines[*place])) {
            self.listen(what)?;
            if !patience.lasts(self.progress(), self.now()) {
                let booted = self.machines[late].booted;
                let wall = if booted { Wall::Stalled(what, limit) } else { Wall::NoBoot(limit) };
                return Err(Failure { guest: Some(late), wall });
            }
        }
        Ok(())
    }

    /// The time without that in which this process was suspended: limits do not come nearer in it.
    fn now(&self) -> Instant {
        let now = Instant::now();
        now.checked_sub(self.clock.suspended().time).unwrap_or(now)
    }

    /// How far all guests have come.
    fn progress(&self) -> u64 {
        self.machines.iter().map(Machine::progress).fold(0, u64::saturating_add)
    }

    /// Takes in what the guests say for a moment, and looks for walls.
    fn listen(&mut self, what: &'static str) -> Step {
        self.clock.sleep(Some(Instant::now() + LOOK));
        let heard = self.heard.recv_timeout(LOOK);
        self.clock.look(Instant::now());
        if let Ok(heard) = heard {
            self.hear(heard)?;
        }
        // Bounded, so that talkative guests cannot keep us from looking.
        for _ in 0..1000 {
            let Ok(heard) = self.heard.try_recv() else { break };
            self.hear(heard)?;
        }
        if self.looked.elapsed() >= LOOK {
            self.looked = Instant::now();
            self.look()?;
        }
        if self.shown.0.elapsed() >= SHOW {
            self.show();
        }
        match self.plan.deadline {
            Some(limit) if self.now().saturating_duration_since(self.started) > limit => {
                Err(Failure { guest: None, wall: Wall::Deadline(what, limit) })
            }
            _ => Ok(()),
        }
    }

    fn hear(&mut self, heard: Heard) -> Step {
        match heard {
            Heard::Line(place, line) => self.machines[place].hear(&line),
            Heard::Ended(place) => self.machines[place].ended = true,
            Heard::Signal => return Err(Failure { guest: None, wall: Wall::Interrupted }),
        }
        Ok(())
    }

    /// Reads the memory figures, and finds the guest that is no more what it should be.
    fn look(&mut self) -> Step {
        for place in 0..self.guests.len() {
            for line in news(&self.guests[place], &mut self.vitals[place]) {
                self.machines[place].feel(&line);
            }
            if self.killed == Some(place) {
                continue;
            }
            let console = walls::read(&self.guests[place].spec.file("console.log"));
            self.machines[place].console_lines = console.lines().count() as u64;
            // Each client is behind a card of the server's, in their order.
            let dead_card = self.killed.filter(|_| place == SERVER).map(|client| format!("eth{}", client - 1));
            let wall = walls::fatal(&console, dead_card.as_deref()).or_else(|| self.gone(place));
            if let Some(wall) = wall {
                return Err(Failure { guest: Some(place), wall });
            }
        }
        Ok(())
    }

    /// A guest or its program that ended when nobody had asked for it.
    fn gone(&mut self, place: usize) -> Option<Wall> {
        let machine = &self.machines[place];
        match machine.ended_early() {
            Some(code) => Some(Wall::Exited(code)),
            None if machine.ended && machine.exit.is_none() => Some(Wall::Ended(self.guests[place].end())),
            None => None,
        }
    }

    /// One line: the server, its free memory, each client.
    fn show(&mut self) {
        let seconds = self.shown.0.elapsed().as_secs_f64();
        let server = &self.machines[SERVER];
        let mut line = format!("server {} live, {} free", count(server.live), bytes(server.vitals.free));
        for (place, client) in self.machines.iter().enumerate().skip(1).filter(|(place, _)| self.killed != Some(*place))
        {
            let rate = (client.live.saturating_sub(self.shown.1[place]) as f64 / seconds) as u64;
            line += &format!(" | client {place} {}", client.phase);
            line += &match client.phase.as_str() {
                "ramp" => format!(" {} live, {}/s", count(client.live), count(rate)),
                "close" => format!(" {} closed", count(client.closed)),
                "audit" => format!(" {} proved", count(client.audited)),
                _ => format!(" {} live", count(client.live)),
            };
        }
        self.say(&line);
        self.shown = (Instant::now(), self.machines.iter().map(|machine| machine.live).collect());
    }

    fn say(&self, words: &str) {
        say(&format!("{:>5.0}s  {words}", self.started.elapsed().as_secs_f64()));
    }

    /// The last lines of a guest's console.
    pub fn tail(&self, place: usize) -> Vec<String> {
        let spec = &self.guests[place].spec;
        let mut lines = walls::tail(&spec.file("qemu.log"), 5);
        lines.extend(walls::tail(&spec.file("console.log"), 15));
        lines
    }

    /// Notable lines of all consoles, each with its guest.
    pub fn notes(&self) -> Vec<String> {
        let of = |guest: &Guest| {
            let name = guest.spec.name.clone();
            walls::notes(&walls::read(&guest.spec.file("console.log")))
                .into_iter()
                .map(move |line| format!("{name}: {line}"))
        };
        self.guests.iter().flat_map(of).collect()
    }

    /// A guest's name.
    pub fn name(&self, place: usize) -> &str {
        &self.guests[place].spec.name
    }
}

/// Prints a line. That nobody reads any more is no reason to leave guests behind.
pub fn say(words: &str) {
    let _ = writeln!(std::io::stdout(), "{words}");
}

/// The whole lines that a guest's memory port brought since `read`.
fn news(guest: &Guest, read: &mut u64) -> Vec<String> {
    let Ok(mut file) = File::open(guest.spec.file("vitals.log")) else { return Vec::new() };
    if file.seek(SeekFrom::Start(*read)).is_err() {
        return Vec::new();
    }
    let mut lines = Vec::new();
    let mut reader = BufReader::new(file.take(1 << 20));
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|length| length > 0) && line.ends_with('\n') {
        *read += line.len() as u64;
        lines.push(std::mem::take(&mut line));
    }
    lines
}
